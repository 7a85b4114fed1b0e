//! A token issuer for development: OIDC discovery, keys, and the client credentials grant for callers listed in a file.
//!
//! It stands in for the customer's own issuer and speaks on the loopback interface only.

pub mod callers;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::extract::{Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use self::callers::{Caller, Callers};
use crate::servers::write_private;

/// What an access token is for.
pub const AUDIENCE: &str = "parapet";
const LIFETIME: time::Duration = time::Duration::hours(1);

/// `parapet issuer`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory with the signing key and the callers
    #[arg(long)]
    dir: PathBuf,
    /// The port on 127.0.0.1
    #[arg(long)]
    port: u16,
}

/// Serves until the process ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let issuer = Issuer::load(&args.dir, url(args.port))?;
    println!("token issuer listening on {address}");
    Ok(axum::serve(listener, router(issuer)).await?)
}

/// The issuer's name, which is also where it answers.
pub fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Makes the signing key of `dir`, unless it is there.
pub fn prepare(dir: &Path) -> anyhow::Result<()> {
    let file = key_file(dir);
    if file.exists() {
        return Ok(());
    }
    write_private(&file, KeyPair::generate()?.serialize_pem().as_bytes())
}

fn key_file(dir: &Path) -> PathBuf {
    dir.join("signing-key.pem")
}

/// The signing key and where the callers are.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    key: EncodingKey,
    key_id: String,
    jwks: JwkSet,
    callers: PathBuf,
}

impl Issuer {
    /// Reads the signing key of `dir`.
    pub fn load(dir: &Path, url: String) -> anyhow::Result<Self> {
        let file = key_file(dir);
        let pem = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let key = EncodingKey::from_ec_pem(&pem).with_context(|| format!("{} is damaged", file.display()))?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { url, key, key_id, jwks: JwkSet { keys: vec![jwk] }, callers: callers::file(dir) })
    }

    /// An access token for a caller, by RFC 9068.
    pub fn token(&self, caller: &Caller, now: OffsetDateTime) -> anyhow::Result<String> {
        let claims = Claims {
            iss: &self.url,
            aud: AUDIENCE,
            sub: &caller.subject,
            client_id: &caller.id,
            name: &caller.name,
            iat: now.unix_timestamp(),
            exp: (now + LIFETIME).unix_timestamp(),
            jti: Uuid::new_v4(),
            org: caller.organization,
            tenants: &caller.tenants,
            roles: &caller.roles,
        };
        let header = Header {
            typ: Some("at+jwt".into()),
            kid: Some(self.key_id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    client_id: &'a str,
    name: &'a str,
    iat: i64,
    exp: i64,
    jti: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<Uuid>,
    tenants: &'a [Uuid],
    roles: &'a [String],
}

/// The issuer's three endpoints.
pub fn router(issuer: Issuer) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(async |State(issuer): State<Arc<Issuer>>| Json(issuer.jwks.clone())))
        .route("/token", post(token))
        .route("/healthz", get(async || "ok"))
        .with_state(Arc::new(issuer))
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Json<serde_json::Value> {
    let url = &issuer.url;
    Json(json!({
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "token_endpoint": format!("{url}/token"),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

#[derive(Deserialize)]
struct TokenRequest {
    grant_type: String,
    client_id: Option<String>,
    client_secret: Option<String>,
}

async fn token(
    State(issuer): State<Arc<Issuer>>,
    headers: HeaderMap,
    Form(request): Form<TokenRequest>,
) -> Response {
    let mut response = match answer(&issuer, &headers, request) {
        Ok(token) => Json(json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": LIFETIME.whole_seconds(),
        }))
        .into_response(),
        Err(refusal) => refusal.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The errors of RFC 6749 §5.2 that can happen here.
enum Refusal {
    UnsupportedGrantType,
    InvalidClient,
    ServerError(anyhow::Error),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::UnsupportedGrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::ServerError(error) => {
                eprintln!("no token issued: {error:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "server_error")
            }
        };
        (status, Json(json!({ "error": code }))).into_response()
    }
}

fn answer(issuer: &Issuer, headers: &HeaderMap, request: TokenRequest) -> Result<String, Refusal> {
    if request.grant_type != "client_credentials" {
        return Err(Refusal::UnsupportedGrantType);
    }
    let (id, secret) = basic(headers)
        .or_else(|| Some((request.client_id?, request.client_secret?)))
        .ok_or(Refusal::InvalidClient)?;
    // Read each time: a caller added to the file counts at once, one removed does not.
    let callers = Callers::load(&issuer.callers).map_err(Refusal::ServerError)?;
    let caller = callers.authenticate(&id, &secret).ok_or(Refusal::InvalidClient)?;
    issuer.token(caller, OffsetDateTime::now_utc()).map_err(Refusal::ServerError)
}

/// Credentials from the header, each percent-encoded before they were joined (RFC 6749 §2.3.1).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let joined = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = joined.split_once(':')?;
    let decode = |part: &str| {
        url::form_urlencoded::parse(format!("v={part}").as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

/// Asks an issuer for a token, by its discovery document.
pub async fn request_token(issuer: &str, id: &str, secret: &str) -> anyhow::Result<Token> {
    let http = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(20))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("cannot build the HTTP client")?;
    let discovery: Discovery = http
        .get(format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .with_context(|| format!("the token issuer {issuer} does not answer"))?
        .json()
        .await
        .context("the token issuer's discovery document cannot be read")?;
    let response = http
        .post(discovery.token_endpoint)
        .form(&[("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)])
        .send()
        .await
        .context("the token endpoint does not answer")?;
    if !response.status().is_success() {
        bail!("the token issuer refused caller {id} with status {}", response.status());
    }
    response.json().await.context("the token endpoint's answer cannot be read")
}

#[derive(Deserialize)]
struct Discovery {
    token_endpoint: String,
}

/// What a token endpoint answers.
#[derive(Deserialize)]
pub struct Token {
    /// The access token.
    pub access_token: String,
    /// Its remaining life in seconds.
    pub expires_in: i64,
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    fn issuer(dir: &Path) -> Issuer {
        prepare(dir).unwrap();
        callers::prepare(dir).unwrap();
        Issuer::load(dir, url(1)).unwrap()
    }

    #[test]
    fn a_token_verifies_against_the_published_key_and_carries_its_callers_claims() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = issuer(dir.path());
        let callers = Callers::load(&callers::file(dir.path())).unwrap();
        let caller = callers.find("analyst").unwrap();
        let token = issuer.token(caller, OffsetDateTime::now_utc()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[url(1)]);
        let key = DecodingKey::from_jwk(&issuer.jwks.keys[0]).unwrap();
        let read = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).unwrap();
        assert_eq!(read.header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(read.header.kid, issuer.jwks.keys[0].common.key_id);
        assert_eq!(read.claims["roles"], json!(["analyst"]));
        assert_eq!(read.claims["org"], json!(caller.organization));
    }

    #[test]
    fn an_operators_token_names_no_organization() {
        let dir = tempfile::tempdir().unwrap();
        let callers_of = issuer(dir.path());
        let callers = Callers::load(&callers::file(dir.path())).unwrap();
        let token = callers_of.token(callers.find("operator").unwrap(), OffsetDateTime::now_utc()).unwrap();
        let body = token.split('.').nth(1).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert!(claims.get("org").is_none());
    }

    #[test]
    fn only_the_right_secret_and_grant_get_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = issuer(dir.path());
        let callers = Callers::load(&callers::file(dir.path())).unwrap();
        let secret = callers.find("viewer").unwrap().secret.clone();
        let ask = |grant: &str, secret: &str| {
            let request = TokenRequest {
                grant_type: grant.into(),
                client_id: Some("viewer".into()),
                client_secret: Some(secret.into()),
            };
            answer(&issuer, &HeaderMap::new(), request).is_ok()
        };
        assert!(ask("client_credentials", &secret));
        assert!(!ask("client_credentials", "guess"));
        assert!(!ask("password", &secret));
    }

    #[test]
    fn credentials_in_the_header_are_decoded_after_the_split() {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode("a%3Ab:s%20%2B"));
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        assert_eq!(basic(&headers), Some(("a:b".into(), "s +".into())));
    }
}
