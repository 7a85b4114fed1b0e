//! Groups (okta.md §3.3). None of the simulator's changes after it was made, so all dates are those of the directory.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::users::{find, links};
use super::{Org, errors};
use crate::model::Group;
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

const LIMIT: usize = 200;
const MADE: &str = "2026-01-01T00:00:00.000Z";

/// `GET /api/v1/groups`, by name with `q`.
pub fn list(world: &World, org: &Org, request: &Request) -> Outcome {
    let app = access::caller(world, org, request, "okta.groups.read")?;
    if !app.may(Permission::ReadGroups) {
        return Ok(wire::json(StatusCode::OK, &json!([])));
    }
    if ["filter", "search"].iter().any(|name| request.param(name).is_some()) {
        return Err(errors::error("E0000031")); // known to Okta, not simulated
    }
    let number = |name: &str, default: usize| match request.param(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| errors::because("E0000001", name, &[])),
    };
    let (limit, from) = (number("limit", LIMIT)?.clamp(1, 10_000), number("after", 0)?);
    let q = request.param("q").map(|q| q.to_lowercase());
    let named = |group: &&Group| {
        app.shows(&group.id) && q.as_ref().is_none_or(|q| group.name.to_lowercase().starts_with(q))
    };
    let found: Vec<&Group> = org.directory.groups.iter().filter(named).collect();
    let shown: Vec<Value> =
        found.iter().skip(from).take(limit).map(|group| render(group, &request.base)).collect();
    let mut response = wire::json(StatusCode::OK, &Value::Array(shown));
    let next = (found.len() > from + limit).then(|| (from + limit).to_string());
    links(request, "/api/v1/groups", limit, next, &mut response);
    Ok(response)
}

/// `GET /api/v1/groups/{id}`.
pub fn get(world: &World, org: &Org, request: &Request, id: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.groups.read")?;
    if !app.may(Permission::ReadGroups) {
        return Err(errors::error("E0000006"));
    }
    let group = org.directory.group(id).filter(|group| app.shows(&group.id)).ok_or_else(|| missing(id))?;
    Ok(wire::json(StatusCode::OK, &render(group, &request.base)))
}

/// `GET /api/v1/users/{id}/groups`: those that the app's role shows.
pub fn of_user(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.read")?;
    if !app.may(Permission::ReadUsers) {
        return Err(errors::error("E0000006"));
    }
    let account = find(org, key).filter(|account| app.sees(account)).ok_or_else(|| errors::no_user(key))?;
    let shown = org.directory.groups.iter().filter(|group| app.shows(&group.id));
    let groups = shown.filter(|group| org.directory.is_member(&group.id, &account));
    Ok(wire::json(StatusCode::OK, &groups.map(|group| render(group, &request.base)).collect()))
}

/// 404 for a group.
pub fn missing(id: &str) -> Response<Bytes> {
    errors::because("E0000007", &format!("Resource not found: {id} (UserGroup)"), &[])
}

fn render(group: &Group, base: &str) -> Value {
    let at = |rest: &str| format!("{base}/api/v1/groups/{}{rest}", group.id);
    json!({"id": group.id, "created": MADE, "lastUpdated": MADE, "lastMembershipUpdated": MADE,
        "objectClass": ["okta:user_group"], "type": "OKTA_GROUP",
        "profile": {"name": group.name, "description": null},
        "_links": {"logo": [], "users": {"href": at("/users")}, "apps": {"href": at("/apps")}}})
}
