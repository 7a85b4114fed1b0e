//! The connection test: what works, what is missing and what to do about it.

use std::collections::BTreeSet;

use e2e::Idp;
use serde_json::json;
use shared::integration::OktaConnection;
use shared::provider::http::{Egress, EgressConfig};
use shared::provider::okta::{Okta, keys};
use shared::provider::{Capability, Listing, Missing, Provider, ProviderError};

use super::{Stage, adapter, people};

fn wanted() -> BTreeSet<Capability> {
    [Capability::Read, Capability::Validate, Capability::RevokeSessions, Capability::DisableAccount].into()
}

/// What each capability lacks.
async fn missing(okta: &Okta) -> Vec<(Capability, Option<Missing>)> {
    let report = okta.test(&wanted()).await;
    report.capabilities.into_iter().map(|test| (test.capability, test.result.err())).collect()
}

fn reasons(found: &[(Capability, Option<Missing>)]) -> Vec<&'static str> {
    found.iter().map(|(_, missing)| missing.as_ref().map_or("", |m| m.reason)).collect()
}

#[tokio::test]
async fn every_kind_of_proof_of_possession_is_met() {
    for dpop in ["off", "required", "nonce"] {
        let stage = Stage::with(json!({}), json!({"dpop": dpop}), json!({"accounts": people()})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), [""; 4], "{dpop}");
    }
}

#[tokio::test]
async fn scopes_that_are_not_granted_are_named_for_the_capabilities_that_need_them() {
    let stage =
        Stage::with(json!({}), json!({"scopes": ["okta.users.read"]}), json!({"accounts": people()})).await;
    let found = missing(&stage.okta).await;
    assert_eq!(reasons(&found), ["", "", "consent_missing", "consent_missing"]);
    let told = found[2].1.as_ref().unwrap();
    assert!(told.not_granted && told.message.contains("okta.users.manage"), "{told:?}");
}

#[tokio::test]
async fn without_any_grant_everything_lacks_consent() {
    let stage = Stage::with(json!({}), json!({"scopes": []}), json!({"accounts": people()})).await;
    assert_eq!(reasons(&missing(&stage.okta).await), ["consent_missing"; 4]);
}

#[tokio::test]
async fn an_app_without_a_role_is_told_so_and_never_sees_an_empty_directory() {
    let stage = Stage::with(json!({}), json!({"roles": []}), json!({"accounts": people()})).await;
    assert_eq!(reasons(&missing(&stage.okta).await), ["role_missing", "", "role_missing", "role_missing"]);
    let refused = stage.okta.accounts(Listing::Full, None).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Refused(Missing { reason: "role_missing", .. })), "{refused:?}");
}

#[tokio::test]
async fn a_role_that_cannot_suspend_is_found_by_acting_on_nobody() {
    let stage =
        Stage::with(json!({}), json!({"roles": ["HELP_DESK_ADMIN"]}), json!({"accounts": people()})).await;
    assert_eq!(reasons(&missing(&stage.okta).await), ["", "", "", "role_missing"]);
    assert!(stage.idp.changes().is_empty());
}

#[tokio::test]
async fn refusals_of_the_client_are_told_apart() {
    for (app, reason) in [
        (json!({"jwks_uri": "http://127.0.0.1:9/jwks.json"}), "jwks_unreachable"),
        (json!({"jwks_uri": "http://jwks.acme.example/jwks.json"}), "jwks_unreachable"),
        (json!({"jwks": null}), "key_missing"),
        (json!({"jwks": keys::jwks(&[keys::generate().unwrap().public])}), "key_unknown"),
        (json!({"client_id": "0oasomebodyelse00001"}), "client_unknown"),
        (json!({"active": false}), "client_unknown"),
        (json!({"in_zone": false}), "network_zone"),
    ] {
        let stage = Stage::with(json!({}), app, json!({"accounts": people()})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), [reason; 4]);
    }
}

#[tokio::test]
async fn keys_are_fetched_from_the_integrations_url() {
    let key = keys::generate().unwrap();
    let document = keys::jwks(std::slice::from_ref(&key.public));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/.well-known/7/jwks.json", listener.local_addr().unwrap());
    let serve = axum::Router::new()
        .route("/.well-known/7/jwks.json", axum::routing::get(async move || axum::Json(document)));
    tokio::spawn(async move { axum::serve(listener, serve).await });
    let stage =
        Stage::with(json!({}), json!({"jwks": null, "jwks_uri": url}), json!({"accounts": people()})).await;
    let okta = adapter(&stage.idp, "acme.okta.com", &key);
    assert_eq!(reasons(&missing(&okta).await), [""; 4]);
}

#[tokio::test]
async fn a_host_without_an_org_is_said_to_be_none() {
    let idp = Idp::start().await;
    let okta = adapter(&idp, "nobody.okta.com", &keys::generate().unwrap());
    assert_eq!(reasons(&missing(&okta).await), ["host_unknown"; 4]);
}

#[tokio::test]
async fn a_sign_in_endpoint_that_cannot_prove_a_password_fails_the_test_of_validation_only() {
    for (authn, reason) in [
        ("withdrawn", "method_unavailable"),
        ("blocked", "address_blocked"),
        ("factors_first", "password_not_first"),
    ] {
        let stage = Stage::people(json!({"authn": authn})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), ["", reason, "", ""]);
    }
}

/// The reasons of everything that works less well than it could.
async fn warned(okta: &Okta) -> Vec<&'static str> {
    okta.test(&wanted()).await.warnings.into_iter().map(|warning| warning.reason).collect()
}

#[tokio::test]
async fn the_engine_of_the_org_is_named_and_a_classic_one_knows_no_risk() {
    let risk = BTreeSet::from([Capability::MarkCompromised]);
    let tested = async |settings| {
        let stage = Stage::people(settings).await;
        let report = stage.okta.test(&risk).await;
        (report.edition, report.capabilities[0].result.clone().err().map(|missing| missing.reason))
    };
    assert_eq!(tested(json!({})).await, (Some("Okta Identity Engine"), None));
    let unlicensed = Some("licence_missing");
    assert_eq!(tested(json!({"threat_protection": false})).await, (Some("Okta Identity Engine"), unlicensed));
    // It does not know the scopes either; that costs the connection nothing.
    assert_eq!(tested(json!({"pipeline": "v1"})).await, (Some("Okta Classic Engine"), unlicensed));
    let classic = Stage::people(json!({"pipeline": "v1"})).await;
    assert_eq!(reasons(&missing(&classic.okta).await), [""; 4]);
}

#[tokio::test]
async fn setting_a_risk_takes_its_scopes_and_a_role_that_may() {
    let risk = BTreeSet::from([Capability::MarkCompromised]);
    let tested = async |app| {
        let stage = Stage::with(json!({}), app, json!({"accounts": people()})).await;
        let missing = stage.okta.test(&risk).await.capabilities.remove(0).result.unwrap_err();
        assert!(missing.not_granted && stage.idp.changes().is_empty());
        (missing.reason, missing.message)
    };
    let (reason, message) = tested(json!({"scopes": ["okta.users.read", "okta.userRisk.manage"]})).await;
    assert!(reason == "consent_missing" && message.contains("okta.userRisk.read"), "{reason}: {message}");
    assert_eq!(tested(json!({"roles": ["ORG_ADMIN"]})).await.0, "role_missing");
}

#[tokio::test]
async fn a_role_that_suspends_but_does_not_unsuspend_is_warned_about() {
    let tested = async |role: &str| {
        let roles = json!(["okta.users.read", "okta.iam.read", "okta.users.lifecycle.suspend", role]);
        let stage = Stage::with(json!({}), json!({"roles": roles}), json!({"accounts": people()})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), ["", "", "role_missing", ""]);
        warned(&stage.okta).await.contains(&"undo_missing")
    };
    assert!(tested("okta.groups.read").await);
    assert!(!tested("okta.users.lifecycle.unsuspend").await);
}

#[tokio::test]
async fn a_log_that_may_not_be_read_is_warned_about() {
    let tested = async |app| {
        let stage = Stage::with(json!({}), app, json!({"accounts": people()})).await;
        warned(&stage.okta).await.contains(&"changes_partial")
    };
    let scopes = ["okta.users.read", "okta.users.manage", "okta.logs.read"];
    assert!(tested(json!({"scopes": ["okta.users.read"]})).await);
    assert!(tested(json!({"scopes": scopes, "roles": ["USER_ADMIN"]})).await, "the scope alone does nothing");
    assert!(!tested(json!({"scopes": scopes})).await);
}

#[tokio::test]
async fn an_approved_custom_domain_is_used_like_the_orgs_own_name() {
    let domain = "login.acme.example";
    let key = keys::generate().unwrap();
    let stage = Stage::with(
        json!({"custom_domain": domain}),
        json!({"jwks": keys::jwks(std::slice::from_ref(&key.public))}),
        json!({"generated": {"seed": 7, "count": 450}}),
    )
    .await;
    let connection = OktaConnection { host: domain.into(), client_id: super::CLIENT.into() };
    let refused = Okta::new(&connection, &key.kid, &key.pkcs8, stage.idp.egress()).unwrap_err();
    let ProviderError::Refused(missing) = refused else { panic!("{refused:?}") };
    assert_eq!(missing.reason, "host_invalid");
    assert!(missing.message.contains("idp.okta_domains"), "{missing:?}");

    let approved = EgressConfig {
        okta_domains: vec![domain.to_owned()].try_into().unwrap(),
        ..stage.idp.egress_config()
    };
    let okta = Okta::new(&connection, &key.kid, &key.pkcs8, Egress::new(&approved).unwrap()).unwrap();
    assert_eq!(reasons(&self::missing(&okta).await), [""; 4]);
    assert_eq!(okta.directory_id().await.unwrap(), super::ORG);
    let (all, _) = e2e::walk(&okta, Listing::Full, None).await.unwrap();
    assert_eq!(all.len(), 450);
    // Of an org that does not have it, it is another name.
    stage.patch_settings(json!({"custom_domain": null}));
    assert!(okta.directory_id().await.is_err());
}
