//! Listing users page by page: everything once, changes afterwards (entra.md §7.3, §8).

use serde::{Deserialize, Serialize};

use super::{
    Entra, Facts,
    account::{SELECT, User},
};
use crate::provider::{Account, Cursor, Listing, Next, Page, ProviderError};

const USERS: &str = "/users";
const DELTA: &str = "/users/delta";
/// The largest page Graph serves.
const TOP: u32 = 999;
/// The largest page that may carry `signInActivity`.
const TOP_WITH_ACTIVITY: u32 = 500;

/// A place in a listing, as the cursor holds it. Links are Graph's own, opaque and followed verbatim.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Place {
    /// The next page of a full listing, and where the changes since its beginning start.
    Full { next: String, changes: String },
    /// The next page of changes.
    Changes { next: String },
}

impl Place {
    fn cursor(&self) -> Result<Cursor, ProviderError> {
        let text = serde_json::to_string(self);
        text.map(Cursor).map_err(|_| ProviderError::Protocol("a cursor that cannot be written"))
    }

    /// A cursor we did not write is as good as an expired one: the listing starts again.
    fn read(cursor: &Cursor) -> Result<Self, ProviderError> {
        serde_json::from_str(&cursor.0).map_err(|_| ProviderError::CursorExpired)
    }
}

#[derive(Deserialize)]
struct Users {
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
    #[serde(rename = "@odata.deltaLink")]
    delta: Option<String>,
    value: Vec<User>,
}

impl Entra {
    pub(super) async fn page(&self, listing: Listing, from: Option<&Cursor>) -> Result<Page, ProviderError> {
        let facts = self.facts().await?;
        match (listing, from.map(Place::read).transpose()?) {
            (Listing::Full, None) => {
                // Asked for before the first page, so that no change falls between the listing and the first delta.
                let changes = self.changes_from_now().await?;
                let (activity, top) =
                    if facts.sign_in_activity { (",signInActivity", TOP_WITH_ACTIVITY) } else { ("", TOP) };
                let first = format!("{USERS}?$select={SELECT}{activity}&$top={top}");
                self.full(&self.graph.url(&first), changes, &facts).await
            }
            (Listing::Full, Some(Place::Full { next, changes })) => {
                self.full(self.graph.own_link(&next, USERS)?, changes, &facts).await
            }
            (Listing::Changes, Some(Place::Changes { next })) => {
                self.changes(self.graph.own_link(&next, DELTA)?, &facts).await
            }
            (Listing::Full, Some(Place::Changes { .. }))
            | (Listing::Changes, None | Some(Place::Full { .. })) => Err(ProviderError::CursorExpired),
        }
    }

    async fn full(&self, url: &str, changes: String, facts: &Facts) -> Result<Page, ProviderError> {
        let Users { next, value, .. } = self.graph.get_url(url).await?.json()?;
        let accounts = value.into_iter().map(|user| user.into_account(facts)).collect();
        let next = match next {
            Some(next) => {
                self.graph.own_link(&next, USERS)?;
                Next::Page(Place::Full { next, changes }.cursor()?)
            }
            None => Next::End(Some(Place::Changes { next: changes }.cursor()?)),
        };
        Ok(Page { accounts, next })
    }

    async fn changes(&self, url: &str, facts: &Facts) -> Result<Page, ProviderError> {
        let Users { next, delta, value } = self.graph.get_url(url).await?.json()?;
        let mut accounts = Vec::with_capacity(value.len());
        for user in value {
            accounts.extend(self.completed(user, facts).await?);
        }
        let next = match (next, delta) {
            (Some(next), _) => {
                self.graph.own_link(&next, DELTA)?;
                Next::Page(Place::Changes { next }.cursor()?)
            }
            (None, Some(next)) => {
                self.graph.own_link(&next, DELTA)?;
                Next::End(Some(Place::Changes { next }.cursor()?))
            }
            (None, None) => return Err(ProviderError::Protocol("a delta page without a link")),
        };
        Ok(Page { accounts, next })
    }

    /// A changed user, read again when the delta shows only part of it. Sign-ins are not in deltas at all.
    async fn completed(&self, user: User, facts: &Facts) -> Result<Option<Account>, ProviderError> {
        if user.is_complete() {
            return Ok(Some(user.into_account(facts)));
        }
        self.read_account(&user.id, facts).await
    }

    /// The link that lists what changes from this moment on.
    async fn changes_from_now(&self) -> Result<String, ProviderError> {
        let path = format!("{DELTA}?$select={SELECT}&$deltatoken=latest");
        let Users { delta, .. } = self.graph.get(&path).await?.json()?;
        let link = delta.ok_or(ProviderError::Protocol("a delta page without a link"))?;
        self.graph.own_link(&link, DELTA)?;
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_written_and_a_foreign_one_starts_the_listing_again() {
        let place = Place::Full { next: "https://a/b?c".into(), changes: "https://a/d".into() };
        assert_eq!(Place::read(&place.cursor().unwrap()).unwrap(), place);
        let foreign = Place::read(&Cursor("https://evil.example/users".into()));
        assert!(matches!(foreign, Err(ProviderError::CursorExpired)));
    }
}
