//! The System Log, polling form (okta.md §3.5).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Notify;

use super::access::{self, Permission};
use super::query::words;
use super::user::timestamp;
use super::{Org, errors};
use crate::model::{Account, Directory, Group, Settings, Status};
use crate::sync::lock;
use crate::wire::{self, Request};
use crate::world::World;

/// Events kept per org.
const KEPT: usize = 100_000;
/// How far back a log may be asked for.
const OLDEST: time::Duration = time::Duration::days(180);
/// Who changes what the control port changes.
const ADMINISTRATOR: (&str, &str, &str) = ("00uhelpdesk000000001", "User", "helpdesk@acme.example");

/// Events of all orgs.
#[derive(Debug, Default)]
pub struct Journal {
    orgs: Mutex<HashMap<String, Events>>,
    /// Told whenever an event is appended.
    grown: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Events {
    /// Sequence of the first event kept.
    first: u64,
    kept: VecDeque<(OffsetDateTime, Value)>,
}

/// How something ended.
pub struct Outcome {
    /// SUCCESS or FAILURE.
    pub success: bool,
    /// Why it failed.
    pub reason: Option<&'static str>,
}

/// What happened.
pub struct Record<'a> {
    /// Event type.
    pub event: &'a str,
    /// Id, type and name of who did it.
    pub actor: (&'a str, &'a str, &'a str),
    /// The user it was done to.
    pub target: Option<&'a Account>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Where it came from.
struct Source<'a> {
    agent: Option<&'a str>,
    address: String,
    path: &'a str,
}

/// Appends what happened to an account without a request of the wire: through the control port or by itself. `reason`
/// tells a failure.
pub fn outside(
    world: &World,
    directory: &Directory,
    account: &Account,
    event: &str,
    reason: Option<&'static str>,
) {
    let outcome = Outcome { success: reason.is_none(), reason };
    elsewhere(world, directory, account, event, outcome, None);
}

/// Appends what of a change somebody made elsewhere the log tells.
pub fn noticed(world: &World, directory: &Directory, before: &Account, after: &Account) {
    for event in events(before, after) {
        outside(world, directory, after, event, None);
    }
}

fn events(before: &Account, after: &Account) -> Vec<&'static str> {
    let mut events = Vec::new();
    if before.status != after.status {
        events.push(match after.status {
            Status::Active if before.status == Status::Suspended => "user.lifecycle.unsuspend",
            Status::Active | Status::Provisioned => "user.lifecycle.activate",
            Status::Suspended | Status::Disabled => "user.lifecycle.suspend",
            Status::Deprovisioned => "user.lifecycle.deactivate",
            Status::Deleted => "user.lifecycle.delete.completed",
            Status::Staged | Status::Recovery => "user.account.reset_password",
        });
    }
    if before.password != after.password {
        events.push("user.account.update_password");
    }
    if before.risk != after.risk {
        events.push("user.risk.change");
    }
    if events.is_empty() {
        events.push("user.account.update_profile");
    }
    events
}

/// Appends that an account joined or left a group.
pub fn moved(world: &World, directory: &Directory, account: &Account, group: &Group, member: bool) {
    let event = if member { "group.user_membership.add" } else { "group.user_membership.remove" };
    elsewhere(world, directory, account, event, Outcome { success: true, reason: None }, Some(group));
}

fn elsewhere(
    world: &World,
    directory: &Directory,
    account: &Account,
    event: &str,
    outcome: Outcome,
    group: Option<&Group>,
) {
    if !matches!(&*directory.settings(), Settings::Okta(_)) {
        return;
    }
    let source = Source { agent: Some("Mozilla/5.0"), address: "198.51.100.7".into(), path: "/" };
    // Owners sign in themselves; others suspend them.
    let by_others = ["user.lifecycle.", "user.risk."].iter().any(|kind| event.starts_with(kind));
    let actor = if by_others { ADMINISTRATOR } else { (&*account.id, "User", &*account.login) };
    let record = Record { event, actor, target: Some(account), outcome };
    world.okta.journal.append(world.now(), &directory.id, &source, &record, group);
}

impl Journal {
    /// Appends what a request did.
    pub fn record(&self, now: OffsetDateTime, org: &Org, request: &Request, record: &Record<'_>) {
        let source = Source {
            agent: request.header("user-agent"),
            address: request.peer.ip().to_string(),
            path: &request.path,
        };
        self.append(now, &org.directory.id, &source, record, None);
    }

    fn append(
        &self,
        now: OffsetDateTime,
        org: &str,
        source: &Source<'_>,
        record: &Record<'_>,
        group: Option<&Group>,
    ) {
        let (id, kind, name) = record.actor;
        let mut target: Vec<Value> = record
            .target
            .iter()
            .map(|account| {
                json!({"id": account.id, "type": "User", "alternateId": account.login,
                "displayName": account.display_name, "detailEntry": null})
            })
            .collect();
        target.extend(group.map(|group| {
            json!({"id": group.id, "type": "UserGroup", "alternateId": "unknown", "displayName": group.name,
                "detailEntry": null})
        }));
        let event = json!({
            "uuid": uuid::Uuid::new_v4(), "published": timestamp(now), "eventType": record.event, "version": "0",
            "severity": "INFO", "displayMessage": record.event,
            "actor": {"id": id, "type": kind, "alternateId": name, "displayName": name, "detailEntry": null},
            "client": {"userAgent": {"rawUserAgent": source.agent}, "zone": "null",
                "device": "Unknown", "id": null, "ipAddress": source.address},
            "device": null,
            "outcome": {"result": if record.outcome.success { "SUCCESS" } else { "FAILURE" },
                "reason": record.outcome.reason},
            "target": target,
            "transaction": {"type": "WEB", "id": uuid::Uuid::new_v4().simple().to_string(), "detail": {}},
            "debugContext": {"debugData": {"requestUri": source.path}},
            "authenticationContext": {"authenticationStep": 0, "externalSessionId": null},
            "securityContext": {"isProxy": null},
        });
        let mut orgs = lock(&self.orgs);
        let events = orgs.entry(org.to_owned()).or_default();
        events.kept.push_back((now, event));
        if events.kept.len() > KEPT {
            events.kept.pop_front();
            events.first += 1;
        }
        drop(orgs);
        self.grown.notify_waiters();
    }

    /// What is told whenever an event is appended.
    pub fn grown(&self) -> Arc<Notify> {
        Arc::clone(&self.grown)
    }

    /// Sequence of the next event of an org.
    pub fn end(&self, org: &str) -> u64 {
        lock(&self.orgs).get(org).map_or(0, |events| events.first + events.kept.len() as u64)
    }

    /// Events from a sequence on, at most `limit`, and the sequence to go on from.
    pub fn after(&self, org: &str, sequence: u64, limit: usize) -> (Vec<Value>, u64) {
        let orgs = lock(&self.orgs);
        let Some(events) = orgs.get(org) else { return (Vec::new(), sequence) };
        let from = sequence.max(events.first);
        let skip = usize::try_from(from - events.first).unwrap_or(usize::MAX);
        let found: Vec<Value> =
            events.kept.iter().skip(skip).take(limit).map(|(_, event)| event.clone()).collect();
        let next = from + found.len() as u64;
        (found, next)
    }

    /// Forgets all events.
    pub fn clear(&self) {
        lock(&self.orgs).clear();
    }
}

/// `GET /api/v1/logs`.
pub fn answer(world: &World, org: &Org, request: &Request) -> Result<Response<Bytes>, Response<Bytes>> {
    let app = access::caller(world, org, request, "okta.logs.read")?;
    if !app.may(Permission::ReadLogs) {
        return Err(errors::error("E0000006"));
    }
    let invalid = || errors::error("E0000053");
    let date = |name: &str| -> Result<Option<OffsetDateTime>, Response<Bytes>> {
        let text = request.param(name);
        text.map(|text| OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| invalid())).transpose()
    };
    let (since, until) = (date("since")?, date("until")?);
    if since.is_some_and(|since| since < world.now() - OLDEST) {
        return Err(invalid());
    }
    let after = request.param("after").map(|text| text.parse::<u64>().map_err(|_| invalid())).transpose()?;
    if since.is_some() && after.is_some() {
        return Err(invalid());
    }
    let limit =
        request.param("limit").map_or(Ok(100), |text| text.parse::<usize>().map_err(|_| invalid()))?;
    let limit = limit.min(org.settings.log_page);
    let filter = request.param("filter").map(|text| conditions(&text).ok_or_else(invalid)).transpose()?;

    let newest_first = match request.param("sortOrder").as_deref() {
        None | Some("ASCENDING") => false,
        // Only what is bounded can be read backwards, and only its newest page is.
        Some("DESCENDING") if until.is_some() && after.is_none() => true,
        Some(_) => return Err(invalid()),
    };

    let mut orgs = lock(&world.okta.journal.orgs);
    let events = orgs.entry(org.directory.id.clone()).or_default();
    let from = after.unwrap_or(0).max(events.first);
    let skip = usize::try_from(from - events.first).unwrap_or(usize::MAX);
    let (mut found, mut next) = (Vec::new(), from);
    for (at, event) in events.kept.iter().skip(skip) {
        if found.len() == limit && !newest_first {
            break;
        }
        next += 1;
        let inside = since.is_none_or(|since| *at >= since) && until.is_none_or(|until| *at < until);
        if inside
            && filter
                .as_ref()
                .is_none_or(|any| any.iter().any(|all| all.iter().all(|term| holds(event, term))))
        {
            found.push(event.clone());
        }
    }
    if newest_first {
        found.reverse();
        found.truncate(limit);
    }
    let full = found.len() == limit;
    let mut response = wire::json(StatusCode::OK, &Value::Array(found));
    // The polling form always has a next link; the bounded one ends.
    if until.is_none() || full && !newest_first {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("after", &next.to_string()).append_pair("limit", &limit.to_string());
        for name in ["filter", "until", "sortOrder"] {
            if let Some(value) = request.param(name) {
                query.append_pair(name, &value);
            }
        }
        let link = request.link(&format!("/api/v1/logs?{}", query.finish()));
        wire::set_header(&mut response, "link", &format!("<{link}>; rel=\"next\""));
    }
    Ok(response)
}

/// Alternatives of conditions, each a path into the event, whether its beginning suffices, and the text wanted.
type Filter = Vec<Vec<(String, bool, String)>>;

/// `a eq "b" and c sw "d" or …`
fn conditions(text: &str) -> Option<Filter> {
    let mut words = words(text)?.into_iter();
    let mut found = vec![Vec::new()];
    loop {
        let property = words.next()?;
        let begins = match words.next()?.as_str() {
            "eq" => false,
            "sw" => true,
            _ => return None,
        };
        let path = format!("/{}", property.replace('.', "/"));
        found.last_mut()?.push((path, begins, words.next()?));
        match words.next().as_deref() {
            None => return Some(found),
            Some("and") => {}
            Some("or") => found.push(Vec::new()),
            Some(_) => return None,
        }
    }
}

/// A condition on the targets holds when one of them meets it.
fn holds(event: &Value, (path, begins, wanted): &(String, bool, String)) -> bool {
    let is = |value: Option<&Value>| {
        let text = value.and_then(Value::as_str);
        text.is_some_and(|text| if *begins { text.starts_with(wanted) } else { text == wanted })
    };
    match path.strip_prefix("/target") {
        Some(rest) => {
            let targets = event.get("target").and_then(Value::as_array);
            targets.into_iter().flatten().any(|target| is(target.pointer(rest)))
        }
        None => is(event.pointer(path)),
    }
}
