//! What a page changes: the difference between the accounts a directory shows and the accounts we have. Pure.

use std::collections::{HashMap, HashSet};

use shared::{
    id::{AccountId, IdentityId},
    identifier::{Shape, normalise, shape},
    provider::{Account, AccountState},
};
use time::OffsetDateTime;

/// An account as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub id: AccountId,
    pub account: Account,
    pub identity: Option<IdentityId>,
    pub missing: bool,
    pub removed: bool,
}

/// An account that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub id: AccountId,
    pub account: Account,
    pub login_key: String,
    pub identity: Option<IdentityId>,
}

/// What to do with a page.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Accounts the directory shows; tombstones are none.
    pub seen: Vec<AccountId>,
    /// Accounts that are new to us.
    pub created: Vec<Write>,
    /// Accounts that differ from what we have, or came back.
    pub changed: Vec<Write>,
    /// Of these, accounts whose state, sign-in name or password date changed: what a decision may rest on.
    pub material: Vec<AccountId>,
    /// Accounts whose identifiers have to be looked at: new ones, and those with other names or no identity yet.
    pub renamed: Vec<AccountId>,
    /// Accounts that the directory says are gone.
    pub gone: Vec<AccountId>,
}

/// Compares a page with what is stored of its accounts.
pub(crate) fn compare(page: Vec<Account>, known: &HashMap<String, Known>, creation: bool) -> Changes {
    let mut changes = Changes::default();
    for account in deduplicated(page) {
        match (known.get(&account.object_id), account.removed) {
            (None, true) => {}
            (Some(known), true) => {
                if !known.missing && !known.removed {
                    changes.gone.push(known.id);
                    changes.material.push(known.id);
                }
            }
            (None, false) => {
                let id = AccountId::new();
                let login_key = login_key(&account);
                changes.seen.push(id);
                changes.renamed.push(id);
                changes.created.push(Write { id, account, login_key, identity: None });
            }
            (Some(known), false) => {
                changes.seen.push(known.id);
                let account = merged(account, &known.account);
                let back = known.missing || known.removed;
                let lacks_identity = creation && known.identity.is_none();
                if account.login != known.account.login
                    || account.addresses != known.account.addresses
                    || lacks_identity
                    || known.removed
                {
                    changes.renamed.push(known.id);
                }
                if account == known.account && !back && !lacks_identity {
                    continue;
                }
                if back || is_material(&account, &known.account) {
                    changes.material.push(known.id);
                }
                let login_key = login_key(&account);
                changes.changed.push(Write { id: known.id, account, login_key, identity: known.identity });
            }
        }
    }
    changes
}

// A provider may repeat an account within a page; the last word counts.
fn deduplicated(page: Vec<Account>) -> Vec<Account> {
    let mut place = HashMap::with_capacity(page.len());
    let mut kept: Vec<Account> = Vec::with_capacity(page.len());
    for account in page.into_iter().map(storable) {
        if let Some(earlier) = place.get(&account.object_id).and_then(|at: &usize| kept.get_mut(*at)) {
            *earlier = account;
        } else {
            place.insert(account.object_id.clone(), kept.len());
            kept.push(account);
        }
    }
    kept
}

// As the database gives it back: text without NUL, times in whole microseconds, addresses sorted and single.
fn storable(mut account: Account) -> Account {
    for text in [&mut account.object_id, &mut account.login, &mut account.display_name] {
        if text.contains('\0') {
            *text = text.replace('\0', "\u{fffd}");
        }
    }
    account.addresses.retain(|address| !address.chars().any(char::is_control));
    account.addresses.sort_unstable();
    account.addresses.dedup();
    let micros = |at: OffsetDateTime| {
        at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap_or(at).to_offset(time::UtcOffset::UTC)
    };
    account.password_changed_at = account.password_changed_at.map(micros);
    account.last_sign_in_at = account.last_sign_in_at.map(micros);
    account.created_at = account.created_at.map(micros);
    account
}

// Absent means unknown, never "not any more": a listing of changes may show less than a full one.
fn merged(mut shown: Account, known: &Account) -> Account {
    shown.password_changed_at = shown.password_changed_at.or(known.password_changed_at);
    shown.last_sign_in_at = shown.last_sign_in_at.max(known.last_sign_in_at);
    shown.created_at = shown.created_at.or(known.created_at);
    shown.under_policy = shown.under_policy.or(known.under_policy);
    shown
}

fn is_material(new: &Account, old: &Account) -> bool {
    new.state != old.state
        || new.login != old.login
        || new.kind != old.kind
        || new.authority != old.authority
        || new.hybrid != old.hybrid
        || new.password_changed_at != old.password_changed_at
        || new.last_sign_in_at != old.last_sign_in_at
}

/// What accounts of one person share; an account without a usable login shares nothing.
pub(crate) fn login_key(account: &Account) -> String {
    normalise(&account.login).unwrap_or_default()
}

/// How an identifier names its account. The order is the order in which the cap is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Login,
    Email,
    Alias,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Email => "email",
            Self::Alias => "alias",
        }
    }
}

/// The identifiers an account is known by, each once, the login first.
pub(crate) fn identifiers(login: &str, addresses: &[String]) -> Vec<(Kind, String)> {
    let mut seen = HashSet::new();
    let login = normalise(login).map(|value| (Kind::Login, value));
    let addresses = addresses.iter().filter_map(|address| {
        let value = normalise(address)?;
        Some((if shape(&value) == Shape::Email { Kind::Email } else { Kind::Alias }, value))
    });
    login.into_iter().chain(addresses).filter(|(_, value)| seen.insert(value.clone())).collect()
}

/// The state of an account that its directory reported as gone.
pub(crate) const GONE: AccountState = AccountState::Deprovisioned;

#[cfg(test)]
mod tests {
    use shared::provider::{AccountKind, PasswordAuthority};

    use super::*;

    fn account(object: &str, login: &str) -> Account {
        Account {
            object_id: object.into(),
            login: login.into(),
            display_name: "Ann".into(),
            addresses: vec!["ann@example.com".into()],
            state: AccountState::Active,
            kind: AccountKind::Member,
            authority: PasswordAuthority::Cloud,
            hybrid: false,
            under_policy: Some(true),
            is_admin: false,
            password_changed_at: Some(OffsetDateTime::UNIX_EPOCH),
            last_sign_in_at: Some(OffsetDateTime::UNIX_EPOCH),
            created_at: None,
            removed: false,
        }
    }

    fn known(account: Account) -> HashMap<String, Known> {
        let identity = Some(IdentityId::new());
        let row = Known { id: AccountId::new(), account, identity, missing: false, removed: false };
        HashMap::from([(row.account.object_id.clone(), row)])
    }

    #[test]
    fn an_unchanged_account_is_seen_and_not_written() {
        let changes = compare(vec![account("1", "a@x")], &known(account("1", "a@x")), true);
        assert_eq!((changes.seen.len(), changes.changed.len(), changes.created.len()), (1, 0, 0));
        assert!(changes.renamed.is_empty() && changes.material.is_empty());
    }

    #[test]
    fn a_listing_that_shows_less_takes_nothing_away() {
        let shown = Account { last_sign_in_at: None, password_changed_at: None, ..account("1", "a@x") };
        assert!(compare(vec![shown], &known(account("1", "a@x")), true).changed.is_empty());
    }

    #[test]
    fn what_holds_for_new_passwords_stays_known_until_a_listing_tells_otherwise() {
        let shown = |under_policy| {
            let page = vec![Account { under_policy, ..account("1", "a@x") }];
            compare(page, &known(account("1", "a@x")), true).changed.into_iter().next()
        };
        assert!(shown(None).is_none() && shown(Some(true)).is_none());
        assert_eq!(shown(Some(false)).unwrap().account.under_policy, Some(false));
    }

    #[test]
    fn a_new_sign_in_name_is_a_change_to_decide_on() {
        let changes = compare(vec![account("1", "b@x")], &known(account("1", "a@x")), true);
        assert_eq!((changes.changed.len(), changes.material.len(), changes.renamed.len()), (1, 1, 1));
    }

    #[test]
    fn a_new_display_name_alone_decides_nothing() {
        let shown = Account { display_name: "Ann B".into(), ..account("1", "a@x") };
        let changes = compare(vec![shown], &known(account("1", "a@x")), true);
        assert_eq!((changes.changed.len(), changes.material.len(), changes.renamed.len()), (1, 0, 0));
    }

    #[test]
    fn a_tombstone_marks_a_known_account_and_counts_as_not_seen() {
        let gone = Account { removed: true, ..account("1", "") };
        let changes = compare(vec![gone.clone()], &known(account("1", "a@x")), true);
        assert_eq!((changes.gone.len(), changes.seen.len(), changes.changed.len()), (1, 0, 0));
        let unknown = compare(vec![gone], &HashMap::new(), true);
        assert!(unknown.gone.is_empty() && unknown.created.is_empty());
    }

    #[test]
    fn an_account_shown_twice_in_a_page_is_taken_once_by_its_last_word() {
        let changes = compare(vec![account("1", "a@x"), account("1", "b@x")], &HashMap::new(), true);
        assert_eq!(changes.created.len(), 1);
        assert_eq!(changes.created[0].account.login, "b@x");
    }

    #[test]
    fn an_account_without_identity_is_looked_at_once_creation_is_on() {
        let mut stored = known(account("1", "a@x"));
        for known in stored.values_mut() {
            known.identity = None;
        }
        assert!(compare(vec![account("1", "a@x")], &stored, false).renamed.is_empty());
        assert_eq!(compare(vec![account("1", "a@x")], &stored, true).renamed.len(), 1);
    }

    #[test]
    fn every_address_is_an_identifier_once_and_the_login_comes_first() {
        let addresses = ["Ann@Example.com".to_owned(), "a.b@example.com".to_owned(), "annb".to_owned()];
        let found = identifiers("ANN@example.com", &addresses);
        let expected =
            [(Kind::Login, "ann@example.com"), (Kind::Email, "a.b@example.com"), (Kind::Alias, "annb")];
        assert_eq!(found, expected.map(|(kind, value)| (kind, value.to_owned())));
    }
}
