//! When an integration is read next. Pure.

use std::time::Duration;

use shared::id::IntegrationId;
use time::{OffsetDateTime, Time};

use crate::store_directories::Next;

/// Full runs start within so many seconds after midnight UTC, each integration at its own time.
const NIGHT: u32 = 6 * 3600;

/// After a run that ended at `now`. A directory that cannot list changes is read in full each night only.
pub(crate) fn after(
    now: OffsetDateTime,
    integration: IntegrationId,
    every: Duration,
    last_was_full: bool,
    next_full: OffsetDateTime,
    lists_changes: bool,
) -> Next {
    let full = if last_was_full || next_full <= now - time::Duration::days(1) {
        nightly(now, integration)
    } else {
        next_full
    };
    let changes = if lists_changes { now + every } else { full };
    Next { changes, full }
}

/// Who is in a group shows in full runs only, and these are cheap for a group: they come every hour.
const SCOPED_FULL: Duration = Duration::from_hours(1);

/// The same for an integration that covers groups instead of its whole directory.
pub(crate) fn scoped(now: OffsetDateTime, next: Next) -> Next {
    Next { full: next.full.min(now + SCOPED_FULL), ..next }
}

/// The integration's next time of the night.
fn nightly(now: OffsetDateTime, integration: IntegrationId) -> OffsetDateTime {
    // The last bytes of a UUIDv7 are random: integrations spread evenly over the night.
    let [.., a, b, c, d] = *integration.uuid().as_bytes();
    let seconds = u32::from_be_bytes([a, b, c, d]) % NIGHT;
    let tonight = now.replace_time(Time::MIDNIGHT) + Duration::from_secs(u64::from(seconds));
    // A run that has just ended is not repeated in the same night.
    if tonight > now + time::Duration::hours(8) { tonight } else { tonight + time::Duration::days(1) }
}

/// How long to wait after so many failures in a row, in the absence of a hint.
pub(crate) fn backoff(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.clamp(0, 6)).unwrap_or_default();
    Duration::from_secs(5).saturating_mul(1 << doublings)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const EVERY: Duration = Duration::from_mins(5);

    #[test]
    fn the_next_full_run_is_in_the_coming_night_and_never_at_once() {
        for _ in 0..200 {
            let now = datetime!(2026-11-20 03:00:00 UTC);
            let next = after(now, IntegrationId::new(), EVERY, true, now, true);
            assert!(next.full > now + time::Duration::hours(8), "{next:?}");
            assert!(next.full < now + time::Duration::hours(28), "{next:?}");
            assert!(next.full.hour() < 6, "{next:?}");
            assert_eq!(next.changes, now + EVERY);
        }
    }

    #[test]
    fn an_incremental_run_does_not_move_the_night() {
        let now = datetime!(2026-11-20 12:00:00 UTC);
        let night = datetime!(2026-11-21 02:00:00 UTC);
        assert_eq!(after(now, IntegrationId::new(), EVERY, false, night, true).full, night);
    }

    #[test]
    fn groups_are_read_again_within_the_hour() {
        let now = datetime!(2026-11-20 12:00:00 UTC);
        let night = Next { changes: now + EVERY, full: datetime!(2026-11-21 02:00:00 UTC) };
        assert_eq!(scoped(now, night).full, now + SCOPED_FULL);
        let soon = Next { full: now + EVERY, ..night };
        assert_eq!(scoped(now, soon).full, now + EVERY, "never later than it was due anyway");
    }

    #[test]
    fn waits_grow_to_minutes_and_no_further() {
        assert_eq!(backoff(0), Duration::from_secs(5));
        assert_eq!(backoff(3), Duration::from_secs(40));
        assert_eq!(backoff(1000), Duration::from_secs(320));
    }
}
