//! Groups and their members (entra.md §9).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{Caller, READ_USERS};
use super::users::{self, Listed};
use super::{errors, principals, query, user};
use crate::model::{Account, Group, GroupKind, Membership};
use crate::wire::{self, Request};
use crate::world::World;

/// Permissions that let a caller read groups and who belongs to them.
pub const READ: &[&str] = &[
    "GroupMember.Read.All",
    "GroupMember.ReadWrite.All",
    "Group.Read.All",
    "Group.ReadWrite.All",
    "Directory.Read.All",
    "Directory.ReadWrite.All",
];
const MAX_NESTED: usize = 999;
/// Most groups of one `checkMemberGroups`.
const MAX_CHECKED: usize = 20;

/// Which members of a group are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members<'p> {
    /// Object id of the group.
    pub group: &'p str,
    /// Those of nested groups too.
    pub transitive: bool,
    /// Users alone (`…/microsoft.graph.user`): a cast, which needs the advanced engine.
    pub users: bool,
    /// Only how many.
    pub count: bool,
}

/// `GET /groups`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let groups = caller.tenant.directory.groups.iter().map(render);
    query::filtered(request, now, "groups", groups)
}

/// `GET /groups/{id}`
pub fn get(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    if !caller.has_any(READ) {
        return errors::denied(request, world.now());
    }
    let Some(group) = caller.tenant.directory.group(id) else {
        return errors::not_found(request, world.now(), id);
    };
    query::entity(request, StatusCode::OK, "groups", render(group))
}

/// `GET /groups/{id}/members…` and `…/transitiveMembers…`. Groups among the members come last.
pub fn members(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    asked: Members<'_>,
) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let directory = &caller.tenant.directory;
    let Some(group) = directory.group(asked.group) else {
        return errors::not_found(request, now, asked.group);
    };
    if asked.users && !asked.count && !query::advanced(request) {
        return errors::unsupported(
            request,
            now,
            "Unsupported Query. OData cast needs ConsistencyLevel: eventual and $count=true.",
        );
    }
    let mut within = vec![group];
    if asked.transitive {
        within.extend(directory.nested(asked.group));
    }
    let within: Vec<Membership<'_>> =
        within.into_iter().map(|group| directory.membership(group, Some(now))).collect();
    let keep = |account: &Account| within.iter().any(|members| members.has(&account.id));
    let mut others: Vec<Value> = Vec::new();
    if !asked.users {
        let nested = match within.first() {
            Some(direct) if !asked.transitive => direct.groups(),
            _ => directory.nested(asked.group),
        };
        others.extend(nested.into_iter().map(|group| typed("group", render(group))));
        let mut apps: Vec<&str> = within.iter().flat_map(Membership::joined).collect();
        apps.sort_unstable();
        apps.dedup();
        let apps = apps.into_iter().filter_map(|id| caller.tenant.settings.principal(id));
        others.extend(apps.map(|app| typed("servicePrincipal", principals::render(app))));
    }
    if asked.count {
        if !query::eventual(request) {
            return errors::unsupported(request, now, "$count is not currently supported.");
        }
        return users::plain_count(directory.accounts.count(keep) + others.len() as u64);
    }
    others.truncate(MAX_NESTED);
    let listed = Listed { context: "directoryObjects", typed: !asked.users, last: others };
    users::page(world, request, caller, listed, keep)
}

/// `GET /groups/{id}/owners`
pub fn owners(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let directory = &caller.tenant.directory;
    let Some(group) = directory.group(id) else { return errors::not_found(request, now, id) };
    let owners = directory.owners(group, Some(now));
    let shown: Vec<Value> = owners.iter().filter_map(|owner| object(caller, owner)).collect();
    query::paged(request, now, "directoryObjects", &shown)
}

/// `POST /users/{id}/checkMemberGroups`: those of the groups in the body that the user is in, at any depth. An id that no
/// group has is left out, and so is a group whose members are hidden from the caller; a malformed one fails them all.
pub fn check(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ_USERS) || !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    let Some(user) = users::find(caller, id) else { return errors::not_found(request, now, id) };
    let body = request.json().unwrap_or_default();
    let asked = body.get("groupIds").and_then(Value::as_array).cloned().unwrap_or_default();
    if asked.is_empty() || asked.len() > MAX_CHECKED {
        let message = format!("The number of 'groupIds' must be between 1 and {MAX_CHECKED}.");
        return errors::bad(request, now, &message);
    }
    let asked: Option<Vec<String>> =
        asked.iter().map(|id| Some(uuid::Uuid::try_parse(id.as_str()?).ok()?.to_string())).collect();
    let Some(asked) = asked else {
        return errors::bad(request, now, "Invalid GUID among 'groupIds'.");
    };
    let directory = &caller.tenant.directory;
    let within = |group: &Group| {
        let all = std::iter::once(group).chain(directory.nested(&group.id));
        all.into_iter().any(|group| directory.membership(group, Some(now)).has(&user.id))
    };
    let seen = |group: &&Group| !group.hidden || caller.has("Member.Read.Hidden");
    let found = asked.iter().filter_map(|id| directory.group(id)).filter(seen).filter(|group| within(group));
    let value: Vec<&str> = found.map(|group| group.id.as_str()).collect();
    let context = request.link("/v1.0/$metadata#Collection(Edm.String)");
    wire::json(StatusCode::OK, &json!({"@odata.context": context, "value": value}))
}

/// A user, group or service principal as one object among others.
pub fn object(caller: &Caller, id: &str) -> Option<Value> {
    let tenant = &caller.tenant;
    if let Some(user) = users::find(caller, id).filter(|user| user.id == id) {
        let select: Vec<String> = user::DEFAULT.iter().map(|name| (*name).to_owned()).collect();
        return query::project(&tenant.settings, &user, &select).ok().map(|user| typed("user", user));
    }
    let group = tenant.directory.group(id).map(|group| typed("group", render(group)));
    let app = || tenant.settings.principal(id).map(|app| typed("servicePrincipal", principals::render(app)));
    group.or_else(app)
}

/// An object among others of other types.
pub fn typed(kind: &str, mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.insert("@odata.type".into(), format!("#microsoft.graph.{kind}").into());
    }
    object
}

/// A group as Graph renders it.
pub fn render(group: &Group) -> Value {
    let unified = (group.kind == GroupKind::Unified).then_some("Unified");
    let dynamic = group.dynamic.then_some("DynamicMembership");
    let types: Vec<&str> = unified.into_iter().chain(dynamic).collect();
    let rule = group.dynamic.then_some("(user.accountEnabled -eq true)");
    let visibility = group.hidden.then_some("HiddenMembership");
    let set = |property: bool| if property { json!(true) } else { Value::Null };
    json!({"id": group.id, "displayName": group.name, "description": null, "groupTypes": types,
        "securityEnabled": group.kind != GroupKind::Unified, "mailEnabled": group.kind != GroupKind::Security,
        "mail": null, "mailNickname": group.name, "membershipRule": rule,
        "membershipRuleProcessingState": rule.map(|_| "On"), "onPremisesSyncEnabled": set(group.synced),
        "isAssignableToRole": set(group.role_assignable), "visibility": visibility})
}
