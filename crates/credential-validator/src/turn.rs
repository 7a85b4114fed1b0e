//! An exposure's turn: triage once more, and if only an attempt can tell, exactly one (reliability §3.5).
//!
//! Everything that can fail for want of a network happens before the reservation, so that it costs nothing. Between
//! the committed reservation and the stored result there is one request and no decision.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use shared::{
    audit::{Actor, Event, Outcome as Became, names},
    db::{Db, Tx},
    id::{CauseId, ExposureId, TenantId, WorkId},
    integration_store::Integration,
    limiter::{Answer, Ask, Limits, OwnerSeen, Reservation},
    provider::{
        Account, AccountState, AttemptConnection, PasswordAuthority, Provider, ProviderError, SignIns,
        directory::{ConnectError, Directories},
    },
    queue::{Delivery, Handler, HandlerError, Outcome},
    sealing::{Owner, column},
    secret::SecretBytes,
    triage::Rule,
    verdict::{Reason, Verdict},
    wire::events::ValidationDue,
    work::lane::Standing,
};
use time::{Duration, OffsetDateTime};

use crate::{
    NAME,
    conclude::Conclusion,
    ending::{After, Ending, LOOK_AGAIN, denied, gone, held, later, paused, standing, switched_off, write},
    failpoint::{Stage, reach},
    keys::LeakKeys,
    message, signals,
    store::turn::{self as store, Loaded, Turn},
    triage::{self, AccountFacts, Decision, Facts},
};

/// How long an exposure waits when its directory cannot be asked, and no better time is known.
const UNAVAILABLE: Duration = Duration::minutes(2);
/// How far back the log of sign-ins is read: Entra ID keeps 30 days of it, Okta 90.
const LOG_SPAN: Duration = Duration::days(30);

/// Handles `validation.due`.
#[derive(Debug)]
pub struct Validator {
    /// The database.
    pub db: Db,
    /// Directories behind integrations.
    pub directories: Arc<Directories>,
    /// Leak keys.
    pub keys: Arc<LeakKeys>,
}

#[async_trait]
impl Handler for Validator {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let due: ValidationDue = delivery.decode()?;
        let tenant = message::required::<TenantId>("tenant_id", &due.tenant_id)?;
        let work = message::required::<WorkId>("work_id", &due.work_id)?;
        let exposure = message::required::<ExposureId>("exposure_id", &due.exposure_id)?;
        reach(Stage::Received);
        let Some(prepared) = self.prepare(delivery, tenant, work, exposure).await? else {
            return Ok(Outcome::Done);
        };
        self.attempt(delivery, prepared).await?;
        Ok(Outcome::Done)
    }
}

/// All that an attempt needs but the permit.
struct Prepared {
    turn: Turn,
    integration: Integration,
    provider: Arc<dyn Provider>,
    account: Account,
    log: Log,
    /// `None` when the account is locked: then the budget is told, and nothing is tried.
    ready: Option<(AttemptConnection, SecretBytes)>,
    /// How long the provider let us wait so far.
    waited: std::time::Duration,
}

/// What the directory's log of sign-ins adds to what its account shows.
#[derive(Clone, Copy)]
enum Log {
    /// It cannot change anything, or we may not read it.
    Unread,
    /// It would have been of use, and did not answer now.
    Missed,
    /// This.
    Read(SignIns),
}

impl Log {
    fn read(self) -> Option<SignIns> {
        match self {
            Self::Read(sign_ins) => Some(sign_ins),
            Self::Unread | Self::Missed => None,
        }
    }
}

impl Validator {
    /// Everything before the reservation. `None`: the turn is over.
    async fn prepare(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        work: WorkId,
        exposure: ExposureId,
    ) -> Result<Option<Prepared>, HandlerError> {
        let mut tx = self.db.tenant_by_key(tenant).await?;
        let asked = Instant::now();
        let Some(loaded) = store::load(&mut tx, tenant, work, exposure).await? else {
            // Cancelled, decided, or handled under another message: nothing is left to do.
            store::drop_leftover(&mut tx, tenant, work).await?;
            message::finish(delivery, tx).await?;
            return Ok(None);
        };
        let Loaded { mut turn, entitled, secret, log_matters } = loaded;
        let integration = match standing(&turn, entitled) {
            Ok(integration) => integration,
            Err(outcome) => return self.end(delivery, tx, &turn, outcome).await,
        };
        turn.secret.own_page = integration.connection.signs_in_at(&turn.targets);
        if let Some(pause) = &turn.pause {
            return self.end(delivery, tx, &turn, paused(pause)).await;
        }
        if let Standing::Held(until, reason) = &turn.standing {
            return self.end(delivery, tx, &turn, held(*until, reason)).await;
        }
        let mut facts = match turn.facts {
            Some(account) => Facts {
                secret: turn.secret.clone(),
                account,
                allow_ad_backed: integration.settings.validation.allow_ad_backed,
                off: integration.settings.validation.rules_off.clone(),
                tried: Vec::new(),
            },
            None => return self.end(delivery, tx, &turn, gone()).await,
        };
        let insists = turn.asked.insists_since();
        if let Some(since) = insists {
            facts.overrule(since);
        }
        // A locked account is asked about once more: the directory may have unlocked it, or the budget must know.
        if let Some(decision) = triage::triage(&facts)
            && decision.verdict != Verdict::NotTestable(Reason::AccountLocked)
        {
            return self.end(delivery, tx, &turn, Ending::Decided(decision)).await;
        }
        let provider = match secret {
            Some(secret) => self.directories.connect_read(&mut tx, &integration, &secret, asked).await,
            None => Err(ConnectError::NoCredentials),
        };
        let provider = match provider {
            Ok(provider) => provider,
            Err(ConnectError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, integration = %integration.id, "directory cannot be used");
                return self.end(delivery, tx, &turn, later(Reason::Unavailable, LOOK_AGAIN)).await;
            }
        };
        tx.rollback().await?;

        let asked = Instant::now();
        let account = match provider.account(&turn.key.object).await {
            Ok(account) => account,
            Err(error) => return self.cannot_ask(delivery, &turn, &integration, &error).await,
        };
        let mut waited = asked.elapsed();
        if turn.standing == Standing::Doubtful {
            let mut tx = self.db.tenant_by_key(tenant).await?;
            turn.lane().answered(&mut tx).await?;
            tx.commit().await?;
        }
        let Some(account) = account else {
            return self.end(delivery, self.db.tenant_by_key(tenant).await?, &turn, gone()).await;
        };
        // What was tried holds until the password changes: only what the directory says now tells.
        // What was seen of the account until now holds only if it is seen now as well.
        let under_policy_since =
            facts.account.under_policy_since.filter(|_| account.under_policy == Some(true));
        facts.account = AccountFacts { under_policy_since, ..facts_of(&account) };
        facts.tried.clone_from(&turn.tried);
        if let Some(since) = insists {
            facts.overrule(since);
        }
        let locked = account.state == AccountState::Locked;
        if !locked && let Some(decision) = triage::triage(&facts) {
            let tx = self.db.tenant_by_key(tenant).await?;
            return self.end(delivery, tx, &turn, Ending::Decided(decision)).await;
        }
        if locked {
            let log = Log::Unread;
            return Ok(Some(Prepared { turn, integration, provider, account, log, ready: None, waited }));
        }
        let Some(password) = self.open(&turn).await? else {
            let decision = Decision::by(Rule::NoUsableSecret, Verdict::NotTestable(Reason::SecretUnusable))
                .because("secret", "the sealed secret does not open");
            let tx = self.db.tenant_by_key(tenant).await?;
            return self.end(delivery, tx, &turn, Ending::Decided(decision)).await;
        };
        if facts.asks(Rule::PolicyExcludes)
            && let (Some(policy), Some(text)) = (&turn.policy, password.expose_str())
            && let Some(decision) = triage::policy_excludes(policy, &facts.account, text)
        {
            let tx = self.db.tenant_by_key(tenant).await?;
            return self.end(delivery, tx, &turn, Ending::Decided(decision)).await;
        }
        let Some(verifier) = provider.verifier() else {
            let tx = self.db.tenant_by_key(tenant).await?;
            return self.end(delivery, tx, &turn, switched_off()).await;
        };
        let asked = Instant::now();
        // The directory's strictest policy may be about other accounts. Where this one's is not told, it counts.
        if turn.threshold.is_some() {
            let own = provider.lockout_threshold(&account).await.unwrap_or_else(|error| {
                tracing::debug!(%error, integration = %integration.id, "the account's own threshold is not told");
                None
            });
            turn.threshold = own.or(turn.threshold);
        }
        let log = if log_matters { look_up(&*provider, &turn).await } else { Log::Unread };
        let connection = match verifier.connect().await {
            Ok(connection) => connection,
            Err(error) => return self.cannot_ask(delivery, &turn, &integration, &error).await,
        };
        waited += asked.elapsed();
        reach(Stage::Connected);
        let ready = Some((connection, password));
        Ok(Some(Prepared { turn, integration, provider, account, log, ready, waited }))
    }

    /// Reserve, submit once, store the result.
    async fn attempt(&self, delivery: &Delivery, prepared: Prepared) -> Result<(), HandlerError> {
        let Prepared { mut turn, integration, provider, account, log, ready, waited } = prepared;
        let (mut reservation, held) =
            Reservation::begin_with(&self.db, turn.tenant, store::hold(&turn)).await?;
        let tx = reservation.tx();
        if !store::held(tx, &held)? {
            reservation.abandon().await?;
            return done(delivery, &self.db).await;
        }
        let present = store::present(tx, &turn).await?;
        let insists = turn.asked.insists_since();
        turn.asked = present.asked;
        let settings = match standing(&turn, present.entitled) {
            Ok(now) if now.version == integration.version && turn.asked.insists_since() == insists => {
                now.settings.validation
            }
            // It changed since we connected with it, or what people insist on did: begin again with what is now.
            Ok(_) => {
                reservation.abandon().await?;
                return self.leave(delivery, &turn, later(Reason::Unavailable, Duration::seconds(1))).await;
            }
            Err(outcome) => {
                reservation.abandon().await?;
                return self.leave(delivery, &turn, outcome).await;
            }
        };
        if let Some(pause) = present.pause {
            reservation.abandon().await?;
            return self.leave(delivery, &turn, paused(&pause)).await;
        }
        let intent = intent(&turn, &integration, &account);
        let ask = Ask {
            attempt: turn.attempt(),
            account: &turn.key,
            limits: Limits::new(
                &settings,
                &integration.connection,
                turn.threshold,
                account.authority == PasswordAuthority::Ad,
            ),
            owner: OwnerSeen {
                sign_in_at: account.last_sign_in_at.max(log.read().and_then(|log| log.last_success)),
                password_changed_at: facts_of(&account).trusted_password_change(),
                locked: ready.is_none(),
                failures: log.read().map(|log| log.failures),
            },
            intent: &intent,
            turn: Some((turn.exposure, turn.work)),
        };
        let answer = reservation.ask(&ask).await?;
        let (connection, password) = match (answer, ready) {
            (Answer::Granted, Some(ready)) => ready,
            // INVARIANT: what has a reservation is never sent again. Its holder or the reaper concludes it.
            (Answer::Already, _) => {
                reservation.abandon().await?;
                metrics::counter!("parapet_attempts_repeated_total").increment(1);
                return done(delivery, &self.db).await;
            }
            (Answer::Granted, None) => {
                reservation.abandon().await?;
                return Err(HandlerError::Transient(anyhow::anyhow!(
                    "a locked account was granted an attempt"
                )));
            }
            (Answer::Denied { reason, free_at }, _) => {
                let outcome = match denied(reason, free_at) {
                    // The log may show the sign-in that the account does not.
                    Ending::Watched(decision, _) if matches!(log, Log::Missed) => {
                        Ending::Watched(decision, LOOK_AGAIN)
                    }
                    outcome => outcome,
                };
                write(reservation.tx(), &turn, &outcome).await?;
                let first = delivery.done(reservation.tx()).await?;
                return if first {
                    reservation.commit().await.map(drop)
                } else {
                    reservation.abandon().await
                }
                .map_err(Into::into);
            }
        };
        reach(Stage::Reserving);
        // Anything but a commit that was seen to succeed: not ours, nothing is sent.
        let Some((permit, ticket)) = reservation.commit().await? else {
            return Err(HandlerError::Transient(anyhow::anyhow!("no permit")));
        };
        reach(Stage::Reserved);
        let Some(verifier) = provider.verifier() else { return done(delivery, &self.db).await };
        let begun = Instant::now();
        let attempted = verifier.verify(permit, connection, &account, &password).await;
        let waited = waited + begun.elapsed();
        metrics::histogram!("parapet_attempt_seconds").record(begun.elapsed().as_secs_f64());
        drop(password);
        reach(Stage::Answered);
        Conclusion {
            db: &self.db,
            turn: &turn,
            integration: &integration,
            login: &account.login,
            ticket,
            attempted,
        }
        .store(delivery)
        .await?;
        let ours = delivery.received.elapsed().saturating_sub(waited);
        metrics::histogram!("parapet_attempt_overhead_seconds").record(ours.as_secs_f64());
        reach(Stage::Concluded);
        Ok(())
    }

    async fn open(&self, turn: &Turn) -> Result<Option<SecretBytes>, HandlerError> {
        let Some(sealed) = &turn.sealed else { return Ok(None) };
        let opener = if let Some(kept) = self.keys.opener_kept(Some(turn.tenant), sealed) {
            kept
        } else {
            let mut tx = self.db.tenant_by_key(turn.tenant).await?;
            let opener = self.keys.opener(&mut tx, Some(turn.tenant), sealed).await;
            tx.rollback().await?;
            opener.map_err(|e| HandlerError::Transient(e.into()))?
        };
        let place = Owner {
            tenant: Some(turn.tenant),
            table: column::EXPOSURE_SECRET,
            row: turn.exposure.uuid(),
            version: 1,
        };
        match opener.open(&place, sealed) {
            Ok(password) => Ok(Some(password.into())),
            Err(error) => {
                tracing::error!(%error, exposure = %turn.exposure, "a leaked secret does not open");
                Ok(None)
            }
        }
    }

    /// The directory could not be asked; nothing was submitted and nothing is spent.
    async fn cannot_ask(
        &self,
        delivery: &Delivery,
        turn: &Turn,
        integration: &Integration,
        error: &ProviderError,
    ) -> Result<Option<Prepared>, HandlerError> {
        tracing::debug!(%error, integration = %integration.id, "directory cannot be asked");
        let mut tx = self.db.tenant_by_key(turn.tenant).await?;
        let waits = turn.lane().failed(&mut tx, error).await?;
        let outcome = match (error, waits) {
            (ProviderError::Refused(missing), _) => {
                signals::lost(&mut tx, turn, integration, missing.reason, &missing.message).await?;
                later(Reason::Configuration, LOOK_AGAIN)
            }
            (ProviderError::Throttled { .. } | ProviderError::Paced { .. }, Some(until)) => {
                Ending::Later(Reason::Throttled, After::At(until))
            }
            (_, Some(until)) => Ending::Later(Reason::Unavailable, After::At(until)),
            (_, None) => later(Reason::Unavailable, UNAVAILABLE),
        };
        self.end(delivery, tx, turn, outcome).await
    }

    async fn leave(&self, delivery: &Delivery, turn: &Turn, outcome: Ending) -> Result<(), HandlerError> {
        let tx = self.db.tenant_by_key(turn.tenant).await?;
        self.end(delivery, tx, turn, outcome).await.map(drop)
    }

    /// Ends the turn without an attempt.
    async fn end(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        turn: &Turn,
        outcome: Ending,
    ) -> Result<Option<Prepared>, HandlerError> {
        if store::lock(&mut tx, turn).await? {
            write(&mut tx, turn, &outcome).await?;
        }
        message::finish(delivery, tx).await?;
        Ok(None)
    }
}

async fn done(delivery: &Delivery, db: &Db) -> Result<(), HandlerError> {
    Ok(message::finish(delivery, db.system().await?).await?)
}

/// Reads the log of sign-ins. It only ever adds to what is known: where it does not answer, the turn goes on without it, as
/// where we may not read it.
///
/// It is read only when something of the account's reserve is spent: without an attempt of ours since the owner's last
/// sign-in there is nothing to free, and what the owner spent alone is the owner's. Logs are rationed (entra.md §7.4).
async fn look_up(provider: &dyn Provider, turn: &Turn) -> Log {
    let (log, outcome) = match provider.sign_ins(&turn.key.object, OffsetDateTime::now_utc() - LOG_SPAN).await
    {
        Ok(Some(sign_ins)) => (Log::Read(sign_ins), "read"),
        Ok(None) => (Log::Unread, "not_granted"),
        Err(error) => {
            tracing::debug!(%error, integration = %turn.integration, "the log of sign-ins was not read");
            (Log::Missed, "missed")
        }
    };
    metrics::counter!("parapet_sign_in_logs_total", "outcome" => outcome).increment(1);
    log
}

/// What a look at the account shows; not since when.
fn facts_of(account: &Account) -> AccountFacts {
    AccountFacts {
        state: account.state,
        kind: account.kind,
        authority: account.authority,
        hybrid: account.hybrid,
        under_policy_since: None,
        password_changed_at: account.password_changed_at,
        created_at: account.created_at,
        removed: account.removed,
    }
}

fn intent(turn: &Turn, integration: &Integration, account: &Account) -> Event {
    Event::new(
        Some(turn.tenant),
        names::VALIDATION_ATTEMPT,
        Actor::Service(NAME),
        Became::Intent,
        "A leaked password is about to be submitted once",
    )
    .cause(CauseId(turn.exposure.uuid()))
    .integration(integration.id)
    .object("exposure", turn.exposure)
    .user(&turn.key.object, &account.login)
    .detail("attempt_id", turn.attempt())
}
