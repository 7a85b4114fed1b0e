//! The login host: the token endpoint with its order of checks (entra.md §2, §4.3).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::settings::{App, Cloud};
use super::{Tenant, assertion, discovery, errors, ropc, sign_in};
use crate::wire::{self, Answer, Form, Request};
use crate::world::World;

/// Answers one request to the login host.
pub fn answer(world: &Arc<World>, request: &Request) -> Answer {
    world.settle();
    let segments = request.segments();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (&request.method, parts.as_slice()) {
        (&Method::POST, [tenant, "oauth2", "v2.0", "token"]) => token(world, request, tenant),
        (&Method::GET, [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
            let fault = world.faults.take("", "entra.discovery", None);
            Answer { response: discovery::metadata(world, request, tenant), fault }
        }
        (&Method::GET, [_, "discovery", "v2.0", "keys"]) => {
            wire::json(StatusCode::OK, &world.tokens.jwks()).into()
        }
        (&Method::GET, ["common", "discovery", "instance"]) => discovery::instance(world, request).into(),
        (&Method::GET, ["common", "userrealm", user]) => discovery::realm(world, request, user).into(),
        _ => wire::empty(StatusCode::NOT_FOUND).into(),
    }
}

/// The tenant a path segment names, if it lives in the cloud of the host that was called.
pub(super) fn find_tenant(world: &World, request: &Request, key: &str) -> Option<Tenant> {
    let directory = world.directory(key)?;
    let tenant = Tenant::of(directory)?;
    let host = url::Url::parse(&request.base).ok()?.host_str()?.to_owned();
    let elsewhere =
        super::is_login_host(&host) && !tenant.settings.cloud.login_hosts().contains(&host.as_str());
    (!elsewhere).then_some(tenant)
}

pub(super) fn unknown_tenant(world: &World, request: &Request, key: &str) -> Response<Bytes> {
    let plausible = uuid::Uuid::parse_str(key).is_ok() || key.contains('.');
    errors::oauth(request, world.now(), if plausible { 90002 } else { 900_023 }, "")
}

fn token(world: &World, request: &Request, key: &str) -> Answer {
    let form = request.form();
    let now = world.now();
    let no = |code: u32| Answer::from(errors::oauth(request, now, code, ""));
    let grant = form.get("grant_type");

    // A password grant may come without a tenant; the user's domain then names it.
    let tenant = match (key, grant) {
        ("common" | "consumers", Some("password")) => return no(9_001_023),
        ("organizations", Some("password")) => {
            let domain = form.get("username").and_then(|u| u.rsplit_once('@')).map(|(_, domain)| domain);
            match domain.and_then(|domain| find_tenant(world, request, domain)) {
                Some(tenant) => tenant,
                None => return no(50059),
            }
        }
        _ => match find_tenant(world, request, key) {
            Some(tenant) => tenant,
            None => return unknown_tenant(world, request, key).into(),
        },
    };
    let operation = if grant == Some("password") { "entra.password" } else { "entra.token" };
    if operation == "entra.password" {
        // From here on a password was submitted, whatever else is wrong with the request.
        return ropc::answer(world, request, &tenant, &form);
    }
    let fault = world.faults.take(&tenant.directory.id, operation, None);
    if let Some(fault) = fault.as_ref().filter(|fault| !fault.evaluates()) {
        return Answer { response: wire::empty(StatusCode::OK), fault: Some(fault.clone()) };
    }
    let response = match client(world, request, &tenant, &form) {
        Err(refusal) => refusal,
        Ok(app) => match grant {
            None => errors::oauth(request, now, 900_144, "grant_type"),
            Some("client_credentials") => app_token(world, request, &tenant, app, &form),
            Some("refresh_token") => sign_in::redeem(world, request, &tenant, app, &form),
            Some(_) => errors::oauth(request, now, 70003, ""),
        },
    };
    Answer { response, fault }
}

/// Checks client id and client credential; the error is the refusal to answer with.
pub(super) fn client<'t>(
    world: &World,
    request: &Request,
    tenant: &'t Tenant,
    form: &Form,
) -> Result<&'t App, Response<Bytes>> {
    let now = world.now();
    let no = |code: u32, detail: &str| errors::oauth(request, now, code, detail);
    let basic = basic_credentials(request);
    let client_id =
        form.get("client_id").map(str::to_owned).or_else(|| basic.as_ref().map(|(id, _)| id.clone()));
    let client_id = client_id.ok_or_else(|| no(900_144, "client_id"))?;
    match uuid::Uuid::parse_str(&client_id) {
        Ok(id) if !id.is_nil() => {}
        _ => return Err(no(700_038, "")),
    }
    let app = tenant.settings.app(&client_id).ok_or_else(|| no(700_016, ""))?;
    if app.disabled {
        return Err(no(7_000_112, ""));
    }
    let secret = form.get("client_secret").map(str::to_owned).or_else(|| basic.map(|(_, secret)| secret));
    let signed = form.get("client_assertion");
    // Public client flows exist for user grants only: an app-only token needs a credential whatever the switch says.
    let public = app.public && matches!(form.get("grant_type"), Some("password" | "refresh_token"));
    match (secret, signed) {
        (Some(_), _) | (_, Some(_)) if public => Err(no(700_025, "")),
        (None, None) if public => Ok(app),
        (None, None) => Err(no(7_000_218, "")),
        (Some(secret), _) => match app.secrets.iter().find(|s| s.value == secret) {
            Some(known) if known.expires.is_some_and(|expires| expires <= now) => Err(no(7_000_222, "")),
            Some(known) if known.usable_from.is_none_or(|from| from <= now) => Ok(app),
            _ => Err(no(7_000_215, "")),
        },
        (None, Some(signed)) => match assertion::check(world, request, tenant, app, signed) {
            Ok(()) => Ok(app),
            Err(reason) => Err(no(700_027, reason)),
        },
    }
}

fn basic_credentials(request: &Request) -> Option<(String, String)> {
    let decoded = STANDARD.decode(request.authorization("Basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((wire::decode(id), wire::decode(secret)))
}

/// An app-only token, if the scope names Graph's `/.default`.
fn app_token(world: &World, request: &Request, tenant: &Tenant, app: &App, form: &Form) -> Response<Bytes> {
    let now = world.now();
    let Some(scope) = form.get("scope") else { return errors::oauth(request, now, 900_144, "scope") };
    let Some(resource) = scope.strip_suffix("/.default") else {
        return errors::oauth(request, now, 1_002_012, "");
    };
    if !is_graph(tenant.settings.cloud, resource, request) {
        return errors::oauth(request, now, 500_011, "");
    }
    let issued = now.unix_timestamp();
    let mut claims = json!({
        "aud": resource,
        "iss": format!("https://sts.windows.net/{}/", tenant.settings.tenant_id),
        "iat": issued, "nbf": issued, "exp": issued + tenant.settings.token_life_s,
        "appid": app.client_id, "idtyp": "app", "oid": app.object_id(), "sub": app.object_id(),
        "tid": tenant.settings.tenant_id, "ver": "1.0", "uti": uuid::Uuid::new_v4().simple().to_string(),
    });
    // INVARIANT: without a granted permission a token is issued all the same, and has no `roles` at all (entra.md §2.4).
    if let (Some(claims), false) = (claims.as_object_mut(), app.permissions.is_empty()) {
        claims.insert("roles".into(), json!(app.permissions));
    }
    let life = tenant.settings.token_life_s;
    let body = json!({"token_type": "Bearer", "expires_in": life, "ext_expires_in": life,
        "access_token": world.tokens.sign("JWT", &claims)});
    let mut response = wire::json(StatusCode::OK, &body);
    errors::no_store(&mut response);
    response
}

/// Whether a resource is Graph in this cloud: its host, its application id, or its address under our path prefix.
fn is_graph(cloud: Cloud, resource: &str, request: &Request) -> bool {
    resource == format!("https://{}", cloud.graph_host())
        || resource == super::access::GRAPH_APP_ID
        || request.base.strip_suffix("/entra-login").is_some_and(|root| resource == format!("{root}/graph"))
}
