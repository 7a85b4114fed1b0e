//! What a sign-in is answered with, and the transactions that wait for their next step (okta.md §4.1).
//!
//! The next steps themselves (a factor, a new password) are not simulated; a transaction can be looked at and cancelled.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::user::timestamp;
use super::{Org, errors};
use crate::model::Account;
use crate::sync::lock;
use crate::wire::{self, Request};
use crate::world::World;

const LIFE: Duration = Duration::minutes(5);

/// Open transactions by state token.
#[derive(Debug, Default)]
pub struct Transactions {
    open: Mutex<HashMap<String, Open>>,
}

#[derive(Debug)]
struct Open {
    org: String,
    expires: OffsetDateTime,
    body: Value,
}

impl Transactions {
    /// Forgets all.
    pub fn clear(&self) {
        lock(&self.open).clear();
    }
}

/// A transaction in this state; all but a success wait for something.
pub fn begin(
    world: &World,
    org: &Org,
    request: &Request,
    status: &str,
    account: Option<&Account>,
    embedded: Value,
) -> Response<Bytes> {
    let expires = world.now() + LIFE;
    let mut embedded = embedded;
    if let (Some(account), Some(embedded)) = (account, embedded.as_object_mut()) {
        let user = json!({"id": account.id, "passwordChanged": account.password_changed.map(timestamp),
            "profile": {"login": account.login, "firstName": account.given_name, "lastName": account.family_name,
                "locale": "en_US", "timeZone": "America/Los_Angeles"}});
        embedded.insert("user".into(), user);
    }
    let token = uuid::Uuid::new_v4().simple().to_string();
    let mut body = json!({"expiresAt": timestamp(expires), "status": status, "_embedded": embedded,
        "_links": links(request, status)});
    let Some(members) = body.as_object_mut() else { return errors::error("E0000009") };
    if status == "SUCCESS" {
        members.insert("sessionToken".into(), format!("20111{token}").into());
    } else {
        let token = format!("007{token}");
        members.insert("stateToken".into(), token.clone().into());
        let mut open = lock(&world.okta.transactions.open);
        let now = world.now();
        open.retain(|_, transaction| transaction.expires > now);
        open.insert(token, Open { org: org.directory.id.clone(), expires, body: body.clone() });
    }
    wire::json(StatusCode::OK, &body)
}

/// Where a transaction can go from its state.
fn links(request: &Request, status: &str) -> Value {
    let to = |path: &str| json!({"href": request.link(path), "hints": {"allow": ["POST"]}});
    let named = |name: &str, path: &str| {
        let mut link = to(path);
        if let Some(link) = link.as_object_mut() {
            link.insert("name".into(), name.into());
        }
        link
    };
    let mut links = json!({"cancel": to("/api/v1/authn/cancel")});
    if let Some(links) = links.as_object_mut() {
        if matches!(status, "PASSWORD_EXPIRED" | "PASSWORD_WARN") {
            let change = named("changePassword", "/api/v1/authn/credentials/change_password");
            links.insert("next".into(), change);
        }
        if status == "PASSWORD_WARN" {
            links.insert("skip".into(), named("skip", "/api/v1/authn/skip"));
        }
    }
    links
}

/// `POST /api/v1/authn` with a state token alone: where the transaction stands.
pub fn resume(world: &World, org: &Org, token: &str) -> Response<Bytes> {
    let now = world.now();
    let open = lock(&world.okta.transactions.open);
    match open.get(token).filter(|known| known.org == org.directory.id && known.expires > now) {
        Some(known) => wire::json(StatusCode::OK, &known.body),
        None => errors::error("E0000011"),
    }
}

/// `POST /api/v1/authn/cancel`.
pub fn cancel(world: &World, org: &Org, request: &Request) -> Result<Response<Bytes>, Response<Bytes>> {
    let body = request.json().unwrap_or_default();
    let token = body.get("stateToken").and_then(Value::as_str).unwrap_or_default();
    let now = world.now();
    let mut open = lock(&world.okta.transactions.open);
    let known = open.get(token).is_some_and(|known| known.org == org.directory.id && known.expires > now);
    if !known {
        return Err(errors::error("E0000011"));
    }
    open.remove(token);
    Ok(wire::json(StatusCode::OK, &json!({"relayState": null})))
}
