//! What must hold of an account's attempts, computed from the ledger alone.
//!
//! INVARIANT: nothing here is shared with the limiter. The figures of design §5 stand here once more, so that a wrong
//! one there is noticed here.

use time::{Duration, OffsetDateTime};

use crate::store::ledger::Account;

/// A rolling window: the longest calendar day, and the time between reserving and sending.
pub(super) const WINDOW: Duration = Duration::minutes(25 * 60 + 15);
/// The most attempts in a window, whatever is set.
pub(super) const CEILING: i32 = 5;
/// Attempts on one account are at least so far apart.
pub(super) const SPACING: Duration = Duration::minutes(5);

/// Something that must not be, at the reservation of an instant or an entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What did not hold: a stable word.
    pub rule: &'static str,
    /// When the attempt was reserved, or the log says it was made.
    pub at: OffsetDateTime,
    /// The figures.
    pub message: String,
}

/// Everything that is wrong with an account's attempts. Its ledger begins one window before the time that is audited.
pub fn faults(account: &Account) -> Vec<Fault> {
    let mut found = Vec::new();
    let ledger = &account.attempts;
    for (place, attempt) in ledger.iter().enumerate() {
        let at = attempt.reserved_at;
        let mut wrong = |rule, message| found.push(Fault { rule, at, message });
        let earlier = ledger.get(..place).unwrap_or_default();
        let in_window = 1 + earlier.iter().filter(|e| e.reserved_at > at - WINDOW).count();
        let in_window = i32::try_from(in_window).unwrap_or(i32::MAX);
        if let Some(limit) = attempt.attempt_limit.filter(|limit| in_window > *limit) {
            wrong("window", format!("{in_window} attempts in a window where {limit} were allowed"));
        }
        if in_window > CEILING {
            wrong(
                "ceiling",
                format!("{in_window} attempts in a window; {CEILING} is the most there may ever be"),
            );
        }
        if let (Some(since), Some(limit)) = (attempt.since_success, attempt.reserve_limit)
            && since > limit
        {
            wrong(
                "reserve",
                format!("{since} attempts since the owner's sign-in where {limit} were allowed"),
            );
        }
        let Some(before) = earlier.last() else { continue };
        let gap = at - before.reserved_at;
        if gap < SPACING {
            wrong("spacing", format!("{} s after the attempt before it", gap.whole_seconds()));
        }
        // Not by the time of its end: a clock that went back in between is no harm.
        if before.finished_at.is_none() {
            wrong("overlap", "reserved while the attempt before it was under way".into());
        }
        // One more than before, or the first after a sign-in of the owner.
        if let (Some(since), Some(last)) = (attempt.since_success, before.since_success)
            && since != 1
            && since != last + 1
        {
            wrong("sequence", format!("attempt {since} since the owner's sign-in follows attempt {last}"));
        }
    }
    // What the limiter looks at must be what happened, or it decides by something else.
    let last = ledger.last().map(|a| a.reserved_at).max(account.recent.iter().max().copied());
    for attempt in ledger.iter().filter(|a| last.is_some_and(|last| a.reserved_at > last - WINDOW)) {
        if !account.recent.contains(&attempt.reserved_at) {
            let message = "the budget does not count this attempt any more, although its window lasts".into();
            found.push(Fault { rule: "forgotten", at: attempt.reserved_at, message });
        }
    }
    for at in &account.recent {
        if !ledger.iter().any(|attempt| attempt.reserved_at == *at) {
            let message = "the budget counts an attempt that the ledger does not have".into();
            found.push(Fault { rule: "unrecorded", at: *at, message });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use shared::id::{AccountKey, ProviderKind};
    use time::macros::datetime;

    use super::*;
    use crate::store::ledger::Attempt;

    const START: OffsetDateTime = datetime!(2026-11-22 00:00 UTC);

    /// Attempts at these minutes, two a window, four since the owner's sign-in, each answered after a second.
    fn account(minutes: &[i64]) -> Account {
        let at = |minute: &i64| START + Duration::minutes(*minute);
        let attempts: Vec<Attempt> = (1..)
            .zip(minutes)
            .map(|(n, minute)| Attempt {
                reserved_at: at(minute),
                finished_at: Some(at(minute) + Duration::seconds(1)),
                attempt_limit: Some(2),
                reserve_limit: Some(4),
                since_success: Some(n),
            })
            .collect();
        let last = minutes.iter().max().map_or(START, at);
        let recent = attempts.iter().map(|a| a.reserved_at).filter(|a| *a > last - WINDOW).collect();
        let key = AccountKey { provider: ProviderKind::Okta, directory: "d".into(), object: "o".into() };
        Account { key, recent, attempts, seen: Vec::new() }
    }

    fn rules(account: &Account) -> Vec<&'static str> {
        faults(account).into_iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn what_the_limiter_allows_is_found_right() {
        assert_eq!(faults(&account(&[])), []);
        assert_eq!(faults(&account(&[0, 5, 25 * 60 + 15, 25 * 60 + 20])), []);
    }

    #[test]
    fn a_third_attempt_within_the_window_is_found_to_the_minute() {
        assert_eq!(rules(&account(&[0, 5, 25 * 60 + 14])), ["window"]);
        assert_eq!(rules(&account(&[0, 5, 25 * 60 + 15])), [""; 0]);
    }

    #[test]
    fn a_sixth_attempt_is_found_even_where_no_limit_was_written_down() {
        let mut six = account(&[0, 5, 10, 15, 20, 25]);
        for attempt in &mut six.attempts {
            (attempt.attempt_limit, attempt.reserve_limit, attempt.since_success) = (None, None, None);
        }
        assert_eq!(rules(&six), ["ceiling"]);
    }

    #[test]
    fn attempts_that_are_too_close_or_overlap_are_found() {
        assert_eq!(rules(&account(&[0, 4])), ["spacing"]);
        let mut open = account(&[0, 6]);
        open.attempts[0].finished_at = None;
        assert_eq!(rules(&open), ["overlap"]);
    }

    #[test]
    fn what_goes_beyond_the_owner_s_reserve_or_counts_wrongly_is_found() {
        let mut days = account(&[0, 2_000, 4_000, 6_000]);
        days.attempts[3].reserve_limit = Some(3);
        assert_eq!(rules(&days), ["reserve"]);
        days.attempts[3].since_success = Some(1);
        assert_eq!(rules(&days), [""; 0], "the owner signed in");
        days.attempts[3].since_success = Some(3);
        assert_eq!(rules(&days), ["sequence"], "counted twice");
    }

    #[test]
    fn a_budget_that_forgot_or_invented_an_attempt_is_found() {
        let mut forgot = account(&[0, 5]);
        forgot.recent.remove(0);
        assert_eq!(rules(&forgot), ["forgotten"]);
        let mut lost = account(&[0, 5]);
        lost.attempts.pop();
        assert_eq!(rules(&lost), ["unrecorded"]);
        lost.attempts.clear();
        assert_eq!(rules(&lost), ["unrecorded", "unrecorded"]);
    }
}
