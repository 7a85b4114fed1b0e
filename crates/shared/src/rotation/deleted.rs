//! What a service does about tenants that were deleted: their keys are destroyed already, their rows go in the background.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::store_holders as store;
use crate::db::{Db, StoreError};

const EVERY: Duration = Duration::from_secs(10);
/// Rows of each table removed in one transaction.
const ROWS: i32 = 2000;

/// Removes the rows of deleted tenants from the service's own schema, until asked to stop. A tenant is looked at for a month:
/// what was under way when it was deleted may still write.
pub async fn forget_deleted(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = forget_all(&db, &stop).await {
            tracing::warn!(%error, "rows of deleted tenants not removed; it is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn forget_all(db: &Db, stop: &CancellationToken) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let tenants = store::deleted(&mut tx).await?;
    tx.rollback().await?;
    for tenant in tenants {
        let mut total = 0;
        while !stop.is_cancelled() {
            let mut tx = db.system().await?;
            let removed = store::forget(&mut tx, tenant, ROWS).await?;
            tx.commit().await?;
            total += removed;
            if removed == 0 {
                break;
            }
        }
        if total > 0 {
            tracing::info!(%tenant, rows = total, "rows of a deleted tenant removed");
        }
    }
    Ok(())
}
