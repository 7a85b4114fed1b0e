//! What automated mitigations would have been under another policy: valid verdicts, replayed in their order through the
//! planner and the brake.
//!
//! Verdicts and what feeds brought are those of their time; accounts, package and switches are those of today. What a
//! password was changed to since, and what a directory showed then, is not told. What would have been held stays held.
//! The first run after a change counts as let run: held, it would hold everything and tell nothing.

use std::collections::{HashMap, VecDeque};

use shared::{id::AccountId, policy::MitigationPolicy};
use time::{Duration, OffsetDateTime};

use crate::{
    plan::{self, Activity, Admission, Feed, Hold, USUAL_DAYS},
    planner::{Wanted, World},
    preview::{Item, Preview},
    store_history::Hours,
    store_requests::{Proof, Target},
};

/// What is replayed.
#[derive(Debug)]
pub struct History {
    /// Valid verdicts with their accounts, oldest first.
    pub proofs: Vec<(AccountId, Proof)>,
    /// The accounts, as they are today.
    pub targets: HashMap<AccountId, Target>,
    /// What feeds brought, from [`FEED_DAYS`] before the oldest verdict on.
    pub feeds: HashMap<String, Hours>,
    /// Accounts that the tenant has today.
    pub accounts: i64,
}

/// How long before a verdict the brake looks at what its feed brought.
pub const FEED_DAYS: i64 = USUAL_DAYS + 1;

/// What the policy of `world` would have done. `most`: items that are wanted.
pub fn replay<'a>(world: &World, history: &'a History, most: usize) -> Preview<'a> {
    let (mut preview, mut tally) = (Preview::new(most), Tally::default());
    let policy = &world.policy.policy;
    for (account, proof) in &history.proofs {
        let Some(target) = history.targets.get(account) else { continue };
        if !policy.verdicts.contains(&proof.kind) {
            continue;
        }
        let feed = brought(history.feeds.get(&proof.feed), proof.at);
        let brake = tally.brake(policy, target, proof.at, history.accounts, feed);
        let mut acts = false;
        for action in world.automated(target.integration) {
            let admission = world.admit(target, action, Wanted::Automatically, brake);
            acts |= admission == Admission::Go;
            let follows = Some((proof.exposure, proof.at));
            preview.add(Item { target, action, outcome: admission.into(), follows });
        }
        if acts {
            tally.contained(target, proof.at);
        }
    }
    preview
}

/// What a feed had brought by then, to the hour.
fn brought(hours: Option<&Hours>, now: OffsetDateTime) -> Feed {
    let until = |then: OffsetDateTime| {
        let hours = hours.map_or(&[][..], Vec::as_slice);
        let after = hours.partition_point(|(hour, _)| *hour <= then);
        after.checked_sub(1).and_then(|last| hours.get(last)).map_or(0, |(_, so_far)| *so_far)
    };
    let (yesterday, usual) = (until(now - Duration::DAY), until(now - Duration::days(FEED_DAYS)));
    Feed { today: until(now) - yesterday, before: yesterday - usual }
}

/// Which accounts were contained within a time.
#[derive(Debug)]
struct Window {
    span: Duration,
    times: VecDeque<(OffsetDateTime, AccountId)>,
    last: HashMap<AccountId, OffsetDateTime>,
}

impl Window {
    fn new(span: Duration) -> Self {
        Self { span, times: VecDeque::new(), last: HashMap::new() }
    }

    fn advance(&mut self, now: OffsetDateTime) {
        while let Some((at, account)) = self.times.pop_front_if(|(at, _)| *at + self.span <= now) {
            if self.last.get(&account) == Some(&at) {
                self.last.remove(&account);
            }
        }
    }

    fn add(&mut self, account: AccountId, at: OffsetDateTime) {
        self.times.push_back((at, account));
        self.last.insert(account, at);
    }

    fn has(&self, account: AccountId) -> bool {
        self.last.contains_key(&account)
    }

    fn others(&self, account: AccountId) -> i64 {
        let others = self.last.len() - usize::from(self.has(account));
        i64::try_from(others).unwrap_or(i64::MAX)
    }
}

/// What would have been contained so far, as [`crate::store_brake::activity`] tells it of what was.
#[derive(Debug)]
struct Tally {
    hour: Window,
    administrators: Window,
    day: Window,
}

impl Default for Tally {
    fn default() -> Self {
        let hour = || Window::new(Duration::HOUR);
        Self { hour: hour(), administrators: hour(), day: Window::new(Duration::DAY) }
    }
}

impl Tally {
    /// What would have stopped automated mitigations of an account. Times never go back.
    fn brake(
        &mut self,
        policy: &MitigationPolicy,
        target: &Target,
        now: OffsetDateTime,
        accounts: i64,
        feed: Feed,
    ) -> Option<Hold> {
        for window in [&mut self.hour, &mut self.administrators, &mut self.day] {
            window.advance(now);
        }
        let activity = Activity {
            account_counted: self.hour.has(target.account),
            is_admin: target.is_admin,
            accounts_last_hour: self.hour.others(target.account),
            administrators_last_hour: self.administrators.others(target.account),
            accounts_last_day: self.day.others(target.account),
            accounts,
            armed: true,
            feed,
        };
        plan::brake(policy, &activity)
    }

    fn contained(&mut self, target: &Target, at: OffsetDateTime) {
        self.hour.add(target.account, at);
        self.day.add(target.account, at);
        if target.is_admin {
            self.administrators.add(target.account, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::{id::ProviderKind, policy::Brake, provider::AccountState};
    use time::macros::datetime;

    use super::*;
    use crate::preview::tests::target;

    const START: OffsetDateTime = datetime!(2026-01-05 10:00 UTC);

    fn person() -> Target {
        target(ProviderKind::Okta, AccountState::Active)
    }

    fn limits(change: impl Fn(&mut Brake)) -> MitigationPolicy {
        let mut brake = Brake { accounts_per_hour: 1000, percent_of_accounts: 100, ..Brake::default() };
        change(&mut brake);
        MitigationPolicy { brake, ..MitigationPolicy::default() }
    }

    /// Contains these accounts at these minutes as far as the brake allows; what stopped each.
    fn stopped(policy: &MitigationPolicy, verdicts: &[(i64, &Target)]) -> Vec<Option<Hold>> {
        let mut tally = Tally::default();
        verdicts
            .iter()
            .map(|(minute, target)| {
                let at = START + Duration::minutes(*minute);
                let hold = tally.brake(policy, target, at, 100, Feed::default());
                if hold.is_none() {
                    tally.contained(target, at);
                }
                hold
            })
            .collect()
    }

    #[test]
    fn an_hour_is_the_last_sixty_minutes_and_what_was_held_does_not_count() {
        let policy = limits(|b| b.accounts_per_hour = 2);
        let (a, b, c, d) = (person(), person(), person(), person());
        let hourly = Some(Hold::Hourly);
        let verdicts = [(0, &a), (10, &b), (59, &c), (60, &d), (61, &c)];
        assert_eq!(stopped(&policy, &verdicts), [None, None, hourly, None, hourly]);
    }

    #[test]
    fn a_second_verdict_about_an_account_is_no_second_account() {
        let policy = limits(|b| b.accounts_per_hour = 1);
        let (a, b) = (person(), person());
        let verdicts = [(0, &a), (50, &a), (70, &b), (109, &b), (111, &b)];
        assert_eq!(stopped(&policy, &verdicts), [None, None, Some(Hold::Hourly), Some(Hold::Hourly), None]);
    }

    #[test]
    fn a_share_is_of_the_last_day() {
        let policy = limits(|b| (b.percent_of_accounts, b.share_from_accounts) = (2, 0));
        let (a, b, c) = (person(), person(), person());
        let verdicts = [(0, &a), (700, &b), (1439, &c), (1440, &c)];
        assert_eq!(stopped(&policy, &verdicts), [None, None, Some(Hold::Share), None]);
    }

    #[test]
    fn administrators_are_counted_for_themselves() {
        let policy = limits(|b| b.administrators_per_hour = 1);
        let boss = || Target { is_admin: true, ..person() };
        let (a, b, c) = (boss(), person(), boss());
        let verdicts = [(0, &a), (1, &b), (2, &c), (60, &c)];
        assert_eq!(stopped(&policy, &verdicts), [None, None, Some(Hold::Administrators), None]);
    }

    #[test]
    fn a_feeds_day_is_compared_with_the_two_weeks_before_it() {
        let hour = |hours| START + Duration::hours(hours);
        // 5 came 16 days ago, 7 in the two weeks, 11 today, 13 later.
        let hours = vec![(hour(-16 * 24), 5), (hour(-30), 12), (hour(-2), 23), (hour(3), 36)];
        let feed = brought(Some(&hours), START);
        assert_eq!((feed.today, feed.before), (11, 7));
        let none = brought(None, START);
        assert_eq!((none.today, none.before), (0, 0));
    }

    #[test]
    fn the_first_run_is_taken_to_be_approved() {
        assert!(MitigationPolicy::default().approval.first_run);
        assert_eq!(stopped(&MitigationPolicy::default(), &[(0, &person())]), [None]);
    }
}
