//! What operators ask of the keys, and what is known of them. Names and counts only.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
    sealing::Purpose,
};
use sqlx::{AssertSqlSafe, FromRow};
use time::OffsetDateTime;
use uuid::Uuid;

/// The schema of the service that owns a purpose's key pairs.
const fn owner(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Integration => "sync",
        Purpose::Leak => "validator",
    }
}

/// A running process.
#[derive(Clone, Debug, FromRow)]
pub struct Holder {
    pub service: String,
    pub instance: Uuid,
    pub opens: bool,
    pub keys: Vec<String>,
    pub lacks: Option<String>,
    pub seen_at: OffsetDateTime,
}

/// Private halves by the key that wraps them; without a key: destroyed.
#[derive(Clone, Debug, FromRow)]
pub struct Halves {
    pub wrapped_by: Option<String>,
    pub count: i64,
    pub oldest: OffsetDateTime,
}

/// The top key that is to wrap every half.
#[derive(Clone, Debug, FromRow)]
pub struct Wanted {
    pub wanted: String,
    pub requested_at: OffsetDateTime,
    pub rewrapped: i64,
    pub finished_at: Option<OffsetDateTime>,
}

/// The rotation of a key pair.
#[derive(Clone, Debug, FromRow)]
pub struct Job {
    pub tenant_id: Uuid,
    pub to_version: i32,
    pub resealed: i64,
    pub started_at: OffsetDateTime,
    pub finished_at: Option<OffsetDateTime>,
    pub last_error: Option<String>,
}

/// The processes that have keys of a purpose.
pub async fn holders(tx: &mut Tx, purpose: Purpose) -> Result<Vec<Holder>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT service, instance, opens, keys, lacks, seen_at FROM (
             SELECT * FROM api.key_holders_v UNION ALL SELECT * FROM sync.key_holders_v
             UNION ALL SELECT * FROM validator.key_holders_v UNION ALL SELECT * FROM mitigation.key_holders_v) h
         WHERE purpose = $1 AND seen_at > clock_timestamp() - interval '15 seconds' ORDER BY service, instance",
    )
    .bind(purpose.as_str())
    .fetch_all(&mut **tx)
    .await?)
}

/// What wraps what.
pub async fn halves(tx: &mut Tx, purpose: Purpose) -> Result<Vec<Halves>, StoreError> {
    let statement = format!(
        "SELECT wrapped_by, count(*) AS count, min(made_at) AS oldest FROM {}.key_halves_v GROUP BY wrapped_by ORDER BY 1",
        owner(purpose)
    );
    Ok(sqlx::query_as(AssertSqlSafe(statement)).fetch_all(&mut **tx).await?)
}

/// What is wanted; nothing until somebody asks.
pub async fn wanted(tx: &mut Tx, purpose: Purpose) -> Result<Option<Wanted>, StoreError> {
    let statement =
        format!("SELECT wanted, requested_at, rewrapped, finished_at FROM {}.top_key_v", owner(purpose));
    Ok(sqlx::query_as(AssertSqlSafe(statement)).fetch_optional(&mut **tx).await?)
}

/// Rotations of key pairs: the unfinished, then the latest.
pub async fn jobs(tx: &mut Tx, purpose: Purpose) -> Result<Vec<Job>, StoreError> {
    let statement = format!(
        "SELECT tenant_id, to_version, resealed, started_at, finished_at, last_error FROM {}.key_jobs_v
         ORDER BY finished_at DESC NULLS FIRST, started_at DESC LIMIT 100",
        owner(purpose)
    );
    Ok(sqlx::query_as(AssertSqlSafe(statement)).fetch_all(&mut **tx).await?)
}

/// A request, for the service that owns the purpose's key pairs.
#[derive(Debug)]
pub enum Request<'a> {
    /// Wrap every half by this key.
    Top(&'a str),
    /// Replace the key pair of a tenant, or of the installation.
    Pair(Option<TenantId>),
}

/// Notes a request.
pub async fn ask(
    tx: &mut Tx,
    purpose: Purpose,
    request: &Request<'_>,
    subject: &str,
) -> Result<(), StoreError> {
    let (scope, tenant, wanted) = match request {
        Request::Top(key) => ("top", None, Some(*key)),
        Request::Pair(Some(tenant)) => ("tenant", Some(*tenant), None),
        Request::Pair(None) => ("installation", None, None),
    };
    sqlx::query(
        "INSERT INTO key_requests (request_id, purpose, scope, tenant_id, wanted, requested_by)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(Uuid::now_v7())
    .bind(purpose.as_str())
    .bind(scope)
    .bind(tenant)
    .bind(wanted)
    .bind(subject)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Moves a tenant to the deleted ones. False when it was not there.
pub async fn delete_tenant(
    tx: &mut Tx,
    tenant: TenantId,
    reason: &str,
    subject: &str,
) -> Result<bool, StoreError> {
    let moved = sqlx::query(
        "WITH gone AS (DELETE FROM tenants WHERE tenant_id = $1 RETURNING tenant_id, organization_id, name)
         INSERT INTO deleted_tenants (tenant_id, organization_id, name, reason, deleted_by)
         SELECT tenant_id, organization_id, name, $2, $3 FROM gone",
    )
    .bind(tenant)
    .bind(reason)
    .bind(subject)
    .execute(&mut **tx)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// Destroys a deleted tenant's private halves of a purpose; how many.
pub async fn shred(tx: &mut Tx, purpose: Purpose, tenant: TenantId) -> Result<i64, StoreError> {
    let statement = format!("SELECT {}.shred($1)", owner(purpose));
    Ok(sqlx::query_scalar(AssertSqlSafe(statement)).bind(tenant).fetch_one(&mut **tx).await?)
}
