//! What the owners of accounts do: a plan made from the seed alone, so that it is the same whoever tries passwords.

use crate::{
    dice::Dice,
    directory::Provider,
    numbers::{
        DAY, ENTRA_TYPES, FORGETS, FORGOTTEN_DEVICE, HELP_DESK_HOURS, HOLIDAY, HOUR, LEAVE, MINUTE, MISTYPES,
        OKTA_TYPES, OLD_AFTER_CHANGE, PASSWORD_AGE_DAYS, RESET_WITH_UNLOCK, WRONG_TRIES,
    },
    population::{Account, Kind, Password, World},
};

/// Ids of passwords that are set within the simulation, by the owner or by the help desk, and of mistyped ones.
const CHANGED: u32 = 1_000;
const RESET: u32 = 100_000;
const MISTYPED: u32 = 1_000_000;

/// What an owner does.
#[derive(Clone, Debug)]
pub enum Planned {
    /// Types passwords at the sign-in page.
    SignIn(Session),
    /// Sets a new password.
    Change(Password),
    /// A device uses a password by itself, within this session.
    Device(u32, Password),
}

/// One visit to the sign-in page.
#[derive(Clone, Debug)]
pub struct Session {
    /// Names it, whatever happens in it.
    pub id: u32,
    /// What is typed before the right password.
    pub wrong: Vec<Password>,
    /// The right one does not come to mind: the help desk resets it.
    pub forgotten: bool,
    /// How long the help desk takes, should it be needed.
    pub help: i64,
    /// What it resets the password to, should it.
    pub reset: Option<Password>,
}

/// How an owner behaves.
#[derive(Clone, Debug)]
pub struct Habits {
    types: usize,
    rotating: bool,
    away: Option<(i64, i64)>,
    /// Tokens of the owner's devices renew themselves every working hour.
    renews: bool,
}

impl Habits {
    /// Habits of an account's owner.
    pub fn draw(world: &World, account: u32, kind: Kind, rotating: bool) -> Self {
        let mut dice = world.dice(account, b'h');
        let types = match world.provider {
            _ if !matches!(kind, Kind::Person | Kind::Admin) => 3,
            Provider::Okta => dice.pick(OKTA_TYPES),
            Provider::Entra => dice.pick(ENTRA_TYPES),
        };
        let away = if dice.percent(LEAVE) {
            Some((0, world.length))
        } else if dice.percent(HOLIDAY) {
            let begin = dice.between(-10 * DAY, world.length);
            Some((begin, begin + dice.between(5, 17) * DAY))
        } else {
            None
        };
        Self { types, rotating, away, renews: world.provider == Provider::Entra && kind != Kind::Service }
    }

    fn is_away(&self, at: i64) -> bool {
        self.away.is_some_and(|(from, to)| (from..to).contains(&at))
    }

    /// When a token last renewed itself.
    pub fn renewed(&self, at: i64) -> Option<i64> {
        let hour = at.div_euclid(HOUR) * HOUR;
        // Sixteen days of holiday and two weekends, or never within sight.
        let hours = (0..21 * 24).map(|back| hour - back * HOUR);
        self.renews.then_some(())?;
        hours.into_iter().find(|&at| works(at) && !self.is_away(at))
    }
}

fn works(at: i64) -> bool {
    at.div_euclid(DAY).rem_euclid(7) < 5 && (8..18).contains(&(at.rem_euclid(DAY) / HOUR))
}

/// Everything an owner is going to do, in order.
pub fn plan(world: &World, account: &Account) -> Vec<(i64, Planned)> {
    if !matches!(account.kind, Kind::Person | Kind::Admin) {
        return Vec::new();
    }
    let mut planner = Planner {
        dice: world.dice(account.index, b'p'),
        habits: &account.habits,
        password: account.password(),
        old: None,
        sessions: 0,
        mistyped: MISTYPED,
        plan: Vec::new(),
    };
    let since = account.history.last().map_or(0, |(since, _)| *since);
    let mut change_at = planner.next_change(since);
    for day in 0..world.length / DAY {
        let at = day * DAY;
        if day % 7 > 4 || account.habits.is_away(at) {
            continue;
        }
        let types = match account.habits.types {
            0 => 950,
            1 => 400,
            2 => 100,
            _ => 0,
        };
        if planner.dice.per_mille(types) {
            let morning = at + planner.dice.between(8 * HOUR, 10 * HOUR);
            let returned =
                account.habits.away.is_some_and(|(from, to)| from < at && (to..to + 7 * DAY).contains(&at));
            planner.sign_in(
                morning,
                returned && planner.plan.iter().all(|(before, _)| !(at - 7 * DAY..at).contains(before)),
            );
            if account.habits.types == 0 && planner.dice.percent(30) {
                let later = at + planner.dice.between(13 * HOUR, 16 * HOUR);
                planner.sign_in(later, false);
            }
        }
        if at >= change_at {
            planner.change(at + 12 * HOUR);
            change_at = planner.next_change(at);
        }
    }
    planner.plan.sort_by_key(|(at, _)| *at);
    planner.plan
}

struct Planner<'a> {
    dice: Dice,
    habits: &'a Habits,
    password: Password,
    /// The password before, until the new one has become a habit.
    old: Option<Password>,
    sessions: u32,
    mistyped: u32,
    plan: Vec<(i64, Planned)>,
}

impl Planner<'_> {
    fn next_change(&mut self, since: i64) -> i64 {
        if self.habits.rotating {
            return since + 90 * DAY;
        }
        #[expect(clippy::cast_possible_truncation, reason = "days")]
        let days = self.dice.exponential(PASSWORD_AGE_DAYS) as i64;
        // How old the password is already does not matter: it may be changed any day.
        since.max(0) + (1 + days) * DAY
    }

    fn slip(&mut self) -> Password {
        self.mistyped += 1;
        Password { id: self.mistyped, complex: true }
    }

    fn sign_in(&mut self, at: i64, from_holiday: bool) {
        let id = self.sessions;
        self.sessions += 1;
        let mut wrong = Vec::new();
        if let Some(old) = self.old.take()
            && self.dice.percent(OLD_AFTER_CHANGE)
        {
            wrong.extend((0..self.dice.between(1, 3)).map(|_| old));
        }
        let forgotten = from_holiday && self.dice.percent(FORGETS);
        if forgotten {
            let tries = self.dice.between(3, 13);
            wrong.extend((0..tries).map(|_| self.slip()));
        } else if self.dice.per_mille(MISTYPES) {
            let tries = 1 + self.dice.pick(WRONG_TRIES);
            for _ in 0..tries {
                // Every other time the same wrong password once more.
                let again = wrong.last().copied().filter(|_| self.dice.percent(50));
                let typed = again.unwrap_or_else(|| self.slip());
                wrong.push(typed);
            }
        }
        let resets = self.dice.percent(RESET_WITH_UNLOCK);
        let reset = (resets || forgotten).then_some(Password { id: RESET + id, complex: true });
        let help = self.dice.between(HOUR, HELP_DESK_HOURS * HOUR);
        self.plan.push((at, Planned::SignIn(Session { id, wrong, forgotten, help, reset })));
    }

    fn change(&mut self, at: i64) {
        let old = self.password;
        self.password = Password { id: CHANGED + self.sessions, complex: true };
        self.plan.push((at, Planned::Change(self.password)));
        self.old = Some(old);
        if self.dice.per_mille(FORGOTTEN_DEVICE) {
            let id = self.sessions;
            self.sessions += 1;
            self.plan.extend((1..=16).map(|n| (at + n * 30 * MINUTE, Planned::Device(id, old))));
        }
    }
}
