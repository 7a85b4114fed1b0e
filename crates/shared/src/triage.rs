//! The words of triage: its rules, which an integration may switch off one by one, and the order of what waits.
//! credential-validator decides with them, integration-api explains them.

use serde::{Deserialize, Serialize};

use crate::verdict::names;

names! {
    /// A rule that decides without an attempt (design §6), in the order in which they are asked.
    #[derive(PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    Rule {
        /// There is nothing to submit.
        NoUsableSecret = "no_usable_secret",
        /// The account cannot sign in.
        AccountState = "account_state",
        /// Somebody else checks the password.
        AuthorityElsewhere = "authority_elsewhere",
        /// The password was tried already.
        AlreadyTried = "already_tried",
        /// Another password is known to be right.
        OtherPasswordProven = "other_password_proven",
        /// The password changed after the leak.
        ChangedSinceCapture = "changed_since_capture",
        /// The password cannot have been set.
        PolicyExcludes = "policy_excludes",
    }
}

impl Rule {
    /// What it decides, in one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NoUsableSecret => {
                "The record carries no password that can be submitted as it leaked: a hash, a hint, a mask, or nothing"
            }
            Self::AccountState => "The account is gone, disabled, locked, not ready to sign in, or a guest's",
            Self::AuthorityElsewhere => {
                "The directory does not check the password itself: Active Directory or another identity provider does, or \
                 there is none"
            }
            Self::AlreadyTried => {
                "The same password was tried on the account since its password last changed"
            }
            Self::OtherPasswordProven => {
                "Another password of the account was proven right since it last changed"
            }
            Self::ChangedSinceCapture => {
                "The password was entered at the directory's own sign-in page, and the account's has changed since"
            }
            Self::PolicyExcludes => {
                "The password cannot satisfy the policy under which the account's was last set"
            }
        }
    }

    /// Why it cannot be switched off; `None`: it only saves attempts, so it can.
    pub const fn always_on_because(self) -> Option<&'static str> {
        match self {
            Self::NoUsableSecret => Some("there is nothing that could be submitted"),
            Self::AccountState => Some(
                "an attempt on such an account proves nothing and can lock its owner out or keep them locked out",
            ),
            Self::AuthorityElsewhere => Some(
                "an attempt would count against a lockout policy that nobody read; accounts behind Active Directory are \
                 allowed with settings.validation.allow_ad_backed",
            ),
            Self::AlreadyTried
            | Self::OtherPasswordProven
            | Self::ChangedSinceCapture
            | Self::PolicyExcludes => None,
        }
    }
}

/// Why an exposure has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A person asks.
    Person,
    /// A rule wants it: automated validation or mitigation.
    Rule,
    /// Its account changed, which mostly decides it without an attempt.
    Change,
}

names! {
    /// How likely a leaked password is to be right today, as far as its record tells, likeliest first.
    Likelihood {
        /// Entered at this directory's own sign-in page.
        OwnPage = "own_page",
        /// Taken from its owner within the last month: by malware on a device, or by a false page.
        StolenLately = "stolen_within_30_days",
        /// Leaked within the last month.
        LeakedLately = "leaked_within_30_days",
        /// Taken from its owner within the last year.
        StolenThisYear = "stolen_within_a_year",
        /// Leaked within the last year.
        LeakedThisYear = "leaked_within_a_year",
        /// Nobody says when.
        Undated = "date_unknown",
        /// From a list whose date says when it was put together.
        Collected = "collected",
        /// More than a year old.
        Old = "older",
        /// From elsewhere, before the account's password last changed.
        ChangedSince = "changed_since",
    }
}

impl Likelihood {
    /// In one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::OwnPage => "entered at the directory's own sign-in page",
            Self::StolenLately => "stolen by malware or a false page within 30 days before it arrived",
            Self::LeakedLately => "leaked within 30 days before it arrived",
            Self::StolenThisYear => "stolen by malware or a false page within a year before it arrived",
            Self::LeakedThisYear => "leaked within a year before it arrived",
            Self::Undated => "nobody says when it leaked",
            Self::Collected => "from a list put together of older leaks",
            Self::Old => "leaked more than a year before it arrived",
            Self::ChangedSince => "leaked elsewhere before the account's password last changed",
        }
    }
}

/// Where an exposure stands among those that wait: the least rank has its turn first.
///
/// | rank | what |
/// |---|---|
/// | 10–19 | what people ask for |
/// | 20–29 | what a rule wants |
/// | 30–39 | what a change of its account reopened |
///
/// and within each, by [`Likelihood`] in its order, 1 to 9; what concerns an administrator's account stands one before
/// the same of anybody else. An account's budget is its own, so that its likeliest password has the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// `None`: it came in before this was kept; it stands where one without a date does.
    pub likelihood: Option<Likelihood>,
    /// An administrator's account.
    pub privileged: bool,
}

impl Place {
    /// The rank, as [`crate::work`] orders it.
    pub fn rank(self, cause: Cause) -> i16 {
        let likelihood = self.likelihood.unwrap_or(Likelihood::Undated);
        let place =
            Likelihood::ALL.iter().zip(1..).find(|(one, _)| **one == likelihood).map_or(9, |(_, n)| n);
        cause.first_rank() + place - i16::from(self.privileged)
    }
}

impl Cause {
    const fn first_rank(self) -> i16 {
        match self {
            Self::Person => 10,
            Self::Rule => 20,
            Self::Change => 30,
        }
    }

    /// Why a rank was given.
    pub const fn of_rank(rank: i16) -> Self {
        match rank {
            ..20 => Self::Person,
            20..30 => Self::Rule,
            30.. => Self::Change,
        }
    }

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "asked",
            Self::Rule => "automatic",
            Self::Change => "account_changed",
        }
    }

    /// In one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Person => "asked for by a person",
            Self::Rule => "validated automatically",
            Self::Change => "looked at again because its account changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_goes_first_an_administrator_s_one_place_ahead_and_no_cause_reaches_into_another_s_ranks()
    {
        let mut last = 9;
        for cause in [Cause::Person, Cause::Rule, Cause::Change] {
            for likelihood in Likelihood::ALL {
                let place = |privileged| Place { likelihood: Some(*likelihood), privileged }.rank(cause);
                assert_eq!((place(false), place(true)), (last + 2, last + 1), "{likelihood:?}");
                assert_eq!((Cause::of_rank(place(false)), Cause::of_rank(place(true))), (cause, cause));
                last = place(true);
            }
            last += 1;
        }
    }

    #[test]
    fn what_came_in_before_places_were_kept_stands_with_what_has_no_date() {
        let place = |likelihood| Place { likelihood, privileged: false }.rank(Cause::Rule);
        assert_eq!(place(None), place(Some(Likelihood::Undated)));
    }

    #[test]
    fn rules_that_protect_people_or_are_facts_stay_on_and_those_that_only_save_attempts_need_not() {
        let always: Vec<_> = Rule::ALL.iter().filter(|r| r.always_on_because().is_some()).collect();
        assert_eq!(always, [&Rule::NoUsableSecret, &Rule::AccountState, &Rule::AuthorityElsewhere]);
    }

    #[test]
    fn a_rule_is_stored_under_the_name_that_its_decisions_carry() {
        for rule in Rule::ALL {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.as_str());
        }
    }
}
