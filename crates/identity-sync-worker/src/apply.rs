//! Applies one page in the caller's transaction: accounts, identities, identifiers, and the messages about them.

use std::collections::{HashMap, HashSet};

use prost::Message;
use shared::{
    audit::{self, Actor, Event, EventType, Outcome, names},
    db::{StoreError, Tx},
    id::{AccountId, CauseId, IdentifierId, IdentityId, SyncRunId},
    integration_store::{Integration, Package},
    outbox::{self, Topic},
    provider::{Account, Within},
    wire::events,
};

use crate::{
    NAME,
    page::{self, Changes, Write, identifiers},
    store_accounts::{self as store, Place},
    store_identities::{self as identities, Held, NewIdentifier},
    store_runs::Counts,
};

/// Most ids in one message.
pub(crate) const IDS_PER_MESSAGE: usize = 1000;

/// What a page is applied under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub integration: &'a Integration,
    pub package: &'a Package,
    pub directory: &'a str,
    pub run: SyncRunId,
    pub cause: CauseId,
    /// The cap was reported in this run already.
    pub cap_reported: bool,
}

impl Scope<'_> {
    /// Profiles and identifiers are made: the tenant is entitled to it and the integration says so.
    pub fn creates_identities(&self) -> bool {
        self.package.identity_creation && self.integration.settings.identity_creation
    }
    /// Whom to ask for a larger package.
    pub fn contact(&self) -> &str {
        if self.package.contact.is_empty() { "your operator" } else { &self.package.contact }
    }
    fn place(&self) -> Place<'_> {
        Place {
            tenant: self.integration.tenant,
            integration: self.integration.id,
            provider: self.integration.provider.as_str(),
            directory: self.directory,
        }
    }
    /// An event of this run.
    pub fn event(&self, kind: &'static EventType, outcome: Outcome, message: impl Into<String>) -> Event {
        Event::new(Some(self.integration.tenant), kind, Actor::Service(NAME), outcome, message)
            .integration(self.integration.id)
            .cause(self.cause)
            .object("sync_run", self.run)
    }
}

/// What became of a page.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub counts: Counts,
    pub seen: Vec<AccountId>,
    /// Of these, the ones that are known to be in the scope.
    pub within: Vec<AccountId>,
    pub cap_reached: bool,
}

/// Applies a page. Unchanged accounts are not written.
pub(crate) async fn page(
    tx: &mut Tx,
    scope: &Scope<'_>,
    mut accounts: Vec<Account>,
    within: &Within,
) -> Result<Applied, StoreError> {
    let (tenant, creation) = (scope.integration.tenant, scope.creates_identities());
    let used = store::lock_usage(tx, tenant).await?;
    let objects: Vec<&str> = accounts.iter().map(|a| a.object_id.as_str()).collect();
    let known = store::known(tx, tenant, scope.integration.id, &objects).await?;
    // Whose place in the scope the page does not tell is taken as known: nobody comes in, and nobody back who has left.
    accounts.retain(|a| {
        within.covers(&a.object_id) || known.get(&a.object_id).is_some_and(|k| !k.missing && !k.removed)
    });
    let unsure: HashSet<AccountId> =
        known.iter().filter(|(object, _)| !within.covers(object)).map(|(_, known)| known.id).collect();
    let mut changes = page::compare(accounts, &known, creation);
    let identities = if creation { assign_identities(tx, scope, &mut changes).await? } else { 0 };
    store::insert(tx, scope.place(), &changes.created).await?;
    store::update(tx, scope.place(), &changes.changed).await?;
    store::mark_gone(tx, tenant, &changes.gone).await?;
    identities::follow_identities(tx, tenant, &changes.changed).await?;
    let names = rename(tx, scope, &changes, scope.package.identifier_cap - used).await?;
    accounts_changed(tx, scope, &changes.material).await?;
    let counts = Counts {
        seen: count(changes.seen.len()),
        created: count(changes.created.len()),
        changed: count(changes.changed.len()),
        missing: count(changes.gone.len()),
        removed: 0,
        identities,
        identifiers: names.made,
        skipped: names.skipped,
    };
    if identities > 0 {
        let event = scope
            .event(
                names::IDENTITIES_CREATED,
                Outcome::Success,
                "identity profiles were created from synced accounts",
            )
            .detail("identities", identities)
            .detail("identifiers", names.made);
        audit::record(tx, &event).await?;
    }
    let within = changes.seen.iter().copied().filter(|id| !unsure.contains(id)).collect();
    Ok(Applied { counts, seen: changes.seen, within, cap_reached: names.cap_reached })
}

// An account joins the identity of an account with the same sign-in name; everybody else gets one of their own.
async fn assign_identities(tx: &mut Tx, scope: &Scope<'_>, changes: &mut Changes) -> Result<i64, StoreError> {
    let lacking = || changes.created.iter().chain(&changes.changed).filter(|w| w.identity.is_none());
    let keys: Vec<&str> = lacking().map(|w| w.login_key.as_str()).filter(|k| !k.is_empty()).collect();
    let mut by_login = identities::identities_by_login(tx, scope.integration.tenant, &keys).await?;
    let mut new = Vec::new();
    for write in changes.created.iter_mut().chain(&mut changes.changed).filter(|w| w.identity.is_none()) {
        let shared = by_login.get(&write.login_key).copied().filter(|_| !write.login_key.is_empty());
        let identity = shared.unwrap_or_else(|| {
            let identity = IdentityId::new();
            new.push((identity, write.account.display_name.clone()));
            by_login.insert(write.login_key.clone(), identity);
            identity
        });
        write.identity = Some(identity);
    }
    identities::insert_identities(tx, scope.integration.tenant, &new).await?;
    Ok(count(new.len()))
}

#[derive(Debug, Default)]
struct Names {
    made: i64,
    skipped: i64,
    cap_reached: bool,
}

// Identifiers follow the names of accounts that are new, renamed or back; logins use up the cap first.
async fn rename(tx: &mut Tx, scope: &Scope<'_>, changes: &Changes, free: i64) -> Result<Names, StoreError> {
    let tenant = scope.integration.tenant;
    let renamed: HashSet<AccountId> = changes.renamed.iter().copied().collect();
    let known: Vec<AccountId> =
        changes.changed.iter().map(|w| w.id).filter(|id| renamed.contains(id)).collect();
    let mut held: HashMap<AccountId, HashMap<String, Held>> = HashMap::new();
    if !known.is_empty() {
        for name in identities::held(tx, tenant, &known).await? {
            held.entry(name.account).or_default().insert(name.value.clone(), name);
        }
    }
    let mut wanted = Vec::new();
    let writes = changes.created.iter().chain(&changes.changed).filter(|w| renamed.contains(&w.id));
    for Write { id, account, identity, .. } in writes {
        let Some(identity) = *identity else { continue };
        let mut before = held.remove(id).unwrap_or_default();
        for (kind, value) in identifiers(&account.login, &account.addresses) {
            if before.remove(&value).is_none() && scope.creates_identities() {
                wanted.push(NewIdentifier { account: *id, identity, kind, value });
            }
        }
        // What is left is not the account's any more.
        held.insert(*id, before);
    }
    let gone: Vec<Held> = held.into_values().flat_map(HashMap::into_values).collect();
    let (freed, unskipped) = identities::delete_held(tx, tenant, &gone).await?;
    wanted.sort_by_key(|name| name.kind);
    let room = usize::try_from((free + freed).max(0)).unwrap_or(usize::MAX).min(wanted.len());
    let beyond = wanted.split_off(room);
    let made = identities::insert_identifiers(tx, tenant, &wanted).await?;
    identities::insert_skipped(tx, tenant, scope.integration.id, &beyond).await?;
    identifiers_changed(tx, scope, &made).await?;
    let cap_reached = !beyond.is_empty();
    if cap_reached && !scope.cap_reported {
        let message = format!(
            "the package's cap of {} identifiers is reached; further ones are remembered and created when it rises; ask {}",
            scope.package.identifier_cap,
            scope.contact(),
        );
        audit::record(tx, &scope.event(names::IDENTIFIERS_CAP_REACHED, Outcome::Refused, message)).await?;
    }
    Ok(Names { made: count(made.len()), skipped: count(beyond.len()) - unskipped, cap_reached })
}

/// Makes identifiers that waited for a higher cap, at most `limit`; returns how many.
pub(crate) async fn make_skipped(tx: &mut Tx, scope: &Scope<'_>, limit: i64) -> Result<Counts, StoreError> {
    let tenant = scope.integration.tenant;
    let free = scope.package.identifier_cap - store::lock_usage(tx, tenant).await?;
    if free <= 0 {
        return Ok(Counts::default());
    }
    let waiting = identities::take_skipped(tx, tenant, scope.integration.id, free.min(limit)).await?;
    let made = identities::insert_identifiers(tx, tenant, &waiting).await?;
    identifiers_changed(tx, scope, &made).await?;
    let made = count(made.len());
    Ok(Counts { identifiers: made, skipped: -made, ..Counts::default() })
}

/// Tells the validator about new identifiers.
async fn identifiers_changed(tx: &mut Tx, scope: &Scope<'_>, ids: &[IdentifierId]) -> Result<(), StoreError> {
    let messages = chunks(ids, |chunk| events::IdentifiersChanged {
        tenant_id: scope.integration.tenant.to_string(),
        identifier_ids: chunk.iter().map(ToString::to_string).collect(),
        cause_id: scope.cause.to_string(),
    });
    outbox::enqueue_many(tx, Topic::IdentifiersChanged, Some(scope.integration.tenant), &messages).await
}

/// Tells the validator about accounts on which a decision may rest.
pub(crate) async fn accounts_changed(
    tx: &mut Tx,
    scope: &Scope<'_>,
    ids: &[AccountId],
) -> Result<(), StoreError> {
    let messages = chunks(ids, |chunk| events::AccountsChanged {
        tenant_id: scope.integration.tenant.to_string(),
        account_ids: chunk.iter().map(ToString::to_string).collect(),
        cause_id: scope.cause.to_string(),
    });
    outbox::enqueue_many(tx, Topic::AccountsChanged, Some(scope.integration.tenant), &messages).await
}

fn chunks<T, M: Message>(ids: &[T], message: impl Fn(&[T]) -> M) -> Vec<M> {
    ids.chunks(IDS_PER_MESSAGE).map(message).collect()
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
