//! `/oauth2/v1/token` for service apps: assertion checks in the order of okta.md §2, DPoP, partial scopes.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::jwt::Jwt;
use super::settings::{App, Dpop, Pipeline};
use super::{Org, dpop, errors};
use crate::wire::{self, Request};
use crate::world::World;

const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Scopes that exist; requesting another one is an error, requesting an ungranted one is not.
const SCOPES: &[&str] = &[
    "okta.users.read",
    "okta.users.manage",
    "okta.groups.read",
    "okta.groups.manage",
    "okta.apps.read",
    "okta.apps.manage",
    "okta.roles.read",
    "okta.roles.manage",
    "okta.logs.read",
    "okta.policies.read",
    "okta.orgs.read",
    "okta.sessions.manage",
    "okta.userRisk.read",
    "okta.userRisk.manage",
    "okta.universalLogout.manage",
    "okta.eventHooks.manage",
    "okta.eventHooks.read",
    "okta.appGrants.read",
    "okta.principalRateLimits.read",
];

/// Answers a token request.
pub async fn answer(world: &World, org: &Org, request: &Request) -> Response<Bytes> {
    if request.method != Method::POST {
        return errors::error("E0000022");
    }
    match grant(world, org, request).await {
        Ok(response) | Err(response) => response,
    }
}

async fn grant(world: &World, org: &Org, request: &Request) -> Result<Response<Bytes>, Response<Bytes>> {
    let form = request.form();
    if form.get("grant_type") != Some("client_credentials") {
        return Err(errors::oauth(
            400,
            "unsupported_grant_type",
            "The authorization grant type is not supported by the authorization server.",
        ));
    }
    if form.get("client_secret").is_some() || request.headers.contains_key("authorization") {
        return Err(client(
            "Client Credentials requests to the Org Authorization Server must use the private_key_jwt \
             token_endpoint_auth_method.",
        ));
    }
    let Some(assertion) = form.get("client_assertion") else {
        return Err(client("No client credentials found."));
    };
    if form.get("client_assertion_type") != Some(ASSERTION) {
        return Err(errors::oauth(400, "invalid_request", "The client_assertion_type is invalid."));
    }
    let app = assertion_of(world, org, request, assertion).await?;
    if !app.in_zone {
        let text = "The request is made from outside the client's permitted network zones.";
        return Err(errors::oauth(403, "access_denied", text));
    }
    let scopes: Vec<&str> = form.get("scope").unwrap_or_default().split_ascii_whitespace().collect();
    if scopes.is_empty() {
        return Err(errors::oauth(400, "invalid_scope", "No scopes were requested."));
    }
    let classic = org.settings.pipeline == Pipeline::V1;
    let known = |scope: &&str| SCOPES.contains(scope) && !(classic && scope.starts_with("okta.userRisk."));
    if !scopes.iter().all(known) {
        let text = "One or more scopes are not configured for the authorization server resource.";
        return Err(errors::oauth(400, "invalid_scope", text));
    }
    // Ungranted scopes are left out without a word; only when nothing is left it is an error.
    let granted: Vec<&str> =
        scopes.into_iter().filter(|scope| app.scopes.iter().any(|s| s == scope)).collect();
    if granted.is_empty() {
        let text = "You are not allowed any of the requested scopes.";
        return Err(errors::oauth(400, "consent_required", text));
    }
    let bound = proof(world, org, request, app)?;
    Ok(issue(world, org, request, app, &granted, bound))
}

fn client(description: &str) -> Response<Bytes> {
    errors::oauth(401, "invalid_client", description)
}

/// Client, audience, times, replay, key, signature, in this order. A `jti` is burnt by every request, even one that is
/// refused for its nonce afterwards.
async fn assertion_of<'a>(
    world: &World,
    org: &'a Org,
    request: &Request,
    assertion: &str,
) -> Result<&'a App, Response<Bytes>> {
    let jwt = Jwt::parse(assertion).ok_or_else(|| client("The parsing of the client_assertion failed."))?;
    let issuer = jwt.claim("iss").and_then(|id| org.settings.app(id));
    let Some(app) = issuer else {
        return Err(client("The issuer claim for client_assertion is not a valid client_id."));
    };
    if !app.active {
        return Err(client("Invalid value for 'client_id' parameter."));
    }
    if jwt.claim("sub") != Some(&app.client_id) {
        return Err(client("The subject claim for client_assertion is not a valid client_id."));
    }
    let audience = match jwt.claims.get("aud") {
        Some(Value::Array(many)) => many.first().and_then(Value::as_str),
        Some(one) => one.as_str(),
        None => None,
    };
    if audience != Some(&request.link(&request.path)) {
        return Err(client(
            "The audience claim for client_assertion must be the endpoint invoked for the request.",
        ));
    }
    let now = world.now().unix_timestamp();
    let Some(expires) = jwt.number("exp") else {
        return Err(client("The client_assertion must contain the 'exp' claim as seconds since epoch."));
    };
    if expires <= now {
        return Err(client("The client_assertion token is expired."));
    }
    if expires > now + 3600 {
        return Err(client("The client_assertion token has an expiration too far into the future."));
    }
    if jwt.number("iat").is_some_and(|issued| issued > now) {
        return Err(client("The client_assertion token must be issued before the current time."));
    }
    let replayed =
        |jti| world.replayed(&format!("assertion/{}/{}/{jti}", org.directory.id, app.client_id), expires);
    if jwt.claim("jti").is_some_and(replayed) {
        return Err(client("The client_assertion token has already been used."));
    }
    if jwt.algorithm().is_none() {
        return Err(client("The client_assertion JWT signature algorithm is invalid."));
    }
    let keys = world.okta.keys.of(world, &org.settings, app, jwt.head("kid")).await.map_err(client)?;
    let key = match jwt.head("kid") {
        Some(kid) => keys.iter().find(|key| key.get("kid").and_then(Value::as_str) == Some(kid)),
        // Without a kid only a single saved key can be meant.
        None => keys.first().filter(|_| keys.len() == 1 && app.jwks_uri.is_none()),
    };
    let Some(key) = key else { return Err(client("The client_assertion JWT kid is invalid.")) };
    if !jwt.signed_by(key) {
        return Err(client("The client_assertion signature is invalid."));
    }
    Ok(app)
}

/// The thumbprint the token is bound to, where the app wants one.
fn proof(world: &World, org: &Org, request: &Request, app: &App) -> Result<Option<String>, Response<Bytes>> {
    if app.dpop == Dpop::Off {
        return Ok(None);
    }
    match dpop::check(world, org, request, app.dpop == Dpop::Nonce, None) {
        Ok(print) => Ok(Some(print)),
        Err(dpop::Refused::Proof(text)) => Err(errors::oauth(400, "invalid_dpop_proof", text)),
        Err(dpop::Refused::Nonce) => {
            let text = "Authorization server requires nonce in DPoP proof.";
            let mut response = errors::oauth(400, "use_dpop_nonce", text);
            give_nonce(org, &mut response);
            Err(response)
        }
    }
}

fn issue(
    world: &World,
    org: &Org,
    request: &Request,
    app: &App,
    scopes: &[&str],
    bound: Option<String>,
) -> Response<Bytes> {
    let (now, life) = (world.now().unix_timestamp(), org.settings.token_life_s);
    let mut claims = json!({"ver": 1, "jti": format!("AT.{}", uuid::Uuid::new_v4().simple()), "iss": request.base,
        "aud": request.base, "sub": app.client_id, "cid": app.client_id, "iat": now, "exp": now + life, "scp": scopes});
    let dpop = bound.is_some();
    if let (Some(print), Some(claims)) = (bound, claims.as_object_mut()) {
        claims.insert("cnf".into(), json!({"jkt": print}));
    }
    let token = world.tokens.sign("application/okta-internal-at+jwt", &claims);
    let body = json!({"token_type": if dpop { "DPoP" } else { "Bearer" }, "expires_in": life, "access_token": token,
        "scope": scopes.join(" ")});
    let mut response = wire::json(StatusCode::OK, &body);
    wire::set_header(&mut response, "pragma", "no-cache");
    if dpop {
        give_nonce(org, &mut response);
    }
    response
}

/// The newest nonce, as every answer about DPoP carries it.
pub fn give_nonce(org: &Org, response: &mut Response<Bytes>) {
    if let Some(nonce) = org.settings.dpop_nonces.first() {
        wire::set_header(response, "dpop-nonce", nonce);
    }
}
