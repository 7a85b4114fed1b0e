//! `mitigation.due`: reads the account, decides, acts at most once, and looks whether it took effect and stuck.
//!
//! A mitigation has one row of work from its plan to its last check. Handling it is a walk through three short
//! transactions with the directory between them, never inside: open (may it run, and with which provider), begin (the
//! intent, committed before the call), settle (the outcome). A process that dies in between leaves a state that the
//! next delivery reads: an intent without outcome becomes `unknown`, visibly, and the account is read again, which
//! decides; repeating these actions is harmless.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    audit::{self, Outcome as Audited},
    db::{Db, StoreError, Tx},
    id::{MitigationId, TenantId, WorkId},
    integration_store::{self, Status},
    provider::{
        Acted, Action, Capability, Containment, Missing, Provider, ProviderError, Retry,
        directory::Directories,
    },
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events::MitigationDue,
    work,
};
use time::OffsetDateTime;

use crate::{
    events, intake,
    plan::{self, Admission, Evidence, Facts, Hold, Refusal, Step},
    state::{InvalidTransition, State},
    store::{self, Mitigation},
};

/// Longer than any provider call: after that a call counts as unknown.
const CALL: time::Duration = time::Duration::minutes(2);
/// Between tries at a directory that does not answer.
const OUTAGE: Duration = Duration::from_secs(5);
/// Between tries without the permission.
const PERMISSION: time::Duration = time::Duration::minutes(15);
/// How long a directory may take to show what it confirmed.
const SETTLES: time::Duration = time::Duration::minutes(1);

/// Carries out mitigations.
pub struct Executor {
    db: Db,
    directories: Arc<Directories>,
    checks: Vec<time::Duration>,
}

/// A mitigation that may be worked on, with the way to its directory.
struct Open {
    m: Mitigation,
    work: WorkId,
    provider: Arc<dyn Provider>,
}

/// Why handling ends early.
enum Stop {
    /// It is settled, or somebody else's.
    Over,
    /// An error.
    Failed(HandlerError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            // Another delivery of the same work was quicker.
            StoreError::Stale(_) => Self::Over,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<InvalidTransition> for Stop {
    fn from(error: InvalidTransition) -> Self {
        Self::Failed(HandlerError::Poison(error.to_string()))
    }
}

#[async_trait]
impl Handler for Executor {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let message: MitigationDue = delivery.decode()?;
        let tenant: TenantId = intake::id(&message.tenant_id)?;
        let ended = match self.open(delivery, tenant, &message).await {
            Ok(open) => match open.m.state {
                State::Planned { .. } | State::Unknown => self.act(delivery, open).await,
                _ => self.check(delivery, open).await,
            },
            Err(stop) => Err(stop),
        };
        match ended {
            Ok(()) | Err(Stop::Over) => Ok(Outcome::Done),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

impl Executor {
    /// A handler that checks an action after each of these times.
    pub fn new(db: Db, directories: Arc<Directories>, check_after_seconds: &[u32]) -> Self {
        let checks = check_after_seconds.iter().map(|s| time::Duration::seconds(i64::from(*s))).collect();
        Self { db, directories, checks }
    }

    /// Decides whether there is anything to do, now and for this delivery.
    async fn open(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        message: &MitigationDue,
    ) -> Result<Open, Stop> {
        let work: WorkId = intake::id(&message.work_id).map_err(Stop::Failed)?;
        let id: MitigationId = intake::id(&message.mitigation_id).map_err(Stop::Failed)?;
        let mut tx = self.db.tenant(tenant).await?;
        if !store::is_given_out(&mut tx, work).await? {
            return self.over(delivery, tx).await;
        }
        let Some(mut m) = store::get(&mut tx, id).await? else {
            work::finish(&mut tx, work).await?;
            return self.over(delivery, tx).await;
        };
        let now = tx.clock().await?;
        match m.state {
            State::Held { .. } | State::Refused { .. } | State::Reverted => {
                work::finish(&mut tx, work).await?;
                return self.over(delivery, tx).await;
            }
            State::Acting { message, until } if message != delivery.message_id && until > now => {
                return self.over(delivery, tx).await;
            }
            State::Acting { .. } => {
                m.state = m.state.lose()?;
                store::save(&mut tx, &mut m).await?;
                store::settle_ledger(&mut tx, &m, "unknown", None).await?;
                let event = events::about(
                    &m,
                    "mitigation.performed",
                    Audited::Unknown,
                    "the process ended between the call and its outcome; the account is read again",
                );
                audit::record(&mut tx, &event).await?;
            }
            State::Planned { .. } | State::Unknown | State::Done | State::Verified => {}
        }

        let integration = integration_store::integration(&mut tx, m.integration).await?;
        let Some(integration) = integration.filter(|i| i.status != Status::Disabled) else {
            return self.without_integration(delivery, tx, m, work, now).await;
        };
        if matches!(m.state, State::Planned { .. }) {
            let entitled = integration_store::package(&mut tx, tenant).await?.is_some_and(|p| p.mitigation);
            let facts = Facts {
                entitled,
                integration_usable: true,
                provider: m.provider,
                switch: integration.settings.mitigation.switch(m.action),
                automatic: m.automatic,
                account_present: true, // decided by reading it
                is_admin: m.is_admin && m.released_by.is_none(),
                hybrid: false, // likewise
            };
            match plan::admit(m.action, &facts, None) {
                Admission::Go => {}
                Admission::Hold(by) => return self.hold(delivery, tx, m, work, by).await,
                Admission::Refuse(reason) => return self.refuse(delivery, tx, m, work, reason).await,
            }
        }
        if let Some((reason, until)) = store::pause(&mut tx, m.integration).await? {
            let until = until.unwrap_or(now + time::Duration::seconds(30));
            return self.wait(delivery, tx, m, work, until, &format!("paused_{reason}")).await;
        }
        let provider = match self.directories.connect(&mut tx, &integration).await {
            Ok(provider) => provider,
            Err(error) => {
                tracing::warn!(integration.id = %m.integration, %error, "no way to the directory");
                let until = now + time::Duration::minutes(1);
                return self.wait(delivery, tx, m, work, until, "credentials_unavailable").await;
            }
        };
        tx.commit().await?;
        Ok(Open { m, work, provider })
    }

    async fn act(&self, delivery: &Delivery, open: Open) -> Result<(), Stop> {
        let Open { mut m, work, provider } = open;
        let before = match read(&*provider, &m).await {
            Ok(before) => before,
            Err(error) => return self.unreadable(delivery, m, work, &error).await,
        };
        let mut tx = self.db.tenant(m.tenant).await?;
        match plan::step(m.provider, m.action, before.as_ref().map(|seen| &seen.containment), m.created_at) {
            Step::Impossible(reason) => return self.refuse(delivery, tx, m, work, reason).await,
            Step::AlreadyDone => {
                let now = tx.clock().await?;
                m.state = m.state.see()?;
                m.finished_at = Some(now);
                m.verified_at = Some(now);
                m.details.insert(
                    "already".to_owned(),
                    "the directory showed the effect when the account was read".to_owned(),
                );
                let message = "the directory shows the action's effect already";
                let event = events::about(&m, "mitigation.verified", Audited::Success, message);
                audit::record(&mut tx, &event).await?;
                return self.next_check(delivery, tx, m, work).await;
            }
            Step::Act => {}
        }
        let Some(seen) = before else { return Err(Stop::Over) };
        // What the directory shows now may be more than what was known at planning.
        if seen.is_admin && m.released_by.is_none() {
            return self.hold(delivery, tx, m, work, Hold::Privileged).await;
        }
        if seen.hybrid && m.action == Action::DisableAccount {
            return self.refuse(delivery, tx, m, work, Refusal::AdMastered).await;
        }

        // The intent is committed before the call; only the transaction that moved the state may go on.
        let now = tx.clock().await?;
        m.state = m.state.begin(delivery.message_id, now + CALL)?;
        m.attempt += 1;
        store::save(&mut tx, &mut m).await?;
        store::open_ledger(&mut tx, &m, &seen.containment).await?;
        let intent =
            events::about(&m, "mitigation.performed", Audited::Intent, "the directory is about to be asked")
                .detail("attempt", m.attempt);
        audit::record(&mut tx, &intent).await?;
        tx.commit().await?;

        let acted = provider.act(m.action, &m.object_id).await;
        self.settle(delivery, m, work, acted).await
    }

    async fn settle(
        &self,
        delivery: &Delivery,
        mut m: Mitigation,
        work: WorkId,
        acted: Result<Acted, ProviderError>,
    ) -> Result<(), Stop> {
        let mut tx = self.db.tenant(m.tenant).await?;
        let now = tx.clock().await?;
        let kind = "mitigation.performed";
        match acted {
            Ok(Acted::Done { request_id }) => {
                m.state = m.state.confirm()?;
                m.finished_at = Some(now);
                if let Some(id) = &request_id {
                    m.details.insert("provider_request_id".to_owned(), id.clone());
                }
                m.details.insert("attempts".to_owned(), m.attempt.to_string());
                store::settle_ledger(&mut tx, &m, "done", request_id.as_deref()).await?;
                let event = events::about(&m, kind, Audited::Success, "the directory confirmed the action");
                audit::record(&mut tx, &event).await?;
                if m.details.remove("permission").is_some() {
                    events::observed(&mut tx, &m, m.action.capability(), None).await?;
                }
                metrics::counter!("parapet_mitigations_performed_total", "action" => m.action.as_str())
                    .increment(1);
                store::save(&mut tx, &mut m).await?;
                let first = self.checks.first().copied().unwrap_or_default();
                work::postpone(&mut tx, work, now + first, "waits for its check").await?;
                self.finished(delivery, tx).await
            }
            Ok(Acted::Refused { reason, message, request_id }) => {
                store::settle_ledger(&mut tx, &m, "refused", request_id.as_deref()).await?;
                let missing = Missing { reason, message, not_granted: true };
                if matches!(reason, "permission_missing" | "licence_missing") {
                    events::observed(&mut tx, &m, m.action.capability(), Some(&missing)).await?;
                }
                if reason == "permission_missing" {
                    m.details.insert("permission".to_owned(), missing.message.clone());
                    let event =
                        events::about(&m, kind, Audited::Refused, missing.message).detail("reason", reason);
                    audit::record(&mut tx, &event).await?;
                    return self.wait(delivery, tx, m, work, now + PERMISSION, reason).await;
                }
                m.details.insert("provider_message".to_owned(), missing.message);
                let reason = Refusal::parse(reason).unwrap_or(Refusal::RefusedByProvider);
                self.refuse(delivery, tx, m, work, reason).await
            }
            Err(error) => {
                let lost = may_have_happened(&error);
                let (outcome, audited) =
                    if lost { ("unknown", Audited::Unknown) } else { ("failed", Audited::Failure) };
                store::settle_ledger(&mut tx, &m, outcome, None).await?;
                if lost {
                    m.state = m.state.lose()?;
                }
                let event = events::about(&m, kind, audited, error.to_string());
                audit::record(&mut tx, &event).await?;
                let (until, reason) = self.put_off(&mut tx, &m, &error, m.action.capability(), now).await?;
                self.wait(delivery, tx, m, work, until, reason).await
            }
        }
    }

    /// Looks whether an action took effect, and later whether it stuck.
    async fn check(&self, delivery: &Delivery, open: Open) -> Result<(), Stop> {
        let Open { mut m, work, provider } = open;
        let now = match provider.containment(&m.object_id, m.action).await {
            Ok(now) => now,
            Err(error) => return self.unreadable(delivery, m, work, &error).await,
        };
        let mut tx = self.db.tenant(m.tenant).await?;
        let clock = tx.clock().await?;
        let before = store::before(&mut tx, m.id).await?;
        let evidence = match plan::evidence(m.action, before, now.as_ref()) {
            // Okta does not show when sessions were revoked: its answer to the call is all there is.
            Evidence::Silent if m.action == Action::RevokeSessions => {
                m.details.insert(
                    "evidence".to_owned(),
                    "the provider's answer; it does not show sessions".to_owned(),
                );
                Evidence::Shown
            }
            evidence => evidence,
        };
        match (evidence, m.state.clone()) {
            (Evidence::Shown, State::Done) => {
                m.state = m.state.see()?;
                m.verified_at = Some(clock);
                let message = "the directory shows the action's effect";
                audit::record(&mut tx, &events::about(&m, "mitigation.verified", Audited::Success, message))
                    .await?;
                self.next_check(delivery, tx, m, work).await
            }
            (Evidence::Shown | Evidence::Silent, State::Verified) => {
                self.next_check(delivery, tx, m, work).await
            }
            (Evidence::Absent, State::Verified) => {
                m.state = m.state.revert()?;
                m.reverted_at = Some(clock);
                store::save(&mut tx, &mut m).await?;
                let message = "the directory does not show the action's effect any more; somebody or a directory sync took it back";
                let told = [
                    events::about(&m, "mitigation.reverted", Audited::Info, message),
                    events::alert(&m, "alert.mitigation_reverted", message),
                ];
                audit::record_many(&mut tx, &told).await?;
                metrics::counter!("parapet_mitigations_reverted_total", "action" => m.action.as_str())
                    .increment(1);
                work::finish(&mut tx, work).await?;
                self.finished(delivery, tx).await
            }
            _ if m.finished_at.is_some_and(|at| clock - at < SETTLES) => {
                work::postpone(&mut tx, work, clock + time::Duration::seconds(3), "not shown yet").await?;
                self.finished(delivery, tx).await
            }
            _ => {
                if m.details
                    .insert("unverified".to_owned(), "the directory does not show it".to_owned())
                    .is_none()
                {
                    let message = "the provider confirmed the action, but the directory does not show it";
                    let told = [
                        events::about(&m, "mitigation.verified", Audited::Failure, message),
                        events::alert(&m, "alert.mitigation_unverified", message),
                    ];
                    audit::record_many(&mut tx, &told).await?;
                }
                self.next_check(delivery, tx, m, work).await
            }
        }
    }

    /// Ends a check: the next one, or no more.
    async fn next_check(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
    ) -> Result<(), Stop> {
        m.checks += 1;
        store::save(&mut tx, &mut m).await?;
        // Sessions that were revoked stay revoked.
        let next = if m.action == Action::RevokeSessions { None } else { usize::try_from(m.checks).ok() };
        match (next.and_then(|n| self.checks.get(n)), m.finished_at) {
            (Some(after), Some(finished)) => {
                work::postpone(&mut tx, work, finished + *after, "waits for its check").await?;
            }
            _ => work::finish(&mut tx, work).await?,
        }
        self.finished(delivery, tx).await
    }

    async fn unreadable(
        &self,
        delivery: &Delivery,
        m: Mitigation,
        work: WorkId,
        error: &ProviderError,
    ) -> Result<(), Stop> {
        let mut tx = self.db.tenant(m.tenant).await?;
        let now = tx.clock().await?;
        let (until, reason) = self.put_off(&mut tx, &m, error, Capability::Read, now).await?;
        self.wait(delivery, tx, m, work, until, reason).await
    }

    /// How long an error makes us wait, and what it is called. Outages and throttles spend no tries.
    async fn put_off(
        &self,
        tx: &mut Tx,
        m: &Mitigation,
        error: &ProviderError,
        capability: Capability,
        now: OffsetDateTime,
    ) -> Result<(OffsetDateTime, &'static str), StoreError> {
        let after = match error.retry(OUTAGE) {
            Retry::After(after) => time::Duration::try_from(after).unwrap_or(PERMISSION),
            Retry::Restart => time::Duration::seconds(5),
            Retry::Never => PERMISSION,
        };
        let until = now + after;
        let reason = match error {
            ProviderError::Throttled { .. } => {
                store::throttled(tx, m.tenant, m.integration, until).await?;
                "throttled"
            }
            ProviderError::Refused(missing) => {
                events::observed(tx, m, capability, Some(missing)).await?;
                "permission_missing"
            }
            ProviderError::NotSent(_)
            | ProviderError::Lost(_)
            | ProviderError::Unavailable { .. }
            | ProviderError::CursorExpired
            | ProviderError::Protocol(_) => "provider_unavailable",
        };
        Ok((until, reason))
    }

    async fn wait<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
        until: OffsetDateTime,
        reason: &str,
    ) -> Result<T, Stop> {
        if matches!(m.state, State::Planned { .. } | State::Acting { .. } | State::Unknown) {
            m.state = m.state.wait(reason)?;
            store::save(&mut tx, &mut m).await?;
        }
        work::postpone(&mut tx, work, until, reason).await?;
        self.over(delivery, tx).await
    }

    async fn hold<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
        by: Hold,
    ) -> Result<T, Stop> {
        // The account was read and does not show the action: nothing has happened.
        if m.state == State::Unknown {
            m.state = State::Planned { waits: None };
        }
        m.state = m.state.hold(by)?;
        m.details.insert("held".to_owned(), by.sentence().to_owned());
        store::save(&mut tx, &mut m).await?;
        let told = [
            events::about(&m, "mitigation.held", Audited::Info, by.sentence()).detail("held_by", by.as_str()),
            events::alert(&m, "alert.mitigation_held", by.sentence()),
        ];
        audit::record_many(&mut tx, &told).await?;
        work::finish(&mut tx, work).await?;
        self.over(delivery, tx).await
    }

    async fn refuse<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
        reason: Refusal,
    ) -> Result<T, Stop> {
        m.state = m.state.refuse(reason)?;
        m.finished_at = Some(tx.clock().await?);
        m.details.insert("refused".to_owned(), reason.sentence().to_owned());
        store::save(&mut tx, &mut m).await?;
        let event = events::about(&m, "mitigation.refused", Audited::Refused, reason.sentence())
            .detail("reason", reason.as_str());
        audit::record(&mut tx, &event).await?;
        metrics::counter!("parapet_mitigations_refused_total", "reason" => reason.as_str()).increment(1);
        work::finish(&mut tx, work).await?;
        self.over(delivery, tx).await
    }

    /// Without the integration nothing is begun; what may have happened waits to be looked at, checks end.
    async fn without_integration<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        m: Mitigation,
        work: WorkId,
        now: OffsetDateTime,
    ) -> Result<T, Stop> {
        match m.state {
            State::Planned { .. } => self.refuse(delivery, tx, m, work, Refusal::IntegrationDisabled).await,
            State::Unknown => {
                let until = now + time::Duration::minutes(5);
                self.wait(delivery, tx, m, work, until, "integration_disabled").await
            }
            _ => {
                work::finish(&mut tx, work).await?;
                self.over(delivery, tx).await
            }
        }
    }

    /// Commits with the delivery marked done.
    async fn finished(&self, delivery: &Delivery, mut tx: Tx) -> Result<(), Stop> {
        if delivery.done(&mut tx).await? {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(())
    }

    /// The same, when nothing else is to follow.
    async fn over<T>(&self, delivery: &Delivery, tx: Tx) -> Result<T, Stop> {
        self.finished(delivery, tx).await?;
        Err(Stop::Over)
    }
}

/// An account as it is now.
struct Seen {
    containment: Containment,
    is_admin: bool,
    hybrid: bool,
}

async fn read(provider: &dyn Provider, m: &Mitigation) -> Result<Option<Seen>, ProviderError> {
    let Some(account) = provider.account(&m.object_id).await? else { return Ok(None) };
    let Some(containment) = provider.containment(&m.object_id, m.action).await? else { return Ok(None) };
    Ok(Some(Seen { containment, is_admin: account.is_admin, hybrid: account.hybrid }))
}

/// Whether a call that failed may have changed something.
fn may_have_happened(error: &ProviderError) -> bool {
    match error {
        ProviderError::NotSent(_) | ProviderError::Throttled { .. } | ProviderError::Refused(_) => false,
        ProviderError::Lost(_)
        | ProviderError::Unavailable { .. }
        | ProviderError::CursorExpired
        | ProviderError::Protocol(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_is_called_failed() {
        assert!(!may_have_happened(&ProviderError::NotSent("no connection")));
        assert!(!may_have_happened(&ProviderError::Throttled { retry_after: None }));
        assert!(may_have_happened(&ProviderError::Lost("timeout")));
        assert!(may_have_happened(&ProviderError::Unavailable { status: 502 }));
        assert!(may_have_happened(&ProviderError::Protocol("not JSON")));
    }
}
