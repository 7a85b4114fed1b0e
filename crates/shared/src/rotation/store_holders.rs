//! The SQL of who has loaded which key, and of deleted tenants.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    db::{StoreError, Tx},
    id::TenantId,
    sealing::Purpose,
};

/// Tells what a process has loaded.
pub(super) async fn hold(
    tx: &mut Tx,
    instance: Uuid,
    service: &str,
    purpose: Purpose,
    opens: bool,
    keys: &[String],
    lacks: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO key_holders (instance, purpose, service, opens, keys, lacks) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (instance, purpose) DO UPDATE
         SET keys = excluded.keys, lacks = excluded.lacks, seen_at = clock_timestamp()",
    )
    .bind(instance)
    .bind(purpose.as_str())
    .bind(service)
    .bind(opens)
    .bind(keys)
    .bind(lacks)
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM key_holders WHERE seen_at < clock_timestamp() - interval '1 day'")
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Tells that a process is gone.
pub(super) async fn let_go(tx: &mut Tx, instance: Uuid) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM key_holders WHERE instance = $1").bind(instance).execute(&mut **tx).await?;
    Ok(())
}

/// The top keys that something is wrapped by or is to be, and the tenants whose halves were destroyed lately.
pub(super) async fn needed(
    tx: &mut Tx,
    purpose: Purpose,
) -> Result<(Vec<String>, Option<String>, Vec<TenantId>), StoreError> {
    // The owner of the purpose's key pairs.
    let schema = match purpose {
        Purpose::Integration => "sync",
        Purpose::Leak => "validator",
    };
    let wraps = format!(
        "SELECT DISTINCT wrapped_by FROM {schema}.key_halves_v WHERE wrapped_by IS NOT NULL ORDER BY 1"
    );
    let wraps = sqlx::query_scalar(AssertSqlSafe(wraps)).fetch_all(&mut **tx).await?;
    let wanted = format!("SELECT wanted FROM {schema}.top_key_v");
    let wanted = sqlx::query_scalar(AssertSqlSafe(wanted)).fetch_optional(&mut **tx).await?;
    let destroyed = format!(
        "SELECT DISTINCT tenant_id FROM {schema}.key_halves_v WHERE destroyed_at > clock_timestamp() - interval '15 minutes'"
    );
    let destroyed = sqlx::query_scalar(AssertSqlSafe(destroyed)).fetch_all(&mut **tx).await?;
    Ok((wraps, wanted, destroyed))
}

/// Tenants that were deleted within the last month.
pub(super) async fn deleted(tx: &mut Tx) -> Result<Vec<TenantId>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT tenant_id FROM api.deleted_tenants_v WHERE deleted_at > clock_timestamp() - interval '30 days'
         ORDER BY deleted_at DESC",
    )
    .fetch_all(&mut **tx)
    .await?)
}

/// Removes rows of a deleted tenant, at most so many of each table; how many.
pub(super) async fn forget(tx: &mut Tx, tenant: TenantId, at_most: i32) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT platform.forget_tenant($1, $2)")
        .bind(tenant)
        .bind(at_most)
        .fetch_one(&mut **tx)
        .await?)
}
