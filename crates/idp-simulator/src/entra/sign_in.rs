//! What a user's sign-in is answered with: access token, id token, refresh token; and the life of the last (entra.md §4,
//! §12.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::access::GRAPH_APP_ID;
use super::settings::App;
use super::{Tenant, errors};
use crate::generate::derived_guid;
use crate::model::{Account, Status};
use crate::wire::{self, Form, Request};
use crate::world::World;

/// Refresh tokens are opaque to clients; the prefix keeps one from being taken for an access token.
const REFRESH: &str = "1.A";

/// Tokens for somebody who signed in, as far as the scope asks for them.
pub(super) fn tokens(
    world: &World,
    request: &Request,
    tenant: &Tenant,
    form: &Form,
    account: &Account,
) -> Response<Bytes> {
    let settings = &tenant.settings;
    let now = world.now();
    let (issued, life) = (now.unix_timestamp(), settings.token_life_s);
    let client = form.get("client_id").unwrap_or_default();
    let scope = form.get("scope").unwrap_or_default();
    let asks = |wanted: &str| scope.split(' ').any(|scope| scope == wanted);
    let tenant_id = &settings.tenant_id;
    let access = json!({"aud": GRAPH_APP_ID, "iss": format!("https://sts.windows.net/{tenant_id}/"), "iat": issued,
        "nbf": issued, "exp": issued + life, "appid": client, "idtyp": "user", "name": account.display_name,
        "oid": account.id, "scp": scope, "tid": tenant_id, "upn": account.login, "ver": "1.0"});
    let mut body = json!({"token_type": "Bearer", "scope": scope, "expires_in": life, "ext_expires_in": life,
        "access_token": world.tokens.sign("JWT", &access)});
    let Some(members) = body.as_object_mut() else { return wire::json(StatusCode::OK, &body) };
    if asks("openid") {
        let identity = json!({"aud": client, "iss": request.link(&format!("/{tenant_id}/v2.0")), "iat": issued,
            "nbf": issued, "exp": issued + life, "name": account.display_name, "oid": account.id,
            "preferred_username": account.login, "sub": derived_guid(&format!("{client} {}", account.id)),
            "tid": tenant_id, "uti": uuid::Uuid::new_v4().simple().to_string(), "ver": "2.0"});
        members.insert("id_token".into(), world.tokens.sign("JWT", &identity).into());
    }
    if form.get("client_info").is_some() {
        let who = json!({"uid": account.id, "utid": tenant_id}).to_string();
        members.insert("client_info".into(), URL_SAFE_NO_PAD.encode(who).into());
    }
    if asks("offline_access") {
        members.insert("refresh_token".into(), refresh_token(world, tenant_id, client, account, now).into());
    }
    let mut response = wire::json(StatusCode::OK, &body);
    errors::no_store(&mut response);
    response
}

fn refresh_token(
    world: &World,
    tenant: &str,
    client: &str,
    account: &Account,
    now: OffsetDateTime,
) -> String {
    let claims = json!({"tid": tenant, "appid": client, "oid": account.id, "at": micros(now)});
    format!("{REFRESH}{}", world.tokens.sign("RT", &claims))
}

/// The refresh token grant: dead once the sessions were revoked, the account was disabled or is gone.
pub(super) fn redeem(
    world: &World,
    request: &Request,
    tenant: &Tenant,
    app: &App,
    form: &Form,
) -> Response<Bytes> {
    let now = world.now();
    let no = |code: u32| errors::oauth(request, now, code, "");
    let Some(given) = form.get("refresh_token") else {
        return errors::oauth(request, now, 900_144, "refresh_token");
    };
    let Some(claims) = given.strip_prefix(REFRESH).and_then(|token| world.tokens.open(token)) else {
        return no(9_002_313);
    };
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("tid") != tenant.settings.tenant_id || !text("appid").eq_ignore_ascii_case(&app.client_id) {
        return no(700_005);
    }
    let account = tenant.directory.accounts.get(text("oid"));
    let Some(account) = account.filter(|account| account.status != Status::Deleted) else {
        return no(50034);
    };
    if account.status == Status::Disabled {
        return no(50057);
    }
    let issued = claims.get("at").and_then(Value::as_i64).unwrap_or_default();
    if issued < micros(account.sessions_valid_from) {
        return no(50173);
    }
    tokens(world, request, tenant, form, &account)
}

fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}
