//! `GET /groups/delta`: groups with their members, of which a large group has too many for one page (entra.md §9).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::access::Caller;
use super::delta::{no_options, resync};
use super::groups::{READ, render};
use super::query::{self, Token};
use super::{errors, users};
use crate::model::{Group, Kind};
use crate::wire::{self, Request};
use crate::world::World;

/// Properties shown when a request selects none.
const DEFAULT: [&str; 5] = ["id", "displayName", "description", "groupTypes", "securityEnabled"];
/// A position is the index of a group and, in the lower bits, how far its members were told.
const MEMBER_BITS: u32 = 40;

/// One page of a round.
pub fn page(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ) {
        return errors::denied(request, now);
    }
    if let Some(refusal) = no_options(request, now) {
        return refusal;
    }
    let links = &caller.tenant.directory.links;
    let start =
        Token { position: 0, sequence: links.sequence(), issued: now.unix_timestamp(), changes: false };
    let token = match (request.param("$deltatoken"), request.param("$skiptoken")) {
        (Some(latest), _) if latest == "latest" => {
            return answer(request, &[], Err(Token { changes: true, ..start }));
        }
        (Some(text), _) | (None, Some(text)) if !text.is_empty() => {
            let Some(token) = Token::decode(&text) else {
                let message = "The page token is invalid.";
                return errors::graph(request, now, 400, "Directory_ExpiredPageToken", message);
            };
            token
        }
        _ => start,
    };
    if let Some(gone) = resync(request, caller, token, now) {
        return gone;
    }
    let select = request.param("$select").unwrap_or_default();
    let select: Vec<&str> =
        if select.is_empty() { DEFAULT.to_vec() } else { select.split(',').map(str::trim).collect() };
    let (value, next) = if token.changes {
        changes(caller, &select, token)
    } else {
        everything(caller, &select, token.position)
    };
    if let Some(position) = next {
        return answer(request, &value, Ok(Token { position, ..token }));
    }
    let sequence = if token.changes { start.sequence } else { token.sequence };
    let done = Token { position: 0, sequence, issued: now.unix_timestamp(), changes: true };
    answer(request, &value, Err(done))
}

/// Groups from a position on, and the position to go on from.
fn everything(caller: &Caller, select: &[&str], position: u64) -> (Vec<Value>, Option<u64>) {
    let (tenant, mut room) = (&caller.tenant, caller.tenant.settings.group_delta_page);
    let (mut at, mut told) = (position >> MEMBER_BITS, position & ((1 << MEMBER_BITS) - 1));
    let mut value = Vec::new();
    let groups = &tenant.directory.groups;
    while let Some(group) = usize::try_from(at).ok().and_then(|at| groups.get(at)) {
        if room == 0 {
            return (value, Some((at << MEMBER_BITS) | told));
        }
        room -= 1;
        let mut members = Vec::new();
        let mut rest = None;
        if select.contains(&"members") {
            let membership = tenant.directory.membership(group, None);
            let (users, next) =
                tenant.directory.accounts.page(told, room.max(1), |account| membership.has(&account.id));
            members.extend(users.iter().map(|user| member("user", &user.id)));
            rest = next;
            if rest.is_none() {
                members.extend(membership.groups().into_iter().map(|inner| member("group", &inner.id)));
                let apps = membership.joined().filter(|id| tenant.settings.principal(id).is_some());
                members.extend(apps.map(|id| member("servicePrincipal", id)));
            }
            room = room.saturating_sub(members.len());
        }
        value.push(shown(group, select, members));
        if let Some(next) = rest {
            return (value, Some((at << MEMBER_BITS) | next));
        }
        (at, told) = (at + 1, 0);
    }
    (value, None)
}

/// Groups whose members changed, and the sequence to go on from.
fn changes(caller: &Caller, select: &[&str], token: Token) -> (Vec<Value>, Option<u64>) {
    let (tenant, limit) = (&caller.tenant, caller.tenant.settings.group_delta_page);
    let changed = tenant.directory.links.changed_since(token.position.max(token.sequence), limit);
    let next = changed.last().filter(|_| changed.len() == limit).map(|(sequence, _)| *sequence);
    let mut by_group: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let of_members = changed.into_iter().filter(|(_, link)| link.kind == Kind::Member);
    for (_, link) in of_members.filter(|_| select.contains(&"members")) {
        let Some(group) = tenant.directory.group(&link.from) else { continue };
        let user = tenant.directory.accounts.get(&link.to).is_some();
        let gone = user && users::find(caller, &link.to).is_none();
        let kind = match tenant.directory.group(&link.to) {
            Some(_) => "group",
            None if user => "user",
            None => "servicePrincipal",
        };
        let mut told = member(kind, &link.to);
        if gone || !tenant.directory.membership(group, None).has(&link.to) {
            told.as_object_mut().map(|told| told.insert("@removed".into(), json!({"reason": "deleted"})));
        }
        by_group.entry(link.from).or_default().push(told);
    }
    let groups = by_group.into_iter();
    let value = groups.filter_map(|(id, members)| Some(shown(tenant.directory.group(&id)?, select, members)));
    (value.collect(), next)
}

fn member(kind: &str, id: &str) -> Value {
    json!({"@odata.type": format!("#microsoft.graph.{kind}"), "id": id})
}

/// A group with the properties selected that have a value, and a chunk of its members.
fn shown(group: &Group, select: &[&str], members: Vec<Value>) -> Value {
    let all = render(group);
    let mut shown: Map<String, Value> = Map::new();
    for name in ["id"].iter().chain(select) {
        let value = all.get(*name).filter(|value| !value.is_null());
        shown.extend(value.map(|value| ((*name).to_owned(), value.clone())));
    }
    if !members.is_empty() {
        shown.insert("members@delta".into(), members.into());
    }
    Value::Object(shown)
}

/// A page with the link to the next one, or at the end of a round (`Err`) to the next round.
fn answer(request: &Request, value: &[Value], next: Result<Token, Token>) -> Response<Bytes> {
    let (name, token_name, token) = match next {
        Ok(token) => ("@odata.nextLink", "$skiptoken", token),
        Err(token) => ("@odata.deltaLink", "$deltatoken", token),
    };
    let context = request.link("/v1.0/$metadata#groups");
    let link = query::link(request, "/v1.0/groups/delta", token_name, &token);
    wire::json(StatusCode::OK, &json!({"@odata.context": context, name: link, "value": value}))
}
