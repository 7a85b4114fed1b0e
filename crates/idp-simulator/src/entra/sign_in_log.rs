//! The log of sign-ins: `GET /auditLogs/signIns` (entra.md §7.2, §7.4, §17).
//!
//! v1.0 lists interactive sign-ins, newest first. It is made from the judge's book, which has every submission, and from the
//! sign-in that an account was made with. Filters are `eq` on user, application and error code and comparisons of the date,
//! joined by `and`; anything else is refused.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::access::Caller;
use super::errors;
use super::query::{Token, link};
use super::settings::Licence;
use super::user::date;
use crate::faults::{Hint, throttled};
use crate::generate::derived_guid;
use crate::log::{Entry, Event, Submission};
use crate::model::By;
use crate::wire::{self, Request};
use crate::world::World;

/// What the tenant keeps with a licence.
const KEPT: Duration = Duration::days(30);
/// Largest page, and the one when none is asked for.
const PAGE: usize = 1000;
/// Calls in ten seconds, of all reports together.
pub(super) const CALLS: u32 = 5;
/// The application that people sign in to: My Apps.
const PORTAL: &str = "2793995e-0a7d-40d7-bd35-6968ba142197";

/// `GET /auditLogs/signIns`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    let settings = &caller.tenant.settings;
    let quota = format!("reports {} {}", caller.client_id, settings.tenant_id);
    if settings.report_throttling && !world.counted(&quota, CALLS, Duration::seconds(10)) {
        return throttled(&request.surface, Some(Hint::Seconds(10)), now);
    }
    if !caller.has("AuditLog.Read.All") {
        let message = "The principal does not have required Microsoft Graph permission(s): AuditLog.Read.All to call \
            this API. For more information about Microsoft Graph permissions, please visit \
            https://learn.microsoft.com/graph/permissions-overview.";
        return errors::graph(request, now, 403, "Authentication_MSGraphPermissionMissing", message);
    }
    if !settings.licensed(Licence::P1) {
        let message = "Neither tenant is B2C or tenant doesn't have premium license";
        let code = "Authentication_RequestFromNonPremiumTenantOrB2CTenant";
        return errors::graph(request, now, 403, code, message);
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
    let oldest_first = match request.param("$orderby").as_deref() {
        None | Some("createdDateTime desc") => false,
        Some("createdDateTime" | "createdDateTime asc") => true,
        Some(_) => return invalid("Unsupported order."),
    };
    let from = match request.param("$skiptoken").map(|text| Token::decode(&text)) {
        None => 0,
        Some(Some(token)) => usize::try_from(token.position).unwrap_or(usize::MAX),
        Some(None) => return invalid("The page token is invalid."),
    };

    let shown_until = now - Duration::seconds(settings.sign_in_log_lag_s);
    let user = wanted.iter().find_map(Condition::user);
    let mut found: Vec<(OffsetDateTime, Value)> = recorded(world, caller, user);
    found.extend(user.and_then(|user| made_with(caller, &found, user)));
    found.retain(|(at, row)| {
        *at >= now - KEPT && *at <= shown_until && wanted.iter().all(|condition| condition.holds(*at, row))
    });
    found.sort_by_key(|(at, _)| *at);
    if !oldest_first {
        found.reverse();
    }
    let value: Vec<&Value> = found.iter().skip(from).take(top).map(|(_, row)| row).collect();
    let context = request.link("/v1.0/$metadata#auditLogs/signIns");
    let mut body = json!({"@odata.context": context, "value": value});
    let end = from.saturating_add(top);
    if let (Some(body), true) = (body.as_object_mut(), found.len() > end) {
        let next = Token { position: end as u64, sequence: 0, issued: now.unix_timestamp(), changes: false };
        body.insert("@odata.nextLink".into(), link(request, &request.path, "$skiptoken", &next).into());
    }
    wire::json(StatusCode::OK, &body)
}

/// What was submitted since the simulator began, by one user or all.
fn recorded(world: &World, caller: &Caller, user: Option<&str>) -> Vec<(OffsetDateTime, Value)> {
    let directory = &caller.tenant.directory;
    let of = |entry: &Entry| match &entry.event {
        Event::Submission(submission) => {
            let id = submission.account.as_deref();
            user.is_none_or(|user| id.is_some_and(|id| id.eq_ignore_ascii_case(user)))
        }
        Event::Change(_) => false,
    };
    let entries = world.log.after(0, usize::MAX, |entry| entry.directory == directory.id && of(entry));
    let row = |entry: Entry| match &entry.event {
        Event::Submission(submission) => {
            let user = submission.account.as_deref()?;
            let at = entry.time.truncate_to_second();
            let id = derived_guid(&format!("sign-in {} {}", directory.id, entry.seq));
            let app = submission.client_id.as_deref().unwrap_or(PORTAL);
            let address = submission.source.rsplit_once(':').map_or("198.51.100.7", |(address, _)| address);
            let row = render(&id, at, (user, &submission.username), app, code(submission)?, address);
            Some((at, row))
        }
        Event::Change(_) => None,
    };
    entries.into_iter().filter_map(row).collect()
}

/// The last sign-in that an account was made with, or that somebody wrote into it.
fn made_with(
    caller: &Caller,
    recorded: &[(OffsetDateTime, Value)],
    user: &str,
) -> Option<(OffsetDateTime, Value)> {
    let account = caller.tenant.directory.accounts.find(user)?;
    let at = account.last_sign_in?.truncate_to_second();
    let known = recorded.iter().any(|(when, row)| {
        row.pointer("/status/errorCode") == Some(&json!(0))
            && row.get("userId").and_then(Value::as_str) == Some(&account.id)
            && (*when - at).abs() < Duration::seconds(5)
    });
    // Under the id that `signInActivity` names.
    let row = render(&account.id, at, (&account.id, &account.login), PORTAL, 0, "198.51.100.7");
    (!known).then_some((at, row))
}

/// The error code of an answer, `400 AADSTS50126` or `200`; `None` for what the directory never evaluated.
fn code(submission: &Submission) -> Option<u32> {
    if submission.by == By::Owner {
        return Some(match submission.answer.as_str() {
            "success" => 0,
            "locked" => 50053,
            _ => 50126,
        });
    }
    match submission.answer.split_once(" AADSTS") {
        Some((_, code)) => code.parse().ok(),
        None => (submission.answer == "200").then_some(0),
    }
}

fn render(
    id: &str,
    at: OffsetDateTime,
    (user, login): (&str, &str),
    app: &str,
    code: u32,
    address: &str,
) -> Value {
    let reason = match code {
        0 => "Other.",
        50053 => {
            "The account is locked, you've tried to sign in too many times with an incorrect user ID or password."
        }
        50126 => "Error validating credentials due to invalid username or password.",
        _ => "Sign-in was interrupted.",
    };
    json!({"id": id, "createdDateTime": date(at), "userDisplayName": login, "userPrincipalName": login, "userId": user,
        "appId": app, "appDisplayName": app, "ipAddress": address, "clientAppUsed": "Browser",
        "correlationId": id, "conditionalAccessStatus": "notApplied", "isInteractive": true,
        "riskDetail": "none", "riskLevelAggregated": "none", "riskLevelDuringSignIn": "none", "riskState": "none",
        "riskEventTypes": [], "riskEventTypes_v2": [], "resourceDisplayName": "Microsoft Graph",
        "resourceId": "00000003-0000-0000-c000-000000000000",
        "status": {"errorCode": code, "failureReason": reason, "additionalDetails": null},
        "deviceDetail": {"deviceId": "", "displayName": "", "operatingSystem": "", "browser": "",
            "isCompliant": false, "isManaged": false, "trustType": ""},
        "location": {"city": "", "state": "", "countryOrRegion": "", "geoCoordinates": {}},
        "appliedConditionalAccessPolicies": []})
}

/// One comparison of the filter.
enum Condition {
    /// A member equals a text, whatever its case.
    Is(&'static str, String),
    /// The error code.
    Code(u32),
    /// The date: operator and bound.
    Date(String, OffsetDateTime),
}

impl Condition {
    fn holds(&self, at: OffsetDateTime, row: &Value) -> bool {
        match self {
            Self::Is(member, wanted) => {
                row.get(member).and_then(Value::as_str).is_some_and(|text| text.eq_ignore_ascii_case(wanted))
            }
            Self::Code(code) => row.pointer("/status/errorCode") == Some(&json!(code)),
            Self::Date(operator, bound) => match operator.as_str() {
                "ge" => at >= *bound,
                "gt" => at > *bound,
                "le" => at <= *bound,
                _ => at < *bound,
            },
        }
    }

    fn user(&self) -> Option<&str> {
        match self {
            Self::Is("userId", user) => Some(user),
            _ => None,
        }
    }
}

/// `userId eq '…' and createdDateTime ge 2026-01-01T00:00:00Z`; `None` for anything else.
fn conditions(filter: &str) -> Option<Vec<Condition>> {
    let one = |text: &str| {
        let (member, rest) = text.trim().split_once(' ')?;
        let (operator, value) = rest.split_once(' ')?;
        let quoted = || Some(value.strip_prefix('\'')?.strip_suffix('\'')?.to_owned());
        match (member, operator) {
            ("userId", "eq") => Some(Condition::Is("userId", quoted()?)),
            ("appId", "eq") => Some(Condition::Is("appId", quoted()?)),
            ("status/errorCode", "eq") => value.parse().ok().map(Condition::Code),
            ("createdDateTime", "ge" | "gt" | "le" | "lt") => {
                Some(Condition::Date(operator.to_owned(), OffsetDateTime::parse(value, &Rfc3339).ok()?))
            }
            _ => None,
        }
    };
    filter.split(" and ").map(one).collect()
}
