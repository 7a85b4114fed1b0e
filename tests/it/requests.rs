//! Requests of people for many exposures: how they are paused, resumed and cancelled, as typed and as they bite.

use std::path::PathBuf;

use e2e::validation::{Leak, World, password};
use serde_json::{Value, json};
use shared::id::{ExposureId, IntegrationId};

use crate::{api::created, api_stage::Stage};

fn program() -> PathBuf {
    e2e::program("validator-under-test")
}

const WORK: &str = "SELECT count(*) FROM validator.work";
const WAITING: &str = "SELECT count(*) FROM validator.exposures WHERE state = 'waiting'";
const VALID: &str = "SELECT count(*) FROM validator.exposures WHERE verdict = 'valid' AND state = 'decided'";
/// As they were before anybody asked.
const UNTOUCHED: &str = "SELECT count(*) FROM validator.exposures
    WHERE state = 'idle' AND verdict_reason = 'switched_off' AND NOT requested AND NOT wanted AND decided_without_attempt";
/// Messages about requests that are dealt with.
const TOLD: &str =
    "SELECT count(*) FROM validator.inbox WHERE consumer = 'validation.requested' AND status = 'done'";

/// Exposures that nothing but a person has validated; attempts are stopped.
async fn world(accounts: usize) -> (World, Vec<ExposureId>, tokio::process::Child) {
    let world = World::new(accounts).await;
    world
        .execute(
            "UPDATE api.integrations SET settings = '{\"validation\": {\"automated\": false, \"manual\": true}}';
             INSERT INTO budget.stop (stop_id, reason, actor_id, actor_name) VALUES (gen_random_uuid(), 'x', 'x', 'x')",
        )
        .await;
    let validator = world.validator(&program(), None);
    let leaks: Vec<_> = (0..accounts).map(|n| Leak { account: n, password: password(n) }).collect();
    world.leak(&leaks).await;
    world.until(UNTOUCHED, accounts.try_into().unwrap()).await;
    let mut exposures = Vec::new();
    for n in 0..accounts {
        exposures.push(world.exposure(n).await);
    }
    (world, exposures, validator)
}

/// Attempts are allowed again, and what waits need not wait any longer.
const GO: &str = "DELETE FROM budget.stop; UPDATE validator.work SET due_at = clock_timestamp()";
const DEFERRED: &str = "SELECT count(*) FROM validator.exposures WHERE verdict = 'deferred'";

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_request_gets_no_turn_and_goes_on_where_it_stood_when_it_is_resumed() {
    let (world, exposures, _validator) = world(6).await;
    let request = world.ask(&exposures, false, 1).await;
    world.until(DEFERRED, 6).await;
    // Nobody told the validator: each turn finds out by itself.
    world.steer(request, "paused").await;
    world.execute(GO).await;
    world.until(WORK, 0).await;
    assert_eq!((world.submissions().len(), world.count(WAITING).await), (0, 6));
    world.execute("UPDATE validator.exposures SET deferred_until = clock_timestamp() WHERE deferred_until IS NOT NULL").await;

    // Told and told again, however often it changes meanwhile: the last word counts.
    for state in ["running", "paused", "running", "paused", "running"] {
        world.steer(request, state).await;
        world.tell(request, 5).await;
    }
    world.until(VALID, 6).await;
    world.until(TOLD, 26).await;
    // Also what was scheduled once more while its turn went on.
    world.until(WORK, 0).await;
    assert_eq!(world.submissions().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_leaves_what_it_did_not_decide_as_it_was_and_what_others_want_goes_on() {
    let (world, exposures, _validator) = world(4).await;
    let request = world.ask(&exposures, false, 1).await;
    world.until(DEFERRED, 4).await;
    let other = world.ask(&exposures[..1], false, 1).await;
    world.until(TOLD, 2).await;
    // Paused, then cancelled: what lost its turn does not keep it lost.
    world.steer(request, "paused").await;
    world.tell(request, 1).await;
    world.until(WORK, 1).await;
    world.steer(request, "cancelled").await;
    world.tell(request, 3).await;
    world.until(TOLD, 6).await;
    assert_eq!(world.count(UNTOUCHED).await, 3);
    world.execute(GO).await;
    world.until(VALID, 1).await;
    assert_eq!((world.submissions().len(), world.count(WORK).await), (1, 0));
    // A new request for the same begins anew; the cancelled one does not stand in its way.
    let again = world.ask(&exposures, false, 1).await;
    world.until(VALID, 4).await;
    assert!(again != request && other != request);
    assert_eq!(world.submissions().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_under_way_when_its_request_is_cancelled_ends_with_its_verdict() {
    let (world, exposures, _validator) = world(1).await;
    world.idp.fault(json!({"operation": "entra.password", "effect": {"delay": {"ms": 4000}}}));
    world.execute(GO).await;
    let request = world.ask(&exposures, false, 1).await;
    world.until("SELECT count(*) FROM budget.attempt WHERE state = 'reserved'", 1).await;
    world.steer(request, "cancelled").await;
    world.tell(request, 1).await;
    world.until(TOLD, 2).await;
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt WHERE state = 'reserved'").await, 1, "still");
    world.until(VALID, 1).await;
    assert_eq!((world.submissions().len(), world.count(WORK).await), (1, 0));
}

async fn shown(desk: &crate::api_stage::Desk, id: &str) -> Value {
    desk.asks(&format!("validation show {id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_tells_its_progress_and_is_paused_resumed_and_cancelled_by_those_who_may() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    sqlx::query(
        "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
             integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at, history,
             wanted, state, verdict, verdict_reason, verdict_at)
         SELECT $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', gen_random_uuid(), gen_random_uuid(),
             $2, 'entra_id', 'dir', 'obj' || n, 'user' || n || '@x.example', '{}', 'plaintext', now(), true, false, 'idle',
             'not_testable', 'history', now()
         FROM generate_series(1, 5) AS n",
    )
    .bind(stage.tenant)
    .bind(made.id.parse::<IntegrationId>().unwrap())
    .execute(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    let (ada, vic) = (stage.desk("ada", &["analyst"]), stage.desk("vic", &["viewer"]));
    let asked = ada.asks("validate --verdict not-testable").await;
    let id = asked["id"].as_str().unwrap();
    assert_eq!(
        (&asked["state"], &asked["waiting"]),
        (&"VALIDATION_STATE_RUNNING".into(), &"5".into()),
        "{asked}"
    );

    // What a validator would do: two are decided, one is deferred.
    stage
        .bus
        .execute(
            "UPDATE validator.exposures SET state = 'decided', verdict = 'invalid', verdict_reason = NULL, attempts = 1,
                 verdict_at = clock_timestamp() WHERE object_id IN ('obj1', 'obj2');
             UPDATE validator.exposures SET state = 'waiting', verdict = 'deferred', verdict_reason = 'window',
                 deferred_until = '2030-01-01', verdict_at = clock_timestamp() WHERE object_id = 'obj3'",
        )
        .await;
    for _ in 0..2 {
        let paused = ada.asks(&format!("validation pause {id}")).await;
        assert_eq!(paused["state"], "VALIDATION_STATE_PAUSED");
    }
    let seen = shown(&vic, id).await;
    let request = &seen["validation"];
    assert_eq!((&request["decided"], &request["waiting"]), (&"2".into(), &"3".into()), "{request}");
    assert_eq!(request["next_at"], "2030-01-01T00:00:00Z", "{request}");
    let decided = seen["results"].as_array().unwrap().iter().filter(|r| r["decided"] == true);
    assert!(decided.map(|r| &r["verdict"]["kind"]).all(|kind| kind == "VERDICT_KIND_INVALID"), "{seen}");
    assert_eq!(vic.fails(&format!("validation resume {id}")).await.0, 4);
    assert_eq!(ada.asks(&format!("validation resume {id}")).await["state"], "VALIDATION_STATE_RUNNING");

    let cancelled = ada.asks(&format!("validation cancel {id}")).await;
    assert_eq!((&cancelled["decided"], &cancelled["cancelled"]), (&"2".into(), &"3".into()), "{cancelled}");
    assert_eq!(cancelled.get("waiting"), None);
    assert_eq!(ada.asks(&format!("validation cancel {id}")).await, cancelled);
    let (code, said) = ada.fails(&format!("validation resume {id}")).await;
    assert!(code == 6 && said.contains("cancelled"), "{said}");
    assert_eq!(ada.asks("validation list").await[0]["state"], "VALIDATION_STATE_CANCELLED");

    // One exposure, asked for twice while it waits, is one request; once it is decided, another.
    let one = stage_exposure(&stage).await;
    let first = ada.asks(&format!("validate {one}")).await;
    assert_eq!(ada.asks(&format!("validate {one}")).await["id"], first["id"]);
    stage
        .bus
        .execute("UPDATE validator.exposures SET verdict_at = clock_timestamp() WHERE object_id = 'obj5'")
        .await;
    assert_eq!(
        shown(&ada, first["id"].as_str().unwrap()).await["validation"]["state"],
        "VALIDATION_STATE_DONE"
    );
    assert_eq!(
        ada.asks("validation list").await[0]["state"],
        "VALIDATION_STATE_DONE",
        "before its end is noticed"
    );
    assert_ne!(ada.asks(&format!("validate {one}")).await["id"], first["id"]);
    let listed = ada.asks("validation list").await;
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|r| r["state"].as_str().unwrap()).collect();
    let expected = ["VALIDATION_STATE_RUNNING", "VALIDATION_STATE_DONE", "VALIDATION_STATE_CANCELLED"];
    assert_eq!(states, expected);

    stage
        .bus
        .until_count(
            "SELECT count(*) FROM api.validation_requests WHERE ended_at IS NOT NULL AND state = 'running'",
            1,
        )
        .await;
    let done = ada.asks(&format!("validation cancel {}", first["id"].as_str().unwrap())).await;
    assert!(done["state"] == "VALIDATION_STATE_DONE" && done.get("ended_at").is_some(), "{done}");
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.validations_under_way").await, 1);

    let mut events: Vec<_> = stage
        .audited("validation")
        .await
        .into_iter()
        .map(|e| (e.r#type.trim_start_matches("validation.").to_owned(), e.details))
        .collect();
    events.sort_by(|one, other| one.0.cmp(&other.0));
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    let expected = [
        "request_cancelled",
        "request_completed",
        "request_paused",
        "request_resumed",
        "requested",
        "requested",
        "requested",
    ];
    assert_eq!(kinds, expected);
    for (nth, details) in [
        (0, [("exposures", "5"), ("decided", "2"), ("cancelled", "3"), ("verdict.invalid", "2")]),
        (
            1,
            [("exposures", "1"), ("decided", "1"), ("cancelled", "0"), ("verdict.not_testable.history", "1")],
        ),
    ] {
        let expected =
            details.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(events[nth].1, expected, "{}", events[nth].0);
    }
    stage.stop().await;
}

async fn stage_exposure(stage: &Stage) -> ExposureId {
    let id = sqlx::query_scalar("SELECT exposure_id FROM validator.exposures WHERE object_id = 'obj5'");
    ExposureId(id.fetch_one(&mut stage.bus.superuser().await).await.unwrap())
}
