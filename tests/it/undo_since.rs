//! An undo takes back what we did, and never what somebody else decided since.

use serde_json::json;
use shared::{id::ProviderKind, provider::Action};

use crate::mitigation_stage::{Stage, free, people, switched};

const VERIFIED: &str =
    "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified' AND undoes IS NULL";
const UNDONE: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'undone'";
const REFUSED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE reason = 'changed_since'";
const WORK: &str = "SELECT count(*) FROM mitigation.work";
const ALL: &str = "SELECT mitigation_id FROM mitigation.mitigations WHERE undoes IS NULL";
const ANN: &str = "u000@acme.example";
const HELPDESK: &str = "helpdesk@acme.example";

fn disabled(provider: ProviderKind) -> &'static str {
    match provider {
        ProviderKind::EntraId => "disabled",
        ProviderKind::Okta => "suspended",
    }
}

/// Accounts on which an action was carried out and is checked no more.
async fn contained(provider: ProviderKind, accounts: usize, action: Action, without: Option<&str>) -> Stage {
    let settings = switched(&[action], false, true);
    let mut stage = Stage::prepare(provider, people(accounts), settings, free()).await;
    if let Some(permission) = without {
        stage.without(permission);
    }
    stage.start();
    contain(&stage, accounts, action).await;
    stage
}

async fn contain(stage: &Stage, accounts: usize, action: Action) {
    let logins: Vec<_> = (0..accounts).map(|n| format!("u{n:03}@acme.example")).collect();
    let logins: Vec<_> = logins.iter().map(String::as_str).collect();
    stage.ask("ann", &logins, &[action], 1).await;
    stage.until(VERIFIED, i64::try_from(accounts).unwrap()).await;
    stage.until(WORK, 0).await;
}

/// Somebody enables an account and disables it again.
fn enabled_and_disabled(stage: &Stage, provider: ProviderKind, login: &str) {
    stage.somebody(login, &json!({ "status": "active" }));
    stage.somebody(login, &json!({ "status": disabled(provider) }));
}

async fn undo(stage: &Stage) {
    let ids = stage.ids(ALL).await;
    stage.undo("bob", &ids, None, true).await;
}

async fn what_somebody_disabled_again_stays_disabled(provider: ProviderKind) {
    let mut stage = Box::pin(contained(provider, 2, Action::DisableAccount, None)).await;
    let calls = stage.done().len();
    enabled_and_disabled(&stage, provider, ANN);
    undo(&stage).await;
    stage.until(REFUSED, 1).await;
    stage.until(UNDONE, 1).await;
    assert_eq!(stage.details("changed_by", "refused").await, [Some(HELPDESK.to_owned())], "who did it");
    assert!(stage.details("changed_at", "refused").await[0].is_some(), "and when");
    let status = stage.directory.accounts.by_login(ANN).unwrap().status;
    assert_eq!(json!(status), json!(disabled(provider)));
    assert_eq!(stage.done().len(), calls + 1, "the other account, which nobody touched, is given back");
    let events = stage.audited("mitigation.refused").await;
    assert_eq!(events.len(), 1);
    assert_eq!(
        events[0].details.get("changed_by").map(String::as_str),
        Some(HELPDESK),
        "the audit log says who"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entra_account_that_somebody_enabled_and_disabled_again_is_left_alone() {
    Box::pin(what_somebody_disabled_again_stays_disabled(ProviderKind::EntraId)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_okta_account_that_somebody_unsuspended_and_suspended_again_is_left_alone() {
    Box::pin(what_somebody_disabled_again_stays_disabled(ProviderKind::Okta)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_okta_account_shows_that_somebody_changed_it_where_the_log_may_not_be_read() {
    let provider = ProviderKind::Okta;
    let mut stage = Box::pin(contained(provider, 2, Action::DisableAccount, Some("okta.logs.read"))).await;
    enabled_and_disabled(&stage, provider, ANN);
    undo(&stage).await;
    stage.until(REFUSED, 1).await;
    stage.until(UNDONE, 1).await;
    assert_eq!(stage.details("changed_by", "refused").await, [None], "nobody can say who");
    assert!(
        stage.details("changes_unseen", "verified").await.iter().all(Option::is_none),
        "nothing was unseen"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_risk_that_somebody_else_confirmed_again_is_not_dismissed() {
    let mut stage = Box::pin(contained(ProviderKind::EntraId, 2, Action::MarkCompromised, None)).await;
    // One list of risks answers for five seconds (entra.md §7.4).
    let outdated =
        "SELECT count(*) FROM mitigation.mitigations WHERE clock_timestamp() - verified_at > interval '9 s'";
    stage.until(outdated, 2).await;
    let calls = stage.done().len();
    let later = stage.idp.simulator.world.now() + time::Duration::seconds(5);
    let later = later.format(&time::format_description::well_known::Rfc3339).unwrap();
    stage.somebody(ANN, &json!({ "risk": { "updated": later } }));
    undo(&stage).await;
    stage.until(REFUSED, 1).await;
    stage.until(UNDONE, 1).await;
    assert_eq!(stage.done().len(), calls + 1);
    assert_eq!(stage.directory.accounts.by_login(ANN).unwrap().risk.state, "confirmedCompromised");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_okta_risk_that_somebody_else_raised_again_is_not_lowered() {
    let mut stage = Box::pin(contained(ProviderKind::Okta, 2, Action::MarkCompromised, None)).await;
    let calls = stage.done().len();
    for level in ["low", "high"] {
        stage.somebody(ANN, &json!({ "risk": { "level": level } }));
    }
    undo(&stage).await;
    stage.until(REFUSED, 1).await;
    stage.until(UNDONE, 1).await;
    assert_eq!(stage.details("changed_by", "refused").await, [Some(HELPDESK.to_owned())]);
    assert_eq!(stage.done().len(), calls + 1);
    stage.stop().await;
}

async fn what_we_did_ourselves_is_nobody_elses(provider: ProviderKind, action: Action) {
    let mut stage = Box::pin(contained(provider, 1, action, None)).await;
    undo(&stage).await;
    stage.until(UNDONE, 1).await;
    contain(&stage, 1, action).await;
    let again =
        "SELECT mitigation_id FROM mitigation.mitigations WHERE undoes IS NULL AND state = 'verified'";
    let ids = stage.ids(again).await;
    stage.undo("bob", &ids, None, true).await;
    stage.until(UNDONE, 2).await;
    assert_eq!(stage.bus.count(REFUSED).await, 0);
    assert_eq!(stage.details("changes_unseen", "verified").await, [None, None]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_mitigation_of_ours_is_undone_like_the_first_at_entra() {
    Box::pin(what_we_did_ourselves_is_nobody_elses(ProviderKind::EntraId, Action::DisableAccount)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_mitigation_of_ours_is_undone_like_the_first_at_okta() {
    Box::pin(what_we_did_ourselves_is_nobody_elses(ProviderKind::Okta, Action::DisableAccount)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_mark_of_ours_is_undone_like_the_first_at_okta() {
    Box::pin(what_we_did_ourselves_is_nobody_elses(ProviderKind::Okta, Action::MarkCompromised)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_log_may_not_be_read_an_undo_goes_by_the_state_and_says_so() {
    let provider = ProviderKind::EntraId;
    let mut stage = Box::pin(contained(provider, 1, Action::DisableAccount, Some("AuditLog.Read.All"))).await;
    enabled_and_disabled(&stage, provider, ANN);
    undo(&stage).await;
    stage.until(UNDONE, 1).await;
    let told = stage.details("changes_unseen", "verified").await;
    assert!(told[0].as_ref().is_some_and(|told| told.contains("AuditLog.Read.All")), "{told:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_answer_is_waited_for_and_then_decides() {
    let provider = ProviderKind::EntraId;
    let mut stage = Box::pin(contained(provider, 1, Action::DisableAccount, None)).await;
    enabled_and_disabled(&stage, provider, ANN);
    let calls = stage.done().len();
    stage.idp.fault(json!({ "operation": "graph.audits", "effect": { "throttle": {} } }));
    undo(&stage).await;
    let waits =
        "SELECT count(*) FROM mitigation.mitigations WHERE state = 'planned' AND reason = 'throttled'";
    stage.until(waits, 1).await;
    assert_eq!(stage.done().len(), calls, "nothing is taken back on a guess");
    stage.until(REFUSED, 1).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_undos_share_one_reading_of_the_log() {
    let mut stage = Box::pin(contained(ProviderKind::EntraId, 40, Action::DisableAccount, None)).await;
    let many = 1000;
    stage
        .idp
        .fault(json!({ "operation": "graph.audits", "effect": { "delay": { "ms": 1 } }, "times": many }));
    undo(&stage).await;
    stage.until(UNDONE, 40).await;
    let left: u64 = stage.idp.simulator.world.faults.unfired().iter().map(|fault| fault.times).sum();
    assert!((1..=3).contains(&(many - left)), "{} calls for 40 accounts", many - left);
    stage.stop().await;
}
