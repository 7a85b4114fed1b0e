//! How runs end, and what becomes of one that cannot read: what was absent, what is due next, and what integration-api
//! is told.

use std::time::Duration;

use shared::{
    audit::{self, Outcome, names},
    db::{StoreError, Tx},
    integration_store::{self, Integration},
    outbox::{self, Topic},
    provider::{Capability, ProviderError, Retry},
    wire::events,
};
use time::OffsetDateTime;

use crate::{
    NAME,
    absence::{HoldReason, brake},
    apply::{self, Scope},
    drive::{Job, Sync},
    removals::{self, Gone},
    schedule,
    step::Step,
    store_accounts::{self, Absent},
    store_directories::{self as directories, Directory, Next},
    store_removals,
    store_runs::{self as store, Counts, End, Phase, Run},
};

/// Reading counts as lost when it has failed for so long.
const LOST_AFTER: time::Duration = time::Duration::minutes(4);
/// A listing that expires again and again does not end by itself.
const MAX_RESTARTS: i32 = 3;

impl Sync {
    /// The last unit: judges absence, ends the run, says when the next one is due. One transaction.
    pub(crate) async fn reconcile(&self, job: &Job, run: &Run) -> Result<Step, StoreError> {
        let integration = &job.integration;
        let tenant = integration.tenant;
        let name = job.directory.as_deref().unwrap_or_default();
        let scope = job.scope(run, name);
        let mut tx = self.db.tenant(tenant).await?;
        let directory =
            directories::lock_directory(&mut tx, tenant, integration.id, integration.provider).await?;
        if !store::lock(&mut tx, tenant, run).await? {
            tx.rollback().await?;
            return Ok(Step::Overtaken);
        }
        // The scope was changed under a run that lists the old one: whoever is new in it would be missed until the
        // next full run, and nobody may count as absent by the old one.
        let current = integration_store::integration(&mut tx, integration.id).await?;
        if run.full && current.is_some_and(|c| c.settings.scope != integration.settings.scope) {
            tx.rollback().await?;
            return Ok(Step::Failed(run.clone(), ProviderError::CursorExpired));
        }
        let (held, absent) = if run.full { self.judge(&mut tx, &scope, run).await? } else { (None, None) };
        let next = self.next(&mut tx, integration, &directory, run).await?;
        match held {
            Some(HoldReason::Empty) => self.end_empty(&mut tx, &scope, &directory).await?,
            Some(HoldReason::Shrunk) => {
                let gone = absent.map_or(0, |a| a.newly + a.confirmed);
                let known = absent.map_or(0, |a| a.known);
                let message = format!(
                    "{gone} of {known} accounts were not found, more than is believed without a person; their removal is held"
                );
                store::end(&mut tx, tenant, run.id, End::Held, &message).await?;
                directories::succeeded(&mut tx, tenant, integration.id, run, next).await?;
                directories::count(&mut tx, tenant, integration.id, Some(run.id)).await?;
                let event = scope.event(names::SYNC_HELD, Outcome::Refused, message.as_str());
                audit::record(&mut tx, &event.detail("accounts_known", known).detail("accounts_gone", gone))
                    .await?;
                let ended = ended(run, Err(&message));
                self.observe(&mut tx, integration, Some(name), Ok(()), Some(ended)).await?;
            }
            None => {
                store::end(&mut tx, tenant, run.id, End::Finished, &beyond_cap(&scope, run.skipped)).await?;
                directories::succeeded(&mut tx, tenant, integration.id, run, next).await?;
                directories::count(&mut tx, tenant, integration.id, Some(run.id)).await?;
                let event =
                    scope.event(names::SYNC_FINISHED, Outcome::Success, "the accounts are up to date");
                let event = event.detail("accounts_seen", run.seen).detail("full", run.full);
                audit::record(&mut tx, &event).await?;
                self.observe(&mut tx, integration, Some(name), Ok(()), Some(ended(run, Ok(())))).await?;
            }
        }
        tx.commit().await?;
        Ok(Step::Ended)
    }

    // What a full run did not find: held as a plan, or marked and, at the second time, removed.
    async fn judge(
        &self,
        tx: &mut Tx,
        scope: &Scope<'_>,
        run: &Run,
    ) -> Result<(Option<HoldReason>, Option<Absent>), StoreError> {
        let (tenant, integration) = (scope.integration.tenant, scope.integration.id);
        store_accounts::lock_usage(tx, tenant).await?;
        store_accounts::expect_many(tx).await?;
        let absent = store_accounts::count_absent(tx, tenant, integration, run.id).await?;
        let held = brake(absent, run.seen, self.limits);
        if let Some(reason) = held {
            removals::hold(tx, scope, reason, absent).await?;
            return Ok((held, Some(absent)));
        }
        store_removals::supersede(tx, tenant, integration, Some(run.id)).await?;
        if absent.newly + absent.confirmed == 0 {
            return Ok((None, Some(absent)));
        }
        let (missing, removed) = store_accounts::apply_absence(tx, tenant, integration, run.id).await?;
        apply::accounts_changed(tx, scope, &missing).await?;
        if !removed.is_empty() {
            let Gone { identities, identifiers } =
                removals::let_go(tx, tenant, scope.cause, &removed).await?;
            let event = scope
                .event(
                    names::ACCOUNTS_REMOVED,
                    Outcome::Success,
                    "accounts that two full runs did not find were removed",
                )
                .detail("accounts", removed.len())
                .detail("identities", identities)
                .detail("identifiers", identifiers);
            audit::record(tx, &event).await?;
        }
        let length = |list: &[_]| i64::try_from(list.len()).unwrap_or(i64::MAX);
        let counts = Counts { missing: length(&missing), removed: length(&removed), ..Counts::default() };
        store::advance(tx, tenant, run, counts, Phase::Reconciling, run.cursor.as_ref(), false).await?;
        Ok((None, Some(absent)))
    }

    async fn next(
        &self,
        tx: &mut Tx,
        integration: &Integration,
        directory: &Directory,
        run: &Run,
    ) -> Result<Next, StoreError> {
        let now = tx.clock().await?;
        let lists_changes = run.cursor.is_some() || (!run.full && directory.changes_cursor.is_some());
        let minute = schedule::minute(integration.id);
        let night = directories::next_night(tx, integration.tenant, now, minute).await?;
        let next = schedule::after(now, night, self.every, run.full, directory.next_full_at, lists_changes);
        Ok(if integration.settings.scope.is_whole() { next } else { schedule::scoped(now, next) })
    }

    // INVARIANT (I6): an empty answer after a non-empty one is an error. The next run is a full one again, so that
    // an empty list of changes cannot pass for a recovery.
    async fn end_empty(
        &self,
        tx: &mut Tx,
        scope: &Scope<'_>,
        directory: &Directory,
    ) -> Result<(), StoreError> {
        let (tenant, integration) = (scope.integration.tenant, scope.integration);
        let message =
            "the directory answered with no accounts at all; check that the application may still read them";
        let now = tx.clock().await?;
        store::end(tx, tenant, scope.run, End::Failed, message).await?;
        directories::lost(tx, tenant, integration.id, "directory_empty", message).await?;
        let again = now + self.every;
        directories::schedule(tx, tenant, integration.id, Next { changes: again, full: again }).await?;
        audit::record(tx, &scope.event(names::SYNC_FAILED, Outcome::Failure, message)).await?;
        let ended = events::SyncEnded {
            run_id: scope.run.to_string(),
            succeeded: false,
            message: message.to_owned(),
        };
        let lost = Err(("directory_empty", message));
        self.observe(tx, integration, directory.id.as_deref(), lost, Some(ended)).await
    }

    /// Deals with a directory that could not be read; returns how long its work waits, if its run goes on.
    pub(crate) async fn failed(
        &self,
        integration: &Integration,
        run: &Run,
        error: ProviderError,
    ) -> Result<Option<Duration>, StoreError> {
        if let ProviderError::Paced { wait } = error {
            return Ok(Some(wait)); // nothing failed: there is more to come when our share allows it
        }
        let tenant = integration.tenant;
        let mut tx = self.db.tenant(tenant).await?;
        let directory =
            directories::lock_directory(&mut tx, tenant, integration.id, integration.provider).await?;
        if !store::lock(&mut tx, tenant, run).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        tracing::warn!(%tenant, integration = %integration.id, run = %run.id, %error, "directory not read");
        metrics::counter!("parapet_sync_failures_total").increment(1);
        let wait = match error.retry(schedule::backoff(directory.failures)) {
            Retry::Restart if run.restarts < MAX_RESTARTS => {
                store::restart(&mut tx, tenant, run).await?;
                None
            }
            Retry::After(wait) => {
                directories::failed_once(&mut tx, tenant, integration.id).await?;
                store::explain(&mut tx, tenant, run.id, &error.to_string()).await?;
                let now = tx.clock().await?;
                let long = directory.failing_since.is_some_and(|since| now - since >= LOST_AFTER);
                if long && directory.lost_reason.is_none() {
                    let lost = ("unreachable", error.to_string());
                    directories::lost(&mut tx, tenant, integration.id, lost.0, &lost.1).await?;
                    let id = directory.id.as_deref();
                    self.observe(&mut tx, integration, id, Err((lost.0, &lost.1)), None).await?;
                }
                Some(wait)
            }
            Retry::Restart | Retry::Never => {
                self.give_up(&mut tx, integration, &directory, run, &error).await?;
                None
            }
        };
        tx.commit().await?;
        Ok(wait)
    }

    // A person has to change something; meanwhile it is tried again at the usual time, and recovers by itself.
    async fn give_up(
        &self,
        tx: &mut Tx,
        integration: &Integration,
        directory: &Directory,
        run: &Run,
        error: &ProviderError,
    ) -> Result<(), StoreError> {
        let tenant = integration.tenant;
        let (reason, message) = match error {
            ProviderError::Refused(missing) => (missing.reason, missing.message.clone()),
            other => ("listing_expires", other.to_string()),
        };
        let again = tx.clock().await? + self.every;
        store::end(tx, tenant, run.id, End::Failed, &message).await?;
        directories::failed_once(tx, tenant, integration.id).await?;
        directories::lost(tx, tenant, integration.id, reason, &message).await?;
        let full = if run.full { again } else { directory.next_full_at };
        directories::schedule(tx, tenant, integration.id, Next { changes: again, full }).await?;
        let event = audit::Event::new(
            Some(tenant),
            names::SYNC_FAILED,
            audit::Actor::Service(NAME),
            Outcome::Failure,
            message.as_str(),
        );
        let event = event.integration(integration.id).cause(run.cause).object("sync_run", run.id);
        audit::record(tx, &event.detail("reason", reason)).await?;
        let id = directory.id.as_deref();
        self.observe(tx, integration, id, Err((reason, &message)), Some(ended(run, Err(&message)))).await
    }

    /// Tells integration-api what was seen of an integration's reading.
    pub(crate) async fn observe(
        &self,
        tx: &mut Tx,
        integration: &Integration,
        directory: Option<&str>,
        read: Result<(), (&str, &str)>,
        sync_ended: Option<events::SyncEnded>,
    ) -> Result<(), StoreError> {
        let now = tx.clock().await?;
        let seen = vec![observation(Capability::Read, read)];
        report(tx, integration, now, seen, directory, sync_ended).await
    }
}

/// What was seen of one capability.
pub(crate) fn observation(
    capability: Capability,
    result: Result<(), (&str, &str)>,
) -> events::CapabilityObservation {
    let (reason, message) = result.err().unwrap_or_default();
    events::CapabilityObservation {
        capability: capability.as_str().to_owned(),
        working: result.is_ok(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// Tells integration-api what was seen of an integration at an instant.
pub(crate) async fn report(
    tx: &mut Tx,
    integration: &Integration,
    at: OffsetDateTime,
    capabilities: Vec<events::CapabilityObservation>,
    directory: Option<&str>,
    sync_ended: Option<events::SyncEnded>,
) -> Result<(), StoreError> {
    let observed = events::IntegrationObserved {
        tenant_id: integration.tenant.to_string(),
        integration_id: integration.id.to_string(),
        observer: NAME.to_owned(),
        observed_at: Some(prost_types::Timestamp {
            seconds: at.unix_timestamp(),
            nanos: i32::try_from(at.nanosecond()).unwrap_or_default(),
        }),
        capabilities,
        directory_id: directory.unwrap_or_default().to_owned(),
        sync_ended,
    };
    outbox::enqueue(tx, Topic::IntegrationObserved, Some(integration.tenant), &observed).await?;
    Ok(())
}

/// What a run that ended well has to say: how many identifiers it could not make, and whom to ask.
fn beyond_cap(scope: &Scope<'_>, skipped: i64) -> String {
    let (cap, contact) = (scope.package.identifier_cap, scope.contact());
    match skipped {
        0 => String::new(),
        1 => format!("1 identifier waits because the package's cap of {cap} is reached; ask {contact}"),
        _ => {
            format!("{skipped} identifiers wait because the package's cap of {cap} is reached; ask {contact}")
        }
    }
}

fn ended(run: &Run, result: Result<(), &str>) -> events::SyncEnded {
    events::SyncEnded {
        run_id: run.id.to_string(),
        succeeded: result.is_ok(),
        message: result.err().unwrap_or_default().to_owned(),
    }
}
