//! From a leaked record to a verdict, against the simulator: what costs an attempt, what does not, what never happens.

use std::path::PathBuf;

use e2e::validation::{Leak, World, password};
use prost::Message as _;
use serde_json::json;
use shared::{outbox::Topic, wire::events::ValidationDue};
use uuid::Uuid;

fn program() -> PathBuf {
    e2e::program("validator-under-test")
}

fn leak(account: usize, password: impl Into<String>) -> Leak {
    Leak { account, password: password.into() }
}

const UNDECIDED: &str = "SELECT count(*) FROM validator.exposures WHERE state = 'waiting'";

#[tokio::test(flavor = "multi_thread")]
async fn a_working_password_is_found_with_one_attempt_contained_and_destroyed() {
    let world = World::new(2).await;
    world.leak(&[leak(0, password(0)), leak(1, "wrong-guess-1")]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE state = 'decided'", 2).await;
    assert_eq!(world.verdicts(0).await, [("valid".to_owned(), None)]);
    assert_eq!(world.verdicts(1).await, [("invalid".to_owned(), None)]);
    let sent = world.submissions();
    assert_eq!(sent.len(), 2, "{sent:?}");
    let asked = "SELECT count(*) FROM validator.outbox WHERE topic = 'mitigation.requested'";
    let left = world.count(asked).await;
    assert!(left <= 1, "containment is asked for once and relayed");
    // A proven password is gone everywhere; only its keyed digest stays.
    assert_eq!(
        world.count("SELECT count(*) FROM validator.exposures WHERE secret_sealed IS NOT NULL").await,
        0
    );
    assert_eq!(world.count("SELECT count(*) FROM api.feed_records WHERE secret_sealed IS NOT NULL").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM validator.tried").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tried_is_answered_from_memory_and_what_does_not_fit_waits() {
    let world = World::new(1).await;
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    // The same password again costs nothing; another one has to wait five minutes.
    world.leak(&[leak(0, "wrong-guess-1"), leak(0, "wrong-guess-2")]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict IN ('stale', 'deferred')", 2).await;
    assert_eq!(
        world.verdicts(0).await,
        [
            ("deferred".to_owned(), Some("spacing".to_owned())),
            ("invalid".to_owned(), None),
            ("stale".to_owned(), Some("already_tried".to_owned())),
        ]
    );
    assert_eq!(world.submissions().len(), 1);
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt").await, 1, "a deferral leaves no attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_the_same_however_its_directory_spells_the_ids() {
    let world = World::new(1).await;
    let _validator = world.validator(&program(), None);
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    world
        .execute("UPDATE sync.accounts SET directory_id = upper(directory_id), object_id = upper(object_id)")
        .await;
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'stale'", 1).await;
    assert_eq!(world.submissions().len(), 1, "what was tried is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_wrong_is_tried_again_after_a_change_that_no_sync_has_shown() {
    let world = World::new(1).await;
    let _validator = world.validator(&program(), None);
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    // Its owner chooses it now. The attempt so far was ten minutes ago.
    world.patch(0, &json!({ "password": "wrong-guess-1" }));
    world
        .execute(
            "UPDATE budget.account SET last_attempt_at = last_attempt_at - interval '10 minutes',
                 recent = ARRAY(SELECT t - interval '10 minutes' FROM unnest(recent) AS t);
             UPDATE validator.tried SET tried_at = tried_at - interval '10 minutes'",
        )
        .await;
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'valid'", 1).await;
    assert_eq!(world.submissions().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_deliveries_of_one_turn_cost_one_attempt() {
    let world = World::new(1).await;
    // Paused, so that the exposure waits until every duplicate is on its way.
    sqlx::query("INSERT INTO validator.pauses (tenant_id, directory_id, reason, message, until) VALUES ($1, '', 'operator', '', NULL)")
        .bind(world.tenant)
        .execute(&mut world.superuser().await)
        .await
        .unwrap();
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict_reason = 'paused'", 1).await;
    assert_eq!(world.submissions().len(), 0, "a pause bites before anything is sent");
    world
        .execute(
            "DELETE FROM validator.pauses;
             UPDATE validator.work SET state = 'in_flight', lease_until = clock_timestamp() + interval '10 minutes'",
        )
        .await;
    let work: Uuid = sqlx::query_scalar("SELECT work_id FROM validator.work")
        .fetch_one(&mut world.superuser().await)
        .await
        .unwrap();
    let due = ValidationDue {
        tenant_id: world.tenant.to_string(),
        work_id: work.to_string(),
        exposure_id: world.exposure(0).await.to_string(),
    };
    assert!(due.encoded_len() < 200, "references only");
    world.send(Topic::ValidationDue, &due, 1000).await;
    world
        .until(
            "SELECT count(*) FROM validator.inbox WHERE consumer = 'validation.due' AND status = 'done'",
            1001,
        )
        .await;
    assert_eq!(world.submissions().len(), 1);
    assert_eq!(world.verdicts(0).await, [("invalid".to_owned(), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_leaves_the_attempt_spent_and_unknown() {
    let world = World::new(1).await;
    world.idp.fault(serde_json::json!({"operation": "entra.password", "effect": "reset"}));
    world.leak(&[leak(0, password(0))]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'inconclusive'", 1).await;
    assert_eq!(world.verdicts(0).await, [("inconclusive".to_owned(), Some("unknown".to_owned()))]);
    assert_eq!(world.submissions().len(), 1, "nothing is sent a second time");
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt WHERE state = 'unknown'").await, 1);
    assert_eq!(world.count("SELECT since_success::bigint FROM budget.account").await, 1);
    let kept =
        "SELECT count(*) FROM validator.exposures e JOIN api.feed_records r USING (tenant_id, record_id)
                WHERE e.secret_sealed IS NOT NULL AND r.secret_sealed IS NOT NULL";
    assert_eq!(world.count(kept).await, 1, "what is not proven stays sealed until its retention ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_before_anything_is_sent_costs_nothing() {
    let world = World::new(1).await;
    world.idp.fault(serde_json::json!({"operation": "graph.users.get", "times": 1000, "effect": {"status": {"status": 503}}}));
    world.leak(&[leak(0, password(0))]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict_reason = 'unavailable'", 1).await;
    assert_eq!(world.submissions().len(), 0);
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt").await, 0);
    assert_eq!(world.count(UNDECIDED).await, 1, "it resumes by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_down_is_asked_a_few_times_only_and_everything_resumes_when_it_is_back() {
    let world = World::new(40).await;
    let outage = serde_json::json!({"operation": "graph.users.get", "times": 100_000, "effect": {"status": {"status": 503}}});
    world.idp.fault(outage);
    world.leak(&(0..40).map(|n| leak(n, password(n))).collect::<Vec<_>>()).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.lane_holds WHERE opened > 0", 1).await;
    world.until("SELECT count(*) FROM validator.work WHERE state = 'in_flight'", 0).await;
    assert_eq!(world.submissions().len(), 0);
    let deferred = world.count("SELECT count(*) FROM validator.work WHERE reason IS NOT NULL").await;

    world.idp.simulator.world.faults.clear();
    world
        .execute(
            "UPDATE validator.lane_holds SET held_until = clock_timestamp();
             UPDATE validator.work SET due_at = clock_timestamp() WHERE state = 'waiting'",
        )
        .await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'valid'", 40).await;
    assert_eq!(world.count("SELECT count(*) FROM validator.lane_holds").await, 0, "{deferred} had waited");
    assert_eq!(world.submissions().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_locked_answers_pause_the_directory_and_tell_somebody() {
    let world = World::new(12).await;
    let patch = serde_json::json!({"address_blocked": true});
    let url = format!("{}/directories/{}", world.idp.simulator.control_url(), world.directory);
    let control = reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build().unwrap();
    control.patch(url).json(&patch).send().await.unwrap().error_for_status().unwrap();
    world.leak(&(0..12).map(|n| leak(n, password(n))).collect::<Vec<_>>()).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.pauses WHERE reason = 'address_blocked'", 1).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict IS NULL", 0).await;
    assert!(world.submissions().len() <= 12);
    let wrong = "SELECT count(*) FROM validator.exposures WHERE verdict IN ('invalid', 'valid')";
    assert_eq!(world.count(wrong).await, 0, "a blocked address proves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_no_policy_would_have_taken_costs_no_attempt() {
    let world = World::new(6).await;
    for n in 0..6 {
        world.patch(
            n,
            &json!({"created": "2020-01-01T00:00:00Z", "password_changed": "2026-06-01T00:00:00Z"}),
        );
    }
    let excepted = json!({"password_policies": "DisablePasswordExpiration, DisableStrongPassword"});
    world.patch(1, &excepted);
    world.patch(2, &json!({"hybrid": true}));
    world.patch(3, &json!({"password_changed": "2025-06-01T00:00:00Z"}));
    let _validator = world.validator(&program(), None);
    world.synced().await;
    let seen = "SELECT count(*) FROM sync.accounts WHERE under_policy_since > now() - interval '10 minutes'";
    assert_eq!(world.count(seen).await, 4, "neither the one that is excepted nor that of AD");
    let rule = "SELECT count(*) FROM sync.directory_policies_v WHERE min_length = 8 AND min_classes = 3";
    assert_eq!(world.count(rule).await, 1);
    // It has been so for long, and all of them changed since but the fourth.
    world.execute("UPDATE sync.directory_policies SET rules_since = '2026-01-01'").await;
    world
        .execute(
            "UPDATE sync.accounts SET under_policy_since = '2026-01-01' WHERE under_policy_since IS NOT NULL",
        )
        .await;
    // Seen by no sync yet.
    world.patch(4, &excepted);
    let weak = (0..5).map(|n| leak(n, "harbour12"));
    world.leak(&weak.chain([leak(5, "Harbour12")]).collect::<Vec<_>>()).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE state = 'decided'", 6).await;
    assert_eq!(world.verdicts(0).await, [("stale".to_owned(), Some("policy_excludes".to_owned()))]);
    for tried in 1..6 {
        assert_eq!(world.verdicts(tried).await, [("invalid".to_owned(), None)], "{tried}");
    }
    assert_eq!(world.submissions().len(), 5);
}
