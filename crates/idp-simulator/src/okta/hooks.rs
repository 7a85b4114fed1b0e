//! Event hooks: their life, the one-time verification of where they lead, and delivery (okta.md §3.6).
//!
//! Where a hook leads may be plain HTTP on loopback. A verification that fails is 400 E0000001, which is an assumption.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::settings::App;
use super::user::timestamp;
use super::{Org, access, errors};
use crate::generate::derived_guid;
use crate::sync::lock;
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

const MAX_ACTIVE: usize = 25;
const MAX_TYPES: usize = 300;
/// Events of one delivery.
const BATCH: usize = 20;
/// Within which a delivery must be answered.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a hook without events looks whether it still exists.
const LOOK: Duration = Duration::from_secs(1);
/// Beginnings of the event types that can be subscribed to.
const ELIGIBLE: [&str; 12] = [
    "user.lifecycle.",
    "user.account.",
    "user.session.",
    "user.risk.",
    "group.user_membership.",
    "group.lifecycle.",
    "group.profile.update",
    "group.privilege.",
    "group.application_assignment.",
    "application.",
    "iam.resourceset.",
    "policy.lifecycle.update",
];
/// Types under these beginnings that cannot.
const INELIGIBLE: [&str; 3] =
    ["user.account.expire_password", "user.account.lock.limit", "user.lifecycle.delete.completed"];

/// The hooks of all orgs.
#[derive(Debug, Default)]
pub struct Hooks {
    orgs: Mutex<HashMap<String, BTreeMap<String, Hook>>>,
}

#[derive(Clone, Debug)]
struct Hook {
    id: String,
    /// Name, events and channel, as they were given.
    given: Value,
    active: bool,
    verified: bool,
    created: OffsetDateTime,
    updated: OffsetDateTime,
    by: String,
    /// Sequence of the next event of the System Log it looks at.
    next: u64,
}

impl Hooks {
    /// Forgets all hooks; their deliveries end.
    pub fn clear(&self) {
        lock(&self.orgs).clear();
    }

    fn get(&self, org: &str, id: &str) -> Option<Hook> {
        lock(&self.orgs).get(org)?.get(id).cloned()
    }

    fn change<R>(&self, org: &str, id: &str, change: impl FnOnce(&mut Hook) -> R) -> Option<R> {
        lock(&self.orgs).get_mut(org)?.get_mut(id).map(change)
    }
}

impl Hook {
    fn uri(&self) -> &str {
        self.given.pointer("/channel/config/uri").and_then(Value::as_str).unwrap_or_default()
    }

    fn wants(&self, event: &Value) -> bool {
        let kind = event.get("eventType");
        let items = self.given.pointer("/events/items").and_then(Value::as_array);
        self.active && self.verified && items.into_iter().flatten().any(|item| Some(item) == kind)
    }

    fn render(&self, base: &str) -> Value {
        let at = format!("{base}/api/v1/eventHooks/{}", self.id);
        let mut channel = self.given.get("channel").cloned().unwrap_or_default();
        if let Some(config) = channel.get_mut("config").and_then(Value::as_object_mut) {
            config.insert("method".into(), "POST".into());
            if let Some(scheme) = config.get_mut("authScheme").and_then(Value::as_object_mut) {
                scheme.remove("value"); // is never shown again
            }
        }
        json!({"id": self.id, "status": if self.active { "ACTIVE" } else { "INACTIVE" },
            "verificationStatus": if self.verified { "VERIFIED" } else { "UNVERIFIED" },
            "name": self.given.get("name"), "description": self.given.get("description"),
            "created": timestamp(self.created), "createdBy": self.by, "lastUpdated": timestamp(self.updated),
            "events": self.given.get("events"), "channel": channel,
            "_links": {"self": {"href": at},
                "verify": {"href": format!("{at}/lifecycle/verify"), "hints": {"allow": ["POST"]}},
                "deactivate": {"href": format!("{at}/lifecycle/deactivate"), "hints": {"allow": ["POST"]}}}})
    }
}

/// Whether an app's role administers the org itself.
pub fn administers(app: &App) -> bool {
    app.roles.iter().any(|role| role == "SUPER_ADMIN" || role == "ORG_ADMIN")
}

fn caller<'a>(
    world: &World,
    org: &'a Org,
    request: &Request,
    scope: &str,
) -> Result<&'a App, Response<Bytes>> {
    let app = access::caller(world, org, request, scope)?;
    if administers(app) { Ok(app) } else { Err(errors::error("E0000006")) }
}

/// `GET` and `POST /api/v1/eventHooks`.
pub fn all(world: &Arc<World>, org: &Org, request: &Request) -> Outcome {
    if request.method == Method::GET {
        caller(world, org, request, "okta.eventHooks.read")?;
        let orgs = lock(&world.okta.hooks.orgs);
        let hooks = orgs.get(&org.directory.id).into_iter().flat_map(BTreeMap::values);
        return Ok(wire::json(StatusCode::OK, &hooks.map(|hook| hook.render(&request.base)).collect()));
    }
    let app = caller(world, org, request, "okta.eventHooks.manage")?;
    let given = given(request)?;
    let now = world.now();
    let mut orgs = lock(&world.okta.hooks.orgs);
    let hooks = orgs.entry(org.directory.id.clone()).or_default();
    if hooks.values().filter(|hook| hook.active).count() >= MAX_ACTIVE {
        return Err(errors::because(
            "E0000001",
            "eventHook",
            &["The limit of active event hooks is reached."],
        ));
    }
    let unique = derived_guid(&format!("{} hook {} {now}", org.directory.id, hooks.len())).replace('-', "");
    let id = format!("who{}", unique.get(..17).unwrap_or_default());
    let hook = Hook {
        id: id.clone(),
        given,
        active: true,
        verified: false,
        created: now,
        updated: now,
        by: app.client_id.clone(),
        next: world.okta.journal.end(&org.directory.id),
    };
    let shown = hook.render(&request.base);
    hooks.insert(id.clone(), hook);
    drop(orgs);
    world.changed(&org.directory, &id, "hook_created", &app.client_id, Value::Null);
    tokio::spawn(run(Arc::downgrade(world), org.directory.id.clone(), id));
    Ok(wire::json(StatusCode::OK, &shown))
}

/// Name, events and channel of a body, when they can be a hook.
fn given(request: &Request) -> Result<Value, Response<Bytes>> {
    let no = |about: &str, cause: &str| Err(errors::because("E0000001", about, &[cause]));
    let Some(body) = request.json() else { return Err(errors::error("E0000003")) };
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
    if text("/name").is_empty() {
        return no("name", "name: The field cannot be left blank");
    }
    let items = body.pointer("/events/items").and_then(Value::as_array);
    let items: Vec<&str> = items.into_iter().flatten().filter_map(Value::as_str).collect();
    let eligible =
        |item: &&str| ELIGIBLE.iter().any(|known| item.starts_with(known)) && !INELIGIBLE.contains(item);
    if text("/events/type") != "EVENT_TYPE" || items.is_empty() || items.len() > MAX_TYPES {
        return no("events", "events: Between 1 and 300 event types are needed");
    }
    if let Some(unknown) = items.iter().find(|item| !eligible(item)) {
        return no("events", &format!("events: '{unknown}' is not eligible for event hooks"));
    }
    let uri = url::Url::parse(text("/channel/config/uri")).ok();
    let loopback = |url: &url::Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if !uri.is_some_and(|url| url.scheme() == "https" || url.scheme() == "http" && loopback(&url)) {
        return no("channel", "channel.config.uri: The URI must be an HTTPS one");
    }
    if text("/channel/type") != "HTTP" || text("/channel/version").is_empty() {
        return no("channel", "channel: The type must be HTTP, and a version is needed");
    }
    Ok(body)
}

/// `GET`, `PUT`, `DELETE /api/v1/eventHooks/{id}`.
pub fn one(world: &World, org: &Org, request: &Request, id: &str) -> Outcome {
    let reads = request.method == Method::GET;
    let scope = if reads { "okta.eventHooks.read" } else { "okta.eventHooks.manage" };
    let app = caller(world, org, request, scope)?;
    let hook = world.okta.hooks.get(&org.directory.id, id).ok_or_else(|| missing(id))?;
    if reads {
        return Ok(wire::json(StatusCode::OK, &hook.render(&request.base)));
    }
    let (hooks, now) = (&world.okta.hooks, world.now());
    if request.method == Method::PUT {
        let given = given(request)?;
        let shown = hooks.change(&org.directory.id, id, |hook| {
            // Who leads it elsewhere must prove the new place.
            hook.verified &= hook.given.get("channel") == given.get("channel");
            (hook.given, hook.updated) = (given, now);
            hook.render(&request.base)
        });
        world.changed(&org.directory, id, "hook_replaced", &app.client_id, Value::Null);
        return Ok(wire::json(StatusCode::OK, &shown.ok_or_else(|| missing(id))?));
    }
    if hook.active {
        return Err(errors::because(
            "E0000001",
            "eventHook",
            &["Only an inactive event hook can be deleted."],
        ));
    }
    lock(&hooks.orgs).get_mut(&org.directory.id).and_then(|hooks| hooks.remove(id));
    world.changed(&org.directory, id, "hook_deleted", &app.client_id, Value::Null);
    Ok(wire::empty(StatusCode::NO_CONTENT))
}

/// `POST /api/v1/eventHooks/{id}/lifecycle/{step}`.
pub async fn step(world: &World, org: &Org, request: &Request, id: &str, step: &str) -> Outcome {
    let app = caller(world, org, request, "okta.eventHooks.manage")?;
    let hook = world.okta.hooks.get(&org.directory.id, id).ok_or_else(|| missing(id))?;
    let action = match step {
        "verify" => {
            verify(world, &hook).await?;
            "hook_verified"
        }
        "activate" => "hook_activated",
        "deactivate" => "hook_deactivated",
        _ => return Err(errors::error("E0000008")),
    };
    let now = world.now();
    let shown = world.okta.hooks.change(&org.directory.id, id, |hook| {
        match step {
            "verify" => hook.verified = true,
            step => hook.active = step == "activate",
        }
        hook.updated = now;
        hook.render(&request.base)
    });
    world.changed(&org.directory, id, action, &app.client_id, Value::Null);
    Ok(wire::json(StatusCode::OK, &shown.ok_or_else(|| missing(id))?))
}

fn missing(id: &str) -> Response<Bytes> {
    errors::because("E0000007", &format!("Resource not found: {id} (EventHook)"), &[])
}

/// The handshake: a challenge in a header that must come back in the body.
async fn verify(world: &World, hook: &Hook) -> Result<(), Response<Bytes>> {
    let challenge = uuid::Uuid::new_v4().simple().to_string();
    let request = world.http.get(hook.uri()).headers(headers(hook)).timeout(PATIENCE);
    let answer = request.header("x-okta-verification-challenge", &challenge).send().await;
    let proof = match answer {
        Ok(answer) if answer.status() == StatusCode::OK => answer.bytes().await.ok(),
        _ => None,
    };
    let proof: Value = serde_json::from_slice(&proof.unwrap_or_default()).unwrap_or_default();
    if proof.get("verification").and_then(Value::as_str) == Some(&challenge) {
        return Ok(());
    }
    Err(errors::because("E0000001", "eventHook", &["The verification of the event hook's endpoint failed."]))
}

/// What the hook was told to send along.
fn headers(hook: &Hook) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let scheme = hook.given.pointer("/channel/config/authScheme").cloned();
    let own = hook.given.pointer("/channel/config/headers").and_then(Value::as_array).cloned();
    for given in own.unwrap_or_default().iter().chain(&scheme) {
        let name = text(given, "key").unwrap_or_else(|| AUTHORIZATION.to_string());
        let value = text(given, "value").unwrap_or_default();
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::try_from(value))
        {
            map.insert(name, value);
        }
    }
    map
}

/// Delivers a hook's events until it is deleted.
async fn run(world: Weak<World>, org: String, id: String) {
    loop {
        let Some(alive) = world.upgrade() else { return };
        let grown = alive.okta.journal.grown();
        let mut growth = std::pin::pin!(grown.notified());
        growth.as_mut().enable(); // before looking, so that no event falls in between
        let journal = &alive.okta.journal;
        let due = alive.okta.hooks.change(&org, &id, |hook| {
            let (events, next) = journal.after(&org, hook.next, BATCH);
            hook.next = next;
            let wanted: Vec<Value> = events.iter().filter(|event| hook.wants(event)).cloned().collect();
            (hook.clone(), wanted, events.is_empty())
        });
        let Some((hook, wanted, idle)) = due else { return };
        if !wanted.is_empty() {
            deliver(&alive, &org, &hook, &wanted).await;
        }
        drop(alive);
        if idle && tokio::time::timeout(LOOK, growth).await.is_err() {
            tracing::trace!(id, "an event hook has nothing to tell");
        }
    }
}

/// One delivery, tried again once when the other side failed or was silent, but not when it refused.
async fn deliver(world: &World, org: &str, hook: &Hook, events: &[Value]) {
    let Some(org) = world.directory(org).and_then(Org::of) else { return };
    let source = format!("https://{}.okta.com/api/v1/eventHooks/{}", org.settings.subdomain, hook.id);
    let body = json!({"eventType": "com.okta.event_hook", "eventTypeVersion": "1.0", "cloudEventsVersion": "0.1",
        "source": source, "eventId": uuid::Uuid::new_v4(), "eventTime": timestamp(world.now()),
        "contentType": "application/json", "data": {"events": events}});
    let times = if org.settings.hook_duplicates { 2 } else { 1 };
    for _ in 0..times {
        for attempt in 1..=2_u32 {
            let request = world.http.post(hook.uri()).headers(headers(hook)).timeout(PATIENCE);
            let request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
            let status = request.send().await.ok().map(|answer| answer.status().as_u16());
            let detail = json!({"status": status, "events": events.len(), "attempt": attempt});
            world.changed(&org.directory, &hook.id, "hook_delivery", "directory", detail);
            if status.is_some_and(|status| status < 500) {
                break;
            }
        }
    }
}
