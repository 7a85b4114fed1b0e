//! Okta's System Log as the feed of changes: what an incremental sync learns from it, and what it costs to do without.

use serde_json::{Value, json};
use shared::id::SyncRunId;

use crate::sync_stage::Stage;

const PILOT: &str = "00gpilot000000000001";
const STAFF: &str = "00gstaff000000000001";
const LOGS: &str = "okta.logs.read";

/// People, of whom the first few are in the pilot group; staff is another group.
fn company(people: usize, pilot: usize) -> Value {
    let id = |n: usize| format!("00uperson0000000{n:04}");
    // They are older than the overlap of incremental runs, which would show them all.
    let old = "2026-01-01T00:00:00Z";
    let accounts: Vec<_> = (0..people)
        .map(|n| json!({"id": id(n), "login": format!("p{n}@acme.example"), "created": old, "updated": old}))
        .collect();
    json!({"accounts": accounts, "groups": [
        {"id": PILOT, "name": "Pilot", "members": (0..pilot).map(id).collect::<Vec<_>>()},
        {"id": STAFF, "name": "Staff"},
    ]})
}

async fn stage(people: usize, pilot: usize, granted: bool) -> Stage {
    let stage = Stage::new(company(people, pilot), 10_000).await;
    if granted {
        stage.grant(LOGS);
    }
    stage
}

/// Accounts that are there and not missing.
const FOUND: &str = "SELECT count(*) FROM sync.accounts WHERE removed_at IS NULL AND missing_since IS NULL";
const MISSING: &str =
    "SELECT count(*) FROM sync.accounts WHERE missing_since IS NOT NULL AND removed_at IS NULL";
const LOCKED: &str = "SELECT count(*) FROM sync.accounts WHERE state = 'locked'";
const LEARNT: [&str; 3] = ["deleted", "locked", "renamed"];

/// Three things that move no `lastUpdated`.
fn change_quietly(stage: &Stage) {
    stage.patch_quietly("p1@acme.example", &json!({"status": "deleted"}));
    stage.patch_quietly("p2@acme.example", &json!({"lock": {"locked": true}}));
    stage.patch_quietly("p3@acme.example", &json!({"display_name": "Renamed"}));
}

async fn learnt(stage: &Stage) -> [i64; 3] {
    let renamed = "SELECT count(*) FROM sync.accounts WHERE display_name = 'Renamed'";
    [stage.bus.count(MISSING).await, stage.bus.count(LOCKED).await, stage.bus.count(renamed).await]
}

#[tokio::test]
async fn what_moves_no_date_is_learnt_from_the_log_and_a_deletion_is_believed_like_any_other() {
    let stage = stage(12, 0, true).await;
    stage.sync(true).await;
    change_quietly(&stage);
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.full, run.missing), ("finished", false, 1), "{run:?}");
    assert_eq!(learnt(&stage).await, [1; 3], "{LEARNT:?}");

    // The next run goes on behind these events: nobody is read again for nothing.
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.seen), ("finished", 0), "{run:?}");
    // Removed once two full runs have not found it either.
    assert_eq!(stage.sync(true).await.removed, 0);
    assert_eq!(stage.sync(true).await.removed, 1);
}

#[tokio::test]
async fn without_the_scope_only_a_full_run_learns_it_and_a_grant_is_made_use_of_at_once() {
    let stage = stage(12, 0, false).await;
    stage.sync(true).await;
    change_quietly(&stage);
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.seen, learnt(&stage).await), ("finished", 0, [0; 3]), "{run:?}");
    stage.grant(LOGS);
    // The token names what is granted; it is renewed within the hour.
    stage.idp.simulator.world.advance(time::Duration::hours(1));
    let run = stage.sync(false).await;
    // The log begins with the overlap before the last run.
    assert_eq!((run.state.as_str(), run.full, learnt(&stage).await), ("finished", false, [1; 3]), "{run:?}");
}

#[tokio::test]
async fn whoever_joins_or_leaves_a_covered_group_comes_and_goes_within_an_incremental_run() {
    let stage = stage(12, 5, true).await;
    stage.cover(&[PILOT]).await;
    assert_eq!(stage.sync(true).await.created, 5);
    stage.move_member("p7@acme.example", PILOT, true);
    stage.move_member("p0@acme.example", PILOT, false);
    // Other groups bring in nobody, nor does a stranger's change; who came and went again is where the directory says.
    stage.move_member("p8@acme.example", STAFF, true);
    stage.patch_quietly("p9@acme.example", &json!({"display_name": "Stranger"}));
    stage.move_member("p10@acme.example", PILOT, true);
    stage.move_member("p10@acme.example", PILOT, false);
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.full), ("finished", false), "{run:?}");
    assert_eq!((run.created, run.missing), (1, 1), "{run:?}");
    assert_eq!((stage.bus.count(FOUND).await, stage.bus.count(MISSING).await), (5, 1));

    // Back again: found, with everything it had.
    stage.move_member("p0@acme.example", PILOT, true);
    let run = stage.sync(false).await;
    assert_eq!((run.created, stage.bus.count(FOUND).await, stage.bus.count(MISSING).await), (0, 6, 0));
    let state = "SELECT count(*) FROM sync.accounts WHERE state <> 'active'";
    assert_eq!(stage.bus.count(state).await, 0);
    // A full run agrees.
    let run = stage.sync(true).await;
    assert_eq!((run.created, run.changed, run.missing), (0, 0, 0), "{run:?}");
}

#[tokio::test]
async fn a_long_log_is_read_in_units_that_another_worker_goes_on_with() {
    let mut stage = stage(700, 0, true).await;
    stage.sync(true).await;
    for n in 0..700 {
        stage.patch_quietly(&format!("p{n}@acme.example"), &json!({"display_name": format!("New {n}")}));
    }
    // The sixth call for users is refused: some units are committed, the rest is another worker's.
    stage.idp.fault(
        json!({"operation": "okta.users.list", "skip": 5, "times": 1, "effect": {"status": {"status": 503}}}),
    );
    let run = SyncRunId::new();
    stage.request(run, false, 1).await;
    e2e::until("the fault was met", || async { stage.run(run).await.is_some_and(|r| !r.message.is_empty()) })
        .await;
    let before = stage.run(run).await.unwrap();
    assert!(before.changed > 0 && before.changed < 700, "{before:?}");
    stage.stop().await;
    stage.start();
    let after = stage.ended(run).await;
    assert_eq!((after.state.as_str(), after.full, after.changed), ("finished", false, 700), "{after:?}");
    let renamed = "SELECT count(*) FROM sync.accounts WHERE display_name LIKE 'New %'";
    assert_eq!(stage.bus.count(renamed).await, 700);
}

#[tokio::test]
async fn a_place_in_the_log_that_the_org_has_forgotten_costs_a_full_run_and_a_forbidden_log_nothing() {
    let stage = stage(12, 0, true).await;
    stage.sync(true).await;
    stage.idp.fault(json!({"operation": "okta.logs", "times": 1, "effect": {"answer": {"status": 400,
        "json": {"errorCode": "E0000053", "errorSummary": "Invalid filter"}}}}));
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.full), ("finished", true), "{run:?}");

    stage.idp.fault(json!({"operation": "okta.logs", "times": 1, "effect": {"answer": {"status": 403,
        "json": {"errorCode": "E0000006", "errorSummary": "You do not have permission"}}}}));
    change_quietly(&stage);
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.full, learnt(&stage).await), ("finished", false, [0; 3]), "{run:?}");
    // Allowed again, it is read on from where it was.
    stage.sync(false).await;
    assert_eq!(learnt(&stage).await, [1; 3]);
}

#[tokio::test]
async fn a_place_that_an_older_version_stored_goes_on() {
    let stage = stage(12, 0, true).await;
    stage.sync(true).await;
    let now = stage.idp.simulator.world.now().unix_timestamp();
    let old = format!(r#"{{"at":"since","since":{now}}}"#);
    sqlx::query("UPDATE sync.directories SET changes_cursor = $1")
        .bind(old)
        .execute(&mut stage.bus.superuser().await)
        .await
        .unwrap();
    change_quietly(&stage);
    let run = stage.sync(false).await;
    assert_eq!((run.full, learnt(&stage).await), (false, [1; 3]), "{run:?}");
}
