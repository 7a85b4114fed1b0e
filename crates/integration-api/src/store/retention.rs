//! What is destroyed when its time has come.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
};

/// Empties sealed columns of a tenant's records whose retention has ended; how many, at most `limit`.
pub async fn expire_tenant_records(
    tx: &mut Tx,
    tenant: TenantId,
    days: i32,
    limit: i64,
) -> Result<u64, StoreError> {
    let emptied = sqlx::query(
        "UPDATE feed_records SET secret_sealed = NULL, cookies_sealed = NULL, extra_sealed = NULL
         WHERE tenant_id = $1 AND record_id IN (
             SELECT record_id FROM feed_records
             WHERE tenant_id = $1 AND received_at < statement_timestamp() - make_interval(days => $2)
                   AND has_sealed
             LIMIT $3)",
    )
    .bind(tenant)
    .bind(days)
    .bind(limit)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM feed_batches WHERE tenant_id = $1 AND received_at < statement_timestamp() - make_interval(days => $2 + 15)",
    )
    .bind(tenant)
    .bind(days)
    .execute(&mut **tx)
    .await?;
    Ok(emptied.rows_affected())
}

/// The same for the installation's records.
pub async fn expire_installation_records(tx: &mut Tx, days: i32, limit: i64) -> Result<u64, StoreError> {
    let emptied = sqlx::query(
        "UPDATE installation_feed_records SET secret_sealed = NULL, cookies_sealed = NULL, extra_sealed = NULL
         WHERE record_id IN (
             SELECT record_id FROM installation_feed_records
             WHERE received_at < statement_timestamp() - make_interval(days => $1)
                   AND has_sealed
             LIMIT $2)",
    )
    .bind(days)
    .bind(limit)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM installation_feed_batches WHERE received_at < statement_timestamp() - make_interval(days => $1 + 15)",
    )
    .bind(days)
    .execute(&mut **tx)
    .await?;
    Ok(emptied.rows_affected())
}
