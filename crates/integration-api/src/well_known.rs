//! Our public keys for Okta, at a URL that is known before the integration is complete.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value};
use shared::{
    db::{Db, StoreError},
    id::IntegrationId,
    provider::okta::rotation,
};

use crate::store::integrations;

/// The database is asked at most this often for one integration: the URL is public.
const KEPT: Duration = rotation::SET_REMEMBERED;
const MOST_KEPT: usize = 10_000;
/// What a public key consists of (RFC 7517 §4, RFC 7518 §6): nothing else of a key is ever served.
const PUBLIC_MEMBERS: [&str; 9] = ["kty", "use", "alg", "kid", "n", "e", "crv", "x", "y"];

type Remembered = Arc<Mutex<HashMap<IntegrationId, (Instant, Option<Value>)>>>;

#[derive(Clone, Debug, Default)]
struct Keys {
    db: Arc<OnceLock<Db>>,
    remembered: Remembered,
}

/// The route, and the place for the database once it is there.
pub fn routes() -> (Router, Arc<OnceLock<Db>>) {
    let keys = Keys::default();
    let db = Arc::clone(&keys.db);
    (Router::new().route("/.well-known/{integration}/jwks.json", get(serve)).with_state(keys), db)
}

async fn serve(State(keys): State<Keys>, Path(integration): Path<String>) -> Response {
    let Ok(integration) = integration.parse::<IntegrationId>() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match keys.find(integration).await {
        Ok(Some(set)) => {
            let life = format!("public, max-age={}", rotation::SET_MAX_AGE.as_secs());
            ([(header::CACHE_CONTROL, life)], Json(set)).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::warn!(%error, "key set not read");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")]).into_response()
        }
    }
}

impl Keys {
    async fn find(&self, integration: IntegrationId) -> Result<Option<Value>, StoreError> {
        let known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(&integration).cloned();
        if let Some((at, set)) = known
            && at.elapsed() < KEPT
        {
            return Ok(set);
        }
        let db = self
            .db
            .get()
            .ok_or_else(|| StoreError::Unavailable("the database is not connected yet".into()))?;
        let mut tx = db.system().await?;
        let set = integrations::public_jwks(&mut tx, integration).await?.as_ref().map(public);
        tx.rollback().await?;
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_KEPT {
            remembered.clear();
        }
        remembered.insert(integration, (Instant::now(), set.clone()));
        Ok(set)
    }
}

/// INVARIANT (I8): only public members leave, whatever the table holds.
fn public(set: &Value) -> Value {
    let key = |key: &Value| -> Option<Value> {
        let members = key.as_object()?;
        let kept: Map<_, _> = members
            .iter()
            .filter(|(name, _)| PUBLIC_MEMBERS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Some(Value::Object(kept))
    };
    let keys = set.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    serde_json::json!({ "keys": keys.iter().filter_map(key).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn private_members_never_leave() {
        let stored = json!({"keys": [{"kty": "RSA", "kid": "1", "n": "n", "e": "AQAB", "d": "d", "p": "p", "q": "q",
                                       "dp": "dp", "dq": "dq", "qi": "qi", "k": "k", "oth": []}]});
        assert_eq!(public(&stored), json!({"keys": [{"kty": "RSA", "kid": "1", "n": "n", "e": "AQAB"}]}));
    }
}
