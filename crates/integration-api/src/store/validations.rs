//! Validation requests, their items and their progress.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, ExposureId, TenantId, ValidationId},
};
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

/// A request.
#[derive(Clone, Debug, FromRow)]
pub struct Request {
    /// Id.
    pub validation_id: ValidationId,
    /// How it selected.
    pub kind: String,
    /// Who asked.
    pub requested_by: String,
    /// Their name.
    pub requester_name: String,
    /// The filter, encoded.
    pub filter: Option<Json<String>>,
    /// Decide again.
    pub force: bool,
    /// Exposures in it.
    pub items: i32,
    /// When.
    pub created_at: OffsetDateTime,
}

/// Stores a request; its items are stored beside it.
pub async fn insert(tx: &mut Tx, tenant: TenantId, new: &Request) -> Result<OffsetDateTime, StoreError> {
    let Request { validation_id, kind, requested_by, requester_name, filter, force, items, created_at: _ } =
        new;
    Ok(sqlx::query_scalar(
        "INSERT INTO validation_requests (tenant_id, validation_id, kind, requested_by, requester_name, filter, force, items)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING created_at",
    )
    .bind(tenant)
    .bind(validation_id)
    .bind(kind)
    .bind(requested_by)
    .bind(requester_name)
    .bind(filter)
    .bind(force)
    .bind(items)
    .fetch_one(&mut **tx)
    .await?)
}

/// Stores items by id.
pub async fn insert_items(
    tx: &mut Tx,
    tenant: TenantId,
    validation: ValidationId,
    exposures: &[ExposureId],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO validation_items (tenant_id, validation_id, exposure_id) SELECT $1, $2, unnest($3::uuid[])
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(validation)
    .bind(exposures.iter().map(|e| e.uuid()).collect::<Vec<Uuid>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

macro_rules! columns {
    () => {
        "SELECT validation_id, kind, requested_by, requester_name, filter, force, items, created_at FROM validation_requests "
    };
}

/// One request.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ValidationId) -> Result<Option<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(columns!(), "WHERE tenant_id = $1 AND validation_id = $2"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Requests after a place, newest first.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    after: Option<(OffsetDateTime, ValidationId)>,
    limit: i64,
) -> Result<Vec<Request>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(concat!(
        columns!(),
        "WHERE tenant_id = $1 AND ($2::timestamptz IS NULL OR (created_at, validation_id) < ($2, $3))
         ORDER BY created_at DESC, validation_id DESC LIMIT $4"
    ))
    .bind(tenant)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// Exposures of a request by verdict and reason. What the request is to decide counts as pending until it has: with
/// `force` everything decided before it, else what was set aside (`idle`, such as `switched_off`) before it.
pub async fn counts(
    tx: &mut Tx,
    tenant: TenantId,
    request: &Request,
) -> Result<Vec<(String, String, i64)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT v.verdict, v.reason, count(*) FROM (
             SELECT CASE WHEN stands THEN e.verdict ELSE 'pending' END AS verdict,
                    CASE WHEN stands THEN coalesce(e.verdict_reason, '') ELSE '' END AS reason
             FROM validation_items i
             JOIN validator.exposures_v e ON e.tenant_id = i.tenant_id AND e.exposure_id = i.exposure_id
             CROSS JOIN LATERAL (
                 SELECT e.verdict IS NOT NULL AND (e.verdict_at >= $4 OR NOT ($3 OR e.state = 'idle')) AS stands) s
             WHERE i.tenant_id = $1 AND i.validation_id = $2) v
         GROUP BY v.verdict, v.reason ORDER BY v.verdict, v.reason",
    )
    .bind(tenant)
    .bind(request.validation_id)
    .bind(request.force)
    .bind(request.created_at)
    .fetch_all(&mut **tx)
    .await?)
}

/// The state of one exposure of a request.
#[derive(Clone, Debug, FromRow)]
pub struct Item {
    /// Exposure.
    pub exposure_id: ExposureId,
    /// Sign-in name at the match.
    pub login_at_match: String,
    /// Account.
    pub account_id: AccountId,
    /// Verdict.
    pub verdict: Option<String>,
    /// Its reason.
    pub verdict_reason: Option<String>,
    /// When it was given.
    pub verdict_at: Option<OffsetDateTime>,
    /// Waits until.
    pub deferred_until: Option<OffsetDateTime>,
    /// Attempts spent.
    pub attempts: i32,
}

/// Items after a place, in order of exposure id.
pub async fn items(
    tx: &mut Tx,
    tenant: TenantId,
    id: ValidationId,
    after: Option<ExposureId>,
    limit: i64,
) -> Result<Vec<Item>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT e.exposure_id, e.login_at_match, e.account_id, e.verdict, e.verdict_reason, e.verdict_at, e.deferred_until,
                e.attempts
         FROM validation_items i
         JOIN validator.exposures_v e ON e.tenant_id = i.tenant_id AND e.exposure_id = i.exposure_id
         WHERE i.tenant_id = $1 AND i.validation_id = $2 AND ($3::uuid IS NULL OR i.exposure_id > $3)
         ORDER BY i.exposure_id LIMIT $4",
    )
    .bind(tenant)
    .bind(id)
    .bind(after)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}
