//! Microsoft Graph: from method and path to the operation, with faults, identification headers and resource units.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use super::access::{self, Caller};
use super::groups::Members;
use super::{application, batch, delta, directory, errors, groups, mitigation, risk, users};
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
    Organization,
    Domains,
    Licences,
    GroupSettings,
    ServicePrincipal(&'p str),
    AppRoles(&'p str),
    Application(&'p str),
    RoleAssignments,
    Synchronization,
    Groups,
    Group(&'p str),
    Members(Members<'p>),
    Batch,
}

impl<'p> Operation<'p> {
    fn of(method: &Method, path: &[&'p str]) -> Option<Self> {
        let (get, post) = (method == Method::GET, method == Method::POST);
        Some(match path {
            ["users"] if get => Self::ListUsers,
            ["users", "$count"] if get => Self::CountUsers,
            ["users", "delta" | "delta()"] if get => Self::Delta,
            ["users", id] if get => Self::GetUser(id),
            ["users", id] if method == Method::PATCH => Self::UpdateUser(id),
            ["users", id, "revokeSignInSessions" | "microsoft.graph.revokeSignInSessions"] if post => {
                Self::Revoke(id)
            }
            ["identityProtection", "riskyUsers"] if get => Self::RiskyUsers,
            ["identityProtection", "riskyUsers", "confirmCompromised"] if post => Self::Confirm,
            ["identityProtection", "riskyUsers", "dismiss"] if post => Self::Dismiss,
            ["identityProtection", "riskyUsers", id] if get => Self::RiskyUser(id),
            ["organization"] if get => Self::Organization,
            ["domains"] if get => Self::Domains,
            ["subscribedSkus"] if get => Self::Licences,
            ["groupSettings"] if get => Self::GroupSettings,
            ["roleManagement", "directory", "roleAssignments"] if get => Self::RoleAssignments,
            ["directory", "onPremisesSynchronization"] if get => Self::Synchronization,
            ["groups"] if get => Self::Groups,
            ["groups", id] if get => Self::Group(id),
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
            [principal] if get => Self::ServicePrincipal(by_app_id("servicePrincipals", principal)?),
            [principal, "appRoleAssignments"] if get => {
                Self::AppRoles(by_app_id("servicePrincipals", principal)?)
            }
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
            Self::Organization => "graph.organization",
            Self::Licences => "graph.licences",
            Self::ServicePrincipal(_) | Self::AppRoles(_) => "graph.service_principal",
            Self::Application(_) => "graph.application",
            Self::Groups | Self::Group(_) | Self::Members(_) => "graph.groups",
            Self::Batch => "graph.batch",
            Self::Domains | Self::GroupSettings | Self::RoleAssignments | Self::Synchronization => {
                "graph.other"
            }
        }
    }

    /// Resource units before `$select` and small pages make it cheaper (entra.md §7.4).
    fn cost(self) -> u32 {
        match self {
            Self::ListUsers | Self::ServicePrincipal(_) | Self::AppRoles(_) => 2,
            Self::Members(Members { transitive: true, .. }) => 5,
            Self::Licences | Self::Members(_) => 3,
            _ => 1,
        }
    }

    fn target(self) -> Option<&'p str> {
        match self {
            Self::GetUser(id) | Self::UpdateUser(id) | Self::Revoke(id) | Self::RiskyUser(id) => Some(id),
            _ => None,
        }
    }
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
    let writes = request.method != Method::GET && operation != Operation::Batch;
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
        Operation::Organization => directory::organization(world, request, caller),
        Operation::Domains => directory::domains(world, request, caller),
        Operation::Licences => directory::licences(world, request, caller),
        Operation::GroupSettings => directory::group_settings(world, request, caller),
        Operation::ServicePrincipal(app) => directory::service_principal(world, request, caller, app),
        Operation::Application(app) => application::application(world, request, caller, app),
        Operation::AppRoles(app) => directory::app_roles(world, request, caller, app),
        Operation::RoleAssignments => directory::role_assignments(world, request, caller),
        Operation::Synchronization => directory::synchronization(world, request, caller),
        Operation::Groups => groups::list(world, request, caller),
        Operation::Group(id) => groups::get(world, request, caller, id),
        Operation::Members(members) => groups::members(world, request, caller, members),
        Operation::Batch => batch::answer(world, request),
    }
}
