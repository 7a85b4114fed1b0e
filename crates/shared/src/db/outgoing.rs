//! What a transaction sends: rows of the service's outbox, written with one statement when it ends.

use sqlx::{Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use super::{StoreError, Tx};

/// Rows held back at the most; a transaction that sends more writes them in between.
const MOST: usize = 1_000;

/// A row of the outbox.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub id: Uuid,
    pub tenant: Option<Uuid>,
    pub topic: String,
    pub body: Vec<u8>,
    pub traceparent: Option<String>,
}

/// The statement that writes the rows that [`bind`] gives it; what begins with `$6` is free.
macro_rules! send {
    () => {
        "INSERT INTO outbox (id, tenant_id, topic, body, traceparent)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[])"
    };
}
pub(crate) use send;

/// A statement with the rows as its first five parameters.
pub(crate) fn bind(statement: &'static str, rows: Vec<Outgoing>) -> Query<'static, Postgres, PgArguments> {
    let (mut ids, mut tenants, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bodies, mut traces) = (Vec::new(), Vec::new());
    for row in rows {
        ids.push(row.id);
        tenants.push(row.tenant);
        topics.push(row.topic);
        bodies.push(row.body);
        traces.push(row.traceparent);
    }
    sqlx::query(statement).bind(ids).bind(tenants).bind(topics).bind(bodies).bind(traces)
}

impl Tx {
    /// Sends a message if, and only if, the transaction commits; in the order of these calls.
    pub(crate) async fn send(&mut self, row: Outgoing) -> Result<(), StoreError> {
        self.outgoing.push(row);
        self.wrote_messages();
        if self.outgoing.len() < MOST { Ok(()) } else { self.write_outgoing().await }
    }

    /// What is still to be written, for a statement that does so beside its own work.
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    pub(super) async fn write_outgoing(&mut self) -> Result<(), StoreError> {
        let rows = self.take_outgoing();
        if !rows.is_empty() {
            bind(send!(), rows).execute(&mut **self).await?;
        }
        Ok(())
    }
}
