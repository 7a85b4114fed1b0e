//! Changing users: the steps of their life cycle, their passwords, their sessions (okta.md §3.2, §5).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::journal::{Outcome as Result_, Record};
use super::settings::App;
use super::user::{single, status};
use super::users::find;
use super::{Org, errors};
use crate::model::{Account, Authority, SecondFactor, Status};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

/// A step: its name in the path, what it takes, its event in the System Log.
const STEPS: &[(&str, Permission, &str)] = &[
    ("suspend", Permission::Suspend, "user.lifecycle.suspend"),
    ("unsuspend", Permission::Unsuspend, "user.lifecycle.unsuspend"),
    ("unlock", Permission::Unlock, "user.account.unlock_by_admin"),
    ("deactivate", Permission::Lifecycle, "user.lifecycle.deactivate"),
    ("activate", Permission::Lifecycle, "user.lifecycle.activate"),
    ("reactivate", Permission::Lifecycle, "user.lifecycle.reactivate"),
    ("expire_password", Permission::Passwords, "user.account.expire_password"),
    ("reset_password", Permission::Passwords, "user.account.reset_password"),
    ("expire_password_with_temp_password", Permission::Passwords, "user.account.expire_password"),
    ("reset_factors", Permission::Passwords, "user.mfa.factor.reset_all"),
];

/// `POST /api/v1/users/{id}/lifecycle/{step}`.
pub fn step(world: &World, org: &Org, request: &Request, key: &str, step: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.manage")?;
    let Some((_, permission, event)) = STEPS.iter().find(|(name, ..)| *name == step) else {
        return Err(errors::error("E0000008"));
    };
    let account = target(org, app, *permission, key)?;
    let now = world.now();
    let state = status(org, &account, now);
    let sends_mail = request.param("sendEmail");
    refusal(step, state, &account, sends_mail.as_deref(), account.lock.holds(now))?;
    let (temporary, ends_sessions) = (secret(), request.param("revokeSessions").as_deref() == Some("true"));
    org.directory.accounts.update(&account.id, now, |account| match step {
        "expire_password_with_temp_password" => {
            account.set_password(temporary.clone(), now);
            account.password_expired = true;
            if ends_sessions {
                account.sessions_valid_from = now;
            }
        }
        "reset_factors" if account.second_factor == SecondFactor::Required => {
            account.second_factor = SecondFactor::Unregistered;
        }
        "reset_factors" => {}
        "suspend" => {
            account.set_status(Status::Suspended, now);
            account.sessions_valid_from = now; // suspending ends sessions too
        }
        "unsuspend" => account.set_status(Status::Active, now),
        "deactivate" => {
            account.set_status(Status::Deprovisioned, now);
            account.sessions_valid_from = now;
        }
        "activate" if account.password.is_some() => account.set_status(Status::Active, now),
        "activate" | "reactivate" => account.set_status(Status::Provisioned, now),
        "expire_password" => {
            account.password_expired = true;
            account.status_changed = now;
        }
        "reset_password" => account.set_status(Status::Recovery, now),
        _ => {
            account.lock.clear();
            account.status_changed = now;
        }
    });
    world.changed(&org.directory, &account.id, step, &app.client_id, json!({"was": state}));
    record(world, org, request, app, &account, event);
    let body = match (step, sends_mail.as_deref()) {
        ("expire_password", _) => {
            let after = org.directory.accounts.get(&account.id).unwrap_or(account);
            single(org, &after, &request.base, now)
        }
        ("expire_password_with_temp_password", _) => json!({"tempPassword": temporary}),
        ("reset_password", Some("false")) => {
            json!({"resetPasswordUrl": request.link(&format!("/reset_password/{}", secret()))})
        }
        ("activate" | "reactivate", Some("false")) => {
            let token = secret();
            json!({"activationUrl": request.link(&format!("/welcome/{token}")), "activationToken": token})
        }
        _ => json!({}),
    };
    Ok(wire::json(StatusCode::OK, &body))
}

fn secret() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Why a step is not open to a user in this state.
fn refusal(
    step: &str,
    state: &str,
    account: &Account,
    sends_mail: Option<&str>,
    locked: bool,
) -> Result<(), Response<Bytes>> {
    let invalid = |cause| Err(errors::because("E0000001", step, &[cause]));
    let not_now = || Err(errors::error("E0000038"));
    match step {
        // The link to suspend is there for expired passwords too (okta.md §5).
        "suspend" if !matches!(state, "ACTIVE" | "PASSWORD_EXPIRED") => {
            invalid("Cannot suspend a user that is not active")
        }
        "unsuspend" if state != "SUSPENDED" => invalid("Cannot unsuspend a user that is not suspended"),
        "unlock" if !locked => Err(errors::because("E0000032", "", &["The user is not locked out."])),
        "unlock" if account.authority == Authority::ActiveDirectory => Err(errors::error("E0000032")),
        "activate" if state == "ACTIVE" => Err(errors::error("E0000016")),
        "activate" if !matches!(state, "STAGED" | "DEPROVISIONED") => not_now(),
        "reactivate" if !matches!(state, "PROVISIONED" | "RECOVERY") => not_now(),
        "deactivate" if state == "DEPROVISIONED" => not_now(),
        "reset_password" if sends_mail.is_none() => Err(errors::error("E0000028")),
        "expire_password" | "expire_password_with_temp_password" | "reset_password"
            if matches!(state, "STAGED" | "DEPROVISIONED" | "SUSPENDED") =>
        {
            not_now()
        }
        _ => Ok(()),
    }
}

/// `DELETE /api/v1/users/{id}/sessions`.
pub fn clear_sessions(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.manage")?;
    let account = target(org, app, Permission::ClearSessions, key)?;
    let tokens = request.param("oauthTokens").as_deref() == Some("true");
    end_sessions(world, org, request, app, &account, &json!({"oauth_tokens": tokens}));
    Ok(wire::empty(StatusCode::NO_CONTENT))
}

/// `POST /oauth2/v1/global-token-revocation`: universal logout.
pub fn revoke_tokens(world: &World, org: &Org, request: &Request) -> Outcome {
    let app = access::caller(world, org, request, "okta.universalLogout.manage")?;
    let body = request.json().unwrap_or_default();
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let key = match text("/sub_id/format") {
        "opaque" => text("/sub_id/id"),
        "iss_sub" if text("/sub_id/iss") == request.base => text("/sub_id/sub"),
        _ => return Err(errors::error("E0000001")),
    };
    let account = target(org, app, Permission::ClearSessions, key)?;
    end_sessions(world, org, request, app, &account, &json!({"oauth_tokens": true, "universal": true}));
    Ok(wire::empty(StatusCode::NO_CONTENT))
}

fn end_sessions(world: &World, org: &Org, request: &Request, app: &App, account: &Account, detail: &Value) {
    let now = world.now();
    org.directory.accounts.update_quietly(&account.id, |account| account.sessions_valid_from = now);
    world.changed(&org.directory, &account.id, "revoke_sessions", &app.client_id, detail.clone());
    record(world, org, request, app, account, "user.session.clear");
}

fn target(org: &Org, app: &App, permission: Permission, key: &str) -> Result<Account, Response<Bytes>> {
    if !app.may(permission) {
        return Err(errors::error("E0000006"));
    }
    let account = find(org, key).ok_or_else(|| errors::no_user(key))?;
    if !app.may_act_on(&account) {
        return Err(errors::error("E0000006"));
    }
    Ok(account)
}

fn record(world: &World, org: &Org, request: &Request, app: &App, account: &Account, event: &str) {
    let outcome = Result_ { success: true, reason: None };
    let actor = (app.client_id.as_str(), "PublicClientApp", app.client_id.as_str());
    world.okta.journal.record(
        world.now(),
        org,
        request,
        &Record { event, actor, target: Some(account), outcome },
    );
}
