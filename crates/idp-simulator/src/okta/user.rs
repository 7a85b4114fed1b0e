//! A user object as Okta shows it (okta.md §3.1).

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Org;
use crate::model::{Account, Authority, Status};

/// The status a reader sees.
pub fn status(org: &Org, account: &Account, now: OffsetDateTime) -> &'static str {
    match account.status {
        Status::Suspended | Status::Disabled => "SUSPENDED",
        Status::Staged => "STAGED",
        Status::Provisioned => "PROVISIONED",
        Status::Recovery => "RECOVERY",
        Status::Deprovisioned | Status::Deleted => "DEPROVISIONED",
        Status::Active if account.lock.holds(now) && !org.settings.unknown_device_lockout => "LOCKED_OUT",
        // Real orgs notice an expiry at the next sign-in only; here somebody has just tried.
        Status::Active if account.password_expired => "PASSWORD_EXPIRED",
        Status::Active => "ACTIVE",
    }
}

/// Blocks on devices the user does not know.
pub fn blocks(org: &Org, account: &Account, now: OffsetDateTime) -> Value {
    if org.settings.unknown_device_lockout && account.lock.holds(now) {
        json!([{"type": "DEVICE_BASED", "appliesTo": "UNKNOWN_DEVICES"}])
    } else {
        json!([])
    }
}

/// The object in a list, which carries no links but its own.
pub fn listed(org: &Org, account: &Account, base: &str, now: OffsetDateTime) -> Value {
    let mut emails = Vec::new();
    if let Some(email) = &account.email {
        emails.push(json!({"value": email, "status": "VERIFIED", "type": "PRIMARY"}));
    }
    if let Some(second) = account.other_emails.first() {
        emails.push(json!({"value": second, "status": "VERIFIED", "type": "SECONDARY"}));
    }
    let (kind, name) = match account.authority {
        Authority::Cloud | Authority::PassThrough => ("OKTA", "OKTA"),
        Authority::Federated => ("FEDERATION", "FEDERATION"),
        Authority::ActiveDirectory => ("ACTIVE_DIRECTORY", "corp.example"),
        Authority::Ldap => ("LDAP", "ldap.example"),
    };
    let mut credentials = json!({"provider": {"type": kind, "name": name}, "emails": emails});
    let shows_password = account.password.is_some() && account.authority != Authority::Federated;
    if shows_password && let Some(credentials) = credentials.as_object_mut() {
        credentials.insert("password".into(), json!({}));
    }
    json!({
        "id": account.id,
        "status": status(org, account, now),
        "created": timestamp(account.created),
        "activated": timestamp(account.created),
        "statusChanged": timestamp(account.status_changed),
        "lastLogin": account.last_sign_in.map(timestamp),
        "lastUpdated": timestamp(account.updated),
        "passwordChanged": account.password_changed.map(timestamp),
        "type": {"id": "otynwlw0pkLLUgtNG5d7"},
        "profile": {
            "login": account.login,
            "email": account.email,
            "secondEmail": account.other_emails.first(),
            "firstName": filled(&account.given_name),
            "lastName": filled(&account.family_name),
            "displayName": filled(&account.display_name),
            "mobilePhone": null,
            "department": account.department,
            "title": account.job_title,
        },
        "credentials": credentials,
        "_links": {"self": {"href": format!("{base}/api/v1/users/{}", account.id)}},
    })
}

/// An attribute without a value is null: Okta has no empty ones.
fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// The object read alone, with a link for each step its status allows.
pub fn single(org: &Org, account: &Account, base: &str, now: OffsetDateTime) -> Value {
    let mut shown = listed(org, account, base, now);
    let steps: &[&str] = match status(org, account, now) {
        "ACTIVE" | "PASSWORD_EXPIRED" => &["suspend", "reset_password", "expire_password", "deactivate"],
        "SUSPENDED" => &["unsuspend", "deactivate"],
        "LOCKED_OUT" => &["unlock", "reset_password", "deactivate"],
        "STAGED" | "DEPROVISIONED" => &["activate"],
        _ => &["reactivate", "deactivate"],
    };
    if let Some(links) = shown.get_mut("_links").and_then(Value::as_object_mut) {
        for step in steps {
            let href = format!("{base}/api/v1/users/{}/lifecycle/{step}", account.id);
            links.insert(camel(step), json!({"href": href, "method": "POST"}));
        }
    }
    shown
}

fn camel(step: &str) -> String {
    let mut words = step.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

/// `2026-01-02T03:04:05.000Z`.
pub fn timestamp(at: OffsetDateTime) -> String {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}
