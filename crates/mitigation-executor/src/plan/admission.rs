//! Whether an action may be planned and begun: pure functions that everything that acts asks, so that nothing can plan one
//! thing and do another.

use shared::{integration::ActionSwitch, policy::MitigationPolicy, provider::Action};

use super::{Hold, Refusal};

/// What is known when an action is planned or begun.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each read by its own line of `admit`")]
pub struct Facts {
    /// Mitigation is in the package.
    pub entitled: bool,
    /// The integration is there and not switched off by a person.
    pub integration_usable: bool,
    /// The action's switches.
    pub switch: ActionSwitch,
    /// It follows a verdict by itself.
    pub automatic: bool,
    /// The account is in the directory.
    pub account_present: bool,
    /// The account is mastered in Active Directory, and the policy does not let it be disabled all the same.
    pub ad_mastered: bool,
    /// What the policy protects it as.
    pub protection: Option<Protection>,
    /// A person's request about more accounts than one may contain alone.
    pub many: bool,
    /// A second person has let it run.
    pub released: bool,
}

/// What an account is protected as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The way back in.
    BreakGlass,
    /// By name, group or role.
    Policy,
    /// An administrator.
    Administrator,
}

/// What becomes of an action at planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Carry it out.
    Go,
    /// Wait for a second person.
    Hold(Hold),
    /// Do not.
    Refuse(Refusal),
}

/// Decides whether an action may be planned, or begun. `brake` is what stops this account's automated mitigations, if
/// anything.
///
/// INVARIANT (I7): what is not entitled or not switched on is refused here, before any call; a protected account is never
/// acted on without a second person, and the way back in never automatically.
pub fn admit(action: Action, facts: &Facts, brake: Option<Hold>) -> Admission {
    let switched_on = if facts.automatic { facts.switch.automated } else { facts.switch.manual };
    let refusal = if !facts.entitled {
        Some(Refusal::NotEntitled)
    } else if !facts.integration_usable {
        Some(Refusal::IntegrationDisabled)
    } else if !switched_on {
        Some(Refusal::SwitchedOff)
    } else if !facts.account_present {
        Some(Refusal::AccountGone)
    } else if facts.ad_mastered && action == Action::DisableAccount {
        Some(Refusal::AdMastered)
    } else if facts.automatic && facts.protection == Some(Protection::BreakGlass) {
        Some(Refusal::BreakGlass)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Admission::Refuse(refusal);
    }
    let hold = match facts.protection {
        Some(Protection::BreakGlass) => Some(Hold::BreakGlass),
        Some(Protection::Policy) => Some(Hold::Protected),
        Some(Protection::Administrator) => Some(Hold::Privileged),
        None if facts.many => Some(Hold::ManyAccounts),
        None => brake.filter(|_| facts.automatic),
    };
    hold.filter(|_| !facts.released).map_or(Admission::Go, Admission::Hold)
}

/// What was done automatically so far in the tenant, without counting what a person released, and what the feed brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    /// The account was contained automatically within the last hour already: its further actions are no further harm.
    pub account_counted: bool,
    /// It is an administrator's.
    pub is_admin: bool,
    /// Other accounts within the last hour.
    pub accounts_last_hour: i64,
    /// Of these, administrators.
    pub administrators_last_hour: i64,
    /// Other accounts within the last day.
    pub accounts_last_day: i64,
    /// Accounts the tenant has, or at least so many.
    pub accounts: i64,
    /// A person has let automated mitigations run since policy and integration last changed.
    pub armed: bool,
    /// What the leak's feed brought.
    pub feed: Feed,
}

/// What a feed brought the tenant: exposures that are no history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Feed {
    /// Within the last day.
    pub today: i64,
    /// Within the two weeks before it.
    pub before: i64,
}

/// Days of [`Feed::before`].
pub const USUAL_DAYS: i64 = 14;

/// The brake of design I7.
pub fn brake(policy: &MitigationPolicy, activity: &Activity) -> Option<Hold> {
    let limits = &policy.brake;
    if policy.approval.first_run && !activity.armed {
        return Some(Hold::FirstRun);
    }
    let Feed { today, before } = activity.feed;
    let usual = before.saturating_mul(i64::from(limits.feed_times_usual)) / USUAL_DAYS;
    if today > i64::from(limits.feed_from_exposures) && today > usual {
        return Some(Hold::FeedVolume);
    }
    if activity.account_counted {
        return None;
    }
    if activity.accounts_last_hour >= i64::from(limits.accounts_per_hour) {
        return Some(Hold::Hourly);
    }
    if activity.is_admin && activity.administrators_last_hour >= i64::from(limits.administrators_per_hour) {
        return Some(Hold::Administrators);
    }
    let share = activity.accounts.saturating_mul(i64::from(limits.percent_of_accounts)) / 100;
    if activity.accounts_last_day >= share.max(i64::from(limits.share_from_accounts)) {
        return Some(Hold::Share);
    }
    None
}

#[cfg(test)]
mod tests {
    use shared::policy::{Approval, Brake};

    use super::*;

    fn facts() -> Facts {
        Facts {
            entitled: true,
            integration_usable: true,
            switch: ActionSwitch { automated: true, manual: true },
            automatic: true,
            account_present: true,
            ad_mastered: false,
            protection: None,
            many: false,
            released: false,
        }
    }

    fn disabling(change: impl Fn(&mut Facts)) -> Admission {
        let mut facts = facts();
        change(&mut facts);
        admit(Action::DisableAccount, &facts, None)
    }

    #[test]
    fn refusals_come_before_holds_and_each_switch_counts_for_itself() {
        assert_eq!(disabling(|_| {}), Admission::Go);
        assert_eq!(disabling(|f| f.entitled = false), Admission::Refuse(Refusal::NotEntitled));
        assert_eq!(
            disabling(|f| f.integration_usable = false),
            Admission::Refuse(Refusal::IntegrationDisabled)
        );
        assert_eq!(disabling(|f| f.switch.automated = false), Admission::Refuse(Refusal::SwitchedOff));
        assert_eq!(disabling(|f| f.switch.manual = false), Admission::Go);
        assert_eq!(
            disabling(|f| (f.automatic, f.switch.manual) = (false, false)),
            Admission::Refuse(Refusal::SwitchedOff)
        );
        assert_eq!(disabling(|f| f.account_present = false), Admission::Refuse(Refusal::AccountGone));
        assert_eq!(disabling(|f| f.ad_mastered = true), Admission::Refuse(Refusal::AdMastered));
        assert_eq!(
            disabling(|f| (f.protection, f.entitled) = (Some(Protection::Administrator), false)),
            Admission::Refuse(Refusal::NotEntitled)
        );
    }

    #[test]
    fn a_protected_account_waits_for_a_second_person_whoever_asks() {
        for (protection, hold) in
            [(Protection::Administrator, Hold::Privileged), (Protection::Policy, Hold::Protected)]
        {
            for automatic in [true, false] {
                let admission = |released| {
                    disabling(|f| {
                        (f.protection, f.automatic, f.released) = (Some(protection), automatic, released);
                    })
                };
                assert_eq!(admission(false), Admission::Hold(hold), "{protection:?} {automatic}");
                assert_eq!(admission(true), Admission::Go, "{protection:?} {automatic}");
            }
        }
    }

    #[test]
    fn the_way_back_in_is_never_acted_on_automatically_whoever_released_it() {
        let asked = |automatic, released| {
            disabling(|f| {
                (f.protection, f.automatic, f.released) = (Some(Protection::BreakGlass), automatic, released);
            })
        };
        assert_eq!(asked(true, false), Admission::Refuse(Refusal::BreakGlass));
        assert_eq!(asked(true, true), Admission::Refuse(Refusal::BreakGlass));
        assert_eq!(asked(false, false), Admission::Hold(Hold::BreakGlass));
        assert_eq!(asked(false, true), Admission::Go);
    }

    #[test]
    fn many_accounts_wait_and_protection_is_told_first() {
        assert_eq!(disabling(|f| (f.automatic, f.many) = (false, true)), Admission::Hold(Hold::ManyAccounts));
        assert_eq!(
            disabling(|f| (f.many, f.protection) = (true, Some(Protection::Administrator))),
            Admission::Hold(Hold::Privileged)
        );
    }

    #[test]
    fn the_brake_holds_what_is_automatic_only() {
        let mut facts = facts();
        assert_eq!(admit(Action::RevokeSessions, &facts, Some(Hold::Hourly)), Admission::Hold(Hold::Hourly));
        facts.automatic = false;
        assert_eq!(admit(Action::RevokeSessions, &facts, Some(Hold::Hourly)), Admission::Go);
    }

    #[test]
    fn the_brake_stops_at_each_of_its_limits() {
        let policy = MitigationPolicy::default();
        let calm = Activity { accounts: 1000, armed: true, ..Activity::default() };
        assert_eq!(brake(&policy, &calm), None);
        assert_eq!(brake(&policy, &Activity { armed: false, ..calm }), Some(Hold::FirstRun));
        assert_eq!(brake(&policy, &Activity { accounts_last_hour: 19, ..calm }), None);
        assert_eq!(brake(&policy, &Activity { accounts_last_hour: 20, ..calm }), Some(Hold::Hourly));
        assert_eq!(
            brake(&policy, &Activity { accounts_last_hour: 20, account_counted: true, ..calm }),
            None,
            "the second action on an account is no second account"
        );
        assert_eq!(brake(&policy, &Activity { accounts_last_day: 49, ..calm }), None);
        assert_eq!(brake(&policy, &Activity { accounts_last_day: 50, ..calm }), Some(Hold::Share));
        let small = Activity { accounts: 20, ..calm };
        assert_eq!(brake(&policy, &Activity { accounts_last_day: 9, ..small }), None);
        assert_eq!(brake(&policy, &Activity { accounts_last_day: 10, ..small }), Some(Hold::Share));
        let unheld = Approval { first_run: false, ..Approval::default() };
        let off = MitigationPolicy { approval: unheld, ..policy };
        assert_eq!(brake(&off, &Activity { armed: false, ..calm }), None);
    }

    #[test]
    fn administrators_have_a_limit_of_their_own() {
        let policy = MitigationPolicy::default();
        let one =
            Activity { accounts: 1000, armed: true, administrators_last_hour: 1, ..Activity::default() };
        assert_eq!(brake(&policy, &one), None, "somebody else's account");
        assert_eq!(brake(&policy, &Activity { is_admin: true, ..one }), Some(Hold::Administrators));
    }

    #[test]
    fn a_feed_is_unusual_beside_its_own_two_weeks() {
        let brake_of = |today, before| {
            let limits = Brake { feed_times_usual: 10, feed_from_exposures: 100, ..Brake::default() };
            let policy = MitigationPolicy { brake: limits, ..MitigationPolicy::default() };
            brake(
                &policy,
                &Activity {
                    accounts: 1000,
                    armed: true,
                    feed: Feed { today, before },
                    ..Activity::default()
                },
            )
        };
        assert_eq!(brake_of(100, 0), None, "small numbers are never unusual");
        assert_eq!(brake_of(101, 0), Some(Hold::FeedVolume), "a feed without a history");
        assert_eq!(brake_of(140, 14 * 14), None, "ten times the usual");
        assert_eq!(brake_of(141, 14 * 14), Some(Hold::FeedVolume));
    }
}
