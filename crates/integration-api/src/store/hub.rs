//! What waits and what was done of integrations, through the owners' views.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, TenantId},
};
use sqlx::FromRow;
use uuid::Uuid;

/// What the hub tells of an integration besides how reading goes.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Activity {
    /// Integration.
    pub integration_id: IntegrationId,
    /// Attempts since midnight in the tenant's time zone.
    pub attempts_today: i64,
    /// Exposures with a deferred verdict.
    pub deferred: i64,
    /// Open approvals of mitigations, and removals that are held.
    pub approvals: i64,
}

/// What waits and what was done, one row for each of these integrations. Reads one index entry for each of today's attempts
/// of the tenant and for each thing that waits.
pub async fn activity(
    tx: &mut Tx,
    tenant: TenantId,
    ids: &[IntegrationId],
) -> Result<Vec<Activity>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|i| i.uuid()).collect();
    Ok(sqlx::query_as(
        "WITH midnight AS (
             SELECT date_trunc('day', statement_timestamp() AT TIME ZONE time_zone) AT TIME ZONE time_zone AS at
             FROM tenants WHERE tenant_id = $1),
         attempts AS (SELECT * FROM validator.attempts_by_integration((SELECT at FROM midnight))),
         deferred AS (
             SELECT integration_id, count(*) AS n FROM validator.exposures_v
             WHERE tenant_id = $1 AND integration_id = ANY ($2) AND verdict = 'deferred' GROUP BY integration_id),
         waiting AS (
             SELECT integration_id, count(*) AS n FROM (
                 SELECT integration_id FROM mitigation.approvals_v
                 WHERE tenant_id = $1 AND state = 'open' AND integration_id = ANY ($2)
                 UNION ALL
                 SELECT integration_id FROM sync.removal_plans_v
                 WHERE tenant_id = $1 AND state = 'held' AND integration_id = ANY ($2)) w
             GROUP BY integration_id)
         SELECT i.integration_id, coalesce(a.attempts, 0) AS attempts_today, coalesce(d.n, 0) AS deferred,
                coalesce(w.n, 0) AS approvals
         FROM unnest($2) AS i (integration_id)
         LEFT JOIN attempts a USING (integration_id) LEFT JOIN deferred d USING (integration_id)
         LEFT JOIN waiting w USING (integration_id)",
    )
    .bind(tenant)
    .bind(ids)
    .fetch_all(&mut **tx)
    .await?)
}

/// Whether a service has stopped something of an integration by itself and has not gone on yet: the validator, the
/// executor.
pub async fn stopped(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    directory: Option<&str>,
) -> Result<(bool, bool), StoreError> {
    Ok(sqlx::query_as(
        "SELECT EXISTS (SELECT FROM validator.pauses_v
                        WHERE tenant_id = $1 AND directory_id = $3 AND (until IS NULL OR until > statement_timestamp())),
                EXISTS (SELECT FROM mitigation.pauses_v
                        WHERE tenant_id = $1 AND integration_id = $2 AND (until IS NULL OR until > statement_timestamp()))",
    )
    .bind(tenant)
    .bind(id)
    .bind(directory)
    .fetch_one(&mut **tx)
    .await?)
}
