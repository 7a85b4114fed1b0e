//! Creating, updating and deleting users (okta.md §3.2, §8.1, §8.2).

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::access::{self, Permission};
use super::journal::{Outcome as Result_, Record};
use super::settings::App;
use super::user::single;
use super::users::{etag, find};
use super::{Org, errors};
use crate::model::{Account, Authority, Kind, Link, Settings, Status};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

const MAX_GROUPS: usize = 20;
const MIN_PASSWORD: usize = 8;
/// Attributes of a profile the simulator keeps: name, shortest and longest length, whether a user must have it.
const ATTRIBUTES: [(&str, usize, usize, bool); 8] = [
    ("login", 5, 100, true),
    ("email", 5, 100, true),
    ("firstName", 1, 50, true),
    ("lastName", 1, 50, true),
    ("secondEmail", 0, 100, false),
    ("displayName", 0, 100, false),
    ("department", 0, 100, false),
    ("title", 0, 100, false),
];

/// `POST /api/v1/users`.
pub fn create(world: &World, org: &Org, request: &Request) -> Outcome {
    let app = manager(world, org, request)?;
    let body = request.json().ok_or_else(|| errors::error("E0000003"))?;
    let profile = profile(&body, true)?;
    let login = profile.get("login").and_then(Value::as_str).unwrap_or_default();
    unused(org, login)?;
    let password = password(&body)?;
    let activate = request.param("activate").as_deref() != Some("false");
    let expires = request.param("nextLogin").as_deref() == Some("changePassword");
    if expires && password.is_none() {
        return Err(errors::error("E0000124"));
    }
    if expires && !activate {
        return Err(errors::error("E0000125"));
    }
    let groups = body.get("groupIds").and_then(Value::as_array);
    let groups: Vec<&str> = groups.into_iter().flatten().filter_map(Value::as_str).collect();
    if groups.len() > MAX_GROUPS {
        return Err(errors::error("E0000093"));
    }
    if groups.iter().any(|group| org.directory.group(group).is_none()) {
        return Err(errors::because("E0000001", "groupIds", &["groupIds: One or more groups do not exist"]));
    }
    let federated = body.pointer("/credentials/provider/type").and_then(Value::as_str) == Some("FEDERATION");
    let status = match (activate, password.is_some() || federated) {
        (false, _) => Status::Staged,
        (true, true) => Status::Active,
        (true, false) => Status::Provisioned,
    };
    let now = world.now();
    let given = json!({"login": login, "status": status, "password": password, "password_expired": expires,
        "authority": if federated { Authority::Federated } else { Authority::Cloud }});
    let settings = Settings::Okta(org.settings.clone());
    let added = org.directory.accounts.add(&given, &settings, now);
    let account = added.map_err(|_| errors::error("E0000003"))?;
    org.directory.accounts.update(&account.id, now, |account| fill(account, &profile, true));
    for group in groups {
        org.directory.links.set(Link::new(Kind::Member, group, &account.id), true, now);
    }
    world.changed(&org.directory, &account.id, "created", &app.client_id, json!({"status": status}));
    record(world, org, request, app, &account, "user.lifecycle.create");
    if status == Status::Active {
        record(world, org, request, app, &account, "user.lifecycle.activate");
    }
    Ok(shown(world, org, request, account))
}

/// `POST /api/v1/users/{id}`, which merges, and `PUT`, which replaces.
pub fn update(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = manager(world, org, request)?;
    let account = target(org, app, key)?;
    let now = world.now();
    if let Some(expected) = request.header("if-match")
        && expected != etag(&single(org, &account, &request.base, now))
    {
        return Err(errors::error("E0000231"));
    }
    if account.status == Status::Deprovisioned {
        return Err(errors::error("E0000038"));
    }
    let body = request.json().ok_or_else(|| errors::error("E0000003"))?;
    let replaces = request.method == Method::PUT;
    let profile =
        if body.get("profile").is_some() || replaces { profile(&body, replaces)? } else { Map::new() };
    if account.authority == Authority::ActiveDirectory && !profile.is_empty() {
        return Err(errors::error("E0000023"));
    }
    if let Some(login) = profile.get("login").and_then(Value::as_str)
        && !login.eq_ignore_ascii_case(&account.login)
    {
        unused(org, login)?;
    }
    let password = password(&body)?;
    let events = [
        (!profile.is_empty()).then_some("user.account.update_profile"),
        password.is_some().then_some("user.account.update_password"),
    ];
    org.directory.accounts.update(&account.id, now, |account| {
        fill(account, &profile, replaces);
        if let Some(password) = password {
            account.set_password(password, now);
        }
    });
    for event in events.into_iter().flatten() {
        let action = event.rsplit('.').next().unwrap_or_default();
        world.changed(&org.directory, &account.id, action, &app.client_id, Value::Null);
        record(world, org, request, app, &account, event);
    }
    Ok(shown(world, org, request, account))
}

/// `DELETE /api/v1/users/{id}`: the first call deactivates, the second deletes.
pub fn delete(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = manager(world, org, request)?;
    let account = target(org, app, key)?;
    let now = world.now();
    let (status, action, event) = if account.status == Status::Deprovisioned {
        (Status::Deleted, "deleted", "user.lifecycle.delete.initiated")
    } else {
        (Status::Deprovisioned, "deactivate", "user.lifecycle.deactivate")
    };
    org.directory.accounts.update(&account.id, now, |account| {
        account.set_status(status, now);
        account.sessions_valid_from = now;
    });
    world.changed(&org.directory, &account.id, action, &app.client_id, json!({"was": account.status}));
    record(world, org, request, app, &account, event);
    Ok(wire::empty(StatusCode::NO_CONTENT))
}

fn manager<'a>(world: &World, org: &'a Org, request: &Request) -> Result<&'a App, Response<Bytes>> {
    let app = access::caller(world, org, request, "okta.users.manage")?;
    if app.may(Permission::Lifecycle) { Ok(app) } else { Err(errors::error("E0000006")) }
}

fn target(org: &Org, app: &App, key: &str) -> Result<Account, Response<Bytes>> {
    let account = find(org, key).ok_or_else(|| errors::no_user(key))?;
    if app.may_act_on(&account) { Ok(account) } else { Err(errors::error("E0000006")) }
}

/// The attributes of a body's profile; all that a user must have are needed when it is `whole`.
fn profile(body: &Value, whole: bool) -> Result<Map<String, Value>, Response<Bytes>> {
    let given = body.get("profile").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut causes = Vec::new();
    for (name, shortest, longest, needed) in ATTRIBUTES {
        let value = match given.get(name) {
            None if whole && needed => Some(""),
            None | Some(Value::Null) if !needed || !whole => None,
            Some(Value::String(value)) => Some(value.as_str()),
            _ => Some(""),
        };
        let length = value.map(|value| value.chars().count());
        if length == Some(0) && needed {
            causes.push(format!("{name}: The field cannot be left blank"));
        } else if length.is_some_and(|length| !(shortest..=longest).contains(&length)) {
            causes.push(format!("{name}: The field is too short or too long"));
        } else if name == "login" && value.is_some_and(|value| !value.contains('@')) {
            causes.push("login: Username must be in the form of an email address".to_owned());
        }
    }
    if let Some(unknown) = given.keys().find(|name| !ATTRIBUTES.iter().any(|(known, ..)| known == name)) {
        causes.push(format!("{unknown}: The attribute is not simulated"));
    }
    if causes.is_empty() {
        return Ok(given);
    }
    let about = causes.first().and_then(|cause| cause.split(':').next()).unwrap_or_default();
    let causes: Vec<&str> = causes.iter().map(String::as_str).collect();
    Err(errors::because("E0000001", about, &causes))
}

fn unused(org: &Org, login: &str) -> Result<(), Response<Bytes>> {
    if org.directory.accounts.by_login(login).is_none() {
        return Ok(());
    }
    let cause = "login: An object with this field already exists in the current organization";
    Err(errors::because("E0000001", "login", &[cause]))
}

fn password(body: &Value) -> Result<Option<String>, Response<Bytes>> {
    let given = body.pointer("/credentials/password/value").and_then(Value::as_str);
    if given.is_some_and(|password| password.chars().count() < MIN_PASSWORD) {
        let cause =
            "password: Password requirements were not met. Password requirements: at least 8 characters.";
        return Err(errors::because("E0000001", "password", &[cause]));
    }
    Ok(given.map(str::to_owned))
}

/// Writes attributes; those a `whole` profile lacks become empty.
fn fill(account: &mut Account, profile: &Map<String, Value>, whole: bool) {
    let told = |name: &str| (whole || profile.contains_key(name)).then(|| profile.get(name));
    let text = |name: &str| {
        told(name)
            .map(|value| value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned))
    };
    if let Some(Some(login)) = text("login") {
        account.login = login;
    }
    for (name, field) in [
        ("email", &mut account.email),
        ("department", &mut account.department),
        ("title", &mut account.job_title),
    ] {
        if let Some(value) = text(name) {
            *field = value;
        }
    }
    for (name, field) in [
        ("firstName", &mut account.given_name),
        ("lastName", &mut account.family_name),
        ("displayName", &mut account.display_name),
    ] {
        if let Some(value) = text(name) {
            *field = value.unwrap_or_default();
        }
    }
    if let Some(second) = text("secondEmail") {
        account.other_emails = second.into_iter().collect();
    }
}

fn shown(world: &World, org: &Org, request: &Request, account: Account) -> Response<Bytes> {
    let now = world.now();
    let account = org.directory.accounts.get(&account.id).unwrap_or(account);
    let shown = single(org, &account, &request.base, now);
    let mut response = wire::json(StatusCode::OK, &shown);
    wire::set_header(&mut response, "etag", &etag(&shown));
    response
}

fn record(world: &World, org: &Org, request: &Request, app: &App, account: &Account, event: &str) {
    let outcome = Result_ { success: true, reason: None };
    let actor = (app.client_id.as_str(), "PublicClientApp", app.client_id.as_str());
    let record = Record { event, actor, target: Some(account), outcome };
    world.okta.journal.record(world.now(), org, request, &record);
}
