//! `GET /users/delta`: a full round first, changes afterwards (entra.md §8.2).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::access::{Caller, READ_USERS};
use super::deleted::restorable;
use super::query::{self, Token};
use super::{errors, user};
use crate::model::{Account, Status};
use crate::wire::{self, Request};
use crate::world::World;

/// Objects on one page; `$top` is not supported here.
const PAGE: usize = 200;
/// Objects one filter may name.
const MAX_IDS: usize = 50;
/// Life of a delta token.
const LIFE: Duration = Duration::days(7);

/// One page of a round.
pub fn page(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ_USERS) {
        return errors::denied(request, now);
    }
    if let Some(refusal) = no_options(request, now) {
        return refusal;
    }
    let wanted = match request.param("$filter").map(|filter| ids(&filter)) {
        None => None,
        Some(Some(ids)) if ids.len() <= MAX_IDS => Some(ids),
        Some(_) => {
            return errors::unsupported(request, now, "Only id eq '…' or id eq '…' is supported here.");
        }
    };
    let keep = |account: &Account| wanted.as_ref().is_none_or(|ids| ids.contains(&account.id));
    let accounts = &caller.tenant.directory.accounts;
    let fresh =
        Token { position: 0, sequence: accounts.sequence(), issued: now.unix_timestamp(), changes: false };
    let token = match (request.param("$deltatoken"), request.param("$skiptoken")) {
        (Some(latest), _) if latest == "latest" => {
            return answer(request, &[], "@odata.deltaLink", "$deltatoken", Token { changes: true, ..fresh });
        }
        (Some(text), _) | (None, Some(text)) if !text.is_empty() => match Token::decode(&text) {
            Some(token) => token,
            None => {
                return errors::graph(
                    request,
                    now,
                    400,
                    "Directory_ExpiredPageToken",
                    "The page token is invalid.",
                );
            }
        },
        _ => fresh,
    };
    if let Some(gone) = resync(request, caller, token, now) {
        return gone;
    }

    let (found, next) = if token.changes {
        let changed = accounts.changed_since(token.position.max(token.sequence), PAGE);
        let next = (changed.len() == PAGE).then(|| changed.last().map_or(0, |(sequence, _)| *sequence));
        (changed.into_iter().map(|(_, account)| account).filter(keep).collect::<Vec<_>>(), next)
    } else {
        accounts.page(token.position, PAGE, keep)
    };
    let select = query::selected(request);
    let minimal = minimal(request) && token.changes;
    let mut value = Vec::with_capacity(found.len());
    for account in replayed(caller, token, &found) {
        if account.status == Status::Deleted {
            let reason = if restorable(account, now) { "changed" } else { "deleted" };
            value.push(json!({"id": account.id, "@removed": {"reason": reason}}));
            continue;
        }
        match query::project(&caller.tenant.settings, account, &select) {
            Ok(Value::Object(user)) if minimal => {
                let members = accounts.members_changed_since(&account.id, token.sequence);
                let changed = |name: &str| user::made_of(name).iter().any(|m| members.iter().any(|c| c == m));
                value.push(user.into_iter().filter(|(name, _)| name == "id" || changed(name)).collect());
            }
            // A property that never had a value is omitted.
            Ok(Value::Object(user)) => {
                value.push(user.into_iter().filter(|(_, value)| !value.is_null()).collect());
            }
            Ok(_) => {}
            Err(message) => return errors::graph(request, now, 400, "Request_BadRequest", &message),
        }
    }
    let mut response = if let Some(position) = next {
        answer(request, &value, "@odata.nextLink", "$skiptoken", Token { position, ..token })
    } else {
        let sequence = if token.changes { fresh.sequence } else { token.sequence };
        let done = Token { position: 0, sequence, issued: now.unix_timestamp(), changes: true };
        answer(request, &value, "@odata.deltaLink", "$deltatoken", done)
    };
    if minimal {
        wire::set_header(&mut response, "preference-applied", "return=minimal");
    }
    response
}

/// Whether only changed properties are asked for.
fn minimal(request: &Request) -> bool {
    let prefers = request.header("prefer").unwrap_or_default();
    prefers.split(',').any(|one| one.trim().eq_ignore_ascii_case("return=minimal"))
}

/// The refusal of query options no delta supports.
pub fn no_options(request: &Request, now: OffsetDateTime) -> Option<Response<Bytes>> {
    let given = ["$top", "$expand", "$orderby", "$search"].into_iter();
    let unsupported = given.into_iter().find(|name| request.param(name).is_some())?;
    Some(errors::bad(request, now, &format!("'{unsupported}' is not supported by the service.")))
}

/// `id eq 'a' or id eq 'b'` → the ids.
fn ids(filter: &str) -> Option<Vec<String>> {
    let one = |term: &str| Some(term.trim().strip_prefix("id eq '")?.strip_suffix('\'')?.to_owned());
    filter.split(" or ").map(one).collect()
}

/// The page, with its first object twice when replays are switched on.
fn replayed<'a>(caller: &Caller, token: Token, found: &'a [Account]) -> Vec<&'a Account> {
    let again = if caller.tenant.settings.delta_replays && token.position > 0 { found.first() } else { None };
    again.into_iter().chain(found).collect()
}

/// 410 when the token is older than a week, or than the last maintenance of the tenant.
pub fn resync(
    request: &Request,
    caller: &Caller,
    token: Token,
    now: OffsetDateTime,
) -> Option<Response<Bytes>> {
    let maintained =
        caller.tenant.settings.delta_valid_from.is_some_and(|from| token.issued < from.unix_timestamp());
    let expired = token.issued + LIFE.whole_seconds() < now.unix_timestamp();
    if maintained {
        let message = "The sync state generation is not found. Perform a full synchronization.";
        let mut gone = errors::graph(request, now, 410, "syncStateNotFound", message);
        wire::set_header(&mut gone, "location", &request.link(&format!("{}?$deltatoken=", request.path)));
        return Some(gone);
    }
    expired.then(|| errors::graph(request, now, 410, "resyncRequired", "Resync required."))
}

fn answer(request: &Request, value: &[Value], name: &str, token_name: &str, token: Token) -> Response<Bytes> {
    let context = request.link("/v1.0/$metadata#users");
    let link = query::link(request, "/v1.0/users/delta", token_name, &token);
    wire::json(StatusCode::OK, &json!({"@odata.context": context, name: link, "value": value}))
}
