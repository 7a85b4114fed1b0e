//! The SQL of sync runs. Every transaction here is a tenant's.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, CauseId, IntegrationId, SyncRunId, TenantId},
    provider::Cursor,
};
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Policy and directory are read, what waited for a higher cap is made.
    Preparing,
    /// Pages are read.
    Reading,
    /// Every page was read; what was in none of them is looked at, and the run ends.
    Reconciling,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Reading => "reading",
            Self::Reconciling => "reconciling",
        }
    }
}

/// A run that is going on.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub id: SyncRunId,
    pub full: bool,
    pub phase: Phase,
    pub cursor: Option<Cursor>,
    pub pages: i64,
    pub restarts: i32,
    pub cause: CauseId,
    pub cap_reported: bool,
    pub seen: i64,
    pub created: i64,
    /// Identifiers of the integration that wait for a higher cap.
    pub skipped: i64,
    pub started_at: OffsetDateTime,
}

/// What a page did, to be added to its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub seen: i64,
    pub created: i64,
    pub changed: i64,
    pub missing: i64,
    pub removed: i64,
    pub identities: i64,
    pub identifiers: i64,
    pub skipped: i64,
}

/// The run of an integration that is going on.
pub(crate) async fn running(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<Option<Run>, StoreError> {
    sqlx::query("SELECT * FROM runs WHERE tenant_id = $1 AND integration_id = $2 AND state = 'running'")
        .bind(tenant)
        .bind(integration)
        .fetch_optional(&mut **tx)
        .await?
        .map(|row| run(&row))
        .transpose()
}

/// Locks a run if it still stands where the caller left it.
///
/// INVARIANT: a page is counted once. Of two workers on one run, the slower one finds it moved on and gives up.
pub(crate) async fn lock(tx: &mut Tx, tenant: TenantId, at: &Run) -> Result<bool, StoreError> {
    Ok(sqlx::query(
        "SELECT FROM runs WHERE tenant_id = $1 AND run_id = $2 AND pages = $3 AND restarts = $4 AND state = 'running' FOR UPDATE",
    )
    .bind(tenant)
    .bind(at.id)
    .bind(at.pages)
    .bind(at.restarts)
    .fetch_optional(&mut **tx)
    .await?
    .is_some())
}

fn run(row: &PgRow) -> Result<Run, StoreError> {
    Ok(Run {
        id: row.try_get("run_id")?,
        full: row.try_get("is_full")?,
        phase: match row.try_get("phase")? {
            "preparing" => Phase::Preparing,
            "reading" => Phase::Reading,
            _ => Phase::Reconciling,
        },
        cursor: row.try_get::<Option<String>, _>("cursor")?.map(Cursor),
        pages: row.try_get("pages")?,
        restarts: row.try_get("restarts")?,
        cause: row.try_get("cause_id")?,
        cap_reported: row.try_get("cap_reported")?,
        seen: row.try_get("accounts_seen")?,
        created: row.try_get("accounts_created")?,
        skipped: row.try_get("skipped_by_cap")?,
        started_at: row.try_get("started_at")?,
    })
}

/// Whether a run with this id was ever asked for.
pub(crate) async fn exists(tx: &mut Tx, tenant: TenantId, id: SyncRunId) -> Result<bool, StoreError> {
    Ok(sqlx::query("SELECT FROM runs WHERE tenant_id = $1 AND run_id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?
        .is_some())
}

/// Starts a run. The caller holds the directory's lock and knows that none is going on.
pub(crate) async fn start(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    id: SyncRunId,
    full: bool,
    cause: CauseId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO runs (tenant_id, run_id, integration_id, is_full, cause_id, state, phase)
         VALUES ($1, $2, $3, $4, $5, 'running', 'preparing')",
    )
    .bind(tenant)
    .bind(id)
    .bind(integration)
    .bind(full)
    .bind(cause)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Records a request that another run answers, or that cannot be answered.
pub(crate) async fn record_ended(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    id: SyncRunId,
    full: bool,
    cause: CauseId,
    joined: Result<SyncRunId, &str>,
) -> Result<(), StoreError> {
    let (state, into, message) = match joined {
        Ok(into) => ("joined", Some(into), ""),
        Err(message) => ("failed", None, message),
    };
    sqlx::query(
        "INSERT INTO runs (tenant_id, run_id, integration_id, is_full, cause_id, state, phase, joined_run_id, message, finished_at)
         VALUES ($1, $2, $3, $4, $5, $6, 'ended', $7, $8, clock_timestamp())",
    )
    .bind(tenant)
    .bind(id)
    .bind(integration)
    .bind(full)
    .bind(cause)
    .bind(state)
    .bind(into)
    .bind(message)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Hands a run's work over to another.
pub(crate) async fn join(
    tx: &mut Tx,
    tenant: TenantId,
    run: SyncRunId,
    into: SyncRunId,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE runs SET state = 'joined', phase = 'ended', joined_run_id = $3, finished_at = clock_timestamp(),
             updated_at = clock_timestamp()
         WHERE tenant_id = $1 AND run_id = $2 AND state = 'running'",
    )
    .bind(tenant)
    .bind(run)
    .bind(into)
    .execute(&mut **tx)
    .await?;
    forget_pages(tx, tenant, run).await
}

/// Moves a locked run on: adds what was done, remembers where to go on. The caller's copy moves along.
pub(crate) async fn advance(
    tx: &mut Tx,
    tenant: TenantId,
    run: &Run,
    counts: Counts,
    phase: Phase,
    cursor: Option<&Cursor>,
    cap_reported: bool,
) -> Result<(), StoreError> {
    let Counts { seen, created, changed, missing, removed, identities, identifiers, skipped } = counts;
    sqlx::query(
        "UPDATE runs SET pages = pages + 1, phase = $3, cursor = $4, accounts_seen = accounts_seen + $5,
             accounts_created = accounts_created + $6, accounts_changed = accounts_changed + $7,
             accounts_missing = accounts_missing + $8, accounts_removed = accounts_removed + $9,
             identities_created = identities_created + $10, identifiers_created = identifiers_created + $11,
             skipped_by_cap = greatest(skipped_by_cap + $12, 0), cap_reported = cap_reported OR $13, message = '',
             updated_at = clock_timestamp()
         WHERE tenant_id = $1 AND run_id = $2",
    )
    .bind(tenant)
    .bind(run.id)
    .bind(phase.as_str())
    .bind(cursor.map(|c| c.0.as_str()))
    .bind(seen)
    .bind(created)
    .bind(changed)
    .bind(missing)
    .bind(removed)
    .bind(identities)
    .bind(identifiers)
    .bind(skipped)
    .bind(cap_reported)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The listing begins again, as a full one: its cursor has expired.
pub(crate) async fn restart(tx: &mut Tx, tenant: TenantId, run: &Run) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE runs SET is_full = true, phase = 'reading', cursor = NULL, restarts = restarts + 1, accounts_seen = 0,
             updated_at = clock_timestamp()
         WHERE tenant_id = $1 AND run_id = $2",
    )
    .bind(tenant)
    .bind(run.id)
    .execute(&mut **tx)
    .await?;
    forget_pages(tx, tenant, run.id).await
}

/// Says why a run waits.
pub(crate) async fn explain(
    tx: &mut Tx,
    tenant: TenantId,
    run: SyncRunId,
    message: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE runs SET message = $3, updated_at = clock_timestamp() WHERE tenant_id = $1 AND run_id = $2",
    )
    .bind(tenant)
    .bind(run)
    .bind(message)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Held,
    Failed,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// Ends a run.
pub(crate) async fn end(
    tx: &mut Tx,
    tenant: TenantId,
    run: SyncRunId,
    end: End,
    message: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE runs SET state = $3, phase = 'ended', message = $4, finished_at = clock_timestamp(), updated_at = clock_timestamp()
         WHERE tenant_id = $1 AND run_id = $2 AND state = 'running'",
    )
    .bind(tenant)
    .bind(run)
    .bind(end.as_str())
    .bind(message)
    .execute(&mut **tx)
    .await?;
    forget_pages(tx, tenant, run).await
}

async fn forget_pages(tx: &mut Tx, tenant: TenantId, run: SyncRunId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM run_pages WHERE tenant_id = $1 AND run_id = $2")
        .bind(tenant)
        .bind(run)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Remembers which accounts a page of a full run held.
pub(crate) async fn remember_page(
    tx: &mut Tx,
    tenant: TenantId,
    run: &Run,
    accounts: &[AccountId],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO run_pages (tenant_id, run_id, page, accounts) VALUES ($1, $2, $3, $4)")
        .bind(tenant)
        .bind(run.id)
        .bind(run.pages)
        .bind(accounts.iter().map(|a| a.uuid()).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Remembers which directory answered, how many identifiers wait at the start of the run, and how many accounts a full
/// run is going to read: as many as the directory says, or as many as the last full run read.
pub(crate) async fn prepared(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    run: SyncRunId,
    directory: &str,
    skipped: i64,
    counted: Option<i64>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE directories SET directory_id = $3 WHERE tenant_id = $1 AND integration_id = $2")
        .bind(tenant)
        .bind(integration)
        .bind(directory)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "UPDATE runs SET skipped_by_cap = $4, accounts_expected = CASE WHEN is_full THEN coalesce($5, (
             SELECT accounts_seen FROM runs l WHERE l.tenant_id = $1 AND l.integration_id = $3 AND l.is_full
                 AND l.state IN ('finished', 'held') ORDER BY l.started_at DESC LIMIT 1)) END
         WHERE tenant_id = $1 AND run_id = $2",
    )
    .bind(tenant)
    .bind(run)
    .bind(integration)
    .bind(skipped)
    .bind(counted)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
