//! Exposures whose turn comes again: a person asks, or the directory changed. With the real validator and the real sync
//! worker.

use std::path::PathBuf;

use e2e::validation::{Leak, World, password};
use serde_json::json;

fn program() -> PathBuf {
    e2e::program("validator-under-test")
}

fn leak(account: usize) -> Leak {
    Leak { account, password: password(account) }
}

const EXPOSURES: &str = "SELECT count(*) FROM validator.exposures";
const WITHOUT_ATTEMPT: &str = "SELECT count(*) FROM validator.exposures
    WHERE verdict = 'not_testable' AND decided_without_attempt AND state IN ('decided', 'idle')";
const VALID: &str = "SELECT count(*) FROM validator.exposures WHERE verdict = 'valid' AND state = 'decided'";
/// Passwords still sealed anywhere.
const SEALED: &str = "SELECT (SELECT count(*) FROM validator.exposures WHERE secret_sealed IS NOT NULL)
    + (SELECT count(*) FROM api.feed_records WHERE secret_sealed IS NOT NULL)";
/// Requests of people that are dealt with.
const ASKED: &str =
    "SELECT count(*) FROM validator.inbox WHERE consumer = 'validation.requested' AND status = 'done'";

fn verdict(verdict: &str, reason: &str) -> [(String, Option<String>); 1] {
    [(verdict.to_owned(), (!reason.is_empty()).then(|| reason.to_owned()))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_matched_nobody_is_history_once_its_account_appears_and_is_validated_when_a_person_asks()
 {
    let world = World::with_unsynced(1, 1).await;
    let _validator = world.validator(&program(), None);
    world.leak(&[leak(1)]).await;
    world
        .until(
            "SELECT count(*) FROM validator.inbox WHERE consumer = 'feed.batch_received' AND status = 'done'",
            1,
        )
        .await;
    assert_eq!(world.count(EXPOSURES).await, 0);
    world.synced().await;
    world.until(EXPOSURES, 1).await;
    assert_eq!(world.verdicts(1).await, verdict("not_testable", "history"));
    assert_eq!(world.count(WITHOUT_ATTEMPT).await, 1);
    assert_eq!(world.count(SEALED).await, 2);
    // Asked five times over, tried once.
    world.ask(&[world.exposure(1).await], false, 5).await;
    world.until(VALID, 1).await;
    world.until(ASKED, 5).await;
    assert_eq!(world.verdicts(1).await, verdict("valid", ""));
    assert_eq!(world.submissions().len(), 1);
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt").await, 1);
    assert_eq!(world.count(SEALED).await, 0, "a proven password is destroyed");
    assert_eq!(world.count(EXPOSURES).await, 1, "nothing matched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_account_reopens_what_its_state_had_decided() {
    let world = World::new(2).await;
    for account in 0..2 {
        world.patch(account, &json!({"status": "disabled"}));
    }
    let _validator = world.validator(&program(), None);
    world.synced().await;
    world.leak(&[leak(0), leak(1)]).await;
    world.until(WITHOUT_ATTEMPT, 2).await;
    assert_eq!(world.verdicts(0).await, verdict("not_testable", "account_disabled"));
    world.patch(0, &json!({"status": "active"}));
    world.synced().await;
    world.until(VALID, 1).await;
    assert_eq!(world.verdicts(0).await, verdict("valid", ""));
    assert_eq!(world.submissions().len(), 1);
    // The other account did not change, and neither did its verdict.
    assert_eq!(world.verdicts(1).await, verdict("not_testable", "account_disabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_without_an_attempt_is_decided_again_when_a_person_insists_and_never_after_a_proof()
{
    let world = World::new(1).await;
    world.patch(0, &json!({"status": "disabled"}));
    let _validator = world.validator(&program(), None);
    world.leak(&[leak(0)]).await;
    world.until(WITHOUT_ATTEMPT, 1).await;
    // No sync tells of it: only a person knows.
    world.patch(0, &json!({"status": "active"}));
    let exposure = world.exposure(0).await;
    world.ask(&[exposure], false, 2).await;
    world.until(ASKED, 2).await;
    assert_eq!(world.verdicts(0).await, verdict("not_testable", "account_disabled"), "asked, not insisted");
    world.ask(&[exposure], true, 3).await;
    world.until(VALID, 1).await;
    world.until(ASKED, 5).await;
    world.ask(&[exposure], true, 1).await;
    world.until(ASKED, 6).await;
    assert_eq!(world.verdicts(0).await, verdict("valid", ""));
    assert_eq!(world.submissions().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_proven_is_destroyed_when_its_retention_ends_and_says_so() {
    let world = World::new(2).await;
    for account in 0..2 {
        world.patch(account, &json!({"status": "disabled"}));
    }
    let mut validator = world.validator(&program(), None);
    world.leak(&[leak(0), leak(1)]).await;
    world.until(WITHOUT_ATTEMPT, 2).await;
    validator.kill().await.unwrap();
    // One is a day past its thirty days, the other a day short of them.
    sqlx::query(
        "UPDATE validator.exposures SET received_at = clock_timestamp()
             - CASE object_id WHEN $1 THEN interval '31 days' ELSE interval '29 days' END",
    )
    .bind(e2e::validation::object(0))
    .execute(&mut world.superuser().await)
    .await
    .unwrap();
    let _validator = world.validator(&program(), None);
    world
        .until(
            "SELECT count(*) FROM validator.exposures WHERE secret_sealed IS NULL AND digest IS NOT NULL",
            1,
        )
        .await;
    assert_eq!(world.verdicts(0).await, verdict("not_testable", "secret_expired"));
    assert_eq!(world.verdicts(1).await, verdict("not_testable", "account_disabled"));
    assert!(world.submissions().is_empty());
}
