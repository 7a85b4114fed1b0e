//! Sync runs and counts, as the sync worker shows them.

use serde::Deserialize;
use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, SyncRunId, TenantId},
};
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

/// A run.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Run {
    /// Id.
    pub run_id: SyncRunId,
    /// Integration.
    pub integration_id: IntegrationId,
    /// Full reconciliation.
    pub is_full: bool,
    /// Phase while it runs.
    pub phase: String,
    /// State.
    pub state: String,
    /// The run that does its work, when it joined one.
    pub joined_run_id: Option<SyncRunId>,
    /// Accounts read.
    pub accounts_seen: i64,
    /// Accounts it is going to read, if known.
    pub accounts_expected: Option<i64>,
    /// New accounts.
    pub created: i64,
    /// Changed accounts.
    pub changed: i64,
    /// Removed accounts.
    pub accounts_removed: i64,
    /// New identities.
    pub identities_created: i64,
    /// New identifiers.
    pub identifiers_created: i64,
    /// Identifiers beyond the cap.
    pub skipped_by_cap: i64,
    /// Why it is held or failed.
    pub message: String,
    /// Start.
    pub started_at: OffsetDateTime,
    /// Last progress.
    pub updated_at: OffsetDateTime,
    /// End.
    pub finished_at: Option<OffsetDateTime>,
}

macro_rules! columns {
    () => {
        "SELECT run_id, integration_id, is_full, phase, state, joined_run_id, accounts_seen, accounts_expected, created, changed,
                accounts_removed, identities_created, identifiers_created, skipped_by_cap, message, started_at, updated_at,
                finished_at
         FROM sync.sync_runs_v "
    };
}

/// A run by id; of one that joined another, the other.
pub async fn run(tx: &mut Tx, tenant: TenantId, id: SyncRunId) -> Result<Option<Run>, StoreError> {
    let mut wanted = id;
    // A joined run points at one that did not join; the bound only guards against bad data.
    for _ in 0..4 {
        let run: Option<Run> = sqlx::query_as(concat!(columns!(), "WHERE tenant_id = $1 AND run_id = $2"))
            .bind(tenant)
            .bind(wanted)
            .fetch_optional(&mut **tx)
            .await?;
        match run.as_ref().and_then(|r| r.joined_run_id) {
            Some(other) => wanted = other,
            None => return Ok(run),
        }
    }
    Ok(None)
}

/// The newest run of an integration.
pub async fn newest(tx: &mut Tx, tenant: TenantId, id: IntegrationId) -> Result<Option<Run>, StoreError> {
    Ok(sqlx::query_as(concat!(
        columns!(),
        "WHERE tenant_id = $1 AND integration_id = $2 AND state <> 'joined' ORDER BY started_at DESC LIMIT 1"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

/// How reading the directory of an integration goes.
#[derive(Clone, Debug, FromRow)]
pub struct Reading {
    /// Integration.
    pub integration_id: IntegrationId,
    /// End of the last run that read everything it was to read.
    pub last_success_at: Option<OffsetDateTime>,
    /// Start of the last full run that finished.
    pub last_full_at: Option<OffsetDateTime>,
    /// Next run.
    pub next_changes_at: OffsetDateTime,
    /// Next full run.
    pub next_full_at: OffsetDateTime,
    /// Reading fails since then.
    pub failing_since: Option<OffsetDateTime>,
    /// Why it counts as lost.
    pub lost_message: Option<String>,
    /// End of the credential.
    pub credential_expires_at: Option<OffsetDateTime>,
    /// Accounts, when they were counted.
    pub accounts: Option<i64>,
    /// Identities, likewise.
    pub identities: Option<i64>,
    /// Identifiers, likewise.
    pub identifiers: Option<i64>,
    /// Accounts that Active Directory masters, likewise.
    pub hybrid_accounts: Option<i64>,
    /// When they were counted.
    pub counted_at: Option<OffsetDateTime>,
    /// What the last look at everything found worth telling.
    pub notices: Json<Vec<Notice>>,
}

/// What a look at an integration found worth telling.
#[derive(Clone, Debug, Deserialize)]
pub struct Notice {
    /// Stable reason.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// How reading goes, per integration that was read once.
pub async fn readings(
    tx: &mut Tx,
    tenant: TenantId,
    ids: &[IntegrationId],
) -> Result<Vec<Reading>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT integration_id, last_success_at, last_full_at, next_changes_at, next_full_at, failing_since, lost_message,
                credential_expires_at, accounts, identities, identifiers, hybrid_accounts, counted_at, notices
         FROM sync.directories_v WHERE tenant_id = $1 AND integration_id = ANY ($2)",
    )
    .bind(tenant)
    .bind(ids.iter().map(|i| i.uuid()).collect::<Vec<Uuid>>())
    .fetch_all(&mut **tx)
    .await?)
}

/// Newest run, per integration.
pub async fn newest_of(tx: &mut Tx, tenant: TenantId, ids: &[IntegrationId]) -> Result<Vec<Run>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|i| i.uuid()).collect();
    Ok(sqlx::query_as(
        "SELECT DISTINCT ON (integration_id) run_id, integration_id, is_full, phase, state, joined_run_id, accounts_seen,
                accounts_expected, created, changed, accounts_removed, identities_created, identifiers_created, skipped_by_cap, message,
                started_at, updated_at, finished_at
         FROM sync.sync_runs_v WHERE tenant_id = $1 AND integration_id = ANY ($2) AND state <> 'joined'
         ORDER BY integration_id, started_at DESC",
    )
    .bind(tenant)
    .bind(&ids)
    .fetch_all(&mut **tx)
    .await?)
}

/// Accounts of an integration whose first run has not ended: they are counted one by one.
pub async fn accounts_so_far(tx: &mut Tx, tenant: TenantId, id: IntegrationId) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM sync.accounts_v WHERE tenant_id = $1 AND integration_id = $2 AND removed_at IS NULL",
    )
    .bind(tenant)
    .bind(id)
    .fetch_one(&mut **tx)
    .await?)
}
