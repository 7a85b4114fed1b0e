//! Custom roles and resource sets, which wrap their lists and link to the admin console's host (okta.md §3.7).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::selfcheck::made;
use super::settings::{CustomRole, ResourceSet};
use super::{Org, errors};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

const MADE: &str = "2026-01-01T00:00:00.000Z";

/// What is read below `/api/v1/iam/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// `roles`
    Roles,
    /// `roles/{id}`
    Role(&'a str),
    /// `roles/{id}/permissions`
    Permissions(&'a str),
    /// `resource-sets`
    Sets,
    /// `resource-sets/{id}`
    Set(&'a str),
    /// `resource-sets/{id}/resources`
    Resources(&'a str),
    /// `resource-sets/{id}/bindings`
    Bindings(&'a str),
    /// `resource-sets/{id}/bindings/{role}/members`
    Members(&'a str, &'a str),
}

/// `GET /api/v1/iam/…`.
pub fn get(world: &World, org: &Org, request: &Request, part: Part<'_>) -> Outcome {
    let app = access::caller(world, org, request, "okta.roles.read")?;
    if !app.may(Permission::ReadRoles) {
        return Err(errors::error("E0000006"));
    }
    let settings = &org.settings;
    let missing = |id: &str, kind: &str| {
        errors::because("E0000007", &format!("Resource not found: {id} ({kind})"), &[])
    };
    let role = |key: &str| {
        let found = settings.custom_roles.iter().find(|role| role.id == key || role.label == key);
        found.ok_or_else(|| missing(key, "CustomRole"))
    };
    let set = |key: &str| {
        let found = settings.resource_sets.iter().find(|set| set.id == key || set.label == key);
        found.ok_or_else(|| missing(key, "IAMPolicy"))
    };
    // Live orgs name the admin console's host in these links.
    let admin = |path: &str| request.link(path).replacen(".okta", "-admin.okta", 1);
    let body = match part {
        Part::Roles => {
            let shown: Vec<Value> =
                settings.custom_roles.iter().map(|role| show_role(role, &admin)).collect();
            json!({"roles": shown, "_links": {}})
        }
        Part::Role(key) => show_role(role(key)?, &admin),
        Part::Permissions(key) => {
            let role = role(key)?;
            let shown = role.permissions.iter().map(|permission| {
                let href = admin(&format!("/api/v1/iam/roles/{}/permissions/{permission}", role.id));
                json!({"label": permission, "created": MADE, "lastUpdated": MADE, "conditions": null,
                    "_links": {"self": {"href": href}}})
            });
            json!({"permissions": shown.collect::<Vec<_>>()})
        }
        Part::Sets => {
            let shown: Vec<Value> = settings.resource_sets.iter().map(|set| show_set(set, &admin)).collect();
            json!({"resource-sets": shown, "_links": {}})
        }
        Part::Set(key) => show_set(set(key)?, &admin),
        Part::Resources(key) => {
            let set = set(key)?;
            let shown = set.resources.iter().map(|orn| {
                json!({"id": made("ire", &[&set.id, orn]), "orn": orn, "created": MADE, "lastUpdated": MADE,
                    "_links": {}})
            });
            json!({"resources": shown.collect::<Vec<_>>(), "_links": {}})
        }
        Part::Bindings(key) => {
            let set = set(key)?;
            let shown = set.bindings.iter().map(|binding| {
                let at = format!("/api/v1/iam/resource-sets/{}/bindings/{}", set.id, binding.role);
                json!({"id": binding.role, "_links": {"self": {"href": admin(&at)},
                    "members": {"href": admin(&format!("{at}/members"))}}})
            });
            json!({"roles": shown.collect::<Vec<_>>(), "_links": {}})
        }
        Part::Members(key, bound) => {
            let set = set(key)?;
            let binding = set.bindings.iter().find(|binding| binding.role == bound);
            let binding = binding.ok_or_else(|| missing(bound, "CustomRole"))?;
            let shown = binding.members.iter().map(|member| {
                let kind = if member.starts_with("00g") { "groups" } else { "users" };
                json!({"id": made("irb", &[&set.id, bound, member]), "created": MADE, "lastUpdated": MADE,
                    "_links": {"self": {"href": admin(&format!("/api/v1/{kind}/{member}"))}}})
            });
            json!({"members": shown.collect::<Vec<_>>(), "_links": {}})
        }
    };
    Ok(wire::json(StatusCode::OK, &body))
}

fn show_role(role: &CustomRole, admin: &impl Fn(&str) -> String) -> Value {
    let at = format!("/api/v1/iam/roles/{}", role.id);
    json!({"id": role.id, "label": role.label, "description": role.label, "created": MADE, "lastUpdated": MADE,
        "_links": {"permissions": {"href": admin(&format!("{at}/permissions"))}, "self": {"href": admin(&at)}}})
}

fn show_set(set: &ResourceSet, admin: &impl Fn(&str) -> String) -> Value {
    let at = format!("/api/v1/iam/resource-sets/{}", set.id);
    json!({"id": set.id, "label": set.label, "description": set.label, "created": MADE, "lastUpdated": MADE,
        "_links": {"self": {"href": admin(&at)}, "resources": {"href": admin(&format!("{at}/resources"))},
            "bindings": {"href": admin(&format!("{at}/bindings"))}}})
}
