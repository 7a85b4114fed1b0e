//! Everybody who is in a group or has a directory role (entra.md §9, §11; Graph's reference of `List group transitive
//! members`, whose cast to users takes the advanced query engine, which lags behind writes by some seconds).

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{
    Entra,
    account::object_id_segment,
    graph::error,
    memberships::{DEFINITIONS, Definition, naming},
    permission::{GROUP_MEMBER_READ, ROLE_MANAGEMENT_READ},
};
use crate::{
    id::ProviderKind,
    provider::{
        GroupsAndRoles, Members, MembersRead, Membership, ProviderError,
        membership::{is_group_at, too_many},
    },
};

impl Entra {
    pub(super) async fn read_members(&self, of: GroupsAndRoles<'_>, most: usize) -> MembersRead {
        let mut read = Vec::new();
        for group in of.groups {
            let members = match is_group_at(group, ProviderKind::EntraId) {
                Ok(false) => continue,
                Ok(true) => self.members_of_group(group, most).await,
                Err(error) => Err(error),
            };
            read.push((Membership::Group(group.clone()), members));
        }
        for role in of.roles {
            read.push((Membership::Role(role.clone()), self.holders_of_role(role, most).await));
        }
        read
    }

    async fn members_of_group(&self, group: &str, most: usize) -> Result<Members, ProviderError> {
        let id = object_id_segment(group)?;
        self.may_read_groups().await?;
        // INVARIANT: hidden members are an error, never an empty group.
        self.absence_tells(&id).await?;
        let members = self.users_in(&id, most).await?;
        Ok(members.map_or_else(Members::default, |object_ids| Members { object_ids, known: true }))
    }

    async fn holders_of_role(&self, role: &str, most: usize) -> Result<Members, ProviderError> {
        let definitions = format!("{DEFINITIONS}?$select=id,templateId,displayName");
        let definitions: Vec<Definition> = naming(self.graph.list(&definitions).await, ROLE_MANAGEMENT_READ)?;
        let holders = self.holders(role, &definitions).await?;
        let known = definitions.iter().any(|definition| definition.is(role));
        let mut object_ids: BTreeSet<String> =
            holders.principals.difference(&holders.others).cloned().collect();
        if !holders.groups.is_empty() {
            self.may_read_groups().await?;
        }
        for group in &holders.groups {
            self.absence_tells(group).await?;
            object_ids.extend(self.users_in(group, most).await?.unwrap_or_default());
        }
        if object_ids.len() > most { Err(too_many(most)) } else { Ok(Members { object_ids, known }) }
    }

    /// Object ids of the users in a group, at any depth; `None`: there is no such group.
    async fn users_in(&self, group: &str, most: usize) -> Result<Option<BTreeSet<String>>, ProviderError> {
        #[derive(Deserialize)]
        struct User {
            id: String,
        }
        #[derive(Deserialize)]
        struct Page {
            #[serde(rename = "@odata.nextLink")]
            next: Option<String>,
            value: Vec<User>,
        }
        let below = format!("/groups/{group}/transitiveMembers/microsoft.graph.user");
        let mut url = self.graph.url(&format!("{below}?$count=true&$select=id&$top=999"));
        let mut found = BTreeSet::new();
        loop {
            let answer = self.graph.read_advanced(&url).await?;
            match answer.status {
                200 => {}
                404 if found.is_empty() => return Ok(None),
                _ => return naming(Err(error(&answer)), GROUP_MEMBER_READ),
            }
            let Page { next, value } = answer.json()?;
            // A page adds somebody, or the list would not end.
            let before = found.len();
            found.extend(value.into_iter().map(|user| user.id.to_ascii_lowercase()));
            match next {
                _ if found.len() > most => return Err(too_many(most)),
                None => return Ok(Some(found)),
                Some(_) if found.len() == before => {
                    return Err(ProviderError::Protocol("the list does not end"));
                }
                Some(link) => url = self.graph.own_link(&link, &below)?.to_owned(),
            }
        }
    }
}
