//! The accounts of one directory: derived on demand from a seed, with an overlay of whatever changed since.
//!
//! Memory grows with the changed accounts only, so a directory of a million costs nothing until it is touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::{Account, Settings, Status};
use crate::generate::{self, Plan};
use crate::sync::lock;

/// All accounts of a directory, in a stable order: generated ones by index, then the added ones.
#[derive(Debug)]
pub struct Accounts {
    plan: Option<Plan>,
    overlay: Mutex<Overlay>,
    /// Seconds for which a lagging reader still sees what was there before a change.
    lag_s: AtomicI64,
}

#[derive(Debug, Default)]
struct Overlay {
    /// Accounts that are not (any more) what the plan says, by id.
    changed: HashMap<String, Account>,
    /// Current login (lower case) of every account in `changed`.
    logins: HashMap<String, String>,
    /// Ids of accounts that the plan does not know, in order of arrival.
    added: Vec<String>,
    /// Visible changes: sequence → id, at most one entry for an id.
    changes: BTreeMap<u64, String>,
    last_change: HashMap<String, u64>,
    /// Sequence at which each member of an account changed last, by id and the member's name in [`Account`].
    members: HashMap<String, BTreeMap<String, u64>>,
    /// What lagging readers see until then; nothing = the account is too new for them.
    before: HashMap<String, (OffsetDateTime, Option<Account>)>,
    sequence: u64,
}

impl Accounts {
    pub(super) fn new(plan: Option<Plan>) -> Self {
        Self { plan, overlay: Mutex::default(), lag_s: AtomicI64::new(0) }
    }

    /// How many there are, deleted ones included.
    pub fn len(&self) -> u64 {
        self.planned() + lock(&self.overlay).added.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of a generated account.
    pub fn index_of(&self, id: &str) -> Option<u64> {
        self.plan.as_ref()?.index_of(id)
    }

    /// The account with this id, deleted ones included.
    pub fn get(&self, id: &str) -> Option<Account> {
        let changed = lock(&self.overlay).changed.get(id).cloned();
        changed.or_else(|| self.plan.as_ref()?.by_id(id))
    }

    /// The account that signs in with this name now.
    pub fn by_login(&self, login: &str) -> Option<Account> {
        let login = login.to_lowercase();
        let overlay = lock(&self.overlay);
        if let Some(account) = overlay.logins.get(&login).and_then(|id| overlay.changed.get(id)) {
            return (account.status != Status::Deleted).then(|| account.clone());
        }
        let planned = self.plan.as_ref()?.by_login(&login)?;
        // An account in the overlay is found by its current login only.
        (!overlay.changed.contains_key(&planned.id)).then_some(planned)
    }

    /// By id or by login; deleted ones only by id.
    pub fn find(&self, key: &str) -> Option<Account> {
        self.get(key).or_else(|| self.by_login(key))
    }

    /// Sets for how long changes stay hidden from lagging readers.
    pub fn set_lag(&self, seconds: i64) {
        self.lag_s.store(seconds, Ordering::Relaxed);
    }

    /// The account as a lagging reader sees it now.
    pub fn lagging(&self, account: Account, now: OffsetDateTime) -> Option<Account> {
        match lock(&self.overlay).before.get(&account.id) {
            Some((until, before)) if now < *until => before.clone(),
            _ => Some(account),
        }
    }

    /// Up to `limit` accounts from `position` on that pass `keep`, and the position to go on from.
    pub fn page(
        &self,
        position: u64,
        limit: usize,
        keep: impl Fn(&Account) -> bool,
    ) -> (Vec<Account>, Option<u64>) {
        self.page_as(position, limit, |account| Some(account).filter(&keep))
    }

    /// Like [`page`](Self::page), of accounts as `view` shows them; it sees deleted ones too and may hide any.
    pub fn page_as(
        &self,
        position: u64,
        limit: usize,
        view: impl Fn(Account) -> Option<Account>,
    ) -> (Vec<Account>, Option<u64>) {
        let end = self.len();
        let mut found = Vec::with_capacity(limit.min(1024));
        let mut at = position;
        while at < end && found.len() < limit {
            let account = self.at(at).and_then(&view);
            found.extend(account.filter(|account| account.status != Status::Deleted));
            at += 1;
        }
        (found, (at < end).then_some(at))
    }

    /// Whether every account that was updated at this instant or later is among those that changed.
    pub fn tell_since(&self, from: OffsetDateTime) -> bool {
        self.plan.as_ref().is_none_or(|plan| plan.as_of() <= from)
    }

    /// Like [`page_as`](Self::page_as), of those that changed only, in the order of their last change.
    pub fn changed_as(
        &self,
        position: u64,
        limit: usize,
        view: impl Fn(Account) -> Option<Account>,
    ) -> (Vec<Account>, Option<u64>) {
        let (mut found, mut at) = (Vec::new(), position);
        while found.len() < limit {
            let changed = self.changed_since(at, limit - found.len());
            let Some((last, _)) = changed.last() else { return (found, None) };
            at = *last;
            let seen = changed.into_iter().filter_map(|(_, account)| view(account));
            found.extend(seen.filter(|account| account.status != Status::Deleted));
        }
        (found, Some(at))
    }

    /// How many accounts there are, without deleted ones.
    pub fn count_all(&self) -> u64 {
        let overlay = lock(&self.overlay);
        let deleted = overlay.changed.values().filter(|account| account.status == Status::Deleted).count();
        self.planned() + overlay.added.len() as u64 - deleted as u64
    }

    /// How many accounts pass `keep`, one after the other in constant memory.
    pub fn count(&self, keep: impl Fn(&Account) -> bool) -> u64 {
        let visible = |at| self.at(at).filter(|account| account.status != Status::Deleted);
        (0..self.len()).filter_map(visible).map(|account| u64::from(keep(&account))).sum()
    }

    /// Changes an account as a reader of the directory can see; `None` when it does not exist.
    pub fn update<R>(
        &self,
        id: &str,
        now: OffsetDateTime,
        change: impl FnOnce(&mut Account) -> R,
    ) -> Option<R> {
        self.write(id, |overlay, account| {
            let before = account.clone();
            let result = change(account);
            account.updated = now;
            overlay.note(Some(&before), account);
            overlay.hide(id, Some(before), now, self.lag_s.load(Ordering::Relaxed));
            result
        })
    }

    /// Changes what no listing shows (wrong tries, locks, last sign-in); `None` when it does not exist.
    pub fn update_quietly<R>(&self, id: &str, change: impl FnOnce(&mut Account) -> R) -> Option<R> {
        self.write(id, |_, account| change(account))
    }

    /// Adds an account from partial JSON (members as in [`Account`]), or replaces the one with the same id.
    pub fn add(&self, given: &Value, settings: &Settings, now: OffsetDateTime) -> anyhow::Result<Account> {
        let given = given.as_object().context("an account is a JSON object")?;
        let login = given.get("login").and_then(Value::as_str).context("an account needs a login")?;
        let id = match given.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => generate::fresh_id(settings, login),
        };
        let mut account = Account::new(id.clone(), login.to_owned(), now);
        account.authority = generate::authority_of(settings, login);
        let mut merged = serde_json::to_value(&account)?;
        merge(&mut merged, &Value::Object(given.clone()));
        let mut account: Account = serde_json::from_value(merged).context("account")?;
        account.id.clone_from(&id);
        if account.password.is_some() && account.password_changed.is_none() {
            account.password_changed = Some(account.created);
        }
        let known = self.get(&id);
        let mut overlay = lock(&self.overlay);
        overlay.hide(&id, known.clone(), now, self.lag_s.load(Ordering::Relaxed));
        if known.is_none() {
            overlay.added.push(id.clone());
        }
        overlay.put(account.clone());
        overlay.note(known.as_ref(), &account);
        Ok(account)
    }

    /// Merges JSON into an account; a new password without a date counts as set now.
    pub fn patch(&self, id: &str, patch: &Value, now: OffsetDateTime) -> anyhow::Result<Option<Account>> {
        let Some(before) = self.get(id) else { return Ok(None) };
        let mut merged = serde_json::to_value(&before)?;
        merge(&mut merged, patch);
        let mut after: Account = serde_json::from_value(merged).context("account")?;
        anyhow::ensure!(after.id == before.id, "an account's id never changes");
        if after.password != before.password && after.password_changed == before.password_changed {
            after.password_changed = after.password.as_ref().map(|_| now);
        }
        if after.status != before.status {
            after.status_changed = now;
        }
        Ok(self.update(id, now, |account| {
            *account = after.clone();
            after
        }))
    }

    /// Sequence of the latest visible change.
    pub fn sequence(&self) -> u64 {
        lock(&self.overlay).sequence
    }

    /// Accounts changed after `sequence`, oldest change first, at most `limit`, each with its sequence.
    pub fn changed_since(&self, sequence: u64, limit: usize) -> Vec<(u64, Account)> {
        let overlay = lock(&self.overlay);
        let after = overlay.changes.range(sequence + 1..).take(limit);
        after.filter_map(|(seq, id)| Some((*seq, overlay.changed.get(id)?.clone()))).collect()
    }

    /// Names of the members of an account (as in [`Account`]) that changed after `sequence`.
    pub fn members_changed_since(&self, id: &str, sequence: u64) -> Vec<String> {
        let overlay = lock(&self.overlay);
        let members = overlay.members.get(id).into_iter().flatten();
        members.filter(|(_, at)| **at > sequence).map(|(name, _)| name.clone()).collect()
    }

    /// Accounts that are not what the plan says and pass `keep`, in the order of their last visible change.
    pub fn changed(&self, keep: impl Fn(&Account) -> bool) -> Vec<Account> {
        let overlay = lock(&self.overlay);
        let accounts = overlay.changes.values().filter_map(|id| overlay.changed.get(id));
        accounts.filter(|account| keep(account)).cloned().collect()
    }

    fn planned(&self) -> u64 {
        self.plan.as_ref().map_or(0, Plan::count)
    }

    fn at(&self, position: u64) -> Option<Account> {
        let planned = self.planned();
        let Some(added) = position.checked_sub(planned) else {
            let plan = self.plan.as_ref()?;
            let changed = lock(&self.overlay).changed.get(&plan.id(position)).cloned();
            return Some(changed.unwrap_or_else(|| plan.account(position)));
        };
        let overlay = lock(&self.overlay);
        let id = overlay.added.get(usize::try_from(added).ok()?)?;
        overlay.changed.get(id).cloned()
    }

    fn write<R>(&self, id: &str, change: impl FnOnce(&mut Overlay, &mut Account) -> R) -> Option<R> {
        let mut overlay = lock(&self.overlay);
        let mut account = match overlay.changed.get(id) {
            Some(account) => account.clone(),
            None => self.plan.as_ref()?.by_id(id)?,
        };
        let result = change(&mut overlay, &mut account);
        overlay.put(account);
        Some(result)
    }
}

impl Overlay {
    fn put(&mut self, account: Account) {
        if let Some(before) = self.changed.get(&account.id) {
            self.logins.remove(&before.login.to_lowercase());
        }
        self.logins.insert(account.login.to_lowercase(), account.id.clone());
        self.changed.insert(account.id.clone(), account);
    }

    /// Keeps what lagging readers go on seeing, unless they still see something older.
    fn hide(&mut self, id: &str, before: Option<Account>, now: OffsetDateTime, lag_s: i64) {
        if lag_s <= 0 {
            return;
        }
        self.before.retain(|_, (until, _)| now < *until);
        self.before.entry(id.to_owned()).or_insert((now + Duration::seconds(lag_s), before));
    }

    fn note(&mut self, before: Option<&Account>, after: &Account) {
        self.sequence += 1;
        if let Some(earlier) = self.last_change.insert(after.id.clone(), self.sequence) {
            self.changes.remove(&earlier);
        }
        self.changes.insert(self.sequence, after.id.clone());
        let told = |account| serde_json::to_value(account).unwrap_or_default();
        let (before, after_told) = (before.map(told), told(after));
        let members = self.members.entry(after.id.clone()).or_default();
        for (name, value) in after_told.as_object().into_iter().flatten() {
            if before.as_ref().is_none_or(|before| before.get(name) != Some(value)) {
                members.insert(name.clone(), self.sequence);
            }
        }
    }
}

/// Merges JSON as RFC 7396 does, except that null is a value: an optional member becomes empty.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
