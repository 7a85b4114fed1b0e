//! The apps' public keys: saved in the app, or fetched from its URL and kept for a while (okta.md §1.3).

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::settings::{App, Settings};
use crate::sync::lock;
use crate::world::World;

const UNREACHABLE: &str = "Error retrieving the client JWKSet from jwks_uri.";
const MAX_DOCUMENT: usize = 256 * 1024;

/// Documents fetched, by URL.
#[derive(Debug, Default)]
pub struct Keys {
    fetched: Mutex<HashMap<String, (OffsetDateTime, Vec<Value>)>>,
}

impl Keys {
    /// The keys of an app. A `kid` that the kept document lacks is looked for in a fresh one, if the org is set so: whether
    /// Okta does is not documented, and a client must not depend on either.
    pub async fn of(
        &self,
        world: &World,
        settings: &Settings,
        app: &App,
        kid: Option<&str>,
    ) -> Result<Vec<Value>, &'static str> {
        let Some(url) = &app.jwks_uri else {
            let missing =
                "The client does not have a JWKSet configured, but the client_assertion requires one.";
            let saved = app.jwks.as_ref().ok_or(missing)?;
            return members(saved).ok_or("The client JWKSet is invalid.");
        };
        let life = Duration::seconds_f64(settings.jwks_life_s);
        let kept = lock(&self.fetched).get(url).cloned().filter(|(at, _)| world.now() - *at < life);
        if let Some((_, keys)) = kept
            && (!settings.jwks_refetch
                || keys.iter().any(|key| key.get("kid").and_then(Value::as_str) == kid))
        {
            return Ok(keys);
        }
        // A document is as old as the question for it, and one that came late does not replace a newer one.
        let asked = world.now();
        let keys = fetch(world, url).await?;
        let mut fetched = lock(&self.fetched);
        if fetched.get(url).is_none_or(|(newest, _)| *newest < asked) {
            fetched.insert(url.clone(), (asked, keys.clone()));
        }
        Ok(keys)
    }

    /// Forgets what was fetched.
    pub fn clear(&self) {
        lock(&self.fetched).clear();
    }
}

async fn fetch(world: &World, url: &str) -> Result<Vec<Value>, &'static str> {
    let parsed = url::Url::parse(url).map_err(|_| UNREACHABLE)?;
    let loopback = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if parsed.scheme() != "https" && !loopback {
        return Err(UNREACHABLE);
    }
    let response = world.http.get(parsed).send().await.map_err(|_| UNREACHABLE)?;
    if response.status() != http::StatusCode::OK {
        return Err(UNREACHABLE);
    }
    let body = response.bytes().await.map_err(|_| UNREACHABLE)?;
    if body.len() > MAX_DOCUMENT {
        return Err(UNREACHABLE);
    }
    let document: Value = serde_json::from_slice(&body).map_err(|_| UNREACHABLE)?;
    let keys = members(&document).ok_or(UNREACHABLE)?;
    if keys.is_empty() {
        return Err("The client JWKSet from jwks_uri must contain at least one key.");
    }
    let mut kids: Vec<&str> = keys.iter().filter_map(|key| key.get("kid")?.as_str()).collect();
    kids.sort_unstable();
    kids.dedup();
    if kids.len() != keys.len() {
        return Err("All keys in the client JWKSet from jwks_uri must have a unique kid.");
    }
    if keys.iter().any(|key| key.get("use").and_then(Value::as_str).is_some_and(|usage| usage != "sig")) {
        return Err("All keys in the client JWKSet from jwks_uri must have a valid use.");
    }
    Ok(keys)
}

/// The keys of a document; `None` when it is none, or holds a private member.
fn members(document: &Value) -> Option<Vec<Value>> {
    let keys = document.get("keys")?.as_array()?.clone();
    keys.iter().all(|key| key.get("d").is_none()).then_some(keys)
}
