//! A strict stand-in for Vault's transit engine: its HTTP API over TLS, as far as Parapet uses it. It is not Vault: what it
//! knows of Vault is what Vault's API documentation says.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path as Route, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use parapet::certs::Certificates;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

/// The wrapping key's name.
pub const KEY: &str = "parapet-leak";
/// The signing key's name.
pub const SIGNING_KEY: &str = "parapet-leak-signing";
/// What a pod presents to log in.
pub const POD_TOKEN: &str = "eyJ.pod.token";
const ROLE: &str = "credential-validator";

/// A running stand-in.
#[derive(Debug)]
pub struct Vault {
    address: SocketAddr,
    dir: tempfile::TempDir,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    token: String,
    pod_token: String,
    wraps: BTreeMap<u32, [u8; 32]>,
    signs: [u8; 32],
    away: bool,
    endless: bool,
    calls: BTreeMap<String, usize>,
}

type Shared = Arc<Mutex<Inner>>;
type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

impl Vault {
    /// Starts one with version 1 of both keys and one token.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::prepare(dir.path(), &["vault"]).unwrap();
        let files = certificates.of("vault");
        let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Inner {
            token: "hvs.first".into(),
            pod_token: "hvs.pod".into(),
            wraps: BTreeMap::from([(1, rand::random())]),
            signs: rand::random(),
            away: false,
            endless: false,
            calls: BTreeMap::new(),
        };
        let inner = Arc::new(Mutex::new(inner));
        let router = Router::new()
            .route("/v1/transit/keys/{key}", get(read_key))
            .route("/v1/transit/encrypt/{key}", post(encrypt))
            .route("/v1/transit/decrypt/{key}", post(decrypt))
            .route("/v1/transit/rewrap/{key}", post(rewrap))
            .route("/v1/transit/sign/{key}", post(sign))
            .route("/v1/auth/kubernetes/login", post(login))
            .layer(middleware::from_fn_with_state(Arc::clone(&inner), or_endless))
            .with_state(Arc::clone(&inner));
        let listener = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(tls)) };
        tokio::spawn(async move { axum::serve(listener, router).await });
        std::fs::write(dir.path().join("token"), "hvs.first\n").unwrap();
        std::fs::write(dir.path().join("pod"), POD_TOKEN).unwrap();
        Self { address, dir, inner }
    }

    /// How a service is told of it, with a token file.
    pub fn config(&self) -> Value {
        let mut config = self.kubernetes_config();
        config.as_object_mut().unwrap().remove("kubernetes");
        config["token_file"] = json!(self.token_file());
        config
    }

    /// How a service is told of it that logs in as a pod.
    pub fn kubernetes_config(&self) -> Value {
        json!({
            "address": format!("https://127.0.0.1:{}", self.address.port()),
            "ca_file": self.dir.path().join("ca.pem"), "key": KEY, "signing_key": SIGNING_KEY,
            "kubernetes": { "role": ROLE, "token_file": self.dir.path().join("pod") },
            "timeout_seconds": 2,
        })
    }

    /// The file with the token.
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Adds a version to the wrapping key, as `vault write -f transit/keys/…/rotate` does.
    pub fn rotate(&self) {
        let mut inner = self.lock();
        let next = u32::try_from(inner.wraps.len()).unwrap() + 1;
        inner.wraps.insert(next, rand::random());
    }

    /// Answers nothing but 503 from now on, as a sealed Vault does; or answers again.
    pub fn away(&self, away: bool) {
        self.lock().away = away;
    }

    /// Answers everything from now on with a body that does not end; or as before again.
    pub fn endless(&self, endless: bool) {
        self.lock().endless = endless;
    }

    /// Replaces the token that is accepted.
    pub fn accept_only(&self, token: &str) {
        self.lock().token = token.into();
    }

    /// Ends every login of a pod.
    pub fn end_logins(&self) {
        self.lock().pod_token = format!("hvs.pod.{}", rand::random::<u32>());
    }

    /// How often this operation was called.
    pub fn calls(&self, operation: &str) -> usize {
        self.lock().calls.get(operation).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;
    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            if let Ok((stream, peer)) = self.listener.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, peer);
            }
        }
    }
    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn or_endless(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if shared.lock().unwrap().endless {
        let chunks =
            futures::stream::repeat_with(|| Ok::<_, std::convert::Infallible>(vec![b' '; 64 * 1024]));
        return Response::new(Body::from_stream(chunks));
    }
    next.run(request).await
}

fn refused(status: StatusCode, error: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "errors": [error] })))
}

/// Who calls, and what: a token that counts, on a request that says it is meant for Vault.
fn admit(inner: &mut Inner, headers: &HeaderMap, operation: &str) -> Result<(), (StatusCode, Json<Value>)> {
    *inner.calls.entry(operation.into()).or_default() += 1;
    if inner.away {
        return Err(refused(StatusCode::SERVICE_UNAVAILABLE, "Vault is sealed"));
    }
    let token = headers.get("x-vault-token").and_then(|token| token.to_str().ok()).unwrap_or_default();
    if headers.get("x-vault-request").is_none() || (token != inner.token && token != inner.pod_token) {
        return Err(refused(StatusCode::FORBIDDEN, "permission denied"));
    }
    Ok(())
}

async fn login(State(shared): State<Shared>, Json(body): Json<Value>) -> Answer {
    let mut inner = shared.lock().unwrap();
    *inner.calls.entry("login".into()).or_default() += 1;
    if inner.away {
        return Err(refused(StatusCode::SERVICE_UNAVAILABLE, "Vault is sealed"));
    }
    if body != json!({ "role": ROLE, "jwt": POD_TOKEN }) {
        return Err(refused(StatusCode::FORBIDDEN, "permission denied"));
    }
    Ok(Json(
        json!({ "auth": { "client_token": inner.pod_token, "lease_duration": 3600, "renewable": true } }),
    ))
}

async fn read_key(State(shared): State<Shared>, headers: HeaderMap, Route(key): Route<String>) -> Answer {
    let mut inner = shared.lock().unwrap();
    admit(&mut inner, &headers, "read")?;
    match key.as_str() {
        KEY => {
            let keys: BTreeMap<_, _> = inner.wraps.keys().map(|v| (v.to_string(), 1_700_000_000)).collect();
            Ok(Json(json!({ "data": {
                "name": KEY, "type": "aes256-gcm96", "derived": true, "latest_version": inner.wraps.len(),
                "min_decryption_version": 1, "min_encryption_version": 0, "keys": keys,
            }})))
        }
        SIGNING_KEY => {
            let public = BASE64.encode(signer(&inner).public_key().as_ref());
            Ok(Json(json!({ "data": {
                "name": SIGNING_KEY, "type": "ed25519", "latest_version": 1, "min_decryption_version": 1,
                "keys": { "1": { "name": "ed25519", "public_key": public, "creation_time": "2026-01-01T00:00:00Z" } },
            }})))
        }
        _ => Err(refused(StatusCode::NOT_FOUND, "")),
    }
}

fn signer(inner: &Inner) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&inner.signs).unwrap()
}

/// Runs an operation on each item of a batch; one that fails fails the call, as with Vault.
fn batch(
    shared: &Shared,
    headers: &HeaderMap,
    operation: &str,
    [given, expected]: [&str; 2],
    body: &Value,
    work: impl Fn(&Inner, &Value) -> Result<Value, &'static str>,
) -> Answer {
    let mut inner = shared.lock().unwrap();
    admit(&mut inner, headers, operation)?;
    if given != expected {
        return Err(refused(StatusCode::BAD_REQUEST, "encryption key not found"));
    }
    let items = body["batch_input"].as_array().filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| refused(StatusCode::BAD_REQUEST, "missing batch input"))?;
    let results: Vec<Value> =
        items.iter().map(|item| work(&inner, item).unwrap_or_else(|e| json!({ "error": e }))).collect();
    let answer = json!({ "data": { "batch_results": results } });
    if results.iter().any(|result| result.get("error").is_some()) {
        return Err((StatusCode::BAD_REQUEST, Json(answer)));
    }
    Ok(Json(answer))
}

/// The key that a version has for this context.
fn derived(inner: &Inner, version: u32, item: &Value) -> Result<LessSafeKey, &'static str> {
    let context = item["context"].as_str().filter(|text| !text.is_empty());
    let context =
        context.ok_or("missing 'context' for key derivation; the key was created using a derived key")?;
    let context = BASE64.decode(context).map_err(|_| "failed to base64-decode context")?;
    let master = inner
        .wraps
        .get(&version)
        .ok_or("requested version for encryption is higher than the latest key version")?;
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, master), &context);
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap()))
}

fn wrap(inner: &Inner, item: &Value, plain: Vec<u8>) -> Result<Value, &'static str> {
    let latest = inner.wraps.len() as u64;
    let version = u32::try_from(item["key_version"].as_u64().unwrap_or(latest)).unwrap();
    let nonce: [u8; 12] = rand::random();
    let mut text = plain;
    derived(inner, version, item)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
        .unwrap();
    let text = BASE64.encode([nonce.as_slice(), &text].concat());
    Ok(json!({ "ciphertext": format!("vault:v{version}:{text}"), "key_version": version }))
}

fn unwrap(inner: &Inner, item: &Value) -> Result<Vec<u8>, &'static str> {
    let text = item["ciphertext"].as_str().and_then(|text| text.strip_prefix("vault:v"));
    let (version, text) =
        text.and_then(|text| text.split_once(':')).ok_or("invalid ciphertext: no prefix")?;
    let version = version.parse().map_err(|_| "invalid ciphertext: version number could not be decoded")?;
    let bytes = BASE64.decode(text).map_err(|_| "invalid ciphertext: could not decode base64")?;
    let (nonce, body) = bytes.split_first_chunk::<12>().ok_or("invalid ciphertext length")?;
    let mut body = body.to_vec();
    derived(inner, version, item)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut body)
        .map(|plain| plain.to_vec())
        .map_err(|_| "cipher: message authentication failed")
}

async fn encrypt(
    State(s): State<Shared>,
    h: HeaderMap,
    Route(key): Route<String>,
    Json(body): Json<Value>,
) -> Answer {
    batch(&s, &h, "encrypt", [&key, KEY], &body, |inner, item| {
        let plain = item["plaintext"].as_str().and_then(|text| BASE64.decode(text).ok());
        wrap(inner, item, plain.ok_or("failed to base64-decode plaintext")?)
    })
}

async fn decrypt(
    State(s): State<Shared>,
    h: HeaderMap,
    Route(key): Route<String>,
    Json(body): Json<Value>,
) -> Answer {
    batch(&s, &h, "decrypt", [&key, KEY], &body, |inner, item| {
        Ok(json!({ "plaintext": BASE64.encode(unwrap(inner, item)?) }))
    })
}

async fn rewrap(
    State(s): State<Shared>,
    h: HeaderMap,
    Route(key): Route<String>,
    Json(body): Json<Value>,
) -> Answer {
    batch(&s, &h, "rewrap", [&key, KEY], &body, |inner, item| wrap(inner, item, unwrap(inner, item)?))
}

async fn sign(
    State(s): State<Shared>,
    h: HeaderMap,
    Route(key): Route<String>,
    Json(body): Json<Value>,
) -> Answer {
    let version = body["key_version"].as_u64();
    batch(&s, &h, "sign", [&key, SIGNING_KEY], &body, |inner, item| {
        if version.is_some_and(|version| version != 1) {
            return Err("requested version for signing is higher than the latest key version");
        }
        let input = item["input"].as_str().and_then(|text| BASE64.decode(text).ok());
        let signature = signer(inner).sign(&input.ok_or("unable to decode input as base64")?);
        Ok(
            json!({ "signature": format!("vault:v1:{}", BASE64.encode(signature.as_ref())), "key_version": 1 }),
        )
    })
}

/// Writes what a token file is to hold.
pub fn write_token(file: &Path, token: &str) {
    std::fs::write(file, token).unwrap();
}
