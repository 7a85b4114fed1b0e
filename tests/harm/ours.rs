//! Parapet: the shipped triage, order, budget and endings, driven through simulated time.
//!
//! What is in SQL of the validator's own tables (which exposures wait, what was proven) is kept here; what decides is the
//! shipped code: `triage`, `policy_excludes`, `likelihood` and its rank, `captured_until` and `submittable`, `budget.decide` and
//! `budget.settle`, and `ending::denied`. A turn goes as `turn.rs` and `conclude.rs` have it. Accounts do not touch one
//! another, so all that want something ask together, each at its own instant. Nothing is history, and the memory of
//! tried passwords is empty at first.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use credential_validator::{
    ending::{self, After, Ending},
    triage::{self, AccountFacts, Decision, Facts, PasswordPolicy, Secret, Tried},
};
use shared::{
    provider::{AccountKind, AccountState, PasswordAuthority, SignIns},
    triage::{Cause, Place},
    verdict::{Reason, Verdict},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    budget::{Budget, Ended, Question, Said, instant, seconds},
    directory::{Answer, Provider},
    feeds::Leak,
    life::{Life, Shown},
    numbers::{CONNECTED_DAYS, DAY, HOUR, MINUTE},
    policies::{Course, Pair},
    population::{Account, Kind, World},
};

/// Between two syncs of changes.
const SYNC: i64 = 5 * MINUTE;

/// What became of Parapet's exposures.
#[derive(Debug, Default)]
pub struct Ours {
    /// As of every policy.
    pub course: Course,
    /// Exposures that have their verdict without an attempt, by the rule.
    pub free: BTreeMap<String, u64>,
    /// Exposures that have their verdict by an attempt.
    pub tried: u64,
    /// Exposures that still wait.
    pub waiting: u64,
    /// Passwords that cannot be tested until their owner signs in: `not_testable(reserve)`.
    pub reserved: HashSet<Pair>,
    /// Verdicts without an attempt that the directory contradicts.
    pub wrong: Vec<String>,
    /// Attempts that met a locked account.
    pub locked_answers: u64,
}

/// Runs Parapet.
pub async fn run(world: &World, accounts: &[Account], budget: &mut Budget) -> anyhow::Result<Ours> {
    let mut ours = Ours::default();
    let mut turns: Vec<Turns<'_>> = Vec::new();
    for account in accounts.iter().filter(|account| !account.leaks.is_empty()) {
        turns.push(Turns::new(world, account));
    }
    let mut settled = Vec::new();
    let mut waiting: Vec<(Turns<'_>, Question)> = Vec::new();
    loop {
        for mut account in turns.drain(..) {
            match account.ask(&mut ours) {
                Some(question) => waiting.push((account, question)),
                None => account.close(&mut ours),
            }
        }
        if waiting.is_empty() {
            return Ok(ours);
        }
        let questions: Vec<_> = waiting.iter().map(|(_, question)| question.clone()).collect();
        let said = budget.decide(&questions).await?;
        for ((mut account, question), said) in waiting.drain(..).zip(said) {
            settled.extend(account.answered(&mut ours, &question, said));
            turns.push(account);
        }
        budget.settle(&settled).await?;
        settled.clear();
    }
}

/// Where an exposure stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has not arrived.
    Coming,
    /// It waits until then.
    Waiting(i64),
    /// It is looked at again then; until the owner signs in it is `not_testable(reserve)`.
    Watched(i64),
    /// It has its verdict; a change of the account may reopen it.
    Decided {
        /// By an attempt.
        attempted: bool,
        /// `sync.accounts` may say otherwise one day.
        reopens: bool,
    },
}

struct Exposure<'a> {
    leak: &'a Leak,
    secret: Secret,
    state: State,
    priority: i16,
    rule: String,
}

/// The turns of one account's exposures.
struct Turns<'a> {
    world: &'a World,
    life: Life<'a>,
    exposures: Vec<Exposure<'a>>,
    arrived: usize,
    synced: Shown,
    sync_at: Option<i64>,
    tried: Vec<Tried>,
    /// Whose turn the question is about.
    turn: usize,
    questions: u64,
}

impl<'a> Turns<'a> {
    fn new(world: &'a World, account: &'a Account) -> Self {
        let life = Life::new(world.provider, account);
        let exposures = account.leaks.iter().map(|leak| Exposure {
            leak,
            secret: secret(leak),
            state: State::Coming,
            priority: 0,
            rule: String::new(),
        });
        Self {
            world,
            synced: life.shown(0),
            exposures: exposures.collect(),
            life,
            arrived: 0,
            sync_at: None,
            tried: Vec::new(),
            turn: 0,
            questions: 0,
        }
    }

    /// Goes on until the budget is to be asked; `None`: the time is over.
    fn ask(&mut self, ours: &mut Ours) -> Option<Question> {
        loop {
            let arrives = self.exposures.get(self.arrived).map(|e| e.leak.arrives);
            let due = self.exposures.iter().filter_map(|e| match e.state {
                State::Waiting(until) | State::Watched(until) => Some(until),
                _ => None,
            });
            let next = due.chain(arrives).chain(self.sync_at).chain(self.life.next()).min();
            let now = next.filter(|at| *at < self.world.length)?;
            self.life.until(now);
            if self.life.take_news() {
                self.sync_at.get_or_insert(match self.world.provider {
                    Provider::Okta => (now / SYNC + 1) * SYNC,
                    // Whether a changed password shows in a delta is not known; in the night it does.
                    Provider::Entra => (now / DAY + 1) * DAY + 2 * HOUR,
                });
            }
            if self.sync_at.is_some_and(|at| at <= now) {
                self.sync(now);
            }
            while self.exposures.get(self.arrived).is_some_and(|e| e.leak.arrives <= now) {
                self.arrive(now, ours);
                self.arrived += 1;
            }
            // The dispatcher's order.
            let due = self.exposures.iter().enumerate().filter_map(|(place, e)| match e.state {
                State::Waiting(until) | State::Watched(until) if until <= now => {
                    Some((e.priority, until, place))
                }
                _ => None,
            });
            if let Some((_, _, place)) = due.min()
                && let Some(question) = self.take_turn(place, now, ours)
            {
                return Some(question);
            }
        }
    }

    /// As `accounts.changed`: what waits looks again, what could not be tested because of the account is reopened.
    fn sync(&mut self, now: i64) {
        self.sync_at = None;
        self.synced = self.life.shown(now);
        for exposure in &mut self.exposures {
            if matches!(
                exposure.state,
                State::Waiting(_) | State::Watched(_) | State::Decided { reopens: true, .. }
            ) {
                exposure.state = State::Waiting(now);
            }
        }
    }

    fn arrive(&mut self, now: i64, ours: &mut Ours) {
        let account = self.facts(self.synced);
        let Some(exposure) = self.exposures.get_mut(self.arrived) else { return };
        let captured = exposure.leak.captured.map(instant);
        let source = exposure.leak.source.kind();
        let likelihood = triage::likelihood(&exposure.secret, &account, source, captured, instant(now));
        let privileged = self.life.account.kind == Kind::Admin;
        exposure.priority = Place { likelihood: Some(likelihood), privileged }.rank(Cause::Rule);
        exposure.state = State::Waiting(now);
        let facts = Facts {
            secret: exposure.secret.clone(),
            account,
            allow_ad_backed: false,
            off: BTreeSet::new(),
            tried: Vec::new(),
        };
        if let Some(decision) = triage::triage(&facts) {
            self.decide(self.arrived, &decision, now, ours);
        }
    }

    /// Triage once more, first on what was synced, then on what the directory says.
    fn take_turn(&mut self, place: usize, now: i64, ours: &mut Ours) -> Option<Question> {
        let shown = self.life.shown(now);
        let exposure = self.exposures.get(place)?;
        let (leak, secret) = (exposure.leak, exposure.secret.clone());
        let mut facts = Facts {
            secret,
            account: self.facts(self.synced),
            allow_ad_backed: false,
            off: BTreeSet::new(),
            tried: Vec::new(),
        };
        let locked_out = Verdict::NotTestable(Reason::AccountLocked);
        let mut decision = triage::triage(&facts).filter(|decision| decision.verdict != locked_out);
        if decision.is_none() {
            facts.account = self.facts(shown);
            facts.tried.clone_from(&self.tried);
            decision = triage::triage(&facts).filter(|_| !shown.locked);
        }
        if decision.is_none() && !shown.locked {
            let policy = match self.world.provider {
                Provider::Okta => &OKTA_POLICY,
                Provider::Entra => &ENTRA_POLICY,
            };
            decision = triage::policy_excludes(policy, &facts.account, &leak.password.text());
        }
        if let Some(decision) = decision {
            self.decide(place, &decision, now, ours);
            return None;
        }
        let log: Vec<_> = self.life.logged(now).map(|(at, sign_in)| (instant(at), sign_in)).collect();
        self.turn = place;
        self.questions += 1;
        let name = (u128::from(self.life.account.index) << 64) | u128::from(self.questions);
        Some(Question {
            attempt: Uuid::from_u128(name),
            nonce: Uuid::from_u128(!name),
            account: self.life.account.index,
            // As the adapters read it: where the last success was no visit to the sign-in page, nothing is known.
            signed_in: shown.signed_in.filter(|_| shown.succeeded == shown.signed_in),
            changed: facts.account.trusted_password_change().map(seconds),
            log: SignIns::of(&log),
            locked: shown.locked,
            at: now,
        })
    }

    /// What the budget said, and what comes of it.
    fn answered(&mut self, ours: &mut Ours, question: &Question, said: Said) -> Option<Ended> {
        let place = self.turn;
        let now = question.at;
        let later = |until: i64| until.max(now + 1);
        if let Said::Denied(reason, free_at) = said {
            let state = match ending::denied(reason, free_at.map(instant)) {
                Ending::Decided(decision) | Ending::Idle(decision) => {
                    self.decide(place, &decision, now, ours);
                    return None;
                }
                Ending::Later(_, After::At(at)) => State::Waiting(later(seconds(at))),
                Ending::Later(_, After::A(length)) => State::Waiting(later(now + length.whole_seconds())),
                Ending::Watched(_, length) => State::Watched(later(now + length.whole_seconds())),
                // Nobody pauses a request here.
                Ending::Withheld => return None,
            };
            self.set(place, state);
            return None;
        }
        let leak = self.exposures.get(place)?.leak;
        ours.course.attempts += 1;
        let answer = self.life.attempt(now + 1, leak.password);
        let locked = answer == Answer::Locked || self.life.shown(now + 2).locked;
        let verdict = match answer {
            Answer::Right if self.life.account.second_factor => Verdict::ValidSecondFactor,
            Answer::Right => Verdict::Valid,
            _ if locked => Verdict::Inconclusive(Reason::LockedOrBlocked),
            _ => Verdict::Invalid,
        };
        ours.locked_answers += u64::from(locked);
        self.set(place, State::Decided { attempted: true, reopens: false });
        if verdict.is_valid() {
            ours.course.found.entry((question.account, leak.password)).or_insert(now);
        }
        if verdict.is_proven() {
            self.remember(place, verdict, now);
        }
        Some(Ended {
            attempt: question.attempt,
            nonce: question.nonce,
            account: question.account,
            result: verdict.name(),
            locked,
            at: now + 1,
        })
    }

    /// What was proven may decide others of the account that wait.
    fn remember(&mut self, place: usize, verdict: Verdict, now: i64) {
        let Some(digest) = self.exposures.get(place).and_then(|e| e.secret.digest.clone()) else { return };
        self.tried.retain(|tried| tried.digest != digest);
        for exposure in &mut self.exposures {
            let concerned = verdict.is_valid() || exposure.secret.digest.as_ref() == Some(&digest);
            if concerned && let State::Waiting(until) | State::Watched(until) = exposure.state {
                exposure.state = State::Waiting(until.min(now + 2));
            }
        }
        self.tried.push(Tried { digest, verdict, at: instant(now + 1) });
    }

    /// A verdict without an attempt, held against the truth.
    fn decide(&mut self, place: usize, decision: &Decision, now: i64, ours: &mut Ours) {
        let works = self.life.password();
        let Some(exposure) = self.exposures.get_mut(place) else { return };
        let right = exposure.leak.password == works;
        let testable = self.life.account.kind.testable() && exposure.leak.usable();
        let wrong = match decision.verdict {
            Verdict::Stale(_) => right && testable,
            verdict => verdict.is_valid() && !right,
        };
        exposure.rule = match (decision.evidence.get("rule"), decision.verdict.reason()) {
            (Some(rule), _) if rule == "already_tried" => rule.clone(),
            (_, Some(reason)) => reason.as_str().to_owned(),
            (rule, None) => rule.cloned().unwrap_or_default(),
        };
        if wrong {
            let day = now / DAY;
            ours.wrong.push(format!("account {} on day {day}: {}", self.life.account.index, exposure.rule));
        }
        let reopens = matches!(decision.verdict, Verdict::NotTestable(Reason::AccountLocked));
        exposure.state = State::Decided { attempted: false, reopens };
    }

    fn set(&mut self, place: usize, state: State) {
        if let Some(exposure) = self.exposures.get_mut(place) {
            exposure.state = state;
        }
    }

    fn facts(&self, shown: Shown) -> AccountFacts {
        let account = self.life.account;
        AccountFacts {
            state: match account.kind {
                Kind::Disabled => AccountState::Disabled,
                _ if shown.locked => AccountState::Locked,
                _ => AccountState::Active,
            },
            kind: if account.kind == Kind::Guest { AccountKind::Guest } else { AccountKind::Member },
            authority: match account.kind {
                Kind::AdBacked => PasswordAuthority::Ad,
                Kind::Federated => PasswordAuthority::Federated,
                Kind::Passwordless => PasswordAuthority::None,
                _ => PasswordAuthority::Cloud,
            },
            hybrid: account.hybrid,
            // As the adapters read it; nobody moves between directories or is excepted here.
            under_policy_since: (!account.hybrid && account.kind.testable()).then_some(CONNECTED),
            password_changed_at: Some(instant(shown.changed)),
            created_at: Some(instant(account.created)),
            removed: false,
        }
    }

    fn close(mut self, ours: &mut Ours) {
        self.life.until(self.world.length);
        let index = self.life.account.index;
        for exposure in &self.exposures {
            if matches!(exposure.state, State::Watched(_)) {
                ours.reserved.insert((index, exposure.leak.password));
            }
            match exposure.state {
                State::Decided { attempted: true, .. } => ours.tried += 1,
                State::Decided { .. } => *ours.free.entry(exposure.rule.clone()).or_default() += 1,
                State::Coming | State::Waiting(_) | State::Watched(_) => ours.waiting += 1,
            }
        }
        ours.course.lockouts.extend(self.life.lockouts.iter().map(|locked| (index, *locked)));
    }
}

/// Since when Parapet has been reading the directory.
const CONNECTED: OffsetDateTime =
    time::macros::datetime!(2026-01-05 00:00 UTC).saturating_sub(time::Duration::days(CONNECTED_DAYS));
/// Three kinds of characters, as an org's administrators may ask for.
const OKTA_POLICY: PasswordPolicy = PasswordPolicy {
    min_length: 8,
    min_lower: 1,
    min_upper: 1,
    min_digits: 1,
    min_classes: 0,
    since: CONNECTED,
};
/// Microsoft's fixed rule.
const ENTRA_POLICY: PasswordPolicy = PasswordPolicy {
    min_length: 8,
    min_lower: 0,
    min_upper: 0,
    min_digits: 0,
    min_classes: 3,
    since: CONNECTED,
};

fn secret(leak: &Leak) -> Secret {
    let text = leak.password.text();
    let text = if leak.unusable { format!(" {text}") } else { text };
    let received = instant(leak.arrives);
    Secret {
        form: leak.form,
        kept: leak.form == triage::SecretForm::Password,
        expired: false,
        unusable: !triage::submittable(text.as_bytes()),
        digest: Some(leak.password.id.to_be_bytes().to_vec()),
        captured_until: triage::captured_until(
            leak.captured.map(instant),
            Some(leak.precision),
            Some(received),
            leak.first_seen.map(instant),
            received,
        ),
        own_page: leak.own_page,
    }
}
