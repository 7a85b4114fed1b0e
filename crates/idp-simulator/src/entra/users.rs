//! Listing and reading users (entra.md §8.1).

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::access::{Caller, READ_USERS};
use super::groups::typed;
use super::query::{self, Condition, Token};
use super::settings::{Licence, Settings};
use super::{errors, user};
use crate::model::{Account, Status};
use crate::wire::{self, Request};
use crate::world::World;

/// Largest page once `signInActivity` is selected.
const MAX_TOP_WITH_ACTIVITY: usize = 500;

/// How a page of users is presented.
pub struct Listed<'c> {
    /// Its `@odata.context`.
    pub context: &'c str,
    /// Each says that it is a user.
    pub typed: bool,
    /// Objects that follow the last user.
    pub last: Vec<Value>,
}

/// `GET /users`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let conditions = match conditions(world, request, caller) {
        Ok(conditions) => conditions,
        Err(refusal) => return refusal,
    };
    let settings = &caller.tenant.settings;
    let listed = Listed { context: "users", typed: false, last: Vec::new() };
    page(world, request, caller, listed, |account| hold(&conditions, settings, account))
}

/// The request's filter, when the caller may read users and the query is one Graph answers.
fn conditions(world: &World, request: &Request, caller: &Caller) -> Result<Vec<Condition>, Response<Bytes>> {
    let now = world.now();
    if !caller.has_any(READ_USERS) {
        return Err(errors::denied(request, now));
    }
    if request.param("$skip").is_some() {
        let message = "'$skip' is not supported by the service.";
        return Err(errors::graph(request, now, 400, "Request_BadRequest", message));
    }
    // Known to Graph and not to the simulator: silence would look like an answer.
    if let Some(name) = ["$search", "$orderby", "$expand"].iter().find(|name| request.param(name).is_some()) {
        let message = format!("Unsupported Query: '{name}' is not simulated.");
        return Err(errors::unsupported(request, now, &message));
    }
    let conditions = match request.param("$filter").map(|filter| Condition::parse(&filter)) {
        None => Vec::new(),
        Some(Some(conditions)) => conditions,
        Some(None) => return Err(errors::unsupported(request, now, "Unsupported Query.")),
    };
    let counts = request.param("$count").is_some();
    if (counts || conditions.iter().any(Condition::is_advanced)) && !query::advanced(request) {
        let message = "Unsupported Query. ConsistencyLevel: eventual and $count=true are needed.";
        return Err(errors::unsupported(request, now, message));
    }
    Ok(conditions)
}

fn hold(conditions: &[Condition], settings: &Settings, account: &Account) -> bool {
    conditions.is_empty() || {
        let rendered = user::render(settings, account);
        conditions.iter().all(|condition| condition.holds(&rendered))
    }
}

/// One page of users that pass `keep`.
pub(super) fn page(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    listed: Listed<'_>,
    keep: impl Fn(&Account) -> bool,
) -> Response<Bytes> {
    let now = world.now();
    let top = match query::top(request, now) {
        Ok(top) => top,
        Err(refusal) => return refusal,
    };
    let select = query::selected(request);
    if let Some(refusal) = activity_refusal(world, request, caller, &select, top) {
        return refusal;
    }
    let settings = &caller.tenant.settings;
    let token = match request.param("$skiptoken") {
        None => Token { position: 0, sequence: 0, issued: now.unix_timestamp(), changes: false },
        Some(text) => match Token::decode(&text) {
            Some(token) if token.issued + settings.page_token_life_s > now.unix_timestamp() => token,
            _ => {
                let message = "The specified page token value has expired and can no longer be included in your request.";
                return errors::graph(request, now, 400, "Directory_ExpiredPageToken", message);
            }
        },
    };
    let accounts = &caller.tenant.directory.accounts;
    let view = |account| accounts.lagging(account, now).filter(&keep);
    let (found, next) = accounts.page_as(token.position, top, view);
    let mut value = Vec::with_capacity(found.len());
    for account in &found {
        match query::project(settings, account, &select) {
            Ok(user) if listed.typed => value.push(typed("user", user)),
            Ok(user) => value.push(user),
            Err(message) => return errors::graph(request, now, 400, "Request_BadRequest", &message),
        }
    }
    if next.is_none() {
        value.extend(listed.last);
    }
    let mut body = json!({"@odata.context": request.link(&format!("/v1.0/$metadata#{}", listed.context)), "value": value});
    if let Some(body) = body.as_object_mut() {
        if let Some(position) = next {
            let next = Token { position, issued: now.unix_timestamp(), ..token };
            body.insert(
                "@odata.nextLink".into(),
                query::link(request, &request.path, "$skiptoken", &next).into(),
            );
        }
        let first = request.param("$skiptoken").is_none();
        if first && query::advanced(request) {
            body.insert("@odata.count".into(), accounts.count(&keep).into());
        }
    }
    wire::json(StatusCode::OK, &body)
}

/// `GET /users/$count`
pub fn count(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if !query::eventual(request) {
        return errors::unsupported(request, world.now(), "$count is not currently supported.");
    }
    let conditions = match conditions(world, request, caller) {
        Ok(conditions) => conditions,
        Err(refusal) => return refusal,
    };
    let (accounts, settings) = (&caller.tenant.directory.accounts, &caller.tenant.settings);
    if conditions.is_empty() {
        return plain_count(accounts.count_all());
    }
    plain_count(accounts.count(|account| hold(&conditions, settings, account)))
}

/// A number as text: the answer of every `$count` segment.
pub fn plain_count(count: u64) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(count.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// `GET /users/{id|upn}`
pub fn get(world: &Arc<World>, request: &Request, caller: &Caller, key: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ_USERS) {
        return errors::denied(request, now);
    }
    let select = query::selected(request);
    if let Some(refusal) = activity_refusal(world, request, caller, &select, 1) {
        return refusal;
    }
    let seen = find(caller, key).and_then(|account| caller.tenant.directory.accounts.lagging(account, now));
    let Some(account) = seen else { return errors::not_found(request, now, key) };
    if select.iter().any(|name| name == "signInActivity") && account.id != key {
        let message = "Get By Key only supports UserId and the key has to be a valid Guid";
        return errors::graph(request, now, 400, "Request_BadRequest", message);
    }
    match query::project(&caller.tenant.settings, &account, &select) {
        Err(message) => errors::graph(request, now, 400, "Request_BadRequest", &message),
        Ok(user) => query::entity(request, StatusCode::OK, "users", user),
    }
}

/// The account a path names, unless it is deleted.
pub fn find(caller: &Caller, key: &str) -> Option<Account> {
    caller.tenant.directory.accounts.find(key).filter(|account| account.status != Status::Deleted)
}

/// `signInActivity` needs a permission, a licence, and small pages (entra.md §8.1).
fn activity_refusal(
    world: &World,
    request: &Request,
    caller: &Caller,
    select: &[String],
    top: usize,
) -> Option<Response<Bytes>> {
    if !select.iter().any(|name| name == "signInActivity") {
        return None;
    }
    let now = world.now();
    if !caller.has("AuditLog.Read.All") {
        return Some(errors::denied(request, now));
    }
    if !caller.tenant.settings.licensed(Licence::P1) {
        let message = "Neither tenant is B2C or tenant doesn't have premium license";
        let code = "Authentication_RequestFromNonPremiumTenantOrB2CTenant";
        return Some(errors::graph(request, now, 403, code, message));
    }
    (top > MAX_TOP_WITH_ACTIVITY).then(|| {
        let message = format!(
            "Invalid page size specified: '{top}'. Must be between 1 and {MAX_TOP_WITH_ACTIVITY} inclusive."
        );
        errors::unsupported(request, now, &message)
    })
}

/// Wraps values as Graph lists them, without paging.
pub fn listing(request: &Request, context: &str, value: impl IntoIterator<Item = Value>) -> Response<Bytes> {
    let value: Vec<Value> = value.into_iter().collect();
    let context = request.link(&format!("/v1.0/$metadata#{context}"));
    wire::json(StatusCode::OK, &json!({"@odata.context": context, "value": value}))
}
