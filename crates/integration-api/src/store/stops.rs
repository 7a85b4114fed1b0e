//! Kill switches of password attempts; the budget's own functions keep them.

use shared::{
    db::{StoreError, Tx},
    id::AttemptStopId,
};
use sqlx::FromRow;
use time::OffsetDateTime;

/// A stop.
#[derive(Clone, Debug, FromRow)]
pub struct Stop {
    /// Id.
    pub stop_id: AttemptStopId,
    /// Made by a tenant; otherwise the installation's.
    pub by_tenant: bool,
    /// Kind of provider, for a directory or an account.
    pub provider: Option<String>,
    /// Directory.
    pub directory: Option<String>,
    /// Account in it.
    pub object: Option<String>,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor_id: String,
    /// Their name.
    pub actor_name: String,
    /// Since when.
    pub stopped_at: OffsetDateTime,
}

/// What to stop: nothing named is all that the transaction's tenant has, or the installation.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Kind of provider.
    pub provider: Option<String>,
    /// Directory.
    pub directory: Option<String>,
    /// Account in it.
    pub object: Option<String>,
}

/// Stops attempts; returns the stop that holds, which may be an older one.
pub async fn stop(
    tx: &mut Tx,
    new: AttemptStopId,
    place: &Place,
    reason: &str,
    (actor_id, actor_name): (&str, &str),
) -> Result<AttemptStopId, StoreError> {
    Ok(sqlx::query_scalar("SELECT budget.stop_attempts($1, $2, $3, $4, $5, $6, $7)")
        .bind(new)
        .bind(&place.provider)
        .bind(&place.directory)
        .bind(&place.object)
        .bind(reason)
        .bind(actor_id)
        .bind(actor_name)
        .fetch_one(&mut **tx)
        .await?)
}

/// Ends a stop of the transaction's tenant, or of the installation; false when there is none.
pub async fn resume(tx: &mut Tx, id: AttemptStopId) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT budget.resume_attempts($1)").bind(id).fetch_one(&mut **tx).await?)
}

/// One stop of the transaction's tenant or of the installation.
pub async fn get(tx: &mut Tx, id: AttemptStopId) -> Result<Option<Stop>, StoreError> {
    Ok(select(tx, Some(id), None, 1).await?.pop())
}

/// Stops after a place, newest first.
pub async fn list(
    tx: &mut Tx,
    after: Option<(OffsetDateTime, AttemptStopId)>,
    most: i64,
) -> Result<Vec<Stop>, StoreError> {
    select(tx, None, after, most).await
}

async fn select(
    tx: &mut Tx,
    only: Option<AttemptStopId>,
    after: Option<(OffsetDateTime, AttemptStopId)>,
    most: i64,
) -> Result<Vec<Stop>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(
        "SELECT stop_id, tenant_id IS NOT NULL AS by_tenant, provider, directory, object, reason, actor_id, actor_name, stopped_at
         FROM budget.stops($1, $2, $3, $4)",
    )
    .bind(only)
    .bind(at)
    .bind(id)
    .bind(i32::try_from(most).unwrap_or(i32::MAX))
    .fetch_all(&mut **tx)
    .await?)
}
