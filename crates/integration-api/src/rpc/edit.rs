//! What people may write into an integration: checked, merged by field mask, compared for the audit log.

use std::collections::BTreeSet;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use shared::{
    id::ProviderKind,
    integration::{
        ActionSwitch, Connection, EntraCloud, EntraConnection, MitigationSettings, OktaConnection, Settings,
        SyncScope, ValidationSettings,
    },
    provider::{
        Action, group_kind,
        okta::host::{self, ApprovedDomains},
    },
    triage::Rule,
    wire::v1,
};

use super::{convert, daily_max};
use crate::{
    error::{ApiError, Check},
    integration::Integration,
    store::registry::Package,
};

/// The connection as sent, not yet checked.
pub(super) fn connection_in(config: v1::integration::Config) -> Result<Connection, ApiError> {
    match config {
        v1::integration::Config::Entra(v1::EntraConfig { cloud, tenant, client_id, ropc_client_id }) => {
            let cloud = match v1::EntraCloud::try_from(cloud) {
                Ok(v1::EntraCloud::Unspecified | v1::EntraCloud::Global) => EntraCloud::Global,
                Ok(v1::EntraCloud::UsGov) => EntraCloud::UsGov,
                Ok(v1::EntraCloud::UsGovDod) => EntraCloud::UsGovDod,
                Ok(v1::EntraCloud::China) => EntraCloud::China,
                Err(_) => return Err(ApiError::field("entra.cloud", "give a known cloud")),
            };
            let ropc_client_id = Some(ropc_client_id.trim().to_ascii_lowercase()).filter(|id| !id.is_empty());
            Ok(Connection::EntraId(EntraConnection {
                cloud,
                tenant: tenant.trim().to_ascii_lowercase(),
                client_id: client_id.trim().to_ascii_lowercase(),
                ropc_client_id,
            }))
        }
        v1::integration::Config::Okta(v1::OktaConfig { host, client_id }) => {
            Ok(Connection::Okta(OktaConnection {
                host: host.trim().to_owned(),
                client_id: client_id.trim().to_owned(),
            }))
        }
    }
}

/// Checks a connection; an Okta host is brought into its plain form.
pub(super) fn check_connection(
    connection: &mut Connection,
    okta_domains: &ApprovedDomains,
) -> Result<(), ApiError> {
    let mut check = Check::default();
    match connection {
        Connection::EntraId(EntraConnection { cloud: _, tenant, client_id, ropc_client_id }) => {
            check.require(
                is_guid(tenant) || is_domain(tenant),
                "entra.tenant",
                "give the tenant id (GUID) or a verified domain such as contoso.onmicrosoft.com",
            );
            check.require(is_guid(client_id), "entra.client_id", "give the application (client) id, a GUID");
            let ropc = ropc_client_id.as_deref().is_none_or(is_guid);
            check.require(
                ropc,
                "entra.ropc_client_id",
                "give an application (client) id, a GUID, or leave it out",
            );
        }
        Connection::Okta(OktaConnection { host, client_id }) => {
            match host::normalise(host, okta_domains) {
                Ok(plain) => *host = plain,
                Err(remedy) => check.require(false, "okta.host", remedy),
            }
            // May be empty: the Okta application needs our JWKS URL before it has an id.
            let plain = client_id.len() <= 128
                && client_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            check.require(plain, "okta.client_id", "give the client id of the API Services app");
        }
    }
    check.done()
}

fn is_guid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

// Only letters, digits, hyphens and dots: the name becomes part of a path at the provider.
fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text.contains('.')
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Settings as sent; what is left out gets what the package allows, without any automation.
pub(super) fn settings_in(
    sent: Option<v1::IntegrationSettings>,
    package: &Package,
) -> Result<Settings, ApiError> {
    let default = Settings {
        identity_creation: package.identity_creation,
        validation: ValidationSettings { manual: package.validation, ..ValidationSettings::default() },
        ..Settings::default()
    };
    let Some(v1::IntegrationSettings { identity_creation, validation, mitigation, scope, quota_percent }) =
        sent
    else {
        return Ok(default);
    };
    if !(0..=100).contains(&quota_percent) {
        return Err(ApiError::field("settings.quota_percent", "give 1 to 100, or 0 for the default of 25"));
    }
    let quota_percent = if quota_percent == 0 { default.quota_percent } else { quota_percent.unsigned_abs() };
    let validation = match validation {
        None => default.validation,
        Some(v1::ValidationSettings {
            automated,
            manual,
            daily_max,
            allow_ad_backed,
            low_threshold_opt_in,
            rules_off,
        }) => {
            let rules_off = rules_in("settings.validation.rules_off", &rules_off)?;
            let daily_max = match u32::try_from(daily_max) {
                Ok(0) => default.validation.daily_max,
                Ok(daily_max @ 1..=daily_max::MOST) => daily_max,
                _ => {
                    return Err(ApiError::field(
                        "settings.validation.daily_max",
                        "give 1 to 5, or 0 for the default of 2",
                    ));
                }
            };
            ValidationSettings {
                automated,
                manual,
                daily_max,
                allow_ad_backed,
                low_threshold_opt_in,
                rules_off,
            }
        }
    };
    let switch = |sent: Option<v1::ActionSwitch>| {
        sent.map_or_else(ActionSwitch::default, |v1::ActionSwitch { automated, manual }| ActionSwitch {
            automated,
            manual,
        })
    };
    let mitigation = match mitigation {
        None => default.mitigation,
        Some(v1::MitigationSettings { revoke_sessions, disable_account, mark_compromised }) => {
            MitigationSettings {
                revoke_sessions: switch(revoke_sessions),
                disable_account: switch(disable_account),
                mark_compromised: switch(mark_compromised),
            }
        }
    };
    let scope = scope_in(scope.unwrap_or_default());
    Ok(Settings { identity_creation, validation, mitigation, scope, quota_percent })
}

/// Rules of triage to be switched off, if they may be.
fn rules_in(field: &str, sent: &[i32]) -> Result<BTreeSet<Rule>, ApiError> {
    let mut rules = BTreeSet::new();
    for value in sent {
        let rule = convert::rule_in(field, *value)?;
        if let Some(why) = rule.always_on_because() {
            return Err(ApiError::field(field, format!("{} cannot be switched off: {why}", rule.as_str())));
        }
        rules.insert(rule);
    }
    Ok(rules)
}

/// A scope as sent, in the form in which it is kept; not yet checked.
pub(super) fn scope_in(sent: v1::SyncScope) -> SyncScope {
    let v1::SyncScope { group_ids } = sent;
    let mut group_ids: Vec<String> = group_ids.iter().map(|id| id.trim().to_owned()).collect();
    for id in group_ids.iter_mut().filter(|id| is_guid(id)) {
        id.make_ascii_lowercase();
    }
    group_ids.sort_unstable();
    group_ids.dedup();
    SyncScope { group_ids }
}

/// Refuses a scope that names what cannot be a group of the provider.
pub(super) fn check_scope(field: &str, provider: ProviderKind, scope: &SyncScope) -> Result<(), ApiError> {
    if scope.group_ids.len() > SyncScope::MOST_GROUPS {
        return Err(ApiError::field(field, format!("give at most {} groups", SyncScope::MOST_GROUPS)));
    }
    let remedy = match provider {
        ProviderKind::EntraId => "give object ids of groups (GUIDs), not their names",
        ProviderKind::Okta => "give ids of Okta groups, such as 00g1a2b3c4d5e6f7g8h9, not names",
    };
    let fits = scope.group_ids.iter().all(|id| group_kind(id) == Some(provider));
    if fits { Ok(()) } else { Err(ApiError::field(field, remedy)) }
}

/// Refuses what the provider cannot do, and what the package does not include and was not on before.
pub(super) fn check_settings(
    provider: ProviderKind,
    settings: &Settings,
    before: Option<&Settings>,
    package: &Package,
) -> Result<(), ApiError> {
    check_scope("settings.scope.group_ids", provider, &settings.scope)?;
    let daily_max = settings.validation.daily_max;
    if daily_max > daily_max::MOST_ALONE && before.is_none_or(|b| b.validation.daily_max < daily_max) {
        return Err(ApiError::Precondition {
            reason: "SECOND_PERSON_NEEDED",
            message: format!(
                "settings.validation.daily_max above {} needs a second administrator: ask for it with RequestDailyMax \
                 (parapet budget raise), which another one approves",
                daily_max::MOST_ALONE
            ),
        });
    }
    let mitigates = |s: &Settings| {
        Action::ALL.into_iter().any(|a| s.mitigation.switch(a).automated || s.mitigation.switch(a).manual)
    };
    let validates = |s: &Settings| s.validation.automated || s.validation.manual;
    let newly = |on: &dyn Fn(&Settings) -> bool| on(settings) && !before.is_some_and(on);
    let wanted: [(&str, bool, bool); 3] = [
        ("identity creation", package.identity_creation, newly(&|s| s.identity_creation)),
        ("validation", package.validation, newly(&validates)),
        ("mitigation", package.mitigation, newly(&mitigates)),
    ];
    for (entitlement, included, wanted) in wanted {
        if wanted && !included {
            return Err(ApiError::NotEntitled {
                entitlement: entitlement.into(),
                contact: package.contact.clone(),
            });
        }
    }
    Ok(())
}

/// Refuses what a package does not include: an integration of this kind of provider.
pub(super) fn check_provider(provider: ProviderKind, package: &Package) -> Result<(), ApiError> {
    if package.providers.contains(&provider) {
        return Ok(());
    }
    Err(ApiError::NotEntitled { entitlement: provider.to_string(), contact: package.contact.clone() })
}

/// Takes the fields named in a mask from what was sent; the result still has to be checked.
pub(super) fn merge(
    current: &mut Integration,
    sent: v1::Integration,
    paths: &[String],
    package: &Package,
) -> Result<(), ApiError> {
    let sent_connection = sent.config.map(connection_in).transpose()?;
    if sent_connection.as_ref().is_some_and(|c| c.provider() != current.provider) {
        return Err(ApiError::field("integration.config", "an integration keeps its kind of provider"));
    }
    let sent_settings = settings_in(sent.settings, package)?;
    for path in paths {
        let segments: Vec<&str> = path.split('.').collect();
        match segments.as_slice() {
            ["name"] => sent.name.trim().clone_into(&mut current.name),
            ["credentials"] => {} // taken by the caller
            ["settings", below @ ..] => {
                current.settings = copied(&current.settings, &sent_settings, below, path)?;
            }
            [kind @ ("entra" | "okta"), below @ ..] => {
                let fits = matches!(
                    (*kind, current.provider),
                    ("entra", ProviderKind::EntraId) | ("okta", ProviderKind::Okta)
                );
                let Some(connection) = sent_connection.as_ref().filter(|_| fits) else {
                    return Err(ApiError::field(
                        "update_mask",
                        format!("{path} needs the matching config in integration"),
                    ));
                };
                current.connection = copied(&current.connection, connection, below, path)?;
            }
            _ => return Err(unknown(path)),
        }
    }
    Ok(())
}

const FIELDS: [&str; 4] = ["cloud", "tenant", "client_id", "ropc_client_id"];

// Both sides as JSON, whose names are those of the proto: one rule for every path instead of one line per field.
fn copied<T: Serialize + DeserializeOwned>(
    to: &T,
    from: &T,
    below: &[&str],
    path: &str,
) -> Result<T, ApiError> {
    let json =
        |value: &T| serde_json::to_value(value).map_err(|_| ApiError::Internal("settings cannot be written"));
    let (mut target, source) = (json(to)?, json(from)?);
    let Some((last, parents)) = below.split_last() else {
        return serde_json::from_value(source).map_err(|_| ApiError::Internal("settings cannot be read"));
    };
    let (mut place, mut value) = (&mut target, Some(&source));
    for parent in parents {
        place = place.get_mut(parent).ok_or_else(|| unknown(path))?;
        value = value.and_then(|v| v.get(parent));
    }
    let place = place.as_object_mut().ok_or_else(|| unknown(path))?;
    match value.and_then(|v| v.get(last)) {
        Some(new) => {
            place.insert((*last).to_owned(), new.clone());
        }
        // An optional field that is not set is not written at all.
        None if parents.is_empty() && FIELDS.contains(last) => {
            place.remove(*last);
        }
        None => return Err(unknown(path)),
    }
    serde_json::from_value(target).map_err(|_| unknown(path))
}

fn unknown(path: &str) -> ApiError {
    let path: String = path.chars().take(100).collect();
    ApiError::field("update_mask", format!("{path} is not a field that can be changed"))
}

/// What differs between two states of an integration: path, before, after.
pub(super) fn differences(before: &Integration, after: &Integration) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut compare = |path: &str, before: &Value, after: &Value| differ(path, before, after, &mut found);
    let json = |value: &Connection| serde_json::to_value(value).unwrap_or_default();
    let settings = |value: &Settings| serde_json::to_value(value).unwrap_or_default();
    compare("name", &Value::from(before.name.as_str()), &Value::from(after.name.as_str()));
    compare("config", &json(&before.connection), &json(&after.connection));
    compare("settings", &settings(&before.settings), &settings(&after.settings));
    found
}

/// What differs between two values: the path, what was there and what is there.
pub(super) fn differ(path: &str, before: &Value, after: &Value, found: &mut Vec<(String, String, String)>) {
    if before == after {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let value =
                |side: &serde_json::Map<String, Value>| side.get(name).cloned().unwrap_or(Value::Null);
            differ(&format!("{path}.{name}"), &value(old), &value(new), found);
        }
        return;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    found.push((path.to_owned(), text(before), text(after)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            providers: vec![ProviderKind::EntraId],
            identity_creation: true,
            validation: true,
            mitigation: false,
            identifier_cap: 10,
            integration_cap: 1,
            contact: "sales@example.com".into(),
        }
    }

    #[test]
    fn a_mask_changes_only_what_it_names() {
        let before = settings_in(None, &package()).unwrap();
        let sent = Settings {
            validation: ValidationSettings { automated: true, daily_max: 5, ..Default::default() },
            ..Default::default()
        };
        let after =
            copied(&before, &sent, &["validation", "automated"], "settings.validation.automated").unwrap();
        assert!(after.validation.automated && after.identity_creation);
        assert_eq!(after.validation.daily_max, 2);
        for bad in [&["validation", "nonsense"][..], &["nonsense"], &["validation", "automated", "deeper"]] {
            assert!(copied(&before, &sent, bad, "x").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rules_that_only_save_attempts_can_be_switched_off_and_others_are_refused_with_the_reason() {
        use v1::TriageRule as Wire;
        let asked = |rules: &[Wire]| rules_in("f", &rules.iter().map(|r| (*r).into()).collect::<Vec<_>>());
        let off = asked(&[Wire::PolicyExcludes, Wire::AlreadyTried, Wire::PolicyExcludes]).unwrap();
        assert_eq!(off, BTreeSet::from([Rule::AlreadyTried, Rule::PolicyExcludes]));
        for (rule, why) in [
            (Wire::NoUsableSecret, "nothing that could be submitted"),
            (Wire::AccountState, "can lock its owner out"),
            (Wire::AuthorityElsewhere, "allow_ad_backed"),
            (Wire::Unspecified, "known rules"),
        ] {
            let refused = asked(&[Wire::AlreadyTried, rule]).unwrap_err();
            assert!(
                matches!(&refused, ApiError::Invalid(wrong) if wrong[0].field == "f" && wrong[0].remedy.contains(why)),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn an_optional_field_can_be_emptied() {
        let full = Connection::EntraId(EntraConnection {
            cloud: EntraCloud::Global,
            tenant: "contoso.example".into(),
            client_id: "a".into(),
            ropc_client_id: Some("b".into()),
        });
        let Connection::EntraId(mut entra) = full.clone() else { panic!() };
        entra.ropc_client_id = None;
        let empty = Connection::EntraId(entra);
        assert_eq!(copied(&full, &empty, &["ropc_client_id"], "x").unwrap(), empty);
        assert_eq!(copied(&empty, &full, &["ropc_client_id"], "x").unwrap(), full);
    }

    #[test]
    fn a_switch_that_the_package_does_not_include_is_refused_with_its_contact() {
        let mut settings = settings_in(None, &package()).unwrap();
        settings.mitigation.revoke_sessions.manual = true;
        let refusal = check_settings(ProviderKind::EntraId, &settings, None, &package()).unwrap_err();
        assert!(
            matches!(refusal, ApiError::NotEntitled { ref contact, .. } if contact == "sales@example.com")
        );
        // What was on before the package shrank does not stand in the way of another change.
        assert!(check_settings(ProviderKind::EntraId, &settings, Some(&settings), &package()).is_ok());
    }

    #[test]
    fn hostile_tenants_never_reach_a_path() {
        let guid = "2f0a4e9c-6a44-4a0e-9d8b-1f2f3c4d5e6f";
        for (tenant, good) in [
            (guid, true),
            ("contoso.onmicrosoft.com", true),
            ("common", false),
            ("contoso.com/../other", false),
            ("127.0.0.1", false),
            ("a.b?x", false),
            ("", false),
        ] {
            let mut connection = Connection::EntraId(EntraConnection {
                cloud: EntraCloud::Global,
                tenant: tenant.into(),
                client_id: guid.into(),
                ropc_client_id: None,
            });
            assert_eq!(
                check_connection(&mut connection, &ApprovedDomains::default()).is_ok(),
                good,
                "{tenant}"
            );
        }
    }
}
