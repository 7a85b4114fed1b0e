//! What must hold of our entries in a directory's own log of sign-ins, beside the ledger.
//!
//! One-sided: a log may lack entries of ours (Entra ID's lists interactive sign-ins only, and every log lags), so that what
//! is found here is a reason to look, and nothing found proves nothing by itself. As in `check`, nothing is shared with
//! the limiter.

use time::{Duration, OffsetDateTime};

use super::check::{CEILING, Fault, SPACING, WINDOW};
use crate::store::ledger::Account;

/// More entries in a window than there may be attempts.
pub const WINDOW_RULE: &str = "log_window";
/// An entry without an attempt.
pub const UNKNOWN_RULE: &str = "log_unknown";

/// What two clocks, and the time between reserving and sending, may make of a window or of an instant.
const SLACK: Duration = Duration::minutes(5);
/// Entries of one account that are closer than this are one submission: nobody has verified that a directory writes exactly
/// one row for one grant, and two attempts of ours are twice as far apart.
const ONE: Duration = Duration::seconds(SPACING.whole_seconds() / 2);

/// Everything in the log that the ledger does not explain.
pub fn faults(account: &Account) -> Vec<Fault> {
    let submissions = submissions(&account.seen);
    let mut found = Vec::new();
    // Both are in order: the earliest attempt that fits leaves the later ones to later entries.
    let mut unmatched = account.attempts.iter().map(|attempt| attempt.reserved_at).peekable();
    for (place, at) in submissions.iter().copied().enumerate() {
        let until_now = submissions.get(..=place).unwrap_or_default();
        let in_window = until_now.iter().filter(|earlier| **earlier > at - (WINDOW - SLACK)).count();
        let in_window = i32::try_from(in_window).unwrap_or(i32::MAX);
        let span = at - WINDOW..=at + SLACK;
        let attempts = account.attempts.iter().filter(|attempt| span.contains(&attempt.reserved_at));
        let limit = attempts.filter_map(|attempt| attempt.attempt_limit).max().unwrap_or(CEILING);
        if in_window > limit {
            let message = format!(
                "the directory's log has {in_window} submissions of ours in a window where {limit} were allowed; {CAUSES}"
            );
            found.push(Fault { rule: WINDOW_RULE, at, message });
        }
        while unmatched.next_if(|reserved| *reserved < at - SLACK).is_some() {}
        if unmatched.next_if(|reserved| *reserved <= at + SLACK).is_none() {
            let message = format!(
                "the directory's log has a submission of ours that the ledger does not have within {} minutes; {CAUSES}",
                SLACK.whole_minutes()
            );
            found.push(Fault { rule: UNKNOWN_RULE, at, message });
        }
    }
    found
}

/// Why that may be, and what to do.
const CAUSES: &str = "either our database lost or misdated an attempt (a failover, a restore, a clock that stepped), or \
    somebody else signs in under our client id (Entra ID) or user agent (Okta; another installation of Parapet does): \
    compare the entry's IP address with ours; if it is ours, run `parapet attempts stop --installation`, else register \
    another application for password checks";

/// The entries, oldest first, with those that may be one submission as one.
fn submissions(entries: &[OffsetDateTime]) -> Vec<OffsetDateTime> {
    let mut found: Vec<OffsetDateTime> = Vec::new();
    for at in entries {
        if found.last().is_none_or(|before| *at - *before >= ONE) {
            found.push(*at);
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
    /// Minutes in a window by the log.
    const LOG_WINDOW: i64 = 25 * 60 + 10;

    /// Attempts, two a window, and what the log has, at these seconds.
    fn account(attempts: &[i64], seen: &[i64]) -> Account {
        let at = |second: &i64| START + Duration::seconds(*second);
        let attempt = |second: &i64| Attempt {
            reserved_at: at(second),
            finished_at: Some(at(second)),
            attempt_limit: Some(2),
            reserve_limit: Some(4),
            since_success: Some(1),
        };
        Account {
            key: AccountKey { provider: ProviderKind::EntraId, directory: "d".into(), object: "o".into() },
            recent: Vec::new(),
            attempts: attempts.iter().map(attempt).collect(),
            seen: seen.iter().map(at).collect(),
        }
    }

    fn rules(attempts: &[i64], seen: &[i64]) -> Vec<&'static str> {
        faults(&account(attempts, seen)).into_iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn a_log_that_agrees_or_lacks_entries_is_found_right() {
        assert_eq!(rules(&[], &[]), [""; 0]);
        assert_eq!(rules(&[0, 300], &[1, 302]), [""; 0]);
        assert_eq!(rules(&[0, 300], &[302]), [""; 0], "it may lack entries");
        assert_eq!(rules(&[0, 300], &[]), [""; 0]);
    }

    #[test]
    fn an_entry_is_explained_by_an_attempt_within_five_minutes_and_by_none_further_away() {
        for second in [-300, 0, 300] {
            assert_eq!(rules(&[0], &[second]), [""; 0], "{second}");
        }
        for second in [-301, 301] {
            assert_eq!(rules(&[0], &[second]), [UNKNOWN_RULE], "{second}");
        }
        assert_eq!(rules(&[], &[0]), [UNKNOWN_RULE], "an account that the ledger does not know");
    }

    #[test]
    fn an_attempt_explains_one_submission_and_rows_within_seconds_are_one() {
        assert_eq!(rules(&[0], &[1, 2, 149, 150]), [""; 0], "rows of one grant");
        assert_eq!(rules(&[0], &[0, 150]), [UNKNOWN_RULE], "a second one");
        assert_eq!(rules(&[0, 300], &[2, 160]), [""; 0]);
    }

    #[test]
    fn a_third_submission_within_the_window_is_found_to_the_minute() {
        assert_eq!(rules(&[0, 300, 600], &[1, 302, 630]), [WINDOW_RULE]);
        let third = |minute: i64| rules(&[0, 300, minute * 60], &[0, 300, minute * 60]);
        assert_eq!(third(LOG_WINDOW - 1), [WINDOW_RULE]);
        assert_eq!(third(LOG_WINDOW), [""; 0]);
    }

    #[test]
    fn where_no_limit_is_known_there_may_never_be_more_than_five() {
        let unlimited = |n: i64| {
            let seconds: Vec<i64> = (0..n).map(|n| n * 300).collect();
            let mut account = account(&seconds, &seconds);
            account.attempts.iter_mut().for_each(|attempt| attempt.attempt_limit = None);
            faults(&account).into_iter().map(|fault| fault.rule).collect::<Vec<_>>()
        };
        assert_eq!(unlimited(5), [""; 0]);
        assert_eq!(unlimited(6), [WINDOW_RULE]);
    }
}
