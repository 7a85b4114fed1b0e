//! Listings: users page by page, one user, administrators, password policies.

use std::{collections::HashSet, sync::atomic::Ordering};

use http::Method;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Okta, client::Client, failure, user::User};
use crate::{
    integration::SyncScope,
    provider::{
        Account, Cursor, Listing, LockoutPolicy, Missing, Next, Page, ProviderError, http::Answer,
        pace::Share,
    },
};

const USERS: &str = "/api/v1/users";
const ASSIGNEES: &str = "/api/v1/iam/assignees/users";
const POLICIES: &str = "/api/v1/policies";
/// Default and maximum of Okta (§3.1).
const LIMIT: u16 = 200;
/// Changes are read again this far back: Okta's filter is eventually consistent (§3.1).
const OVERLAP: Duration = Duration::minutes(5);
/// Bounds listings that are collected whole.
const MOST_PAGES: usize = 100;

/// Where a listing goes on. `started` is when its run began, by the org's clock: the next run's changes start there.
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
    Since { since: i64 },
    /// Inside a listing of changes.
    Changed { started: i64, path: String },
}

impl Place {
    fn cursor(&self) -> Result<Cursor, ProviderError> {
        serde_json::to_string(self)
            .map(Cursor)
            .map_err(|_| ProviderError::Protocol("a cursor cannot be written"))
    }
}

/// One page of users.
pub(super) async fn page(
    client: &Client,
    scope: &SyncScope,
    listing: Listing,
    from: Option<&Cursor>,
) -> Result<Page, ProviderError> {
    let place = from.map(|c| serde_json::from_str::<Place>(&c.0)).transpose();
    let place = place.map_err(|_| ProviderError::CursorExpired)?;
    // A listing of another scope than today's starts again.
    match (listing, &place) {
        (Listing::Full, None) if !scope.is_whole() => {
            return members(client, scope, None, 0, None).await;
        }
        (Listing::Full, Some(Place::Members { started, groups, nth, path }))
            if *groups == scope.group_ids =>
        {
            return members(client, scope, Some(*started), *nth, path.as_deref()).await;
        }
        (Listing::Full, Some(_)) if !scope.is_whole() => return Err(ProviderError::CursorExpired),
        _ => {}
    }
    let (started, path) = match (listing, &place) {
        (Listing::Full, None) => (None, format!("{USERS}?limit={LIMIT}")),
        (Listing::Full, Some(Place::Deprovisioned { started, path: None })) => {
            (Some(*started), filtered("status eq \"DEPROVISIONED\""))
        }
        (Listing::Changes, Some(Place::Since { since })) => (None, changed_since(*since)?),
        (
            Listing::Full,
            Some(Place::Listed { started, path } | Place::Deprovisioned { started, path: Some(path) }),
        )
        | (Listing::Changes, Some(Place::Changed { started, path })) => {
            // Stored cursors are trusted no more than links are.
            (Some(*started), client.follow(&format!("https://{}{path}", client.host()), USERS)?)
        }
        _ => return Err(ProviderError::CursorExpired),
    };
    let answer = client.call(Method::GET, "users", &path).await?;
    match answer.status {
        200 => {}
        // An `after` that the org does not know (any more) is a bad request like any other.
        400 if from.is_some() && failure::code(&answer).is_some() => {
            return Err(ProviderError::CursorExpired);
        }
        _ => return Err(failure::of(&answer)),
    }
    let users: Vec<User> = answer.json()?;
    let next = next_link(&answer).map(|link| client.follow(&link, USERS)).transpose()?;
    if from.is_none() && users.is_empty() && next.is_none() {
        return Err(ProviderError::Refused(no_users()));
    }
    let started = started.unwrap_or_else(|| client.server_time());
    let next = match (listing, place, next) {
        (Listing::Full, Some(Place::Deprovisioned { .. }), Some(path)) => {
            Next::Page(Place::Deprovisioned { started, path: Some(path) }.cursor()?)
        }
        (Listing::Full, Some(Place::Deprovisioned { .. }), None) | (Listing::Changes, _, None) => {
            Next::End(Some(Place::Since { since: started }.cursor()?))
        }
        (Listing::Full, _, Some(path)) => Next::Page(Place::Listed { started, path }.cursor()?),
        (Listing::Full, _, None) => Next::Page(Place::Deprovisioned { started, path: None }.cursor()?),
        (Listing::Changes, _, Some(path)) => Next::Page(Place::Changed { started, path }.cursor()?),
    };
    Ok(Page { accounts: users.into_iter().map(Account::from).collect(), next })
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
        None => Next::End(Some(Place::Since { since: started }.cursor()?)),
    };
    Ok(Page { accounts: users.into_iter().map(Account::from).collect(), next })
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

fn members_path(group: &str) -> Result<String, ProviderError> {
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

fn filtered(filter: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("limit", &LIMIT.to_string())
        .append_pair("filter", filter)
        .finish();
    format!("{USERS}?{query}")
}

fn changed_since(since: i64) -> Result<String, ProviderError> {
    let since =
        OffsetDateTime::from_unix_timestamp(since).map_err(|_| ProviderError::CursorExpired)? - OVERLAP;
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
    let since = since.format(format).or_else(|_| since.format(&Rfc3339));
    Ok(filtered(&format!("lastUpdated gt \"{}\"", since.map_err(|_| ProviderError::CursorExpired)?)))
}

/// The target of `rel="next"`: `Link` may be repeated or joined by commas (§0).
fn next_link(answer: &Answer) -> Option<String> {
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

/// The strictest threshold of the active password policies (§4.8): a bound that is safe without knowing who is in
/// which group. `None` when it may not be read, or nobody is ever locked.
pub(super) async fn lockout_policy(client: &Client) -> Result<LockoutPolicy, ProviderError> {
    #[derive(Deserialize)]
    struct Policy {
        status: String,
        #[serde(default)]
        settings: Settings,
    }
    #[derive(Default, Deserialize)]
    struct Settings {
        #[serde(default)]
        password: Password,
    }
    #[derive(Default, Deserialize)]
    struct Password {
        #[serde(default)]
        lockout: Lockout,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lockout {
        max_attempts: Option<u32>,
    }
    let mut threshold: Option<u32> = None;
    let mut path = Some(format!("{POLICIES}?type=PASSWORD"));
    for _ in 0..MOST_PAGES {
        let Some(here) = path.take() else { break };
        let answer = match client.get("policies", &here).await {
            Err(ProviderError::Refused(_)) => return Ok(LockoutPolicy::default()),
            other => other?,
        };
        path = next_link(&answer).map(|link| client.follow(&link, POLICIES)).transpose()?;
        let policies: Vec<Policy> = answer.json()?;
        let active = policies.into_iter().filter(|p| p.status == "ACTIVE");
        let strictest =
            active.filter_map(|p| p.settings.password.lockout.max_attempts).filter(|n| *n > 0).min();
        threshold = [threshold, strictest].into_iter().flatten().min();
    }
    Ok(LockoutPolicy { threshold })
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
        let answer = self.read_answer(share, object_id).await?;
        match answer.status {
            200 => Ok(Some(answer.json::<User>()?.into())),
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
