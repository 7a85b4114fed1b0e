//! What a service app can learn of itself: its granted scopes and its share of the rate limits (okta.md §7.1, §8.5).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::hooks::administers;
use super::query::words;
use super::{Org, access, errors};
use crate::log::sha256_hex;
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

const MADE: &str = "2026-01-01T00:00:00.000Z";

/// `GET /api/v1/apps/{id}/grants`.
pub fn grants(world: &World, org: &Org, request: &Request, id: &str) -> Outcome {
    let caller = access::caller(world, org, request, "okta.appGrants.read")?;
    if !administers(caller) {
        return Err(errors::error("E0000006"));
    }
    let missing = || errors::because("E0000007", &format!("Resource not found: {id} (AppInstance)"), &[]);
    let app = org.settings.app(id).ok_or_else(missing)?;
    let href = request.link(&format!("/api/v1/apps/{id}"));
    let shown = app.scopes.iter().map(|scope| {
        json!({"id": made("oag", &[id, scope]), "status": "ACTIVE", "created": MADE, "lastUpdated": MADE,
            "createdBy": {"id": made("00u", &[&org.settings.org_id]), "type": "User"}, "issuer": request.base,
            "clientId": id, "scopeId": scope, "source": "ADMIN",
            "_embedded": {"scope": {"id": scope}},
            "_links": {"app": {"href": href}, "client": {"href": href},
                "self": {"href": format!("{href}/grants/{}", made("oag", &[id, scope]))}}})
    });
    Ok(wire::json(StatusCode::OK, &shown.collect()))
}

/// `GET /api/v1/principal-rate-limits?filter=principalType eq "OAUTH_CLIENT"[ and principalId eq "…"]`.
pub fn rate_limits(world: &World, org: &Org, request: &Request) -> Outcome {
    let caller = access::caller(world, org, request, "okta.principalRateLimits.read")?;
    if !administers(caller) {
        return Err(errors::error("E0000006"));
    }
    let filter = request.param("filter").ok_or_else(|| errors::error("E0000028"))?;
    let words = words(&filter).unwrap_or_default();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (kind, id) = match words.as_slice() {
        ["principalType", "eq", kind] => (*kind, None),
        ["principalType", "eq", kind, "and", "principalId", "eq", id] => (*kind, Some(*id)),
        _ => return Err(errors::error("E0000031")),
    };
    let apps = org.settings.apps.iter().filter(|app| id.is_none_or(|id| id == app.client_id));
    let shown = apps.filter(|_| kind == "OAUTH_CLIENT").map(|app| {
        json!({"id": made("prl", &[&app.client_id]), "orgId": org.settings.org_id, "principalId": app.client_id,
            "principalType": "OAUTH_CLIENT", "defaultPercentage": app.share_percent,
            "defaultConcurrencyPercentage": 75, "createdBy": made("00u", &[&org.settings.org_id]),
            "createdDate": MADE, "lastUpdate": MADE, "lastUpdatedBy": made("00u", &[&org.settings.org_id])})
    });
    Ok(wire::json(StatusCode::OK, &shown.collect::<Value>()))
}

/// An id that always belongs to these texts.
pub fn made(prefix: &str, of: &[&str]) -> String {
    let digest = sha256_hex(&of.join(" "));
    format!("{prefix}{}", digest.get(..17).unwrap_or_default())
}
