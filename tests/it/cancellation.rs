//! Requests that a person cancels: what was not begun is never begun, what was begun finishes.

use mitigation_executor::approvals::Refused;
use serde_json::json;
use shared::{id::ProviderKind, provider::Action};

use crate::mitigation_stage::{Stage, free, people, switched};

const ALL: &str = "SELECT mitigation_id FROM mitigation.mitigations";
const DROPPED: &str = "SELECT count(*) FROM mitigation.mitigations
    WHERE state = 'refused' AND reason = 'cancelled' AND finished_at IS NOT NULL AND details ? 'refused'";
const HELD: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'held'";
const BEGUN: &str = "SELECT count(*) FROM mitigation.mitigations WHERE attempt > 0";
const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
const WORK: &str = "SELECT count(*) FROM mitigation.work";
const USER: &str = "u000@acme.example";

/// Accounts at an Okta org whose accounts an analyst may disable and sign out, and no executor yet.
async fn stage(count: usize, policy: shared::policy::MitigationPolicy) -> Stage {
    let settings = switched(&[Action::DisableAccount, Action::RevokeSessions], false, true);
    Stage::prepare(ProviderKind::Okta, people(count), settings, policy).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_a_cancelled_request_is_dropped_and_its_approval_closed() {
    let mut policy = free();
    policy.approval.more_than_accounts = 2;
    let mut stage = stage(3, policy).await;
    stage.start();
    stage.ask_bulk("ann", &[Action::DisableAccount], 1).await;
    stage.until(HELD, 3).await;
    let (approval, _) = stage.open().await[0].clone();
    for who in ["bob", "eve"] {
        assert_eq!(stage.cancel(who).await, Some(3), "repeated, it answers as the first time");
    }
    assert_eq!(stage.bus.count(DROPPED).await, 3);
    assert!(stage.open().await.is_empty());
    let late = stage.decide("eve", approval, true, &[]).await;
    assert!(matches!(late, Err(Refused::Rejected)), "{late:?}");
    let told = stage.audited("mitigation.request_cancelled").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].actor.as_ref().unwrap().id.as_str(), told[0].details["dropped"].as_str()),
        ("bob", "3")
    );
    assert_eq!(stage.done(), [""; 0]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planned_after_its_request_was_cancelled_is_refused_at_once() {
    let mut stage = stage(3, free()).await;
    stage.ask_bulk("ann", &[Action::DisableAccount], 2).await;
    assert_eq!(stage.cancel("bob").await, Some(0));
    stage.start();
    stage.until(DROPPED, 3).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 2).await;
    assert_eq!(stage.bus.count(DROPPED).await, 3);
    // So it is with an undo.
    stage
        .bus
        .execute("UPDATE mitigation.mitigations SET state = 'verified', reason = NULL, attempt = 1")
        .await;
    let ids = stage.ids(ALL).await;
    stage.stop().await;
    stage.undo("ann", &ids, None, false).await;
    assert_eq!(stage.cancel("ann").await, Some(0));
    stage.start();
    stage.until(DROPPED, 3).await;
    assert_eq!(stage.done(), [""; 0]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_about_to_begin_when_its_request_was_cancelled_is_not_begun() {
    let mut stage = stage(1, free()).await;
    stage.idp.fault(json!({ "operation": "okta.users.get", "effect": { "delay": { "ms": 2000 } } }));
    stage.start();
    stage.ask("ann", &[USER], &[Action::DisableAccount], 1).await;
    // Its turn has come: the account is being read, and nothing that is decided next knows of the person.
    let asked = || async { stage.idp.simulator.world.faults.unfired().is_empty() };
    e2e::until("the account is being read", asked).await;
    assert_eq!(stage.cancel("bob").await, Some(1));
    stage.due_again(ALL).await;
    stage.until(WORK, 0).await;
    stage.stop().await;
    assert_eq!((stage.bus.count(BEGUN).await, stage.bus.count(DROPPED).await), (0, 1));
    assert_eq!(stage.done(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_when_its_request_was_cancelled_finishes_and_nothing_follows_it() {
    let mut stage = stage(1, free()).await;
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "effect": { "delay": { "ms": 2000 } } }));
    stage.start();
    stage.ask("ann", &[USER], &[Action::DisableAccount, Action::RevokeSessions], 1).await;
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE state = 'acting'", 1).await;
    assert_eq!(stage.cancel("bob").await, Some(1), "the sessions, whose turn comes next");
    stage.until(VERIFIED, 1).await;
    stage.until("SELECT count(*) FROM mitigation.work w JOIN mitigation.mitigations m ON m.mitigation_id = w.subject WHERE m.reason = 'cancelled'", 0).await;
    assert_eq!((stage.bus.count(BEGUN).await, stage.bus.count(DROPPED).await), (1, 1));
    assert_eq!(stage.done(), ["suspend"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_and_surely_did_nothing_is_not_begun_anew() {
    let mut stage = stage(1, free()).await;
    let throttle = json!({ "throttle": { "hint": { "rate_limit_reset": 5 } } });
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "effect": throttle }));
    stage.start();
    stage.ask("ann", &[USER], &[Action::DisableAccount], 1).await;
    stage
        .until("SELECT count(*) FROM mitigation.mitigations WHERE reason = 'throttled' AND attempt = 1", 1)
        .await;
    // The same, but for the moment: it is cancelled while the call is under way, which is throttled then.
    let acting = "UPDATE mitigation.mitigations SET state = 'acting', acting_message = gen_random_uuid(),
                      acting_until = now() + interval '1 hour'";
    stage.bus.execute(acting).await;
    assert_eq!(stage.cancel("bob").await, Some(0));
    let throttled =
        "UPDATE mitigation.mitigations SET state = 'planned', acting_message = NULL, acting_until = NULL";
    stage.bus.execute(throttled).await;
    stage.until(DROPPED, 1).await;
    assert_eq!(stage.done(), [""; 0]);
    stage.stop().await;
}
