//! Who else changed a user's state or risk, by the System Log (§3.5): lifecycle events and `user.risk.change`, whose actor
//! is a person, or a service app with its client id.

use http::Method;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{client::Client, failure, listing::next_link, log, sign_ins::date};
use crate::provider::{
    Action, Change, ProviderError,
    changes::{Page, Place},
};

/// Events of a page: the most there is.
const PAGE: u16 = 1000;
/// How far back an org keeps it, less a day.
pub(super) const KEPT: time::Duration = time::Duration::days(89);
const RISK: &str = "user.risk.change";
/// What changes the state of somebody who is suspended.
const LIFECYCLE: [&str; 4] = [
    "user.lifecycle.unsuspend",
    "user.lifecycle.activate",
    "user.lifecycle.reactivate",
    "user.lifecycle.deactivate",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "eventType")]
    kind: String,
    published: String,
    actor: Option<Actor>,
    outcome: Option<Outcome>,
    target: Option<Vec<Target>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Actor {
    id: Option<String>,
    alternate_id: Option<String>,
    display_name: Option<String>,
}

#[derive(Deserialize)]
struct Outcome {
    result: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A page of what others did. `None`: the app may not read the log.
pub(super) async fn page(client: &Client, place: Place) -> Result<Option<Page>, ProviderError> {
    if !client.token().await?.scopes.contains(log::SCOPE) {
        return Ok(None);
    }
    let path = match place {
        Place::Link(link) => client.follow(&link, log::LOGS)?,
        Place::Since(since) => {
            let kinds: Vec<_> = LIFECYCLE.iter().map(|kind| format!("eventType eq \"{kind}\"")).collect();
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("since", &date(since.unix_timestamp())?)
                .append_pair("until", &date(client.server_time() + 60)?) // the bounded form ends
                .append_pair("sortOrder", "ASCENDING")
                .append_pair("limit", &PAGE.to_string())
                .append_pair("filter", &format!("{} or eventType eq \"{RISK}\"", kinds.join(" or ")))
                .finish();
            format!("{}?{query}", log::LOGS)
        }
    };
    let answer = client.call(Method::GET, "logs", &path).await?;
    if answer.status != 200 {
        return match failure::of(&answer) {
            ProviderError::Refused(_) => Ok(None),
            error => Err(error),
        };
    }
    let events: Vec<Event> = answer.json()?;
    let next = next_link(&answer).filter(|_| !events.is_empty());
    let mut changes = Vec::new();
    for event in events {
        changes.extend(event.of_others(client.client_id())?);
    }
    Ok(Some(Page { changes, next }))
}

impl Event {
    /// To whom somebody else than this app did something.
    fn of_others(self, ourselves: &str) -> Result<Vec<(Action, String, Change)>, ProviderError> {
        let failed =
            self.outcome.and_then(|outcome| outcome.result).is_some_and(|result| result != "SUCCESS");
        if failed || self.actor.as_ref().and_then(|actor| actor.id.as_deref()) == Some(ourselves) {
            return Ok(Vec::new());
        }
        let at = OffsetDateTime::parse(&self.published, &Rfc3339)
            .map_err(|_| ProviderError::Protocol("an event without a date"))?;
        let names = self.actor.map(|actor| [actor.alternate_id, actor.display_name, actor.id]);
        let by = names.into_iter().flatten().flatten().find(|name| name != "unknown").unwrap_or_default();
        let action = if self.kind == RISK { Action::MarkCompromised } else { Action::DisableAccount };
        let users = self.target.into_iter().flatten().filter(|target| target.kind.as_deref() == Some("User"));
        let ids = users.filter_map(|target| target.id);
        Ok(ids.map(|id| (action, id, Change { at, by: by.clone() })).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_of_ours_is_nobody_elses_and_others_are_named() {
        let event = |actor: &str, result: &str| {
            let event = json!({"eventType": "user.lifecycle.unsuspend", "published": "2026-01-02T03:04:05.678Z",
                "actor": {"id": actor, "alternateId": "help@acme.example", "displayName": "Help Desk"},
                "outcome": {"result": result}, "target": [{"id": "00u1", "type": "User"}, {"id": "x", "type": "App"}]});
            serde_json::from_value::<Event>(event).unwrap().of_others("0oa1").unwrap()
        };
        assert_eq!(event("0oa1", "SUCCESS"), []);
        assert_eq!(event("00uadmin", "FAILURE"), [], "what failed changed nothing");
        let [(Action::DisableAccount, user, change)] = &event("00uadmin", "SUCCESS")[..] else {
            panic!("one change")
        };
        assert_eq!((user.as_str(), change.by.as_str()), ("00u1", "help@acme.example"));
    }
}
