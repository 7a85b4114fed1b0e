//! The System Log as the feed of changes (§3.5). It tells what moves no `lastUpdated`: deletions, locks, roles, and who
//! joins or leaves a group. An event is a hint and no more: the user it names is read again, so that repeated, late and
//! disordered events do no harm.

use std::collections::HashMap;

use http::Method;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    client::Client,
    failure,
    listing::{filtered, groups_of, next_link, shortly_before, user_path},
    user::User,
};
use crate::{
    integration::SyncScope,
    provider::{Account, ProviderError, Within},
};

/// What reading the log takes.
pub(super) const SCOPE: &str = "okta.logs.read";
pub(super) const LOGS: &str = "/api/v1/logs";
/// Events of a page. Each names a user or two, and all of them have to fit into a cursor.
const PAGE: u16 = 200;
/// Users that one unit reads again: their ids have to fit into the URL of one filter.
const BATCH: usize = 50;
/// The org's time is reckoned from headers in whole seconds, so that `started` may be early by nearly two: what happened just
/// before a run must not end its reading.
const RECKONING: i64 = 2;
const MEMBERSHIP: &str = "group.user_membership.";
const ROLES: &str = "user.account.privilege.";

/// A user some event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    id: String,
    /// Joined or left a group of the scope.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    moved: bool,
}

/// A page of the log.
#[derive(Debug)]
pub(super) struct Events {
    pub named: Vec<Named>,
    /// Somebody's administrator role was granted or revoked.
    pub roles: bool,
    /// Where the log is read on.
    pub next: String,
    /// There may be more than this page by now.
    pub more: bool,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "eventType")]
    kind: String,
    published: String,
    target: Option<Vec<Target>>,
}

#[derive(Debug, Deserialize)]
struct Target {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Event {
    fn targets<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.target.iter().flatten();
        all.filter(move |t| t.kind.as_deref() == Some(kind)).filter_map(|t| t.id.as_deref())
    }
}

/// Where the log of a scope begins. It is asked for in the polling form, which is ordered by arrival and loses nothing;
/// sign-ins, by far the most of it, are left out.
pub(super) fn begin(scope: &SyncScope, since: i64) -> Result<String, ProviderError> {
    let mut filter = String::from("eventType sw \"user.lifecycle.\" or eventType sw \"user.account.\"");
    if !scope.is_whole() {
        filter.push_str(" or eventType sw \"group.user_membership.\"");
    }
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("since", &shortly_before(since)?)
        .append_pair("sortOrder", "ASCENDING")
        .append_pair("limit", &PAGE.to_string())
        .append_pair("filter", &filter)
        .finish();
    Ok(format!("{LOGS}?{query}"))
}

/// Whether the app's role may read the log. A fault of the moment is no answer, and no complaint.
pub(super) async fn is_readable(client: &Client) -> bool {
    let answer = client.call(Method::GET, "logs", &format!("{LOGS}?limit=1")).await;
    !answer.is_ok_and(|answer| matches!(failure::of(&answer), ProviderError::Refused(_)))
}

/// One page of the log. `None`: the app's role may not read it.
///
/// The link to the next page is there even behind the last one, so the log counts as read once a page is empty or tells
/// of something surely later than `started`, when the run began.
pub(super) async fn read(
    client: &Client,
    scope: &SyncScope,
    path: &str,
    started: i64,
) -> Result<Option<Events>, ProviderError> {
    let path = client.follow(&format!("https://{}{path}", client.host()), LOGS)?;
    let answer = client.call(Method::GET, "logs", &path).await?;
    match answer.status {
        200 => {}
        // A place that the org does not know any more, or that is older than what it keeps.
        400 if failure::code(&answer).is_some() => return Err(ProviderError::CursorExpired),
        _ => {
            return match failure::of(&answer) {
                ProviderError::Refused(_) => Ok(None),
                error => Err(error),
            };
        }
    }
    let next = next_link(&answer).map(|link| client.follow(&link, LOGS)).transpose()?;
    let events: Vec<Event> = answer.json()?;
    let next = match next {
        Some(next) => next,
        None if events.is_empty() => path,
        None => return Err(ProviderError::Protocol("a page of the log without a link")),
    };
    let up_to_date = events.iter().any(|event| {
        let at = OffsetDateTime::parse(&event.published, &Rfc3339);
        at.is_ok_and(|at| at.unix_timestamp() > started + RECKONING)
    });
    let more = !events.is_empty() && !up_to_date;
    let roles = events.iter().any(|event| event.kind.starts_with(ROLES));
    Ok(Some(Events { named: named(&events, scope), roles, next, more }))
}

/// Whom the events are about, each once, in their order.
fn named(events: &[Event], scope: &SyncScope) -> Vec<Named> {
    let (mut found, mut places) = (Vec::<Named>::new(), HashMap::new());
    for event in events {
        let moved = event.kind.starts_with(MEMBERSHIP);
        if moved && !event.targets("UserGroup").any(|group| scope.group_ids.iter().any(|id| id == group)) {
            continue;
        }
        for id in event.targets("User").filter(|id| user_path(id).is_ok()) {
            let place = *places.entry(id).or_insert_with(|| {
                found.push(Named { id: id.to_owned(), moved: false });
                found.len() - 1
            });
            if let Some(named) = found.get_mut(place) {
                named.moved |= moved;
            }
        }
    }
    found
}

/// Users as they are now.
#[derive(Debug)]
pub(super) struct Reread {
    pub accounts: Vec<Account>,
    pub within: Within,
    /// How many of the named were read.
    pub done: usize,
}

/// Reads some of the named users again, at least one. Who left the scope or is gone becomes a tombstone.
///
/// What was read before the org asked to slow down counts: else a small bucket would never see the end of a page.
pub(super) async fn reread(
    client: &Client,
    scope: &SyncScope,
    named: &[Named],
) -> Result<Reread, ProviderError> {
    let named = named.get(..BATCH).unwrap_or(named);
    let any = named.iter().map(|named| format!("id eq \"{}\"", named.id)).collect::<Vec<_>>().join(" or ");
    let users: Vec<User> = client.get("users", &filtered(&any)).await?.json()?;
    let mut listed: HashMap<String, Account> =
        users.into_iter().map(Account::from).map(|account| (account.object_id.clone(), account)).collect();
    let mut reread = Reread { accounts: Vec::new(), within: Within::changes_of(scope), done: 0 };
    for named in named {
        let found = match listed.remove(&named.id) {
            Some(account) => shown(client, scope, named, account).await,
            None => unlisted(client, scope, named).await,
        };
        match found {
            Err(ProviderError::Throttled { .. } | ProviderError::Paced { .. }) if reread.done > 0 => break,
            found => reread.accounts.extend(found?),
        }
        if let (true, Within::Only(members)) = (named.moved, &mut reread.within) {
            members.insert(named.id.clone());
        }
        reread.done += 1;
    }
    Ok(reread)
}

/// A user the list shows: itself, unless it has left the scope.
async fn shown(
    client: &Client,
    scope: &SyncScope,
    named: &Named,
    account: Account,
) -> Result<Option<Account>, ProviderError> {
    if named.moved && !groups_of(client, &named.id).await?.iter().any(|id| scope.group_ids.contains(id)) {
        return Ok(Some(Account::tombstone(account.object_id)));
    }
    Ok(Some(account))
}

/// A user the list does not show: lists lag behind, so that only the user itself can tell that it is gone.
async fn unlisted(
    client: &Client,
    scope: &SyncScope,
    named: &Named,
) -> Result<Option<Account>, ProviderError> {
    let answer = client.call(Method::GET, "user", &user_path(&named.id)?).await?;
    match (answer.status, failure::code(&answer).as_deref()) {
        (200, _) => shown(client, scope, named, answer.json::<User>()?.into()).await,
        (404, Some("E0000007")) => Ok(Some(Account::tombstone(named.id.clone()))),
        // The log tells of users whom the app's role does not cover.
        (403, Some("E0000006")) => Ok(None),
        _ => Err(failure::of(&answer)),
    }
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(answer: &crate::provider::http::Answer, scope: &SyncScope) {
    if let Ok(events) = answer.json::<Vec<Event>>() {
        assert!(named(&events, scope).iter().all(|named| user_path(&named.id).is_ok()), "an id that is none");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, targets: &[(&str, &str)]) -> Event {
        let targets: Vec<_> = targets.iter().map(|(kind, id)| json!({"id": id, "type": kind})).collect();
        serde_json::from_value(json!({"eventType": kind, "published": "2026-01-02T03:04:05.678Z",
            "uuid": "x", "target": targets}))
        .unwrap()
    }

    #[test]
    fn an_event_names_its_users_wherever_they_stand_and_each_is_named_once() {
        let events = [
            event("user.account.lock", &[("AppInstance", "0oa1"), ("User", "00u1")]),
            event("user.lifecycle.suspend", &[("User", "00u2"), ("User", "00u1")]),
            event("user.account.lock", &[("User", "../logs")]),
            serde_json::from_value(
                json!({"eventType": "user.account.lock", "published": "?", "target": null}),
            )
            .unwrap(),
        ];
        let found = named(&events, &SyncScope::default());
        assert_eq!(found, ["00u1", "00u2"].map(|id| Named { id: id.into(), moved: false }));
    }

    #[test]
    fn only_groups_of_the_scope_move_anybody() {
        let scope = SyncScope { group_ids: vec!["00g1".into()] };
        let events = [
            event("group.user_membership.add", &[("User", "00u1"), ("UserGroup", "00g2")]),
            event("user.account.update_profile", &[("User", "00u2")]),
            event("group.user_membership.remove", &[("User", "00u2"), ("UserGroup", "00g1")]),
        ];
        assert_eq!(named(&events, &scope), [Named { id: "00u2".into(), moved: true }]);
        assert!(named(&events[..1], &SyncScope::default()).is_empty());
    }

    #[test]
    fn memberships_are_asked_for_only_when_groups_are_covered() {
        let whole = begin(&SyncScope::default(), 1_767_225_600).unwrap();
        assert!(whole.starts_with("/api/v1/logs?since=2025-12-31T23%3A55%3A00.000Z&sortOrder=ASCENDING&"));
        assert!(!whole.contains("until=") && !whole.contains("membership"));
        let scoped = begin(&SyncScope { group_ids: vec!["00g1".into()] }, 1_767_225_600).unwrap();
        assert!(scoped.contains("membership"));
    }
}
