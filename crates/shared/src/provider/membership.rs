//! Which groups and roles an account has, of those that protect accounts.

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The id of a group.
    Group(String),
    /// The name of a role.
    Role(String),
}

impl<'a> GroupsAndRoles<'a> {
    /// The groups that this kind of provider can have.
    ///
    /// INVARIANT: an id that no kind of provider can have is an error: whom it was to protect is unknown.
    pub(super) fn groups_at(self, provider: ProviderKind) -> Result<Vec<&'a String>, ProviderError> {
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            match kind_of(group) {
                Some(kind) if kind == provider => groups.push(group),
                Some(_) => {}
                None => {
                    return Err(ProviderError::Refused(Missing {
                        reason: "group_id_invalid",
                        message: format!("{group:?} is not the id of a group; change the protected groups."),
                        not_granted: false,
                    }));
                }
            }
        }
        Ok(groups)
    }
}

/// The kind of provider whose groups have ids of this shape.
fn kind_of(group: &str) -> Option<ProviderKind> {
    let of_okta = group.starts_with("00g") && group.bytes().all(|b| b.is_ascii_alphanumeric());
    let of_entra = || Uuid::try_parse(group).ok().map(|_| ProviderKind::EntraId);
    if of_okta { Some(ProviderKind::Okta) } else { of_entra() }
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
}
