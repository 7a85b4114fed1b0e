//! Listings: accounts page by page, and where they go on.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Account;
use crate::integration::SyncScope;

/// An opaque place in a listing. Stored between pages; made and read only by the adapter that returned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// What a listing covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Every account.
    Full,
    /// What changed since the cursor that the last run ended with.
    Changes,
}

/// One page of a listing.
#[derive(Debug)]
pub struct Page {
    /// The accounts; may be empty though more follow.
    pub accounts: Vec<Account>,
    /// Which of them are known to be in the scope.
    pub within: Within,
    /// Where to go on.
    pub next: Next,
}

impl Page {
    /// Adds the page that follows.
    pub fn append(&mut self, following: Self) {
        let Self { accounts, within, next } = following;
        if self.within != Within::All || within != Within::All {
            let mut ids = std::mem::replace(&mut self.within, Within::All).among(&self.accounts);
            ids.extend(within.among(&accounts));
            self.within = Within::Only(ids);
        }
        self.accounts.extend(accounts);
        self.next = next;
    }
}

/// Which accounts of a page are known to be in the integration's scope. A listing of what changed in a whole directory
/// does not tell who is in a group: an account of such a page is taken for what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Within {
    /// All of them.
    All,
    /// Those with these object ids.
    Only(HashSet<String>),
}

impl Within {
    /// Of a listing of changes in a whole directory, of which `scope` may be a part.
    pub fn changes_of(scope: &SyncScope) -> Self {
        if scope.is_whole() { Self::All } else { Self::Only(HashSet::new()) }
    }

    /// The ids of those it covers.
    fn among(self, accounts: &[Account]) -> HashSet<String> {
        match self {
            Self::All => accounts.iter().map(|account| account.object_id.clone()).collect(),
            Self::Only(ids) => ids,
        }
    }

    /// Whether this account is known to be in the scope.
    pub fn covers(&self, object_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(object_id),
        }
    }
}

/// What follows a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// More pages follow.
    Page(Cursor),
    /// The listing is complete. The cursor starts the next [`Listing::Changes`], where the provider has one.
    End(Option<Cursor>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[&str], within: Within) -> Page {
        let accounts = ids.iter().map(|&id| Account::tombstone(id.to_owned())).collect();
        Page { accounts, within, next: Next::End(None) }
    }

    #[test]
    fn what_is_known_of_one_page_is_not_taken_for_known_of_another() {
        let mut unit = page(&["a", "b"], Within::Only(HashSet::new()));
        unit.append(page(&["c"], Within::All));
        unit.append(page(&["d", "e"], Within::Only(HashSet::from(["e".to_owned()]))));
        let covered: Vec<_> = unit.accounts.iter().filter(|a| unit.within.covers(&a.object_id)).collect();
        assert_eq!(covered.iter().map(|a| a.object_id.as_str()).collect::<Vec<_>>(), ["c", "e"]);
        let mut whole = page(&["a"], Within::All);
        whole.append(page(&["b"], Within::All));
        assert_eq!(whole.within, Within::All);
    }
}
