//! The directory's log of sign-ins as an input of the budget and as a witness of the limit auditor, with the real validator.

use credential_validator::{log_watch, store::sign_ins};
use e2e::{
    Bus,
    validation::{Leak, ROPC_APP, World, login, object},
};
use idp_simulator::model::Settings;
use integration_api::auditor;
use serde_json::json;
use shared::{db::Db, id::IntegrationId};
use time::Duration;

fn leak(password: &str) -> Leak {
    Leak { account: 0, password: password.into() }
}

/// A world whose only account had so many attempts of ours, the last an hour ago, and of which `signInActivity` says nothing.
async fn spent(attempts: u32) -> World {
    let world = World::new(1).await;
    sqlx::query(
        "INSERT INTO budget.account (provider, directory, object, since_success, last_attempt_at)
         VALUES ('entra_id', $1, $2, $3, clock_timestamp() - interval '1 hour')",
    )
    .bind(&world.directory)
    .bind(object(0))
    .bind(i32::try_from(attempts).unwrap())
    .execute(&mut world.superuser().await)
    .await
    .unwrap();
    // All of the five calls in ten seconds that there are.
    world.execute("UPDATE api.integrations SET settings = settings || '{\"quota_percent\": 100}'").await;
    world
}

fn validator(world: &World) -> tokio::process::Child {
    world.validator(&e2e::program("validator-under-test"), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_only_the_log_shows_frees_the_reserve() {
    let world = spent(5).await;
    world.leak(&[leak("wrong-guess-1")]).await;
    let _validator = validator(&world);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict_reason = 'reserve'", 1).await;
    assert_eq!(world.submissions().len(), 0);
    world.idp.sign_in(&world.directory, &object(0)).await;
    world.patch(0, &json!({"last_sign_in": null}));
    world.execute("UPDATE validator.work SET due_at = clock_timestamp() WHERE state = 'waiting'").await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    assert_eq!(world.count("SELECT since_success::bigint FROM budget.account").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_s_wrong_tries_in_the_log_are_left_to_the_owner_until_a_sign_in() {
    let world = spent(1).await;
    // Ten lock: with six of the owner's own and one of ours three are left.
    world.idp.mistype(&world.directory, &object(0), 6).await;
    world.leak(&[leak("wrong-guess-1")]).await;
    let _validator = validator(&world);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict_reason = 'reserve'", 1).await;
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt").await, 0);
    assert_eq!(world.count("SELECT owner_failures::bigint FROM budget.account").await, 6);
    let explained: (i32, Option<String>) =
        sqlx::query_as("SELECT reserve_limit, blocked_by FROM budget.explain('entra_id', $1, $2)")
            .bind(&world.directory)
            .bind(object(0))
            .fetch_one(&mut world.superuser().await)
            .await
            .unwrap();
    assert_eq!((explained.0, explained.1.as_deref()), (0, Some("reserve")), "an administrator is told why");

    // Microsoft dates to the second.
    world.idp.simulator.world.advance(time::Duration::seconds(2));
    world.idp.sign_in(&world.directory, &object(0)).await;
    world.execute("UPDATE validator.work SET due_at = clock_timestamp() WHERE state = 'waiting'").await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    assert_eq!(world.count("SELECT owner_failures::bigint FROM budget.account").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_answer_stops_nothing_and_is_asked_again_soon() {
    let world = spent(5).await;
    world
        .idp
        .fault(json!({"operation": "graph.sign_ins", "effect": {"status": {"status": 503}}, "times": 100}));
    world.leak(&[leak("wrong-guess-1")]).await;
    let _validator = validator(&world);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict_reason = 'reserve'", 1).await;
    let soon = "SELECT count(*) FROM validator.work WHERE state = 'waiting' AND due_at < clock_timestamp() + interval '1 hour'";
    world.until(soon, 1).await;
    world.execute("UPDATE budget.account SET since_success = 4; UPDATE validator.work SET due_at = clock_timestamp()").await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
}

/// The log was read to its end, and rests.
const READ: &str =
    "SELECT count(*) FROM budget.sign_in_read WHERE next_at > clock_timestamp() + interval '30 minutes'";

async fn audit(world: &World) -> auditor::Report {
    let db = world.db("parapet_api").await;
    let report = auditor::since(&db, Duration::days(3)).await.unwrap();
    db.close().await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_agrees_with_the_ledger_and_a_submission_of_somebody_else_is_told_and_stops_nothing() {
    let world = World::new(2).await;
    world.execute("UPDATE api.integrations SET settings = settings || '{\"quota_percent\": 100}'").await;
    world.leak(&[leak("wrong-guess-1")]).await;
    let first = validator(&world);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    world.until(READ, 1).await;
    // A validator that starts looks at once.
    let read_again = async || {
        world.execute("UPDATE budget.sign_in_read SET next_at = clock_timestamp()").await;
        let reader = validator(&world);
        world.until(READ, 1).await;
        reader
    };
    let second = read_again().await;
    let ours = audit(&world).await;
    let sound = auditor::Report { accounts: 1, attempts: 1, sign_ins: 1, new_findings: 0 };
    assert_eq!(ours, sound, "read twice, compared once");

    // Somebody who knows the client id tries a password on an account that we never tried.
    let form = [
        ("grant_type", "password"),
        ("scope", "openid"),
        ("client_id", ROPC_APP),
        ("username", &login(1)),
        ("password", "somebody-else-s-guess"),
    ];
    let url = format!("https://login.microsoftonline.com/{}/oauth2/v2.0/token", world.directory);
    let answer = world.idp.egress().request(reqwest::Method::POST, &url).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    drop(first);
    let third = read_again().await;
    let theirs = audit(&world).await;
    assert_eq!((theirs.accounts, theirs.sign_ins, theirs.new_findings), (2, 2, 1));
    assert_eq!(audit(&world).await.new_findings, 0, "told once");
    let told = "SELECT count(*) FROM api.limit_excesses WHERE rule = 'log_unknown' AND object = '00000000-0000-4000-8000-000000000001'";
    assert_eq!(world.count(told).await, 1);
    let events = "SELECT count(*) FROM api.outbox WHERE topic = 'audit.recorded'";
    assert_eq!(world.count(events).await, 1, "the alert, and no stop");

    assert_eq!(world.count("SELECT count(*) FROM budget.stop").await, 0);
    world.leak(&[Leak { account: 1, password: "wrong-guess-2".into() }]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 2).await;
    drop((second, third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_unless_its_directory_is_left_alone_and_what_fails_is_tried_again_soon() {
    let world = World::new(1).await;
    world.execute("UPDATE api.integrations SET settings = settings || '{\"quota_percent\": 100}'").await;
    let db = world.db("parapet_validator").await;
    // Permissions and pace are remembered: each look is that of a process that has just started.
    let look = async || {
        world.execute("UPDATE budget.sign_in_read SET next_at = clock_timestamp()").await;
        log_watch::look(&db, &world.directories()).await.unwrap();
        let rests: Option<(bool, bool)> = sqlx::query_as(
            "SELECT read_until IS NOT NULL, next_at > clock_timestamp() + interval '30 minutes' FROM budget.sign_in_read",
        )
        .fetch_optional(&mut world.superuser().await)
        .await
        .unwrap();
        // By the simulator's clock: its quota is for ten seconds.
        world.idp.simulator.world.advance(Duration::seconds(11));
        rests
    };
    world
        .execute(
            "INSERT INTO validator.lane_holds (tenant_id, directory, held_until, reason)
             SELECT tenant_id, directory_id, clock_timestamp() + interval '1 hour', 'throttled' FROM api.integrations",
        )
        .await;
    assert_eq!(look().await, None, "left alone");
    world.execute("DELETE FROM validator.lane_holds").await;

    let fails =
        |effect: serde_json::Value| world.idp.fault(json!({"operation": "graph.sign_ins", "effect": effect}));
    fails(json!({"status": {"status": 503}}));
    assert_eq!(look().await, Some((false, false)), "tried again before the hour is over");
    // As if there were more than are read at once.
    fails(json!("wrong_json"));
    assert_eq!(look().await, Some((true, true)), "read in smaller parts");

    world.execute("UPDATE budget.sign_in_read SET read_until = NULL").await;
    let Settings::EntraId(tenant) = &*world.people.settings() else { panic!("not an Entra tenant") };
    let mut unlicensed = tenant.clone();
    unlicensed.licences.clear();
    world.people.set_settings(Settings::EntraId(unlicensed));
    assert_eq!(look().await, Some((false, true)), "may not be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_replicas_one_reads_a_log_and_a_reader_that_vanished_is_replaced() {
    let bus = Bus::without_queues().await;
    let db = Db::connect(&bus.common_as("parapet_validator").database).await.unwrap();
    let (integration, lease) = (IntegrationId::new(), Duration::minutes(15));
    let claim = async || {
        let mut tx = db.system().await.unwrap();
        let claim = sign_ins::claim(&mut tx, integration, lease).await.unwrap();
        tx.commit().await.unwrap();
        claim
    };
    let claims = futures::future::join_all((0..10).map(|_| claim())).await;
    assert_eq!(claims.into_iter().flatten().count(), 1);
    bus.execute("UPDATE budget.sign_in_read SET next_at = clock_timestamp() - interval '1 second'").await;
    assert_eq!(claim().await.unwrap().read_until, None, "the claim ended");
    assert_eq!(claim().await, None);
}
