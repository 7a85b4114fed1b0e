//! The planner: pure functions that decide whether an action may be planned, and what to do about an account as the
//! directory shows it now. Everything that acts asks here, so that nothing can plan one thing and do another.

use shared::{
    id::ProviderKind,
    integration::ActionSwitch,
    provider::{AccountState, Action, Containment},
};
use time::OffsetDateTime;

use crate::config::Brake;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $text:literal : $sentence:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The stable name, as stored.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// The value with this stable name.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
            /// One sentence for a person: what is the matter and what helps.
            pub const fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)* } }
        }
    };
}

words! {
    /// Why an action is not done, for good.
    Refusal {
        /// Mitigation is not in the tenant's package.
        NotEntitled = "not_entitled": "mitigation is not in the tenant's package",
        /// The action's switch is off.
        SwitchedOff = "switched_off": "the action is switched off for this integration",
        /// A person switched the integration off, or it is gone.
        IntegrationDisabled = "integration_disabled": "the integration is disabled or deleted",
        /// The account is mastered in an on-premises Active Directory.
        AdMastered = "ad_mastered": "the account is mastered in Active Directory, whose next sync would enable it again: disable it there, and here revoke its sessions or mark it compromised",
        /// The account is not there any more.
        AccountGone = "account_gone": "the account is not in the directory any more",
        /// The account's state does not allow it.
        WrongState = "wrong_state": "the account's state does not allow the action; revoke its sessions instead",
        /// The target is an administrator whom our application may not act on.
        AdminTarget = "admin_target": "the account is an administrator: our application needs a higher role to act on it",
        /// The directory lacks the licence.
        LicenceMissing = "licence_missing": "the directory is not licensed for the action",
        /// An undo: nothing can take it back.
        Irreversible = "irreversible": "ended sessions stay ended: their owner signs in again",
        /// An undo: it was not carried out, or is over already.
        NotInEffect = "not_in_effect": "the mitigation is not in effect: it was not carried out, or was taken back already",
        /// An undo: the account was so before.
        NotOurs = "not_ours": "the account was in that state before, by somebody else's hand: undo it in the directory if that is meant",
        /// An undo: the account was changed since.
        ChangedSince = "changed_since": "somebody has changed the account since, so that taking the mitigation back would not give back what was: decide in the directory",
        /// An undo: dismissing a risk wipes all of it.
        Unconfirmed = "unconfirmed": "dismissing the risk wipes the directory's own detections about the account too: ask again and confirm that",
        /// The provider refuses for a reason this version does not know.
        RefusedByProvider = "refused_by_provider": "the provider refuses the action",
    }
}
words! {
    /// What holds a mitigation until a second person releases it.
    Hold {
        /// An administrator of the directory.
        Privileged = "privileged_account": "the account is an administrator of the directory and protected",
        /// First automated run after a change.
        FirstRun = "first_run": "nobody has let automated mitigations run yet since the integration was last changed",
        /// Too many accounts within an hour.
        Hourly = "brake_hourly": "too many accounts were contained automatically within an hour",
        /// Too large a share of the accounts.
        Share = "brake_share": "too large a share of the tenant's accounts was contained automatically within a day",
    }
}

/// What is known when an action is planned.
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
    /// The account holds an administrative role.
    pub is_admin: bool,
    /// The account is mastered in Active Directory.
    pub hybrid: bool,
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

/// Decides whether an action may be planned. `brake` is what stops this account's automated mitigations, if anything.
///
/// INVARIANT: what is not entitled or not switched on is refused here, before any call; a privileged account is never
/// acted on without a second person.
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
    } else if facts.hybrid && action == Action::DisableAccount {
        Some(Refusal::AdMastered)
    } else {
        None
    };
    match (refusal, facts.is_admin, brake) {
        (Some(refusal), ..) => Admission::Refuse(refusal),
        (None, true, _) => Admission::Hold(Hold::Privileged),
        (None, false, Some(hold)) if facts.automatic => Admission::Hold(hold),
        (None, false, _) => Admission::Go,
    }
}

/// What was done automatically so far in the tenant, without counting what a person released.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    /// The account was contained automatically within the last hour already: its further actions are no further harm.
    pub account_counted: bool,
    /// Other accounts within the last hour.
    pub accounts_last_hour: i64,
    /// Other accounts within the last day.
    pub accounts_last_day: i64,
    /// Accounts the tenant has.
    pub accounts: i64,
    /// A person has let automated mitigations run since the integration last changed.
    pub armed: bool,
}

/// The brake of design I7.
pub fn brake(limits: &Brake, activity: &Activity) -> Option<Hold> {
    if limits.hold_first_run && !activity.armed {
        return Some(Hold::FirstRun);
    }
    if activity.account_counted {
        return None;
    }
    if activity.accounts_last_hour >= i64::from(limits.accounts_per_hour) {
        return Some(Hold::Hourly);
    }
    let share = activity.accounts.saturating_mul(i64::from(limits.percent_of_accounts)) / 100;
    if activity.accounts_last_day >= share.max(i64::from(limits.share_from_accounts)) {
        return Some(Hold::Share);
    }
    None
}

/// What to do about an account as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call the provider.
    Act,
    /// The directory shows it already.
    AlreadyDone,
    /// It cannot be done.
    Impossible(Refusal),
}

/// Decides from (state × action). `wanted_since` is when the mitigation was planned: sessions revoked later than that
/// need not be revoked again.
pub fn step(
    provider: ProviderKind,
    action: Action,
    now: Option<&Containment>,
    wanted_since: OffsetDateTime,
) -> Step {
    use AccountState::{Active, Deprovisioned, Disabled, Locked, PasswordExpired, Pending};
    let Some(now) = now else { return Step::Impossible(Refusal::AccountGone) };
    match (action, now.state) {
        // An account that is gone or cannot sign in has no session left and needs no disabling.
        (Action::RevokeSessions, Deprovisioned) | (Action::DisableAccount, Disabled | Deprovisioned) => {
            Step::AlreadyDone
        }
        (Action::RevokeSessions, Active | Disabled | Locked | PasswordExpired | Pending) => {
            if now.sessions_valid_from.is_some_and(|from| from > wanted_since) {
                Step::AlreadyDone
            } else {
                Step::Act
            }
        }
        (Action::DisableAccount, Active | PasswordExpired) => Step::Act,
        // Okta suspends active users only; Entra disables whatever is there.
        (Action::DisableAccount, Locked | Pending) => match provider {
            ProviderKind::EntraId => Step::Act,
            ProviderKind::Okta => Step::Impossible(Refusal::WrongState),
        },
        (Action::MarkCompromised, Deprovisioned) => Step::Impossible(Refusal::AccountGone),
        (Action::MarkCompromised, Active | Disabled | Locked | PasswordExpired | Pending) => {
            if now.compromised == Some(true) { Step::AlreadyDone } else { Step::Act }
        }
    }
}

/// What the directory shows of an action that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It shows that the action took effect.
    Shown,
    /// It shows that it did not, or not any more.
    Absent,
    /// It does not tell.
    Silent,
}

/// What was known when an action's intent was committed.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// When sessions were last revoked before it, in whole seconds; `None` when the directory does not show it.
    pub sessions: Option<OffsetDateTime>,
    /// When the intent was committed.
    pub intent: OffsetDateTime,
}

/// Looks for an action's effect.
pub fn evidence(action: Action, before: Option<Before>, now: Option<&Containment>) -> Evidence {
    // An account that is gone cannot sign in.
    let Some(now) = now else { return Evidence::Shown };
    match action {
        Action::RevokeSessions => match (now.sessions_valid_from, before) {
            (None, _) => Evidence::Silent,
            // The directory counts whole seconds: two revocations within one look like the first alone, and end the
            // same sessions.
            (Some(now), Some(Before { sessions: Some(before), intent }))
                if now <= before && now < intent.truncate_to_second() =>
            {
                Evidence::Absent
            }
            (Some(_), _) => Evidence::Shown,
        },
        Action::DisableAccount => match now.state {
            AccountState::Disabled | AccountState::Deprovisioned => Evidence::Shown,
            AccountState::Active
            | AccountState::Locked
            | AccountState::PasswordExpired
            | AccountState::Pending => Evidence::Absent,
        },
        Action::MarkCompromised => match now.compromised {
            Some(true) => Evidence::Shown,
            Some(false) => Evidence::Absent,
            None => Evidence::Silent,
        },
    }
}

/// What would take an action back; `None`: nothing can, or nothing needs to.
pub const fn inverse(action: Action) -> Option<&'static str> {
    match action {
        Action::RevokeSessions => None,
        Action::DisableAccount => Some("enable_account"),
        Action::MarkCompromised => Some("dismiss_risk"),
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    const WANTED: OffsetDateTime = datetime!(2026-01-05 10:00 UTC);

    fn facts() -> Facts {
        Facts {
            entitled: true,
            integration_usable: true,
            switch: ActionSwitch { automated: true, manual: true },
            automatic: true,
            account_present: true,
            is_admin: false,
            hybrid: false,
        }
    }

    fn shows(state: AccountState) -> Containment {
        Containment { state, sessions_valid_from: None, compromised: None }
    }

    #[test]
    fn every_cell_of_state_and_action_is_decided() {
        use AccountState::{Active, Deprovisioned, Disabled, Locked, PasswordExpired, Pending};
        use Refusal::{AccountGone, WrongState};
        use Step::{Act, AlreadyDone, Impossible};
        let states = [Active, Disabled, Locked, PasswordExpired, Pending, Deprovisioned];
        for (provider, action, expected) in [
            (ProviderKind::EntraId, Action::RevokeSessions, [Act, Act, Act, Act, Act, AlreadyDone]),
            (ProviderKind::EntraId, Action::DisableAccount, [Act, AlreadyDone, Act, Act, Act, AlreadyDone]),
            (
                ProviderKind::EntraId,
                Action::MarkCompromised,
                [Act, Act, Act, Act, Act, Impossible(AccountGone)],
            ),
            (ProviderKind::Okta, Action::RevokeSessions, [Act, Act, Act, Act, Act, AlreadyDone]),
            (
                ProviderKind::Okta,
                Action::DisableAccount,
                [Act, AlreadyDone, Impossible(WrongState), Act, Impossible(WrongState), AlreadyDone],
            ),
            (ProviderKind::Okta, Action::MarkCompromised, [Act, Act, Act, Act, Act, Impossible(AccountGone)]),
        ] {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(
                    step(provider, action, Some(&shows(state)), WANTED),
                    expected,
                    "{provider} {action:?} {state:?}"
                );
            }
            assert_eq!(step(provider, action, None, WANTED), Impossible(AccountGone));
        }
    }

    #[test]
    fn what_the_directory_shows_already_is_not_done_again() {
        let mut now = shows(AccountState::Active);
        now.sessions_valid_from = Some(WANTED + time::Duration::SECOND);
        now.compromised = Some(true);
        assert_eq!(
            step(ProviderKind::EntraId, Action::RevokeSessions, Some(&now), WANTED),
            Step::AlreadyDone
        );
        assert_eq!(
            step(ProviderKind::EntraId, Action::MarkCompromised, Some(&now), WANTED),
            Step::AlreadyDone
        );
        now.sessions_valid_from = Some(WANTED);
        assert_eq!(step(ProviderKind::EntraId, Action::RevokeSessions, Some(&now), WANTED), Step::Act);
    }

    #[test]
    fn refusals_come_before_holds_and_each_switch_counts_for_itself() {
        let go = |change: &dyn Fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            admit(Action::DisableAccount, &facts, None)
        };
        assert_eq!(go(&|_| {}), Admission::Go);
        assert_eq!(go(&|f| f.entitled = false), Admission::Refuse(Refusal::NotEntitled));
        assert_eq!(go(&|f| f.integration_usable = false), Admission::Refuse(Refusal::IntegrationDisabled));
        assert_eq!(go(&|f| f.switch.automated = false), Admission::Refuse(Refusal::SwitchedOff));
        assert_eq!(go(&|f| f.switch.manual = false), Admission::Go);
        assert_eq!(
            go(&|f| (f.automatic, f.switch.manual) = (false, false)),
            Admission::Refuse(Refusal::SwitchedOff)
        );
        assert_eq!(go(&|f| f.account_present = false), Admission::Refuse(Refusal::AccountGone));
        assert_eq!(go(&|f| f.hybrid = true), Admission::Refuse(Refusal::AdMastered));
        assert_eq!(go(&|f| f.is_admin = true), Admission::Hold(Hold::Privileged));
        assert_eq!(
            go(&|f| (f.is_admin, f.automatic) = (true, false)),
            Admission::Hold(Hold::Privileged),
            "a person alone cannot act on an administrator either"
        );
        assert_eq!(
            go(&|f| (f.is_admin, f.entitled) = (true, false)),
            Admission::Refuse(Refusal::NotEntitled)
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
        let limits = Brake::default();
        let calm = Activity { accounts: 1000, armed: true, ..Activity::default() };
        assert_eq!(brake(&limits, &calm), None);
        assert_eq!(brake(&limits, &Activity { armed: false, ..calm }), Some(Hold::FirstRun));
        assert_eq!(brake(&limits, &Activity { accounts_last_hour: 19, ..calm }), None);
        assert_eq!(brake(&limits, &Activity { accounts_last_hour: 20, ..calm }), Some(Hold::Hourly));
        assert_eq!(
            brake(&limits, &Activity { accounts_last_hour: 20, account_counted: true, ..calm }),
            None,
            "the second action on an account is no second account"
        );
        assert_eq!(brake(&limits, &Activity { accounts_last_day: 49, ..calm }), None);
        assert_eq!(brake(&limits, &Activity { accounts_last_day: 50, ..calm }), Some(Hold::Share));
        let small = Activity { accounts: 20, ..calm };
        assert_eq!(brake(&limits, &Activity { accounts_last_day: 9, ..small }), None);
        assert_eq!(brake(&limits, &Activity { accounts_last_day: 10, ..small }), Some(Hold::Share));
        let off = Brake { hold_first_run: false, ..limits };
        assert_eq!(brake(&off, &Activity { armed: false, ..calm }), None);
    }

    #[test]
    fn evidence_is_what_the_directory_shows_and_silence_is_no_proof() {
        let mut now = shows(AccountState::Active);
        assert_eq!(evidence(Action::DisableAccount, None, Some(&now)), Evidence::Absent);
        assert_eq!(evidence(Action::RevokeSessions, None, Some(&now)), Evidence::Silent);
        assert_eq!(evidence(Action::MarkCompromised, None, Some(&now)), Evidence::Silent);
        now.sessions_valid_from = Some(WANTED);
        let before =
            |late| Some(Before { sessions: Some(WANTED), intent: WANTED + Duration::milliseconds(late) });
        assert_eq!(evidence(Action::RevokeSessions, before(1000), Some(&now)), Evidence::Absent);
        assert_eq!(evidence(Action::RevokeSessions, before(999), Some(&now)), Evidence::Shown);
        assert_eq!(evidence(Action::RevokeSessions, None, Some(&now)), Evidence::Shown);
        assert_eq!(evidence(Action::DisableAccount, None, None), Evidence::Shown);
    }
}
