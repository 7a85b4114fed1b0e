//! The issuer's keys: fetched, kept, and fetched again when an unknown one turns up, at most once a minute.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwapOption;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::config::OidcConfig;

const REFRESH: Duration = Duration::from_mins(5);
/// Anybody can invent key ids; this is how often that may cost the issuer a request.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_mins(1);
const FIRST_TRY_PAUSE: Duration = Duration::from_millis(500);
const ANSWER_LIMIT: usize = 1 << 20;

/// The keys of the token issuer.
pub struct IssuerKeys {
    issuer: String,
    client: reqwest::Client,
    keys: ArcSwapOption<HashMap<String, Key>>,
    asked: Mutex<Option<Instant>>,
}

/// One key of the issuer.
#[derive(Clone)]
pub struct Key {
    /// Verifies signatures.
    pub decoding: DecodingKey,
    /// The one algorithm it is for, if its set says so.
    pub algorithm: Option<Algorithm>,
}

impl std::fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerKeys").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl IssuerKeys {
    /// Nothing is fetched yet.
    pub fn new(config: &OidcConfig) -> anyhow::Result<Arc<Self>> {
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10))
            .no_proxy();
        if let Some(file) = &config.ca_file {
            let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)?;
            client = client.tls_certs_merge(certificates);
        }
        Ok(Arc::new(Self {
            issuer: config.issuer.clone(),
            client: client.build()?,
            keys: ArcSwapOption::empty(),
            asked: Mutex::new(None),
        }))
    }

    /// These keys, and no issuer to ask for others.
    #[cfg(any(test, feature = "fuzzing"))]
    #[expect(clippy::disallowed_methods, reason = "a client that is never used")]
    pub fn with(config: &OidcConfig, set: &JwkSet) -> Arc<Self> {
        let keys: HashMap<_, _> = set.keys.iter().filter_map(usable).collect();
        Arc::new(Self {
            issuer: config.issuer.clone(),
            client: reqwest::Client::new(),
            keys: ArcSwapOption::from_pointee(keys),
            asked: Mutex::new(Some(Instant::now())),
        })
    }

    /// Whether there are keys at all; without any, no call can be admitted.
    pub fn fetched(&self) -> bool {
        self.keys.load().is_some()
    }

    /// The key with this id, if the issuer has it.
    pub async fn find(&self, id: &str) -> Option<Key> {
        if let Some(key) = self.known(id) {
            return Some(key);
        }
        let mut asked = self.asked.lock().await;
        if let Some(key) = self.known(id) {
            return Some(key); // somebody else has just fetched it
        }
        let pause = if self.fetched() { UNKNOWN_KEY_PAUSE } else { FIRST_TRY_PAUSE };
        if asked.is_some_and(|at| at.elapsed() < pause) {
            return None;
        }
        *asked = Some(Instant::now());
        self.refresh().await;
        self.known(id)
    }

    fn known(&self, id: &str) -> Option<Key> {
        self.keys.load().as_ref().and_then(|keys| keys.get(id).cloned())
    }

    /// Keeps the keys fresh for the life of the service.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            self.refresh().await;
            let pause = if self.fetched() { REFRESH } else { FIRST_TRY_PAUSE };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    // A fetch that fails leaves the last good set in place.
    async fn refresh(&self) {
        match self.fetch().await {
            Ok(keys) => self.keys.store(Some(Arc::new(keys))),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the token issuer's keys cannot be fetched");
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<HashMap<String, Key>> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let discovery: Discovery = self.get(&url).await.context("discovery document")?;
        if discovery.issuer != self.issuer {
            bail!("the discovery document is another issuer's");
        }
        let (issuer, keys_at) = (url::Url::parse(&self.issuer)?, url::Url::parse(&discovery.jwks_uri)?);
        if issuer.scheme() == "https" && keys_at.scheme() != "https" {
            bail!("the key set is not served over https");
        }
        let set: JwkSet = self.get(&discovery.jwks_uri).await.context("key set")?;
        let keys: HashMap<_, _> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            bail!("the key set holds no usable key");
        }
        Ok(keys)
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        let mut response = self.client.get(url).send().await.map_err(reqwest::Error::without_url)?;
        if !response.status().is_success() {
            bail!("status {}", response.status());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                bail!("the answer is too large");
            }
            body.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

// A key for another use, such as encryption, verifies nothing.
const fn algorithm(named: KeyAlgorithm) -> Option<Algorithm> {
    match named {
        KeyAlgorithm::RS256 => Some(Algorithm::RS256),
        KeyAlgorithm::PS256 => Some(Algorithm::PS256),
        KeyAlgorithm::ES256 => Some(Algorithm::ES256),
        KeyAlgorithm::EdDSA => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn usable(jwk: &Jwk) -> Option<(String, Key)> {
    if jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match jwk.common.key_algorithm {
        Some(named) => Some(algorithm(named)?),
        None => None,
    };
    // INVARIANT: only asymmetric keys; a symmetric one in a public set would let anybody sign.
    if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(jwk).ok()?;
    Some((jwk.common.key_id.clone()?, Key { decoding, algorithm }))
}

/// Whether anything of a set would be used; no symmetric key is.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(set: &JwkSet) {
    let symmetric = |jwk: &Jwk| matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
    assert!(!set.keys.iter().any(|jwk| symmetric(jwk) && usable(jwk).is_some()), "a symmetric key verifies");
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex as StdMutex,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
    use serde_json::{Value, json};

    use super::*;

    /// An issuer that counts how often its key set is asked for. `None`: it is out of order.
    #[derive(Default)]
    struct Issuer {
        asked: AtomicUsize,
        keys: StdMutex<Option<Value>>,
    }

    impl Issuer {
        fn has(&self, ids: &[&str]) {
            let keys = ids.iter().map(|id| {
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": "u1SU1LfVLPHCozMxH2Mo", "e": "AQAB"})
            });
            *self.keys.lock().unwrap() = Some(json!({ "keys": keys.collect::<Vec<_>>() }));
        }
        fn breaks(&self) {
            *self.keys.lock().unwrap() = None;
        }
        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    async fn jwks(State((issuer, _)): State<(Arc<Issuer>, String)>) -> Result<Json<Value>, StatusCode> {
        issuer.asked.fetch_add(1, Ordering::SeqCst);
        issuer.keys.lock().unwrap().clone().map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
    }

    async fn discovery(State((_, url)): State<(Arc<Issuer>, String)>) -> Json<Value> {
        Json(json!({ "issuer": url, "jwks_uri": format!("{url}/jwks") }))
    }

    async fn started() -> (Arc<Issuer>, Arc<IssuerKeys>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Arc::new(Issuer::default());
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .with_state((Arc::clone(&issuer), url.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (issuer, IssuerKeys::new(&OidcConfig { issuer: url, ..OidcConfig::default() }).unwrap())
    }

    /// So much later, for the keys; the sockets need a clock that runs.
    async fn later(by: Duration) {
        tokio::time::pause();
        tokio::time::advance(by).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn keys_are_cached_and_asked_for_again_for_an_unknown_one_at_most_once_a_minute() {
        let (issuer, keys) = started().await;
        issuer.has(&["k1"]);
        assert!(keys.find("k1").await.is_some());
        for _ in 0..50 {
            assert!(keys.find("k1").await.is_some());
        }
        assert_eq!(issuer.asked(), 1, "a known key costs the issuer nothing");
        issuer.has(&["k1", "k2"]);
        for invented in 0..50 {
            assert!(keys.find(&format!("invented-{invented}")).await.is_none());
        }
        assert_eq!(issuer.asked(), 1, "nor do invented ones within a minute");
        assert!(keys.find("k2").await.is_none());
        later(UNKNOWN_KEY_PAUSE).await;
        assert!(keys.find("k2").await.is_some(), "a new key is found after a minute at the latest");
        assert!(keys.find("invented").await.is_none());
        assert_eq!(issuer.asked(), 2);
    }

    #[tokio::test]
    async fn callers_that_come_at_once_with_an_unknown_key_cost_one_request() {
        let (issuer, keys) = started().await;
        issuer.has(&["k1"]);
        let found = futures::future::join_all((0..20).map(|_| keys.find("k1"))).await;
        assert!(found.iter().all(Option::is_some));
        assert_eq!(issuer.asked(), 1);
    }

    #[tokio::test]
    async fn an_issuer_that_fails_or_forgets_leaves_the_last_good_keys_in_place() {
        let (issuer, keys) = started().await;
        issuer.breaks();
        keys.refresh().await;
        assert!(!keys.fetched(), "control: without a good set there is none");
        issuer.has(&["k1"]);
        keys.refresh().await;
        assert!(keys.known("k1").is_some());
        issuer.breaks();
        keys.refresh().await;
        assert!(keys.known("k1").is_some(), "the issuer is away");
        issuer.has(&[]);
        keys.refresh().await;
        assert!(keys.known("k1").is_some(), "an empty set is not a good one");
        issuer.has(&["k2"]);
        keys.refresh().await;
        assert!(
            keys.known("k1").is_none(),
            "a key that the issuer withdrew does not outlive the next good set"
        );
        assert!(keys.known("k2").is_some());
    }
}
