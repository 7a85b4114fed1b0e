//! What the rotation of client keys rests on: how old a key set may be that somebody holds, and for how long a key may sign
//! after another has replaced it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For how long integration-api answers with a key set before it reads it again.
pub const SET_REMEMBERED: Duration = Duration::from_secs(5);
/// For how long whoever fetched a key set may keep it: its `Cache-Control`. Whether Okta heeds it is not documented (§1.3).
pub const SET_MAX_AGE: Duration = Duration::from_mins(5);
/// Life of a client assertion; Okta allows an hour (§1.1).
pub const ASSERTION_LIFE: Duration = Duration::from_mins(5);
/// For how long an adapter may sign with a key after this was read as the one that signs.
pub const HELD: Duration = Duration::from_hours(1);

/// A key is published for at least so long before it signs.
// INVARIANT: PUBLISHED_AT_LEAST >= SET_REMEMBERED + SET_MAX_AGE, twice over: then every set that is in use has the key.
pub const PUBLISHED_AT_LEAST: Duration =
    Duration::from_secs(2 * (SET_REMEMBERED.as_secs() + SET_MAX_AGE.as_secs()));
/// A key stays published for at least so long after another signs.
// INVARIANT: KEPT_AT_LEAST >= HELD + ASSERTION_LIFE: then whatever the key has signed was checked, or is refused for its age.
// A directory's own cache only adds to it.
pub const KEPT_AT_LEAST: Duration = Duration::from_secs(HELD.as_secs() + ASSERTION_LIFE.as_secs());

/// Until when an adapter may sign with its client key.
#[derive(Debug)]
pub struct Lease(Mutex<Instant>);

impl Lease {
    /// Ends then. INVARIANT: counted from before the key was read as the one that signs.
    pub fn until(end: Instant) -> Self {
        Self(Mutex::new(end))
    }

    /// The key was read again as the one that signs.
    pub fn renew(&self, end: Instant) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = end.max(*current);
    }

    /// Whether the key may sign now.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_prolonged_and_never_shortened() {
        let now = Instant::now();
        let lease = Lease::until(now);
        assert!(!lease.holds());
        lease.renew(now + HELD);
        lease.renew(now);
        assert!(lease.holds());
    }

    #[test]
    fn a_rotation_waits_longer_than_what_it_waits_for() {
        assert!(PUBLISHED_AT_LEAST >= SET_REMEMBERED + SET_MAX_AGE);
        assert!(KEPT_AT_LEAST >= HELD + ASSERTION_LIFE);
    }
}
