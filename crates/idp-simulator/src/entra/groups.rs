//! Groups and their members (entra.md §9).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::Caller;
use super::users::{self, Listed};
use super::{errors, query};
use crate::model::{Account, Group};
use crate::wire::{self, Request};
use crate::world::World;

const READ: &[&str] = &["GroupMember.Read.All", "Group.Read.All", "Directory.Read.All"];
const MAX_NESTED: usize = 999;

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
    let top = match query::top(request, now) {
        Ok(top) => top,
        Err(refusal) => return refusal,
    };
    let from = request.param("$skiptoken").and_then(|token| token.parse().ok()).unwrap_or(0_usize);
    let groups = &caller.tenant.directory.groups;
    let value: Vec<Value> = groups.iter().skip(from).take(top).map(render).collect();
    let context = request.link("/v1.0/$metadata#groups");
    let mut body = json!({"@odata.context": context, "value": value});
    if let (Some(body), true) = (body.as_object_mut(), groups.len() > from + top) {
        let next = request.link(&format!("{}?$top={top}&$skiptoken={}", request.path, from + top));
        body.insert("@odata.nextLink".into(), next.into());
    }
    wire::json(StatusCode::OK, &body)
}

/// `GET /groups/{id}`
pub fn get(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    if !caller.has_any(READ) {
        return errors::denied(request, world.now());
    }
    let Some(group) = caller.tenant.directory.group(id) else {
        return errors::not_found(request, world.now(), id);
    };
    let mut body = render(group);
    if let Some(body) = body.as_object_mut() {
        body.insert("@odata.context".into(), request.link("/v1.0/$metadata#groups/$entity").into());
    }
    wire::json(StatusCode::OK, &body)
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
    let keep = |account: &Account| within.iter().any(|group| directory.is_direct_member(group, account));
    let nested: Vec<&Group> = match (asked.users, asked.transitive) {
        (true, _) => Vec::new(),
        (false, true) => directory.nested(asked.group),
        (false, false) => group.groups.iter().filter_map(|id| directory.group(id)).collect(),
    };
    if asked.count {
        if !query::eventual(request) {
            return errors::unsupported(request, now, "$count is not currently supported.");
        }
        return users::plain_count(directory.accounts.count(keep) + nested.len() as u64);
    }
    let last = nested.iter().take(MAX_NESTED).map(|group| typed("group", render(group))).collect();
    let listed = Listed { context: "directoryObjects", typed: !asked.users, last };
    users::page(world, request, caller, listed, keep)
}

/// An object among others of other types.
pub fn typed(kind: &str, mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.insert("@odata.type".into(), format!("#microsoft.graph.{kind}").into());
    }
    object
}

fn render(group: &Group) -> Value {
    json!({"id": group.id, "displayName": group.name, "description": null, "groupTypes": [], "securityEnabled": true,
        "mailEnabled": false, "mail": null, "mailNickname": group.name, "membershipRule": null,
        "onPremisesSyncEnabled": null, "isAssignableToRole": null, "visibility": null})
}
