//! A user as Graph shows it, and as we know it.

use serde::{Deserialize, Deserializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Entra, Facts, policy::is_strong};
use crate::provider::{Account, AccountKind, AccountState, PasswordAuthority, ProviderError};

/// The properties that are read of every user (entra.md §8.1).
pub const SELECT: &str = "id,userPrincipalName,displayName,givenName,surname,mail,otherMails,proxyAddresses,\
accountEnabled,userType,creationType,externalUserState,createdDateTime,lastPasswordChangeDateTime,passwordPolicies,\
onPremisesSyncEnabled,onPremisesImmutableId,onPremisesSamAccountName,onPremisesDomainName,onPremisesSecurityIdentifier,\
onPremisesDistinguishedName,onPremisesLastSyncDateTime,employeeId,employeeType,department,jobTitle,companyName,\
signInSessionsValidFromDateTime,assignedLicenses,identities";

/// The members of a user we use; everything may be absent or null.
#[expect(clippy::struct_field_names, reason = "the names are Graph's")]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    pub id: String,
    #[serde(rename = "@removed")]
    pub removed: Option<serde::de::IgnoredAny>,
    pub user_principal_name: Option<String>,
    pub display_name: Option<String>,
    pub mail: Option<String>,
    pub other_mails: Option<Vec<String>>,
    pub proxy_addresses: Option<Vec<String>>,
    pub account_enabled: Option<bool>,
    pub user_type: Option<String>,
    pub created_date_time: Option<String>,
    pub last_password_change_date_time: Option<String>,
    #[serde(default)]
    pub on_premises_sync_enabled: Told<bool>,
    #[serde(default)]
    pub password_policies: Told<String>,
    pub sign_in_sessions_valid_from_date_time: Option<String>,
    pub sign_in_activity: Option<SignInActivity>,
}

/// A property of which it matters whether it was told: null says that it has no value, absence says nothing.
#[derive(Debug, Default)]
pub(super) enum Told<T> {
    #[default]
    Nothing,
    Value(Option<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Told<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Value)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct SignInActivity {
    /// At the sign-in page, successful or not.
    #[serde(rename = "lastSignInRequestId")]
    visit: Option<String>,
    #[serde(rename = "lastSuccessfulSignInRequestId")]
    success: Option<String>,
    #[serde(rename = "lastSuccessfulSignInDateTime")]
    succeeded_at: Option<String>,
}

impl SignInActivity {
    /// When the owner last signed in, if the last success was at the sign-in page. A token that renewed itself is a success
    /// as well, but nobody entered a password then, and the directory's count of failures went on (design §5).
    fn interactive_success(&self) -> Option<OffsetDateTime> {
        let visited = self.success.is_some() && self.success == self.visit;
        date(self.succeeded_at.as_deref()).filter(|_| visited)
    }
}

impl User {
    /// Whether the object carries what every listing must show; a delta may leave it out.
    pub fn is_complete(&self) -> bool {
        self.removed.is_some() || (self.user_principal_name.is_some() && self.account_enabled.is_some())
    }

    pub fn into_account(self, facts: &Facts) -> Account {
        let login = self.user_principal_name.unwrap_or_default();
        let domain =
            login.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase()).unwrap_or_default();
        let hybrid = matches!(self.on_premises_sync_enabled, Told::Value(Some(true)));
        let guest = self.user_type.as_deref() == Some("Guest") || login.contains("#EXT#");
        let authority = if facts.federated.contains(&domain) {
            PasswordAuthority::Federated
        } else if hybrid && facts.without_password_hashes {
            PasswordAuthority::Ad
        } else {
            // For an account mastered in AD pass-through cannot be ruled out; `hybrid` says so to the limiter.
            PasswordAuthority::Cloud
        };
        let removed = self.removed.is_some();
        let under_policy = match (&self.on_premises_sync_enabled, &self.password_policies) {
            _ if hybrid || guest || authority != PasswordAuthority::Cloud => Some(false),
            (_, Told::Value(policies)) if !is_strong(policies.as_deref()) => Some(false),
            (Told::Value(_), Told::Value(_)) => Some(true),
            _ => None,
        };
        let state = match self.account_enabled {
            _ if removed => AccountState::Deprovisioned,
            Some(false) => AccountState::Disabled,
            _ => AccountState::Active,
        };
        let proxies = self.proxy_addresses.unwrap_or_default();
        let proxies = proxies.iter().filter_map(|p| {
            let (scheme, address) = p.split_once(':')?;
            scheme.eq_ignore_ascii_case("smtp").then(|| address.to_owned())
        });
        let mut addresses: Vec<String> = self.mail.into_iter().collect();
        addresses.extend(proxies);
        addresses.extend(self.other_mails.unwrap_or_default());
        addresses.sort_unstable_by_key(|a| a.to_lowercase());
        addresses.dedup_by_key(|a| a.to_lowercase());
        Account {
            is_admin: facts.admins.contains(&self.id.to_ascii_lowercase()),
            object_id: self.id,
            login,
            display_name: self.display_name.unwrap_or_default(),
            addresses,
            state,
            kind: if guest { AccountKind::Guest } else { AccountKind::Member },
            authority,
            hybrid,
            under_policy,
            password_changed_at: date(self.last_password_change_date_time.as_deref()),
            last_sign_in_at: self.sign_in_activity.and_then(|activity| activity.interactive_success()),
            created_at: date(self.created_date_time.as_deref()),
            removed,
        }
    }
}

/// A date as Graph spells it; one that cannot be read is unknown.
pub(super) fn date(text: Option<&str>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text?, &Rfc3339).ok()
}

impl Entra {
    pub(super) async fn read_account(
        &self,
        object_id: &str,
        facts: &Facts,
    ) -> Result<Option<Account>, ProviderError> {
        let id = object_id_segment(object_id)?;
        let activity = if facts.sign_in_activity { ",signInActivity" } else { "" };
        let found = self.graph.find(&format!("/users/{id}?$select={SELECT}{activity}")).await?;
        found.map(|answer| Ok(answer.json::<User>()?.into_account(facts))).transpose()
    }
}

/// An object id as a path segment. Ids are GUIDs; anything else never gets into a URL.
pub(super) fn object_id_segment(object_id: &str) -> Result<String, ProviderError> {
    let id = uuid::Uuid::try_parse(object_id);
    id.map(|id| id.hyphenated().to_string())
        .map_err(|_| ProviderError::Protocol("the object id is not a GUID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(json: &serde_json::Value, facts: &Facts) -> Account {
        serde_json::from_value::<User>(json.clone()).unwrap().into_account(facts)
    }

    #[test]
    fn a_user_with_nothing_but_an_id_has_unknowns_and_no_falsehoods() {
        let account = account(&serde_json::json!({"id": "a", "displayName": null}), &Facts::default());
        assert_eq!(account.password_changed_at, None);
        assert_eq!(account.last_sign_in_at, None);
        assert!(!account.removed && !account.is_admin && account.addresses.is_empty());
    }

    #[test]
    fn a_token_that_renewed_itself_is_no_sign_in_of_the_owner() {
        let last = |interactive: &str, success: &str| {
            let activity = serde_json::json!({"lastSignInDateTime": "2026-11-01T08:00:00Z",
                "lastSignInRequestId": interactive, "lastNonInteractiveSignInDateTime": "2026-11-02T08:00:00Z",
                "lastNonInteractiveSignInRequestId": "renewal", "lastSuccessfulSignInDateTime": "2026-11-02T08:00:00Z",
                "lastSuccessfulSignInRequestId": success});
            let user = serde_json::json!({"id": "a", "signInActivity": activity});
            account(&user, &Facts::default()).last_sign_in_at
        };
        assert_eq!(last("visit", "visit"), date(Some("2026-11-02T08:00:00Z")));
        assert_eq!(last("visit", "renewal"), None);
    }

    #[test]
    fn addresses_come_from_mail_smtp_proxies_and_other_mails_once_each() {
        let user = serde_json::json!({"id": "a", "userPrincipalName": "a@x.example", "mail": "A@x.example",
            "proxyAddresses": ["SMTP:a@x.example", "smtp:b@x.example", "X500:/o=x", "SIP:a@x.example"],
            "otherMails": ["c@y.example"]});
        let addresses = account(&user, &Facts::default()).addresses;
        assert_eq!(addresses.len(), 3);
        assert!(
            addresses.contains(&"b@x.example".to_owned()) && addresses.contains(&"c@y.example".to_owned())
        );
    }

    #[test]
    fn guests_are_recognised_by_type_and_by_name() {
        let by_type = serde_json::json!({"id": "a", "userPrincipalName": "a@x.example", "userType": "Guest"});
        let by_name = serde_json::json!({"id": "a", "userPrincipalName": "a_y.example#EXT#@x.example"});
        for user in [by_type, by_name] {
            assert_eq!(account(&user, &Facts::default()).kind, AccountKind::Guest);
        }
    }

    #[test]
    fn the_password_authority_follows_domain_and_synchronisation() {
        let user = |upn: &str, hybrid| serde_json::json!({"id": "a", "userPrincipalName": upn, "onPremisesSyncEnabled": hybrid});
        let mut facts = Facts { federated: ["fed.example".to_owned()].into(), ..Facts::default() };
        assert_eq!(account(&user("a@FED.example", false), &facts).authority, PasswordAuthority::Federated);
        assert_eq!(account(&user("a@x.example", true), &facts).authority, PasswordAuthority::Cloud);
        facts.without_password_hashes = true;
        assert_eq!(account(&user("a@x.example", true), &facts).authority, PasswordAuthority::Ad);
        assert_eq!(account(&user("a@x.example", false), &facts).authority, PasswordAuthority::Cloud);
    }

    #[test]
    fn the_rule_holds_for_cloud_members_that_are_shown_whole_and_are_not_excepted() {
        let facts = Facts { federated: ["fed.example".to_owned()].into(), ..Facts::default() };
        let under = |change: serde_json::Value| {
            let mut user = serde_json::json!({"id": "a", "userPrincipalName": "a@x.example", "passwordPolicies": null,
                "onPremisesSyncEnabled": null});
            let serde_json::Value::Object(change) = change else { panic!("an object") };
            user.as_object_mut().unwrap().extend(change);
            account(&user, &facts).under_policy
        };
        assert_eq!(under(serde_json::json!({})), Some(true));
        assert_eq!(under(serde_json::json!({"passwordPolicies": "DisablePasswordExpiration"})), Some(true));
        for excepted in [
            serde_json::json!({"passwordPolicies": "DisablePasswordExpiration, DisableStrongPassword"}),
            serde_json::json!({"onPremisesSyncEnabled": true}),
            serde_json::json!({"userType": "Guest"}),
            serde_json::json!({"userPrincipalName": "a@fed.example"}),
        ] {
            assert_eq!(under(excepted.clone()), Some(false), "{excepted}");
        }
        // A delta leaves out what never had a value, and may leave out more.
        let part = |shown: serde_json::Value| account(&shown, &facts).under_policy;
        let name = "a@x.example";
        assert_eq!(
            part(serde_json::json!({"id": "a", "userPrincipalName": name, "passwordPolicies": null})),
            None
        );
        assert_eq!(
            part(serde_json::json!({"id": "a", "userPrincipalName": name, "onPremisesSyncEnabled": null})),
            None
        );
        let weak = serde_json::json!({"id": "a", "userPrincipalName": name, "passwordPolicies": "DisableStrongPassword"});
        assert_eq!(part(weak), Some(false));
    }

    #[test]
    fn only_guids_become_path_segments() {
        assert!(object_id_segment("../organization").is_err());
        assert!(object_id_segment("ann@contoso.example").is_err());
        assert!(object_id_segment("6EA91A8D-1111-4222-8333-444455556666").is_ok());
    }
}
