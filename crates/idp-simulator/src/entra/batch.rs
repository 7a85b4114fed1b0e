//! `$batch`: up to twenty requests in one, answered in another order, each throttled on its own (entra.md §7.5).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{errors, graph};
use crate::wire::{self, Request};
use crate::world::World;

const MAX_ITEMS: usize = 20;

/// Answers a batch: 200 whenever it can be read.
pub fn answer(world: &Arc<World>, request: &Request) -> Response<Bytes> {
    let bad = |message: &str| errors::graph(request, world.now(), 400, "BadRequest", message);
    let body = request.json().unwrap_or_default();
    let Some(items) = body.get("requests").and_then(Value::as_array) else {
        return bad("Invalid batch payload format.");
    };
    if items.len() > MAX_ITEMS {
        return bad("Number of batch request steps exceeds the maximum value of 20.");
    }
    let mut statuses: HashMap<&str, u16> = HashMap::new();
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let Some(id) = item.get("id").and_then(Value::as_str).filter(|id| !statuses.contains_key(id)) else {
            return bad("Invalid or duplicate request id.");
        };
        let needed =
            item.get("dependsOn").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let mut needed = needed.map(|other| statuses.get(other).copied().unwrap_or(424));
        let answer = if needed.any(|status| status >= 400) {
            json!({"id": id, "status": 424, "headers": {}, "body": {"error": {"code": "FailedDependency", "message": ""}}})
        } else {
            let Some(part) = part(request, item) else { return bad("Invalid batch request step.") };
            render(id, &whole(world, &part))
        };
        let status = answer.get("status").and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok());
        statuses.insert(id, status.unwrap_or(500));
        answers.push(answer);
    }
    answers.reverse(); // any order is allowed, so callers must go by id
    wire::json(StatusCode::OK, &json!({"responses": answers}))
}

fn whole(world: &Arc<World>, part: &Request) -> Response<Bytes> {
    let answer = graph::dispatch(world, part, false);
    let instead = answer.fault.and_then(|fault| fault.instead(part, world.now()));
    instead.unwrap_or(answer.response)
}

/// One item as a request of its own, with the batch's token.
fn part(outer: &Request, item: &Value) -> Option<Request> {
    let method = Method::from_bytes(item.get("method")?.as_str()?.as_bytes()).ok()?;
    let url = item.get("url")?.as_str()?;
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let version = outer.path.strip_suffix("/$batch")?;
    let mut headers = HeaderMap::new();
    for (name, value) in item.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.insert(name, HeaderValue::from_str(value.as_str()?).ok()?);
    }
    if let Some(token) = outer.headers.get(http::header::AUTHORIZATION) {
        headers.insert(http::header::AUTHORIZATION, token.clone());
    }
    let body = item.get("body").map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let path = format!("{version}/{}", path.trim_start_matches('/'));
    Some(Request { method, path, query: query.to_owned(), headers, body, ..outer.clone() })
}

fn render(id: &str, response: &Response<Bytes>) -> Value {
    let headers: Map<String, Value> = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((title(name.as_str()), value.to_str().ok()?.into())))
        .collect();
    let body: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    json!({"id": id, "status": response.status().as_u16(), "headers": headers, "body": body})
}

/// A header's name as Graph spells it inside a batch, where clients look for it in this spelling.
fn title(name: &str) -> String {
    if name.starts_with("x-") || name.ends_with("-id") {
        return name.to_owned();
    }
    let word = |word: &str| {
        let (head, tail) = word.split_at(1.min(word.len()));
        head.to_uppercase() + tail
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}
