//! The SQL of looking at integrations: whose turn it is. Ids only, of all tenants.

use std::time::Duration;

use shared::{
    db::{Db, StoreError, Tx},
    id::{IntegrationId, TenantId},
};
use sqlx::FromRow;

/// An integration whose turn has come.
#[derive(Clone, Copy, Debug, FromRow)]
pub(crate) struct Due {
    pub tenant_id: TenantId,
    pub integration_id: IntegrationId,
    /// Everything that is switched on is tried, not reading alone.
    pub is_full: bool,
}

/// Takes integrations whose turn has come, and sets their next.
pub(crate) async fn claim(db: &Db, every: Duration, most: i64) -> Result<Vec<Due>, StoreError> {
    let mut tx = db.system().await?;
    let due = sqlx::query_as(
        "UPDATE health_checks SET next_check_at = clock_timestamp() + $1 * interval '1 second'
         WHERE integration_id IN (SELECT integration_id FROM health_checks WHERE next_check_at <= statement_timestamp()
                                  ORDER BY next_check_at LIMIT $2 FOR UPDATE SKIP LOCKED)
         RETURNING tenant_id, integration_id,
                   coalesce(full_check_at <= statement_timestamp() - interval '1 hour', true) AS is_full",
    )
    .bind(every.as_secs_f64())
    .bind(most)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(due)
}

/// Notes a look; returns how many in a row met what may pass.
pub(crate) async fn looked(tx: &mut Tx, due: &Due, may_pass: bool) -> Result<i32, StoreError> {
    let failures: Option<i32> = sqlx::query_scalar(
        "UPDATE health_checks SET failures = CASE WHEN $2 THEN failures + 1 ELSE 0 END,
             full_check_at = CASE WHEN $3 AND NOT $2 THEN clock_timestamp() ELSE full_check_at END
         WHERE integration_id = $1 RETURNING failures",
    )
    .bind(due.integration_id)
    .bind(may_pass)
    .bind(due.is_full)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(failures.unwrap_or_default())
}

/// The integration is gone.
pub(crate) async fn forget(tx: &mut Tx, integration: IntegrationId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM health_checks WHERE integration_id = $1")
        .bind(integration)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
