//! Listing users page by page: everything once, changes afterwards (entra.md §7.3, §8).

use serde::{Deserialize, Serialize};

use super::{
    Entra, Facts,
    account::{SELECT, User, object_id_segment},
};
use crate::provider::{Account, Cursor, Listing, Missing, Next, Page, ProviderError, Within};

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
    /// Among the members of a scope's groups: the group, its next page if it was begun, and where the changes start.
    Members { groups: Vec<String>, nth: usize, next: Option<String>, changes: String },
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
                if !self.scope.is_whole() {
                    return self.members(0, None, changes, &facts).await;
                }
                let (activity, top) =
                    if facts.sign_in_activity { (",signInActivity", TOP_WITH_ACTIVITY) } else { ("", TOP) };
                let first = format!("{USERS}?$select={SELECT}{activity}&$top={top}");
                self.full(&self.graph.url(&first), changes, &facts).await
            }
            // A listing of another scope than today's starts again.
            (Listing::Full, Some(Place::Members { groups, nth, next, changes }))
                if groups == self.scope.group_ids =>
            {
                self.members(nth, next.as_deref(), changes, &facts).await
            }
            (Listing::Full, Some(Place::Full { next, changes })) if self.scope.is_whole() => {
                self.full(self.graph.own_link(&next, USERS)?, changes, &facts).await
            }
            (Listing::Changes, Some(Place::Changes { next })) => {
                self.changes(self.graph.own_link(&next, DELTA)?, &facts).await
            }
            (Listing::Full, Some(_)) | (Listing::Changes, None | Some(_)) => {
                Err(ProviderError::CursorExpired)
            }
        }
    }

    /// A page of the members of the scope's groups, direct and nested. A member of several groups comes several times.
    async fn members(
        &self,
        nth: usize,
        next: Option<&str>,
        changes: String,
        facts: &Facts,
    ) -> Result<Page, ProviderError> {
        let groups = self.scope.group_ids.clone();
        let group = groups.get(nth).ok_or(ProviderError::CursorExpired)?;
        let below = members_path(group)?;
        let url = match next {
            Some(next) => self.graph.own_link(next, &below)?.to_owned(),
            // Sign-ins cannot be selected here; the sync keeps what it knows and an attempt reads them itself.
            None => self.graph.url(&format!("{below}?$count=true&$select={SELECT}&$top={TOP}")),
        };
        let answer = self.graph.read_advanced(&url).await?;
        let Users { next, value, .. } = match answer.status {
            200 => answer.json()?,
            404 => return Err(ProviderError::Refused(group_missing(group))),
            403 => return Err(ProviderError::Refused(groups_unreadable())),
            _ => return Err(super::graph::error(&answer)),
        };
        let accounts = value.into_iter().map(|user| user.into_account(facts)).collect();
        if let Some(next) = &next {
            self.graph.own_link(next, &below)?;
        }
        let next = match next {
            Some(next) => Next::Page(Place::Members { groups, nth, next: Some(next), changes }.cursor()?),
            None if nth + 1 < groups.len() => {
                Next::Page(Place::Members { groups, nth: nth + 1, next: None, changes }.cursor()?)
            }
            None => Next::End(Some(Place::Changes { next: changes }.cursor()?)),
        };
        Ok(Page { accounts, within: Within::All, next })
    }

    /// How many accounts a full listing shows; a member of several groups counts for each (entra.md §8.1).
    pub(super) async fn count_accounts(&self) -> Result<i64, ProviderError> {
        if self.scope.is_whole() {
            return self.graph.count(USERS).await;
        }
        let mut all = 0;
        for group in &self.scope.group_ids {
            all += self.graph.count(&members_path(group)?).await?;
        }
        Ok(all)
    }

    /// Whether the members of every group of the scope can be read.
    pub(super) async fn check_scope(&self) -> Result<(), ProviderError> {
        for group in &self.scope.group_ids {
            let path = format!("{}?$count=true&$select=id&$top=1", members_path(group)?);
            let answer = self.graph.read_advanced(&self.graph.url(&path)).await?;
            match answer.status {
                200 => {}
                404 => return Err(ProviderError::Refused(group_missing(group))),
                403 => return Err(ProviderError::Refused(groups_unreadable())),
                _ => return Err(super::graph::error(&answer)),
            }
        }
        Ok(())
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
        Ok(Page { accounts, within: Within::All, next })
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
        Ok(Page { accounts, within: Within::changes_of(&self.scope), next })
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

fn members_path(group: &str) -> Result<String, ProviderError> {
    Ok(format!("/groups/{}/transitiveMembers/microsoft.graph.user", object_id_segment(group)?))
}

fn groups_unreadable() -> Missing {
    Missing {
        reason: "consent_missing",
        message:
            "Add the application permission GroupMember.Read.All to the application and grant admin consent."
                .into(),
        not_granted: true,
    }
}

/// A group of the scope is not there (any more). Never an empty group: its members would be taken for gone.
fn group_missing(group: &str) -> Missing {
    Missing {
        reason: "group_missing",
        message: format!("The directory has no group {group}; change the integration's scope."),
        not_granted: false,
    }
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(answer: &crate::provider::http::Answer) -> Vec<User> {
    answer.json::<Users>().map(|users| users.value).unwrap_or_default()
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
