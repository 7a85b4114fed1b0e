//! Requests to raise an integration's daily maximum, and the lockout thresholds that bound it.

use shared::{
    db::{StoreError, Tx},
    id::{DailyMaxRequestId, IntegrationId, TenantId},
};
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

/// A request.
#[derive(Clone, Debug, FromRow)]
pub struct Request {
    /// Id.
    pub request_id: DailyMaxRequestId,
    /// Integration.
    pub integration_id: IntegrationId,
    /// Attempts per account in any 24 hours.
    pub daily_max: i32,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub asked_by: String,
    /// Their name.
    pub asker_name: String,
    /// When.
    pub asked_at: OffsetDateTime,
    /// Waits until then at most.
    pub expires_at: OffsetDateTime,
    /// waiting | approved | refused | withdrawn | expired.
    pub state: String,
    /// Who decided.
    pub decided_by: Option<String>,
    /// Their name.
    pub decider_name: Option<String>,
    /// Why.
    pub decision_reason: Option<String>,
    /// When.
    pub decided_at: Option<OffsetDateTime>,
}

macro_rules! columns {
    () => {
        "request_id, integration_id, daily_max, reason, asked_by, asker_name, asked_at, expires_at,
                CASE WHEN state = 'waiting' AND expires_at <= statement_timestamp() THEN 'expired' ELSE state END AS state,
                decided_by, decider_name, decision_reason, decided_at"
    };
}

/// Ends what waited too long and returns it.
pub async fn expire(tx: &mut Tx, tenant: TenantId) -> Result<Vec<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "UPDATE daily_max_requests SET state = 'expired'
         WHERE tenant_id = $1 AND state = 'waiting' AND expires_at <= statement_timestamp()
         RETURNING ",
        columns!()
    ))
    .bind(tenant)
    .fetch_all(&mut **tx)
    .await?)
}

/// Stores a request; the caller holds the integration's lock and knows that none waits.
pub async fn ask(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    daily_max: i32,
    reason: &str,
    (actor_id, actor_name): (&str, &str),
) -> Result<DailyMaxRequestId, StoreError> {
    let id = DailyMaxRequestId::new();
    sqlx::query(
        "INSERT INTO daily_max_requests (tenant_id, request_id, integration_id, daily_max, reason, asked_by, asker_name)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(tenant)
    .bind(id)
    .bind(integration)
    .bind(daily_max)
    .bind(reason)
    .bind(actor_id)
    .bind(actor_name)
    .execute(&mut **tx)
    .await?;
    Ok(id)
}

/// One request.
pub async fn get(
    tx: &mut Tx,
    tenant: TenantId,
    id: DailyMaxRequestId,
) -> Result<Option<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM daily_max_requests WHERE tenant_id = $1 AND request_id = $2"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

/// The requests of these integrations that wait.
pub async fn waiting(
    tx: &mut Tx,
    tenant: TenantId,
    integrations: &[IntegrationId],
) -> Result<Vec<Request>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM daily_max_requests
         WHERE tenant_id = $1 AND integration_id = ANY ($2) AND state = 'waiting' AND expires_at > statement_timestamp()"
    ))
    .bind(tenant)
    .bind(uuids(integrations))
    .fetch_all(&mut **tx)
    .await?)
}

/// Requests after a place, newest first.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    integration: Option<IntegrationId>,
    after: Option<(OffsetDateTime, DailyMaxRequestId)>,
    limit: i64,
) -> Result<Vec<Request>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM daily_max_requests
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR integration_id = $2)
               AND ($3::timestamptz IS NULL OR (asked_at, request_id) < ($3, $4))
         ORDER BY asked_at DESC, request_id DESC LIMIT $5"
    ))
    .bind(tenant)
    .bind(integration)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// Ends a request that waits; false when it does not (any more).
pub async fn decide(
    tx: &mut Tx,
    tenant: TenantId,
    id: DailyMaxRequestId,
    state: &str,
    reason: &str,
    (actor_id, actor_name): (&str, &str),
) -> Result<bool, StoreError> {
    let decided = sqlx::query(
        "UPDATE daily_max_requests SET state = $3, decided_by = $4, decider_name = $5, decision_reason = $6,
             decided_at = clock_timestamp()
         WHERE tenant_id = $1 AND request_id = $2 AND state = 'waiting' AND expires_at > statement_timestamp()",
    )
    .bind(tenant)
    .bind(id)
    .bind(state)
    .bind(actor_id)
    .bind(actor_name)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    Ok(decided.rows_affected() > 0)
}

/// The lockout thresholds that were read, by integration: the strictest of its directory.
pub async fn thresholds(
    tx: &mut Tx,
    tenant: TenantId,
    integrations: &[IntegrationId],
) -> Result<Vec<(IntegrationId, i32)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT integration_id, lockout_threshold FROM sync.directory_policies_v
         WHERE tenant_id = $1 AND integration_id = ANY ($2) AND lockout_threshold > 0",
    )
    .bind(tenant)
    .bind(uuids(integrations))
    .fetch_all(&mut **tx)
    .await?)
}

fn uuids(integrations: &[IntegrationId]) -> Vec<Uuid> {
    integrations.iter().map(|i| i.uuid()).collect()
}
