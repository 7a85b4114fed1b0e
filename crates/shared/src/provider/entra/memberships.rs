//! Which groups and directory roles an account has (entra.md §9, §11; Graph's reference of `checkMemberGroups`).

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use super::{
    Entra,
    account::object_id_segment,
    check::lacking_any,
    permission::{GROUP_MEMBER_READ, GROUP_READERS, MEMBER_READ_HIDDEN, Permission, ROLE_MANAGEMENT_READ},
};
use crate::{
    id::ProviderKind,
    provider::{GroupsAndRoles, Membership, Missing, ProviderError, membership::is_role},
};

pub(super) const DEFINITIONS: &str = "/roleManagement/directory/roleDefinitions";
const ASSIGNMENTS: &str = "/roleManagement/directory/roleAssignments";
/// Most groups of one question.
const MOST_ASKED: usize = 20;
/// Most groups remembered as visible.
const MOST_KEPT: usize = 1_000;

/// Groups whose members are not hidden. That is settled when a group is made, so it is asked once.
pub(super) type Visible = Mutex<BTreeSet<String>>;

/// Who has a role.
#[derive(Default)]
pub(super) struct Holders {
    /// Object ids of all kinds, lower case.
    pub principals: BTreeSet<String>,
    /// Those that may be groups.
    pub groups: BTreeSet<String>,
    /// Those that are no users.
    pub others: BTreeSet<String>,
}

impl Entra {
    pub(super) async fn read_memberships(
        &self,
        object_id: &str,
        of: GroupsAndRoles<'_>,
    ) -> Result<Vec<Membership>, ProviderError> {
        let account = object_id_segment(object_id)?;
        let mut groups = Vec::with_capacity(of.groups.len());
        for asked in of.groups_at(ProviderKind::EntraId)? {
            groups.push((object_id_segment(asked)?, asked));
        }
        let mut roles = Vec::with_capacity(of.roles.len());
        if !of.roles.is_empty() {
            let definitions = format!("{DEFINITIONS}?$select=id,templateId,displayName");
            let definitions = naming(self.graph.list(&definitions).await, ROLE_MANAGEMENT_READ)?;
            for asked in of.roles {
                roles.push((self.holders(asked, &definitions).await?, asked));
            }
        }

        let through = roles.iter().flat_map(|(holders, _)| holders.groups.iter());
        let all: BTreeSet<&String> = groups.iter().map(|(id, _)| id).chain(through).collect();
        let within = self.member_of(&account, &all).await?;

        let mut found = Vec::new();
        for (id, asked) in groups {
            if within.contains(&id) {
                found.push(Membership::Group(asked.clone()));
            } else {
                self.absence_tells(&id).await?;
            }
        }
        for (holders, asked) in roles {
            if holders.principals.contains(&account) || !holders.groups.is_disjoint(&within) {
                found.push(Membership::Role(asked.clone()));
            }
        }
        Ok(found)
    }

    /// Which of these groups an account is in, at any depth.
    async fn member_of(
        &self,
        account: &str,
        groups: &BTreeSet<&String>,
    ) -> Result<BTreeSet<String>, ProviderError> {
        #[derive(Deserialize)]
        struct Groups {
            value: Vec<String>,
        }
        let mut found = BTreeSet::new();
        if groups.is_empty() {
            return Ok(found);
        }
        self.may_read_groups().await?;
        let path = format!("/users/{account}/checkMemberGroups");
        let groups: Vec<&String> = groups.iter().copied().collect();
        for asked in groups.chunks(MOST_ASKED) {
            let answer = self.graph.ask(&path, &serde_json::json!({ "groupIds": asked })).await;
            let Groups { value } = naming(answer, GROUP_MEMBER_READ)?.json()?;
            found.extend(value.into_iter().map(|id| id.to_ascii_lowercase()));
        }
        Ok(found)
    }

    /// Graph may leave out what the caller is not to know, and call that an answer.
    pub(super) async fn may_read_groups(&self) -> Result<(), ProviderError> {
        let granted = self.graph.permissions().await?;
        let missing = granted.and_then(|granted| lacking_any(GROUP_READERS, &granted));
        missing.map_or(Ok(()), |missing| Err(ProviderError::Refused(missing)))
    }

    /// Passes if not being named as a member of a group means not being one: nobody is a member of a group that is
    /// gone, but anybody may be one of a group whose members are hidden from us.
    pub(super) async fn absence_tells(&self, group: &str) -> Result<(), ProviderError> {
        #[derive(Deserialize)]
        struct Group {
            visibility: Option<String>,
        }
        if self.visible.lock().unwrap_or_else(PoisonError::into_inner).contains(group) {
            return Ok(());
        }
        let answer = self.graph.find(&format!("/groups/{group}?$select=id,visibility")).await;
        let Some(answer) = naming(answer, GROUP_MEMBER_READ)? else { return Ok(()) };
        let Group { visibility } = answer.json()?;
        if visibility.as_deref() == Some("HiddenMembership") {
            let granted = self.graph.permissions().await?.unwrap_or_default();
            let missing = lacking_any(&[&[MEMBER_READ_HIDDEN]], &granted).map(ProviderError::Refused);
            return missing.map_or(Ok(()), Err);
        }
        let mut visible = self.visible.lock().unwrap_or_else(PoisonError::into_inner);
        if visible.len() >= MOST_KEPT {
            visible.clear();
        }
        visible.insert(group.to_owned());
        Ok(())
    }

    /// Who has a role, over the whole directory or a part of it.
    pub(super) async fn holders(
        &self,
        asked: &str,
        definitions: &[Definition],
    ) -> Result<Holders, ProviderError> {
        if definitions.is_empty() {
            return Err(ProviderError::Protocol("a tenant without roles")); // it always has the built-in ones
        }
        let mut holders = Holders::default();
        for definition in definitions.iter().filter(|definition| definition.is(asked)) {
            let id = object_id_segment(&definition.id)?;
            let path = format!("{ASSIGNMENTS}?$filter=roleDefinitionId eq '{id}'&$expand=principal");
            let assignments: Vec<Assignment> = naming(self.graph.list(&path).await, ROLE_MANAGEMENT_READ)?;
            for Assignment { principal_id, principal } in assignments {
                let id = object_id_segment(&principal_id)?;
                let kind = principal.and_then(|principal| principal.kind);
                let alone = matches!(
                    kind.as_deref(),
                    Some("#microsoft.graph.user" | "#microsoft.graph.servicePrincipal")
                );
                holders.groups.extend((!alone).then(|| id.clone()));
                holders.others.extend((kind.as_deref() != Some("#microsoft.graph.user")).then(|| id.clone()));
                holders.principals.insert(id);
            }
        }
        Ok(holders)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Definition {
    id: String,
    template_id: Option<String>,
    display_name: Option<String>,
}

impl Definition {
    pub(super) fn is(&self, asked: &str) -> bool {
        let names = [Some(&self.id), self.template_id.as_ref(), self.display_name.as_ref()];
        names.into_iter().flatten().any(|name| is_role(asked, name))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Assignment {
    principal_id: String,
    principal: Option<Principal>,
}

#[derive(Deserialize)]
struct Principal {
    #[serde(rename = "@odata.type")]
    kind: Option<String>,
}

/// Names the permission that a refusal is about; Graph does not.
pub(super) fn naming<T>(read: Result<T, ProviderError>, permission: Permission) -> Result<T, ProviderError> {
    read.map_err(|error| match error {
        ProviderError::Refused(refused @ Missing { reason: "consent_missing", .. }) => {
            let named = lacking_any(&[&[permission]], &BTreeSet::new());
            ProviderError::Refused(named.unwrap_or(refused))
        }
        other => other,
    })
}
