//! The SQL of directories: how reading each goes, what it says about locks. Every transaction here is a tenant's.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, ProviderKind, SyncRunId, TenantId},
    provider::{Cursor, PasswordRules},
};
use sqlx::Row;
use time::OffsetDateTime;

use crate::store_runs::Run;

/// The state of an integration's directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub id: Option<String>,
    pub changes_cursor: Option<Cursor>,
    pub next_changes_at: OffsetDateTime,
    pub next_full_at: OffsetDateTime,
    pub failing_since: Option<OffsetDateTime>,
    pub failures: i32,
    pub lost_reason: Option<String>,
    /// The smallest number of days before the end of the credential that was warned about.
    pub expiry_warned_days: Option<i32>,
}

/// Locks an integration's directory row, making it at first sight: two workers never decide about its runs at once.
pub(crate) async fn lock_directory(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    provider: ProviderKind,
) -> Result<Directory, StoreError> {
    sqlx::query(
        "INSERT INTO directories (tenant_id, integration_id, provider) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, integration_id) DO NOTHING",
    )
    .bind(tenant)
    .bind(integration)
    .bind(provider.as_str())
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO health_checks (integration_id, tenant_id, next_check_at)
         VALUES ($1, $2, clock_timestamp() + interval '1 minute') ON CONFLICT (integration_id) DO NOTHING",
    )
    .bind(integration)
    .bind(tenant)
    .execute(&mut **tx)
    .await?;
    let row =
        sqlx::query("SELECT * FROM directories WHERE tenant_id = $1 AND integration_id = $2 FOR UPDATE")
            .bind(tenant)
            .bind(integration)
            .fetch_one(&mut **tx)
            .await?;
    Ok(Directory {
        id: row.try_get("directory_id")?,
        changes_cursor: row.try_get::<Option<String>, _>("changes_cursor")?.map(Cursor),
        next_changes_at: row.try_get("next_changes_at")?,
        next_full_at: row.try_get("next_full_at")?,
        failing_since: row.try_get("failing_since")?,
        failures: row.try_get("failures")?,
        lost_reason: row.try_get("lost_reason")?,
        expiry_warned_days: row.try_get("expiry_warned_days")?,
    })
}

/// Stores when the credential ends, and how many days before it somebody was warned.
pub(crate) async fn save_expiry(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    expires_at: Option<OffsetDateTime>,
    warned_days: Option<i32>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE directories SET credential_expires_at = $3, expiry_warned_days = $4
         WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .bind(expires_at)
    .bind(warned_days)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores what the directory says about locking accounts and about passwords.
///
/// The rules count from when this state of the policies was first seen: what applied before is not known, and a policy
/// that was deleted meanwhile shows nowhere. After a day without a look they count anew.
pub(crate) async fn save_policy(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    directory: &str,
    threshold: Option<u32>,
    rules: Option<&PasswordRules>,
) -> Result<(), StoreError> {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    sqlx::query(
        "INSERT INTO directory_policies AS p (tenant_id, integration_id, directory_id, lockout_threshold, read_at, rules_state,
             rules_since, min_length, min_lower, min_upper, min_digits, min_classes)
         VALUES ($1, $2, $3, $4, clock_timestamp(), $5, CASE WHEN $5::text IS NULL THEN NULL ELSE clock_timestamp() END,
             $6, $7, $8, $9, $10)
         ON CONFLICT (tenant_id, integration_id) DO UPDATE SET directory_id = excluded.directory_id,
             lockout_threshold = excluded.lockout_threshold, read_at = excluded.read_at, rules_state = excluded.rules_state,
             rules_since = CASE WHEN p.directory_id = excluded.directory_id AND p.rules_state = excluded.rules_state
                                 AND p.read_at > statement_timestamp() - interval '1 day'
                                THEN p.rules_since ELSE excluded.rules_since END,
             min_length = excluded.min_length, min_lower = excluded.min_lower, min_upper = excluded.min_upper,
             min_digits = excluded.min_digits, min_classes = excluded.min_classes",
    )
    .bind(tenant)
    .bind(integration)
    .bind(directory)
    .bind(threshold.map(number))
    .bind(rules.map(|r| r.state.as_str()))
    .bind(rules.map(|r| number(r.min_length)))
    .bind(rules.map(|r| number(r.min_lower)))
    .bind(rules.map(|r| number(r.min_upper)))
    .bind(rules.map(|r| number(r.min_digits)))
    .bind(rules.map(|r| number(r.min_classes)))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// When an integration is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub changes: OffsetDateTime,
    pub full: OffsetDateTime,
}

/// When the night's full run of a tenant is due after a run that ended at `ended`, so many minutes after midnight in the
/// tenant's time zone.
pub(crate) async fn next_night(
    tx: &mut Tx,
    tenant: TenantId,
    ended: OffsetDateTime,
    minute: i32,
) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar("SELECT next_night($2, time_zone, $3) FROM api.tenants_v WHERE tenant_id = $1")
        .bind(tenant)
        .bind(ended)
        .bind(minute)
        .fetch_one(&mut **tx)
        .await?)
}

/// A run read everything: remembers from where changes are read next, and when.
pub(crate) async fn succeeded(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    run: &Run,
    next: Next,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE directories SET changes_cursor = CASE WHEN $3 THEN $4 ELSE coalesce($4, changes_cursor) END,
             last_full_at = CASE WHEN $3 THEN $5 ELSE last_full_at END, last_success_at = clock_timestamp(),
             next_changes_at = $6, next_full_at = $7,
             failing_since = NULL, failures = 0, lost_reason = NULL, lost_message = NULL
         WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .bind(run.full)
    .bind(run.cursor.as_ref().map(|c| c.0.as_str()))
    .bind(run.started_at)
    .bind(next.changes)
    .bind(next.full)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Counts what came of a directory, for whoever looks; after a run, only if it changed something.
pub(crate) async fn count(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    run: Option<SyncRunId>,
) -> Result<(), StoreError> {
    if let Some(run) = run {
        let changed: bool = sqlx::query_scalar(
            "SELECT is_full OR accounts_seen + accounts_removed + identities_created + identifiers_created > 0
             FROM runs WHERE tenant_id = $1 AND run_id = $2",
        )
        .bind(tenant)
        .bind(run)
        .fetch_one(&mut **tx)
        .await?;
        if !changed {
            return Ok(());
        }
    }
    sqlx::query(
        "UPDATE directories d SET accounts = a.accounts, identities = a.identities, hybrid_accounts = a.hybrid,
             identifiers = (SELECT count(*) FROM identifiers i JOIN accounts o USING (tenant_id, account_id)
                            WHERE i.tenant_id = $1 AND o.integration_id = $2),
             counted_at = clock_timestamp()
         FROM (SELECT count(*) AS accounts, count(DISTINCT identity_id) AS identities,
                      count(*) FILTER (WHERE hybrid) AS hybrid
               FROM accounts WHERE tenant_id = $1 AND integration_id = $2 AND removed_at IS NULL) a
         WHERE d.tenant_id = $1 AND d.integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores what the last look at everything found worth telling.
pub(crate) async fn notice(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    notices: &serde_json::Value,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE directories SET notices = $3 WHERE tenant_id = $1 AND integration_id = $2")
        .bind(tenant)
        .bind(integration)
        .bind(notices)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Reading works again.
pub(crate) async fn recovered(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<(), StoreError> {
    let statement =
        "UPDATE directories SET failing_since = NULL, failures = 0, lost_reason = NULL, lost_message = NULL
         WHERE tenant_id = $1 AND integration_id = $2";
    change(tx, statement, tenant, integration).await
}

/// Reading failed; counts it, and remembers since when.
pub(crate) async fn failed_once(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<(), StoreError> {
    let statement = "UPDATE directories SET failures = failures + 1,
             failing_since = coalesce(failing_since, clock_timestamp())
         WHERE tenant_id = $1 AND integration_id = $2";
    change(tx, statement, tenant, integration).await
}

/// Reading counts as lost.
pub(crate) async fn lost(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE directories SET lost_reason = $3, lost_message = $4, failing_since = coalesce(failing_since, clock_timestamp())
         WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .bind(reason)
    .bind(message)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Sets when an integration is due again.
pub(crate) async fn schedule(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    next: Next,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE directories SET next_changes_at = $3, next_full_at = $4 WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .bind(next.changes)
    .bind(next.full)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets the directory of a deleted integration: where reading goes on, what it said about locks.
pub(crate) async fn forget_directory(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM directory_policies WHERE tenant_id = $1 AND integration_id = $2",
        "DELETE FROM directories WHERE tenant_id = $1 AND integration_id = $2",
        "DELETE FROM health_checks WHERE tenant_id = $1 AND integration_id = $2",
    ] {
        change(tx, statement, tenant, integration).await?;
    }
    Ok(())
}

/// A statement that needs to know the integration and nothing else.
async fn change(
    tx: &mut Tx,
    statement: &'static str,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<(), StoreError> {
    sqlx::query(statement).bind(tenant).bind(integration).execute(&mut **tx).await?;
    Ok(())
}
