//! Listings: users page by page, one user, administrators.

use std::{collections::HashSet, sync::atomic::Ordering};

use http::Method;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{
    Okta,
    client::Client,
    failure,
    log::{self, Events, Named},
    user::User,
};
use crate::{
    integration::SyncScope,
    provider::{
        Account, Cursor, Listing, Missing, Next, Page, ProviderError, Within, http::Answer, pace::Share,
    },
};

const USERS: &str = "/api/v1/users";
const ASSIGNEES: &str = "/api/v1/iam/assignees/users";
/// Default and maximum of Okta (§3.1).
const LIMIT: u16 = 200;
/// Changes are read again this far back: Okta's filter is eventually consistent (§3.1).
const OVERLAP: Duration = Duration::minutes(5);
/// Bounds listings that are collected whole.
pub(super) const MOST_PAGES: usize = 100;

/// Where a listing goes on. `started` is when its run began, by the org's clock: the next run's changes start there.
/// `log` is where the System Log is read on, absent where it may not be read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
enum Place {
    /// Inside the plain list, which leaves out deprovisioned users.
    Listed { started: i64, path: String },
    /// Inside the list of deprovisioned users; without a path at its start.
    Deprovisioned { started: i64, path: Option<String> },
    /// Among the members of a scope's groups: the group, and its next page if it was begun.
    Members { started: i64, groups: Vec<String>, nth: usize, path: Option<String> },
    /// At the start of a listing of what changed since.
    Since {
        since: i64,
        #[serde(default)]
        log: Option<String>,
    },
    /// Inside a listing of changes.
    Changed {
        started: i64,
        path: String,
        #[serde(default)]
        log: Option<String>,
    },
    /// At a page of the System Log.
    Logged { started: i64, log: String },
    /// Among the users whom a page of the System Log named; `more` pages of it follow. `roles`: who is an
    /// administrator changed.
    Named { started: i64, log: String, more: bool, roles: bool, named: Vec<Named> },
}

impl Place {
    fn cursor(&self) -> Result<Cursor, ProviderError> {
        serde_json::to_string(self)
            .map(Cursor)
            .map_err(|_| ProviderError::Protocol("a cursor cannot be written"))
    }
}

impl Okta {
    /// One page of users. Who is an administrator is left open.
    pub(super) async fn page(&self, listing: Listing, from: Option<&Cursor>) -> Result<Page, ProviderError> {
        let place = from.map(|c| serde_json::from_str::<Place>(&c.0)).transpose();
        let place = place.map_err(|_| ProviderError::CursorExpired)?;
        match listing {
            Listing::Full => full(&self.client, &self.scope, place).await,
            Listing::Changes => self.changes(place).await,
        }
    }

    /// What changed: first by `lastUpdated`, then by the System Log, which tells what moves no `lastUpdated`.
    async fn changes(&self, place: Option<Place>) -> Result<Page, ProviderError> {
        let client = &self.client;
        let (begun, path, log) = match place {
            Some(Place::Since { since, log }) => {
                let readable = client.token().await?.scopes.contains(log::SCOPE);
                let log =
                    readable.then(|| log.map_or_else(|| log::begin(&self.scope, since), Ok)).transpose()?;
                (None, changed_since(since)?, log)
            }
            Some(Place::Changed { started, path, log }) => (Some(started), path, log),
            Some(Place::Logged { started, log }) => return self.logged(started, log).await,
            Some(Place::Named { started, log, more, roles, named }) => {
                if roles {
                    self.forget_admins();
                }
                let reread = log::reread(client, &self.scope, &named).await?;
                let named = named.into_iter().skip(reread.done).collect::<Vec<_>>();
                let next = match (named.is_empty(), more) {
                    (false, _) => {
                        Next::Page(Place::Named { started, log, more, roles: false, named }.cursor()?)
                    }
                    (true, true) => Next::Page(Place::Logged { started, log }.cursor()?),
                    (true, false) => end(started, Some(log))?,
                };
                return Ok(Page { accounts: reread.accounts, within: reread.within, next });
            }
            _ => return Err(ProviderError::CursorExpired),
        };
        let (users, next) = list(client, &path, true).await?;
        let started = begun.unwrap_or_else(|| client.server_time());
        let next = match (next, log) {
            (Some(path), log) => Next::Page(Place::Changed { started, path, log }.cursor()?),
            (None, Some(log)) => Next::Page(Place::Logged { started, log }.cursor()?),
            (None, None) => end(started, None)?,
        };
        let accounts = users.into_iter().map(Account::from).collect();
        Ok(Page { accounts, within: Within::changes_of(&self.scope), next })
    }

    /// A page of the System Log. The users it names are read by the units that follow, some by each.
    async fn logged(&self, started: i64, log: String) -> Result<Page, ProviderError> {
        let next = match log::read(&self.client, &self.scope, &log, started).await? {
            // May not be read after all; should that change, it goes on from here.
            None => end(started, Some(log))?,
            Some(Events { named, roles, next: log, more }) if !named.is_empty() => {
                Next::Page(Place::Named { started, log, more, roles, named }.cursor()?)
            }
            Some(Events { next: log, more: true, .. }) => {
                Next::Page(Place::Logged { started, log }.cursor()?)
            }
            Some(Events { next: log, .. }) => end(started, Some(log))?,
        };
        Ok(Page { accounts: Vec::new(), within: Within::All, next })
    }
}

fn end(started: i64, log: Option<String>) -> Result<Next, ProviderError> {
    Ok(Next::End(Some(Place::Since { since: started, log }.cursor()?)))
}

/// A page of every user, or of every member of the scope's groups. A listing of another scope than today's starts again.
async fn full(client: &Client, scope: &SyncScope, place: Option<Place>) -> Result<Page, ProviderError> {
    let resumed = place.is_some();
    let (started, path, deprovisioned) = match place {
        None if !scope.is_whole() => return members(client, scope, None, 0, None).await,
        Some(Place::Members { started, groups, nth, path }) if groups == scope.group_ids => {
            return members(client, scope, Some(started), nth, path.as_deref()).await;
        }
        None => (None, None, false),
        Some(Place::Listed { started, path }) if scope.is_whole() => (Some(started), Some(path), false),
        Some(Place::Deprovisioned { started, path }) if scope.is_whole() => (Some(started), path, true),
        Some(_) => return Err(ProviderError::CursorExpired),
    };
    let path = path.unwrap_or_else(|| {
        if deprovisioned { filtered("status eq \"DEPROVISIONED\"") } else { format!("{USERS}?limit={LIMIT}") }
    });
    let (users, next) = list(client, &path, resumed).await?;
    if started.is_none() && users.is_empty() && next.is_none() {
        return Err(ProviderError::Refused(no_users()));
    }
    let started = started.unwrap_or_else(|| client.server_time());
    let next = match (deprovisioned, next) {
        (false, Some(path)) => Next::Page(Place::Listed { started, path }.cursor()?),
        (false, None) => Next::Page(Place::Deprovisioned { started, path: None }.cursor()?),
        (true, Some(path)) => Next::Page(Place::Deprovisioned { started, path: Some(path) }.cursor()?),
        (true, None) => end(started, None)?,
    };
    Ok(Page { accounts: users.into_iter().map(Account::from).collect(), within: Within::All, next })
}

/// One call of a list of users, and the path of what follows. `resumed`: it goes on from a cursor.
async fn list(
    client: &Client,
    path: &str,
    resumed: bool,
) -> Result<(Vec<User>, Option<String>), ProviderError> {
    // Stored cursors are trusted no more than links are.
    let path = client.follow(&format!("https://{}{path}", client.host()), USERS)?;
    let answer = client.call(Method::GET, "users", &path).await?;
    match answer.status {
        200 => {}
        // An `after` that the org does not know (any more) is a bad request like any other.
        400 if resumed && failure::code(&answer).is_some() => return Err(ProviderError::CursorExpired),
        _ => return Err(failure::of(&answer)),
    }
    let next = next_link(&answer).map(|link| client.follow(&link, USERS)).transpose()?;
    Ok((answer.json()?, next))
}

/// A page of the members of the scope's groups. A member of several groups comes several times.
async fn members(
    client: &Client,
    scope: &SyncScope,
    started: Option<i64>,
    nth: usize,
    path: Option<&str>,
) -> Result<Page, ProviderError> {
    let groups = scope.group_ids.clone();
    let group = groups.get(nth).ok_or(ProviderError::CursorExpired)?;
    let below = members_path(group)?;
    let here = match path {
        Some(path) => client.follow(&format!("https://{}{path}", client.host()), &below)?,
        None => format!("{below}?limit={LIMIT}"),
    };
    let answer = client.call(Method::GET, "groups", &here).await?;
    match answer.status {
        200 => {}
        404 => return Err(ProviderError::Refused(group_missing(group))),
        400 if path.is_some() && failure::code(&answer).is_some() => {
            return Err(ProviderError::CursorExpired);
        }
        _ => return Err(failure::of(&answer)),
    }
    let users: Vec<User> = answer.json()?;
    let started = started.unwrap_or_else(|| client.server_time());
    let next = match next_link(&answer).map(|link| client.follow(&link, &below)).transpose()? {
        Some(path) => Next::Page(Place::Members { started, groups, nth, path: Some(path) }.cursor()?),
        None if nth + 1 < groups.len() => {
            Next::Page(Place::Members { started, groups, nth: nth + 1, path: None }.cursor()?)
        }
        None => end(started, None)?,
    };
    Ok(Page { accounts: users.into_iter().map(Account::from).collect(), within: Within::All, next })
}

/// Whether the members of a group can be read.
pub(super) async fn group_is_readable(client: &Client, group: &str) -> Result<(), ProviderError> {
    let path = format!("{}?limit=1", members_path(group)?);
    let answer = client.call(Method::GET, "groups", &path).await?;
    match answer.status {
        200 => Ok(()),
        404 => Err(ProviderError::Refused(group_missing(group))),
        _ => Err(failure::of(&answer)),
    }
}

pub(super) fn members_path(group: &str) -> Result<String, ProviderError> {
    let plain = !group.is_empty() && group.bytes().all(|b| b.is_ascii_alphanumeric());
    plain
        .then(|| format!("/api/v1/groups/{group}/users"))
        .ok_or(ProviderError::Protocol("not an Okta group id"))
}

/// A group of the scope is not there (any more), or not visible to the app's role. Never an empty group: its members
/// would be taken for gone.
fn group_missing(group: &str) -> Missing {
    Missing {
        reason: "group_missing",
        message: format!(
            "the org shows no group {group}; change the integration's scope, or let the app's admin role see the group"
        ),
        not_granted: false,
    }
}

/// INVARIANT: an app without an admin role gets `200 []` (§1.1); that is never an empty directory.
pub(super) fn no_users() -> Missing {
    Missing {
        reason: "role_missing",
        message:
            "Okta shows no user at all: assign an admin role to the service app (Admin roles; Read-only \
                  administrator is enough for reading), covering all users"
                .into(),
        not_granted: true,
    }
}

pub(super) fn filtered(filter: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("limit", &LIMIT.to_string())
        .append_pair("filter", filter)
        .finish();
    format!("{USERS}?{query}")
}

fn changed_since(since: i64) -> Result<String, ProviderError> {
    Ok(filtered(&format!("lastUpdated gt \"{}\"", shortly_before(since)?)))
}

/// An instant and the overlap before it, in Okta's spelling.
pub(super) fn shortly_before(since: i64) -> Result<String, ProviderError> {
    let since = OffsetDateTime::from_unix_timestamp(since).ok().and_then(|at| at.checked_sub(OVERLAP));
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
    since.and_then(|at| at.format(format).ok()).ok_or(ProviderError::CursorExpired)
}

/// The target of `rel="next"`: `Link` may be repeated or joined by commas (§0).
pub(super) fn next_link(answer: &Answer) -> Option<String> {
    let lines = answer.headers.get_all("link").iter().filter_map(|v| v.to_str().ok());
    // No comma occurs inside the angle brackets unencoded; a split there only yields parts without `<`.
    lines.flat_map(|line| line.split(",<").flat_map(|l| l.split(", <"))).find_map(|link| {
        let (target, parameters) = link.trim_start_matches(['<', ' ']).split_once('>')?;
        let is_next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| target.to_owned())
    })
}

/// Ids of users with an administrator role of their own (§3.7).
pub(super) async fn admins(client: &Client) -> Result<HashSet<String>, ProviderError> {
    #[derive(Deserialize)]
    struct Assignees {
        value: Vec<Assignee>,
        #[serde(rename = "_links", default)]
        links: Links,
    }
    #[derive(Deserialize)]
    struct Assignee {
        id: String,
    }
    #[derive(Default, Deserialize)]
    struct Links {
        next: Option<Link>,
    }
    #[derive(Deserialize)]
    struct Link {
        href: String,
    }
    let mut found = HashSet::new();
    let mut path = format!("{ASSIGNEES}?limit=100");
    for _ in 0..MOST_PAGES {
        let page: Assignees = client.get("iam", &path).await?.json()?;
        found.extend(page.value.into_iter().map(|a| a.id));
        let Some(next) = page.links.next else { break };
        // These links may name the admin console's host (§3.7): only their query is used.
        let query = url::Url::parse(&next.href).ok().and_then(|u| u.query().map(str::to_owned));
        path = format!("{ASSIGNEES}?{}", query.ok_or(ProviderError::Protocol("a link without a query"))?);
    }
    Ok(found)
}

impl Okta {
    /// One user with its blocks, read now. Whether it is an administrator is left open.
    pub(super) async fn read(&self, object_id: &str) -> Result<Option<Account>, ProviderError> {
        self.read_within(self.client.share(), object_id).await
    }

    /// Whatever our share: an attempt was spent on what this is to tell.
    pub(super) async fn read_back(&self, object_id: &str) -> Result<Option<Account>, ProviderError> {
        self.read_within(Share::WHOLE, object_id).await
    }

    async fn read_within(&self, share: Share, object_id: &str) -> Result<Option<Account>, ProviderError> {
        Ok(self.read_user(share, object_id).await?.map(Account::from))
    }

    pub(super) async fn read_user(
        &self,
        share: Share,
        object_id: &str,
    ) -> Result<Option<User>, ProviderError> {
        let answer = self.read_answer(share, object_id).await?;
        match answer.status {
            200 => Ok(Some(answer.json::<User>()?)),
            404 if failure::code(&answer).as_deref() == Some("E0000007") => Ok(None),
            _ => Err(failure::of(&answer)),
        }
    }

    pub(super) async fn read_answer(&self, share: Share, object_id: &str) -> Result<Answer, ProviderError> {
        let path = user_path(object_id)?;
        if !self.without_blocks.load(Ordering::Relaxed) {
            let answer =
                self.client.call_within(share, Method::GET, "user", &format!("{path}?expand=blocks")).await?;
            if failure::code(&answer).as_deref() != Some("E0000015") {
                return Ok(answer);
            }
            self.without_blocks.store(true, Ordering::Relaxed); // the org does not have the feature
        }
        self.client.call_within(share, Method::GET, "user", &path).await
    }
}

/// Ids of the groups a user is in, as far as the app's role shows them.
pub(super) async fn groups_of(client: &Client, object_id: &str) -> Result<HashSet<String>, ProviderError> {
    #[derive(Deserialize)]
    struct Group {
        id: String,
    }
    let groups: Vec<Group> = list_of(client, "user_groups", object_id, "groups").await?;
    Ok(groups.into_iter().map(|group| group.id).collect())
}

/// A whole list of what belongs to a user.
///
/// INVARIANT: never a part of it, which would be taken for the whole.
pub(super) async fn list_of<T: serde::de::DeserializeOwned>(
    client: &Client,
    bucket: &'static str,
    object_id: &str,
    what: &str,
) -> Result<Vec<T>, ProviderError> {
    let below = format!("{}/{what}", user_path(object_id)?);
    let (mut all, mut path) = (Vec::new(), below.clone());
    for _ in 0..MOST_PAGES {
        let answer = client.get(bucket, &path).await?;
        all.extend(answer.json::<Vec<T>>()?);
        match next_link(&answer) {
            Some(link) => path = client.follow(&link, &below)?,
            None => return Ok(all),
        }
    }
    Err(ProviderError::Protocol("the list does not end"))
}

/// The path of one user; ids are letters and digits only, so nothing can be smuggled into it.
pub(super) fn user_path(object_id: &str) -> Result<String, ProviderError> {
    let plain = !object_id.is_empty() && object_id.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| format!("{USERS}/{object_id}")).ok_or(ProviderError::Protocol("not an Okta user id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_links(links: &[&str]) -> Answer {
        let mut headers = http::HeaderMap::new();
        for link in links {
            headers.append("link", link.parse().unwrap());
        }
        Answer { status: 200, headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn the_next_link_is_found_repeated_and_joined() {
        let this = r#"<https://a.okta.com/api/v1/users?limit=1>; rel="self""#;
        let next = r#"<https://a.okta.com/api/v1/users?after=200u&limit=1>; rel="next""#;
        let target = Some("https://a.okta.com/api/v1/users?after=200u&limit=1".to_owned());
        assert_eq!(next_link(&with_links(&[this, next])), target);
        assert_eq!(next_link(&with_links(&[&format!("{this}, {next}")])), target);
        assert_eq!(next_link(&with_links(&[&format!("{next},{this}")])), target);
        assert_eq!(next_link(&with_links(&[this])), None);
    }

    #[test]
    fn changes_are_asked_for_with_an_overlap_in_oktas_spelling() {
        let path = changed_since(1_767_225_600).unwrap(); // 2026-01-01
        assert_eq!(path, "/api/v1/users?limit=200&filter=lastUpdated+gt+%222025-12-31T23%3A55%3A00.000Z%22");
    }

    #[test]
    fn an_id_that_is_not_okta_shaped_reaches_no_url() {
        for bad in ["", "../logs", "00u?x=1", "00u/../a", "a@b.c"] {
            assert!(user_path(bad).is_err(), "{bad}");
        }
    }
}
