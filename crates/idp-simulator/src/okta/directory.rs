//! What an org says of itself: well-known documents, password policies, administrators.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::{Org, errors};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

/// `/.well-known/…`, for everybody.
pub fn well_known(org: &Org, request: &Request, document: &str) -> Response<Bytes> {
    let base = &request.base;
    let body = match document {
        "okta-organization" => {
            json!({"id": org.settings.org_id, "_links": {"organization": {"href": base}}, "pipeline": "idx"})
        }
        "openid-configuration" | "oauth-authorization-server" => json!({
            "issuer": base,
            "token_endpoint": format!("{base}/oauth2/v1/token"),
            "jwks_uri": format!("{base}/oauth2/v1/keys"),
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "dpop_signing_alg_values_supported": ["RS256", "RS384", "RS512", "ES256", "ES384"],
        }),
        _ => return errors::error("E0000008"),
    };
    wire::json(StatusCode::OK, &body)
}

/// `GET /api/v1/org`.
pub fn organization(world: &World, org: &Org, request: &Request) -> Outcome {
    access::caller(world, org, request, "okta.orgs.read")?;
    let body = json!({"id": org.settings.org_id, "subdomain": org.settings.subdomain,
        "companyName": org.directory.name, "status": "ACTIVE"});
    Ok(wire::json(StatusCode::OK, &body))
}

/// `GET /api/v1/policies?type=PASSWORD`.
pub fn policies(world: &World, org: &Org, request: &Request) -> Outcome {
    let app = access::caller(world, org, request, "okta.policies.read")?;
    if !app.may(Permission::ReadPolicies) {
        return Err(errors::error("E0000006"));
    }
    if request.param("type").as_deref() != Some("PASSWORD") {
        return Err(errors::because("E0000001", "type", &["type: The type must be PASSWORD here."]));
    }
    let settings = &org.settings;
    let own = settings.policies.iter().map(|p| (p.name.as_str(), p.max_attempts, p.active, false));
    let all = own.chain([("Default Policy", settings.max_attempts, true, true)]);
    let shown: Vec<Value> = all
        .enumerate()
        .map(|(index, (name, attempts, active, system))| {
            let href = request.link(&format!("/api/v1/policies/00p{index:017}"));
            json!({"type": "PASSWORD", "id": format!("00p{index:017}"),
                "status": if active { "ACTIVE" } else { "INACTIVE" },
                "name": name, "priority": index + 1, "system": system,
                "conditions": {"people": {"groups": {"include": []}}, "authProvider": {"provider": "OKTA"}},
                "settings": {"password": {
                    "complexity": {"minLength": 8, "minLowerCase": 1, "minUpperCase": 1, "minNumber": 1,
                        "minSymbol": 0, "excludeUsername": true},
                    "age": {"maxAgeDays": 0, "expireWarnDays": 0, "minAgeMinutes": 0, "historyCount": 4},
                    "lockout": {"maxAttempts": attempts, "autoUnlockMinutes": settings.auto_unlock_minutes,
                        "userLockoutNotificationChannels": [],
                        "showLockoutFailures": settings.show_lockout_failures}}},
                "_links": {"self": {"href": href, "hints": {"allow": ["GET", "PUT"]}}}})
        })
        .collect();
    Ok(wire::json(StatusCode::OK, &Value::Array(shown)))
}

/// `GET /oauth2/v1/clients/{id}/roles`: the admin roles of a service app (okta.md §8.5).
pub fn client_roles(world: &World, org: &Org, request: &Request, client: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.roles.read")?;
    if !app.may(Permission::ReadRoles) {
        return Err(errors::error("E0000006"));
    }
    let Some(asked) = org.settings.app(client) else {
        return Err(errors::because(
            "E0000007",
            &format!("Resource not found: {client} (PublicClientApp)"),
            &[],
        ));
    };
    let roles: Vec<Value> = asked
        .roles
        .iter()
        .map(|role| {
            json!({"id": format!("irb{}", &crate::log::sha256_hex(role)[..17]), "label": role, "type": "CUSTOM",
                "status": "ACTIVE", "assignmentType": "CLIENT"})
        })
        .collect();
    Ok(wire::json(StatusCode::OK, &Value::Array(roles)))
}

/// `GET /api/v1/iam/assignees/users`. Its next links name the admin console's host, as live orgs' do (okta.md §3.7).
pub fn administrators(world: &World, org: &Org, request: &Request) -> Outcome {
    let app = access::caller(world, org, request, "okta.roles.read")?;
    if !app.may(Permission::ReadRoles) {
        return Err(errors::error("E0000006"));
    }
    let invalid = || errors::error("E0000001");
    let number = |name: &str, default: u64| {
        request.param(name).map_or(Ok(default), |text| text.parse::<u64>().map_err(|_| invalid()))
    };
    let (limit, position) = (number("limit", 100)?.min(100), number("after", 0)?);
    let limit = usize::try_from(limit).unwrap_or(100);
    let (accounts, next) = org.directory.accounts.page(position, limit, |account| !account.roles.is_empty());
    let value: Vec<Value> = accounts
        .iter()
        .map(|account| {
            let href = request.link(&format!("/api/v1/users/{}", account.id));
            json!({"id": account.id, "orn": format!("orn:okta:directory:{}:users:{}", org.settings.org_id, account.id),
                "_links": {"self": {"href": href}}})
        })
        .collect();
    let mut body = json!({"value": value, "_links": {}});
    if let (Some(next), Some(links)) = (next, body.get_mut("_links").and_then(Value::as_object_mut)) {
        let subdomain = &org.settings.subdomain;
        let admin = request.base.replacen(subdomain.as_str(), &format!("{subdomain}-admin"), 1);
        let href = format!("{admin}/api/v1/iam/assignees/users?after={next}&limit={limit}");
        links.insert("next".into(), json!({"href": href}));
    }
    Ok(wire::json(StatusCode::OK, &body))
}
