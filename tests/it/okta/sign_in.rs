//! A password is submitted once, and its answer proves what it proves.

use e2e::Permits;
use serde_json::json;
use shared::id::ProviderKind;
use shared::provider::{Account, AccountState, Attempted, Provider, ProviderError, SignIns, Signal};
use shared::secret::SecretBytes;
use shared::verdict::{Reason, Verdict};

use super::{ORG, Stage, people};

/// Submits once, with the account as it was read before.
async fn verify(stage: &Stage, permits: &Permits, before: &Account, password: &str) -> Attempted {
    let verifier = stage.okta.verifier().unwrap();
    let connection = verifier.connect().await.unwrap();
    let permit = permits.permit(ProviderKind::Okta, ORG, before).await;
    verifier.verify(permit, connection, before, &SecretBytes::new(password.into())).await
}

#[tokio::test]
async fn what_only_okta_says_is_understood() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let right = "right horse battery";
    for (n, (login, password, verdict)) in [
        ("enrol@acme.example", right, Verdict::ValidSecondFactor),
        ("warn@acme.example", right, Verdict::Valid),
        ("denied@acme.example", right, Verdict::Inconclusive(Reason::Refused)),
    ]
    .into_iter()
    .enumerate()
    {
        let before = stage.account(login).await;
        // Each with a limiter's view of its own account; the spacing of one account is not this test's matter.
        let payer = Account { object_id: format!("00utest{n}"), ..before.clone() };
        let verifier = stage.okta.verifier().unwrap();
        let connection = verifier.connect().await.unwrap();
        let permit = permits.permit(ProviderKind::Okta, ORG, &payer).await;
        let secret = SecretBytes::new(password.into());
        let attempted = verifier.verify(permit, connection, &before, &secret).await;
        assert_eq!(attempted.verdict, verdict, "{login} {password}");
        assert!(attempted.request_id.is_some());
        assert_eq!(stage.idp.submissions().len(), n + 1);
    }
}

#[tokio::test]
async fn a_refusal_of_a_locked_account_is_never_invalid() {
    for settings in [
        json!({"max_attempts": 2}),
        json!({"max_attempts": 2, "show_lockout_failures": true}),
        json!({"max_attempts": 2, "unknown_device_lockout": true}),
    ] {
        let (stage, permits) = (Stage::people(settings).await, Permits::start().await);
        let before = stage.account("ann@acme.example").await;
        assert_eq!(before.state, AccountState::Active);
        // The owner mistypes between our reading and our attempt.
        stage
            .patch("ann@acme.example", json!({"lock": {"failures": 2, "failures_owner": 2, "locked": true}}));
        for password in ["wrong", "right horse battery"] {
            let payer = Account { object_id: format!("00u{password}").replace(' ', ""), ..before.clone() };
            let verifier = stage.okta.verifier().unwrap();
            let connection = verifier.connect().await.unwrap();
            let permit = permits.permit(ProviderKind::Okta, ORG, &payer).await;
            let secret = SecretBytes::new(password.into());
            let attempted = verifier.verify(permit, connection, &before, &secret).await;
            assert_eq!(attempted.verdict, Verdict::Inconclusive(Reason::LockedOrBlocked));
            assert_eq!(attempted.signal, Signal::Locked);
        }
    }
}

#[tokio::test]
async fn the_log_tells_a_policy_s_refusal_from_a_wrong_password_where_it_is_readable() {
    for (scopes, verdict) in [
        (vec!["okta.users.read", "okta.logs.read"], Verdict::Inconclusive(Reason::Refused)),
        // Nothing else shows it.
        (vec!["okta.users.read"], Verdict::Invalid),
    ] {
        let app = json!({ "scopes": scopes });
        let stage = Stage::with(json!({"authn": "denied"}), app, json!({"accounts": people()})).await;
        let permits = Permits::start().await;
        let before = stage.account("ann@acme.example").await;
        assert_eq!(verify(&stage, &permits, &before, "wrong").await.verdict, verdict);
    }
    let app = json!({"scopes": ["okta.users.read", "okta.logs.read"]});
    let stage = Stage::with(json!({}), app, json!({"accounts": people()})).await;
    let permits = Permits::start().await;
    let before = stage.account("ann@acme.example").await;
    assert_eq!(verify(&stage, &permits, &before, "wrong").await.verdict, Verdict::Invalid);
}

#[tokio::test]
async fn the_system_log_tells_of_the_owner_and_leaves_us_out() {
    let app = json!({"scopes": ["okta.users.read", "okta.logs.read"]});
    let stage = Stage::with(json!({}), app, json!({"accounts": people()})).await;
    let permits = Permits::start().await;
    let ann = stage.account("ann@acme.example").await;
    let log = async || {
        let since = stage.idp.simulator.world.now() - time::Duration::days(30);
        stage.okta.sign_ins(&ann.object_id, since).await.unwrap().unwrap()
    };
    stage.idp.mistype(ORG, &ann.object_id, 2).await;
    let right = verify(&stage, &permits, &ann, "right horse battery").await;
    assert_eq!(right.verdict, Verdict::Valid);
    assert_eq!(log().await, SignIns { last_success: None, failures: 2 }, "our success is not hers");
    stage.idp.sign_in(ORG, &ann.object_id).await;
    let seen = log().await;
    assert!(seen.last_success.is_some() && seen.failures == 0, "{seen:?}");
    stage.idp.mistype(ORG, &ann.object_id, 1).await;
    assert_eq!(log().await.failures, 1);
    let blind = Stage::people(json!({})).await;
    let nobody = blind.okta.sign_ins(&ann.object_id, time::OffsetDateTime::now_utc()).await.unwrap();
    assert_eq!(nobody, None, "without the scope it is not asked for");
}

#[tokio::test]
async fn our_own_submissions_are_listed_page_by_page_and_nobody_else_s() {
    let app = json!({"scopes": ["okta.users.read", "okta.logs.read"]});
    let settings = json!({"log_page": 2, "sign_ins_per_second": 1000, "max_attempts": 0, "buckets": null});
    let stage = Stage::with(settings, app, json!({"accounts": people()})).await;
    let ann = stage.id("ann@acme.example");
    let egress = stage.idp.egress();
    let submit = async |login: &str, times: usize| {
        for _ in 0..times {
            let body = json!({"username": login, "password": "wrong"});
            let request = egress.request(reqwest::Method::POST, "https://acme.okta.com/api/v1/authn");
            assert_eq!(request.json(&body).send().await.unwrap().status(), 401);
        }
    };
    submit("ann@acme.example", 5).await;
    submit("nobody@acme.example", 1).await;
    stage.idp.mistype(ORG, &ann, 3).await;
    let now = stage.idp.simulator.world.now();
    let hour = time::Duration::hours(1);
    let listed = stage.okta.own_sign_ins(now - hour, now).await.unwrap().unwrap();
    let entries: std::collections::BTreeSet<_> = listed.iter().map(|own| &own.entry).collect();
    assert_eq!((listed.len(), entries.len()), (5, 5), "more than a page, each once");
    assert!(listed.iter().all(|own| own.object_id == ann));
    assert_eq!(stage.okta.own_sign_ins(now - 2 * hour, now - hour).await.unwrap(), Some(vec![]));

    stage.patch_settings(json!({"log_page": 1}));
    submit("ann@acme.example", 40).await;
    let now = stage.idp.simulator.world.now();
    let too_many = stage.okta.own_sign_ins(now - hour, now).await;
    assert!(matches!(too_many, Err(ProviderError::Protocol(why)) if why.contains("than are read at once")));
    let blind = Stage::people(json!({})).await;
    assert_eq!(blind.okta.own_sign_ins(now - hour, now).await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_without_a_second_look_at_the_account_proves_nothing() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let before = stage.account("ann@acme.example").await;
    stage.idp.fault(json!({"operation": "okta.users.get", "effect": "wrong_json", "times": 9}));
    let attempted = verify(&stage, &permits, &before, "wrong").await;
    assert_eq!(attempted.verdict, Verdict::Inconclusive(Reason::StateUnread));
    assert_eq!(stage.idp.submissions().len(), 1);
}
