//! A tenant's mitigation policy, as stored in a JSON column by integration-api and read by mitigation-executor: what
//! follows a valid verdict, in which order, what waits for a second person, and who is never touched.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::{Row, types::Json};
use time::OffsetDateTime;

use crate::{
    db::{StoreError, Tx},
    id::AccountId,
    provider::{self, Action},
    verdict::Verdict,
};

/// Most accounts that a policy protects by name.
pub const MOST_PROTECTED: usize = 1000;
/// Most groups, and most roles, that a policy protects.
pub const MOST_GROUPS: usize = 20;

/// What a tenant wants done about accounts whose leaked password works. Its switches per action are the integrations'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MitigationPolicy {
    /// The order in which the actions on an account are begun: each action once.
    pub order: Vec<Action>,
    /// The verdicts that automated mitigations follow; only kinds of valid.
    pub verdicts: BTreeSet<ValidKind>,
    /// Disable accounts that are mastered in Active Directory too, although its next sync enables them again.
    pub disable_ad_mastered: bool,
    /// Who is never acted on without a person.
    pub protected: Protected,
    /// What else waits for a second person.
    pub approval: Approval,
    /// What stops automated mitigations.
    pub brake: Brake,
}

impl Default for MitigationPolicy {
    fn default() -> Self {
        Self {
            // An account that is disabled first cannot begin the session that is ended next.
            order: vec![Action::DisableAccount, Action::RevokeSessions, Action::MarkCompromised],
            verdicts: ValidKind::ALL.into(),
            disable_ad_mastered: false,
            protected: Protected::default(),
            approval: Approval::default(),
            brake: Brake::default(),
        }
    }
}

/// A verdict that proves the leaked password right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidKind {
    /// No second factor stood in the way.
    Valid,
    /// A second factor or a policy stopped the sign-in.
    ValidSecondFactor,
    /// Right, but it must be changed.
    ValidExpired,
}

impl ValidKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Valid, Self::ValidSecondFactor, Self::ValidExpired];

    /// The verdict.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Valid => Verdict::Valid,
            Self::ValidSecondFactor => Verdict::ValidSecondFactor,
            Self::ValidExpired => Verdict::ValidExpired,
        }
    }

    /// The kind that a stored verdict is, if it is one.
    pub fn of(verdict: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.verdict().name() == verdict)
    }
}

/// Accounts that are never acted on automatically, and by hand only with a second person's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protected {
    /// The directory's administrators: what follows a verdict waits for a second person.
    pub administrators: bool,
    /// By name, with what a person noted about each.
    pub accounts: BTreeMap<AccountId, Named>,
    /// Members of these groups (object ids at the directory), nested ones included where the directory tells.
    pub group_ids: BTreeSet<String>,
    /// Holders of these roles, as the directory names them.
    pub roles: BTreeSet<String>,
}

impl Default for Protected {
    fn default() -> Self {
        Self {
            administrators: true,
            accounts: BTreeMap::new(),
            group_ids: BTreeSet::new(),
            roles: BTreeSet::new(),
        }
    }
}

/// An account that is protected by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Named {
    /// The way back in when nothing else works: what follows a verdict is refused at once, with an alert.
    pub break_glass: bool,
    /// Why it is protected.
    pub note: String,
}

/// What waits for a second person, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Approval {
    /// A person's request about more accounts than this, 1 to 100,000.
    pub more_than_accounts: u32,
    /// Hold the first automated mitigations after the policy or an integration was made or changed.
    pub first_run: bool,
    /// Hours after which what nobody decided is dropped, 1 to 720.
    pub expires_after_hours: u32,
}

impl Default for Approval {
    fn default() -> Self {
        Self { more_than_accounts: 50, first_run: true, expires_after_hours: 72 }
    }
}

/// What stops automated mitigations until a second person releases them (design I7). What a person asked for or
/// released is not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Brake {
    /// Accounts that may be contained automatically within an hour, 1 to 10,000.
    pub accounts_per_hour: u32,
    /// Share of the tenant's accounts, in percent, that may be contained automatically within a day, 1 to 100.
    pub percent_of_accounts: u32,
    /// So many accounts a day never count as too large a share: a small tenant would stop at the first. At most 10,000.
    pub share_from_accounts: u32,
    /// Administrators that may be contained automatically within an hour once they are not protected, 0 to 10,000.
    pub administrators_per_hour: u32,
    /// A feed is unusual when it matched within a day more than so many times what it matched on an average day of the
    /// two weeks before, 2 to 1000,
    pub feed_times_usual: u32,
    /// and more exposures than this, 1 to 1,000,000.
    pub feed_from_exposures: u32,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            accounts_per_hour: 20,
            percent_of_accounts: 5,
            share_from_accounts: 10,
            administrators_per_hour: 1,
            feed_times_usual: 10,
            feed_from_exposures: 100,
        }
    }
}

/// One thing that is wrong with a policy: the field, as it is written in JSON, and what it must be.
pub type Fault = (&'static str, String);

const GROUPS: &str =
    "give object ids (GUIDs) of groups at Entra ID, ids of Okta groups (00g1a2b3c4d5e6f7g8h9), not names";
const ROLES: &str = "give template ids (GUIDs) of roles at Entra ID or names of built-in ones (Global Administrator), types of \
     Okta's roles (SUPER_ADMIN) or ids of custom ones (cr0a1b2c3d4e5f6g7h8i)";

impl MitigationPolicy {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<Fault> {
        let (approval, brake, protected) = (&self.approval, &self.brake, &self.protected);
        let once = Action::ALL.iter().all(|a| self.order.iter().filter(|o| *o == a).count() == 1);
        let name = |text: &String| (1..=200).contains(&text.len()) && !text.contains(char::is_control);
        let note = |named: &Named| named.note.len() <= 500 && !named.note.contains(char::is_control);
        // Whom a name that no directory has was to protect is unknown: it would protect nobody, unnoticed.
        let groups =
            protected.group_ids.iter().filter(|group| name(group) && provider::group_kind(group).is_none());
        let roles = protected.roles.iter().filter(|role| name(role) && !provider::is_role_known(role));
        let unknown = groups
            .map(|group| ("protected.group_ids", format!("{group:?} is not the id of a group; {GROUPS}")));
        let unknown = unknown.chain(
            roles.map(|role| ("protected.roles", format!("{role:?} is not a role that is known; {ROLES}"))),
        );
        [
            (once && self.order.len() == Action::ALL.len(), "order", "name every action once"),
            (!self.verdicts.is_empty(), "verdicts", "name at least one kind of valid verdict"),
            (protected.accounts.len() <= MOST_PROTECTED, "protected.accounts", "name at most 1000 accounts"),
            (
                protected.accounts.values().all(note),
                "protected.accounts.note",
                "must be at most 500 printable characters",
            ),
            (
                protected.group_ids.len() <= MOST_GROUPS && protected.group_ids.iter().all(name),
                "protected.group_ids",
                "name at most 20 groups by their object ids",
            ),
            (
                protected.roles.len() <= MOST_GROUPS && protected.roles.iter().all(name),
                "protected.roles",
                "name at most 20 roles, of 1 to 200 printable characters",
            ),
            (
                (1..=100_000).contains(&approval.more_than_accounts),
                "approval.more_than_accounts",
                "must be 1 to 100000",
            ),
            (
                (1..=720).contains(&approval.expires_after_hours),
                "approval.expires_after_hours",
                "must be 1 to 720",
            ),
            (
                (1..=10_000).contains(&brake.accounts_per_hour),
                "brake.accounts_per_hour",
                "must be 1 to 10000",
            ),
            ((1..=100).contains(&brake.percent_of_accounts), "brake.percent_of_accounts", "must be 1 to 100"),
            (brake.share_from_accounts <= 10_000, "brake.share_from_accounts", "must be at most 10000"),
            (
                brake.administrators_per_hour <= 10_000,
                "brake.administrators_per_hour",
                "must be at most 10000",
            ),
            ((2..=1000).contains(&brake.feed_times_usual), "brake.feed_times_usual", "must be 2 to 1000"),
            (
                (1..=1_000_000).contains(&brake.feed_from_exposures),
                "brake.feed_from_exposures",
                "must be 1 to 1000000",
            ),
        ]
        .into_iter()
        .filter_map(|(holds, field, message)| (!holds).then_some((field, message.to_owned())))
        .chain(unknown)
        .collect()
    }

    /// Where an action comes in the order.
    pub fn place(&self, action: Action) -> i16 {
        let place = self.order.iter().position(|a| *a == action).unwrap_or(self.order.len());
        i16::try_from(place).unwrap_or(i16::MAX)
    }
}

/// A policy as it stands.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// Grows with every change; 0: nobody has changed the defaults yet.
    pub version: i32,
    /// It.
    pub policy: MitigationPolicy,
    /// Who changed it last (token subject); empty: nobody.
    pub updated_by: String,
    /// When.
    pub updated_at: Option<OffsetDateTime>,
}

/// Reads the policy of the transaction's tenant; the defaults when it has none.
pub async fn current(tx: &mut Tx) -> Result<Current, StoreError> {
    let row = sqlx::query(
        "SELECT version, policy, updated_by, created_at FROM api.mitigation_policies_v ORDER BY version DESC LIMIT 1",
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(Current::default()) };
    Ok(Current {
        version: row.try_get("version")?,
        policy: row.try_get::<Json<MitigationPolicy>, _>("policy")?.0,
        updated_by: row.try_get("updated_by")?,
        updated_at: row.try_get("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_policy_and_are_read_from_nothing() {
        assert_eq!(MitigationPolicy::default().faults(), []);
        assert_eq!(serde_json::from_str::<MitigationPolicy>("{}").unwrap(), MitigationPolicy::default());
    }

    #[test]
    fn an_action_is_named_once_and_a_kind_of_verdict_at_least() {
        let twice = MitigationPolicy {
            order: vec![Action::DisableAccount, Action::DisableAccount, Action::RevokeSessions],
            verdicts: BTreeSet::new(),
            ..MitigationPolicy::default()
        };
        let fields: Vec<_> = twice.faults().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["order", "verdicts"]);
    }

    #[test]
    fn a_group_or_role_that_no_directory_can_have_is_named_with_what_is_allowed() {
        let named = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect();
        let policy = MitigationPolicy {
            protected: Protected {
                group_ids: named(&["00g1a2b3c4d5e6f7g8h9", "Break glass"]),
                roles: named(&["Global Administrator", "Globl Administrator", "SUPER_ADMIN"]),
                ..Protected::default()
            },
            ..MitigationPolicy::default()
        };
        let faults = policy.faults();
        let told = |field: &str, name: &str, allowed: &str| {
            faults.iter().any(|(of, text)| *of == field && text.contains(name) && text.contains(allowed))
        };
        assert!(told("protected.group_ids", "Break glass", "00g"), "{faults:?}");
        assert!(told("protected.roles", "Globl Administrator", "Global Administrator"), "{faults:?}");
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn only_kinds_of_valid_can_be_followed() {
        assert!(serde_json::from_str::<MitigationPolicy>(r#"{"verdicts": ["invalid"]}"#).is_err());
        assert_eq!(ValidKind::of("valid_expired"), Some(ValidKind::ValidExpired));
        assert_eq!(ValidKind::of("inconclusive"), None);
    }
}
