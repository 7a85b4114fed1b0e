//! Which groups and administrator roles a user has (§3.3, §3.7).

use http::Method;
use serde::Deserialize;

use super::{
    client::Client,
    failure,
    listing::{groups_of, list_of},
};
use crate::{
    id::ProviderKind,
    provider::{GroupsAndRoles, Membership, Missing, ProviderError, membership::is_role},
};

/// What it takes to see groups and roles, for a person.
pub(super) const FOR_GROUPS: &str =
    "protected groups need okta.groups.read and an admin role that covers the groups";
pub(super) const FOR_ROLES: &str = "protected roles need okta.roles.read and an admin role that may view administrators \
     (Super Administrator, or okta.iam.read)";

/// A role of a user. Those that come through a group are listed too, as `assignmentType` GROUP.
#[derive(Deserialize)]
pub(super) struct Role {
    #[serde(rename = "type")]
    kind: String,
    label: Option<String>,
    /// Of a custom role.
    #[serde(rename = "role")]
    id: Option<String>,
}

impl Role {
    pub(super) fn is(&self, asked: &str) -> bool {
        let names = [Some(&self.kind), self.label.as_ref(), self.id.as_ref()];
        names.into_iter().flatten().any(|name| is_role(asked, name))
    }
}

pub(super) async fn read(
    client: &Client,
    object_id: &str,
    of: GroupsAndRoles<'_>,
) -> Result<Vec<Membership>, ProviderError> {
    let mut found = Vec::new();
    let groups = of.groups_at(ProviderKind::Okta)?;
    if !groups.is_empty() {
        let within = explained(groups_of(client, object_id).await, FOR_GROUPS)?;
        for group in groups {
            if within.contains(group) {
                found.push(Membership::Group(group.clone()));
            } else {
                explained(is_shown(client, group).await, FOR_GROUPS)?;
            }
        }
    }
    if !of.roles.is_empty() {
        let held: Vec<Role> = explained(list_of(client, "user_roles", object_id, "roles").await, FOR_ROLES)?;
        let has = of.roles.iter().filter(|asked| held.iter().any(|role| role.is(asked)));
        found.extend(has.cloned().map(Membership::Role));
    }
    Ok(found)
}

/// Passes if the app's role shows a group. Okta lists a user's groups as far as that role goes: one that it hides
/// looks like one that the user is not in.
pub(super) async fn is_shown(client: &Client, group: &str) -> Result<(), ProviderError> {
    let answer = client.call(Method::GET, "group", &format!("/api/v1/groups/{group}")).await?;
    match answer.status {
        200 => Ok(()),
        404 if failure::code(&answer).as_deref() == Some("E0000007") => {
            Err(ProviderError::Refused(Missing {
                reason: "group_missing",
                message: format!(
                    "the org shows no group {group}; take it out of the protected groups, or let the app's admin \
                     role see it"
                ),
                not_granted: false,
            }))
        }
        _ => Err(failure::of(&answer)),
    }
}

/// Adds to a refusal for want of a grant what it was for.
pub(super) fn explained<T>(read: Result<T, ProviderError>, needs: &str) -> Result<T, ProviderError> {
    read.map_err(|error| match error {
        ProviderError::Refused(refused) if refused.not_granted => {
            let message = format!("{}; {needs}", refused.message);
            ProviderError::Refused(Missing { message, ..refused })
        }
        other => other,
    })
}
