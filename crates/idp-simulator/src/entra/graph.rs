//! Microsoft Graph: from method and path to the operation, with faults, identification headers and resource units.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use super::access::{self, Caller};
use super::groups::Members;
use super::members::Relation;
use super::principals::Key;
use super::{
    application, audit_log, batch, deleted, delta, directory, errors, group_delta, groups, members,
    mitigation, principals, risk, roles, sign_in_log, users,
};
use crate::wire::{self, Answer, Request};
use crate::world::World;

/// Answers one request to the Graph host.
pub fn answer(world: &Arc<World>, request: &Request) -> Answer {
    world.settle();
    let mut answer = dispatch(world, request, true);
    let request_id = uuid::Uuid::new_v4().to_string();
    wire::set_header(&mut answer.response, "request-id", &request_id);
    let client = request.header("client-request-id").map_or(request_id, str::to_owned);
    wire::set_header(&mut answer.response, "client-request-id", &client);
    answer
}

/// One operation, found by its method and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation<'p> {
    ListUsers,
    CountUsers,
    Delta,
    GetUser(&'p str),
    UpdateUser(&'p str),
    Revoke(&'p str),
    RiskyUsers,
    RiskyUser(&'p str),
    Confirm,
    Dismiss,
    SignIns,
    DirectoryAudits,
    Organization,
    Domains,
    Licences,
    GroupSettings,
    ServicePrincipals,
    ServicePrincipal(Key<'p>),
    /// What an application was granted.
    AppRoles(Key<'p>),
    /// What a user or a group was granted.
    AppRolesOf(&'p str),
    AssignedTo(Key<'p>),
    Grant(Key<'p>),
    Ungrant(Key<'p>, &'p str),
    Application(&'p str),
    RoleDefinitions,
    RoleAssignments,
    AssignRole,
    RemoveRole(&'p str),
    Synchronization,
    Groups,
    GroupDelta,
    Group(&'p str),
    Members(Members<'p>),
    Owners(&'p str),
    /// Of which groups a user is a member, among those named in the body.
    CheckMemberGroups(&'p str),
    Add(Relation, &'p str),
    Bind(&'p str),
    Remove(Relation, &'p str, &'p str),
    /// `DELETE …/members/{id}` without `/$ref`.
    Trap(&'p str, &'p str),
    DeleteUser(&'p str),
    Deleted,
    Restore(&'p str),
    Batch,
}

impl<'p> Operation<'p> {
    fn of(method: &Method, path: &[&'p str]) -> Option<Self> {
        let (get, post) = (method == Method::GET, method == Method::POST);
        let (patch, delete) = (method == Method::PATCH, method == Method::DELETE);
        Some(match path {
            ["users"] if get => Self::ListUsers,
            ["users", "$count"] if get => Self::CountUsers,
            ["users", "delta" | "delta()"] if get => Self::Delta,
            ["users", id] if get => Self::GetUser(id),
            ["users", id] if patch => Self::UpdateUser(id),
            ["users", id] if delete => Self::DeleteUser(id),
            ["users" | "groups", id, "appRoleAssignments"] if get => Self::AppRolesOf(id),
            ["directory", "deletedItems", "microsoft.graph.user" | "graph.user"] if get => Self::Deleted,
            ["directory", "deletedItems", id, "restore"] if post => Self::Restore(id),
            ["users", id, "revokeSignInSessions" | "microsoft.graph.revokeSignInSessions"] if post => {
                Self::Revoke(id)
            }
            ["users", id, "checkMemberGroups" | "microsoft.graph.checkMemberGroups"] if post => {
                Self::CheckMemberGroups(id)
            }
            ["identityProtection", "riskyUsers"] if get => Self::RiskyUsers,
            ["identityProtection", "riskyUsers", "confirmCompromised"] if post => Self::Confirm,
            ["identityProtection", "riskyUsers", "dismiss"] if post => Self::Dismiss,
            ["identityProtection", "riskyUsers", id] if get => Self::RiskyUser(id),
            ["auditLogs", "signIns"] if get => Self::SignIns,
            ["auditLogs", "directoryAudits"] if get => Self::DirectoryAudits,
            ["organization"] if get => Self::Organization,
            ["domains"] if get => Self::Domains,
            ["subscribedSkus"] if get => Self::Licences,
            ["groupSettings"] if get => Self::GroupSettings,
            ["roleManagement", "directory", "roleDefinitions"] if get => Self::RoleDefinitions,
            ["roleManagement", "directory", "roleAssignments"] if get => Self::RoleAssignments,
            ["roleManagement", "directory", "roleAssignments"] if post => Self::AssignRole,
            ["roleManagement", "directory", "roleAssignments", id] if delete => Self::RemoveRole(id),
            ["directory", "onPremisesSynchronization"] if get => Self::Synchronization,
            ["groups"] if get => Self::Groups,
            ["groups", "delta" | "delta()"] if get => Self::GroupDelta,
            ["groups", id] if get => Self::Group(id),
            ["groups", id] if patch => Self::Bind(id),
            ["groups", id, "owners"] if get => Self::Owners(id),
            ["groups", id, kind @ ("members" | "owners"), "$ref"] if post => Self::Add(relation(kind), id),
            ["groups", group, kind @ ("members" | "owners"), id, "$ref"] if delete => {
                Self::Remove(relation(kind), group, id)
            }
            ["groups", group, "members", id] if delete => Self::Trap(group, id),
            ["groups", group, kind @ ("members" | "transitiveMembers"), rest @ ..] if get => {
                let (users, count) = match rest {
                    [] => (false, false),
                    ["$count"] => (false, true),
                    ["microsoft.graph.user" | "graph.user"] => (true, false),
                    ["microsoft.graph.user" | "graph.user", "$count"] => (true, true),
                    _ => return None,
                };
                Self::Members(Members { group, transitive: *kind == "transitiveMembers", users, count })
            }
            ["$batch"] if post => Self::Batch,
            [named] if get && named.starts_with("applications") => {
                Self::Application(by_app_id("applications", named)?)
            }
            ["servicePrincipals"] if get => Self::ServicePrincipals,
            ["servicePrincipals", id, rest @ ..] => Self::of_principal(method, Key::Id(id), rest)?,
            [named, rest @ ..] => {
                let key = Key::AppId(by_app_id("servicePrincipals", named)?);
                Self::of_principal(method, key, rest)?
            }
            _ => return None,
        })
    }

    /// An operation on one service principal.
    fn of_principal(method: &Method, key: Key<'p>, path: &[&'p str]) -> Option<Self> {
        let (get, post, delete) = (method == Method::GET, method == Method::POST, method == Method::DELETE);
        Some(match path {
            [] if get => Self::ServicePrincipal(key),
            ["appRoleAssignments"] if get => Self::AppRoles(key),
            ["appRoleAssignedTo"] if get => Self::AssignedTo(key),
            ["appRoleAssignedTo"] if post => Self::Grant(key),
            ["appRoleAssignedTo", id] if delete => Self::Ungrant(key, id),
            _ => return None,
        })
    }

    /// The name under which faults wait for it.
    fn name(self) -> &'static str {
        match self {
            Self::ListUsers | Self::CountUsers => "graph.users.list",
            Self::Delta => "graph.users.delta",
            Self::GetUser(_) => "graph.users.get",
            Self::UpdateUser(_) => "graph.users.update",
            Self::Revoke(_) => "graph.users.revoke_sessions",
            Self::RiskyUsers | Self::RiskyUser(_) => "graph.risky_users.get",
            Self::Confirm => "graph.risky_users.confirm",
            Self::Dismiss => "graph.risky_users.dismiss",
            Self::SignIns => "graph.sign_ins",
            Self::DirectoryAudits => "graph.audits",
            Self::Organization => "graph.organization",
            Self::Licences => "graph.licences",
            Self::ServicePrincipals | Self::ServicePrincipal(_) | Self::AppRoles(_) | Self::AssignedTo(_) => {
                "graph.service_principal"
            }
            Self::Grant(_) | Self::Ungrant(..) => "graph.app_roles.write",
            Self::Application(_) => "graph.application",
            Self::Groups
            | Self::GroupDelta
            | Self::Group(_)
            | Self::Members(_)
            | Self::Owners(_)
            | Self::CheckMemberGroups(_) => "graph.groups",
            Self::Add(..) | Self::Bind(_) | Self::Remove(..) | Self::Trap(..) => "graph.groups.write",
            Self::AssignRole | Self::RemoveRole(_) => "graph.roles.write",
            Self::DeleteUser(_) | Self::Restore(_) => "graph.users.delete",
            Self::Batch => "graph.batch",
            Self::Domains
            | Self::GroupSettings
            | Self::RoleDefinitions
            | Self::RoleAssignments
            | Self::AppRolesOf(_)
            | Self::Deleted
            | Self::Synchronization => "graph.other",
        }
    }

    /// Resource units before `$select` and small pages make it cheaper (entra.md §7.4).
    fn cost(self) -> u32 {
        match self {
            Self::ListUsers | Self::ServicePrincipal(_) | Self::AppRoles(_) | Self::AppRolesOf(_) => 2,
            Self::Members(Members { transitive: true, .. }) => 5,
            Self::Licences | Self::Members(_) => 3,
            _ => 1,
        }
    }

    fn target(self) -> Option<&'p str> {
        match self {
            Self::GetUser(id)
            | Self::UpdateUser(id)
            | Self::DeleteUser(id)
            | Self::Restore(id)
            | Self::Revoke(id)
            | Self::RiskyUser(id)
            | Self::CheckMemberGroups(id)
            | Self::Remove(_, _, id)
            | Self::Trap(_, id) => Some(id),
            _ => None,
        }
    }
}

fn relation(kind: &str) -> Relation {
    if kind == "owners" { Relation::Owners } else { Relation::Members }
}

/// `servicePrincipals(appId='…')` → the application id.
fn by_app_id<'s>(kind: &str, segment: &'s str) -> Option<&'s str> {
    segment.strip_prefix(kind)?.strip_prefix("(appId='")?.strip_suffix("')")
}

/// Answers one request, or one item of a batch.
pub(super) fn dispatch(world: &Arc<World>, request: &Request, outermost: bool) -> Answer {
    let segments = request.segments();
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    let caller = match access::caller(world, request) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into(),
    };
    let operation = match path.as_slice() {
        ["v1.0" | "beta", rest @ ..] => Operation::of(&request.method, rest),
        _ => None,
    };
    let Some(operation) = operation.filter(|o| outermost || *o != Operation::Batch) else {
        let message = format!("Resource not found for the segment '{}'.", path.last().unwrap_or(&""));
        return errors::graph(request, world.now(), 400, "BadRequest", &message).into();
    };
    let selected = u32::from(request.param("$select").is_some());
    let small = request.param("$top").and_then(|top| top.parse::<u32>().ok()).is_some_and(|top| top < 20);
    let units = operation.cost().saturating_sub(selected).saturating_sub(u32::from(small)).max(1);
    let reads = matches!(operation, Operation::Batch | Operation::CheckMemberGroups(_));
    let writes = request.method != Method::GET && !reads;
    let share = match world.meters.count(request, &caller, units, writes, world.now()) {
        Ok(share) => share,
        Err(throttled) => return throttled.into(),
    };
    let target = operation.target().and_then(|key| caller.tenant.directory.accounts.find(key)).map(|a| a.id);
    let fault = world.faults.take(&caller.tenant.directory.id, operation.name(), target.as_deref());
    if let Some(fault) = fault.as_ref().filter(|fault| !fault.evaluates()) {
        return Answer { response: wire::empty(StatusCode::OK), fault: Some(fault.clone()) };
    }
    let mut response = perform(world, request, &caller, operation);
    wire::set_header(&mut response, "x-ms-resource-unit", &units.to_string());
    if let Some(share) = share {
        wire::set_header(&mut response, "x-ms-throttle-limit-percentage", &format!("{share:.1}"));
    }
    Answer { response, fault }
}

fn perform(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    operation: Operation<'_>,
) -> Response<Bytes> {
    match operation {
        Operation::ListUsers => users::list(world, request, caller),
        Operation::CountUsers => users::count(world, request, caller),
        Operation::Delta => delta::page(world, request, caller),
        Operation::GetUser(id) => users::get(world, request, caller, id),
        Operation::UpdateUser(id) => mitigation::update(world, request, caller, id),
        Operation::Revoke(id) => mitigation::revoke(world, request, caller, id),
        Operation::RiskyUsers => risk::list(world, request, caller),
        Operation::RiskyUser(id) => risk::get(world, request, caller, id),
        Operation::Confirm => risk::mark(world, request, caller, risk::Mark::Compromised),
        Operation::Dismiss => risk::mark(world, request, caller, risk::Mark::Dismissed),
        Operation::SignIns => sign_in_log::list(world, request, caller),
        Operation::DirectoryAudits => audit_log::list(world, request, caller),
        Operation::Organization => directory::organization(world, request, caller),
        Operation::Domains => directory::domains(world, request, caller),
        Operation::Licences => directory::licences(world, request, caller),
        Operation::GroupSettings => directory::group_settings(world, request, caller),
        Operation::ServicePrincipals => principals::list(world, request, caller),
        Operation::ServicePrincipal(key) => principals::get(world, request, caller, key),
        Operation::Application(app) => application::application(world, request, caller, app),
        Operation::AppRoles(key) => principals::granted(world, request, caller, key),
        Operation::AppRolesOf(id) => principals::granted_to(world, request, caller, id),
        Operation::AssignedTo(key) => principals::assigned(world, request, caller, key),
        Operation::Grant(key) => principals::grant(world, request, caller, key),
        Operation::Ungrant(key, id) => principals::revoke(world, request, caller, key, id),
        Operation::RoleDefinitions => roles::definitions(world, request, caller),
        Operation::RoleAssignments => roles::assignments(world, request, caller),
        Operation::AssignRole => roles::assign(world, request, caller),
        Operation::RemoveRole(id) => roles::remove(world, request, caller, id),
        Operation::Synchronization => directory::synchronization(world, request, caller),
        Operation::Groups => groups::list(world, request, caller),
        Operation::Group(id) => groups::get(world, request, caller, id),
        Operation::Members(members) => groups::members(world, request, caller, members),
        Operation::GroupDelta => group_delta::page(world, request, caller),
        Operation::Owners(id) => groups::owners(world, request, caller, id),
        Operation::CheckMemberGroups(id) => groups::check(world, request, caller, id),
        Operation::Add(relation, group) => members::add(world, request, caller, relation, group),
        Operation::Bind(group) => members::bind(world, request, caller, group),
        Operation::Remove(relation, group, id) => {
            members::remove(world, request, caller, relation, (group, id))
        }
        Operation::Trap(group, id) => members::trap(world, request, caller, (group, id)),
        Operation::DeleteUser(id) => deleted::delete(world, request, caller, id),
        Operation::Deleted => deleted::list(world, request, caller),
        Operation::Restore(id) => deleted::restore(world, request, caller, id),
        Operation::Batch => batch::answer(world, request),
    }
}
