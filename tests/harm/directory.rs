//! The judge: how the two directories count failures and lock accounts, written from their documentation and from
//! nothing of Parapet's. Where they are silent it takes what locks sooner.
//!
//! - Okta: the tenth failure in a row locks, until somebody unlocks; no time resets the count. What resets it is an unlock
//!   and, commonly assumed, the owner's sign-in with the password. Our success does not.
//! - Entra ID: smart lockout at the tenth failure, for a minute; the next failure after it locks again, and after ten
//!   lockouts each lasts longer, up to five hours. A success while unlocked resets the count (B2C's description of the same
//!   protection). Repeats of the last three wrong passwords do not count. Documented are two counters, for places that
//!   are familiar and places that are not; here both sides share one, as if the owner were always travelling. A token that
//!   renews itself shows as a sign-in (`lastSuccessfulSignInDateTime`), but no password was entered: it resets nothing.

use crate::{
    numbers::{HOUR, MINUTE},
    population::Password,
};

/// Failures that lock, the default of both.
const THRESHOLD: u32 = 10;
/// Wrong passwords that Entra ID remembers.
const REMEMBERED: usize = 3;

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Okta.
    Okta,
    /// Microsoft Entra ID.
    Entra,
}

impl Provider {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Okta, Self::Entra];
    /// The name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Okta => "okta",
            Self::Entra => "entra_id",
        }
    }
}

/// What the directory says to a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is right.
    Right,
    /// It is wrong.
    Wrong,
    /// It is wrong, and the account is locked now.
    WrongAndLocked,
    /// The account is locked; the password was not looked at.
    Locked,
}

/// The failures of one account.
#[derive(Clone, Debug)]
pub struct Lockout {
    provider: Provider,
    failures: u32,
    /// Okta: for ever, until unlocked.
    locked_until: Option<i64>,
    lockouts: u32,
    last_wrong: [Option<Password>; REMEMBERED],
}

impl Lockout {
    /// No failure yet.
    pub fn new(provider: Provider) -> Self {
        Self { provider, failures: 0, locked_until: None, lockouts: 0, last_wrong: [None; REMEMBERED] }
    }

    /// Whether the account is locked.
    pub fn is_locked(&self, at: i64) -> bool {
        self.locked_until.is_some_and(|until| at < until)
    }

    /// How many failures counted.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Until when.
    pub fn locked_until(&self) -> Option<i64> {
        self.locked_until
    }

    /// Somebody submits a password.
    pub fn submit(&mut self, at: i64, password: Password, truth: Password, by_owner: bool) -> Answer {
        if self.is_locked(at) {
            return Answer::Locked;
        }
        if password == truth {
            if by_owner {
                self.reset();
            }
            return Answer::Right;
        }
        if self.provider == Provider::Entra {
            if self.last_wrong.contains(&Some(password)) {
                return Answer::Wrong;
            }
            self.last_wrong.rotate_right(1);
            self.last_wrong[0] = Some(password);
        }
        self.failures += 1;
        if self.failures < THRESHOLD {
            return Answer::Wrong;
        }
        self.locked_until = Some(match self.provider {
            Provider::Okta => i64::MAX,
            Provider::Entra => at + (MINUTE << (self.lockouts / 10).min(9)).min(5 * HOUR),
        });
        self.lockouts += 1;
        Answer::WrongAndLocked
    }

    /// The owner signed in, or the help desk unlocked the account or reset its password.
    pub fn reset(&mut self) {
        *self = Self::new(self.provider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: Password = Password { id: 0, complex: true };

    fn wrong(id: u32) -> Password {
        Password { id, complex: true }
    }

    fn ten(lockout: &mut Lockout) -> Vec<Answer> {
        (1..=10).map(|n| lockout.submit(0, wrong(n), TRUTH, false)).collect()
    }

    #[test]
    fn okta_stays_locked_until_somebody_unlocks() {
        let mut okta = Lockout::new(Provider::Okta);
        assert_eq!(ten(&mut okta).last(), Some(&Answer::WrongAndLocked));
        assert_eq!(okta.submit(400 * HOUR, TRUTH, TRUTH, true), Answer::Locked);
        okta.reset();
        assert_eq!(okta.submit(400 * HOUR, TRUTH, TRUTH, true), Answer::Right);
    }

    #[test]
    fn entra_locks_for_a_minute_and_then_at_every_failure() {
        let mut entra = Lockout::new(Provider::Entra);
        assert_eq!(ten(&mut entra).last(), Some(&Answer::WrongAndLocked));
        assert!(entra.is_locked(59) && !entra.is_locked(60));
        assert_eq!(entra.submit(60, wrong(11), TRUTH, true), Answer::WrongAndLocked);
        assert_eq!(entra.submit(121, TRUTH, TRUTH, true), Answer::Right);
        assert_eq!(entra.submit(122, wrong(12), TRUTH, true), Answer::Wrong);
    }

    #[test]
    fn entra_does_not_count_the_last_three_wrong_passwords_again_and_okta_does() {
        let (mut entra, mut okta) = (Lockout::new(Provider::Entra), Lockout::new(Provider::Okta));
        for n in 0..30 {
            assert_eq!(entra.submit(0, wrong(1 + n % 3), TRUTH, true), Answer::Wrong);
        }
        let answers: Vec<_> = (0..10).map(|_| okta.submit(0, wrong(1), TRUTH, true)).collect();
        assert_eq!(answers.last(), Some(&Answer::WrongAndLocked));
    }

    #[test]
    fn only_the_owner_s_success_resets_the_count() {
        let mut okta = Lockout::new(Provider::Okta);
        for n in 1..=9 {
            okta.submit(0, wrong(n), TRUTH, false);
        }
        okta.submit(0, TRUTH, TRUTH, false);
        assert_eq!(okta.submit(0, wrong(10), TRUTH, false), Answer::WrongAndLocked);
    }
}
