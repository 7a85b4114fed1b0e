//! Password policies (§4.8): how many wrong passwords lock an account, and what a password must look like.
//!
//! Nothing but the policies themselves is believed: their rules are not read, so whatever may apply to an account counts.
//! `autoUnlockMinutes` is not counted on: attempts are counted since the owner's last sign-in, without any time limit.

use std::{collections::HashSet, sync::Arc, time::Duration, time::Instant};

use http::Method;
use serde::Deserialize;

use super::{
    Okta,
    client::Client,
    failure,
    keys::sha256,
    listing::{MOST_PAGES, groups_of, next_link, user_path},
};
use crate::provider::{Account, LockoutPolicy, PasswordAuthority, PasswordRules, ProviderError};

const POLICIES: &str = "/api/v1/policies";
/// How long the policies are believed where an account is about to be tried. Sync reads them anew in each run.
const BELIEVED: Duration = Duration::from_mins(10);
/// Groups that are looked up at most; an org with more of them in its policies has them all apply to everybody.
const MOST_GROUPS: usize = 50;

/// The policies of the org, as they were read.
#[derive(Clone, Debug)]
pub(super) struct Policies {
    read: Instant,
    /// The groups they name were looked up.
    told_apart: bool,
    /// `None`: they may not be read.
    all: Option<Arc<[Policy]>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    id: String,
    status: String,
    #[serde(default)]
    last_updated: String,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    settings: Settings,
    /// Every group it names can be seen, so that not being in one means something.
    #[serde(skip)]
    told_apart: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conditions {
    people: Option<People>,
    auth_provider: Option<AuthProvider>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct People {
    groups: Option<Groups>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Groups {
    include: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AuthProvider {
    provider: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    password: Password,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Password {
    lockout: Lockout,
    complexity: Complexity,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Lockout {
    max_attempts: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Complexity {
    #[serde(rename = "minLength")]
    characters: u32,
    #[serde(rename = "minLowerCase")]
    lower: u32,
    #[serde(rename = "minUpperCase")]
    upper: u32,
    #[serde(rename = "minNumber")]
    digits: u32,
}

impl Policy {
    fn groups(&self) -> &[String] {
        let groups = self.conditions.people.as_ref().and_then(|people| people.groups.as_ref());
        groups.map_or(&[], |groups| groups.include.as_slice())
    }

    /// Whether it is about passwords that Okta itself keeps.
    fn is_of_okta(&self) -> bool {
        let of = self.conditions.auth_provider.as_ref().map(|of| of.provider.as_str());
        !matches!(of, Some("ACTIVE_DIRECTORY" | "LDAP"))
    }

    fn may_apply(&self, account: &Account, groups: &HashSet<String>) -> bool {
        let elsewhere = account.authority == PasswordAuthority::Cloud && !self.is_of_okta();
        let named = self.groups();
        let member = !self.told_apart || named.is_empty() || named.iter().any(|id| groups.contains(id));
        self.status == "ACTIVE" && !elsewhere && member
    }
}

/// Wrong passwords that lock, by the strictest of these policies. 0 means that it locks nobody, which is no number of
/// tries to count with.
fn strictest<'a>(policies: impl Iterator<Item = &'a Policy>) -> Option<u32> {
    policies.filter_map(|p| p.settings.password.lockout.max_attempts).filter(|n| *n > 0).min()
}

/// What every password of Okta's own satisfied when it was set, whichever policy applied then: the least that any of
/// them asks for, switched off or not.
fn weakest(policies: &[Policy]) -> Option<PasswordRules> {
    let of_okta = || policies.iter().filter(|policy| policy.is_of_okta());
    let least = |what: fn(&Complexity) -> u32| of_okta().map(|p| what(&p.settings.password.complexity)).min();
    let mut states: Vec<String> =
        of_okta().map(|p| format!("{} {} {}", p.id, p.status, p.last_updated)).collect();
    states.sort_unstable();
    Some(PasswordRules {
        min_length: least(|c| c.characters)?,
        min_lower: least(|c| c.lower)?,
        min_upper: least(|c| c.upper)?,
        min_digits: least(|c| c.digits)?,
        min_classes: 0,
        state: sha256(&states.join("\n")),
    })
}

/// Reads all password policies. `None`: they may not be read.
async fn read(client: &Client) -> Result<Option<Vec<Policy>>, ProviderError> {
    let mut all: Vec<Policy> = Vec::new();
    let mut path = Some(format!("{POLICIES}?type=PASSWORD"));
    for _ in 0..MOST_PAGES {
        let Some(here) = path.take() else { break };
        let answer = match client.get("policies", &here).await {
            Err(ProviderError::Refused(_)) => return Ok(None),
            other => other?,
        };
        path = next_link(&answer).map(|link| client.follow(&link, POLICIES)).transpose()?;
        all.extend(answer.json::<Vec<Policy>>()?);
    }
    Ok(Some(all))
}

/// Finds out of which policies all groups can be seen. Okta shows a user's groups as far as the app's role goes: a group
/// that it hides would look like one that the user is not in.
async fn tell_apart(client: &Client, policies: &mut [Policy]) -> Result<(), ProviderError> {
    let named: HashSet<String> = policies.iter().flat_map(|policy| policy.groups().to_vec()).collect();
    if named.len() > MOST_GROUPS {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for group in named {
        if user_path(&group).is_err() {
            continue;
        }
        let answer = client.call(Method::GET, "group", &format!("/api/v1/groups/{group}")).await?;
        match answer.status {
            200 => {
                seen.insert(group);
            }
            404 => {}
            _ => match failure::of(&answer) {
                ProviderError::Refused(_) => {}
                error => return Err(error),
            },
        }
    }
    for policy in policies {
        policy.told_apart = policy.groups().iter().all(|group| seen.contains(group));
    }
    Ok(())
}

impl Okta {
    /// The org's strictest threshold: a bound that is safe for everybody.
    pub(super) async fn strictest_policy(&self) -> Result<LockoutPolicy, ProviderError> {
        let all = self.policies(Duration::ZERO, false).await?;
        let active = all.iter().flat_map(|all| all.iter()).filter(|policy| policy.status == "ACTIVE");
        Ok(LockoutPolicy { threshold: strictest(active) })
    }

    /// The least that any policy asks of a password.
    pub(super) async fn weakest_rules(&self) -> Result<Option<PasswordRules>, ProviderError> {
        Ok(self.policies(BELIEVED, false).await?.and_then(|all| weakest(&all)))
    }

    /// The strictest threshold that can apply to one account, by the groups it is in.
    pub(super) async fn threshold_of(&self, account: &Account) -> Result<Option<u32>, ProviderError> {
        let Some(all) = self.policies(BELIEVED, true).await? else { return Ok(None) };
        if all.len() < 2 {
            return Ok(None);
        }
        let groups = groups_of(&self.client, &account.object_id).await?;
        Ok(strictest(all.iter().filter(|policy| policy.may_apply(account, &groups))))
    }

    async fn policies(
        &self,
        believed: Duration,
        told_apart: bool,
    ) -> Result<Option<Arc<[Policy]>>, ProviderError> {
        let mut kept = self.policies.lock().await;
        let good = |kept: &&Policies| kept.read.elapsed() < believed && (kept.told_apart || !told_apart);
        if let Some(kept) = kept.as_ref().filter(good) {
            return Ok(kept.all.clone());
        }
        let mut all = read(&self.client).await?;
        if let Some(all) = all.as_mut().filter(|_| told_apart) {
            tell_apart(&self.client, all).await?;
        }
        let all: Option<Arc<[Policy]>> = all.map(Arc::from);
        *kept = Some(Policies { read: Instant::now(), told_apart, all: all.clone() });
        Ok(all)
    }
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(answer: &crate::provider::http::Answer) {
    if let Ok(policies) = answer.json::<Vec<Policy>>() {
        let (strictest, weakest) = (strictest(policies.iter()), weakest(&policies));
        assert!(!policies.is_empty() || (strictest.is_none() && weakest.is_none()), "rules of no policy");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// As recorded from a live org, what we do not read left out.
    fn recorded() -> Value {
        json!({"type": "PASSWORD", "id": "00p1", "status": "ACTIVE", "name": "Default Policy", "priority": 2, "system": true,
            "conditions": {"people": {"groups": {"include": ["00g1"]}}, "authProvider": {"provider": "OKTA"}},
            "lastUpdated": "2026-01-01T00:00:00.000Z",
            "settings": {"password": {"complexity": {"minLength": 8, "minLowerCase": 1, "minUpperCase": 1, "minNumber": 1,
                "minSymbol": 0, "excludeUsername": true}, "age": {"maxAgeDays": 0},
                "lockout": {"maxAttempts": 10, "autoUnlockMinutes": 0, "showLockoutFailures": false}}}})
    }

    fn policy(change: impl FnOnce(&mut Value)) -> Policy {
        let mut value = recorded();
        change(&mut value);
        let mut policy: Policy = serde_json::from_value(value).unwrap();
        policy.told_apart = true;
        policy
    }

    fn locks_after(attempts: u32, group: &str) -> Policy {
        policy(|p| {
            p["settings"]["password"]["lockout"]["maxAttempts"] = attempts.into();
            p["conditions"]["people"]["groups"]["include"] = json!([group]);
        })
    }

    fn somebody() -> Account {
        let mut account = Account::tombstone("00u1".into());
        account.authority = PasswordAuthority::Cloud;
        account
    }

    #[test]
    fn only_policies_that_can_apply_count_and_the_strictest_of_them_wins() {
        let groups: HashSet<String> = ["00g1".to_owned()].into();
        let threshold = |policies: &[Policy]| {
            strictest(policies.iter().filter(|policy| policy.may_apply(&somebody(), &groups)))
        };
        let (mine, others) = (locks_after(10, "00g1"), locks_after(3, "00g2"));
        assert_eq!(threshold(&[mine.clone(), others.clone()]), Some(10));
        assert_eq!(threshold(&[mine.clone(), locks_after(6, "00g1")]), Some(6));
        // 0 locks nobody and is no bound.
        assert_eq!(threshold(&[mine.clone(), locks_after(0, "00g1")]), Some(10));
        assert_eq!(threshold(&[locks_after(0, "00g1")]), None);
        // A group that cannot be seen may well be the account's.
        let hidden = Policy { told_apart: false, ..others };
        assert_eq!(threshold(&[mine.clone(), hidden]), Some(3));
        let of_ad = policy(|p| {
            p["conditions"]["authProvider"]["provider"] = "ACTIVE_DIRECTORY".into();
            p["settings"]["password"]["lockout"]["maxAttempts"] = 2.into();
        });
        assert_eq!(threshold(&[mine.clone(), of_ad]), Some(10));
        let off = policy(|p| {
            p["status"] = "INACTIVE".into();
            p["settings"]["password"]["lockout"]["maxAttempts"] = 2.into();
        });
        assert_eq!(threshold(&[mine, off]), Some(10));
    }

    #[test]
    fn a_policy_for_nobody_in_particular_is_for_everybody() {
        for people in [json!({}), json!({"groups": {"include": []}}), Value::Null] {
            let everybody = policy(|p| p["conditions"]["people"] = people);
            assert!(everybody.may_apply(&somebody(), &HashSet::new()));
        }
    }

    #[test]
    fn the_least_that_any_policy_asks_for_is_what_every_password_satisfied() {
        let laxer = policy(|p| {
            p["id"] = "00p2".into();
            p["status"] = "INACTIVE".into();
            p["settings"]["password"]["complexity"] = json!({"minLength": 6, "minUpperCase": 2});
        });
        let rules = weakest(&[policy(|_| ()), laxer.clone()]).unwrap();
        assert_eq!((rules.min_length, rules.min_lower, rules.min_upper, rules.min_digits), (6, 0, 1, 0));
        assert_eq!(weakest(&[]), None);

        // Whatever changes, appears or goes makes another state of it; the order does not matter.
        let state = |policies: &[Policy]| weakest(policies).unwrap().state;
        let touched = policy(|p| p["lastUpdated"] = "2026-02-01T00:00:00.000Z".into());
        assert_eq!(state(&[policy(|_| ()), laxer.clone()]), state(&[laxer.clone(), policy(|_| ())]));
        assert_ne!(state(&[policy(|_| ()), laxer.clone()]), state(&[touched, laxer]));
        assert_ne!(state(&[policy(|_| ())]), rules.state);
    }
}
