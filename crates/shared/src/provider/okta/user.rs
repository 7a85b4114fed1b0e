//! An Okta user on the wire, and the account it is (§3.1).

use serde::Deserialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::provider::{Account, AccountKind, AccountState, PasswordAuthority};

/// What we read of a user object; unknown members are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    id: String,
    status: String,
    status_changed: Option<String>,
    created: Option<String>,
    last_login: Option<String>,
    password_changed: Option<String>,
    profile: Profile,
    credentials: Option<Credentials>,
    #[serde(rename = "_embedded")]
    embedded: Option<Embedded>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    login: String,
    email: Option<String>,
    second_email: Option<String>,
    display_name: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Credentials {
    /// Present, even if empty, exactly when the user has a password.
    password: Option<Value>,
    provider: Option<Mastering>,
    #[serde(default)]
    emails: Vec<Email>,
}

#[derive(Debug, Deserialize)]
struct Mastering {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Email {
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Embedded {
    #[serde(default)]
    blocks: Vec<Value>,
}

/// `status` → our state. What Okta may add later counts as not able to sign in, so that it is never tried.
const STATES: &[(&str, AccountState)] = &[
    ("ACTIVE", AccountState::Active),
    ("PASSWORD_EXPIRED", AccountState::PasswordExpired),
    ("LOCKED_OUT", AccountState::Locked),
    ("SUSPENDED", AccountState::Disabled),
    ("STAGED", AccountState::Pending),
    ("PROVISIONED", AccountState::Pending),
    ("RECOVERY", AccountState::Pending),
    ("DEPROVISIONED", AccountState::Deprovisioned),
];

impl User {
    /// When its state last changed, whoever changed it.
    pub fn status_changed_at(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(self.status_changed.as_deref()?, &Rfc3339).ok()
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        let User {
            id, status, created, last_login, password_changed, profile, credentials, embedded, ..
        } = user;
        let state =
            STATES.iter().find(|(name, _)| *name == status).map_or(AccountState::Pending, |row| row.1);
        // A block shuts out devices the user does not know, such as ours, though the user stays ACTIVE (§4.6, §4.8).
        let blocked = embedded.is_some_and(|e| !e.blocks.is_empty());
        let state = if blocked && state == AccountState::Active { AccountState::Locked } else { state };
        let has_password = credentials.as_ref().is_some_and(|c| c.password.is_some());
        let master = credentials.as_ref().and_then(|c| Some(c.provider.as_ref()?.kind.as_str()));
        let directory_backed = matches!(master, Some("ACTIVE_DIRECTORY" | "LDAP"));
        let authority = match master {
            _ if directory_backed => PasswordAuthority::Ad,
            Some("OKTA" | "IMPORT") | None if has_password => PasswordAuthority::Cloud,
            Some("OKTA" | "IMPORT") | None => PasswordAuthority::None,
            Some(_) => PasswordAuthority::Federated,
        };
        let Profile { login, email, second_email, display_name, first_name, last_name } = profile;
        let display_name = display_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| [first_name, last_name].into_iter().flatten().collect::<Vec<_>>().join(" "));
        let mut addresses: Vec<String> = Vec::new();
        let verified = credentials.into_iter().flat_map(|c| c.emails).filter_map(|e| e.value);
        for address in [email, second_email].into_iter().flatten().chain(verified) {
            if !address.is_empty() && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Self {
            object_id: id,
            login,
            display_name,
            addresses,
            state,
            kind: AccountKind::Member,
            authority,
            hybrid: directory_backed,
            under_policy: Some(authority == PasswordAuthority::Cloud),
            is_admin: false,
            password_changed_at: instant(password_changed.as_deref()),
            last_sign_in_at: instant(last_login.as_deref()),
            created_at: instant(created.as_deref()),
            removed: false,
        }
    }
}

fn instant(text: Option<&str>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text?, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A user as recorded from a live org, links left out.
    fn recorded() -> Value {
        json!({"id": "00uqrks9ig7XuWV7X5d7", "status": "ACTIVE", "created": "2025-09-29T03:49:50.000Z",
            "activated": "2025-09-29T03:49:51.000Z", "statusChanged": "2025-09-29T03:49:51.000Z", "lastLogin": null,
            "lastUpdated": "2025-09-29T03:49:51.000Z", "passwordChanged": "2025-09-29T03:49:50.000Z",
            "type": {"id": "otynwlw0pkLLUgtNG5d7"},
            "profile": {"firstName": "John", "lastName": "Doe", "mobilePhone": null, "secondEmail": null,
                "login": "john.doe@example.com", "email": "john.doe@example.com"},
            "credentials": {"password": {}, "provider": {"type": "OKTA", "name": "OKTA"},
                "emails": [{"value": "john.doe@example.com", "status": "VERIFIED", "type": "PRIMARY"}]}})
    }

    fn read(user: Value) -> Account {
        serde_json::from_value::<User>(user).unwrap().into()
    }

    #[test]
    fn a_recorded_user_is_read_whole() {
        let account = read(recorded());
        assert_eq!(account.object_id, "00uqrks9ig7XuWV7X5d7");
        assert_eq!(account.display_name, "John Doe");
        assert_eq!(account.addresses, ["john.doe@example.com"]);
        assert_eq!(account.authority, PasswordAuthority::Cloud);
        assert_eq!(account.state, AccountState::Active);
        assert_eq!(account.password_changed_at, Some(time::macros::datetime!(2025-09-29 03:49:50 UTC)));
        assert_eq!(account.last_sign_in_at, None);
    }

    #[test]
    fn every_status_has_its_state_and_an_unknown_one_cannot_sign_in() {
        for (status, state) in STATES.iter().copied().chain([("NEWLY_INVENTED", AccountState::Pending)]) {
            let mut user = recorded();
            user["status"] = status.into();
            assert_eq!(read(user).state, state, "{status}");
        }
    }

    #[test]
    fn who_checks_the_password_follows_the_provider_and_its_presence() {
        for (kind, password, authority) in [
            ("OKTA", true, PasswordAuthority::Cloud),
            ("IMPORT", true, PasswordAuthority::Cloud),
            ("OKTA", false, PasswordAuthority::None),
            ("ACTIVE_DIRECTORY", true, PasswordAuthority::Ad),
            ("LDAP", false, PasswordAuthority::Ad),
            ("FEDERATION", false, PasswordAuthority::Federated),
            ("SOCIAL", false, PasswordAuthority::Federated),
        ] {
            let mut user = recorded();
            user["credentials"] = json!({"provider": {"type": kind, "name": "x"}});
            if password {
                user["credentials"]["password"] = json!({});
            }
            let account = read(user);
            assert_eq!(account.authority, authority, "{kind} {password}");
            assert_eq!(
                account.under_policy,
                Some(authority == PasswordAuthority::Cloud),
                "{kind} {password}"
            );
        }
    }

    #[test]
    fn an_active_user_with_a_device_block_counts_as_locked() {
        let mut user = recorded();
        user["_embedded"] = json!({"blocks": [{"type": "DEVICE_BASED", "appliesTo": "UNKNOWN_DEVICES"}]});
        assert_eq!(read(user).state, AccountState::Locked);
    }
}
