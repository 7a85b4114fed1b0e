//! What an org says of itself: well-known documents, password policies, administrators.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::settings::{Policy, Settings};
use super::user::timestamp;
use super::users::find;
use super::{Org, errors};
use crate::model::{Account, Directory};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

/// `/.well-known/…`, for everybody.
pub fn well_known(org: &Org, request: &Request, document: &str) -> Response<Bytes> {
    let base = &request.base;
    let body = match document {
        "okta-organization" => {
            let mut links = json!({"organization": {"href": base}});
            if let Some(domain) = &org.settings.custom_domain {
                let own = base.replacen(domain.as_str(), &format!("{}.okta.com", org.settings.subdomain), 1);
                links = json!({"organization": {"href": own}, "alternate": {"href": format!("https://{domain}")}});
            }
            json!({"id": org.settings.org_id, "_links": links, "pipeline": org.settings.pipeline})
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
    let default = Policy {
        name: "Default Policy".into(),
        max_attempts: settings.max_attempts,
        groups: Vec::new(),
        active: true,
        min_length: settings.min_length,
        updated: "2026-01-01T00:00:00.000Z".into(),
    };
    let last = settings.policies.len();
    let shown: Vec<Value> = settings
        .policies
        .iter()
        .chain([&default])
        .enumerate()
        .map(|(index, policy)| {
            let href = request.link(&format!("/api/v1/policies/00p{index:017}"));
            json!({"type": "PASSWORD", "id": format!("00p{index:017}"),
                "status": if policy.active { "ACTIVE" } else { "INACTIVE" },
                "name": policy.name, "priority": index + 1, "system": index == last, "lastUpdated": policy.updated,
                "conditions": {"people": {"groups": {"include": policy.groups}},
                    "authProvider": {"provider": "OKTA"}},
                "settings": {"password": {
                    "complexity": {"minLength": policy.min_length, "minLowerCase": 1, "minUpperCase": 1, "minNumber": 1,
                        "minSymbol": 0, "excludeUsername": true},
                    "age": {"maxAgeDays": 0, "expireWarnDays": 0, "minAgeMinutes": 0, "historyCount": 4},
                    "lockout": {"maxAttempts": policy.max_attempts, "autoUnlockMinutes": settings.auto_unlock_minutes,
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

/// Wrong tries that lock a user: of the first active policy that has one of the user's groups, else of the default one.
pub fn max_attempts(directory: &Directory, settings: &Settings, account: &Account) -> u32 {
    let applies = |policy: &&Policy| {
        policy.active && policy.groups.iter().any(|group| directory.is_member(group, account))
    };
    settings.policies.iter().find(applies).map_or(settings.max_attempts, |policy| policy.max_attempts)
}

/// `GET /attack-protection/api/v1/user-lockout-settings`.
pub fn lockout(world: &World, org: &Org, request: &Request) -> Outcome {
    access::caller(world, org, request, "okta.orgs.read")?;
    let body = json!([{"preventBruteForceLockoutFromUnknownDevices": org.settings.unknown_device_lockout}]);
    Ok(wire::json(StatusCode::OK, &body))
}

/// `GET /api/v1/users/{id}/roles`: standard and custom roles, of the user's own and through groups. Ids of standard ones are
/// the same for every user, as live orgs' are (okta.md §3.7).
pub fn roles(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.roles.read")?;
    if !app.may(Permission::ReadRoles) {
        return Err(errors::error("E0000006"));
    }
    let account = find(org, key).ok_or_else(|| errors::no_user(key))?;
    let made = timestamp(account.created);
    let show = |role: &str, through: Option<&str>| {
        let assignee = match through {
            None => format!("/api/v1/users/{}", account.id),
            Some(group) => format!("/api/v1/groups/{group}"),
        };
        let custom = org.settings.custom_roles.iter().find(|custom| custom.label == role);
        let mut shown = json!({"id": base32(role), "label": role, "type": role, "status": "ACTIVE", "created": made,
            "lastUpdated": made, "assignmentType": if through.is_some() { "GROUP" } else { "USER" },
            "_links": {"assignee": {"href": request.link(&assignee)}}});
        if let (Some(custom), Some(shown)) = (custom, shown.as_object_mut()) {
            shown.insert("type".into(), "CUSTOM".into());
            shown.insert("role".into(), json!(custom.id));
        }
        shown
    };
    let own = account.roles.iter().map(|role| show(role, None));
    let groups = org.directory.groups.iter().filter(|group| org.directory.is_member(&group.id, &account));
    let through = groups.flat_map(|group| {
        let roles = org.directory.group_roles(&group.id, None);
        roles.into_iter().map(|role| show(&role, Some(&group.id))).collect::<Vec<_>>()
    });
    Ok(wire::json(StatusCode::OK, &own.chain(through).collect()))
}

/// RFC 4648 without padding.
fn base32(text: &str) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    text.as_bytes()
        .chunks(5)
        .flat_map(|chunk| {
            let value = chunk.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
            let (value, digits) = (value << (8 * (5 - chunk.len())), (chunk.len() * 8).div_ceil(5));
            (0..digits).map(move |at| {
                let digit = usize::try_from((value >> (35 - 5 * at)) & 31).unwrap_or(0);
                char::from(DIGITS.get(digit).copied().unwrap_or(b'A'))
            })
        })
        .collect()
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
