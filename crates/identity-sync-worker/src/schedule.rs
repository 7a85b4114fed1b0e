//! When an integration is read next. Pure.

use std::time::Duration;

use shared::id::IntegrationId;
use time::OffsetDateTime;

use crate::store_directories::Next;

/// Full runs start within so many minutes after midnight in the tenant's time zone, each integration at its own time.
const NIGHT: u32 = 5 * 60;

/// Minutes after midnight at which an integration's full run is due.
pub(crate) fn minute(integration: IntegrationId) -> i32 {
    // The last bytes of a UUIDv7 are random: integrations spread evenly over the night.
    let [.., a, b, c, d] = *integration.uuid().as_bytes();
    i32::try_from(u32::from_be_bytes([a, b, c, d]) % NIGHT).unwrap_or_default()
}

/// After a run that ended at `now`, with the next night's time of the integration. A directory that cannot list changes
/// is read in full each night only.
pub(crate) fn after(
    now: OffsetDateTime,
    night: OffsetDateTime,
    every: Duration,
    last_was_full: bool,
    next_full: OffsetDateTime,
    lists_changes: bool,
) -> Next {
    let over = last_was_full || next_full <= now - time::Duration::days(1);
    let full = if over { night } else { next_full };
    let changes = if lists_changes { now + every } else { full };
    Next { changes, full }
}

/// Who is in a group shows in full runs only, and these are cheap for a group: they come every hour.
const SCOPED_FULL: Duration = Duration::from_hours(1);

/// The same for an integration that covers groups instead of its whole directory.
pub(crate) fn scoped(now: OffsetDateTime, next: Next) -> Next {
    Next { full: next.full.min(now + SCOPED_FULL), ..next }
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
    fn integrations_spread_over_the_night_and_each_keeps_its_minute() {
        let integrations: Vec<IntegrationId> = (0..300).map(|_| IntegrationId::new()).collect();
        let minutes: Vec<i32> = integrations.iter().map(|id| minute(*id)).collect();
        assert!(minutes.iter().all(|m| (0..300).contains(m)), "{minutes:?}");
        assert!((0..5).all(|hour| minutes.iter().filter(|m| **m / 60 == hour).count() > 20), "{minutes:?}");
        assert_eq!(minutes, integrations.iter().map(|id| minute(*id)).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_run_is_followed_by_one_in_the_coming_night_and_changes_are_read_meanwhile() {
        let (now, night) = (datetime!(2026-11-20 03:00:00 UTC), datetime!(2026-11-21 02:00:00 UTC));
        assert_eq!(after(now, night, EVERY, true, now, true), Next { changes: now + EVERY, full: night });
        assert_eq!(after(now, night, EVERY, true, now, false), Next { changes: night, full: night });
    }

    #[test]
    fn an_incremental_run_does_not_move_the_night() {
        let (now, due) = (datetime!(2026-11-20 12:00:00 UTC), datetime!(2026-11-21 02:00:00 UTC));
        let night = due + time::Duration::hours(3);
        assert_eq!(after(now, night, EVERY, false, due, true).full, due);
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
