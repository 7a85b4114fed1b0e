//! `kill -9` of the executor on either side of a provider call, judged by the simulator's own log: no effect without a
//! record (I4), every account contained once, and what nobody knows visible as unknown.

use std::{collections::HashSet, os::unix::process::ExitStatusExt as _, path::PathBuf, time::Duration};

use e2e::kills;
use shared::{id::ProviderKind, provider::Action};

use crate::mitigation_stage::{Stage, free, people, switched};

const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
const UNKNOWN: &str = "SELECT count(*) FROM mitigation.ledger WHERE outcome = 'unknown'";

fn program() -> PathBuf {
    e2e::program("executor-under-test")
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap()
}

/// More accounts to contain than kills, and nobody at work yet.
async fn stage() -> Stage {
    let settings = switched(&[Action::DisableAccount], false, true);
    let stage = Box::pin(Stage::prepare(ProviderKind::Okta, people(kills() + 4), settings, free())).await;
    let logins: Vec<String> = (0..kills() + 4).map(|n| format!("u{n:03}@acme.example")).collect();
    let logins: Vec<&str> = logins.iter().map(String::as_str).collect();
    stage.ask("ann", &logins, &[Action::DisableAccount], 1).await;
    stage
}

/// Starts the executor until it has died this many times at the place. The broker gives each the message its predecessor
/// died with.
async fn die(stage: &Stage, place: &str, kills: usize) {
    for kill in 0..kills {
        let mut executor = stage.process(&program(), Some(place));
        let ended = tokio::time::timeout(Duration::from_mins(2), executor.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("{place}: kill {kill} did not happen")).unwrap();
        assert_eq!(status.signal(), Some(9), "{place}: {status}");
    }
}

/// Lets a healthy executor finish what the killed ones left. A message that met too many kills is parked, its work is
/// given out again when the lease ends: now, not in ten minutes.
async fn recover(stage: &Stage) {
    stage
        .bus
        .execute(
            "UPDATE mitigation.work SET lease_until = clock_timestamp() WHERE state = 'in_flight';
             UPDATE mitigation.mitigations SET acting_until = clock_timestamp() WHERE state = 'acting'",
        )
        .await;
    let _executor = stage.process(&program(), None);
    stage.until(VERIFIED, number(kills() + 4)).await;
}

/// What must not have happened, by the simulator's log and the ledger.
async fn judge(stage: &Stage) -> Vec<String> {
    let recorded: HashSet<String> = sqlx::query_scalar(
        "SELECT m.object_id FROM mitigation.mitigations m JOIN mitigation.ledger l USING (tenant_id, mitigation_id)",
    )
    .fetch_all(&mut stage.bus.superuser().await)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let (mut found, mut contained) = (Vec::new(), HashSet::new());
    for change in stage.idp.changes() {
        if !recorded.contains(&change.account) {
            found.push(format!("{}: {} without an intent", change.account, change.action));
        }
        if !contained.insert(change.account.clone()) {
            found.push(format!("{}: contained twice", change.account));
        }
    }
    found
}

async fn killed_at(place: &str, deeds: usize) {
    let stage = stage().await;
    die(&stage, place, kills()).await;
    assert_eq!(stage.done().len(), deeds, "what was done before anybody recovered");
    assert_eq!(judge(&stage).await, Vec::<String>::new());
    // Useful work goes on: all are contained, those no kill met as well.
    recover(&stage).await;
    assert_eq!(judge(&stage).await, Vec::<String>::new());
    assert_eq!(stage.done(), vec!["suspend"; kills() + 4]);
    assert_eq!(stage.bus.count(UNKNOWN).await, number(kills()), "each kill left one outcome unknown");
    let open = "SELECT count(*) FROM mitigation.ledger WHERE outcome IS NULL";
    assert_eq!(stage.bus.count(open).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_intent_and_the_call() {
    killed_at("intended", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_call_and_its_outcome() {
    killed_at("answered", kills()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_outcome_is_stored() {
    killed_at("settling", kills()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_planning_nothing_is_lost_and_nothing_is_planned_twice() {
    let settings = switched(&[Action::DisableAccount], false, true);
    let count = kills() + 4;
    let stage = Box::pin(Stage::prepare(ProviderKind::Okta, people(count), settings, free())).await;
    for n in 0..count {
        stage.ask("ann", &[&format!("u{n:03}@acme.example")], &[Action::DisableAccount], 1).await;
    }
    die(&stage, "planning", kills()).await;
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await, 0, "none was committed");
    let _executor = stage.process(&program(), None);
    // A request that met too many kills is parked, and an operator has it tried again.
    let known = "SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status <> 'working'";
    stage.until(known, number(count)).await;
    stage.retry_parked().await;
    stage.until(VERIFIED, number(count)).await;
    assert_eq!(stage.done(), vec!["suspend"; count]);
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await, number(count));
}

/// Negative control: with the intent's record swallowed, the same judge finds effects that nobody announced.
#[tokio::test(flavor = "multi_thread")]
async fn an_effect_without_an_intent_is_caught_when_the_ledger_is_taken_away() {
    let stage = stage().await;
    stage
        .bus
        .execute(
            "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER swallow BEFORE INSERT ON mitigation.ledger FOR EACH ROW EXECUTE FUNCTION public.swallow()",
        )
        .await;
    die(&stage, "answered", 3).await;
    let found = judge(&stage).await;
    assert!(found.iter().any(|fault| fault.ends_with("without an intent")), "{found:?}");
}
