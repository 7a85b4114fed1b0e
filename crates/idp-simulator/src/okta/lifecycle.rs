//! Changing users: suspend, unsuspend, unlock, end sessions (okta.md §3.2, §5).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::access::{self, Permission};
use super::journal::{Outcome as Result_, Record};
use super::settings::App;
use super::user::status;
use super::users::find;
use super::{Org, errors};
use crate::model::{Account, Authority, Status};
use crate::wire::{self, Request};
use crate::world::World;

type Outcome = Result<Response<Bytes>, Response<Bytes>>;

/// `POST /api/v1/users/{id}/lifecycle/{step}`.
pub fn step(world: &World, org: &Org, request: &Request, key: &str, step: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.manage")?;
    let permission = match step {
        "suspend" | "unsuspend" => Permission::Suspend,
        "unlock" => Permission::Unlock,
        _ => return Err(errors::error("E0000008")),
    };
    let account = target(org, app, permission, key)?;
    let now = world.now();
    let state = status(org, &account, now);
    let wrong_state = |cause| Err(errors::because("E0000001", step, &[cause]));
    let (action, event) = match step {
        // The link to suspend is there for expired passwords too (okta.md §5).
        "suspend" if !matches!(state, "ACTIVE" | "PASSWORD_EXPIRED") => {
            return wrong_state("Cannot suspend a user that is not active");
        }
        "unsuspend" if state != "SUSPENDED" => {
            return wrong_state("Cannot unsuspend a user that is not suspended");
        }
        "unlock" if !account.lock.holds(now) => {
            return Err(errors::because("E0000032", "", &["The user is not locked out."]));
        }
        "unlock" if account.authority == Authority::ActiveDirectory => return Err(errors::error("E0000032")),
        "suspend" => ("suspend", "user.lifecycle.suspend"),
        "unsuspend" => ("unsuspend", "user.lifecycle.unsuspend"),
        _ => ("unlock", "user.account.unlock_by_admin"),
    };
    org.directory.accounts.update(&account.id, now, |account| match step {
        "suspend" => {
            account.set_status(Status::Suspended, now);
            account.sessions_valid_from = now; // suspending ends sessions too
        }
        "unsuspend" => account.set_status(Status::Active, now),
        _ => {
            account.lock.clear();
            account.status_changed = now;
        }
    });
    world.changed(&org.directory, &account.id, action, &app.client_id, json!({"was": state}));
    record(world, org, request, app, &account, event);
    Ok(wire::json(StatusCode::OK, &json!({})))
}

/// `DELETE /api/v1/users/{id}/sessions`.
pub fn clear_sessions(world: &World, org: &Org, request: &Request, key: &str) -> Outcome {
    let app = access::caller(world, org, request, "okta.users.manage")?;
    let account = target(org, app, Permission::ClearSessions, key)?;
    let now = world.now();
    let tokens = request.param("oauthTokens").as_deref() == Some("true");
    org.directory.accounts.update_quietly(&account.id, |account| account.sessions_valid_from = now);
    let detail = json!({"oauth_tokens": tokens});
    world.changed(&org.directory, &account.id, "revoke_sessions", &app.client_id, detail);
    record(world, org, request, app, &account, "user.session.clear");
    Ok(wire::empty(StatusCode::NO_CONTENT))
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
