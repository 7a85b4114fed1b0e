//! Who calls the API and what they may: first the OAuth layer, then the admin role (okta.md §1.1, §1.4, §5).

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::jwt::Jwt;
use super::settings::App;
use super::token::give_nonce;
use super::{Org, dpop, errors};
use crate::model::Account;
use crate::wire::Request;
use crate::world::World;

/// What a role permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read users.
    ReadUsers,
    /// Read policies.
    ReadPolicies,
    /// Read who is an administrator.
    ReadRoles,
    /// Read the System Log.
    ReadLogs,
    /// End sessions.
    ClearSessions,
    /// Suspend.
    Suspend,
    /// Unsuspend.
    Unsuspend,
    /// Unlock.
    Unlock,
    /// Activate, deactivate, reactivate.
    Lifecycle,
    /// Expire and reset passwords.
    Passwords,
    /// Read groups.
    ReadGroups,
    /// Read and set a user's risk.
    Risk,
}

use Permission::{
    ClearSessions, Lifecycle, Passwords, ReadGroups, ReadLogs, ReadPolicies, ReadRoles, ReadUsers, Risk,
    Suspend, Unlock, Unsuspend,
};

/// Standard roles, and the single permissions of custom ones.
const ROLES: &[(&str, &[Permission])] = &[
    (
        "SUPER_ADMIN",
        &[
            ReadUsers,
            ReadGroups,
            ReadPolicies,
            ReadRoles,
            ReadLogs,
            ClearSessions,
            Suspend,
            Unsuspend,
            Unlock,
            Lifecycle,
            Passwords,
            Risk,
        ],
    ),
    (
        "ORG_ADMIN",
        &[
            ReadUsers,
            ReadGroups,
            ReadPolicies,
            ReadLogs,
            ClearSessions,
            Suspend,
            Unsuspend,
            Unlock,
            Lifecycle,
            Passwords,
        ],
    ),
    ("USER_ADMIN", &[ReadUsers, ReadGroups, ClearSessions, Suspend, Unsuspend, Unlock, Lifecycle, Passwords]),
    ("HELP_DESK_ADMIN", &[ReadUsers, ReadGroups, ClearSessions, Unlock, Passwords]),
    ("READ_ONLY_ADMIN", &[ReadUsers, ReadGroups, ReadPolicies, ReadLogs]),
    ("okta.users.read", &[ReadUsers]),
    ("okta.groups.read", &[ReadGroups]),
    ("okta.users.lifecycle.clearSessions", &[ClearSessions]),
    ("okta.users.lifecycle.suspend", &[Suspend]),
    ("okta.users.lifecycle.unsuspend", &[Unsuspend]),
    ("okta.users.lifecycle.unlock", &[Unlock]),
    ("okta.users.lifecycle.manage", &[ClearSessions, Suspend, Unsuspend, Unlock, Lifecycle]),
    ("okta.users.credentials.manage", &[Passwords]),
    ("okta.users.manage", &[ReadUsers, ClearSessions, Suspend, Unsuspend, Unlock, Lifecycle, Passwords]),
    ("okta.iam.read", &[ReadRoles]),
];

impl App {
    /// Whether one of its roles permits this.
    pub fn may(&self, permission: Permission) -> bool {
        ROLES
            .iter()
            .any(|(name, permits)| permits.contains(&permission) && self.roles.iter().any(|r| r == name))
    }

    /// Whether its role covers this user.
    pub fn sees(&self, account: &Account) -> bool {
        self.covers.as_ref().is_none_or(|ids| ids.contains(&account.id))
    }

    /// Whether its role covers this group.
    pub fn covers_group(&self, group: &str) -> bool {
        self.covers_groups.as_ref().is_none_or(|ids| ids.iter().any(|id| id == group))
    }

    /// Whether its role shows this group.
    pub fn shows(&self, group: &str) -> bool {
        self.may(ReadGroups) && self.covers_group(group)
    }

    /// Whether it may act on this user: only super administrators act on administrators.
    pub fn may_act_on(&self, account: &Account) -> bool {
        self.sees(account) && (account.roles.is_empty() || self.roles.iter().any(|r| r == "SUPER_ADMIN"))
    }
}

/// The OAuth layer: a live token with this scope, sent the way it was bound.
pub fn caller<'a>(
    world: &World,
    org: &'a Org,
    request: &Request,
    scope: &str,
) -> Result<&'a App, Response<Bytes>> {
    let refuse =
        |scheme, status, error, text| Err(errors::challenge(request, scheme, status, error, text, ""));
    let (token, bound) = match (request.authorization("Bearer"), request.authorization("DPoP")) {
        (Some(token), _) => (token, false),
        (_, Some(token)) => (token, true),
        _ => return Err(errors::error("E0000011")),
    };
    let scheme = if bound { "DPoP" } else { "Bearer" };
    let claims = world.tokens.open(token).filter(|claims| text(claims, "iss") == Some(&request.base));
    let Some(claims) = claims else {
        return refuse(scheme, 401, "invalid_token", "The access token is invalid.");
    };
    if claims.get("exp").and_then(Value::as_i64).is_none_or(|exp| exp <= world.now().unix_timestamp()) {
        return refuse(scheme, 401, "invalid_token", "The token has expired.");
    }
    let key = claims.pointer("/cnf/jkt").and_then(Value::as_str);
    match (bound, key) {
        (false, Some(_)) => {
            let text =
                "The resource request must use the DPoP authentication scheme when using a DPoP bound token.";
            return refuse("DPoP", 400, "invalid_request", text);
        }
        (true, None) => {
            return refuse("DPoP", 401, "invalid_token", "The presented access_token is not DPoP bound.");
        }
        (true, Some(_)) if !request.headers.contains_key("dpop") => {
            return refuse("DPoP", 400, "invalid_request", "The resource request requires a DPoP proof.");
        }
        (true, Some(key)) => match dpop::check(world, org, request, org.settings.api_nonce, Some(token)) {
            Ok(print) if print == key => {}
            Ok(_) => {
                return refuse("DPoP", 401, "invalid_token", "The access token is bound to another key.");
            }
            Err(dpop::Refused::Proof(text)) => return refuse("DPoP", 400, "invalid_dpop_proof", text),
            Err(dpop::Refused::Nonce) => {
                let text = "Resource server requires nonce in DPoP proof.";
                let mut response = errors::challenge(request, "DPoP", 401, "use_dpop_nonce", text, "");
                give_nonce(org, &mut response);
                return Err(response);
            }
        },
        (false, None) => {}
    }
    let app = text(&claims, "cid").and_then(|id| org.settings.app(id)).filter(|app| app.active);
    let Some(app) = app else {
        return refuse(scheme, 401, "invalid_token", "The access token has been revoked.");
    };
    let scopes = claims.get("scp").and_then(Value::as_array);
    if !scopes.is_some_and(|scopes| scopes.iter().any(|s| s.as_str() == Some(scope))) {
        let text = "The access token provided does not contain the required scopes.";
        return Err(errors::challenge(request, scheme, 403, "insufficient_scope", text, scope));
    }
    Ok(app)
}

/// The client id a request's token names, for the rate limits; checked elsewhere.
pub fn principal(request: &Request) -> Option<String> {
    let token = request.authorization("Bearer").or_else(|| request.authorization("DPoP"))?;
    Jwt::parse(token)?.claim("cid").map(str::to_owned)
}

fn text<'a>(claims: &'a Value, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}
