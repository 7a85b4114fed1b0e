//! What became of a turn, in one transaction: budget, verdict, memory, audit, containment, outbound event.

use std::time::{Duration, Instant};

use shared::{
    audit::{self, Actor, Event, Outcome as Became, names},
    db::{Db, StoreError, Tx},
    id::{CauseId, ExposureId, TenantId, WorkId},
    integration_store::{self, Integration},
    limiter::{self, Ended, Ticket},
    outbound,
    outbox::{self, Topic},
    provider::{Attempted, Signal},
    queue::{Delivery, HandlerError},
    triage::{Cause, Place},
    verdict::Verdict,
    wire::events::MitigationRequested,
    work::{self, NewWork},
};

use crate::{
    NAME, VALIDATE,
    failpoint::{Stage, reach},
    signals,
    store::{
        exposures::{self, Next},
        turn::{self as store, Turn},
    },
    triage::Decision,
};

/// How long a result is held while the database is away. Then the reaper has called the attempt unknown anyhow.
const PATIENCE: Duration = Duration::from_secs(75);

/// An attempt with its answer.
pub struct Conclusion<'a> {
    /// The database.
    pub db: &'a Db,
    /// Whose turn it was.
    pub turn: &'a Turn,
    /// Through which integration.
    pub integration: &'a Integration,
    /// The sign-in name that was used.
    pub login: &'a str,
    /// Names the reservation.
    pub ticket: Ticket,
    /// What came of it.
    pub attempted: Attempted,
}

impl Conclusion<'_> {
    /// Stores the result, trying again while the database is away.
    pub async fn store(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let begun = Instant::now();
        loop {
            match self.try_store(delivery).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && begun.elapsed() < PATIENCE => {
                    tracing::warn!(%error, "result not stored yet");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn try_store(&self, delivery: &Delivery) -> Result<(), StoreError> {
        // The exposure's lock before the budget's, as in the reservation.
        let (mut tx, held) = self.db.tenant_by_key_with(self.turn.tenant, store::hold(self.turn)).await?;
        let waits = store::held(&mut tx, &held)?;
        let attempted = &self.attempted;
        let ours = limiter::settle(
            &mut tx,
            &self.ticket,
            &Ended {
                answered: attempted.status.is_some(),
                result: attempted.verdict.name(),
                code: attempted.code.as_deref(),
                locked: attempted.signal == Signal::Locked,
            },
        )
        .await?;
        let (mut events, mut proved) = (vec![self.outcome(ours)], None);
        if ours && waits {
            events.extend(self.verdict(&mut tx).await?);
            proved = self.proved();
        }
        audit::record_many(&mut tx, &events).await?;
        if ours && waits {
            signals::after(&mut tx, self.turn, self.integration, attempted.signal).await?;
        }
        let others = store::conclude(&mut tx, self.turn, proved).await?;
        wake(&mut tx, self.turn, &others).await?;
        delivery.done(&mut tx).await?;
        reach(Stage::Concluding);
        tx.commit().await
    }

    /// The audit outcome of the intent.
    fn outcome(&self, ours: bool) -> Event {
        let attempted = &self.attempted;
        let (became, message) = match (ours, attempted.status) {
            (false, _) => {
                (Became::Unknown, "The answer came too late; the attempt stays unknown, this is evidence")
            }
            (true, Some(_)) => (Became::Success, "The directory answered"),
            (true, None) => (Became::Unknown, "No answer; the password may have been received"),
        };
        let mut event = Event::new(
            Some(self.turn.tenant),
            names::VALIDATION_ATTEMPT,
            Actor::Service(NAME),
            became,
            message,
        )
        .cause(CauseId(self.turn.exposure.uuid()))
        .integration(self.integration.id)
        .object("exposure", self.turn.exposure)
        .user(&self.turn.key.object, self.login)
        .detail("attempt_id", self.ticket.attempt())
        .detail("verdict", attempted.verdict.name());
        for (name, value) in self.facts() {
            event = event.detail(name, value);
        }
        event
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let attempted = &self.attempted;
        [
            ("status", attempted.status.map(|s| s.to_string())),
            ("code", attempted.code.clone()),
            ("request_id", attempted.request_id.clone()),
            ("reason", attempted.verdict.reason().map(|r| r.as_str().to_owned())),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|v| (name, v)))
        .collect()
    }

    /// What may decide other exposures of the account.
    fn proved(&self) -> Option<(Verdict, &[u8])> {
        let verdict = self.attempted.verdict;
        let digest = self.turn.secret.digest.as_deref().filter(|_| verdict.is_proven())?;
        Some((verdict, digest))
    }

    /// Writes the verdict and what follows from it. Returns its event, unless it is put off.
    async fn verdict(&self, tx: &mut Tx) -> Result<Option<Event>, StoreError> {
        let verdict = self.attempted.verdict;
        let mut decision = Decision::new(verdict).because("attempt_id", self.ticket.attempt().to_string());
        for (name, value) in self.facts() {
            decision = decision.because(name, value);
        }
        let next = match verdict {
            Verdict::Deferred(until, reason) => Next::AnotherRound(until, reason),
            _ => Next::Decided,
        };
        exposures::decide(tx, (self.turn.exposure, self.turn.work), &decision, true, next).await?;
        metrics::counter!("parapet_verdicts_total", "verdict" => verdict.name(), "attempt" => "yes")
            .increment(1);
        let event = (next == Next::Decided).then(|| verdict_event(self.turn, &decision));
        contain(tx, self.turn, verdict).await?;
        tell(tx, self.turn, self.login, verdict).await?;
        Ok(event)
    }
}

/// A verdict that cost nothing; ends the work.
pub async fn without_attempt(
    tx: &mut Tx,
    turn: &Turn,
    decision: &Decision,
    next: Next,
) -> Result<(), StoreError> {
    exposures::decide(tx, (turn.exposure, turn.work), decision, false, next).await?;
    metrics::counter!("parapet_verdicts_total", "verdict" => decision.verdict.name(), "attempt" => "no")
        .increment(1);
    audit::record(tx, &verdict_event(turn, decision)).await?;
    contain(tx, turn, decision.verdict).await?;
    tell(tx, turn, &turn.login_at_match, decision.verdict).await
}

fn verdict_event(turn: &Turn, decision: &Decision) -> Event {
    let mut event = Event::new(
        Some(turn.tenant),
        names::EXPOSURE_VERDICT,
        Actor::Service(NAME),
        Became::Info,
        "An exposure got its verdict",
    )
    .cause(CauseId(turn.exposure.uuid()))
    .integration(turn.integration)
    .object("exposure", turn.exposure)
    .user(&turn.key.object, &turn.login_at_match)
    .detail("verdict", decision.verdict.name());
    if let Some(reason) = decision.verdict.reason() {
        event = event.detail("reason", reason.as_str());
    }
    for (name, value) in &decision.evidence {
        event = event.detail(*name, value);
    }
    event
}

/// A valid verdict triggers the automated mitigations that are switched on, in the same transaction (I5).
async fn contain(tx: &mut Tx, turn: &Turn, verdict: Verdict) -> Result<(), StoreError> {
    if !verdict.is_valid() {
        return Ok(());
    }
    let wanted =
        integration_store::entitled(tx, turn.integration).await?.is_some_and(|(integration, package)| {
            package.mitigation && integration.settings.mitigation.automated().next().is_some()
        });
    if !wanted {
        return Ok(());
    }
    let message = MitigationRequested {
        tenant_id: turn.tenant.to_string(),
        request_id: String::new(),
        exposure_id: turn.exposure.to_string(),
        cause_id: turn.exposure.to_string(),
    };
    outbox::enqueue(tx, Topic::MitigationRequested, Some(turn.tenant), &message).await?;
    Ok(())
}

/// Tells the customer's own systems what was proven.
async fn tell(tx: &mut Tx, turn: &Turn, login: &str, verdict: Verdict) -> Result<(), StoreError> {
    let subject = outbound::Subject {
        tenant_id: turn.tenant,
        integration_id: turn.integration,
        provider: turn.key.provider,
        directory_id: &turn.key.directory,
        account_id: turn.account,
        object_id: &turn.key.object,
        login,
    };
    outbound::verdict(tx, subject, turn.exposure, verdict).await
}

/// What was proven may decide these, which wait, without an attempt.
async fn wake(tx: &mut Tx, turn: &Turn, others: &[(ExposureId, Place)]) -> Result<(), StoreError> {
    let due = others.iter().map(|(exposure, place)| {
        due_now(turn.tenant, &turn.key.directory, exposure.uuid(), place.rank(Cause::Change))
    });
    work::schedule_many(tx, &due.collect::<Vec<_>>()).await
}

/// Work that gives an exposure its turn now.
pub fn due_now(tenant: TenantId, directory: &str, exposure: uuid::Uuid, priority: i16) -> NewWork {
    NewWork {
        work_id: WorkId::new(),
        tenant,
        directory: directory.to_owned(),
        kind: VALIDATE,
        subject: exposure,
        priority,
        due_at: None,
    }
}
