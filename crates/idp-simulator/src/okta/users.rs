//! Reading users.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::query::Query;
use super::settings::App;
use super::user::{blocks as blocks_of, listed, single};
use super::{Org, errors};
use crate::log::sha256_hex;
use crate::model::{Account, Status};
use crate::wire::{self, Request};
use crate::world::World;

const LIMIT: usize = 200;
/// Parameters that a `next` link repeats.
const REPEATED: [&str; 3] = ["filter", "search", "q"];

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

/// `GET /api/v1/users`.
pub fn list(world: &World, org: &Org, request: &Request) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.read")?;
    if !app.may(Permission::ReadUsers) {
        return Ok(wire::json(StatusCode::OK, &json!([]))); // the trap of okta.md §1.1
    }
    let parse = |name: &str, search| match request.param(name) {
        None => Ok(None),
        Some(text) => Query::parse(&text, search).map(Some).ok_or_else(|| errors::error("E0000031")),
    };
    let (filter, search) = (parse("filter", false)?, parse("search", true)?);
    let q = request.param("q").map(|q| q.to_lowercase());
    let plain = filter.is_none() && search.is_none();
    let now = world.now();
    let keep = |account: &Account| {
        let starts = |text: &str, q: &str| text.to_lowercase().starts_with(q);
        app.sees(account)
            && !(plain && account.status == Status::Deprovisioned)
            && filter.as_ref().is_none_or(|f| f.matches(org, account, now))
            && search.as_ref().is_none_or(|s| s.matches(org, account, now))
            && q.as_ref().is_none_or(|q| {
                starts(&account.given_name, q)
                    || starts(&account.family_name, q)
                    || starts(account.email.as_deref().unwrap_or_default(), q)
            })
    };
    if let Some(ids) = filter.as_ref().and_then(Query::ids) {
        // Asked for one by one: a directory of a million is not searched for them.
        let found = ids.into_iter().filter_map(|id| find(org, id)).filter(keep).take(LIMIT);
        let items: Vec<Value> = found.map(|account| listed(org, &account, &request.base, now)).collect();
        let mut response = wire::json(StatusCode::OK, &Value::Array(items));
        links(request, "/api/v1/users", LIMIT, None, &mut response);
        return Ok(response);
    }
    let (accounts, lags) = (&org.directory.accounts, search.is_some());
    let view = |account: Account| {
        let seen = if lags { accounts.lagging(account, now) } else { Some(account) };
        seen.filter(&keep)
    };
    // Who changed lately is found among those who changed, however many others there are.
    let recent = filter.as_ref().and_then(Query::updated_from).is_some_and(|from| accounts.tell_since(from));
    paged(world, org, request, "/api/v1/users", |position, limit| {
        if recent {
            accounts.changed_as(position, limit, view)
        } else {
            accounts.page_as(position, limit, view)
        }
    })
}

/// `GET /api/v1/groups/{id}/users`: direct members, without deprovisioned ones, who lose their memberships.
pub fn members(world: &World, org: &Org, request: &Request, group: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.groups.read")?;
    if !app.may(Permission::ReadUsers) {
        return Ok(wire::json(StatusCode::OK, &json!([])));
    }
    if !app.covers_group(group) || org.directory.group(group).is_none() {
        return Err(errors::because("E0000007", &format!("Resource not found: {group} (UserGroup)"), &[]));
    }
    let keep = |account: &Account| {
        app.sees(account)
            && account.status != Status::Deprovisioned
            && org.directory.is_member(group, account)
    };
    paged(world, org, request, &format!("/api/v1/groups/{group}/users"), |position, limit| {
        org.directory.accounts.page(position, limit, keep)
    })
}

/// One page of users, as `take` finds them from a position on.
fn paged(
    world: &World,
    org: &Org,
    request: &Request,
    path: &str,
    take: impl FnOnce(u64, usize) -> (Vec<Account>, Option<u64>),
) -> Outcome {
    let invalid = |about: &str| errors::because("E0000001", about, &[]);
    let limit = match request.param("limit") {
        None => LIMIT,
        Some(text) => {
            text.parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(|| invalid("limit"))?.min(LIMIT)
        }
    };
    let position = match request.param("after") {
        None => 0,
        Some(cursor) => position(&cursor).ok_or_else(|| invalid("after"))?,
    };
    let now = world.now();
    let (accounts, next) = take(position, limit);
    let items: Vec<Value> = accounts.iter().map(|account| listed(org, account, &request.base, now)).collect();
    let mut response = wire::json(StatusCode::OK, &Value::Array(items));
    let next = next.filter(|_| request.param("q").is_none()).map(cursor);
    links(request, path, limit, next, &mut response);
    Ok(response)
}

/// The links of a list, in two header lines, as live orgs send them.
pub fn links(
    request: &Request,
    path: &str,
    limit: usize,
    next: Option<String>,
    response: &mut Response<Bytes>,
) {
    let link = |after: Option<String>, rel: &str| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(after) = after {
            query.append_pair("after", &after);
        }
        query.append_pair("limit", &limit.to_string());
        for name in REPEATED {
            if let Some(value) = request.param(name) {
                query.append_pair(name, &value);
            }
        }
        format!("<{}>; rel=\"{rel}\"", request.link(&format!("{path}?{}", query.finish())))
    };
    wire::set_header(response, "link", &link(request.param("after"), "self"));
    if next.is_some() {
        wire::set_header(response, "link", &link(next, "next"));
    }
}

/// `GET /api/v1/users/{id or login or short name}`.
pub fn get(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.read")?;
    let account = visible(org, app, key)?;
    let now = world.now();
    let mut shown = single(org, &account, &request.base, now);
    let expanded = request.param("expand").is_some_and(|e| e.split(',').any(|part| part == "blocks"));
    if expanded {
        if !org.settings.blocks_feature {
            return Err(errors::error("E0000015"));
        }
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("_embedded".into(), json!({"blocks": blocks_of(org, &account, now)}));
        }
    }
    let mut response = wire::json(StatusCode::OK, &shown);
    wire::set_header(&mut response, "etag", &etag(&shown));
    Ok(response)
}

/// The tag of a user as read alone, which `If-Match` takes.
pub fn etag(shown: &Value) -> String {
    let tag: String = sha256_hex(&shown.to_string()).chars().take(32).collect();
    format!("W/\"{tag}\"")
}

/// `GET /api/v1/users/{id}/blocks`.
pub fn blocks(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.read")?;
    let account = visible(org, app, key)?;
    if !org.settings.blocks_feature {
        return Err(errors::error("E0000015"));
    }
    Ok(wire::json(StatusCode::OK, &blocks_of(org, &account, world.now())))
}

fn visible(org: &Org, app: &App, key: &str) -> Result<Account, Response<Bytes>> {
    if !app.may(Permission::ReadUsers) {
        return Err(errors::error("E0000006"));
    }
    find(org, key).filter(|account| app.sees(account)).ok_or_else(|| errors::no_user(key))
}

/// A user by id, login or short name.
pub fn find(org: &Org, key: &str) -> Option<Account> {
    let by_id = org.directory.accounts.get(key).filter(|account| account.status != Status::Deleted);
    by_id.or_else(|| named(org, key))
}

/// A user by login, or by the part of the login before the at sign.
pub fn named(org: &Org, name: &str) -> Option<Account> {
    let accounts = &org.directory.accounts;
    accounts.by_login(name).or_else(|| accounts.by_login(&format!("{name}@{}", org.settings.mail_domain)))
}

/// Okta's cursors are opaque; ours are too.
fn cursor(position: u64) -> String {
    URL_SAFE_NO_PAD.encode(format!("users:{position}"))
}

fn position(cursor: &str) -> Option<u64> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    text.strip_prefix("users:")?.parse().ok()
}
