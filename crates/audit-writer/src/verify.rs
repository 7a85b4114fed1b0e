//! Derives a chain again, page by page, and names the first fault.

use shared::db::{Db, StoreError};

use crate::{
    chain::{Chain, Hash},
    store::{self, Extent},
};

const PAGE: i64 = 1000;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events checked.
    pub events: i64,
    /// Checkpoints checked.
    pub checkpoints: i64,
    /// The first fault in one sentence; none when the chain is intact.
    pub fault: Option<String>,
}

/// Checks every hash, every position and every signature of a chain, up to the head it had when the check began.
pub async fn verify(db: &Db, chain: Chain, trusted: &[Vec<u8>]) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let extent = store::extent(db, chain).await?;
    report.fault = walk(db, chain, trusted, &extent, &mut report).await?;
    Ok(report)
}

async fn walk(
    db: &Db,
    chain: Chain,
    trusted: &[Vec<u8>],
    extent: &Extent,
    report: &mut Report,
) -> Result<Option<String>, StoreError> {
    let Some(head) = extent.head else {
        return Ok((extent.last_event > 0 || extent.last_checkpoint > 0)
            .then(|| "the head of the chain was removed".to_owned()));
    };
    let (mut at, mut previous, mut signed) = (0, Hash::ZERO, Hash::ZERO);
    while at < head.sequence {
        let start = at;
        let links = store::links_after(db, chain, at, PAGE).await?;
        let mut hashes = Vec::with_capacity(links.len());
        for link in links.iter().take_while(|l| l.sequence <= head.sequence) {
            if link.sequence != at + 1 {
                return Ok(Some(format!("event {} is missing", at + 1)));
            }
            if link.previous != previous {
                return Ok(Some(format!("event {} does not follow from event {at}", link.sequence)));
            }
            if link.derive(chain) != link.hash {
                return Ok(Some(format!("event {} was changed", link.sequence)));
            }
            (at, previous) = (link.sequence, link.hash);
            hashes.push(link.hash);
            report.events += 1;
        }
        if at == start {
            return Ok(Some(format!("event {} is missing", at + 1)));
        }
        for checkpoint in store::checkpoints_between(db, chain, start, at).await? {
            let sequence = checkpoint.sequence;
            let event = usize::try_from(sequence - start - 1).ok().and_then(|i| hashes.get(i));
            let fault = if checkpoint.derive(chain) != checkpoint.hash {
                "was changed"
            } else if !checkpoint.is_signed_by(trusted) {
                "is not signed by a trusted key"
            } else if checkpoint.previous != signed {
                "does not follow from the checkpoint before it"
            } else if event != Some(&checkpoint.event_hash) {
                "does not agree with the event it covers"
            } else {
                signed = checkpoint.hash;
                report.checkpoints += 1;
                continue;
            };
            return Ok(Some(format!("the checkpoint at event {sequence} {fault}")));
        }
    }
    Ok(if previous != head.hash {
        Some("the head of the chain was changed".to_owned())
    } else if signed != head.checkpoint_hash {
        Some("the last checkpoint was removed or changed".to_owned())
    } else if extent.last_event > head.sequence {
        Some(format!("event {} stands outside the chain", extent.last_event))
    } else if extent.last_checkpoint > head.checkpoint_sequence {
        Some(format!("the checkpoint at event {} stands outside the chain", extent.last_checkpoint))
    } else {
        None
    })
}
