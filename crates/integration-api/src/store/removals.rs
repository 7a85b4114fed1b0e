//! Removals that are held, as the sync worker shows them.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, IntegrationId, RemovalPlanId, SyncRunId, TenantId},
};
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

/// A plan.
#[derive(Clone, Debug, FromRow)]
pub struct Plan {
    /// Id.
    pub plan_id: RemovalPlanId,
    /// Integration.
    pub integration_id: IntegrationId,
    /// The run that made it.
    pub run_id: SyncRunId,
    /// State.
    pub state: String,
    /// Why the removals are held.
    pub reason: String,
    /// Accounts before the run.
    pub accounts_known: i64,
    /// Of these, not found by it.
    pub accounts_gone: i64,
    /// Of those gone, administrators.
    pub accounts_admin: i64,
    /// Of those gone, seen again.
    pub accounts_back: i64,
    /// Their identifiers, when it was made.
    pub identifiers: i64,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// Applied, dropped or superseded.
    pub ended_at: Option<OffsetDateTime>,
    /// The run that looked again.
    pub superseded_by: Option<SyncRunId>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// Their name.
    pub decided_by_name: Option<String>,
    /// Why.
    pub decision_reason: Option<String>,
    /// Accounts removed.
    pub accounts_removed: i64,
    /// Identities removed.
    pub identities_removed: i64,
    /// Identifiers removed.
    pub identifiers_removed: i64,
}

macro_rules! columns {
    () => {
        "SELECT plan_id, integration_id, run_id, state, reason, accounts_known, accounts_gone, accounts_admin, accounts_back,
                identifiers, created_at, ended_at, superseded_by, decided_by, decided_by_name, decision_reason,
                accounts_removed, identities_removed, identifiers_removed
         FROM sync.removal_plans_v "
    };
}

/// One plan.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: RemovalPlanId) -> Result<Option<Plan>, StoreError> {
    Ok(sqlx::query_as(concat!(columns!(), "WHERE tenant_id = $1 AND plan_id = $2"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Plans after a place, newest first.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    integration: Option<IntegrationId>,
    states: Option<Vec<&'static str>>,
    after: Option<(OffsetDateTime, RemovalPlanId)>,
    limit: i64,
) -> Result<Vec<Plan>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(concat!(
        columns!(),
        "WHERE tenant_id = $1
           AND ($2::uuid IS NULL OR integration_id = $2)
           AND ($3::text[] IS NULL OR state = ANY ($3))
           AND ($4::timestamptz IS NULL OR (created_at, plan_id) < ($4, $5))
         ORDER BY created_at DESC, plan_id DESC LIMIT $6"
    ))
    .bind(tenant)
    .bind(integration)
    .bind(states)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// An account of a plan.
#[derive(Clone, Debug, FromRow)]
pub struct Account {
    /// Id.
    pub account_id: AccountId,
    /// Immutable object id.
    pub object_id: String,
    /// Sign-in name.
    pub login: String,
    /// Display name.
    pub display_name: String,
    /// Administrator.
    pub is_admin: bool,
    /// Not found since; none when it came back.
    pub missing_since: Option<OffsetDateTime>,
    /// Seen again.
    pub seen_at: Option<OffsetDateTime>,
    /// Removed by the plan.
    pub removed_at: Option<OffsetDateTime>,
    /// Identifiers it has.
    pub identifiers: i64,
    /// Exposures it has.
    pub exposures: i64,
}

/// The accounts of a plan after a place, in the order in which they became known.
pub async fn accounts(
    tx: &mut Tx,
    tenant: TenantId,
    plan: RemovalPlanId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Account>, StoreError> {
    // Counted for the page only, by index.
    Ok(sqlx::query_as(
        "WITH page AS (
             SELECT * FROM sync.removal_plan_accounts_v
             WHERE tenant_id = $1 AND plan_id = $2 AND ($3::uuid IS NULL OR account_id > $3)
             ORDER BY account_id LIMIT $4)
         SELECT account_id, object_id, login, display_name, is_admin, missing_since, seen_at, removed_at,
                (SELECT count(*) FROM sync.identifiers_v i
                 WHERE i.tenant_id = $1 AND i.account_id = p.account_id) AS identifiers,
                (SELECT count(*) FROM validator.exposures_v e
                 WHERE e.tenant_id = $1 AND e.account_id = p.account_id) AS exposures
         FROM page p ORDER BY account_id",
    )
    .bind(tenant)
    .bind(plan)
    .bind(after)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}
