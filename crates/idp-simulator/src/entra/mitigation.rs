//! Revoking sessions, disabling and enabling (entra.md §12.1, §12.2, §14).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::Duration;

use super::access::{Caller, may_act_on};
use super::settings::HybridWrites;
use super::{errors, roles, users};
use crate::model::Status;
use crate::wire::{self, Request};
use crate::world::World;

/// `POST /users/{id}/revokeSignInSessions`
pub fn revoke(world: &Arc<World>, request: &Request, caller: &Caller, key: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(&["User.RevokeSessions.All", "User.ReadWrite.All", "Directory.ReadWrite.All"]) {
        return errors::denied(request, now);
    }
    let Some(account) = users::find(caller, key) else { return errors::not_found(request, now, key) };
    let directory = &caller.tenant.directory;
    directory.accounts.update(&account.id, now, |account| account.sessions_valid_from = now);
    world.changed(directory, &account.id, "revoke_sessions", &caller.client_id, Value::Null);
    let context = request.link("/v1.0/$metadata#Edm.Boolean");
    wire::json(StatusCode::OK, &json!({"@odata.context": context, "value": true}))
}

/// `PATCH /users/{id}`: `accountEnabled` only.
pub fn update(world: &Arc<World>, request: &Request, caller: &Caller, key: &str) -> Response<Bytes> {
    let now = world.now();
    let permitted = caller.has_any(&["User.ReadWrite.All", "Directory.ReadWrite.All"])
        || (caller.has("User.EnableDisableAccount.All") && caller.has("User.Read.All"));
    if !permitted {
        return errors::denied(request, now);
    }
    let bad = |message: &str| errors::bad(request, now, message);
    let Some(Value::Object(mut patch)) = request.json() else {
        return bad("Empty Payload. JSON content expected.");
    };
    patch.retain(|name, _| !name.contains('@')); // annotations such as @odata.type say nothing new
    let Some(enabled) = patch.get("accountEnabled").and_then(Value::as_bool).filter(|_| patch.len() == 1)
    else {
        return bad("One or more properties contains invalid values.");
    };
    let Some(account) = users::find(caller, key) else { return errors::not_found(request, now, key) };
    if !may_act_on(caller.roles(), &roles::held(caller, &account)) {
        return errors::denied(request, now);
    }
    let directory = &caller.tenant.directory;
    if account.hybrid {
        match caller.tenant.settings.hybrid_writes {
            HybridWrites::Accept => {}
            HybridWrites::Revert { after_s } => {
                world.revert_later(directory, &account, Duration::seconds(after_s));
            }
            HybridWrites::Refuse => return errors::mastered(request, now),
        }
    }
    let status = if enabled { Status::Active } else { Status::Disabled };
    directory.accounts.update(&account.id, now, |account| account.set_status(status, now));
    let action = if enabled { "enable" } else { "disable" };
    world.changed(directory, &account.id, action, &caller.client_id, json!({"was": account.status}));
    wire::empty(StatusCode::NO_CONTENT)
}
