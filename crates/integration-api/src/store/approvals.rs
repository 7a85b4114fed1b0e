//! What waits for a second person, as the executor shows it.

use shared::{
    db::{StoreError, Tx},
    id::{ApprovalId, IntegrationId, MitigationRequestId, TenantId},
};
use sqlx::FromRow;
use time::OffsetDateTime;

/// A set of mitigations that are held together.
#[derive(Clone, Debug, FromRow)]
pub struct Approval {
    /// Id.
    pub approval_id: ApprovalId,
    /// State.
    pub state: String,
    /// What holds it.
    pub held_by: String,
    /// The person's request,
    pub request_id: Option<MitigationRequestId>,
    /// who asked,
    pub requested_by: Option<String>,
    /// their name
    pub requester_name: Option<String>,
    /// and why.
    pub request_reason: Option<String>,
    /// Or the integration whose automated mitigations are held.
    pub integration_id: Option<IntegrationId>,
    /// Mitigations held with it now.
    pub held: i64,
    /// Their accounts.
    pub accounts: i64,
    /// Of these, administrators.
    pub administrators: i64,
    /// When the first was held.
    pub opened_at: OffsetDateTime,
    /// When they are dropped.
    pub expires_at: OffsetDateTime,
    /// When it was decided.
    pub decided_at: Option<OffsetDateTime>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// Their name.
    pub decider_name: Option<String>,
    /// Why.
    pub decision_reason: Option<String>,
}

// Counted for the rows of `a` only, by index.
macro_rules! columns {
    () => {
        "SELECT a.approval_id, a.state, a.held_by, a.request_id, r.requested_by, r.requester_name, r.reason AS request_reason,
                a.integration_id, c.held, c.accounts, c.administrators, a.opened_at, a.expires_at, a.decided_at,
                a.decided_by, a.decider_name, a.decision_reason
         FROM a LEFT JOIN mitigation_requests r ON r.tenant_id = a.tenant_id AND r.request_id = a.request_id
         CROSS JOIN LATERAL (
             SELECT count(*) AS held, count(DISTINCT m.account_id) AS accounts,
                    count(DISTINCT m.account_id) FILTER (WHERE s.is_admin) AS administrators
             FROM mitigation.mitigations_v m
             LEFT JOIN sync.accounts_v s ON s.tenant_id = m.tenant_id AND s.account_id = m.account_id
             WHERE m.tenant_id = a.tenant_id AND m.approval_id = a.approval_id AND m.state = 'held') c "
    };
}

/// One approval.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "WITH a AS (SELECT * FROM mitigation.approvals_v WHERE tenant_id = $1 AND approval_id = $2) ",
        columns!()
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

/// Approvals after a place, oldest first.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    states: &[&'static str],
    after: Option<(OffsetDateTime, ApprovalId)>,
    limit: i64,
) -> Result<Vec<Approval>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(concat!(
        "WITH a AS (
             SELECT * FROM mitigation.approvals_v
             WHERE tenant_id = $1 AND state = ANY ($2)
               AND ($3::timestamptz IS NULL OR (opened_at, approval_id) > ($3, $4))
             ORDER BY opened_at, approval_id LIMIT $5) ",
        columns!(),
        "ORDER BY a.opened_at, a.approval_id"
    ))
    .bind(tenant)
    .bind(states)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}
