//! Directory roles and who holds them (entra.md §11).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{Caller, ROLE_TEMPLATES};
use super::groups::object;
use super::{errors, query, users};
use crate::generate::derived_guid;
use crate::model::{Account, Kind, Link, Settings, Status};
use crate::wire::{self, Request};
use crate::world::World;

const READ: &[&str] =
    &["RoleManagement.Read.Directory", "RoleManagement.ReadWrite.Directory", "Directory.Read.All"];
const WRITE: &[&str] = &["RoleManagement.ReadWrite.Directory"];

/// `GET /roleManagement/directory/roleDefinitions`
pub fn definitions(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let all = ROLE_TEMPLATES.iter().map(|(name, template)| {
        json!({"id": template, "templateId": template, "displayName": name, "description": name,
            "isBuiltIn": true, "isEnabled": true, "resourceScopes": ["/"]})
    });
    query::filtered(request, now, "roleManagement/directory/roleDefinitions", all)
}

/// `GET /roleManagement/directory/roleAssignments`: every assignment, to people, groups and applications alike.
pub fn assignments(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let conditions = match query::conditions(request, now) {
        Ok(conditions) => conditions,
        Err(refusal) => return refusal,
    };
    let accounts = &caller.tenant.directory.accounts;
    let view = |account| accounts.lagging(account, now).filter(|account| !account.roles.is_empty());
    let (admins, _) = accounts.page_as(0, usize::MAX, view);
    let mut all: Vec<(String, String)> = Vec::new();
    let mut push = |principal: &str, roles: &[String]| {
        all.extend(roles.iter().map(|role| (principal.to_owned(), role.clone())));
    };
    for admin in &admins {
        push(&admin.id, &admin.roles);
    }
    for group in &caller.tenant.directory.groups {
        push(&group.id, &caller.tenant.directory.group_roles(&group.id, Some(now)));
    }
    for app in &caller.tenant.settings.apps {
        push(&app.object_id(), &app.roles);
    }
    let expands = request.param("$expand").is_some_and(|expand| expand == "principal");
    let shown = all.iter().filter_map(|(principal, role)| render(principal, role));
    let mut found: Vec<Value> = shown.filter(|assignment| query::hold(&conditions, assignment)).collect();
    for assignment in found.iter_mut().filter(|_| expands) {
        let principal = assignment.get("principalId").and_then(Value::as_str).unwrap_or_default();
        let principal = object(caller, principal);
        assignment.as_object_mut().map(|assignment| assignment.insert("principal".into(), json!(principal)));
    }
    // One walk over a directory of a million finds them all, so they come on one page.
    users::listing(request, "roleManagement/directory/roleAssignments", found)
}

/// `POST /roleManagement/directory/roleAssignments`
pub fn assign(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(WRITE) {
        return errors::denied(request, now);
    }
    let body = request.json().unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (principal, template) = (text("principalId"), text("roleDefinitionId"));
    if text("directoryScopeId") != "/" {
        return errors::bad(request, now, "Only assignments at the scope '/' are simulated.");
    }
    let Some((role, _)) = ROLE_TEMPLATES.iter().find(|(_, id)| *id == template) else {
        return errors::not_found(request, now, &template);
    };
    let Some(holder) = Holder::find(caller, &principal) else {
        return errors::not_found(request, now, &principal);
    };
    if let Holder::Group(group, assignable) = &holder
        && !assignable
    {
        let message = format!("Principal '{group}' is a group that roles cannot be assigned to.");
        return errors::bad(request, now, &message);
    }
    if holder.roles(caller).iter().any(|held| held == role) {
        let message = "A conflicting object with one or more of the specified property values is present in the directory.";
        let status = caller.tenant.settings.role_conflict_status;
        let code =
            if status == 409 { "Request_MultipleObjectsWithSameKeyValue" } else { "Request_BadRequest" };
        return errors::graph(request, now, status, code, message);
    }
    holder.write(world, caller, role, true);
    wire::json(StatusCode::CREATED, &render(&principal, role).unwrap_or_default())
}

/// `DELETE /roleManagement/directory/roleAssignments/{id}`
pub fn remove(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(WRITE) {
        return errors::denied(request, now);
    }
    let tenant = &caller.tenant;
    let (admins, _) = tenant.directory.accounts.page(0, usize::MAX, |account| !account.roles.is_empty());
    let people = admins.into_iter().map(|admin| Holder::User(Box::new(admin)));
    let groups = tenant.directory.groups.iter().map(|group| Holder::Group(group.id.clone(), true));
    let apps = tenant.settings.apps.iter().map(|app| Holder::App(app.object_id()));
    let found = people.chain(groups).chain(apps).find_map(|holder| {
        let role = holder.roles(caller).into_iter().find(|role| assignment_id(holder.id(), role) == id)?;
        Some((holder, role))
    });
    let Some((holder, role)) = found else { return errors::not_found(request, now, id) };
    holder.write(world, caller, &role, false);
    wire::empty(StatusCode::NO_CONTENT)
}

/// Names of the roles somebody holds, directly and through groups.
pub fn held(caller: &Caller, account: &Account) -> Vec<String> {
    let directory = &caller.tenant.directory;
    let assignable = directory.groups.iter().filter(|group| group.role_assignable);
    let through = assignable.filter(|group| directory.is_direct_member(group, account));
    let through = through.flat_map(|group| directory.group_roles(&group.id, None));
    account.roles.iter().cloned().chain(through).collect()
}

/// Whom a role can be assigned to.
enum Holder {
    User(Box<Account>),
    /// Its id, and whether roles can be assigned to it.
    Group(String, bool),
    App(String),
}

impl Holder {
    fn find(caller: &Caller, id: &str) -> Option<Self> {
        let user = users::find(caller, id).filter(|user| user.id == id && user.status != Status::Deleted);
        let group = || Some(caller.tenant.directory.group(id)?.role_assignable);
        let app = || caller.tenant.settings.principal(id).map(|_| Self::App(id.to_owned()));
        user.map(|user| Self::User(Box::new(user)))
            .or_else(|| group().map(|assignable| Self::Group(id.to_owned(), assignable)))
            .or_else(app)
    }

    fn id(&self) -> &str {
        match self {
            Self::User(account) => &account.id,
            Self::Group(id, _) | Self::App(id) => id,
        }
    }

    fn roles(&self, caller: &Caller) -> Vec<String> {
        match self {
            Self::User(account) => account.roles.clone(),
            Self::Group(id, _) => caller.tenant.directory.group_roles(id, None),
            Self::App(id) => {
                caller.tenant.settings.principal(id).map_or_else(Vec::new, |app| app.roles.clone())
            }
        }
    }

    /// Makes it hold a role, or no longer.
    fn write(&self, world: &World, caller: &Caller, role: &str, holds: bool) {
        let (now, directory) = (world.now(), &caller.tenant.directory);
        let change = |roles: &mut Vec<String>| {
            roles.retain(|held| held != role);
            roles.extend(holds.then(|| role.to_owned()));
        };
        match self {
            Self::User(account) => {
                directory.accounts.update(&account.id, now, |account| change(&mut account.roles));
            }
            Self::Group(id, _) => {
                directory.links.set(Link::new(Kind::Role, id, "").labelled(role), holds, now);
            }
            Self::App(id) => directory.change_settings(|settings| {
                let Settings::EntraId(settings) = settings else { return };
                if let Some(app) = settings.apps.iter_mut().find(|app| app.object_id() == *id) {
                    change(&mut app.roles);
                }
            }),
        }
        let action = if holds { "role_assigned" } else { "role_removed" };
        world.changed(directory, self.id(), action, &caller.client_id, json!({"role": role}));
    }
}

fn assignment_id(principal: &str, role: &str) -> String {
    let template = ROLE_TEMPLATES.iter().find(|(name, _)| *name == role).map_or("", |(_, template)| template);
    derived_guid(&format!("{principal} {template}"))
}

fn render(principal: &str, role: &str) -> Option<Value> {
    let (_, template) = ROLE_TEMPLATES.iter().find(|(name, _)| *name == role)?;
    Some(json!({"id": assignment_id(principal, role), "principalId": principal, "directoryScopeId": "/",
        "resourceScope": "/", "roleDefinitionId": template}))
}
