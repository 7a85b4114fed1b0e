//! Sign-ins in the System Log (§3.5): the owner's, told from ours by our user agent, and what became of an attempt of ours.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    client::Client,
    failure,
    listing::{next_link, user_path},
    log,
};
use crate::provider::{
    OwnSignIn, ProviderError, SignIn, SignIns,
    http::{Answer, USER_AGENT},
    sign_ins::{MOST_PAGES, TOO_MANY, patiently},
};

/// Events of the one page that is read, the newest.
const PAGE: u16 = 200;
/// Events of a page of our own. At most 1000 are given; an org may give fewer.
const OWN_PAGE: u16 = 1000;
/// Who an event is about when the submitted name is nobody's, as in a connection test.
const NOBODY: &str = "unknown";
/// The org's time is reckoned from headers in whole seconds.
const RECKONING: i64 = 2;
/// How long one look at what became of an attempt may take, its pause included.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    uuid: Option<String>,
    published: String,
    actor: Option<Actor>,
    client: Option<Source>,
    outcome: Option<Outcome>,
    authentication_context: Option<Context>,
}

#[derive(Deserialize)]
struct Actor {
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    user_agent: Option<Agent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Agent {
    raw_user_agent: Option<String>,
}

#[derive(Deserialize)]
struct Outcome {
    result: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    credential_type: Option<String>,
}

/// What the log tells of a user since an instant. `None`: the app may not read it.
pub(super) async fn read(
    client: &Client,
    object_id: &str,
    since: OffsetDateTime,
) -> Result<Option<SignIns>, ProviderError> {
    let Some(events) = events(client, object_id, since.unix_timestamp()).await? else { return Ok(None) };
    let mut entries = Vec::new();
    for event in &events {
        let Some(entry) = event.says() else { continue };
        entries.push((event.at()?, entry));
    }
    Ok(Some(SignIns::of(&entries)))
}

/// Our own submissions, told by our user agent, whichever client made them. The bounded form of the log may lack events that
/// arrive late; whoever asks reads some hours twice.
pub(super) async fn own(
    client: &Client,
    from: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Option<Vec<OwnSignIn>>, ProviderError> {
    if !client.token().await?.scopes.contains(log::SCOPE) {
        return Ok(None);
    }
    let filter = format!(
        "eventType eq \"user.session.start\" and client.userAgent.rawUserAgent sw \"{}/\"",
        our_name()
    );
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("since", &date(from.unix_timestamp())?)
        .append_pair("until", &date(until.unix_timestamp() + 1)?) // excluded
        .append_pair("sortOrder", "ASCENDING")
        .append_pair("limit", &OWN_PAGE.to_string())
        .append_pair("filter", &filter)
        .finish();
    let (mut found, mut path) = (Vec::new(), format!("{}?{query}", log::LOGS));
    for _ in 0..MOST_PAGES {
        let answer = patiently(|| client.call(Method::GET, "logs", &path)).await?;
        let Some(events) = page(&answer)? else { return Ok(None) };
        let next = next_link(&answer).filter(|_| !events.is_empty());
        for event in events {
            found.extend(event.own()?);
        }
        match next {
            None => return Ok(Some(found)),
            Some(link) => path = client.follow(&link, log::LOGS)?,
        }
    }
    Err(TOO_MANY)
}

/// Why the org says it refused our attempt on a user since an instant of its own time. One look: the log lags, so that `None`
/// tells nothing.
pub(super) async fn refusal(client: &Client, object_id: &str, since: i64) -> Option<String> {
    let look = events(client, object_id, since - RECKONING);
    let events = tokio::time::timeout(LOOK_WITHIN, look).await.ok()?.ok()??;
    events.into_iter().filter(Event::is_ours).find_map(|event| event.outcome?.reason)
}

/// The newest sign-ins of a user, successful or not. The bounded form, which alone is ordered by date.
async fn events(client: &Client, object_id: &str, since: i64) -> Result<Option<Vec<Event>>, ProviderError> {
    if !client.token().await?.scopes.contains(log::SCOPE) {
        return Ok(None);
    }
    user_path(object_id)?; // ids only, nothing that would change the filter
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("since", &date(since)?)
        .append_pair("until", &date(client.server_time() + RECKONING)?)
        .append_pair("sortOrder", "DESCENDING")
        .append_pair("limit", &PAGE.to_string())
        .append_pair(
            "filter",
            &format!("eventType eq \"user.session.start\" and actor.id eq \"{object_id}\""),
        )
        .finish();
    let answer = client.call(Method::GET, "logs", &format!("{}?{query}", log::LOGS)).await?;
    let Some(mut events) = page(&answer)? else { return Ok(None) };
    // Filtered here as well: what a filter misses must not free anything.
    events.retain(|event| event.actor.as_ref().and_then(|actor| actor.id.as_deref()) == Some(object_id));
    Ok(Some(events))
}

/// A page of the log. `None`: the app's role may not read it.
fn page(answer: &Answer) -> Result<Option<Vec<Event>>, ProviderError> {
    if answer.status == 200 {
        return answer.json().map(Some);
    }
    match failure::of(answer) {
        ProviderError::Refused(_) => Ok(None),
        error => Err(error),
    }
}

pub(super) fn date(at: i64) -> Result<String, ProviderError> {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
    let at = OffsetDateTime::from_unix_timestamp(at).ok().and_then(|at| at.format(format).ok());
    at.ok_or(ProviderError::Protocol("the instant cannot be written"))
}

/// What the user agent of every version of ours begins with, before the slash.
fn our_name() -> &'static str {
    USER_AGENT.split_once('/').map_or(USER_AGENT, |(name, _)| name)
}

impl Event {
    /// Whether the attempt was ours, by any version of ours.
    fn is_ours(&self) -> bool {
        let agent = self.client.as_ref().and_then(|client| client.user_agent.as_ref());
        agent
            .and_then(|agent| agent.raw_user_agent.as_deref())
            .is_some_and(|agent| agent.strip_prefix(our_name()).is_some_and(|rest| rest.starts_with('/')))
    }

    fn at(&self) -> Result<OffsetDateTime, ProviderError> {
        let at = OffsetDateTime::parse(&self.published, &Rfc3339);
        at.map_err(|_| ProviderError::Protocol("an event without a date"))
    }

    /// The submission of ours that it is, if it is one on somebody's account.
    fn own(self) -> Result<Option<OwnSignIn>, ProviderError> {
        if !self.is_ours() {
            return Ok(None);
        }
        let at = self.at()?;
        let user = self.actor.and_then(|actor| actor.id);
        let Some(object_id) = user.filter(|id| id != NOBODY && user_path(id).is_ok()) else {
            return Ok(None);
        };
        let entry = self.uuid.ok_or(ProviderError::Protocol("an event without an id"))?;
        Ok(Some(OwnSignIn { entry, object_id, at }))
    }

    /// What it says of the owner. A success with something else than the password ends no count of failures; a failure for
    /// an unknown reason may have been a wrong password.
    fn says(&self) -> Option<SignIn> {
        let outcome = self.outcome.as_ref()?;
        let credential = self.authentication_context.as_ref().and_then(|c| c.credential_type.as_deref());
        match (outcome.result.as_deref()?, outcome.reason.as_deref()) {
            ("FAILURE", Some("LOCKED_OUT")) => Some(SignIn::Lock),
            _ if self.is_ours() => None,
            ("SUCCESS", _) => credential.is_none_or(|kind| kind == "PASSWORD").then_some(SignIn::Success),
            ("FAILURE", Some("UNKNOWN_USER" | "PASSWORD_BASED_LOGIN_DISALLOWED")) => None,
            ("FAILURE", _) => Some(SignIn::Failure),
            _ => None,
        }
    }
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(answer: &Answer) {
    for event in page(answer).ok().flatten().unwrap_or_default() {
        let (ours, says) = (event.is_ours(), event.says());
        assert!(!ours || !matches!(says, Some(SignIn::Success)), "an attempt of ours counts as the owner's");
        let own = event.own();
        assert!(ours || matches!(own, Ok(None)), "somebody else's sign-in counts as ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn says(agent: &str, result: &str, reason: Option<&str>, context: &serde_json::Value) -> Option<SignIn> {
        let event = json!({"published": "2026-01-02T03:04:05.678Z", "actor": {"id": "00u1"},
            "client": {"userAgent": {"rawUserAgent": agent}}, "outcome": {"result": result, "reason": reason},
            "authenticationContext": context});
        serde_json::from_value::<Event>(event).unwrap().says()
    }

    #[test]
    fn our_own_attempts_are_nobodys_whatever_our_version() {
        for agent in [USER_AGENT, "Parapet/99.0 (something else)"] {
            assert_eq!(says(agent, "SUCCESS", None, &json!({})), None);
            assert_eq!(says(agent, "FAILURE", Some("INVALID_CREDENTIALS"), &json!({})), None);
            assert_eq!(says(agent, "FAILURE", Some("LOCKED_OUT"), &json!({})), Some(SignIn::Lock));
        }
        assert_eq!(says("Parapets", "SUCCESS", None, &json!({})), Some(SignIn::Success));
    }

    #[test]
    fn only_a_success_that_may_have_been_the_password_is_one() {
        let success = |context: &serde_json::Value| says("Mozilla/5.0", "SUCCESS", None, context);
        assert_eq!(success(&json!({})), Some(SignIn::Success));
        assert_eq!(success(&json!({"credentialType": "PASSWORD"})), Some(SignIn::Success));
        assert_eq!(success(&json!({"credentialType": "OKTA_CLIENT_SESSION"})), None);
        assert_eq!(says("Mozilla/5.0", "ALLOW", None, &json!({})), None, "an unknown result");
    }

    #[test]
    fn a_failure_for_an_unknown_reason_counts_as_a_wrong_password() {
        let failure = |reason| says("Mozilla/5.0", "FAILURE", reason, &json!({}));
        for reason in [Some("INVALID_CREDENTIALS"), Some("GENERAL_NONSUCCESS"), None] {
            assert_eq!(failure(reason), Some(SignIn::Failure));
        }
        assert_eq!(failure(Some("PASSWORD_BASED_LOGIN_DISALLOWED")), None);
    }
}
