//! What to do about an account as the directory shows it now, and what the directory shows of what was done.

use shared::{
    id::ProviderKind,
    provider::{AccountState, Action, Containment},
};
use time::OffsetDateTime;

use super::Refusal;

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

    fn shows(state: AccountState) -> Containment {
        Containment { state, sessions_valid_from: None, compromised: None, changed_at: None }
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
