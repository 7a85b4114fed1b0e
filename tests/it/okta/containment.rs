//! Suspension and sessions, and what Okta refuses.

use serde_json::json;
use shared::provider::{Acted, Action, Provider};

use super::{Stage, people};

fn done(acted: &Acted) -> bool {
    matches!(acted, Acted::Done { request_id: Some(_) })
}

fn refusal(acted: &Acted) -> &'static str {
    match acted {
        Acted::Refused { reason, .. } => reason,
        Acted::Done { .. } => "done",
    }
}

#[tokio::test]
async fn sessions_are_ended_with_their_oauth_tokens() {
    let stage = Stage::people(json!({})).await;
    let id = stage.id("ann@acme.example");
    assert!(done(&stage.okta.act(Action::RevokeSessions, &id).await.unwrap()));
    let changes = stage.idp.changes();
    assert_eq!(
        (changes[0].action.as_str(), &changes[0].detail["oauth_tokens"]),
        ("revoke_sessions", &json!(true))
    );
    assert_eq!(changes[0].account, id);
}

#[tokio::test]
async fn what_okta_refuses_is_told_with_its_reason() {
    let stage = Stage::with(
        json!({}),
        json!({"roles": ["ORG_ADMIN", "okta.iam.read"]}),
        json!({"accounts": people()}),
    )
    .await;
    let suspend =
        async |login: &str| refusal(&stage.okta.act(Action::DisableAccount, &stage.id(login)).await.unwrap());
    assert_eq!(suspend("boss@acme.example").await, "admin_target");
    assert_eq!(suspend("gone@acme.example").await, "wrong_state");
    stage.patch("mfa@acme.example", json!({"lock": {"locked": true}}));
    assert_eq!(suspend("mfa@acme.example").await, "wrong_state");
    assert!(stage.idp.changes().is_empty());
}

#[tokio::test]
async fn an_org_without_threat_protection_refuses_to_set_a_risk() {
    let stage = Stage::people(json!({"threat_protection": false})).await;
    let id = stage.id("ann@acme.example");
    let acted = stage.okta.act(Action::MarkCompromised, &id).await.unwrap();
    assert_eq!(refusal(&acted), "licence_missing");
    let shown = stage.okta.containment(&id, Action::MarkCompromised).await.unwrap().unwrap();
    assert_eq!(shown.compromised, None, "silence is no proof");
}

#[tokio::test]
async fn a_risk_that_is_taken_back_becomes_low_with_a_reason() {
    let stage = Stage::people(json!({})).await;
    let id = stage.id("ann@acme.example");
    let risk = || stage.directory.accounts.get(&id).unwrap().risk;
    assert!(done(&stage.okta.act(Action::MarkCompromised, &id).await.unwrap()));
    assert_eq!((risk().level.as_str(), risk().detail.as_str()), ("high", "Leaked credential confirmed"));
    assert!(done(&stage.okta.undo(Action::MarkCompromised, &id).await.unwrap()));
    assert_eq!((risk().level.as_str(), risk().detail.as_str()), ("low", "Leaked credential withdrawn"));
}
