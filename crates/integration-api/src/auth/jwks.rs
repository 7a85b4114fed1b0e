//! The issuer's keys: fetched, kept, and fetched again when an unknown one turns up, at most once a minute.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwapOption;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::Mutex;
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

    /// With this set, and nobody to ask for another.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of(config: &OidcConfig, set: &JwkSet) -> Arc<Self> {
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
