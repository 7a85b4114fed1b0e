//! Nobody, and the two reference policies.
//!
//! Both references are reasonable: they read the account first and leave alone what cannot be tested or shows as locked,
//! take usable passwords only, and do not repeat a password once an answer proved it right or wrong. They differ in how
//! soon and how often they try, and know neither the owner nor the lockout policy.

use std::collections::{HashMap, HashSet};

use crate::{
    directory::Answer,
    life::{Life, Locked},
    numbers::DAY,
    population::{Account, Password, World},
};

/// What is tried when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Parapet.
    Ours,
    /// Every leak, at most twice a day for each account, by the calendar (UTC).
    TwiceADay,
    /// Every leak as soon as it arrives.
    AtOnce,
}

impl Policy {
    /// All, ours first.
    pub const ALL: [Self; 3] = [Self::Ours, Self::TwiceADay, Self::AtOnce];
    /// The name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::TwiceADay => "every leak, twice a day, calendar day",
            Self::AtOnce => "every leak at once",
        }
    }
    /// Attempts in a calendar day.
    const fn a_day(self) -> u32 {
        match self {
            Self::TwiceADay => 2,
            Self::Ours | Self::AtOnce => u32::MAX,
        }
    }
}

/// A password of an account.
pub type Pair = (u32, Password);

/// What became of a policy in one directory.
#[derive(Debug, Default)]
pub struct Course {
    /// Who was locked.
    pub lockouts: Vec<(u32, Locked)>,
    /// Passwords submitted.
    pub attempts: u64,
    /// Proven to work, and when.
    pub found: HashMap<Pair, i64>,
}

/// Nobody tries anything.
#[derive(Debug, Default)]
pub struct Untouched {
    /// Accounts that their owners lock, and in which session.
    pub lockouts: HashSet<(u32, Option<u32>)>,
    /// What works when it arrives, can be submitted and may be: since when it was there to be found.
    pub working: HashMap<Pair, i64>,
    /// Exposures.
    pub exposures: u64,
    /// Of these, the ones whose password works, in whatever form and on whatever account.
    pub work: u64,
}

impl Untouched {
    /// The same seed without any attempt.
    pub fn run(world: &World, accounts: &[Account]) -> Self {
        let mut all = Self::default();
        for account in accounts {
            let mut life = Life::new(world.provider, account);
            for leak in &account.leaks {
                life.until(leak.arrives);
                let works = leak.password == life.password();
                all.exposures += 1;
                all.work += u64::from(works);
                if works && leak.usable() && account.kind.testable() {
                    all.working.entry((account.index, leak.password)).or_insert(leak.arrives);
                }
            }
            life.until(world.length);
            all.lockouts.extend(life.lockouts.iter().map(|locked| (account.index, locked.session)));
        }
        all
    }
}

/// A reference policy.
pub fn reference(policy: Policy, world: &World, accounts: &[Account]) -> Course {
    let mut course = Course::default();
    for account in accounts.iter().filter(|account| !account.leaks.is_empty()) {
        let mut life = Life::new(world.provider, account);
        if account.kind.testable() {
            try_all(policy, world, &mut life, &mut course);
        }
        life.until(world.length);
        course.lockouts.extend(life.lockouts.iter().map(|locked| (account.index, *locked)));
    }
    course
}

fn try_all(policy: Policy, world: &World, life: &mut Life<'_>, course: &mut Course) {
    let mut arriving = life.account.leaks.iter().filter(|leak| leak.usable()).peekable();
    let mut pending: Vec<Password> = Vec::new();
    let mut proven: HashSet<Password> = HashSet::new();
    let (mut day, mut today) = (-1, 0);
    let mut now;
    // What is pending waits for the next midnight, or for company.
    while let Some(at) =
        [arriving.peek().map(|leak| leak.arrives), (!pending.is_empty()).then_some((day + 1) * DAY)]
            .into_iter()
            .flatten()
            .min()
            .filter(|at| *at < world.length)
    {
        now = at;
        if now / DAY > day {
            (day, today) = (now / DAY, 0);
        }
        while let Some(leak) = arriving.next_if(|leak| leak.arrives <= now) {
            if !proven.contains(&leak.password) && !pending.contains(&leak.password) {
                pending.push(leak.password);
            }
        }
        life.until(now);
        let mut unclear = Vec::new();
        while today < policy.a_day() && !pending.is_empty() && !life.shown(now).locked {
            let password = pending.remove(0);
            course.attempts += 1;
            today += 1;
            now += 1;
            match life.attempt(now, password) {
                Answer::Locked => unclear.push(password),
                answer => {
                    proven.insert(password);
                    if answer == Answer::Right {
                        course.found.entry((life.account.index, password)).or_insert(now);
                    }
                }
            }
        }
        pending.append(&mut unclear);
    }
}
