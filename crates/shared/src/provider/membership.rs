//! Which groups and roles an account has, of those that protect accounts.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Missing, ProviderError};
use crate::id::ProviderKind;

/// Groups and roles that an account is asked about. One list may name those of several kinds of provider: what is of
/// another kind than the provider asked is nobody's there.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupsAndRoles<'a> {
    /// Ids of groups: object ids (GUIDs) at Entra ID, `00g…` at Okta.
    pub groups: &'a [String],
    /// Roles, in any case. Entra ID: display name or template id of a directory role. Okta: type of a standard role
    /// (`SUPER_ADMIN`), label or id of a custom one.
    pub roles: &'a [String],
}

/// A group that an account is in, or a role that it has, directly or through groups; spelled as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// The id of a group.
    Group(String),
    /// The name of a role.
    Role(String),
}

/// Everybody who has a group or role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Object ids of users.
    pub object_ids: BTreeSet<String>,
    /// False: the directory knows no such group or role, so that nobody has it.
    pub known: bool,
}

/// What was read of each group and role that was asked about, if the provider is of a kind that can have it.
pub type Read = Vec<(Membership, Result<Members, ProviderError>)>;

/// More than are wanted.
pub(super) fn too_many(most: usize) -> ProviderError {
    ProviderError::Refused(Missing {
        reason: "too_many_members",
        message: format!("it has more than {most} members"),
        not_granted: false,
    })
}

impl<'a> GroupsAndRoles<'a> {
    /// The groups that this kind of provider can have.
    ///
    /// INVARIANT: an id that no kind of provider can have is an error: whom it was to protect is unknown.
    pub(super) fn groups_at(self, provider: ProviderKind) -> Result<Vec<&'a String>, ProviderError> {
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            if is_group_at(group, provider)? {
                groups.push(group);
            }
        }
        Ok(groups)
    }
}

/// Whether this kind of provider can have a group with this id.
pub(super) fn is_group_at(group: &str, provider: ProviderKind) -> Result<bool, ProviderError> {
    match group_kind(group) {
        Some(kind) => Ok(kind == provider),
        None => Err(ProviderError::Refused(Missing {
            reason: "group_id_invalid",
            message: format!("{group:?} is not the id of a group; change the protected groups."),
            not_granted: false,
        })),
    }
}

/// The kind of provider whose groups have ids of this shape: GUIDs at Entra ID, `00g…` at Okta.
pub fn group_kind(group: &str) -> Option<ProviderKind> {
    let of_entra = || is_guid(group).then_some(ProviderKind::EntraId);
    if is_okta_id(group, "00g") { Some(ProviderKind::Okta) } else { of_entra() }
}

/// Built-in directory roles of Entra ID by display name (entra.md §18). The others are named by their template ids.
const ENTRA_ROLES: [&str; 25] = [
    "Application Administrator",
    "Authentication Administrator",
    "Billing Administrator",
    "Cloud Application Administrator",
    "Conditional Access Administrator",
    "Directory Readers",
    "Directory Writers",
    "Exchange Administrator",
    "Global Administrator",
    "Global Reader",
    "Groups Administrator",
    "Guest Inviter",
    "Helpdesk Administrator",
    "Hybrid Identity Administrator",
    "Intune Administrator",
    "Message Center Reader",
    "Password Administrator",
    "Privileged Authentication Administrator",
    "Privileged Role Administrator",
    "Reports Reader",
    "Security Administrator",
    "Security Operator",
    "Security Reader",
    "SharePoint Administrator",
    "User Administrator",
];

/// Types of Okta's administrator roles (okta.md §3.7); `CUSTOM` is every custom one.
const OKTA_ROLES: [&str; 14] = [
    "ACCESS_CERTIFICATIONS_ADMIN",
    "ACCESS_REQUESTS_ADMIN",
    "API_ACCESS_MANAGEMENT_ADMIN",
    "APP_ADMIN",
    "CUSTOM",
    "GROUP_MEMBERSHIP_ADMIN",
    "HELP_DESK_ADMIN",
    "MOBILE_ADMIN",
    "ORG_ADMIN",
    "READ_ONLY_ADMIN",
    "REPORT_ADMIN",
    "SUPER_ADMIN",
    "USER_ADMIN",
    "WORKFLOWS_ADMIN",
];

/// Whether this names a role that some directory can have, as far as that can be told without asking one: a built-in role
/// by its name, any role by its id. The name of a custom one could as well be a mistake.
pub fn is_role_known(role: &str) -> bool {
    let built_in = ENTRA_ROLES.iter().chain(&OKTA_ROLES).any(|known| is_role(role, known));
    built_in || is_guid(role) || is_okta_id(role, "cr0")
}

fn is_guid(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

// 20 characters everywhere that was seen (okta.md §1).
fn is_okta_id(text: &str, prefix: &str) -> bool {
    (10..=40).contains(&text.len())
        && text.starts_with(prefix)
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether two spellings name the same role.
pub(super) fn is_role(asked: &str, shown: &str) -> bool {
    asked.trim().to_lowercase() == shown.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_provider_is_asked_about_its_own_groups_and_a_name_is_refused() {
        let entra = "6d1f8f6e-1f0a-4a53-9d2e-000000000001".to_owned();
        let okta = "00gpilot000000000001".to_owned();
        let both = [entra.clone(), okta.clone()];
        let of = GroupsAndRoles { groups: &both, roles: &[] };
        assert_eq!(of.groups_at(ProviderKind::EntraId).unwrap(), [&entra]);
        assert_eq!(of.groups_at(ProviderKind::Okta).unwrap(), [&okta]);
        for odd in ["Break glass", "", " 00gpilot000000000001", "00g/../users"] {
            let odd = [odd.to_owned()];
            let of = GroupsAndRoles { groups: &odd, roles: &[] };
            for kind in ProviderKind::ALL {
                assert!(matches!(of.groups_at(kind), Err(ProviderError::Refused(_))), "{odd:?}");
            }
        }
    }
    #[test]
    fn a_role_is_known_by_its_built_in_name_or_its_id_and_a_mistyped_one_is_not() {
        for known in [
            "Global Administrator",
            " global administrator ",
            "62e90394-69f5-4237-9190-012177145e10",
            "SUPER_ADMIN",
            "cr0Yq6IJxGIr0ouum0g3",
        ] {
            assert!(is_role_known(known), "{known}");
        }
        for odd in ["Globl Administrator", "SUPERADMIN", "62e90394-69f5-4237-9190", "cr0", "Tier 0", ""] {
            assert!(!is_role_known(odd), "{odd}");
        }
    }
}
