//! `mitigation.due`: reads the account, decides, acts at most once, and looks whether it took effect and stuck.
//!
//! A mitigation has one row of work from its plan to its last check. Handling it is a walk through three short
//! transactions with the directory between them, never inside: open (may it run, and with which provider), begin (the
//! intent, committed before the call), settle (the outcome). A process that dies in between leaves a state that the
//! next delivery reads: an intent without outcome becomes `unknown`, visibly, and the account is read again, which
//! decides; repeating these actions is harmless.

mod check;
mod ending;
mod since;

use std::sync::Arc;

use async_trait::async_trait;
use shared::{
    audit::{self, Outcome as Audited, names},
    db::{Db, StoreError},
    failpoint::reach,
    id::{MitigationId, TenantId, WorkId},
    integration::ActionSwitch,
    integration_store::Status,
    provider::{
        Account, Acted, Capability, Containment, GroupsAndRoles, Membership, Missing, Provider,
        ProviderError, directory::Directories,
    },
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events::MitigationDue,
    work::{self, lane::Standing},
};
use since::{Since, UNSEEN, log_wait, note};
use time::OffsetDateTime;

use crate::{
    cancellations, events, intake,
    plan::{self, Admission, Facts, Hold, Protection, Refusal, Step},
    planner::{self, World},
    state::{InvalidTransition, State},
    store::{self, Mitigation},
    store_brake,
    store_requests::{self, Proof},
    undo,
};

/// Longer than any provider call: after that a call counts as unknown.
const CALL: time::Duration = time::Duration::minutes(2);
/// Between tries without the permission.
const PERMISSION: time::Duration = time::Duration::minutes(15);

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
    world: World,
    /// What it follows, if it follows a verdict by itself and was not begun yet.
    proof: Option<Proof>,
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
            State::Held { .. } | State::Refused { .. } | State::Reverted | State::Undone => {
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
                    names::MITIGATION_PERFORMED,
                    Audited::Unknown,
                    "the process ended between the call and its outcome; the account is read again",
                );
                audit::record(&mut tx, &event).await?;
            }
            State::Planned { .. } | State::Unknown | State::Done | State::Verified => {}
        }

        let world = World::read(&mut tx, tenant).await?;
        let usable = world.integration(m.integration).filter(|i| i.status != Status::Disabled);
        let Some(integration) = usable else {
            return self.without_integration(delivery, tx, m, work, now).await;
        };
        let mut proof = None;
        if matches!(m.state, State::Planned { .. }) {
            // Begun before its request was cancelled, when it surely did nothing: it is not begun anew.
            if let Some(request) = m.request
                && cancellations::exists(&mut tx, request).await?
            {
                return self.refuse(delivery, tx, m, work, Refusal::Cancelled).await;
            }
            if let Some(exposure) = m.exposure {
                proof = store_requests::proof(&mut tx, exposure).await?;
            }
            // INVARIANT: an automated action is begun only while its verdict stands and the policy follows it.
            let stands = |p: &Proof| world.policy.policy.verdicts.contains(&p.kind);
            if m.automatic && !proof.as_ref().is_some_and(stands) {
                return self.refuse(delivery, tx, m, work, Refusal::VerdictChanged).await;
            }
            match plan::admit(m.action, &facts(&world, &m, None), None) {
                Admission::Go => {}
                Admission::Hold(by) => return self.hold(delivery, tx, m, work, by, &world).await,
                Admission::Refuse(reason) => return self.refuse(delivery, tx, m, work, reason).await,
            }
        }
        if let Some((reason, until)) = store_brake::pause(&mut tx, m.integration).await? {
            let until = until.unwrap_or(now + time::Duration::seconds(30));
            return self.wait(delivery, tx, m, work, until, &format!("paused_{reason}")).await;
        }
        if let Standing::Held(until, reason) = m.lane().standing(&mut tx).await? {
            return self.wait(delivery, tx, m, work, until, &reason).await;
        }
        let provider = match self.directories.connect(&mut tx, integration).await {
            Ok(provider) => provider,
            Err(error) => {
                tracing::warn!(integration.id = %m.integration, %error, "no way to the directory");
                let until = now + time::Duration::minutes(1);
                return self.wait(delivery, tx, m, work, until, "credentials_unavailable").await;
            }
        };
        tx.commit().await?;
        Ok(Open { m, work, provider, world, proof })
    }

    async fn act(&self, delivery: &Delivery, open: Open) -> Result<(), Stop> {
        let Open { mut m, work, provider, world, proof } = open;
        let before = match read(&*provider, &m).await {
            Ok(before) => before,
            Err(error) => return self.unreadable(delivery, m, work, &error, Capability::Read).await,
        };
        // INVARIANT (I7): whether the policy protects the account is known before it is acted on, or it is not acted on.
        let member_of = match memberships(&*provider, &m, &world).await {
            Ok(member_of) => member_of,
            Err(error) => {
                if let ProviderError::Refused(missing) = &error {
                    m.details.insert("permission".to_owned(), missing.message.clone());
                }
                let capability = m.action.capability();
                return self.unreadable(delivery, m, work, &error, capability).await;
            }
        };
        let since = match (m.undoes, &before) {
            (Some(of), Some(seen)) => self.since(&*provider, &m, of, &seen.containment).await?,
            _ => Since::Nobody,
        };
        let mut tx = self.db.tenant(m.tenant).await?;
        m.lane().answered(&mut tx).await?;
        match since {
            Since::Nobody => {}
            Since::Unseen => {
                m.details.insert("changes_unseen".to_owned(), UNSEEN.to_owned());
            }
            Since::Somebody(change) => {
                note(&mut m, change);
                return self.refuse(delivery, tx, m, work, Refusal::ChangedSince).await;
            }
            Since::Silent(error) => {
                let now = tx.clock().await?;
                let (until, reason) = log_wait(&error, now);
                return self.wait(delivery, tx, m, work, until, reason).await;
            }
        }
        let containment = before.as_ref().map(|seen| &seen.containment);
        let step = match m.undoes {
            Some(of) => undo::step(m.action, undo::was(&mut tx, of).await?, containment),
            None => plan::step(m.provider, m.action, containment, m.created_at),
        };
        match step {
            Step::Impossible(reason) => return self.refuse(delivery, tx, m, work, reason).await,
            Step::AlreadyDone => {
                m.finished_at = Some(tx.clock().await?);
                m.details.insert(
                    "already".to_owned(),
                    "the directory showed the effect when the account was read".to_owned(),
                );
                if m.undoes.is_some() {
                    undo::undone(&mut tx, &m).await?;
                } else {
                    store::note_change(&mut tx, &m, containment.and_then(|now| now.changed_at)).await?;
                }
                check::takes_effect(&mut tx, &mut m, "the directory shows the action's effect already")
                    .await?;
                planner::advance(&mut tx, &m).await?;
                return self.next_check(delivery, tx, m, work).await;
            }
            Step::Act => {}
        }
        let Some(seen) = before else { return Err(Stop::Over) };
        if let Some(of) = member_of.first() {
            let (Membership::Group(name) | Membership::Role(name)) = of;
            m.details.insert("protected_by".to_owned(), name.clone());
            return self.hold(delivery, tx, m, work, Hold::Protected, &world).await;
        }
        // What the directory shows now may be more than what was known at planning.
        match plan::admit(m.action, &facts(&world, &m, Some(&seen)), None) {
            Admission::Go => {}
            Admission::Hold(by) => return self.hold(delivery, tx, m, work, by, &world).await,
            Admission::Refuse(reason) => return self.refuse(delivery, tx, m, work, reason).await,
        }
        if proof.is_some_and(|p| p.is_outdated_by(seen.password_changed_at)) {
            return self.refuse(delivery, tx, m, work, Refusal::PasswordChanged).await;
        }

        // The intent is committed before the call; only the transaction that moved the state may go on.
        let now = tx.clock().await?;
        m.state = m.state.begin(delivery.message_id, now + CALL)?;
        m.attempt += 1;
        store::save(&mut tx, &mut m).await?;
        store::open_ledger(&mut tx, &m, &seen.containment).await?;
        let mut intent = events::about(
            &m,
            names::MITIGATION_PERFORMED,
            Audited::Intent,
            "the directory is about to be asked",
        )
        .detail("attempt", m.attempt);
        if let Some(unseen) = m.details.get("changes_unseen") {
            intent = intent.detail("changes_unseen", unseen);
        }
        audit::record(&mut tx, &intent).await?;
        tx.commit().await?;
        reach("intended");

        let acted = match m.undoes {
            Some(_) => provider.undo(m.action, &m.object_id).await,
            None => provider.act(m.action, &m.object_id).await,
        };
        reach("answered");
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
        let kind = names::MITIGATION_PERFORMED;
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
                if m.undoes.is_some() {
                    undo::undone(&mut tx, &m).await?;
                    metrics::counter!("parapet_mitigations_undone_total", "action" => m.action.as_str())
                        .increment(1);
                } else {
                    metrics::counter!("parapet_mitigations_performed_total", "action" => m.action.as_str())
                        .increment(1);
                }
                store::save(&mut tx, &mut m).await?;
                planner::advance(&mut tx, &m).await?;
                let first = self.checks.first().copied().unwrap_or_default();
                work::postpone(&mut tx, work, now + first, "waits for its check").await?;
                reach("settling");
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
}

/// An account as it is now.
struct Seen {
    containment: Containment,
    is_admin: bool,
    hybrid: bool,
    password_changed_at: Option<OffsetDateTime>,
}

async fn read(provider: &dyn Provider, m: &Mitigation) -> Result<Option<Seen>, ProviderError> {
    let Some(account) = provider.account(&m.object_id).await? else { return Ok(None) };
    let Some(containment) = provider.containment(&m.object_id, m.action).await? else { return Ok(None) };
    let Account { is_admin, hybrid, password_changed_at, .. } = account;
    Ok(Some(Seen { containment, is_admin, hybrid, password_changed_at }))
}

/// The protected groups and roles that the account has. What takes something back, and what a second person released, may
/// go on.
async fn memberships(
    provider: &dyn Provider,
    m: &Mitigation,
    world: &World,
) -> Result<Vec<Membership>, ProviderError> {
    if m.undoes.is_some() || m.released_by.is_some() {
        return Ok(Vec::new());
    }
    let protected = &world.policy.policy.protected;
    let groups: Vec<_> = protected.group_ids.iter().cloned().collect();
    let roles: Vec<_> = protected.roles.iter().cloned().collect();
    provider.memberships(&m.object_id, GroupsAndRoles { groups: &groups, roles: &roles }).await
}

/// What is known of a mitigation before it is begun; what its account shows is known once it was read.
fn facts(world: &World, m: &Mitigation, seen: Option<&Seen>) -> Facts {
    let policy = &world.policy.policy;
    // What was done can be taken back whatever is switched off since: that may be the very reason.
    let back = m.undoes.is_some();
    let settings = world.integration(m.integration).map(|i| i.settings.mitigation.switch(m.action));
    let is_admin = m.is_admin || seen.is_some_and(|seen| seen.is_admin);
    let protection = planner::protection(policy, m.account, is_admin)
        .filter(|by| !back || *by == Protection::Administrator);
    Facts {
        entitled: back || world.entitled,
        integration_usable: true,
        switch: settings.filter(|_| !back).unwrap_or(ActionSwitch { automated: true, manual: true }),
        automatic: m.automatic,
        account_present: true,
        ad_mastered: !back && !policy.disable_ad_mastered && seen.is_some_and(|seen| seen.hybrid),
        protection,
        many: false,
        released: m.released_by.is_some(),
    }
}

/// Whether a call that failed may have changed something.
fn may_have_happened(error: &ProviderError) -> bool {
    match error {
        ProviderError::NotSent(_)
        | ProviderError::Throttled { .. }
        | ProviderError::Paced { .. }
        | ProviderError::Refused(_) => false,
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
