//! Drives runs: page-sized units, each fetched with no transaction open and committed with the place to go on from.
//! A worker does so for a slice of time and puts the integration's work back in the queue, so that many directories
//! progress side by side; any replica goes on where the last one committed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use shared::{
    audit,
    db::{Db, StoreError},
    id::{CauseId, IntegrationId, SyncRunId, TenantId, WorkId},
    integration_store::{self, Integration, Package, Status},
    provider::{
        Cursor, Listing, Next as After, Page, PasswordRules, Provider, ProviderError, Within,
        directory::{ConnectError, Directories},
    },
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events,
    work,
};
use tokio_util::sync::CancellationToken;

use crate::{
    absence::Limits,
    apply::{self, Scope},
    expiry,
    request::{Request, WORK, started},
    statistics,
    step::{Step, StepError, unusable},
    store_accounts, store_directories as directories, store_identities, store_removals,
    store_runs::{self as store, Counts, End, Phase, Run},
};

/// Units of making up leeway: identifiers that waited, accounts without an identity.
const BACKLOG: i64 = 500;
/// Accounts that are committed together, where pages are smaller: two pages of Entra ID, ten of Okta.
const UNIT: usize = 2000;
/// Longest wait for one page.
const PATIENCE: Duration = Duration::from_mins(2);

/// The consumer of `sync.requested`.
#[derive(Debug)]
pub(crate) struct Sync {
    pub db: Db,
    pub directories: Arc<Directories>,
    pub limits: Limits,
    /// Time between incremental runs.
    pub every: Duration,
    /// How long a worker stays with one integration.
    pub slice: Duration,
    pub stop: CancellationToken,
}

#[async_trait]
impl Handler for Sync {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        match Request::read(&delivery.decode::<events::SyncRequested>()?)? {
            Request::Start { tenant, integration, run, full, cause } => {
                self.start(delivery, tenant, integration, run, full, cause).await
            }
            Request::Due { tenant, integration, work } => {
                self.drive(delivery, tenant, integration, work).await
            }
        }
    }
}

/// What a worker holds while it drives a run.
pub(crate) struct Job {
    pub integration: Integration,
    pub package: Package,
    pub provider: Arc<dyn Provider>,
    /// Immutable id of the directory; known once the run is prepared.
    pub directory: Option<String>,
    changes_cursor: Option<Cursor>,
    /// Reading failed before; the next page says that it works again.
    failing: AtomicBool,
}

impl Job {
    pub fn scope<'a>(&'a self, run: &Run, directory: &'a str) -> Scope<'a> {
        Scope {
            integration: &self.integration,
            package: &self.package,
            directory,
            run: run.id,
            cause: run.cause,
            cap_reported: run.cap_reported,
        }
    }
}

impl Sync {
    async fn drive(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        integration: IntegrationId,
        work: WorkId,
    ) -> Result<Outcome, HandlerError> {
        let deadline = Instant::now() + self.slice;
        let (mut job, mut run) = match self.open(delivery, tenant, integration, work).await? {
            Opened::Run(job, run) => (*job, run),
            Opened::Unusable(unusable) => {
                let (integration, run, error) = *unusable;
                let wait = self.failed(&integration, &run, error).await?;
                return self.settle(delivery, &integration, work, wait).await;
            }
            Opened::Nothing => return Ok(Outcome::Done),
        };
        loop {
            if Instant::now() >= deadline || self.stop.is_cancelled() {
                return self.settle(delivery, &job.integration, work, None).await;
            }
            let full = run.full;
            let step = match run.phase {
                Phase::Preparing => self.prepare(&mut job, run.clone()).await,
                Phase::Reading => self.read(&job, run.clone(), deadline).await,
                Phase::Reconciling => self.reconcile(&job, &run).await.map_err(StepError::Store),
            };
            run = match step {
                Ok(Step::On(run)) => run,
                Ok(Step::Failed(run, error)) => {
                    let wait = self.failed(&job.integration, &run, error).await?;
                    return self.settle(delivery, &job.integration, work, wait).await;
                }
                Ok(Step::Ended) => {
                    // Plans foresee with what this reads; execution reads for itself.
                    if let Err(error) = self.refresh_members(&job, full).await {
                        tracing::warn!(integration.id = %integration, %error, "protected members were not stored");
                    }
                    return self.settle(delivery, &job.integration, work, None).await;
                }
                // By another worker, which goes on; or by the last commit of one that died, whose run goes on only if
                // the work is put back here. Two workers on one run cost a page that is fetched twice.
                Ok(Step::Overtaken) => {
                    return self.settle(delivery, &job.integration, work, Some(self.slice)).await;
                }
                Err(StepError::Store(error)) => return Err(error.into()),
                Err(StepError::Provider(error)) => {
                    let wait = self.failed(&job.integration, &run, error).await?;
                    return self.settle(delivery, &job.integration, work, wait).await;
                }
            };
        }
    }

    // Finds the run to go on with, or starts the one that is due.
    async fn open(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        id: IntegrationId,
        work: WorkId,
    ) -> Result<Opened, HandlerError> {
        let mut tx = self.db.tenant(tenant).await?;
        let entitled = integration_store::entitled(&mut tx, id).await?;
        let running = store::running(&mut tx, tenant, id).await?;
        // Who disables stops new work: a run that goes on may end.
        let may_end = running.is_some() && integration_store::disabled_by_person(&mut tx, id).await?;
        let usable = entitled.filter(|(i, _)| i.status != Status::Disabled || may_end);
        let Some((integration, package)) = usable else {
            if let Some(run) = running {
                store::end(&mut tx, tenant, run.id, End::Failed, "the integration was disabled or deleted")
                    .await?;
            }
            work::cancel(&mut tx, tenant, WORK, &[id.uuid()]).await?;
            delivery.done(&mut tx).await?;
            tx.commit().await?;
            return Ok(Opened::Nothing);
        };
        let directory = directories::lock_directory(&mut tx, tenant, id, integration.provider).await?;
        if running.is_none() {
            let now = tx.clock().await?;
            let changes = directory.next_changes_at <= now;
            let full = directory.next_full_at <= now || (changes && directory.changes_cursor.is_none());
            if !full && !changes {
                tx.rollback().await?;
                self.settle(delivery, &integration, work, None).await?;
                return Ok(Opened::Nothing);
            }
            let run = SyncRunId::new();
            let cause = CauseId(run.uuid());
            store::start(&mut tx, tenant, id, run, full, cause).await?;
            audit::record(&mut tx, &started(&integration, run, full, cause)).await?;
        }
        let run = store::running(&mut tx, tenant, id)
            .await?
            .ok_or(StoreError::Stale("the run that was just started is gone"))?;
        let provider = match self.directories.connect(&mut tx, &integration).await {
            Ok(provider) => provider,
            Err(ConnectError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tx.commit().await?;
                return Ok(Opened::Unusable(Box::new((integration, run, unusable(error)))));
            }
        };
        tx.commit().await?;
        let failing = directory.failures > 0 || directory.lost_reason.is_some();
        let job = Job {
            integration,
            package,
            provider,
            directory: directory.id,
            changes_cursor: directory.changes_cursor,
            failing: AtomicBool::new(failing),
        };
        Ok(Opened::Run(Box::new(job), run))
    }

    // The first unit asks the directory who it is and how it locks accounts; the following ones make up leeway.
    async fn prepare(&self, job: &mut Job, run: Run) -> Result<Step, StepError> {
        if run.pages == 0 {
            return self.introduce(job, run).await;
        }
        let (tenant, integration) = (job.integration.tenant, job.integration.id);
        let directory = job.directory.as_deref().unwrap_or_default();
        let scope = job.scope(&run, directory);
        let mut tx = self.db.tenant(tenant).await?;
        if !store::lock(&mut tx, tenant, &run).await? {
            tx.rollback().await?;
            return Ok(Step::Overtaken);
        }
        let mut counts = Counts::default();
        let mut cap_reached = false;
        if scope.creates_identities() {
            counts = apply::make_skipped(&mut tx, &scope, BACKLOG).await?;
            let lacking = store_accounts::without_identity(&mut tx, tenant, integration, BACKLOG).await?;
            if !lacking.is_empty() {
                let applied = apply::page(&mut tx, &scope, lacking, &Within::All).await?;
                cap_reached = applied.cap_reached;
                counts.identities += applied.counts.identities;
                counts.identifiers += applied.counts.identifiers;
                counts.skipped += applied.counts.skipped;
            }
        }
        let (phase, cursor) = if counts == Counts::default() {
            (Phase::Reading, if run.full { None } else { job.changes_cursor.clone() })
        } else {
            (Phase::Preparing, None)
        };
        store::advance(&mut tx, tenant, &run, counts, phase, cursor.as_ref(), cap_reached).await?;
        tx.commit().await?;
        Ok(Step::On(moved(&run, counts, phase, cursor, cap_reached)))
    }

    async fn introduce(&self, job: &mut Job, run: Run) -> Result<Step, StepError> {
        let (tenant, integration) = (job.integration.tenant, job.integration.id);
        let directory = job.provider.directory_id().await?;
        // Unknown is a value of its own: the validator then assumes a threshold. A fault leaves what was read before.
        let policy = match policy(&*job.provider).await {
            Ok(policy) => Some(policy),
            Err(ProviderError::Refused(_)) => Some((None, None)),
            Err(error) => {
                tracing::info!(integration = %integration, %error, "password policies not read");
                None
            }
        };
        // Once a night will do; what may not be read stays unknown.
        let expiry = if run.full { job.provider.credential_expiry().await.ok() } else { None };
        // For people who watch: a directory that does not tell keeps nobody from reading it.
        let counted = if run.full { job.provider.count().await.unwrap_or_default() } else { None };
        let mut tx = self.db.tenant(tenant).await?;
        let before =
            directories::lock_directory(&mut tx, tenant, integration, job.integration.provider).await?;
        if !store::lock(&mut tx, tenant, &run).await? {
            tx.rollback().await?;
            return Ok(Step::Overtaken);
        }
        if let Some(expiry) = expiry {
            let scope = job.scope(&run, &directory);
            expiry::note(&mut tx, &scope, expiry, before.expiry_warned_days).await?;
        }
        let skipped = store_identities::count_skipped(&mut tx, tenant, integration).await?;
        store::prepared(&mut tx, tenant, integration, run.id, &directory, skipped, counted).await?;
        if let Some((threshold, rules)) = policy {
            let rules = rules.as_ref();
            directories::save_policy(&mut tx, tenant, integration, &directory, threshold, rules).await?;
        }
        store::advance(&mut tx, tenant, &run, Counts::default(), Phase::Preparing, None, false).await?;
        tx.commit().await?;
        job.directory = Some(directory);
        let run = Run { skipped, ..run };
        Ok(Step::On(moved(&run, Counts::default(), Phase::Preparing, None, false)))
    }

    // Units, one after the other: the next one is fetched while this one is committed.
    //
    // INVARIANT (I11): at most two units are in memory, each a page or at most UNIT accounts.
    async fn read(&self, job: &Job, mut run: Run, deadline: Instant) -> Result<Step, StepError> {
        let listing = if run.full { Listing::Full } else { Listing::Changes };
        let mut page = fetch(job, listing, run.cursor.as_ref()).await?;
        loop {
            let following = match &page.next {
                After::Page(cursor) if Instant::now() < deadline && !self.stop.is_cancelled() => {
                    Some(cursor.clone())
                }
                After::Page(_) | After::End(_) => None,
            };
            let Some(cursor) = following else {
                return Ok(self.commit(job, run, page).await?.map_or(Step::Overtaken, Step::On));
            };
            let committed = AtomicBool::new(false);
            let commit = async {
                let moved = self.commit(job, run, page).await;
                committed.store(true, Ordering::Relaxed);
                moved
            };
            let (moved, ahead) = tokio::join!(commit, fetch_ahead(job, listing, &cursor, &committed));
            match moved? {
                Some(moved) => run = moved,
                None => return Ok(Step::Overtaken),
            }
            page = match ahead {
                Ok((unit, None)) => unit,
                Ok((unit, Some(error))) => {
                    let moved = self.commit(job, run, unit).await?;
                    return Ok(moved.map_or(Step::Overtaken, |run| Step::Failed(run, error)));
                }
                Err(error) => return Ok(Step::Failed(run, error)),
            };
        }
    }

    async fn commit(&self, job: &Job, run: Run, page: Page) -> Result<Option<Run>, StoreError> {
        let (tenant, integration) = (job.integration.tenant, job.integration.id);
        let directory = job.directory.as_deref().unwrap_or_default();
        let scope = job.scope(&run, directory);
        let mut tx = self.db.tenant(tenant).await?;
        let failing = job.failing.load(Ordering::Relaxed);
        if failing {
            let before =
                directories::lock_directory(&mut tx, tenant, integration, job.integration.provider).await?;
            directories::recovered(&mut tx, tenant, integration).await?;
            if before.lost_reason.is_some() {
                self.observe(&mut tx, &job.integration, Some(directory), Ok(()), None).await?;
            }
        }
        if !store::lock(&mut tx, tenant, &run).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let applied = apply::page(&mut tx, &scope, page.accounts, &page.within).await?;
        if !applied.within.is_empty() {
            store_removals::seen_again(&mut tx, tenant, integration, &applied.within).await?;
        }
        if run.full {
            store::remember_page(&mut tx, tenant, &run, &applied.seen).await?;
        }
        let (phase, cursor) = match page.next {
            After::Page(cursor) => (Phase::Reading, Some(cursor)),
            After::End(cursor) => (Phase::Reconciling, cursor),
        };
        store::advance(&mut tx, tenant, &run, applied.counts, phase, cursor.as_ref(), applied.cap_reached)
            .await?;
        tx.commit().await?;
        job.failing.store(false, Ordering::Relaxed);
        metrics::counter!("parapet_sync_accounts_total").increment(applied.counts.seen.unsigned_abs());
        let moved = moved(&run, applied.counts, phase, cursor, applied.cap_reached);
        // The page is committed: what only makes the next ones cheaper must not fail it.
        if statistics::due(run.created, moved.created)
            && let Err(error) = statistics::refresh(&self.db).await
        {
            tracing::warn!(%error, "the planner's statistics are as they were; this sync may be slow");
        }
        Ok(Some(moved))
    }

    // Puts the integration's work back: at once while its run is going on, else when it is due again.
    async fn settle(
        &self,
        delivery: &Delivery,
        integration: &Integration,
        work: WorkId,
        wait: Option<Duration>,
    ) -> Result<Outcome, HandlerError> {
        let tenant = integration.tenant;
        let mut tx = self.db.tenant(tenant).await?;
        if !delivery.done(&mut tx).await? {
            tx.rollback().await?;
            return Ok(Outcome::Done);
        }
        let directory =
            directories::lock_directory(&mut tx, tenant, integration.id, integration.provider).await?;
        let now = tx.clock().await?;
        let (until, reason) = match (store::running(&mut tx, tenant, integration.id).await?, wait) {
            (Some(_), Some(wait)) => (now + wait, "the run goes on after a pause"),
            (Some(_), None) => (now, "the run goes on"),
            (None, _) => {
                (directory.next_changes_at.min(directory.next_full_at), "until the next sync is due")
            }
        };
        work::postpone(&mut tx, work, until, reason).await?;
        tx.commit().await?;
        Ok(Outcome::Done)
    }
}

enum Opened {
    Run(Box<Job>, Run),
    /// The provider behind the integration cannot be built.
    Unusable(Box<(Integration, Run, ProviderError)>),
    Nothing,
}

async fn fetch(job: &Job, listing: Listing, from: Option<&Cursor>) -> Result<Page, ProviderError> {
    tokio::time::timeout(PATIENCE, job.provider.accounts(listing, from))
        .await
        .unwrap_or(Err(ProviderError::Lost("the page did not arrive in time")))
}

async fn policy(provider: &dyn Provider) -> Result<(Option<u32>, Option<PasswordRules>), ProviderError> {
    Ok((provider.lockout_policy().await?.threshold, provider.password_rules().await?))
}

// Fetches what is committed next: pages, as long as the commit under way takes, and no more than a unit. So small pages
// cost few commits, and those of a slow directory are committed one by one. An error comes with what arrived before it.
async fn fetch_ahead(
    job: &Job,
    listing: Listing,
    from: &Cursor,
    committed: &AtomicBool,
) -> Result<(Page, Option<ProviderError>), ProviderError> {
    let mut unit = fetch(job, listing, Some(from)).await?;
    let mut size = unit.accounts.len();
    while let After::Page(next) = &unit.next
        && unit.accounts.len() + size <= UNIT
        && !committed.load(Ordering::Relaxed)
    {
        let page = match fetch(job, listing, Some(next)).await {
            Ok(page) => page,
            Err(error) => return Ok((unit, Some(error))),
        };
        size = page.accounts.len();
        unit.append(page);
    }
    Ok((unit, None))
}

// Where a run stands after a unit, without asking the database again.
fn moved(run: &Run, counts: Counts, phase: Phase, cursor: Option<Cursor>, cap_reached: bool) -> Run {
    Run {
        phase,
        cursor,
        pages: run.pages + 1,
        seen: run.seen + counts.seen,
        created: run.created + counts.created,
        skipped: (run.skipped + counts.skipped).max(0),
        cap_reported: run.cap_reported || cap_reached,
        ..run.clone()
    }
}
