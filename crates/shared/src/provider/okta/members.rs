//! Everybody who is in a group or holds an administrator role (§3.3, §3.7). Holders through a group are among them as far as
//! the org lists them as assignees, which is not documented.

use std::collections::BTreeSet;

use http::Method;
use serde::Deserialize;

use super::{
    client::Client,
    failure,
    listing::{admins, list_of, members_path, next_link},
    memberships::{FOR_GROUPS, FOR_ROLES, Role, explained, is_shown},
};
use crate::{
    id::ProviderKind,
    provider::{
        GroupsAndRoles, Members, MembersRead, Membership, ProviderError, is_role_known,
        membership::{is_group_at, too_many},
    },
};

/// Default and maximum of Okta (§3.3).
const LIMIT: u16 = 200;
/// Most administrators who are asked for their roles one by one.
const MOST_ADMINS: usize = 1000;

pub(super) async fn read(client: &Client, of: GroupsAndRoles<'_>, most: usize) -> MembersRead {
    let mut read = Vec::new();
    for group in of.groups {
        let members = match is_group_at(group, ProviderKind::Okta) {
            Ok(false) => continue,
            Ok(true) => explained(members_of(client, group, most).await, FOR_GROUPS),
            Err(error) => Err(error),
        };
        read.push((Membership::Group(group.clone()), members));
    }
    if of.roles.is_empty() {
        return read;
    }
    let holders = explained(holders(client).await, FOR_ROLES);
    for role in of.roles {
        let members = match &holders {
            Ok(holders) => {
                let has = holders.iter().filter(|(_, held)| held.iter().any(|held| held.is(role)));
                let object_ids: BTreeSet<String> = has.map(|(user, _)| user.clone()).collect();
                // A custom role has any label, and nobody needs to hold it.
                Ok(Members { known: !object_ids.is_empty() || is_role_known(role), object_ids })
            }
            Err(error) => Err(again(error)),
        };
        read.push((Membership::Role(role.clone()), members));
    }
    read
}

/// The same error for the next role.
fn again(error: &ProviderError) -> ProviderError {
    match error {
        ProviderError::Refused(missing) => ProviderError::Refused(missing.clone()),
        ProviderError::Paced { wait } => ProviderError::Paced { wait: *wait },
        ProviderError::Throttled { retry_after } => ProviderError::Throttled { retry_after: *retry_after },
        ProviderError::Unavailable { status } => ProviderError::Unavailable { status: *status },
        _ => ProviderError::Lost("the org did not tell who holds a role"),
    }
}

async fn members_of(client: &Client, group: &str, most: usize) -> Result<Members, ProviderError> {
    #[derive(Deserialize)]
    struct User {
        id: String,
    }
    // INVARIANT: a group that the app's role does not show is an error, never an empty group.
    is_shown(client, group).await?;
    let below = members_path(group)?;
    let (mut object_ids, mut path) = (BTreeSet::new(), format!("{below}?limit={LIMIT}"));
    loop {
        let answer = client.call(Method::GET, "groups", &path).await?;
        if answer.status != 200 {
            return Err(failure::of(&answer));
        }
        let before = object_ids.len();
        object_ids.extend(answer.json::<Vec<User>>()?.into_iter().map(|user| user.id));
        match next_link(&answer) {
            _ if object_ids.len() > most => return Err(too_many(most)),
            None => return Ok(Members { object_ids, known: true }),
            Some(_) if object_ids.len() == before => {
                return Err(ProviderError::Protocol("the list does not end"));
            }
            Some(link) => path = client.follow(&link, &below)?,
        }
    }
}

/// Administrators with their roles.
async fn holders(client: &Client) -> Result<Vec<(String, Vec<Role>)>, ProviderError> {
    let admins = admins(client).await?;
    if admins.len() > MOST_ADMINS {
        return Err(too_many(MOST_ADMINS));
    }
    let mut holders = Vec::with_capacity(admins.len());
    for admin in admins {
        let roles = list_of(client, "user_roles", &admin, "roles").await?;
        holders.push((admin, roles));
    }
    Ok(holders)
}
