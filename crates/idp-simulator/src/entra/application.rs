//! `GET /applications(appId='…')`: what the tenant that owns an application knows of its credentials. The value of a
//! secret is never shown again, but for its first three characters.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::Duration;

use super::access::Caller;
use super::errors;
use super::query;
use super::user::date;
use crate::generate::derived_guid;
use crate::wire::Request;
use crate::world::World;

/// Secrets without an end of their own last this long, as the portal's longest choice.
const LONGEST: Duration = Duration::days(730);

/// The application with its secrets.
pub fn application(world: &Arc<World>, request: &Request, caller: &Caller, app_id: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(&["Application.Read.All", "Application.ReadWrite.All", "Directory.Read.All"]) {
        return errors::denied(request, now);
    }
    let Some(app) = caller.tenant.settings.app(app_id) else {
        return errors::not_found(request, now, app_id);
    };
    let secrets: Vec<Value> = app
        .secrets
        .iter()
        .map(|secret| {
            let hint: String = secret.value.chars().take(3).collect();
            json!({"keyId": derived_guid(&format!("{app_id} {hint}")), "hint": hint, "secretText": null,
                "displayName": "Parapet", "startDateTime": date(now - Duration::days(1)),
                "endDateTime": date(secret.expires.unwrap_or(now + LONGEST))})
        })
        .collect();
    let shown = json!({"id": app.object_id(), "appId": app.client_id, "displayName": app.name,
        "passwordCredentials": secrets, "keyCredentials": []});
    query::entity(request, StatusCode::OK, "applications", shown)
}
