//! A user's risk, as orgs with Identity Threat Protection keep it (okta.md §5).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::journal::{Outcome as Result_, Record};
use super::users::find;
use super::{Org, Pipeline, errors};
use crate::model::{Account, Risk};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

const LEVELS: [&str; 3] = ["HIGH", "MEDIUM", "LOW"];
const MAX_REASON: usize = 500;

/// `GET /api/v1/users/{id}/risk`.
pub fn get(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let (_, account) = target(world, org, request, "okta.userRisk.read", key)?;
    Ok(wire::json(StatusCode::OK, &render(&account, &request.base)))
}

/// `PUT /api/v1/users/{id}/risk`: 201 the first time, 200 afterwards.
pub fn put(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let (client, account) = target(world, org, request, "okta.userRisk.manage", key)?;
    let body = request.json().unwrap_or_default();
    let level = body.get("riskLevel").and_then(Value::as_str).unwrap_or_default();
    if !LEVELS.contains(&level) {
        return Err(errors::because("E0000001", "riskLevel", &["riskLevel: must be HIGH, MEDIUM or LOW"]));
    }
    let reason = body.get("riskReason").and_then(Value::as_str).unwrap_or("override.by.admin");
    let allowed = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "-,.".contains(c);
    if reason.len() > MAX_REASON || !reason.chars().all(allowed) {
        return Err(errors::because("E0000001", "riskReason", &["riskReason: has characters not allowed"]));
    }
    let now = world.now();
    let risk = Risk {
        level: level.to_lowercase(),
        state: "atRisk".into(),
        detail: reason.to_owned(),
        updated: Some(now),
        processing_until: None,
    };
    let known = !account.risk.level.is_empty();
    org.directory.accounts.update_quietly(&account.id, |account| account.risk = risk);
    world.changed(&org.directory, &account.id, "set_risk", &client, json!({"level": level}));
    let outcome = Result_ { success: true, reason: None };
    let actor = (client.as_str(), "PublicClientApp", client.as_str());
    let record = Record { event: "user.risk.change", actor, target: Some(&account), outcome };
    world.okta.journal.record(now, org, request, &record);
    let after = org.directory.accounts.get(&account.id).unwrap_or(account);
    let status = if known { StatusCode::OK } else { StatusCode::CREATED };
    Ok(wire::json(status, &render(&after, &request.base)))
}

/// The caller's client id and the user, when both the org and the caller's role allow it.
fn target(
    world: &World,
    org: &Org,
    request: &Request,
    scope: &str,
    key: &str,
) -> Result<(String, Account), Response<Bytes>> {
    let app = access::caller(world, org, request, scope)?;
    if !org.settings.threat_protection || org.settings.pipeline == Pipeline::V1 {
        return Err(errors::error("E0000015")); // not documented; okta.md §5 expects it
    }
    if !app.may(Permission::Risk) {
        return Err(errors::error("E0000006"));
    }
    let account = find(org, key).ok_or_else(|| errors::no_user(key))?;
    Ok((app.client_id.clone(), account))
}

fn render(account: &Account, base: &str) -> Value {
    let known = !account.risk.level.is_empty();
    let level = if known { account.risk.level.to_uppercase() } else { "NONE".to_owned() };
    let user = format!("{base}/api/v1/users/{}", account.id);
    let mut body = json!({"riskLevel": level, "_links": {
        "self": {"href": format!("{user}/risk"), "hints": {"allow": ["GET", "PUT"]}},
        "user": {"href": user, "hints": {"allow": ["GET"]}}}});
    if let (true, Some(body)) = (known, body.as_object_mut()) {
        body.insert("reason".into(), account.risk.detail.clone().into());
    }
    body
}
