//! Identity Protection: risky users, confirming and dismissing (entra.md §12.3).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::access::Caller;
use super::query::Condition;
use super::settings::Licence;
use super::{errors, user};
use crate::faults::throttled;
use crate::model::{Account, Risk, Status};
use crate::wire::{self, Request};
use crate::world::World;

/// Ids one call may carry: Microsoft's own sample pages 60; more is refused, which is an assumption.
const MAX_IDS: usize = 60;

/// What a caller says about users.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// `confirmCompromised`
    Compromised,
    /// `dismiss`
    Dismissed,
}

/// Why Identity Protection refuses: pace first, then permission, then licence.
fn refusal(world: &World, request: &Request, caller: &Caller, permission: &str) -> Option<Response<Bytes>> {
    let now = world.now();
    let settings = &caller.tenant.settings;
    if settings.risk_throttling && !world.paced(&format!("risk {}", settings.tenant_id), Duration::seconds(1))
    {
        return Some(throttled(&request.surface, None, now)); // no Retry-After here
    }
    if !caller.has(permission) {
        let message = "You cannot perform the requested operation, required scopes are missing in the token.";
        return Some(errors::graph(request, now, 403, "Forbidden", message));
    }
    (!settings.licensed(Licence::P2)).then(|| {
        errors::graph(request, now, 403, "Forbidden", "Your tenant is not licensed for this feature.")
    })
}

/// `GET /identityProtection/riskyUsers`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if let Some(refusal) = refusal(world, request, caller, "IdentityRiskyUser.Read.All") {
        return refusal;
    }
    let top = request.param("$top").and_then(|top| top.parse().ok()).unwrap_or(100).clamp(1, 500);
    let from = request.param("$skiptoken").and_then(|token| token.parse().ok()).unwrap_or(0_usize);
    let now = world.now();
    let conditions = match request.param("$filter").map(|filter| Condition::parse(&filter)) {
        None => Vec::new(),
        Some(Some(conditions)) => conditions,
        Some(None) => return errors::graph(request, now, 400, "BadRequest", "Invalid filter clause"),
    };
    let risky = caller.tenant.directory.accounts.changed(|account| {
        let shown = || render(account, now);
        !account.risk.level.is_empty()
            && (conditions.is_empty()
                || shown().as_object().is_some_and(|shown| conditions.iter().all(|c| c.holds(shown))))
    });
    let value: Vec<Value> = risky.iter().skip(from).take(top).map(|account| render(account, now)).collect();
    let mut body = json!({"value": value});
    if let (Some(body), true) = (body.as_object_mut(), risky.len() > from + top) {
        let filter = request.param("$filter").map_or_else(String::new, |filter| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            format!("&{}", query.append_pair("$filter", &filter).finish())
        });
        let next = request.link(&format!("{}?$top={top}{filter}&$skiptoken={}", request.path, from + top));
        body.insert("@odata.nextLink".into(), next.into());
    }
    wire::json(StatusCode::OK, &body)
}

/// `GET /identityProtection/riskyUsers/{id}`; 404 for somebody without a record, which is an assumption.
pub fn get(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    if let Some(refusal) = refusal(world, request, caller, "IdentityRiskyUser.Read.All") {
        return refusal;
    }
    let now = world.now();
    let account = caller.tenant.directory.accounts.get(id);
    match account.filter(|account| !account.risk.level.is_empty()) {
        Some(account) => wire::json(StatusCode::OK, &render(&account, now)),
        None => errors::not_found(request, now, id),
    }
}

/// `POST /identityProtection/riskyUsers/confirmCompromised` and `…/dismiss`
pub fn mark(world: &Arc<World>, request: &Request, caller: &Caller, mark: Mark) -> Response<Bytes> {
    if let Some(refusal) = refusal(world, request, caller, "IdentityRiskyUser.ReadWrite.All") {
        return refusal;
    }
    let now = world.now();
    let body = request.json().unwrap_or_default();
    let ids = body.get("userIds").and_then(Value::as_array);
    let ids: Vec<&str> = ids.into_iter().flatten().filter_map(Value::as_str).collect();
    if ids.is_empty() || ids.len() > MAX_IDS {
        return errors::graph(request, now, 400, "BadRequest", "The number of user ids is not supported.");
    }
    let directory = &caller.tenant.directory;
    if let Some(unknown) = ids.iter().find(|id| directory.accounts.get(id).is_none()) {
        return errors::not_found(request, now, unknown);
    }
    let processing = Duration::seconds(caller.tenant.settings.risk_processing_s);
    let (level, state, detail, action) = match mark {
        Mark::Compromised => {
            ("high", "confirmedCompromised", "adminConfirmedUserCompromised", "confirm_compromised")
        }
        Mark::Dismissed => ("none", "dismissed", "adminDismissedAllRiskForUser", "dismiss_risk"),
    };
    for id in ids {
        directory.accounts.update(id, now, |account| {
            account.risk = Risk {
                level: level.into(),
                state: state.into(),
                detail: detail.into(),
                updated: Some(now),
                processing_until: Some(now + processing),
            };
        });
        world.changed(directory, id, action, &caller.client_id, Value::Null);
    }
    wire::empty(StatusCode::NO_CONTENT)
}

fn render(account: &Account, now: OffsetDateTime) -> Value {
    json!({"id": account.id, "isDeleted": account.status == Status::Deleted,
        "isProcessing": account.risk.processing_until.is_some_and(|until| now < until),
        "riskLevel": account.risk.level, "riskState": account.risk.state, "riskDetail": account.risk.detail,
        "riskLastUpdatedDateTime": account.risk.updated.map(user::date), "userDisplayName": account.display_name,
        "userPrincipalName": account.login})
}
