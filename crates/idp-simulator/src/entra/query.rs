//! The parts of OData that reading users needs: `$select`, `$top`, `$filter` and opaque page tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::settings::Settings;
use super::{errors, user};
use crate::model::Account;
use crate::wire::{self, Request};

/// What a `$skiptoken` or `$deltatoken` carries.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Position in the listing, or in the round of a delta.
    pub position: u64,
    /// Change sequence a delta round started at.
    pub sequence: u64,
    /// Seconds since the epoch when it was issued.
    pub issued: i64,
    /// Whether the round lists changes only.
    pub changes: bool,
}

impl Token {
    /// As it appears in a link.
    pub fn encode(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Reads one back.
    pub fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }
}

/// The request's own query with one parameter replaced: what a next link carries.
pub fn link(request: &Request, path: &str, token_name: &str, token: &Token) -> String {
    let mut kept: Vec<&str> = request
        .query
        .split('&')
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default().replace("%24", "$");
            !pair.is_empty() && name != "$skiptoken" && name != "$deltatoken"
        })
        .collect();
    let token = format!("{token_name}={}", token.encode());
    kept.push(&token);
    request.link(&format!("{path}?{}", kept.join("&")))
}

/// Whether the request asks for the advanced query engine: header and `$count=true`, on every page.
pub fn advanced(request: &Request) -> bool {
    eventual(request) && request.param("$count").is_some_and(|count| count.eq_ignore_ascii_case("true"))
}

/// Whether the request accepts answers of an index that lags behind.
pub fn eventual(request: &Request) -> bool {
    request.header("ConsistencyLevel").is_some_and(|level| level.eq_ignore_ascii_case("eventual"))
}

/// `$top` within 1 to 999, or 100.
pub fn top(request: &Request, now: OffsetDateTime) -> Result<usize, Response<Bytes>> {
    let Some(given) = request.param("$top") else { return Ok(100) };
    match given.parse::<usize>() {
        Ok(top) if (1..=999).contains(&top) => Ok(top),
        _ => {
            let message =
                format!("Invalid page size specified: '{given}'. Must be between 1 and 999 inclusive.");
            Err(errors::unsupported(request, now, &message))
        }
    }
}

/// One page of objects that are all at hand, with a next link when there are more.
pub fn paged(request: &Request, now: OffsetDateTime, context: &str, all: &[Value]) -> Response<Bytes> {
    let top = match top(request, now) {
        Ok(top) => top,
        Err(refusal) => return refusal,
    };
    let from = match request.param("$skiptoken").map(|text| Token::decode(&text)) {
        None => 0,
        Some(Some(token)) => usize::try_from(token.position).unwrap_or(usize::MAX),
        Some(None) => {
            let message = "The page token is invalid.";
            return errors::graph(request, now, 400, "Directory_ExpiredPageToken", message);
        }
    };
    let value: Vec<&Value> = all.iter().skip(from).take(top).collect();
    let context = request.link(&format!("/v1.0/$metadata#{context}"));
    let mut body = json!({"@odata.context": context, "value": value});
    let end = from.saturating_add(top);
    if let (Some(body), true) = (body.as_object_mut(), all.len() > end) {
        let next = Token { position: end as u64, sequence: 0, issued: now.unix_timestamp(), changes: false };
        body.insert("@odata.nextLink".into(), link(request, &request.path, "$skiptoken", &next).into());
    }
    wire::json(StatusCode::OK, &body)
}

/// One page of those objects that the request's `$filter` asks for.
pub fn filtered(
    request: &Request,
    now: OffsetDateTime,
    context: &str,
    all: impl Iterator<Item = Value>,
) -> Response<Bytes> {
    match conditions(request, now) {
        Ok(conditions) => {
            let found: Vec<Value> = all.filter(|object| hold(&conditions, object)).collect();
            paged(request, now, context, &found)
        }
        Err(refusal) => refusal,
    }
}

/// One object of a set.
pub fn entity(request: &Request, status: StatusCode, set: &str, mut object: Value) -> Response<Bytes> {
    if let Some(object) = object.as_object_mut() {
        let context = request.link(&format!("/v1.0/$metadata#{set}/$entity"));
        object.insert("@odata.context".into(), context.into());
    }
    wire::json(status, &object)
}

/// The request's `$filter`, when it has one; the error is the answer to one that is not simulated.
pub fn conditions(request: &Request, now: OffsetDateTime) -> Result<Vec<Condition>, Response<Bytes>> {
    let Some(filter) = request.param("$filter") else { return Ok(Vec::new()) };
    Condition::parse(&filter).ok_or_else(|| errors::unsupported(request, now, "Unsupported Query."))
}

/// Whether an object passes all of them.
pub fn hold(conditions: &[Condition], object: &Value) -> bool {
    object.as_object().is_some_and(|object| conditions.iter().all(|condition| condition.holds(object)))
}

/// Names selected, or the default set.
pub fn selected(request: &Request) -> Vec<String> {
    match request.param("$select").filter(|s| !s.is_empty()) {
        Some(given) => given.split(',').map(|name| name.trim().to_owned()).collect(),
        None => user::DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The selected properties of a user; the error names a property that does not exist.
pub fn project(settings: &Settings, account: &Account, select: &[String]) -> Result<Value, String> {
    let all = user::render(settings, account);
    let mut shown = Map::new();
    for name in select {
        if name == "signInActivity" {
            shown.extend(user::sign_in_activity(account).map(|activity| (name.clone(), activity)));
            continue;
        }
        let value = all.get(name).ok_or_else(|| {
            format!("Could not find a property named '{name}' on type 'microsoft.graph.user'.")
        })?;
        shown.insert(name.clone(), value.clone());
    }
    // The key is always there, selected or not.
    shown.entry("id").or_insert_with(|| account.id.clone().into());
    Ok(Value::Object(shown))
}

/// One comparison of a `$filter`; several are joined by `and`.
#[derive(Clone, Debug)]
pub enum Condition {
    /// `property eq value`
    Equal(String, Value),
    /// `property ne value`, advanced
    NotEqual(String, Value),
    /// `startsWith(property,'text')`
    Starts(String, String),
    /// `endsWith(property,'text')`, advanced
    Ends(String, String),
    /// `property in ('a','b')`
    In(String, Vec<String>),
}

impl Condition {
    /// Reads a filter; `None` when it is outside the supported subset.
    pub fn parse(filter: &str) -> Option<Vec<Self>> {
        filter.split(" and ").map(|part| Self::parse_one(part.trim())).collect()
    }

    fn parse_one(text: &str) -> Option<Self> {
        for (function, ends) in [("startsWith(", false), ("startswith(", false), ("endsWith(", true)] {
            if let Some(rest) = text.strip_prefix(function) {
                let (property, value) = rest.strip_suffix(')')?.split_once(',')?;
                let (property, value) = (property.trim().to_owned(), quoted(value.trim())?);
                return Some(if ends { Self::Ends(property, value) } else { Self::Starts(property, value) });
            }
        }
        let (property, rest) = text.split_once(' ')?;
        let (operator, value) = rest.split_once(' ')?;
        let property = property.to_owned();
        match operator {
            "eq" => Some(Self::Equal(property, literal(value)?)),
            "ne" => Some(Self::NotEqual(property, literal(value)?)),
            "in" => {
                let list = value.trim().strip_prefix('(')?.strip_suffix(')')?;
                Some(Self::In(
                    property,
                    list.split(',').map(|item| quoted(item.trim())).collect::<Option<_>>()?,
                ))
            }
            _ => None,
        }
    }

    /// Whether only the advanced engine knows it.
    pub fn is_advanced(&self) -> bool {
        matches!(self, Self::NotEqual(..) | Self::Ends(..))
    }

    /// Whether a rendered user passes. Text compares without case, as the directory does.
    pub fn holds(&self, user: &Map<String, Value>) -> bool {
        let text =
            |property: &str| user.get(property).and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let same = |property: &str, value: &Value| match value {
            Value::String(value) => text(property) == value.to_lowercase(),
            other => user.get(property).unwrap_or(&Value::Null) == other,
        };
        match self {
            Self::Equal(property, value) => same(property, value),
            Self::NotEqual(property, value) => !same(property, value),
            Self::Starts(property, value) => text(property).starts_with(&value.to_lowercase()),
            Self::Ends(property, value) => text(property).ends_with(&value.to_lowercase()),
            Self::In(property, values) => values.iter().any(|value| text(property) == value.to_lowercase()),
        }
    }
}

fn literal(text: &str) -> Option<Value> {
    match text.trim() {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        "null" => Some(Value::Null),
        other => quoted(other).map(Value::String),
    }
}

/// `'it''s'` → `it's`
fn quoted(text: &str) -> Option<String> {
    Some(text.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"))
}
