//! The SQL of removals that are held. Every transaction here is a tenant's; all but [`supersede`] and [`lock`] are
//! called under the lock of the tenant's usage, so that no page is committed meanwhile.

use std::str::FromStr;

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, CauseId, IntegrationId, RemovalPlanId, SyncRunId, TenantId},
};
use sqlx::Row;

use crate::{
    absence::HoldReason,
    removals::Gone,
    store_accounts::{Absent, column},
};

/// Where a plan is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Held,
    Superseded,
    Applied,
    Dropped,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Superseded => "superseded",
            Self::Applied => "applied",
            Self::Dropped => "dropped",
        }
    }
}

impl FromStr for State {
    type Err = StoreError;
    fn from_str(text: &str) -> Result<Self, StoreError> {
        [Self::Held, Self::Superseded, Self::Applied, Self::Dropped]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| StoreError::Corrupt("sync.removal_plans.state has an unknown value".into()))
    }
}

/// What one full run did not find.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub id: RemovalPlanId,
    pub integration: IntegrationId,
    pub state: State,
    pub reason: HoldReason,
    pub superseded_by: Option<SyncRunId>,
    /// Of the run that made it.
    pub cause: CauseId,
    pub gone: i64,
    pub back: i64,
}

/// Stores what a run did not find as a plan. None of the integration is held any more.
pub(crate) async fn hold(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    run: SyncRunId,
    reason: HoldReason,
    absent: Absent,
) -> Result<RemovalPlanId, StoreError> {
    let plan = RemovalPlanId::new();
    sqlx::query(
        "INSERT INTO removal_plans (tenant_id, plan_id, integration_id, run_id, reason, accounts_known, accounts_gone)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(tenant)
    .bind(plan)
    .bind(integration)
    .bind(run)
    .bind(reason.as_str())
    .bind(absent.known)
    .bind(absent.newly + absent.confirmed)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "WITH seen AS (SELECT unnest(accounts) AS account_id FROM run_pages WHERE tenant_id = $1 AND run_id = $4)
         INSERT INTO removal_plan_accounts (tenant_id, plan_id, account_id)
         SELECT $1, $2, a.account_id FROM accounts a
         WHERE a.tenant_id = $1 AND a.integration_id = $3 AND a.removed_at IS NULL
           AND NOT EXISTS (SELECT FROM seen s WHERE s.account_id = a.account_id)",
    )
    .bind(tenant)
    .bind(plan)
    .bind(integration)
    .bind(run)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "UPDATE removal_plans SET
             accounts_admin = (SELECT count(*) FROM removal_plan_accounts r JOIN accounts a USING (tenant_id, account_id)
                               WHERE r.tenant_id = $1 AND r.plan_id = $2 AND a.is_admin),
             identifiers = (SELECT count(*) FROM removal_plan_accounts r JOIN identifiers i USING (tenant_id, account_id)
                            WHERE r.tenant_id = $1 AND r.plan_id = $2)
         WHERE tenant_id = $1 AND plan_id = $2",
    )
    .bind(tenant)
    .bind(plan)
    .execute(&mut **tx)
    .await?;
    Ok(plan)
}

/// A newer run has the last word about what is absent; without one, the integration is deleted.
pub(crate) async fn supersede(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    by: Option<SyncRunId>,
) -> Result<(), StoreError> {
    sqlx::query(
        "WITH old AS (UPDATE removal_plans SET state = 'superseded', superseded_by = $3, ended_at = clock_timestamp()
                      WHERE tenant_id = $1 AND integration_id = $2 AND state = 'held' RETURNING plan_id)
         DELETE FROM removal_plan_accounts WHERE tenant_id = $1 AND plan_id IN (SELECT plan_id FROM old)",
    )
    .bind(tenant)
    .bind(integration)
    .bind(by)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Remembers which accounts of a held plan a page has shown again.
///
/// INVARIANT (I6): what was seen after a plan was made is not removed by it. An account that did not change is not
/// written by its page, so the plan has to remember it.
pub(crate) async fn seen_again(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    seen: &[AccountId],
) -> Result<(), StoreError> {
    sqlx::query(
        "WITH held AS (SELECT plan_id FROM removal_plans WHERE tenant_id = $1 AND integration_id = $2 AND state = 'held'),
              back AS (UPDATE removal_plan_accounts r SET seen_at = clock_timestamp() FROM held
                       WHERE r.tenant_id = $1 AND r.plan_id = held.plan_id AND r.account_id = ANY ($3)
                         AND r.seen_at IS NULL
                       RETURNING r.plan_id)
         UPDATE removal_plans p SET accounts_back = accounts_back + b.accounts
         FROM (SELECT plan_id, count(*) AS accounts FROM back GROUP BY plan_id) b
         WHERE p.tenant_id = $1 AND p.plan_id = b.plan_id",
    )
    .bind(tenant)
    .bind(integration)
    .bind(column!(seen, a => a.uuid()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Locks a plan.
pub(crate) async fn lock(
    tx: &mut Tx,
    tenant: TenantId,
    id: RemovalPlanId,
) -> Result<Option<Plan>, StoreError> {
    let row = sqlx::query(
        "SELECT p.*, coalesce(r.cause_id, p.run_id) AS cause FROM removal_plans p LEFT JOIN runs r USING (tenant_id, run_id)
         WHERE p.tenant_id = $1 AND p.plan_id = $2 FOR UPDATE OF p",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Plan {
        id,
        integration: row.try_get("integration_id")?,
        state: row.try_get::<&str, _>("state")?.parse()?,
        reason: if row.try_get::<&str, _>("reason")? == HoldReason::Shrunk.as_str() {
            HoldReason::Shrunk
        } else {
            HoldReason::Empty
        },
        superseded_by: row.try_get("superseded_by")?,
        cause: row.try_get("cause")?,
        gone: row.try_get("accounts_gone")?,
        back: row.try_get("accounts_back")?,
    }))
}

/// Some accounts of a plan that were not seen again, after a place.
pub(crate) async fn still_missing(
    tx: &mut Tx,
    tenant: TenantId,
    plan: RemovalPlanId,
    after: Option<AccountId>,
    limit: i64,
) -> Result<Vec<AccountId>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT account_id FROM removal_plan_accounts
         WHERE tenant_id = $1 AND plan_id = $2 AND seen_at IS NULL AND ($3::uuid IS NULL OR account_id > $3)
         ORDER BY account_id LIMIT $4",
    )
    .bind(tenant)
    .bind(plan)
    .bind(after)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// Marks accounts of a plan as removed by it; returns those that were not removed already.
pub(crate) async fn remove(
    tx: &mut Tx,
    tenant: TenantId,
    plan: RemovalPlanId,
    accounts: &[AccountId],
) -> Result<Vec<AccountId>, StoreError> {
    Ok(sqlx::query_scalar(
        "WITH gone AS (
             UPDATE accounts SET removed_at = clock_timestamp(), missing_since = coalesce(missing_since, clock_timestamp()),
                 changed_at = clock_timestamp(), version = version + 1
             WHERE tenant_id = $1 AND account_id = ANY ($3) AND removed_at IS NULL
             RETURNING account_id)
         UPDATE removal_plan_accounts r SET removed_at = clock_timestamp() FROM gone
         WHERE r.tenant_id = $1 AND r.plan_id = $2 AND r.account_id = gone.account_id
         RETURNING r.account_id",
    )
    .bind(tenant)
    .bind(plan)
    .bind(column!(accounts, a => a.uuid()))
    .fetch_all(&mut **tx)
    .await?)
}

/// How a person ended a plan.
#[derive(Debug)]
pub(crate) struct Decided<'a> {
    pub state: State,
    pub by: &'a str,
    pub name: &'a str,
    pub reason: &'a str,
    pub removed: usize,
    pub gone: Gone,
}

/// Ends a held plan as a person decided.
pub(crate) async fn end(
    tx: &mut Tx,
    tenant: TenantId,
    plan: RemovalPlanId,
    decided: &Decided<'_>,
) -> Result<(), StoreError> {
    let Decided { state, by, name, reason, removed, gone } = decided;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    sqlx::query(
        "UPDATE removal_plans SET state = $3, ended_at = clock_timestamp(), decided_by = $4, decided_by_name = $5,
             decision_reason = $6, accounts_removed = $7, identities_removed = $8, identifiers_removed = $9
         WHERE tenant_id = $1 AND plan_id = $2 AND state = 'held'",
    )
    .bind(tenant)
    .bind(plan)
    .bind(state.as_str())
    .bind(by)
    .bind(name)
    .bind(reason)
    .bind(count(u64::try_from(*removed).unwrap_or(u64::MAX)))
    .bind(count(gone.identities))
    .bind(gone.identifiers)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
