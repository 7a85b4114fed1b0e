//! Makes a sealing key pair for every tenant that lacks one.

use std::time::Duration;

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::{Db, StoreError},
    provider::directory::Directories,
    sealing::SealError,
};
use tokio_util::sync::CancellationToken;

use crate::{NAME, store_keys as store};

const BATCH: i64 = 64;
const LOOK: Duration = Duration::from_millis(500);
const FIRST: u32 = 1;

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the tenant's sealing key is being prepared")]
    NotPrepared,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the key could not be generated")]
    Generate,
    #[error("there is no such integration, or it has no key yet")]
    Gone,
    #[error("the integration's keys were changed meanwhile")]
    Changed,
}

/// Makes missing sealing key pairs until asked to stop.
pub(crate) async fn reconcile(
    db: Db,
    directories: std::sync::Arc<Directories>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let made = match round(&db, &directories).await {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(%error, "sealing keys could not be made");
                0
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK), if made == 0 => {}
            () = std::future::ready(()), if made > 0 => {}
        }
    }
}

async fn round(db: &Db, directories: &Directories) -> Result<usize, KeyError> {
    let tenants = store::tenants_without_key(db, BATCH).await?;
    for tenant in &tenants {
        let pair = directories.top().new_key_pair(Some(*tenant), FIRST).await?;
        let mut tx = db.tenant(*tenant).await?;
        if store::insert_sealing_key(&mut tx, *tenant, FIRST, &pair).await? {
            let message = "the tenant's sealing key of purpose integration was made";
            let event = Event::new(
                Some(*tenant),
                names::KEY_CREATED,
                Actor::Service(NAME),
                Outcome::Success,
                message,
            );
            audit::record(&mut tx, &event.detail("purpose", "integration").detail("version", FIRST)).await?;
        }
        tx.commit().await?;
    }
    Ok(tenants.len())
}
