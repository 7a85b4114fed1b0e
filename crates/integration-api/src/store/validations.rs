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
    /// running | paused | cancelled.
    pub state: String,
    /// When it was cancelled, or it was noticed that it is done.
    pub ended_at: Option<OffsetDateTime>,
    /// It ended, or nothing of it waits any more and its end is about to be noticed.
    pub over: bool,
}

/// Stores a request; its items are stored beside it.
pub async fn insert(tx: &mut Tx, tenant: TenantId, new: &Request) -> Result<OffsetDateTime, StoreError> {
    let Request {
        validation_id,
        kind,
        requested_by,
        requester_name,
        filter,
        force,
        items,
        created_at: _,
        state: _,
        ended_at: _,
        over: _,
    } = new;
    sqlx::query("INSERT INTO validations_under_way (validation_id, tenant_id) VALUES ($1, $2)")
        .bind(validation_id)
        .bind(tenant)
        .execute(&mut **tx)
        .await?;
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

/// Whether the verdict of an exposure `e` stands for a request. What the request is to decide does not until it has: with
/// `force` everything decided before it, else what was set aside (`idle`, such as `switched_off`) before it.
macro_rules! stands {
    ($force:literal, $created_at:literal) => {
        concat!(
            "CROSS JOIN LATERAL (
                 SELECT e.verdict IS NOT NULL AND (e.verdict_at >= ",
            $created_at,
            " OR NOT (",
            $force,
            " OR e.state = 'idle')) AS stands) s "
        )
    };
}

/// The first item of a request `r` that has not had its verdict, from where its watch `u` has come.
macro_rules! next_item {
    () => {
        concat!(
            "SELECT i.exposure_id FROM validation_items i
             JOIN validator.exposures_v e ON e.tenant_id = i.tenant_id AND e.exposure_id = i.exposure_id ",
            stands!("r.force", "r.created_at"),
            "WHERE i.tenant_id = r.tenant_id AND i.validation_id = r.validation_id
               AND i.exposure_id >= coalesce(u.next_item, '00000000-0000-0000-0000-000000000000')
               AND NOT (stands AND e.verdict <> 'deferred')
             ORDER BY i.exposure_id LIMIT 1"
        )
    };
}

macro_rules! columns {
    () => {
        concat!(
            "SELECT r.validation_id, r.kind, r.requested_by, r.requester_name, r.filter, r.force, r.items, r.created_at,
                    r.state, r.ended_at, r.ended_at IS NOT NULL OR NOT EXISTS (",
            next_item!(),
            ") AS over
             FROM validation_requests r LEFT JOIN validations_under_way u ON u.validation_id = r.validation_id "
        )
    };
}

/// One request.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ValidationId) -> Result<Option<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(columns!(), "WHERE r.tenant_id = $1 AND r.validation_id = $2"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// One request, locked until the end of the transaction.
pub async fn lock(tx: &mut Tx, tenant: TenantId, id: ValidationId) -> Result<Option<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(columns!(), "WHERE r.tenant_id = $1 AND r.validation_id = $2 FOR UPDATE OF r"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Writes what people want of a request.
pub async fn set_state(
    tx: &mut Tx,
    tenant: TenantId,
    id: ValidationId,
    state: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE validation_requests SET state = $3 WHERE tenant_id = $1 AND validation_id = $2")
        .bind(tenant)
        .bind(id)
        .bind(state)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Writes that a request ended; its end is looked for no more. Returns when.
pub async fn end(tx: &mut Tx, tenant: TenantId, id: ValidationId) -> Result<OffsetDateTime, StoreError> {
    forget(tx, id).await?;
    Ok(sqlx::query_scalar(
        "UPDATE validation_requests SET ended_at = clock_timestamp() WHERE tenant_id = $1 AND validation_id = $2
         RETURNING ended_at",
    )
    .bind(tenant)
    .bind(id)
    .fetch_one(&mut **tx)
    .await?)
}

/// Looks for a request's end no more.
pub async fn forget(tx: &mut Tx, id: ValidationId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM validations_under_way WHERE validation_id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Requests of all tenants whose end is to be looked for now.
pub async fn to_look_at(tx: &mut Tx) -> Result<Vec<(TenantId, ValidationId)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT tenant_id, validation_id FROM validations_under_way WHERE look_at <= statement_timestamp()
         ORDER BY look_at LIMIT 100",
    )
    .fetch_all(&mut **tx)
    .await?)
}

/// Notes how far a request has come. It is looked at again after a twentieth of the time it has taken, between two seconds
/// and a minute.
pub async fn look_again(tx: &mut Tx, tenant: TenantId, id: ValidationId) -> Result<(), StoreError> {
    sqlx::query(concat!(
        "UPDATE validations_under_way u SET next_item = (",
        next_item!(),
        "), look_at = clock_timestamp()
             + least(greatest((clock_timestamp() - r.created_at) / 20, interval '2 seconds'), interval '1 minute')
         FROM validation_requests r
         WHERE r.tenant_id = $1 AND r.validation_id = $2 AND u.validation_id = r.validation_id"
    ))
    .bind(tenant)
    .bind(id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The request of this one exposure that has no result yet, if there is one.
pub async fn waiting_for(
    tx: &mut Tx,
    tenant: TenantId,
    exposure: ExposureId,
    force: bool,
) -> Result<Option<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(
        columns!(),
        "WHERE r.tenant_id = $1 AND r.kind = 'single' AND r.force = $3 AND r.state <> 'cancelled' AND EXISTS (
             SELECT FROM validation_items i
             JOIN validator.exposures_v e ON e.tenant_id = i.tenant_id AND e.exposure_id = i.exposure_id ",
        stands!("r.force", "r.created_at"),
        "WHERE i.tenant_id = $1 AND i.exposure_id = $2 AND i.validation_id = r.validation_id
               AND NOT (stands AND e.verdict <> 'deferred'))
         ORDER BY r.created_at LIMIT 1"
    ))
    .bind(tenant)
    .bind(exposure)
    .bind(force)
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
        "WHERE r.tenant_id = $1 AND ($2::timestamptz IS NULL OR (r.created_at, r.validation_id) < ($2, $3))
         ORDER BY r.created_at DESC, r.validation_id DESC LIMIT $4"
    ))
    .bind(tenant)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// How many exposures of a request have a verdict and reason.
#[derive(Clone, Debug, FromRow)]
pub struct Count {
    /// Verdict, or `pending`.
    pub verdict: String,
    /// Reason, or empty.
    pub reason: String,
    /// How many.
    pub count: i64,
    /// When the first of them goes on, if they are deferred,
    pub first_until: Option<OffsetDateTime>,
    /// and the last.
    pub last_until: Option<OffsetDateTime>,
}

/// Exposures of a request by verdict and reason.
pub async fn counts(tx: &mut Tx, tenant: TenantId, request: &Request) -> Result<Vec<Count>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "SELECT v.verdict, v.reason, count(*), min(v.until) AS first_until, max(v.until) AS last_until FROM (
             SELECT CASE WHEN stands THEN e.verdict ELSE 'pending' END AS verdict,
                    CASE WHEN stands THEN coalesce(e.verdict_reason, '') ELSE '' END AS reason,
                    CASE WHEN stands THEN e.deferred_until END AS until
             FROM validation_items i
             JOIN validator.exposures_v e ON e.tenant_id = i.tenant_id AND e.exposure_id = i.exposure_id ",
        stands!("$3", "$4"),
        "WHERE i.tenant_id = $1 AND i.validation_id = $2) v
         GROUP BY v.verdict, v.reason ORDER BY v.verdict, v.reason"
    ))
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
    /// The verdict is the request's result.
    pub decided: bool,
}

/// Items after a place, in order of exposure id.
pub async fn items(
    tx: &mut Tx,
    tenant: TenantId,
    request: &Request,
    after: Option<ExposureId>,
    limit: i64,
) -> Result<Vec<Item>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "SELECT e.exposure_id, e.login_at_match, e.account_id, e.verdict, e.verdict_reason, e.verdict_at, e.deferred_until,
                e.attempts, stands AND e.verdict <> 'deferred' AS decided
         FROM validation_items i
         JOIN validator.exposures_v e ON e.tenant_id = i.tenant_id AND e.exposure_id = i.exposure_id ",
        stands!("$5", "$6"),
        "WHERE i.tenant_id = $1 AND i.validation_id = $2 AND ($3::uuid IS NULL OR i.exposure_id > $3)
         ORDER BY i.exposure_id LIMIT $4"
    ))
    .bind(tenant)
    .bind(request.validation_id)
    .bind(after)
    .bind(limit)
    .bind(request.force)
    .bind(request.created_at)
    .fetch_all(&mut **tx)
    .await?)
}
