//! The connection test, in the order of §9. It changes nothing and never uses a real person's name.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    authn::{Options, PATH, Submission},
    client::Client,
    failure, listing, log, risk,
    verdict::{self, Meaning},
};
use crate::{
    integration::SyncScope,
    provider::{Capability, CapabilityTest, Missing, ProviderError, TestReport, Warning},
};

const WELL_KNOWN: &str = "/.well-known/okta-organization";
const CLASSIC: &str = "Okta Classic Engine";
/// An id no user has: Okta's ids are random, and made of more than zeros.
const NOBODY: &str = "00u00000000000000000";

/// What the org says of itself to anybody.
#[derive(Debug, Deserialize)]
pub(super) struct Organization {
    /// Immutable.
    pub(super) id: String,
    #[serde(rename = "_links")]
    links: Links,
    /// `idx` or `v1`.
    pipeline: Option<String>,
}

impl Organization {
    /// Which of Okta's engines runs the org; unknown ones are not named.
    fn edition(&self) -> Option<&'static str> {
        match self.pipeline.as_deref() {
            Some("idx") => Some("Okta Identity Engine"),
            Some("v1") => Some(CLASSIC),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Links {
    organization: Link,
    /// The org's custom domain, if it has one.
    alternate: Option<Link>,
}

#[derive(Debug, Deserialize)]
struct Link {
    href: String,
}

/// Reads the org's immutable id; refuses a host that is neither the org's own name nor its custom domain.
pub(super) async fn organization(client: &Client) -> Result<Organization, ProviderError> {
    let refused =
        |reason, message| Err(ProviderError::Refused(Missing { reason, message, not_granted: false }));
    let answer = client.anonymous(Method::GET, WELL_KNOWN, None).await?;
    let organization = match answer.status {
        200 => answer.json::<Organization>().ok(),
        429 | 500.. => return Err(failure::of(&answer)),
        _ => None,
    };
    let Some(organization) = organization.filter(|o| is_org_id(&o.id)) else {
        return refused("host_unknown", format!("there is no Okta org at {}", client.host()));
    };
    let canonical = url::Url::parse(&organization.links.organization.href).ok();
    let alternate = organization.links.alternate.as_ref().and_then(|link| url::Url::parse(&link.href).ok());
    if alternate.as_ref().and_then(url::Url::host_str) == Some(client.host()) {
        return Ok(organization);
    }
    match canonical.as_ref().and_then(url::Url::host_str) {
        Some(host) if host == client.host() => Ok(organization),
        Some(host) if super::host::is_official(host) => {
            refused("host_mismatch", format!("the org's own name is {host}; use that"))
        }
        _ => {
            refused("host_mismatch", "the org answers under another host name; use the org's own name".into())
        }
    }
}

fn is_org_id(id: &str) -> bool {
    (10..=40).contains(&id.len()) && id.starts_with("00o") && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Tries each wanted capability.
pub(super) async fn test(client: &Client, scope: &SyncScope, wanted: &BTreeSet<Capability>) -> TestReport {
    let mut report = TestReport::default();
    let mut results: BTreeMap<Capability, Result<(), Missing>> = BTreeMap::new();
    let base = async {
        let organization = organization(client).await?;
        report.edition = organization.edition();
        report.directory_id = Some(organization.id);
        report.directory_name = Some(client.host().to_owned());
        client.token().await
    };
    match base.await {
        Err(error) => {
            let missing = error.into_missing();
            results.extend(wanted.iter().map(|c| (*c, Err(missing.clone()))));
        }
        Ok(token) => {
            report.warnings = warnings(client, &token.scopes).await;
            for capability in wanted {
                let result = match capability {
                    Capability::Read => read(client, scope, &token.scopes).await,
                    Capability::Validate => sign_in(client).await,
                    Capability::RevokeSessions => {
                        act_on_nobody(client, &token.scopes, Method::DELETE, "sessions?oauthTokens=true")
                            .await
                    }
                    Capability::DisableAccount => {
                        let result =
                            act_on_nobody(client, &token.scopes, Method::POST, "lifecycle/suspend").await;
                        if result.is_ok() {
                            report.warnings.extend(not_undoable(client, &token.scopes).await);
                        }
                        result
                    }
                    Capability::MarkCompromised => risk(client, &token.scopes, report.edition).await,
                };
                results.insert(*capability, result);
            }
        }
    }
    report.capabilities =
        results.into_iter().map(|(capability, result)| CapabilityTest { capability, result }).collect();
    report
}

async fn read(client: &Client, scope: &SyncScope, scopes: &BTreeSet<String>) -> Result<(), Missing> {
    granted(scopes, "okta.users.read")?;
    let answer = client.get("users", "/api/v1/users?limit=1").await.map_err(ProviderError::into_missing)?;
    let users: Vec<serde_json::Value> = answer.json().map_err(ProviderError::into_missing)?;
    if users.is_empty() {
        return Err(no_users(client, scopes).await);
    }
    if !scope.is_whole() {
        granted(scopes, "okta.groups.read")?;
    }
    for group in &scope.group_ids {
        listing::group_is_readable(client, group).await.map_err(ProviderError::into_missing)?;
    }
    Ok(())
}

/// No user at all: the app has no admin role, or one that is bound to nothing. Only who may read roles can tell.
async fn no_users(client: &Client, scopes: &BTreeSet<String>) -> Missing {
    let missing = listing::no_users();
    if granted(scopes, "okta.roles.read").is_err() {
        return missing;
    }
    let path = format!("/oauth2/v1/clients/{}/roles", client.client_id());
    let roles = match client.get("clients", &path).await {
        Ok(answer) => answer.json::<Vec<serde_json::Value>>().unwrap_or_default(),
        Err(_) => return missing,
    };
    if roles.is_empty() {
        return missing;
    }
    Missing {
        reason: "resource_set_empty",
        message: "the service app has an admin role, but it covers no user: add users, or the users of a group, to the \
                  role's resource set (a group itself covers nobody)"
            .into(),
        not_granted: true,
    }
}

/// Each optional scope with what its absence costs.
const OPTIONAL: &[(&str, &str, &str)] = &[
    (
        "okta.roles.read",
        "admins_unknown",
        "administrators are not recognised, and the protection of privileged accounts does not cover them; grant \
         okta.roles.read and a role that may view administrators",
    ),
    (
        "okta.policies.read",
        "lockout_unknown",
        "the org's lockout threshold is unknown, so that Okta's default of 10 is assumed; grant okta.policies.read if a \
         password policy has a lower one",
    ),
    (
        log::SCOPE,
        "changes_partial",
        "deletions, locks, new administrators and who joins or leaves a group are seen by full runs only (nightly, hourly \
         for a scope of groups), and owners' wrong tries not at all; grant okta.logs.read and a role that may view the \
         System Log",
    ),
];

/// What is optional and missing: a scope that is not granted, or one that the app's role makes useless.
async fn warnings(client: &Client, scopes: &BTreeSet<String>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (scope, reason, cost) in OPTIONAL {
        let works = scopes.contains(*scope) && (*scope != log::SCOPE || log::is_readable(client).await);
        if !works {
            found.push(Warning { reason, message: (*cost).to_owned() });
        }
    }
    found
}

/// A sign-in nobody can mean: the answer shows whether the endpoint is there and asks for the password first.
async fn sign_in(client: &Client) -> Result<(), Missing> {
    let (username, password) = (format!("{}@parapet.invalid", Uuid::new_v4()), Uuid::new_v4().to_string());
    let body = Submission { username: &username, password: &password, options: Options::default() };
    let body = serde_json::to_value(&body)
        .map_err(|_| ProviderError::NotSent("request not built").into_missing())?;
    let answer =
        client.anonymous(Method::POST, PATH, Some(&body)).await.map_err(ProviderError::into_missing)?;
    match (answer.status, verdict::read(answer.status, &answer.body).meaning) {
        (_, Meaning::Refusal) => Ok(()),
        (429 | 500.., _) => Err(failure::of(&answer).into_missing()),
        (403, _) => Err(missing(
            "address_blocked",
            false,
            "the org refuses sign-ins from our address (network zone or ThreatInsight); allow it there",
        )),
        (200, _) => Err(missing(
            "password_not_first",
            false,
            "the org asks for other factors before the password, so passwords cannot be checked here",
        )),
        _ => {
            Err(missing("method_unavailable", false, "the org does not offer the primary authentication API"))
        }
    }
}

/// Permissions are checked before the user is looked for, so acting on nobody shows them: nothing but
/// "not found" is a pass.
async fn act_on_nobody(
    client: &Client,
    scopes: &BTreeSet<String>,
    method: Method,
    what: &str,
) -> Result<(), Missing> {
    granted(scopes, "okta.users.manage")?;
    let path = format!("/api/v1/users/{NOBODY}/{what}");
    let answer = client.call(method, "user_write", &path).await.map_err(ProviderError::into_missing)?;
    match (answer.status, failure::code(&answer).as_deref()) {
        (404, Some("E0000007")) | (204, _) => Ok(()),
        _ => Err(failure::of(&answer).into_missing()),
    }
}

/// Suspending and taking it back are two permissions of a custom role.
async fn not_undoable(client: &Client, scopes: &BTreeSet<String>) -> Option<Warning> {
    let refused = act_on_nobody(client, scopes, Method::POST, "lifecycle/unsuspend").await.err()?;
    refused.not_granted.then(|| Warning {
        reason: "undo_missing",
        message: "users can be suspended but not unsuspended: a suspension could be taken back in Okta only; add the \
                  permission Unsuspend users (okta.users.lifecycle.unsuspend) to the app's admin role"
            .into(),
    })
}

/// A user's risk can be set where the org has Identity Threat Protection, which takes Identity Engine. What the others
/// answer is documented nowhere (§5), so every refusal but those of role and scope counts as the missing licence.
async fn risk(
    client: &Client,
    scopes: &BTreeSet<String>,
    edition: Option<&'static str>,
) -> Result<(), Missing> {
    let unlicensed = missing(
        "licence_missing",
        true,
        "setting a user's risk needs Identity Threat Protection with Okta AI, on Okta Identity Engine",
    );
    if edition == Some(CLASSIC) {
        return Err(unlicensed);
    }
    for scope in risk::SCOPES {
        granted(scopes, scope)?;
    }
    let answer = risk::set(client, NOBODY, &risk::COMPROMISED).await.map_err(ProviderError::into_missing)?;
    if (answer.status, failure::code(&answer).as_deref()) == (404, Some("E0000007")) {
        return Ok(());
    }
    Err(match failure::of(&answer) {
        ProviderError::Refused(found) if matches!(found.reason, "licence_missing" | "method_unavailable") => {
            unlicensed
        }
        error => error.into_missing(),
    })
}

/// Okta leaves scopes that are not granted out of the token without a word (§1.1).
fn granted(scopes: &BTreeSet<String>, scope: &str) -> Result<(), Missing> {
    if scopes.contains(scope) {
        return Ok(());
    }
    Err(Missing {
        reason: "consent_missing",
        message: format!("grant {scope} to the service app under Okta API scopes"),
        not_granted: true,
    })
}

fn missing(reason: &'static str, not_granted: bool, message: &str) -> Missing {
    Missing { reason, message: message.into(), not_granted }
}
