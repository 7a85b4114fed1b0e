//! The directory's own audit log: `GET /auditLogs/directoryAudits` (Graph's reference of `directoryAudit`).
//!
//! It has who disabled and enabled accounts, made from the judge's book, newest first. Filters are `eq` on the activity and
//! comparisons of the date, joined by `and`; anything else is refused.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::access::Caller;
use super::errors;
use super::query::{Token, link};
use super::sign_in_log::CALLS;
use crate::faults::{Hint, throttled};
use crate::generate::derived_guid;
use crate::log::{Change, Entry, Event};
use crate::wire::{self, Request};
use crate::world::World;

/// What the tenant keeps with a licence.
const KEPT: Duration = Duration::days(30);
/// Largest page, and the one when none is asked for.
const PAGE: usize = 1000;
/// Who changes what the control port changes.
const ADMINISTRATOR: (&str, &str) = ("0a0a0a0a-0000-4000-8000-00000000000a", "helpdesk@acme.example");
/// Who changes what comes from Active Directory.
const CONNECT: (&str, &str) = ("0a0a0a0a-0000-4000-8000-00000000000b", "Sync_DC1@acme.example");

/// `GET /auditLogs/directoryAudits`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    let settings = &caller.tenant.settings;
    let quota = format!("reports {} {}", caller.client_id, settings.tenant_id);
    if settings.report_throttling && !world.counted(&quota, CALLS, Duration::seconds(10)) {
        return throttled(&request.surface, Some(Hint::Seconds(10)), now);
    }
    // Both, says the reference of `List directoryAudits`.
    let readers = ["Directory.Read.All", "Directory.ReadWrite.All"];
    if !caller.has("AuditLog.Read.All") || !caller.has_any(&readers) {
        let message = "The principal does not have required Microsoft Graph permission(s): AuditLog.Read.All to call \
            this API. For more information about Microsoft Graph permissions, please visit \
            https://learn.microsoft.com/graph/permissions-overview.";
        return errors::graph(request, now, 403, "Authentication_MSGraphPermissionMissing", message);
    }
    let invalid = |message: &str| errors::graph(request, now, 400, "BadRequest", message);
    let top = match request.param("$top").map(|top| top.parse::<usize>()) {
        None => PAGE,
        Some(Ok(top)) if (1..=PAGE).contains(&top) => top,
        Some(_) => return invalid("The limit for top query is 1000."),
    };
    let Some(wanted) = request.param("$filter").map_or(Some(Vec::new()), |text| conditions(&text)) else {
        return invalid("Invalid filter clause");
    };
    let from = match request.param("$skiptoken").map(|text| Token::decode(&text)) {
        None => 0,
        Some(Some(token)) => usize::try_from(token.position).unwrap_or(usize::MAX),
        Some(None) => return invalid("The page token is invalid."),
    };

    let shown_until = now - Duration::seconds(settings.audit_log_lag_s);
    let directory = &caller.tenant.directory.id;
    let entries = world.log.after(0, usize::MAX, |entry| {
        entry.directory == *directory && entry.time >= now - KEPT && entry.time <= shown_until
    });
    let rows = entries.iter().rev().filter_map(|entry| Some((entry.time, render(caller, entry)?)));
    let found: Vec<Value> = rows
        .filter(|(at, row)| wanted.iter().all(|condition| condition.holds(*at, row)))
        .map(|(_, row)| row)
        .collect();
    let value: Vec<&Value> = found.iter().skip(from).take(top).collect();
    let context = request.link("/v1.0/$metadata#auditLogs/directoryAudits");
    let mut body = json!({"@odata.context": context, "value": value});
    let end = from.saturating_add(top);
    if let (Some(body), true) = (body.as_object_mut(), found.len() > end) {
        let next = Token { position: end as u64, sequence: 0, issued: now.unix_timestamp(), changes: false };
        body.insert("@odata.nextLink".into(), link(request, &request.path, "$skiptoken", &next).into());
    }
    wire::json(StatusCode::OK, &body)
}

/// An entry that enables or disables an account; `None` for any other.
fn render(caller: &Caller, entry: &Entry) -> Option<Value> {
    let Event::Change(Change { account, action, actor, detail }) = &entry.event else { return None };
    let status = detail.get("status").and_then(Value::as_str);
    let enabled = match (action.as_str(), status) {
        ("enable", _) | ("patched" | "reverted", Some("active")) => true,
        ("disable", _) | ("patched" | "reverted", Some("disabled")) => false,
        _ => return None,
    };
    let user = |(id, name): (&str, &str)| json!({"user": {"id": id, "displayName": null, "userPrincipalName": name, "ipAddress": ""}, "app": null});
    let initiator = match actor.as_str() {
        "directory" => user(CONNECT),
        "control" | "owner" => user(ADMINISTRATOR),
        // Applications come without their application id, as seen in the wild.
        app => {
            let known = caller.tenant.settings.apps.iter().find(|known| known.client_id == app);
            let principal = known.map(super::settings::App::object_id);
            json!({"user": null, "app": {"appId": null, "displayName": app, "servicePrincipalId": principal,
                "servicePrincipalName": null}})
        }
    };
    let (name, was) = if enabled { ("Enable account", "[false]") } else { ("Disable account", "[true]") };
    let is = if enabled { "[true]" } else { "[false]" };
    let login = caller.tenant.directory.accounts.get(account).map(|account| account.login);
    let id = derived_guid(&format!("audit {} {}", entry.directory, entry.seq));
    Some(json!({"id": format!("Directory_{id}"), "category": "UserManagement", "correlationId": id,
        "result": "success", "resultReason": "", "activityDisplayName": name,
        "activityDateTime": entry.time.format(&Rfc3339).unwrap_or_default(), "loggedByService": "Core Directory",
        "operationType": "Update", "initiatedBy": initiator,
        "targetResources": [{"id": account, "displayName": null, "type": "User", "userPrincipalName": login,
            "modifiedProperties": [{"displayName": "AccountEnabled", "oldValue": was, "newValue": is}]}],
        "additionalDetails": []}))
}

/// One comparison of the filter.
enum Condition {
    /// The activity.
    Activity(String),
    /// The date: operator and bound.
    Date(String, OffsetDateTime),
}

impl Condition {
    fn holds(&self, at: OffsetDateTime, row: &Value) -> bool {
        match self {
            Self::Activity(wanted) => {
                row.get("activityDisplayName").and_then(Value::as_str) == Some(wanted.as_str())
            }
            Self::Date(operator, bound) => match operator.as_str() {
                "ge" => at >= *bound,
                "le" => at <= *bound,
                _ => at == *bound,
            },
        }
    }
}

/// `activityDateTime ge 2026-01-01T00:00:00Z and activityDisplayName eq '…'`; `None` for anything else.
fn conditions(filter: &str) -> Option<Vec<Condition>> {
    let one = |text: &str| {
        let (member, rest) = text.trim().split_once(' ')?;
        let (operator, value) = rest.split_once(' ')?;
        match (member, operator) {
            ("activityDisplayName", "eq") => {
                Some(Condition::Activity(value.strip_prefix('\'')?.strip_suffix('\'')?.to_owned()))
            }
            ("activityDateTime", "ge" | "le" | "eq") => {
                Some(Condition::Date(operator.to_owned(), OffsetDateTime::parse(value, &Rfc3339).ok()?))
            }
            _ => None,
        }
    };
    filter.split(" and ").map(one).collect()
}
