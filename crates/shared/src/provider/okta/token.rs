//! The access token: asked for by one caller at a time, renewed early, bound to a key by DPoP where the app wants it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    failure,
    keys::{self, KeyError, SigningKey},
    rotation::{ASSERTION_LIFE, Lease},
};
use crate::provider::{
    ProviderError,
    http::{self as wire, Answer, Egress, http_date},
};

/// Everything we can make use of. Okta leaves out of the token what is not granted (§1.1).
const SCOPES: [&str; 6] = [
    "okta.users.read",
    "okta.users.manage",
    "okta.groups.read",
    "okta.policies.read",
    "okta.roles.read",
    "okta.logs.read",
];
/// Scopes that an org without Identity Threat Protection may not know: then they are asked for no more (§5).
const RARE_SCOPES: [&str; 2] = ["okta.userRisk.read", "okta.userRisk.manage"];
const PATH: &str = "/oauth2/v1/token";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Renewed this long before it ends (it lasts an hour).
const EARLY: Duration = Duration::from_mins(5);

/// The DPoP key: another one than the client keys (§1.2), never stored, as tokens live an hour.
static PROOF_KEY: LazyLock<Result<SigningKey, KeyError>> = LazyLock::new(SigningKey::generate);

/// An access token with what it may do.
pub(super) struct Token {
    value: Zeroizing<String>,
    /// True when bound to the proof key.
    dpop: bool,
    hash: String,
    pub(super) scopes: BTreeSet<String>,
    renew_at: Instant,
}

/// Gets, keeps and renews the access token of one service app.
pub(super) struct TokenSource {
    host: String,
    client_id: String,
    kid: String,
    key: SigningKey,
    /// The org cannot be expected to know the key yet.
    unproven: bool,
    /// Until when the key may sign; `None`: as long as the adapter lives.
    lease: Option<Arc<Lease>>,
    egress: Egress,
    cached: tokio::sync::Mutex<Option<Arc<Token>>>,
    /// Latest DPoP nonces of the token endpoint and of the API.
    nonces: [Mutex<Option<String>>; 2],
    /// The server's clock minus ours, in seconds: proofs must not be issued in its future.
    ahead: AtomicI64,
    /// The org does not know the rare scopes.
    plain: AtomicBool,
}

/// Which nonce belongs to a call.
#[derive(Clone, Copy)]
enum NonceOf {
    TokenEndpoint = 0,
    Api = 1,
}

#[derive(Deserialize)]
struct Granted {
    token_type: String,
    access_token: String,
    expires_in: u64,
    #[serde(default)]
    scope: String,
}

impl TokenSource {
    pub(super) fn new(host: &str, client_id: &str, kid: &str, key: SigningKey, egress: Egress) -> Self {
        Self {
            host: host.to_owned(),
            client_id: client_id.to_owned(),
            kid: kid.to_owned(),
            key,
            unproven: false,
            lease: None,
            egress,
            cached: tokio::sync::Mutex::new(None),
            nonces: [Mutex::new(None), Mutex::new(None)],
            ahead: AtomicI64::new(0),
            plain: AtomicBool::new(false),
        }
    }

    pub(super) fn with_unproven_key(self) -> Self {
        Self { unproven: true, ..self }
    }

    pub(super) fn leased(self, lease: Arc<Lease>) -> Self {
        Self { lease: Some(lease), ..self }
    }

    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The token in use, or a new one. The lock makes everybody else wait for the one request.
    pub(super) async fn get(&self) -> Result<Arc<Token>, ProviderError> {
        let mut cached = self.cached.lock().await;
        if let Some(token) = cached.as_ref().filter(|t| Instant::now() < t.renew_at) {
            return Ok(Arc::clone(token));
        }
        let token = Arc::new(self.request().await?);
        *cached = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Forgets a token that the API refused; somebody may have renewed it meanwhile.
    pub(super) async fn forget(&self, dead: &Arc<Token>) {
        let mut cached = self.cached.lock().await;
        if cached.as_ref().is_some_and(|token| Arc::ptr_eq(token, dead)) {
            *cached = None;
        }
    }

    /// One token request, and another one when it brings the nonce it lacked or asked for scopes that the org does not
    /// know: each once.
    pub(super) async fn request(&self) -> Result<Token, ProviderError> {
        let mut answer = self.submit().await?;
        let mut nonced = false;
        loop {
            if failure::wants_nonce(&answer) {
                if nonced {
                    return Err(ProviderError::Protocol("the DPoP nonce was refused twice"));
                }
                nonced = true;
            } else if !failure::scope_is_unknown(&answer) || self.plain.swap(true, Ordering::Relaxed) {
                break;
            }
            answer = self.submit().await?;
        }
        if answer.status != 200 {
            let error = failure::of_token(&answer);
            // It passes by itself, as soon as the org's cache of our keys has ended: nobody has to do anything.
            let not_yet = self.unproven && failure::key_is_unknown(&error);
            return Err(if not_yet { ProviderError::Unavailable { status: answer.status } } else { error });
        }
        let Granted { token_type, access_token, expires_in, scope } = answer.json()?;
        let access_token = Zeroizing::new(access_token);
        let life = Duration::from_secs(expires_in.min(86_400));
        Ok(Token {
            dpop: token_type.eq_ignore_ascii_case("DPoP"),
            hash: keys::sha256(&access_token),
            value: access_token,
            scopes: scope.split_ascii_whitespace().map(str::to_owned).collect(),
            renew_at: Instant::now() + life.saturating_sub(EARLY).max(life / 2),
        })
    }

    async fn submit(&self) -> Result<Answer, ProviderError> {
        let url = format!("https://{}{PATH}", self.host);
        let proof = self.proof(&Method::POST, &url, None, NonceOf::TokenEndpoint)?;
        let rare: &[&str] = if self.plain.load(Ordering::Relaxed) { &[] } else { &RARE_SCOPES };
        let scopes = [SCOPES.as_slice(), rare].concat().join(" ");
        let request = self
            .egress
            .request(Method::POST, &url)
            .header("accept", "application/json")
            .header("dpop", proof)
            .form(&[
                ("grant_type", "client_credentials"),
                ("scope", &scopes),
                ("client_assertion_type", ASSERTION),
                ("client_assertion", &self.assertion(&url)?),
            ]);
        let answer = wire::send(request).await?;
        self.learn(&answer, NonceOf::TokenEndpoint);
        Ok(answer)
    }

    /// INVARIANT: made anew for every HTTP request: Okta burns its `jti` even when it answers `use_dpop_nonce`.
    fn assertion(&self, audience: &str) -> Result<String, ProviderError> {
        // INVARIANT: a key that was replaced signs no longer than `HELD`; its rotation counts on that.
        if self.lease.as_ref().is_some_and(|lease| !lease.holds()) {
            return Err(ProviderError::NotSent(
                "the client key was read too long ago to sign; it may be replaced",
            ));
        }
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.kid});
        let claims = json!({"iss": self.client_id, "sub": self.client_id, "aud": audience,
            "exp": self.server_time() + ASSERTION_LIFE.as_secs().cast_signed(), "jti": Uuid::new_v4()});
        self.key.jwt(&header, &claims).map_err(|_| ProviderError::NotSent("the client key cannot sign"))
    }

    fn proof(
        &self,
        method: &Method,
        url: &str,
        token_hash: Option<&str>,
        nonce_of: NonceOf,
    ) -> Result<String, ProviderError> {
        let unusable = |_| ProviderError::NotSent("the DPoP key cannot sign");
        let key = PROOF_KEY.as_ref().map_err(|e| unusable(*e))?;
        let header = json!({"typ": "dpop+jwt", "alg": "RS256", "jwk": key.proof_jwk()});
        let htu = url.split(['?', '#']).next().unwrap_or(url);
        let mut claims =
            json!({"htm": method.as_str(), "htu": htu, "iat": self.server_time(), "jti": Uuid::new_v4()});
        if let Value::Object(claims) = &mut claims {
            let nonce = self.nonce(nonce_of).lock().unwrap_or_else(PoisonError::into_inner).clone();
            claims.extend(nonce.map(|nonce| ("nonce".to_owned(), Value::String(nonce))));
            claims.extend(token_hash.map(|hash| ("ath".to_owned(), Value::String(hash.to_owned()))));
        }
        key.jwt(&header, &claims).map_err(unusable)
    }

    /// Puts a token, and the proof of its key where it is bound to one, on a request to the API.
    pub(super) fn authorise(
        &self,
        request: reqwest::RequestBuilder,
        method: &Method,
        url: &str,
        token: &Token,
    ) -> Result<reqwest::RequestBuilder, ProviderError> {
        let scheme = if token.dpop { "DPoP" } else { "Bearer" };
        let credentials = Zeroizing::new(format!("{scheme} {}", token.value.as_str()));
        let mut value = http::HeaderValue::from_str(&credentials)
            .map_err(|_| ProviderError::Protocol("the access token is not a header value"))?;
        value.set_sensitive(true);
        let request = request.header("authorization", value);
        Ok(if token.dpop {
            request.header("dpop", self.proof(method, url, Some(&token.hash), NonceOf::Api)?)
        } else {
            request
        })
    }

    /// Learns nonce and clock from an answer of the API.
    pub(super) fn learn_from_api(&self, answer: &Answer) {
        self.learn(answer, NonceOf::Api);
    }

    fn learn(&self, answer: &Answer, nonce_of: NonceOf) {
        if let Some(nonce) = answer.header("dpop-nonce") {
            *self.nonce(nonce_of).lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        }
        if let Some(date) = answer.header("date").and_then(http_date) {
            self.ahead.store((date - OffsetDateTime::now_utc()).whole_seconds(), Ordering::Relaxed);
        }
    }

    fn nonce(&self, of: NonceOf) -> &Mutex<Option<String>> {
        let [token_endpoint, api] = &self.nonces;
        match of {
            NonceOf::TokenEndpoint => token_endpoint,
            NonceOf::Api => api,
        }
    }

    /// The org's time in epoch seconds, as its latest answer told it.
    pub(super) fn server_time(&self) -> i64 {
        OffsetDateTime::now_utc().unix_timestamp() + self.ahead.load(Ordering::Relaxed)
    }
}
