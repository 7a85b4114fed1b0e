//! The password grant of a native application (okta.md §4.3): the same counters as a sign-in, told in OAuth's words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::authn::{Attempt, Ruling, judge, plain, record, submit};
use super::{Org, errors, rate};
use crate::model::Account;
use crate::wire::{self, Answer, Form, Request};
use crate::world::World;

/// Whether a token request submits a password.
pub fn is_meant(request: &Request) -> bool {
    request.form().get("grant_type") == Some("password")
}

/// Answers a password grant.
pub fn answer(world: &World, org: &Org, request: &Request, throttled: bool) -> Answer {
    let form = request.form();
    let text = |name: &str| form.get(name).unwrap_or_default().to_owned();
    let (client_id, secret) = credentials(request, &form);
    let attempt = Attempt {
        username: text("username"),
        password: text("password"),
        client_id: Some(client_id.clone()),
        throttled,
    };
    submit(world, org, request, attempt, |attempt, account| {
        if let Err(refusal) = preconditions(org, &form, &client_id, secret.as_deref()) {
            return plain(refusal);
        }
        if world.okta.rates.too_fast(org, &attempt.username, world.now()) {
            return plain(rate::name_throttled(world.now()));
        }
        let ruling = judge(world, org, request, account, &attempt.password);
        record(world, org, request, account, &attempt.username, &ruling);
        let response = translated(world, org, &form, &client_id, account, &ruling);
        Ruling { response, ..ruling }
    })
}

/// Client id and secret, from the header or the form.
fn credentials(request: &Request, form: &Form) -> (String, Option<String>) {
    let basic = request.authorization("Basic").and_then(|basic| STANDARD.decode(basic).ok());
    let basic = basic.and_then(|basic| String::from_utf8(basic).ok());
    if let Some((id, secret)) = basic.as_deref().and_then(|basic| basic.split_once(':')) {
        return (wire::decode(id), Some(wire::decode(secret)));
    }
    let text = |name: &str| form.get(name).map(str::to_owned);
    (text("client_id").unwrap_or_default(), text("client_secret"))
}

/// What is looked at before the password.
fn preconditions(
    org: &Org,
    form: &Form,
    client_id: &str,
    secret: Option<&str>,
) -> Result<(), Response<Bytes>> {
    let no = |status, error, text| Err(errors::oauth(status, error, text));
    let Some(app) = org.settings.app(client_id).filter(|app| app.active) else {
        return no(401, "invalid_client", "Invalid value for 'client_id' parameter.");
    };
    if app.secret.as_deref() != secret {
        return no(401, "invalid_client", "The client secret supplied for a confidential client is invalid.");
    }
    if !app.password_grant {
        let text = "The client is not authorized to use the provided grant type.";
        return no(400, "unauthorized_client", text);
    }
    if form.get("scope").is_none() {
        return no(400, "invalid_scope", "No scopes were requested.");
    }
    if form.get("username").is_none() || form.get("password").is_none() {
        return no(400, "invalid_request", "The 'username' and 'password' parameters are required.");
    }
    Ok(())
}

/// A sign-in's answer in OAuth's words.
fn translated(
    world: &World,
    org: &Org,
    form: &Form,
    client_id: &str,
    account: Option<&Account>,
    ruling: &Ruling,
) -> Response<Bytes> {
    let body: Value = serde_json::from_slice(ruling.response.body()).unwrap_or_default();
    match (body.get("status").and_then(Value::as_str), account) {
        (Some("SUCCESS" | "PASSWORD_WARN"), Some(account)) => tokens(world, org, form, client_id, account),
        (Some("MFA_REQUIRED" | "MFA_ENROLL"), _) => {
            let text = "Verify with an additional authenticator to complete the sign-in process.";
            let token = uuid::Uuid::new_v4().simple().to_string();
            let body = json!({"error": "mfa_required", "error_description": text, "mfa_token": token});
            wire::json(StatusCode::FORBIDDEN, &body)
        }
        (Some("PASSWORD_EXPIRED"), _) => errors::oauth(400, "invalid_grant", "Password has expired."),
        _ => errors::oauth(400, "invalid_grant", "The credentials provided were invalid."),
    }
}

fn tokens(world: &World, org: &Org, form: &Form, client_id: &str, account: &Account) -> Response<Bytes> {
    let (now, life) = (world.now().unix_timestamp(), org.settings.token_life_s);
    let scope = form.get("scope").unwrap_or_default();
    let issuer = format!("https://{}.okta.com", org.settings.subdomain);
    let claims = json!({"ver": 1, "iss": issuer, "aud": client_id, "sub": account.id, "iat": now, "exp": now + life,
        "preferred_username": account.login});
    let mut body = json!({"token_type": "Bearer", "expires_in": life, "scope": scope,
        "access_token": world.tokens.sign("application/okta-internal-at+jwt", &claims)});
    if let (Some(body), true) = (body.as_object_mut(), scope.split(' ').any(|scope| scope == "openid")) {
        body.insert("id_token".into(), world.tokens.sign("JWT", &claims).into());
    }
    wire::json(StatusCode::OK, &body)
}
