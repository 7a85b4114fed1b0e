//! The control port: plain HTTP and JSON, for whoever sets the stage and for the judge.
//!
//! Bind it to loopback: it lists passwords. `{d}` is a directory's id, name, Okta subdomain or verified domain; `{a}` an
//! account's object id or login (percent-encoded). Errors are `{"error": "…"}` with 400, 404 or 409.
//!
//! | route | what it does |
//! |---|---|
//! | `GET /` | this list, and the operations faults can wait for |
//! | `GET /health` | `{"status":"ok"}` |
//! | `POST /reset` | forgets directories, faults, log and clock offset |
//! | `GET /clock`, `POST /clock` `{"advance_s":n}` | the simulator's time; moves it (locks, tokens and hints follow) |
//! | `GET /directories` | all directories: id, name, provider, number of accounts |
//! | `PUT /directories` | creates or replaces one from a [`DirectorySpec`](crate::model::DirectorySpec) |
//! | `GET /directories/{d}` | one directory with its settings |
//! | `PATCH /directories/{d}` | merges JSON into its settings (threshold, licences, switches, applications …) |
//! | `DELETE /directories/{d}` | removes it |
//! | `GET /directories/{d}/links` | memberships, ownerships and assignments written since it was made |
//! | `GET /directories/{d}/accounts?position=0&limit=1000` | accounts with their true state, password included, and `next` |
//! | `POST /directories/{d}/accounts` | adds or replaces one account; only `login` is needed |
//! | `GET`, `PATCH`, `DELETE /directories/{d}/accounts/{a}` | reads, merges into, removes one account |
//! | `POST /directories/{d}/accounts/{a}/sign-in` | the owner signs in: wrong tries are forgotten, unless locked (409) |
//! | `POST /directories/{d}/accounts/{a}/wrong-passwords` `{"count":n}` | the owner mistypes n times; may lock |
//! | `POST /directories/{d}/accounts/{a}/unlock` | an administrator unlocks |
//! | `PUT`, `DELETE /directories/{d}/groups/{g}/members/{a}` | an account joins or leaves a group |
//! | `POST /faults` | adds a [`Fault`](crate::faults::Fault) |
//! | `GET /faults`, `DELETE /faults` | faults that have not fired yet; forgets them |
//! | `GET /log?after=0&limit=1000&directory=…&kind=submission\|change` | log entries, and `last`, the latest sequence |

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde_json::{Value, json};
use time::Duration;

use crate::faults::Fault;
use crate::log::{Event, Submission, sha256_hex};
use crate::model::{Account, By, Directory, DirectorySpec, Kind, Link, Settings, Status, merge};
use crate::world::{OPERATIONS, World};
use crate::{entra, okta};

const ROUTES: &[&str] = &[
    "GET /",
    "GET /health",
    "POST /reset",
    "GET /clock",
    "POST /clock {\"advance_s\":n}",
    "GET /directories",
    "PUT /directories",
    "GET /directories/{d}",
    "PATCH /directories/{d}",
    "DELETE /directories/{d}",
    "GET /directories/{d}/links",
    "GET /directories/{d}/accounts?position&limit",
    "POST /directories/{d}/accounts",
    "GET /directories/{d}/accounts/{a}",
    "PATCH /directories/{d}/accounts/{a}",
    "DELETE /directories/{d}/accounts/{a}",
    "POST /directories/{d}/accounts/{a}/sign-in",
    "POST /directories/{d}/accounts/{a}/wrong-passwords {\"count\":n}",
    "POST /directories/{d}/accounts/{a}/unlock",
    "PUT /directories/{d}/groups/{g}/members/{a}",
    "DELETE /directories/{d}/groups/{g}/members/{a}",
    "POST /faults",
    "GET /faults",
    "DELETE /faults",
    "GET /log?after&limit&directory&kind",
];
const MAX_PAGE: usize = 10_000;

type Shared = State<Arc<World>>;
type Outcome = Result<Json<Value>, Refused>;

/// Why the control port says no.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::BAD_REQUEST, format!("{error:#}"))
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

/// All routes over one world.
pub fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/", get(async || Json(json!({"routes": ROUTES, "operations": OPERATIONS}))))
        .route("/health", get(async || Json(json!({"status": "ok"}))))
        .route("/reset", post(reset))
        .route("/clock", get(clock).post(advance))
        .route("/directories", get(directories).put(put_directory))
        .route("/directories/{d}", get(show_directory).patch(patch_directory).delete(delete_directory))
        .route("/directories/{d}/links", get(links))
        .route("/directories/{d}/accounts", get(accounts).post(add_account))
        .route("/directories/{d}/accounts/{a}", get(show_account).patch(patch_account).delete(delete_account))
        .route("/directories/{d}/accounts/{a}/sign-in", post(sign_in))
        .route("/directories/{d}/accounts/{a}/wrong-passwords", post(wrong_passwords))
        .route("/directories/{d}/accounts/{a}/unlock", post(unlock))
        .route("/directories/{d}/groups/{g}/members/{a}", put(join).delete(leave))
        .route("/faults", get(unfired).post(add_fault).delete(clear_faults))
        .route("/log", get(log))
        .layer(axum::extract::DefaultBodyLimit::max(256 * 1024 * 1024))
        .with_state(world)
}

async fn reset(State(world): Shared) -> Json<Value> {
    world.reset();
    Json(json!({}))
}

async fn clock(State(world): Shared) -> Outcome {
    let now = world.now().format(&time::format_description::well_known::Rfc3339);
    Ok(Json(json!({"now": now.map_err(anyhow::Error::from)?})))
}

#[derive(Deserialize)]
struct Advance {
    advance_s: i64,
}

async fn advance(State(world): Shared, Json(Advance { advance_s }): Json<Advance>) -> Outcome {
    world.advance(Duration::seconds(advance_s));
    clock(State(world)).await
}

async fn directories(State(world): Shared) -> Json<Value> {
    Json(world.directories().iter().map(|d| summary(d)).collect())
}

async fn put_directory(State(world): Shared, Json(spec): Json<DirectorySpec>) -> Outcome {
    let directory = world.put(spec)?;
    Ok(Json(summary(&directory)))
}

async fn show_directory(State(world): Shared, Path(d): Path<String>) -> Outcome {
    let directory = directory(&world, &d)?;
    let mut shown = summary(&directory);
    merge(&mut shown, &json!({"settings": &*directory.settings()}));
    Ok(Json(shown))
}

async fn patch_directory(State(world): Shared, Path(d): Path<String>, Json(patch): Json<Value>) -> Outcome {
    let directory = directory(&world, &d)?;
    let settings = match &*directory.settings() {
        Settings::EntraId(entra) => {
            let mut merged = serde_json::to_value(entra)?;
            merge(&mut merged, &patch);
            Settings::EntraId(serde_json::from_value(merged)?)
        }
        Settings::Okta(okta) => {
            let mut merged = serde_json::to_value(okta)?;
            merge(&mut merged, &patch);
            Settings::Okta(serde_json::from_value(merged)?)
        }
    };
    directory.set_settings(settings);
    show_directory(State(world), Path(d)).await
}

async fn delete_directory(State(world): Shared, Path(d): Path<String>) -> Outcome {
    let directory = directory(&world, &d)?;
    Ok(Json(json!({"removed": world.remove(&directory.id)})))
}

async fn links(State(world): Shared, Path(d): Path<String>) -> Outcome {
    let directory = directory(&world, &d)?;
    let all = directory.links.all();
    let shown: Vec<Value> = all
        .iter()
        .map(|(link, written)| {
            let mut shown = json!(link);
            merge(&mut shown, &json!(written));
            shown
        })
        .collect();
    Ok(Json(json!({"links": shown})))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    position: u64,
    limit: Option<usize>,
}

async fn accounts(State(world): Shared, Path(d): Path<String>, Query(page): Query<Page>) -> Outcome {
    let directory = directory(&world, &d)?;
    let limit = page.limit.unwrap_or(1000).min(MAX_PAGE);
    world.settle();
    let (accounts, next) = directory.accounts.page(page.position, limit, |_| true);
    Ok(Json(json!({"accounts": accounts, "next": next})))
}

async fn add_account(State(world): Shared, Path(d): Path<String>, Json(given): Json<Value>) -> Outcome {
    let directory = directory(&world, &d)?;
    let account = directory.accounts.add(&given, &directory.settings(), world.now())?;
    okta::outside(&world, &directory, &account, "user.lifecycle.create", None);
    world.changed(&directory, &account.id, "added", "control", Value::Null);
    Ok(Json(serde_json::to_value(account)?))
}

async fn show_account(State(world): Shared, Path((d, a)): Path<(String, String)>) -> Outcome {
    world.settle();
    let (_, account) = account(&world, &d, &a)?;
    Ok(Json(serde_json::to_value(account)?))
}

async fn patch_account(
    State(world): Shared,
    Path((d, a)): Path<(String, String)>,
    Json(patch): Json<Value>,
) -> Outcome {
    let (directory, account) = account(&world, &d, &a)?;
    Ok(Json(serde_json::to_value(changed_by_somebody(&world, &directory, &account, &patch)?)?))
}

/// Merges JSON into an account as somebody at the directory does, whom its logs name.
pub fn changed_by_somebody(
    world: &World,
    directory: &Directory,
    account: &Account,
    patch: &Value,
) -> anyhow::Result<Option<Account>> {
    let members: Vec<&String> = patch.as_object().map(|p| p.keys().collect()).unwrap_or_default();
    let changed = directory.accounts.patch(&account.id, patch, world.now())?;
    let mut detail = json!({"members": members});
    if let Some(after) = changed.as_ref().filter(|after| after.status != account.status) {
        merge(&mut detail, &json!({"status": after.status}));
    }
    world.changed(directory, &account.id, "patched", "control", detail);
    if let Some(after) = &changed {
        okta::noticed(world, directory, account, after);
    }
    Ok(changed)
}

async fn delete_account(State(world): Shared, Path((d, a)): Path<(String, String)>) -> Outcome {
    let (directory, account) = account(&world, &d, &a)?;
    let now = world.now();
    directory.touch_memberships(&account);
    directory.accounts.update(&account.id, now, |account| account.set_status(Status::Deleted, now));
    world.changed(&directory, &account.id, "deleted", "control", Value::Null);
    for event in ["user.lifecycle.delete.initiated", "user.lifecycle.delete.completed"] {
        okta::outside(&world, &directory, &account, event, None);
    }
    Ok(Json(json!({})))
}

async fn join(State(world): Shared, Path(ids): Path<(String, String, String)>) -> Outcome {
    set_member(&world, ids, true)
}

async fn leave(State(world): Shared, Path(ids): Path<(String, String, String)>) -> Outcome {
    set_member(&world, ids, false)
}

fn set_member(world: &World, (d, g, a): (String, String, String), member: bool) -> Outcome {
    let (directory, account) = account(world, &d, &a)?;
    let missing = || Refused(StatusCode::NOT_FOUND, format!("no group {g}"));
    let group = directory.group(&g).ok_or_else(missing)?;
    let link = Link::new(Kind::Member, &group.id, &account.id);
    directory.links.set(link, member, world.now());
    okta::moved(world, &directory, &account, group, member);
    let step = if member { "joined" } else { "left" };
    world.changed(&directory, &account.id, step, "control", json!({"group": group.id}));
    Ok(Json(json!({"member": member})))
}

async fn sign_in(State(world): Shared, Path((d, a)): Path<(String, String)>) -> Outcome {
    let (directory, account) = account(&world, &d, &a)?;
    if account.lock.holds(world.now()) {
        return Err(Refused(StatusCode::CONFLICT, "the account is locked".into()));
    }
    let Some(password) = account.password.clone() else {
        return Err(Refused(StatusCode::CONFLICT, "the account has no password".into()));
    };
    let now = world.now();
    directory.accounts.update_quietly(&account.id, |account| {
        account.lock.clear();
        account.last_sign_in = Some(now);
    });
    world.submitted(&directory, by_owner(&account, &password, "success".into(), false));
    okta::outside(&world, &directory, &account, "user.session.start", None);
    show_account(State(world), Path((d, a))).await
}

#[derive(Deserialize)]
struct Wrong {
    count: u32,
}

async fn wrong_passwords(
    State(world): Shared,
    Path((d, a)): Path<(String, String)>,
    Json(Wrong { count }): Json<Wrong>,
) -> Outcome {
    let (directory, account) = account(&world, &d, &a)?;
    for n in 0..count {
        // Each try differs, so that none is forgiven as a repetition.
        let password = format!("mistyped-{n}-{}", uuid::Uuid::new_v4());
        let settings = directory.settings();
        let met_a_lock = directory.accounts.get(&account.id).is_some_and(|a| a.lock.holds(world.now()));
        let locked = directory.accounts.update_quietly(&account.id, |account| match &*settings {
            Settings::EntraId(entra) => {
                entra::wrong_password(entra, account, &password, By::Owner, world.now())
            }
            Settings::Okta(okta) => {
                let limit = okta::max_attempts(&directory, okta, account);
                okta::wrong_password(okta, limit, account, By::Owner, world.now())
            }
        });
        let locked = locked.unwrap_or(false);
        let (answer, reason) =
            if met_a_lock { ("locked", "LOCKED_OUT") } else { ("wrong password", "INVALID_CREDENTIALS") };
        world.submitted(&directory, by_owner(&account, &password, answer.into(), locked));
        okta::outside(&world, &directory, &account, "user.session.start", Some(reason));
        if locked {
            if directory.settings().provider() == "okta" {
                // There a lock is a status, which readers see.
                let now = world.now();
                directory.accounts.update(&account.id, now, |account| account.status_changed = now);
            }
            okta::outside(&world, &directory, &account, "user.account.lock", None);
            let after = directory.accounts.get(&account.id).unwrap_or_else(|| account.clone());
            world.changed(&directory, &account.id, "lock", "owner", lock_detail(&after));
        }
    }
    show_account(State(world), Path((d, a))).await
}

/// Who contributed how many wrong tries to a lock: what a judge needs to say whose lock it is.
pub fn lock_detail(account: &Account) -> Value {
    json!({"failures_wire": account.lock.failures_wire, "failures_owner": account.lock.failures_owner})
}

async fn unlock(State(world): Shared, Path((d, a)): Path<(String, String)>) -> Outcome {
    let (directory, account) = account(&world, &d, &a)?;
    directory.accounts.update(&account.id, world.now(), |account| account.lock.clear());
    world.changed(&directory, &account.id, "unlock", "control", Value::Null);
    okta::outside(&world, &directory, &account, "user.account.unlock_by_admin", None);
    show_account(State(world), Path((d, a))).await
}

async fn unfired(State(world): Shared) -> Outcome {
    Ok(Json(serde_json::to_value(world.faults.unfired())?))
}

async fn add_fault(State(world): Shared, Json(mut fault): Json<Fault>) -> Outcome {
    if !(fault.operation == "*" || OPERATIONS.contains(&fault.operation.as_str())) {
        let message = format!("no operation is called {}", fault.operation);
        return Err(Refused(StatusCode::BAD_REQUEST, message));
    }
    if let Some(key) = &fault.directory {
        let directory = directory(&world, key)?;
        if let Some(key) = &fault.account {
            let missing = || Refused(StatusCode::NOT_FOUND, format!("no account {key}"));
            fault.account = Some(directory.accounts.find(key).ok_or_else(missing)?.id);
        }
        fault.directory = Some(directory.id.clone());
    }
    Ok(Json(serde_json::to_value(world.faults.add(fault))?))
}

async fn clear_faults(State(world): Shared) -> Json<Value> {
    world.faults.clear();
    Json(json!({}))
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    directory: Option<String>,
    kind: Option<String>,
}

async fn log(State(world): Shared, Query(since): Query<Since>) -> Outcome {
    let limit = since.limit.unwrap_or(1000).min(MAX_PAGE);
    let id = since.directory.map(|key| directory(&world, &key).map(|d| d.id.clone())).transpose()?;
    let entries = world.log.after(since.after, limit, |entry| {
        let kind = match entry.event {
            Event::Submission(_) => "submission",
            Event::Change(_) => "change",
        };
        id.as_ref().is_none_or(|id| entry.directory == *id) && since.kind.as_ref().is_none_or(|k| k == kind)
    });
    Ok(Json(json!({"entries": entries, "last": world.log.last()})))
}

fn directory(world: &World, key: &str) -> Result<Arc<Directory>, Refused> {
    world.directory(key).ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("no directory {key}")))
}

fn account(world: &World, d: &str, a: &str) -> Result<(Arc<Directory>, Account), Refused> {
    let directory = directory(world, d)?;
    let missing = || Refused(StatusCode::NOT_FOUND, format!("no account {a}"));
    let account = directory.accounts.find(a).ok_or_else(missing)?;
    Ok((directory, account))
}

fn by_owner(account: &Account, password: &str, answer: String, locked: bool) -> Submission {
    Submission {
        account: Some(account.id.clone()),
        username: account.login.clone(),
        correct: account.password.as_ref().map(|right| right == password),
        answer,
        fault: None,
        password_sha256: sha256_hex(password),
        client_id: None,
        source: "control".into(),
        by: By::Owner,
        locked,
    }
}

fn summary(directory: &Directory) -> Value {
    json!({"id": directory.id, "name": directory.name, "provider": directory.settings().provider(),
        "accounts": directory.accounts.len()})
}
