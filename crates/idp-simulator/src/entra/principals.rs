//! Service principals, and who is assigned to their app roles (entra.md §10).
//!
//! Permissions of Microsoft Graph are app roles of its service principal: who may write assignments can give any
//! application any permission.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::access::{APP_ROLES, Caller, GRAPH_APP_ID};
use super::settings::{App, PrincipalKind};
use super::user::date;
use super::{errors, query, users};
use crate::generate::derived_guid;
use crate::model::{Kind, Link, Settings};
use crate::wire::{self, Request};
use crate::world::World;

const READ: &[&str] = &["Application.Read.All", "Application.ReadWrite.All", "Directory.Read.All"];
/// The app role of resources that define none.
const DEFAULT_ROLE: &str = "00000000-0000-0000-0000-000000000000";

/// How a path names a service principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'p> {
    /// `servicePrincipals/{id}`
    Id(&'p str),
    /// `servicePrincipals(appId='…')`
    AppId(&'p str),
}

/// A service principal of the tenant.
#[derive(Clone, Copy)]
enum Principal<'t> {
    /// Microsoft Graph itself.
    Graph,
    App(&'t App),
}

impl<'t> Principal<'t> {
    fn find(caller: &'t Caller, key: Key<'_>) -> Option<Self> {
        let settings = &caller.tenant.settings;
        match key {
            Key::Id(id) if id == derived_guid(GRAPH_APP_ID) => Some(Self::Graph),
            Key::AppId(GRAPH_APP_ID) => Some(Self::Graph),
            Key::Id(id) => settings.principal(id).map(Self::App),
            Key::AppId(id) => settings.app(id).map(Self::App),
        }
    }

    fn id(self) -> String {
        match self {
            Self::Graph => derived_guid(GRAPH_APP_ID),
            Self::App(app) => app.object_id(),
        }
    }

    fn name(self) -> &'t str {
        match self {
            Self::Graph => "Microsoft Graph",
            Self::App(app) => &app.name,
        }
    }

    fn defines(self, role: &str) -> bool {
        match self {
            Self::Graph => APP_ROLES.iter().any(|(_, id)| *id == role),
            Self::App(app) if app.app_roles.is_empty() => role == DEFAULT_ROLE,
            Self::App(app) => app.app_roles.iter().any(|defined| defined.id == role),
        }
    }

    fn render(self) -> Value {
        match self {
            Self::App(app) => render(app),
            Self::Graph => json!({"id": self.id(), "appId": GRAPH_APP_ID, "displayName": self.name(),
                "servicePrincipalType": "Application", "accountEnabled": true, "appRoleAssignmentRequired": false,
                "appRoles": APP_ROLES.iter().map(|(name, id)| role(id, name)).collect::<Vec<_>>(), "tags": [],
                "alternativeNames": []}),
        }
    }
}

/// An application's service principal as Graph renders it.
pub fn render(app: &App) -> Value {
    let kind = match app.kind {
        PrincipalKind::Application => "Application",
        PrincipalKind::ManagedIdentity => "ManagedIdentity",
    };
    let roles: Vec<Value> = app.app_roles.iter().map(|defined| role(&defined.id, &defined.value)).collect();
    json!({"id": app.object_id(), "appId": app.client_id, "displayName": app.name, "servicePrincipalType": kind,
        "accountEnabled": !app.disabled, "appRoleAssignmentRequired": app.assignment_required, "appRoles": roles,
        "tags": ["WindowsAzureActiveDirectoryIntegratedApp"], "alternativeNames": []})
}

fn role(id: &str, value: &str) -> Value {
    json!({"id": id, "value": value, "displayName": value, "description": value, "isEnabled": true,
        "allowedMemberTypes": ["User", "Application"]})
}

/// `GET /servicePrincipals`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let apps = caller.tenant.settings.apps.iter().map(Principal::App);
    let all = apps.chain([Principal::Graph]).map(Principal::render);
    query::filtered(request, now, "servicePrincipals", all)
}

/// `GET /servicePrincipals/{id}`
pub fn get(world: &Arc<World>, request: &Request, caller: &Caller, key: Key<'_>) -> Response<Bytes> {
    match readable(world, request, caller, key) {
        Ok(found) => query::entity(request, StatusCode::OK, "servicePrincipals", found.render()),
        Err(refusal) => refusal,
    }
}

fn readable<'c>(
    world: &World,
    request: &Request,
    caller: &'c Caller,
    key: Key<'_>,
) -> Result<Principal<'c>, Response<Bytes>> {
    let now = world.now();
    if !caller.has_any(READ) {
        return Err(errors::denied(request, now));
    }
    let (Key::Id(id) | Key::AppId(id)) = key;
    Principal::find(caller, key).ok_or_else(|| errors::not_found(request, now, id))
}

/// An assignment of a principal to an app role of a resource.
struct Assignment {
    resource: String,
    resource_name: String,
    principal: String,
    role: String,
    made: OffsetDateTime,
}

impl Assignment {
    fn id(&self) -> String {
        derived_guid(&format!("{} {} {}", self.resource, self.principal, self.role))
    }

    fn render(&self, caller: &Caller) -> Value {
        let (kind, name) = principal(caller, &self.principal).unwrap_or_default();
        json!({"id": self.id(), "appRoleId": self.role, "principalId": self.principal, "principalType": kind,
            "principalDisplayName": name, "resourceId": self.resource, "resourceDisplayName": self.resource_name,
            "createdDateTime": date(self.made), "deletedDateTime": null})
    }
}

/// Type and name of somebody who can be assigned.
fn principal(caller: &Caller, id: &str) -> Option<(&'static str, String)> {
    let tenant = &caller.tenant;
    let user = users::find(caller, id).filter(|user| user.id == id);
    let user = user.map(|user| ("User", user.display_name));
    let group = || tenant.directory.group(id).map(|group| ("Group", group.name.clone()));
    let app = || tenant.settings.principal(id).map(|app| ("ServicePrincipal", app.name.clone()));
    user.or_else(group).or_else(app)
}

/// Who is assigned to a resource, as they are or as a reader sees them who lags behind.
fn assigned_to(
    caller: &Caller,
    resource: Principal<'_>,
    seen: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Vec<Assignment> {
    let made = |principal: &str, role: &str, made| Assignment {
        resource: resource.id(),
        resource_name: resource.name().to_owned(),
        principal: principal.to_owned(),
        role: role.to_owned(),
        made,
    };
    let tenant = &caller.tenant;
    if let Principal::Graph = resource {
        let granted = |app: &App| -> Vec<Assignment> {
            let ids = app
                .permissions
                .iter()
                .filter_map(|name| APP_ROLES.iter().find(|(known, _)| known == name).map(|(_, id)| *id));
            ids.map(|role| made(&app.object_id(), role, now)).collect()
        };
        return tenant.settings.apps.iter().flat_map(granted).collect();
    }
    let written = tenant.directory.links.from(Kind::AppRole, &resource.id(), seen);
    let present = written.into_iter().filter(|(_, written)| written.present);
    let alive = present.filter(|(link, _)| principal(caller, &link.to).is_some());
    alive.map(|(link, written)| made(&link.to, &link.label, written.at)).collect()
}

/// `GET /servicePrincipals/{id}/appRoleAssignedTo`
pub fn assigned(world: &Arc<World>, request: &Request, caller: &Caller, key: Key<'_>) -> Response<Bytes> {
    let now = world.now();
    let resource = match readable(world, request, caller, key) {
        Ok(resource) => resource,
        Err(refusal) => return refusal,
    };
    let all = assigned_to(caller, resource, Some(now), now);
    let shown: Vec<Value> = all.iter().map(|assignment| assignment.render(caller)).collect();
    query::paged(request, now, "appRoleAssignments", &shown)
}

/// `GET /servicePrincipals/{id}/appRoleAssignments`: what an application was really granted.
pub fn granted(world: &Arc<World>, request: &Request, caller: &Caller, key: Key<'_>) -> Response<Bytes> {
    match readable(world, request, caller, key) {
        Ok(found) => assignments(world, request, caller, &found.id()),
        Err(refusal) => refusal,
    }
}

/// `GET /users/{id}/appRoleAssignments` and `/groups/{id}/appRoleAssignments`
pub fn granted_to(world: &Arc<World>, request: &Request, caller: &Caller, key: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has("Directory.Read.All") {
        return errors::denied(request, now);
    }
    let id = users::find(caller, key).map_or_else(|| key.to_owned(), |user| user.id);
    if principal(caller, &id).is_none() {
        return errors::not_found(request, now, key);
    }
    assignments(world, request, caller, &id)
}

fn assignments(world: &Arc<World>, request: &Request, caller: &Caller, holder: &str) -> Response<Bytes> {
    let now = world.now();
    let resources = caller.tenant.settings.apps.iter().map(Principal::App).chain([Principal::Graph]);
    let all = resources.flat_map(|resource| assigned_to(caller, resource, Some(now), now));
    let of = all.filter(|assignment| assignment.principal == holder);
    let shown: Vec<Value> = of.map(|assignment| assignment.render(caller)).collect();
    query::paged(request, now, "appRoleAssignments", &shown)
}

/// The resource a caller may write assignments of.
fn writable<'c>(
    world: &World,
    request: &Request,
    caller: &'c Caller,
    key: Key<'_>,
) -> Result<Principal<'c>, Response<Bytes>> {
    if !caller.has("AppRoleAssignment.ReadWrite.All") {
        return Err(errors::denied(request, world.now()));
    }
    readable(world, request, caller, key)
}

/// `POST /servicePrincipals/{id}/appRoleAssignedTo`
pub fn grant(world: &Arc<World>, request: &Request, caller: &Caller, key: Key<'_>) -> Response<Bytes> {
    let now = world.now();
    let resource = match writable(world, request, caller, key) {
        Ok(resource) => resource,
        Err(refusal) => return refusal,
    };
    let body = request.json().unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (holder, role) = (text("principalId"), text("appRoleId"));
    if text("resourceId") != resource.id() {
        return errors::bad(request, now, "One or more property values specified are invalid.");
    }
    let found = principal(caller, &holder);
    let takes = found.as_ref().is_some_and(|(kind, _)| match resource {
        Principal::Graph => *kind == "ServicePrincipal", // its app roles are for applications
        Principal::App(_) => true,
    });
    if !takes {
        return errors::not_found(request, now, &holder);
    }
    if !resource.defines(&role) {
        return errors::bad(request, now, "Permission being assigned was not found on application.");
    }
    let known = assigned_to(caller, resource, None, now);
    if known.iter().any(|known| known.principal == holder && known.role == role) {
        return errors::bad(request, now, "Permission being assigned already exists on the object");
    }
    let assignment = Assignment {
        resource: resource.id(),
        resource_name: resource.name().to_owned(),
        principal: holder,
        role,
        made: now,
    };
    write(world, caller, resource, &assignment, true);
    query::entity(request, StatusCode::CREATED, "appRoleAssignments", assignment.render(caller))
}

/// `DELETE /servicePrincipals/{id}/appRoleAssignedTo/{assignment}`
pub fn revoke(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    key: Key<'_>,
    id: &str,
) -> Response<Bytes> {
    let now = world.now();
    let resource = match writable(world, request, caller, key) {
        Ok(resource) => resource,
        Err(refusal) => return refusal,
    };
    let known = assigned_to(caller, resource, None, now);
    let Some(assignment) = known.into_iter().find(|known| known.id() == id) else {
        return errors::not_found(request, now, id);
    };
    write(world, caller, resource, &assignment, false);
    wire::empty(StatusCode::NO_CONTENT)
}

/// Makes an assignment, or removes it.
fn write(world: &World, caller: &Caller, resource: Principal<'_>, assignment: &Assignment, present: bool) {
    let directory = &caller.tenant.directory;
    let Assignment { principal, role, .. } = assignment;
    if let Principal::Graph = resource {
        let permission = APP_ROLES.iter().find(|(_, id)| id == role).map_or("", |(name, _)| name);
        directory.change_settings(|settings| {
            let Settings::EntraId(settings) = settings else { return };
            for app in settings.apps.iter_mut().filter(|app| app.object_id() == *principal) {
                app.permissions.retain(|held| held != permission);
                app.permissions.extend(present.then(|| permission.to_owned()));
            }
        });
    } else {
        let link = Link::new(Kind::AppRole, &assignment.resource, principal).labelled(role);
        directory.links.set(link, present, world.now());
    }
    let action = if present { "app_role_granted" } else { "app_role_revoked" };
    let detail = json!({"resource": assignment.resource, "role": role});
    world.changed(directory, principal, action, &caller.client_id, detail);
}
