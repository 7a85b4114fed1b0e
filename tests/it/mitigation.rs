//! The executor against both simulated directories, on a real database and a real broker.

use mitigation_executor::approvals::Refused;
use serde_json::json;
use shared::{id::ProviderKind, provider::Action};

use crate::mitigation_stage::{Stage, braked, free, people, switched};

const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
const HELD: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'held'";
const REFUSED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'refused'";

#[tokio::test(flavor = "multi_thread")]
async fn every_action_on_an_okta_account_ends_contained_and_verified() {
    let actions = [Action::RevokeSessions, Action::DisableAccount];
    let mut stage = Stage::new(ProviderKind::Okta, people(1), switched(&actions, false, true), free()).await;
    stage.ask("ann", &["u000@acme.example"], &actions, 1).await;
    stage.until(VERIFIED, 2).await;
    let account = stage.directory.accounts.by_login("u000@acme.example").unwrap();
    assert_eq!(format!("{:?}", account.status), "Suspended");
    let mut done = stage.done();
    done.sort();
    assert_eq!(done, ["revoke_sessions", "suspend"]);
    // Intents were committed before the calls, outcomes after.
    let ledger = "SELECT count(*) FROM mitigation.ledger WHERE outcome = 'done' AND intent_at < settled_at";
    assert_eq!(stage.bus.count(ledger).await, 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_on_an_entra_account_ends_contained_and_verified() {
    let mut stage =
        Stage::new(ProviderKind::EntraId, people(1), switched(&Action::ALL, false, true), free()).await;
    stage.ask("ann", &["u000@acme.example"], &Action::ALL, 1).await;
    stage.until(VERIFIED, 3).await;
    let account = stage.directory.accounts.by_login("u000@acme.example").unwrap();
    assert_eq!(format!("{:?}", account.status), "Disabled");
    let mut done = stage.done();
    done.sort();
    assert_eq!(done, ["confirm_compromised", "disable", "revoke_sessions"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_switched_on_or_proven_is_refused_before_any_call() {
    let automated = switched(&[Action::RevokeSessions], true, false);
    let mut stage = Stage::new(ProviderKind::Okta, people(2), automated, free()).await;
    stage.ask("ann", &["u000@acme.example"], &[Action::RevokeSessions, Action::DisableAccount], 1).await;
    stage.until(REFUSED, 2).await;
    stage.prove("u001@acme.example", "invalid", 1).await;
    stage.prove("u001@acme.example", "valid_second_factor", 1).await;
    stage.until(VERIFIED, 1).await;
    let whys: Vec<_> = stage
        .told()
        .await
        .into_iter()
        .filter_map(|(_, _, state, why)| (state == "refused").then_some(why))
        .collect();
    assert_eq!(whys, [Some("switched_off".to_owned()), Some("switched_off".to_owned())]);
    assert_eq!(stage.done(), ["revoke_sessions"], "only the valid verdict led to a call");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_holds_what_is_beyond_its_limit_until_a_person_releases_it() {
    let settings = switched(&[Action::DisableAccount], true, false);
    let policy = braked(|b| b.accounts_per_hour = 3);
    let mut stage = Stage::new(ProviderKind::Okta, people(8), settings, policy).await;
    let logins: Vec<String> = (0..8).map(|n| format!("u{n:03}@acme.example")).collect();
    for login in &logins {
        stage.prove(login, "valid", 1).await;
    }
    stage.until(HELD, 5).await;
    stage.until(VERIFIED, 3).await;
    assert_eq!(stage.done().len(), 3);
    stage.approve("bob").await;
    stage.until(VERIFIED, 8).await;
    assert_eq!(stage.done().len(), 8);
    let released = "SELECT count(*) FROM mitigation.mitigations WHERE released_by = 'bob'";
    assert_eq!(stage.bus.count(released).await, 5);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_brake_nothing_is_held() {
    let settings = switched(&[Action::DisableAccount], true, false);
    let mut stage = Stage::new(ProviderKind::Okta, people(8), settings, free()).await;
    for n in 0..8 {
        stage.prove(&format!("u{n:03}@acme.example"), "valid", 1).await;
    }
    stage.until(VERIFIED, 8).await;
    assert_eq!(stage.bus.count(HELD).await, 0, "the negative control of the brake's test");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_held_and_whoever_asked_cannot_release() {
    let boss =
        json!({ "login": "boss@acme.example", "password": "right horse battery", "roles": ["ORG_ADMIN"] });
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, vec![boss], settings, free()).await;
    stage.ask("ann", &["boss@acme.example"], &[Action::DisableAccount], 1).await;
    stage.prove("boss@acme.example", "valid", 1).await;
    stage.until(HELD, 2).await;
    stage.approve("ann").await;
    // Ann releases the rule's, not her own.
    stage.until(VERIFIED, 1).await;
    assert_eq!(stage.bus.count(HELD).await, 1);
    stage.approve("bob").await;
    stage.until(VERIFIED, 2).await;
    assert_eq!(stage.done(), ["suspend"], "the second one found it done");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_automated_run_waits_for_a_person_and_the_next_does_not() {
    let settings = switched(&[Action::RevokeSessions], true, false);
    let mut policy = free();
    policy.approval.first_run = true;
    let mut stage = Stage::new(ProviderKind::Okta, people(4), settings, policy.clone()).await;
    stage.prove("u000@acme.example", "valid", 1).await;
    stage.until(HELD, 1).await;
    stage.approve("bob").await;
    stage.until(VERIFIED, 1).await;
    stage.prove("u001@acme.example", "valid", 1).await;
    stage.until(VERIFIED, 2).await;
    stage.bus.execute("UPDATE api.integrations SET version = version + 1").await;
    stage.prove("u002@acme.example", "valid", 1).await;
    stage.until(HELD, 1).await;
    stage.approve("bob").await;
    stage.until(VERIFIED, 3).await;
    stage.follow(&policy).await;
    stage.prove("u003@acme.example", "valid", 1).await;
    stage.until(HELD, 1).await;
    let decided = stage.approve("pat").await;
    assert!(
        matches!(decided[..], [Err(Refused::SamePerson)]),
        "who changed the policy does not let it run alone: {decided:?}"
    );
    stage.approve("bob").await;
    stage.until(VERIFIED, 4).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_repetitions_have_one_effect() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(2), settings, free()).await;
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], 1000).await;
    stage.prove("u001@acme.example", "valid", 1000).await;
    stage.until(VERIFIED, 2).await;
    stage.until("SELECT count(*) FROM mitigation.outbox WHERE topic = 'mitigation.requested'", 0).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 2000).await;
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await, 2);
    assert_eq!(stage.done(), ["suspend", "suspend"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_takes_back_at_the_directory_is_noticed() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(1), settings, free()).await;
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 1).await;
    let id = stage.directory.accounts.by_login("u000@acme.example").unwrap().id;
    let now = stage.idp.simulator.world.now();
    stage.directory.accounts.patch(&id, &json!({ "status": "active" }), now).unwrap().unwrap();
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE state = 'reverted' AND reverted_at IS NOT NULL", 1).await;
    assert_eq!(stage.done(), ["suspend"], "it is reported, not fought over");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_the_deed_ends_verified_without_a_second_call() {
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(1), settings, free()).await;
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "effect": "reset", "evaluate": true }));
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 1).await;
    assert_eq!(stage.done(), ["suspend"]);
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.ledger WHERE outcome = 'unknown'").await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_postpones_everything_and_spends_nothing() {
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(3), settings, free()).await;
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "times": 2, "effect": { "throttle": { "hint": { "rate_limit_reset": 1 } } } }));
    let logins = ["u000@acme.example", "u001@acme.example", "u002@acme.example"];
    stage.ask("ann", &logins, &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 3).await;
    assert_eq!(stage.done(), ["suspend", "suspend", "suspend"]);
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.work WHERE state = 'parked'").await, 0);
    stage.stop().await;
}
