//! A user object as Graph renders it.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::settings::Settings;
use crate::model::{Account, Status};

/// Properties shown when a request selects none; `accountEnabled` is not among them (entra.md §8.1).
pub const DEFAULT: &[&str] = &[
    "businessPhones",
    "displayName",
    "givenName",
    "id",
    "jobTitle",
    "mail",
    "mobilePhone",
    "officeLocation",
    "preferredLanguage",
    "surname",
    "userPrincipalName",
];

/// A date as Graph spells it.
pub fn date(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

/// All properties the simulator knows.
pub fn render(settings: &Settings, account: &Account) -> Map<String, Value> {
    let on_premises = |value: Value| if account.hybrid { value } else { Value::Null };
    let (local, domain) = account.login.split_once('@').unwrap_or((&account.login, ""));
    let proxies: Vec<String> = account
        .email
        .iter()
        .map(|primary| format!("SMTP:{primary}"))
        .chain(account.aliases.iter().map(|alias| format!("smtp:{alias}")))
        .collect();
    let user = json!({
        "id": account.id,
        "userPrincipalName": account.login,
        "displayName": account.display_name,
        "givenName": account.given_name,
        "surname": account.family_name,
        "mail": account.email,
        "mailNickname": local,
        "otherMails": account.other_emails,
        "proxyAddresses": proxies,
        "accountEnabled": account.status == Status::Active,
        "userType": if account.guest { "Guest" } else { "Member" },
        "creationType": if account.guest { json!("Invitation") } else { Value::Null },
        "externalUserState": if account.guest { json!("Accepted") } else { Value::Null },
        "createdDateTime": date(account.created),
        "lastPasswordChangeDateTime": account.password_changed.map(date),
        "passwordPolicies": account.password_policies,
        "onPremisesSyncEnabled": on_premises(json!(true)),
        "onPremisesImmutableId": on_premises(json!(account.id)),
        "onPremisesSamAccountName": on_premises(json!(local)),
        "onPremisesDomainName": on_premises(json!(format!("corp.{domain}"))),
        "onPremisesSecurityIdentifier": on_premises(json!(format!("S-1-5-21-1-2-3-{}", account.login.len()))),
        "onPremisesDistinguishedName": on_premises(json!(format!("CN={local},OU=Users"))),
        "onPremisesLastSyncDateTime": on_premises(json!(date(account.updated))),
        "employeeId": Value::Null,
        "employeeType": Value::Null,
        "department": account.department,
        "jobTitle": account.job_title,
        "companyName": Value::Null,
        "businessPhones": [],
        "mobilePhone": Value::Null,
        "officeLocation": Value::Null,
        "preferredLanguage": Value::Null,
        "signInSessionsValidFromDateTime": date(account.sessions_valid_from),
        "assignedLicenses": [],
        "identities": [{"signInType": "userPrincipalName", "issuer": settings.domains.first().map(|d| &d.name),
            "issuerAssignedId": account.login}],
    });
    match user {
        Value::Object(user) => user,
        _ => Map::new(),
    }
}

/// The members of an account (as in [`Account`]) that a property shows.
pub fn made_of(property: &str) -> &'static [&'static str] {
    match property {
        "userPrincipalName" | "mailNickname" | "identities" => &["login"],
        "displayName" => &["display_name"],
        "givenName" => &["given_name"],
        "surname" => &["family_name"],
        "mail" => &["email"],
        "otherMails" => &["other_emails"],
        "proxyAddresses" => &["email", "aliases"],
        "accountEnabled" => &["status"],
        "userType" | "creationType" | "externalUserState" => &["guest"],
        "lastPasswordChangeDateTime" => &["password_changed"],
        "passwordPolicies" => &["password_policies"],
        "onPremisesLastSyncDateTime" => &["hybrid", "updated"],
        "onPremisesImmutableId" | "onPremisesSyncEnabled" => &["hybrid"],
        "onPremisesSamAccountName"
        | "onPremisesDomainName"
        | "onPremisesSecurityIdentifier"
        | "onPremisesDistinguishedName" => &["hybrid", "login"],
        "department" => &["department"],
        "jobTitle" => &["job_title"],
        "signInSessionsValidFromDateTime" => &["sessions_valid_from"],
        _ => &[],
    }
}

/// `signInActivity`, absent for somebody who never signed in.
pub fn sign_in_activity(account: &Account) -> Option<Value> {
    let at = date(account.last_sign_in?);
    Some(
        json!({"lastSignInDateTime": at, "lastSignInRequestId": account.id, "lastNonInteractiveSignInDateTime": at,
        "lastNonInteractiveSignInRequestId": account.id, "lastSuccessfulSignInDateTime": at,
        "lastSuccessfulSignInRequestId": account.id}),
    )
}
