//! One account in one run: its owner's plan, its directory, and whoever else submits passwords.

use std::collections::VecDeque;

use shared::provider::SignIn;

use crate::{
    directory::{Answer, Lockout, Provider},
    numbers::{HOUR, MINUTE},
    owners::{Planned, Session},
    population::{Account, Password},
};

/// How late Entra ID shows a sign-in (assumed; Microsoft promises none).
const SHOWN_AFTER: i64 = HOUR;
/// Entries of the log of sign-ins that are kept; Parapet reads more of them.
const LOGGED: usize = 100;

/// The account was locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked {
    /// In which session of its owner; `None`: by an attempt.
    pub session: Option<u32>,
    /// Wrong passwords of the owner that counted since the last sign-in or reset.
    pub owner_failures: u32,
}

/// What the directory tells about the account.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Locked, where it tells.
    pub locked: bool,
    /// When the password last changed.
    pub changed: i64,
    /// The owner's last sign-in at the page.
    pub signed_in: Option<i64>,
    /// The last success of any kind.
    pub succeeded: Option<i64>,
}

/// What follows from what happened.
#[derive(Clone, Debug)]
enum Consequence {
    /// The help desk unlocks, and may reset the password.
    Help(Option<Password>),
    /// The owner comes back with the right password, in the same session.
    Back(Session),
}

/// One account's life.
#[derive(Debug)]
pub struct Life<'a> {
    /// Who.
    pub account: &'a Account,
    /// Every lockout so far.
    pub lockouts: Vec<Locked>,
    provider: Provider,
    lockout: Lockout,
    password: Password,
    changed: i64,
    /// The latest sign-ins, newest last.
    sign_ins: [Option<i64>; 2],
    /// The directory's log: what happened at the sign-in page, oldest first. Our successes and failures bear our name in it
    /// and are left out.
    log: VecDeque<(i64, SignIn)>,
    owner_failures: u32,
    planned: usize,
    consequences: Vec<(i64, Consequence)>,
    /// What the directory shows changed since it was last read.
    news: bool,
}

impl<'a> Life<'a> {
    /// From the beginning.
    pub fn new(provider: Provider, account: &'a Account) -> Self {
        // What was set before the account was synced shows with the account's own date.
        let changed =
            account.history.last().map_or(account.created, |(since, _)| (*since).max(account.created));
        Self {
            account,
            lockouts: Vec::new(),
            provider,
            lockout: Lockout::new(provider),
            password: account.password(),
            changed,
            sign_ins: [None, None],
            log: VecDeque::new(),
            owner_failures: 0,
            planned: 0,
            consequences: Vec::new(),
            news: false,
        }
    }

    /// The password now.
    pub fn password(&self) -> Password {
        self.password
    }

    /// When something happens next.
    pub fn next(&self) -> Option<i64> {
        let planned = self.account.plan.get(self.planned).map(|(at, _)| *at);
        let follows = self.consequences.iter().map(|(at, _)| *at).min();
        planned.into_iter().chain(follows).min()
    }

    /// Lets everything happen up to an instant.
    pub fn until(&mut self, at: i64) {
        while let Some(next) = self.next().filter(|next| *next <= at) {
            let due = self.consequences.iter().position(|(when, _)| *when == next);
            if let Some(due) = due {
                let (when, consequence) = self.consequences.swap_remove(due);
                self.follow(when, consequence);
            } else if let Some((when, planned)) = self.account.plan.get(self.planned) {
                self.planned += 1;
                self.act(*when, planned);
            }
        }
    }

    /// Somebody else submits a password.
    pub fn attempt(&mut self, at: i64, password: Password) -> Answer {
        let answer = self.submit(at, password, None);
        if answer == Answer::Locked {
            self.note(at, SignIn::Lock);
        }
        if answer == Answer::Right && !self.account.second_factor {
            self.signed_in(at);
        }
        answer
    }

    /// What the directory tells. Entra ID does not show locks, is late, and a renewed token is a success too.
    pub fn shown(&self, at: i64) -> Shown {
        let late = self.late();
        let signed_in = self.sign_ins.iter().flatten().copied().filter(|when| *when <= at - late).max();
        Shown {
            locked: self.provider == Provider::Okta && self.lockout.is_locked(at),
            changed: self.changed,
            signed_in,
            succeeded: signed_in.max(self.account.habits.renewed(at - late)),
        }
    }

    /// What its log of sign-ins shows. Devices that use a password by themselves are no visit to the page.
    pub fn logged(&self, at: i64) -> impl Iterator<Item = (i64, SignIn)> {
        let shown = at - self.late();
        self.log.iter().copied().filter(move |(when, _)| *when <= shown)
    }

    /// Whether the directory shows anything new since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    fn late(&self) -> i64 {
        if self.provider == Provider::Entra { SHOWN_AFTER } else { 0 }
    }

    fn note(&mut self, at: i64, sign_in: SignIn) {
        self.log.push_back((at, sign_in));
        if self.log.len() > LOGGED {
            self.log.pop_front();
        }
    }

    fn act(&mut self, at: i64, planned: &Planned) {
        let helped = self.consequences.iter().any(|(_, c)| matches!(c, Consequence::Help(_)));
        match planned {
            // Who waits for the help desk does not try.
            _ if helped => {}
            Planned::SignIn(session) => self.sign_in(at, session),
            Planned::Change(_) if self.lockout.is_locked(at) => {}
            // Both providers ask for the old password before they take a new one.
            Planned::Change(password) => {
                self.submit(at, self.password, Some(u32::MAX));
                self.change(at, *password);
            }
            Planned::Device(session, password) => {
                self.submit(at, *password, Some(*session));
            }
        }
    }

    fn sign_in(&mut self, at: i64, session: &Session) {
        let mut at = at;
        let right = (!session.forgotten).then_some(self.password);
        for typed in session.wrong.iter().copied().chain(right) {
            match self.submit(at, typed, Some(session.id)) {
                Answer::Right => {
                    self.note(at, SignIn::Success);
                    return self.signed_in(at);
                }
                Answer::Wrong => {
                    self.note(at, SignIn::Failure);
                    at += 20;
                }
                locked => {
                    let met = if locked == Answer::Locked { SignIn::Lock } else { SignIn::Failure };
                    self.note(at, met);
                    return self.locked_out(at, session);
                }
            }
        }
        self.consequences.push((at + session.help, Consequence::Help(session.reset)));
    }

    fn locked_out(&mut self, at: i64, session: &Session) {
        let follows = match (self.provider, self.lockout.locked_until()) {
            (Provider::Entra, Some(until)) => {
                let back = Session { wrong: Vec::new(), forgotten: session.forgotten, ..session.clone() };
                (until.max(at) + MINUTE, Consequence::Back(back))
            }
            _ => (at + session.help, Consequence::Help(session.reset)),
        };
        self.consequences.push(follows);
    }

    fn follow(&mut self, at: i64, consequence: Consequence) {
        match consequence {
            Consequence::Back(session) => self.sign_in(at, &session),
            Consequence::Help(reset) => {
                self.lockout.reset();
                self.owner_failures = 0;
                self.news = true;
                if let Some(password) = reset {
                    self.change(at, password);
                }
                self.note(at + 2 * MINUTE, SignIn::Success);
                self.signed_in(at + 2 * MINUTE);
            }
        }
    }

    fn change(&mut self, at: i64, password: Password) {
        self.password = password;
        self.changed = at;
        self.news = true;
    }

    fn submit(&mut self, at: i64, password: Password, session: Option<u32>) -> Answer {
        let before = self.lockout.failures();
        let answer = self.lockout.submit(at, password, self.password, session.is_some());
        let counted = self.lockout.failures() > before;
        match (session, answer) {
            (Some(_), Answer::Right) => self.owner_failures = 0,
            (Some(_), _) if counted => self.owner_failures += 1,
            _ => {}
        }
        if answer == Answer::WrongAndLocked {
            self.lockouts.push(Locked { session, owner_failures: self.owner_failures });
            self.news = true;
        }
        answer
    }

    fn signed_in(&mut self, at: i64) {
        self.sign_ins = [self.sign_ins[1], Some(at)];
    }
}
