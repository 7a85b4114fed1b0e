//! Accounts: what they are, whose password lives where, and how it came to be what it is.

use crate::{
    dice::Dice,
    directory::Provider,
    feeds::Leak,
    numbers::{
        CONNECTED_DAYS, DAY, ENTRA_KINDS, HYBRID, OKTA_KINDS, OLDEST_ACCOUNT_DAYS, PASSWORD_AGE_DAYS,
        POLICY_DAYS, ROTATING, SECOND_FACTOR,
    },
    owners::{Habits, Planned},
};

/// A password of one account. Equal ids are equal passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Password {
    /// Which one.
    pub id: u32,
    /// It satisfies the directory's policy.
    pub complex: bool,
}

impl Password {
    /// How it is spelt.
    pub fn text(self) -> String {
        if self.complex { format!("Blue-Harbour-{}", self.id) } else { format!("harbour{}", self.id) }
    }
}

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A person's.
    Person,
    /// An administrator's.
    Admin,
    /// A service's: nobody signs in.
    Service,
    /// The password is checked by Active Directory.
    AdBacked,
    /// The password is checked by another identity provider.
    Federated,
    /// There is no password.
    Passwordless,
    /// A guest.
    Guest,
    /// Disabled.
    Disabled,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Person,
        Self::Admin,
        Self::Service,
        Self::AdBacked,
        Self::Federated,
        Self::Passwordless,
        Self::Guest,
        Self::Disabled,
    ];
    /// Its password may be tested here.
    pub fn testable(self) -> bool {
        matches!(self, Self::Person | Self::Admin | Self::Service)
    }
}

/// One account, its owner and its leaks; the same for every policy.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its number.
    pub index: u32,
    /// What it is.
    pub kind: Kind,
    /// Mastered on premises.
    pub hybrid: bool,
    /// A second factor follows the password.
    pub second_factor: bool,
    /// When it was created.
    pub created: i64,
    /// Its passwords before the simulation and since when, oldest first.
    pub history: Vec<(i64, Password)>,
    /// How its owner behaves.
    pub habits: Habits,
    /// What the owner is going to do, in order.
    pub plan: Vec<(i64, Planned)>,
    /// What leaks, in the order of arrival.
    pub leaks: Vec<Leak>,
}

/// Whose run it is.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The seed.
    pub seed: u64,
    /// The directory.
    pub provider: Provider,
    /// Accounts in it.
    pub accounts: u32,
    /// How long it lasts, in seconds.
    pub length: i64,
}

impl World {
    /// Dice of one account for one purpose.
    pub fn dice(&self, account: u32, purpose: u8) -> Dice {
        Dice::new(self.seed, self.provider.name(), account, purpose)
    }

    /// Everybody.
    pub fn populate(&self) -> Vec<Account> {
        let collections = crate::feeds::collections(self);
        (0..self.accounts).map(|index| self.account(index, &collections)).collect()
    }

    fn account(&self, index: u32, collections: &[i64]) -> Account {
        let mut dice = self.dice(index, b'a');
        let kinds = if self.provider == Provider::Okta { OKTA_KINDS } else { ENTRA_KINDS };
        let kind = Kind::ALL.get(dice.pick(kinds)).copied().unwrap_or(Kind::Person);
        let created = -dice.between(CONNECTED_DAYS.min(OLDEST_ACCOUNT_DAYS / 4), OLDEST_ACCOUNT_DAYS) * DAY;
        let rotating = kind != Kind::Service && dice.percent(ROTATING);
        let history = history(&mut dice, created, rotating);
        let habits = Habits::draw(self, index, kind, rotating);
        let mut account = Account {
            index,
            kind,
            hybrid: self.provider == Provider::Entra && dice.percent(HYBRID),
            second_factor: kind != Kind::Service && dice.percent(SECOND_FACTOR),
            created,
            history,
            habits,
            plan: Vec::new(),
            leaks: Vec::new(),
        };
        account.plan = crate::owners::plan(self, &account);
        account.leaks = crate::feeds::leaks(self, &account, collections);
        account
    }
}

/// Passwords since the account was created: each as old as its owner lets it become.
fn history(dice: &mut Dice, created: i64, rotating: bool) -> Vec<(i64, Password)> {
    let mut history = Vec::new();
    let mut at = created;
    let mut id = 0;
    while at < 0 {
        // Set before there was a policy, or with the account, a password may be anything.
        let complex = (at > -POLICY_DAYS * DAY && at > created) || dice.percent(50);
        history.push((at, Password { id, complex }));
        id += 1;
        #[expect(clippy::cast_possible_truncation, reason = "days")]
        let age = if rotating { 90 } else { 1 + dice.exponential(PASSWORD_AGE_DAYS) as i64 };
        at += age * DAY + dice.between(0, DAY);
    }
    history
}

impl Account {
    /// The password when the simulation begins.
    pub fn password(&self) -> Password {
        self.history.last().map_or(Password { id: 0, complex: true }, |(_, password)| *password)
    }
    /// When a password was set.
    pub fn set_at(&self, password: Password) -> Option<i64> {
        let planned = self.plan.iter().filter_map(|(at, planned)| match planned {
            Planned::Change(new) => Some((*at, *new)),
            _ => None,
        });
        self.history.iter().copied().chain(planned).find(|(_, set)| *set == password).map(|(at, _)| at)
    }
    /// The password at an instant, as far as it was planned.
    pub fn planned_password(&self, at: i64) -> Password {
        let planned = self.plan.iter().rev().find_map(|(when, planned)| match planned {
            Planned::Change(password) if *when <= at => Some(*password),
            _ => None,
        });
        let before =
            || self.history.iter().rev().find(|(since, _)| *since <= at).map(|(_, password)| *password);
        planned.or_else(before).unwrap_or_else(|| self.password())
    }
}
