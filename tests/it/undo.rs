//! Taking mitigations back, at both simulated directories.

use mitigation_executor::approvals::Refused;
use serde_json::json;
use shared::{id::ProviderKind, provider::Action};
use time::OffsetDateTime;

use crate::mitigation_stage::{Stage, free, people, switched};

const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
const UNDOS: &str =
    "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified' AND undoes IS NOT NULL";
const UNDONE: &str =
    "SELECT count(*) FROM mitigation.mitigations WHERE state = 'undone' AND undone_at IS NOT NULL";
const REVERTED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'reverted'";
const WORK: &str = "SELECT count(*) FROM mitigation.work";
const ALL: &str = "SELECT mitigation_id FROM mitigation.mitigations WHERE undoes IS NULL";

fn status(stage: &Stage, login: &str) -> String {
    format!("{:?}", stage.directory.accounts.by_login(login).unwrap().status)
}

/// The reasons of refused undos, by action.
async fn refusals(stage: &Stage) -> Vec<(String, String)> {
    let told = stage.told().await.into_iter().filter(|(_, _, state, _)| state == "refused");
    told.map(|(_, action, _, why)| (action, why.unwrap_or_default())).collect()
}

async fn disabled_and_enabled(provider: ProviderKind, disabled: &str) {
    let mut stage =
        Stage::new(provider, people(1), switched(&[Action::DisableAccount], false, true), free()).await;
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 1).await;
    assert_eq!(status(&stage, "u000@acme.example"), disabled);
    // Switching an action off is no reason to leave what it did.
    stage
        .bus
        .execute(
            "UPDATE api.integrations SET settings = '{\"identity_creation\": true}', version = version + 1",
        )
        .await;
    let ids = stage.ids(ALL).await;
    stage.undo("bob", &ids, None, false).await;
    stage.until(UNDOS, 1).await;
    assert_eq!(stage.bus.count(UNDONE).await, 1);
    assert_eq!(status(&stage, "u000@acme.example"), "Active");
    // Once undone it is checked no more, and not undone again.
    stage.undo("bob", &ids, None, false).await;
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE reason = 'not_in_effect'", 1).await;
    stage.until(WORK, 0).await;
    assert_eq!(stage.bus.count(REVERTED).await, 0);
    assert_eq!(stage.done().len(), 2, "one call there, and one back");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_okta_account_that_was_suspended_is_active_again() {
    Box::pin(disabled_and_enabled(ProviderKind::Okta, "Suspended")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entra_account_that_was_disabled_is_enabled_again() {
    Box::pin(disabled_and_enabled(ProviderKind::EntraId, "Disabled")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_dismissed_only_if_that_is_confirmed_and_ended_sessions_stay_ended() {
    let mut stage =
        Stage::new(ProviderKind::EntraId, people(1), switched(&Action::ALL, false, true), free()).await;
    stage.ask("ann", &["u000@acme.example"], &Action::ALL, 1).await;
    stage.until(VERIFIED, 3).await;
    stage.until(WORK, 0).await;
    let ids = stage.ids(ALL).await;
    stage.undo("bob", &ids, None, false).await;
    stage.until(UNDONE, 1).await;
    let mut told = refusals(&stage).await;
    told.sort();
    let expected = [("mark_compromised", "unconfirmed"), ("revoke_sessions", "irreversible")];
    assert_eq!(told, expected.map(|(action, why)| (action.to_owned(), why.to_owned())));
    stage.undo("bob", &ids, None, true).await;
    stage.until(UNDONE, 2).await;
    stage.until(UNDOS, 2).await;
    let dismissed = stage.done().into_iter().filter(|action| action.contains("dismiss")).count();
    assert_eq!(dismissed, 1, "{:?}", stage.done());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_automated_since_a_time_is_taken_back_with_one_request_and_nothing_else_is() {
    let settings = switched(&[Action::RevokeSessions, Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(6), settings, free()).await;
    stage.prove("u000@acme.example", "valid", 1).await;
    stage.until(VERIFIED, 2).await;
    let since = OffsetDateTime::now_utc();
    let later = ["u001@acme.example", "u002@acme.example", "u003@acme.example"];
    for login in later {
        stage.prove(login, "valid", 1).await;
    }
    // A second leak of one of them finds it contained already.
    stage.prove(later[0], "valid", 1).await;
    stage.ask("ann", &["u004@acme.example"], &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 2 + 6 + 2 + 1).await;
    stage.undo("bob", &[], Some(since), false).await;
    stage.until(UNDOS, 3).await;
    stage.until(WORK, 0).await;
    for login in later {
        assert_eq!(status(&stage, login), "Active", "{login}");
    }
    for login in ["u000@acme.example", "u004@acme.example"] {
        assert_eq!(status(&stage, login), "Suspended", "{login}");
    }
    assert_eq!(
        stage.bus.count(UNDONE).await,
        4,
        "the second leak's too: it is the same state of the account"
    );
    assert_eq!(stage.bus.count(REVERTED).await, 0, "our own doing is nobody else's");
    assert_eq!(refusals(&stage).await, []);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_did_before_or_since_is_left_alone() {
    let mut stage = Stage::new(
        ProviderKind::EntraId,
        people(3),
        switched(&[Action::DisableAccount], false, true),
        free(),
    )
    .await;
    let now = stage.idp.simulator.world.now();
    let set = |login: &str, status: &str| {
        let id = stage.directory.accounts.by_login(login).unwrap().id;
        stage.directory.accounts.patch(&id, &json!({ "status": status }), now).unwrap().unwrap();
    };
    set("u000@acme.example", "disabled");
    let logins = ["u000@acme.example", "u001@acme.example", "u002@acme.example"];
    stage.ask("ann", &logins, &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 3).await;
    stage.until(WORK, 0).await;
    set("u001@acme.example", "active");
    set("u002@acme.example", "deleted");
    let before = stage.done().len();
    let ids = stage.ids(ALL).await;
    stage.undo("bob", &ids, None, false).await;
    stage.until(UNDOS, 1).await;
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE state = 'refused'", 2).await;
    let mut told: Vec<_> =
        stage.told().await.into_iter().filter(|m| m.2 == "refused").map(|m| (m.0, m.3)).collect();
    told.sort();
    let expected = [("u000@acme.example", "not_ours"), ("u002@acme.example", "account_gone")];
    assert_eq!(told, expected.map(|(login, why)| (login.to_owned(), Some(why.to_owned()))));
    assert_eq!(status(&stage, "u000@acme.example"), "Disabled");
    assert_eq!(
        stage.done().len(),
        before,
        "no call was made: one was enabled already, two are not ours to give back"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_s_account_is_given_back_by_two_people_as_it_was_taken() {
    let boss =
        json!({ "login": "boss@acme.example", "password": "right horse battery", "roles": ["ORG_ADMIN"] });
    let mut stage =
        Stage::new(ProviderKind::Okta, vec![boss], switched(&[Action::DisableAccount], false, true), free())
            .await;
    let held = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'held'";
    stage.ask("ann", &["boss@acme.example"], &[Action::DisableAccount], 1).await;
    stage.until(held, 1).await;
    stage.approve("bob").await;
    stage.until(VERIFIED, 1).await;
    let ids = stage.ids(ALL).await;
    stage.undo("bob", &ids, None, false).await;
    stage.until(held, 1).await;
    assert!(
        matches!(stage.approve("bob").await[..], [Err(Refused::SamePerson)]),
        "who asked does not approve"
    );
    stage.undo("carl", &ids, None, false).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 3).await;
    assert_eq!(stage.bus.count(held).await, 1, "there is one undo only");
    assert_eq!(stage.open().await.len(), 1, "and one approval: what is not added opens none");
    stage.approve("ann").await;
    stage.until(UNDOS, 1).await;
    assert_eq!(status(&stage, "boss@acme.example"), "Active");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_waits_for_a_directory_that_does_not_answer_and_a_lost_answer_is_looked_at() {
    let mut stage =
        Stage::new(ProviderKind::Okta, people(1), switched(&[Action::DisableAccount], false, true), free())
            .await;
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 1).await;
    stage.until(WORK, 0).await;
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "effect": "reset", "evaluate": true }));
    let ids = stage.ids(ALL).await;
    stage.undo("bob", &ids, None, false).await;
    stage.until(UNDOS, 1).await;
    assert_eq!(stage.bus.count(UNDONE).await, 1);
    assert_eq!(stage.done(), ["suspend", "unsuspend"], "once");
    let unknown = "SELECT count(*) FROM mitigation.ledger l JOIN mitigation.mitigations m USING (tenant_id, mitigation_id)
                   WHERE m.undoes IS NOT NULL AND l.outcome = 'unknown' AND l.settled_at - l.intent_at < interval '1 minute'";
    assert_eq!(stage.bus.count(unknown).await, 1);
    stage.stop().await;
}
