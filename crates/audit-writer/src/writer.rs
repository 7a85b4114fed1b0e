//! The consumer of `audit.recorded`: appends each event to its chain exactly once.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use shared::{
    db::{Db, StoreError, Tx},
    queue::{BatchHandler, Delivery, HandlerError, done_many},
    wire::events,
};

use crate::{
    chain::{Chain, Event, Link, whole_micros},
    store, wire,
};

/// Appends batches of events.
///
/// INVARIANT (I10): a chain has no gap and no fork, with any number of writers: the sequence is assigned under the
/// lock of the chain's head, and event, sequence and head commit together.
#[derive(Debug)]
pub(crate) struct Writer {
    pub db: Db,
}

#[async_trait]
impl BatchHandler for Writer {
    async fn handle(&self, batch: &[Delivery]) -> Result<(), HandlerError> {
        let mut tx = self.db.system().await?;
        let mut chains: BTreeMap<Chain, Vec<Event>> = BTreeMap::new();
        for delivery in done_many(&mut tx, batch).await? {
            let (chain, event) = wire::read(delivery.decode::<events::AuditRecorded>()?)?;
            chains.entry(chain).or_default().push(event);
        }
        let written = append(&mut tx, chains).await?;
        tx.commit().await?;
        metrics::counter!("parapet_audit_events_total").increment(written);
        Ok(())
    }
}

/// Appends events to their chains, leaving out those that are stored already; returns how many were new.
async fn append(tx: &mut Tx, chains: BTreeMap<Chain, Vec<Event>>) -> Result<u64, StoreError> {
    let keys: Vec<Chain> = chains.keys().copied().collect();
    let heads = store::lock_heads(tx, &keys).await?;
    let stored_at = whole_micros(tx.clock().await?);
    let mut written = 0;
    for (chain, events) in chains {
        tx.set_tenant(chain.tenant()).await?;
        let (mut sequence, mut previous) =
            *heads.get(&chain).ok_or(StoreError::Stale("the head of the chain is gone"))?;
        let ids: Vec<_> = events.iter().map(|e| e.event_id).collect();
        let mut seen: HashSet<_> = store::stored(tx, chain, &ids).await?.into_iter().collect();
        let mut links = Vec::with_capacity(events.len());
        for event in events {
            if seen.insert(event.event_id) {
                sequence += 1;
                let link = Link::new(chain, sequence, stored_at, previous, event);
                previous = link.hash;
                links.push(link);
            }
        }
        store::append(tx, chain, &links).await?;
        written += links.len() as u64;
    }
    Ok(written)
}
