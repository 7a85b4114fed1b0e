//! Pauses of validation, and the answers that lead to them.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
};
use sqlx::{Row, postgres::PgRow};
use time::{Duration, OffsetDateTime};

/// A pause in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub reason: String,
    /// `None`: until a person ends it.
    pub until: Option<OffsetDateTime>,
}

impl Pause {
    /// From the columns of [`pause_in_force!`], which are null where there is none.
    pub fn read(row: &PgRow) -> Result<Option<Self>, StoreError> {
        let Some(reason) = row.try_get("pause_reason")? else { return Ok(None) };
        Ok(Some(Self { reason, until: row.try_get("pause_until")? }))
    }
}

/// The query for the pause that holds for a directory now: its own or the whole tenant's, the longest.
macro_rules! pause_in_force {
    ($tenant:literal, $directory:literal) => {
        concat!(
            "SELECT reason AS pause_reason, until AS pause_until FROM pauses WHERE tenant_id = ",
            $tenant,
            " AND directory_id IN ('', ",
            $directory,
            ") AND (until IS NULL OR until > clock_timestamp()) ORDER BY until DESC NULLS FIRST LIMIT 1"
        )
    };
}
pub(super) use pause_in_force;

/// The pause that holds for a directory now.
pub async fn in_force(tx: &mut Tx, tenant: TenantId, directory: &str) -> Result<Option<Pause>, StoreError> {
    let row = sqlx::query(pause_in_force!("$1", "$2"))
        .bind(tenant)
        .bind(directory)
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map_or(Ok(None), Pause::read)
}

/// Pauses a directory for at least this long. True when no pause was in force before.
pub async fn pause(
    tx: &mut Tx,
    tenant: TenantId,
    directory: &str,
    reason: &str,
    message: &str,
    length: Duration,
) -> Result<bool, StoreError> {
    let before = in_force(tx, tenant, directory).await?;
    sqlx::query(
        "INSERT INTO pauses AS p (tenant_id, directory_id, reason, message, until)
         VALUES ($1, $2, $3, $4, clock_timestamp() + $5 * interval '1 second')
         ON CONFLICT (tenant_id, directory_id) DO UPDATE SET
             since = CASE WHEN p.until < clock_timestamp() THEN excluded.since ELSE p.since END,
             reason = excluded.reason, message = excluded.message,
             until = greatest(p.until, excluded.until)
         WHERE p.until IS NOT NULL",
    )
    .bind(tenant)
    .bind(directory)
    .bind(reason)
    .bind(message)
    .bind(length.as_seconds_f64())
    .execute(&mut **tx)
    .await?;
    Ok(before.is_none())
}

/// Notes an answer that said "locked"; returns how many different accounts of the directory were said to be locked
/// within the span.
pub async fn locked_answer(
    tx: &mut Tx,
    tenant: TenantId,
    directory: &str,
    object: &str,
    span: Duration,
) -> Result<i64, StoreError> {
    sqlx::query(
        "INSERT INTO lock_answers (tenant_id, directory_id, object_id, seen_at) VALUES ($1, $2, $3, clock_timestamp())
         ON CONFLICT (tenant_id, directory_id, object_id) DO UPDATE SET seen_at = excluded.seen_at",
    )
    .bind(tenant)
    .bind(directory)
    .bind(object)
    .execute(&mut **tx)
    .await?;
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM lock_answers
         WHERE tenant_id = $1 AND directory_id = $2 AND seen_at > statement_timestamp() - $3 * interval '1 second'",
    )
    .bind(tenant)
    .bind(directory)
    .bind(span.as_seconds_f64())
    .fetch_one(&mut **tx)
    .await?)
}
