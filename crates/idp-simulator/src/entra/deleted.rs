//! Deleting users, and the thirty days in which they can be restored (entra.md §8.1, §13).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::access::{Caller, READ_USERS, may_act_on};
use super::{errors, query, roles, user, users};
use crate::model::{Account, Status};
use crate::wire::{self, Request};
use crate::world::World;

/// How long a deleted user can be restored.
const KEPT: Duration = Duration::days(30);

/// Whether a deleted account can still be restored.
pub fn restorable(account: &Account, now: OffsetDateTime) -> bool {
    account.status == Status::Deleted && now < account.status_changed + KEPT
}

/// `DELETE /users/{id}`
pub fn delete(world: &Arc<World>, request: &Request, caller: &Caller, key: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(&["User.ReadWrite.All", "Directory.ReadWrite.All"]) {
        return errors::denied(request, now);
    }
    let Some(account) = users::find(caller, key) else { return errors::not_found(request, now, key) };
    if !may_act_on(caller.roles(), &roles::held(caller, &account)) {
        return errors::denied(request, now);
    }
    let directory = &caller.tenant.directory;
    directory.accounts.update(&account.id, now, |account| account.set_status(Status::Deleted, now));
    directory.touch_memberships(&account);
    world.changed(directory, &account.id, "deleted", &caller.client_id, json!({"was": account.status}));
    wire::empty(StatusCode::NO_CONTENT)
}

/// `GET /directory/deletedItems/microsoft.graph.user`
pub fn list(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(READ_USERS) {
        return errors::denied(request, now);
    }
    let select = query::selected(request);
    let deleted = caller.tenant.directory.accounts.changed(|account| restorable(account, now));
    let mut shown = Vec::with_capacity(deleted.len());
    for account in &deleted {
        match query::project(&caller.tenant.settings, account, &select) {
            Ok(mut user) => {
                set(&mut user, "deletedDateTime", user::date(account.status_changed).into());
                shown.push(user);
            }
            Err(message) => return errors::bad(request, now, &message),
        }
    }
    query::paged(request, now, "users", &shown)
}

/// `POST /directory/deletedItems/{id}/restore`
pub fn restore(world: &Arc<World>, request: &Request, caller: &Caller, id: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(&["User.DeleteRestore.All"]) {
        return errors::denied(request, now);
    }
    let directory = &caller.tenant.directory;
    let Some(account) = directory.accounts.get(id).filter(|account| restorable(account, now)) else {
        return errors::not_found(request, now, id);
    };
    if !may_act_on(caller.roles(), &roles::held(caller, &account)) {
        return errors::denied(request, now);
    }
    let before = account.deleted_from.unwrap_or_default();
    if directory.accounts.by_login(&account.login).is_some() {
        let message = "Another object with the same value for property userPrincipalName already exists.";
        return errors::bad(request, now, message);
    }
    directory.accounts.update(id, now, |account| account.set_status(before, now));
    directory.touch_memberships(&account);
    world.changed(directory, id, "restored", &caller.client_id, Value::Null);
    let account = directory.accounts.get(id).unwrap_or(account);
    let select: Vec<String> = user::DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    let mut shown = query::project(&caller.tenant.settings, &account, &select).unwrap_or_default();
    set(&mut shown, "@odata.type", "#microsoft.graph.user".into());
    query::entity(request, StatusCode::OK, "directoryObjects", shown)
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}
