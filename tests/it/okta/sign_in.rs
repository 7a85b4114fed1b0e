//! A password is submitted once, and its answer proves what it proves.

use e2e::Permits;
use serde_json::json;
use shared::id::ProviderKind;
use shared::provider::{Account, AccountState, Attempted, Provider, Signal};
use shared::secret::SecretBytes;
use shared::verdict::{Reason, Verdict};

use super::{ORG, Stage};

/// Submits once, with the account as it was read before.
async fn verify(stage: &Stage, permits: &Permits, before: &Account, password: &str) -> Attempted {
    let verifier = stage.okta.verifier().unwrap();
    let connection = verifier.connect().await.unwrap();
    let permit = permits.permit(ProviderKind::Okta, ORG, before).await;
    verifier.verify(permit, connection, before, &SecretBytes::new(password.into())).await
}

#[tokio::test]
async fn each_answer_costs_one_submission_and_proves_what_it_proves() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let right = "right horse battery";
    for (n, (login, password, verdict)) in [
        ("ann@acme.example", right, Verdict::Valid),
        ("ann@acme.example", "wrong", Verdict::Invalid),
        ("mfa@acme.example", right, Verdict::ValidSecondFactor),
        ("enrol@acme.example", right, Verdict::ValidSecondFactor),
        ("old@acme.example", right, Verdict::ValidExpired),
        ("warn@acme.example", right, Verdict::Valid),
        ("denied@acme.example", right, Verdict::Inconclusive(Reason::Refused)),
        ("off@acme.example", right, Verdict::Inconclusive(Reason::AccountState)),
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
async fn a_refusal_without_a_second_look_at_the_account_proves_nothing() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let before = stage.account("ann@acme.example").await;
    stage.idp.fault(json!({"operation": "okta.users.get", "effect": "wrong_json", "times": 9}));
    let attempted = verify(&stage, &permits, &before, "wrong").await;
    assert_eq!(attempted.verdict, Verdict::Inconclusive(Reason::StateUnread));
    assert_eq!(stage.idp.submissions().len(), 1);
}

#[tokio::test]
async fn whatever_happens_to_the_answer_the_password_is_submitted_once() {
    let permits = Permits::start().await;
    for (effect, verdict) in [
        (json!("reset"), Verdict::Inconclusive(Reason::Unknown)),
        (
            json!({"redirect": {"location": "https://acme.okta.com/api/v1/authn"}}),
            Verdict::Inconclusive(Reason::UnreadableAnswer),
        ),
        (json!({"status": {"status": 503}}), Verdict::Inconclusive(Reason::Unknown)),
        (json!("wrong_json"), Verdict::Inconclusive(Reason::UnreadableAnswer)),
        (json!("html"), Verdict::Inconclusive(Reason::UnreadableAnswer)),
        (json!({"oversized": {"bytes": 1_000_000}}), Verdict::Inconclusive(Reason::UnreadableAnswer)),
    ] {
        let stage = Stage::people(json!({})).await;
        let before = stage.account("ann@acme.example").await;
        stage.idp.fault(json!({"operation": "okta.password", "effect": effect}));
        let payer =
            Account { object_id: format!("00u{}", stage.idp.simulator.addr.port()), ..before.clone() };
        let verifier = stage.okta.verifier().unwrap();
        let connection = verifier.connect().await.unwrap();
        let permit = permits.permit(ProviderKind::Okta, ORG, &payer).await;
        let secret = SecretBytes::new(b"right horse battery".to_vec());
        let attempted = verifier.verify(permit, connection, &before, &secret).await;
        assert_eq!(attempted.verdict, verdict, "{effect}");
        assert_eq!(stage.idp.submissions().len(), 1, "{effect}");
    }
}

#[tokio::test]
async fn a_throttled_sign_in_is_deferred_by_the_servers_own_wait() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let before = stage.account("ann@acme.example").await;
    stage.idp.fault(json!({"operation": "okta.password",
        "effect": {"throttle": {"hint": {"rate_limit_reset": 20}}}}));
    let attempted = verify(&stage, &permits, &before, "wrong").await;
    assert!(matches!(attempted.verdict, Verdict::Deferred(_, Reason::Throttled)), "{attempted:?}");
    let Signal::Throttled(wait) = attempted.signal else { panic!("{attempted:?}") };
    assert!((19..=22).contains(&wait.as_secs()), "{wait:?}");
}
