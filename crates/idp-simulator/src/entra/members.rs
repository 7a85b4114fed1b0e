//! Writing who belongs to a group and who owns it (entra.md §9).

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::access::Caller;
use super::settings::NotAMember;
use super::{deleted, errors, users};
use crate::model::{Group, GroupKind, Kind, Link};
use crate::wire::{self, Request};
use crate::world::World;

const MAX_OWNERS: usize = 100;
const MAX_BOUND: usize = 20;

type Refused = Response<Bytes>;

/// What is written to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Its members.
    Members,
    /// Its owners.
    Owners,
}

impl Relation {
    /// The word in paths and in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Owners => "owners",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Members => Kind::Member,
            Self::Owners => Kind::Owner,
        }
    }

    fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::Members => &["GroupMember.ReadWrite.All", "Group.ReadWrite.All", "Directory.ReadWrite.All"],
            Self::Owners => &["Group.ReadWrite.All", "Directory.ReadWrite.All"],
        }
    }
}

/// One write to a group.
struct Write<'c> {
    world: &'c World,
    request: &'c Request,
    caller: &'c Caller,
    relation: Relation,
    group: &'c Group,
    now: OffsetDateTime,
}

/// `POST /groups/{id}/members/$ref` and `…/owners/$ref`
pub fn add(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    relation: Relation,
    group: &str,
) -> Response<Bytes> {
    let body = request.json().unwrap_or_default();
    let reference = body.get("@odata.id").and_then(Value::as_str);
    let outcome = Write::open(world, request, caller, relation, group).and_then(|write| {
        let id = reference.and_then(referred).ok_or_else(|| write.invalid())?;
        write.check(id)?;
        write.set(id, true);
        Ok(())
    });
    done(outcome)
}

/// `PATCH /groups/{id}` with `members@odata.bind`: all of them or none.
pub fn bind(world: &Arc<World>, request: &Request, caller: &Caller, group: &str) -> Response<Bytes> {
    let body = request.json().unwrap_or_default();
    let outcome = Write::open(world, request, caller, Relation::Members, group).and_then(|write| {
        let only = body.as_object().is_some_and(|body| body.keys().all(|name| name == "members@odata.bind"));
        let bound = body.get("members@odata.bind").and_then(Value::as_array).filter(|_| only);
        let bound = bound.ok_or_else(|| write.invalid())?;
        if bound.len() > MAX_BOUND {
            let message = format!("The maximum number of {MAX_BOUND} references in one request is exceeded.");
            return Err(errors::bad(request, write.now, &message));
        }
        let ids: Option<Vec<&str>> = bound.iter().map(|one| one.as_str().and_then(referred)).collect();
        let ids = ids.ok_or_else(|| write.invalid())?;
        ids.iter().try_for_each(|id| write.check(id))?;
        for id in ids {
            write.set(id, true);
        }
        Ok(())
    });
    done(outcome)
}

/// `DELETE /groups/{id}/members/{id}/$ref` and `…/owners/{id}/$ref`
pub fn remove(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    relation: Relation,
    (group, id): (&str, &str),
) -> Response<Bytes> {
    let outcome = Write::open(world, request, caller, relation, group).and_then(|write| {
        if !write.holds(id) {
            return Err(write.not_there(id));
        }
        if relation == Relation::Owners && write.owners().len() == 1 {
            let message = "The group must have at least one owner, hence this owner cannot be removed.";
            return Err(errors::bad(request, write.now, message));
        }
        write.set(id, false);
        Ok(())
    });
    done(outcome)
}

/// `DELETE /groups/{id}/members/{id}` without `/$ref`: the trap. It is the member itself that is deleted.
pub fn trap(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    (group, id): (&str, &str),
) -> Response<Bytes> {
    let now = world.now();
    let directory = &caller.tenant.directory;
    let Some(of) = directory.group(group) else { return errors::not_found(request, now, group) };
    if !directory.membership(of, None).has(id) {
        return errors::not_found(request, now, id);
    }
    if directory.accounts.get(id).is_none() {
        return errors::denied(request, now); // groups and applications are never deleted here
    }
    deleted::delete(world, request, caller, id)
}

fn done(outcome: Result<(), Refused>) -> Response<Bytes> {
    outcome.map_or_else(|refusal| refusal, |()| wire::empty(StatusCode::NO_CONTENT))
}

/// The object id in `https://graph.microsoft.com/v1.0/directoryObjects/{id}`.
fn referred(url: &str) -> Option<&str> {
    let (collection, id) = url.rsplit_once('/')?;
    let (_, collection) = collection.rsplit_once('/')?;
    let known = ["directoryObjects", "users", "groups", "servicePrincipals"].contains(&collection);
    (known && !id.is_empty()).then_some(id)
}

impl<'c> Write<'c> {
    /// Permission, then the group, then whether its kind can be written at all.
    fn open(
        world: &'c World,
        request: &'c Request,
        caller: &'c Caller,
        relation: Relation,
        group: &str,
    ) -> Result<Self, Refused> {
        let now = world.now();
        if !caller.has_any(relation.permissions()) {
            return Err(errors::denied(request, now));
        }
        let found = caller.tenant.directory.group(group);
        let group = found.ok_or_else(|| errors::not_found(request, now, group))?;
        if group.role_assignable && !caller.has("RoleManagement.ReadWrite.Directory") {
            return Err(errors::denied(request, now));
        }
        if group.dynamic && relation == Relation::Members {
            return Err(errors::denied(request, now));
        }
        if group.synced {
            return Err(errors::mastered(request, now));
        }
        if group.kind == GroupKind::Mail {
            let message = "Cannot Update a mail-enabled security groups and or distribution list.";
            return Err(errors::bad(request, now, message));
        }
        Ok(Self { world, request, caller, relation, group, now })
    }

    fn owners(&self) -> Vec<String> {
        self.caller.tenant.directory.owners(self.group, None)
    }

    fn holds(&self, id: &str) -> bool {
        match self.relation {
            Relation::Members => self.caller.tenant.directory.membership(self.group, None).has(id),
            Relation::Owners => self.owners().iter().any(|owner| owner == id),
        }
    }

    /// Whether an object can be added.
    fn check(&self, id: &str) -> Result<(), Refused> {
        let user = users::find(self.caller, id).filter(|user| user.id == id);
        let tenant = &self.caller.tenant;
        let other = tenant.settings.principal(id).is_some()
            || (self.relation == Relation::Members && tenant.directory.group(id).is_some());
        if user.is_none() && !other {
            return Err(errors::not_found(self.request, self.now, id));
        }
        if self.holds(id) {
            let message = format!(
                "One or more added object references already exist for the following modified properties: '{}'.",
                self.relation.word()
            );
            return Err(errors::bad(self.request, self.now, &message));
        }
        if self.group.refuses_guests && user.is_some_and(|user| user.guest) {
            let message = "Guests users are not allowed to join";
            return Err(errors::graph(self.request, self.now, 403, "Authorization_RequestDenied", message));
        }
        let owners = self.owners().len();
        if self.relation == Relation::Owners && owners >= MAX_OWNERS {
            let message = format!(
                "Unable to perform operation as '{}' would exceed the maximum quota count '{MAX_OWNERS}' for \
                 forward-link owners.",
                owners + 1
            );
            return Err(errors::graph(self.request, self.now, 403, "Directory_QuotaExceeded", &message));
        }
        Ok(())
    }

    fn set(&self, id: &str, present: bool) {
        let directory = &self.caller.tenant.directory;
        directory.links.set(Link::new(self.relation.kind(), &self.group.id, id), present, self.now);
        let action = match (self.relation, present) {
            (Relation::Members, true) => "joined",
            (Relation::Members, false) => "left",
            (Relation::Owners, true) => "owner_added",
            (Relation::Owners, false) => "owner_removed",
        };
        self.world.changed(directory, id, action, &self.caller.client_id, json!({"group": self.group.id}));
    }

    fn not_there(&self, id: &str) -> Refused {
        match self.caller.tenant.settings.not_a_member {
            NotAMember::Missing => errors::not_found(self.request, self.now, id),
            NotAMember::BadRequest => {
                let message = format!(
                    "One or more removed object references do not exist for the following modified properties: '{}'.",
                    self.relation.word()
                );
                errors::bad(self.request, self.now, &message)
            }
        }
    }

    fn invalid(&self) -> Refused {
        errors::bad(self.request, self.now, "One or more property values specified are invalid.")
    }
}
