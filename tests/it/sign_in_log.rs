//! The directory's log of sign-ins as an input of the budget, with the real validator.

use e2e::validation::{Leak, World, object};
use serde_json::json;

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
