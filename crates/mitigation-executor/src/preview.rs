//! What would happen: plans that nobody carries out, made by the same functions as those that are.

use std::collections::BTreeMap;

use shared::{
    id::ExposureId,
    provider::{Action, Containment},
};
use time::OffsetDateTime;

use crate::{
    plan::{self, Admission, Hold, Refusal, Step},
    store_requests::Target,
};

/// What would become of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It would not be done.
    Refused(Refusal),
    /// It would wait for a second person.
    Held(Hold),
    /// It would be carried out.
    Run,
    /// The directory showed the effect already: nothing would be called.
    Already,
}

impl From<Admission> for Outcome {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Refuse(reason) => Self::Refused(reason),
            Admission::Hold(by) => Self::Held(by),
            Admission::Go => Self::Run,
        }
    }
}

impl Outcome {
    /// What becomes of an admitted action at an account that still is as it was when its directory was read last.
    ///
    /// Which sessions are over already and who is marked is not stored: such an action is said to run, and calls nothing when
    /// it does.
    pub fn foreseen(admission: Admission, target: &Target, action: Action) -> Self {
        let known = Containment {
            state: target.state,
            sessions_valid_from: None,
            compromised: None,
            changed_at: None,
        };
        match (admission, plan::step(target.provider, action, Some(&known), OffsetDateTime::UNIX_EPOCH)) {
            (Admission::Go, Step::AlreadyDone) => Self::Already,
            (Admission::Go, Step::Impossible(reason)) => Self::Refused(reason),
            (admission, _) => admission.into(),
        }
    }

    /// The word and the sentence for why.
    pub const fn why(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Refused(reason) => Some((reason.as_str(), reason.sentence())),
            Self::Held(by) => Some((by.as_str(), by.sentence())),
            Self::Run | Self::Already => None,
        }
    }

    /// What a person has to look at comes first.
    const fn place(self) -> usize {
        match self {
            Self::Refused(_) => 0,
            Self::Held(_) => 1,
            Self::Run => 2,
            Self::Already => 3,
        }
    }
}

/// One action on one account.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The account.
    pub target: &'a Target,
    /// What is wanted.
    pub action: Action,
    /// What would become of it.
    pub outcome: Outcome,
    /// Of a simulation: the exposure that it follows, and when its verdict was given.
    pub follows: Option<(ExposureId, OffsetDateTime)>,
}

/// Counts everything and keeps as many items of each outcome as are wanted.
#[derive(Debug)]
pub struct Preview<'a> {
    most: usize,
    counts: BTreeMap<(usize, Action, &'static str), (Outcome, i64)>,
    kept: [Vec<Item<'a>>; 4],
}

impl<'a> Preview<'a> {
    /// Nothing yet; at most so many items will be wanted.
    pub fn new(most: usize) -> Self {
        Self { most, counts: BTreeMap::new(), kept: Default::default() }
    }

    /// One more.
    pub fn add(&mut self, item: Item<'a>) {
        let place = item.outcome.place();
        let why = item.outcome.why().map_or("", |(word, _)| word);
        self.counts.entry((place, item.action, why)).or_insert((item.outcome, 0)).1 += 1;
        if let Some(kept) = self.kept.get_mut(place).filter(|kept| kept.len() < self.most) {
            kept.push(item);
        }
    }

    /// How many stand alike, in the order of the items.
    pub fn counts(&self) -> impl Iterator<Item = (Action, Outcome, i64)> {
        self.counts.iter().map(|((_, action, _), (outcome, count))| (*action, *outcome, *count))
    }

    /// Refused first, then held, then what would run, then what is so already; each as it was added.
    pub fn items(&self) -> impl Iterator<Item = &Item<'a>> {
        self.kept.iter().flatten().take(self.most)
    }

    /// Whether there are more than [`Self::items`].
    pub fn truncated(&self) -> bool {
        let all: i64 = self.counts.values().map(|(_, count)| count).sum();
        usize::try_from(all).is_ok_and(|all| all > self.most)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use shared::{
        id::{AccountId, IntegrationId, ProviderKind},
        provider::AccountState,
    };

    use super::*;

    pub(crate) fn target(provider: ProviderKind, state: AccountState) -> Target {
        Target {
            account: AccountId::new(),
            integration: IntegrationId::new(),
            provider,
            directory: "d".into(),
            object_id: "o".into(),
            login: "ann@acme.example".into(),
            is_admin: false,
            hybrid: false,
            present: true,
            state,
            password_changed_at: None,
            seen_at: None,
            protected_by: None,
        }
    }

    #[test]
    fn what_the_directory_showed_already_is_told_and_what_it_forbids_is_refused() {
        use AccountState::{Active, Disabled, Locked};
        let of = |admission, state| {
            Outcome::foreseen(admission, &target(ProviderKind::Okta, state), Action::DisableAccount)
        };
        assert_eq!(of(Admission::Go, Active), Outcome::Run);
        assert_eq!(of(Admission::Go, Disabled), Outcome::Already);
        assert_eq!(of(Admission::Go, Locked), Outcome::Refused(Refusal::WrongState));
        let held = Admission::Hold(Hold::Privileged);
        assert_eq!(of(held, Disabled), Outcome::Held(Hold::Privileged), "it is held before it is read again");
    }

    #[test]
    fn everything_is_counted_and_what_would_not_run_is_kept_first() {
        let account = target(ProviderKind::Okta, AccountState::Active);
        let mut preview = Preview::new(3);
        let outcomes = [
            Outcome::Run,
            Outcome::Already,
            Outcome::Held(Hold::Privileged),
            Outcome::Run,
            Outcome::Refused(Refusal::SwitchedOff),
        ];
        for outcome in outcomes {
            preview.add(Item { target: &account, action: Action::DisableAccount, outcome, follows: None });
        }
        let kept: Vec<_> = preview.items().map(|item| item.outcome).collect();
        assert_eq!(
            kept,
            [Outcome::Refused(Refusal::SwitchedOff), Outcome::Held(Hold::Privileged), Outcome::Run]
        );
        assert!(preview.truncated());
        let counted: Vec<_> = preview.counts().map(|(_, outcome, count)| (outcome, count)).collect();
        assert_eq!(
            counted,
            [
                (Outcome::Refused(Refusal::SwitchedOff), 1),
                (Outcome::Held(Hold::Privileged), 1),
                (Outcome::Run, 2),
                (Outcome::Already, 1)
            ]
        );
    }
}
