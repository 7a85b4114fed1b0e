//! `kill -9` of the validator at every stage of an attempt, judged by the simulator's own log.

use std::{collections::HashMap, os::unix::process::ExitStatusExt as _, path::PathBuf, time::Duration};

use credential_validator::failpoint::Stage;
use e2e::{
    kills,
    validation::{Leak, World, password},
};

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap()
}

fn program() -> PathBuf {
    e2e::program("validator-under-test")
}

/// A world with more exposures than kills, every second password right, and a reaper that does not wait two minutes.
async fn world() -> World {
    let world = World::new(kills() + 4).await;
    world
        .execute(
            "CREATE OR REPLACE FUNCTION budget.reap(at_most integer) RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp
             AS $$ SELECT budget.expire($1, clock_timestamp() + interval '100 seconds') $$",
        )
        .await;
    let leaks: Vec<_> = (0..kills() + 4)
        .map(|account| {
            let guess = if account % 2 == 0 { password(account) } else { format!("wrong-guess-{account}") };
            Leak { account, password: guess }
        })
        .collect();
    world.leak(&leaks).await;
    world
}

/// Starts the validator until it has died this many times at the stage.
async fn die(world: &World, stage: Stage, kills: usize) {
    for kill in 0..kills {
        let mut validator = world.validator(&program(), Some(stage.as_str()));
        let dies = async {
            loop {
                // The lease of what the dead process held would run for ten minutes. The broker gives it to the next, but
                // not for ever: what met too many kills waits for its lease.
                world.execute("UPDATE validator.work SET lease_until = clock_timestamp() WHERE state = 'in_flight' AND lease_until < clock_timestamp() + interval '9 minutes'").await;
                let ended = tokio::time::timeout(Duration::from_secs(5), validator.wait()).await;
                if let Ok(status) = ended {
                    return status;
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_mins(2), dies).await;
        let status = ended.unwrap_or_else(|_| panic!("{stage:?}: kill {kill} did not happen")).unwrap();
        assert_eq!(status.signal(), Some(9), "{stage:?}: {status}");
    }
}

/// Lets a healthy validator finish what the killed ones left.
async fn recover(world: &World) {
    world
        .execute("UPDATE validator.work SET lease_until = clock_timestamp() WHERE state = 'in_flight'")
        .await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE state = 'waiting'", 0).await;
    world.until("SELECT count(*) FROM budget.attempt WHERE state = 'reserved'", 0).await;
}

/// What must not have happened, by the simulator's book and the budget's ledger.
async fn judge(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    let submissions = world.submissions();
    let (mut per_password, mut per_account) = (HashMap::new(), HashMap::new());
    for submission in &submissions {
        *per_password.entry(submission.password_sha256.clone()).or_insert(0) += 1;
        *per_account.entry(submission.account.clone().unwrap()).or_insert(0) += 1;
    }
    found.extend(per_password.values().filter(|n| **n > 1).map(|n| format!("an attempt was sent {n} times")));
    found.extend(per_account.values().filter(|n| **n > 2).map(|n| format!("an account got {n} submissions")));
    let reserved: Vec<(String, i64)> =
        sqlx::query_as("SELECT object, count(*) FROM budget.attempt GROUP BY object")
            .fetch_all(&mut world.superuser().await)
            .await
            .unwrap();
    let reserved: HashMap<_, _> = reserved.into_iter().collect();
    for (account, sent) in &per_account {
        if reserved.get(account).copied().unwrap_or(0) < i64::from(*sent) {
            found.push(format!("{account}: {sent} submissions without as many reservations"));
        }
    }
    let ambiguous = "SELECT count(*) FROM budget.attempt a WHERE state = 'unknown' AND NOT EXISTS
        (SELECT FROM validator.exposures e WHERE e.object_id = a.object AND e.verdict = 'inconclusive' AND e.verdict_reason = 'unknown')";
    if world.count(ambiguous).await > 0 {
        found.push("an unknown attempt is not visible as such".into());
    }
    if submissions.iter().any(|s| s.locked) {
        found.push("an account was locked".into());
    }
    found
}

async fn killed_at(stage: Stage) {
    let world = world().await;
    die(&world, stage, kills()).await;
    recover(&world).await;
    let found = judge(&world).await;
    assert!(found.is_empty(), "{stage:?}: {}", found.join("\n"));
    // Useful work went on: what no kill cost is decided by its answer.
    let proven =
        world.count("SELECT count(*) FROM validator.exposures WHERE verdict IN ('valid', 'invalid')").await;
    let lost = world.count("SELECT count(*) FROM budget.attempt WHERE state = 'unknown'").await;
    assert_eq!(proven + lost, number(kills() + 4), "{stage:?}");
    let costs = matches!(stage, Stage::Reserved | Stage::Answered | Stage::Concluding);
    assert_eq!(lost, if costs { number(kills()) } else { 0 }, "{stage:?}");
    let right = world
        .count(
            "SELECT count(*) FROM validator.exposures WHERE (verdict = 'valid' AND right(object_id, 1)::int % 2 = 1)
                OR (verdict = 'invalid' AND right(object_id, 1)::int % 2 = 0)",
        )
        .await;
    assert_eq!(right, 0, "{stage:?}: a verdict is wrong");
}

macro_rules! stages {
    ($($name:ident: $stage:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            killed_at(Stage::$stage).await;
        }
    )*};
}

stages! {
    killed_when_the_message_arrived: Received;
    killed_when_connected: Connected;
    killed_inside_the_reservation: Reserving;
    killed_after_the_reservation: Reserved;
    killed_with_the_answer_in_hand: Answered;
    killed_while_storing_the_result: Concluding;
    killed_before_acknowledging: Concluded;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_directory_holds_the_answer() {
    let world = world().await;
    world.idp.fault(serde_json::json!({
        "operation": "entra.password", "times": kills(), "effect": {"delay": {"ms": 10_000}},
    }));
    for kill in 0..kills() {
        let mut validator = world.validator(&program(), Some("nowhere"));
        let deadline = tokio::time::Instant::now() + Duration::from_mins(2);
        while world.submissions().len() <= kill {
            assert!(tokio::time::Instant::now() < deadline, "kill {kill}: nothing was sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        validator.kill().await.unwrap();
    }
    recover(&world).await;
    let found = judge(&world).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(
        world.count("SELECT count(*) FROM budget.attempt WHERE state = 'unknown'").await,
        number(kills())
    );
    assert_eq!(
        world.count("SELECT count(*) FROM validator.exposures WHERE verdict IN ('valid', 'invalid')").await,
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_again_under_an_old_reservation_is_caught_when_the_function_is_replaced() {
    let world = world().await;
    world
        .execute(
            "ALTER TABLE validator.attempts DROP CONSTRAINT attempts_pkey;
             ALTER FUNCTION budget.decide(uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz,
                 timestamptz, boolean, uuid, uuid, bytea, text, timestamptz, interval, integer) RENAME TO decide_once;
             CREATE FUNCTION budget.decide(uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz,
                 timestamptz, boolean, uuid, uuid, bytea, text, timestamptz, interval, integer) RETURNS budget.decision LANGUAGE plpgsql AS $$
             DECLARE d budget.decision;
             BEGIN
                 d := budget.decide_once($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20);
                 IF d.outcome = 'already' THEN
                     UPDATE budget.attempt SET nonce = $2, state = 'reserved', finished_at = NULL WHERE attempt_id = $1;
                     d.outcome := 'granted';
                 END IF;
                 RETURN d;
             END $$;
             GRANT EXECUTE ON FUNCTION budget.decide(uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz,
                 timestamptz, boolean, uuid, uuid, bytea, text, timestamptz, interval, integer) TO parapet_budget_owner",
        )
        .await;
    die(&world, Stage::Answered, 3).await;
    let found = judge(&world).await;
    assert!(found.iter().any(|f| f.contains("sent")), "the judge did not see that the protection was gone");
}
