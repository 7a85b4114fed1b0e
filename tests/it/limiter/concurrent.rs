//! Many takers at once, in compressed time: a millisecond counts as many.

use std::sync::Arc;

use shared::{
    id::{AttemptId, TenantId},
    limiter::{self, Answer, Ended, Reservation},
};
use sqlx::{Executor as _, postgres::PgPoolOptions};
use time::Duration;
use tokio::{sync::Mutex, task::JoinSet};

use super::{
    Question, START, account, as_validator, ask,
    checker::{Sent, allowed, violations},
    decide, intent, limits, settle,
};

const TAKERS: usize = 40;

/// Forty takers ask for four accounts for a while; one real millisecond is four virtual minutes.
async fn rush(database: &e2e::Database, rounds: usize) -> Vec<Sent> {
    let pool =
        PgPoolOptions::new().max_connections(20).connect_with(database.superuser().await).await.unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let begun = std::time::Instant::now();
    let mut takers = JoinSet::new();
    for taker in 0..TAKERS {
        let (pool, sent) = (pool.clone(), Arc::clone(&sent));
        takers.spawn(async move {
            for round in 0..rounds {
                let mut db = pool.acquire().await.unwrap();
                let at = START + Duration::minutes(i64::try_from(begun.elapsed().as_millis()).unwrap() * 4);
                let q = Question::new(["a", "b", "c", "d"][(taker + round) % 4], limits(3, Some(100)), at);
                // A broken function may fail on the constraints that back it up; that is no permit.
                let Ok(said) = decide(&mut db, &q).await else { continue };
                if said.granted() {
                    let (daily, reserve) = allowed(3, Some(100), false, false, false, 0);
                    sent.lock().await.push(Sent {
                        attempt: q.attempt,
                        account: q.object.clone(),
                        at: q.at,
                        daily,
                        reserve,
                        owner: START - Duration::days(1),
                    });
                    settle(&mut db, &q).await;
                }
            }
        });
    }
    takers.join_all().await;
    pool.close().await;
    Arc::try_unwrap(sent).unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_takers_at_once_never_exceed_the_limit() {
    let database = e2e::database().await;
    let sent = rush(&database, 40).await;
    let found = violations(&sent);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(sent.len() >= 4, "only {} attempts were granted: the test proves nothing", sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_before_inserting_is_caught_when_the_function_is_replaced() {
    let database = e2e::database().await;
    let mut db = sqlx::ConnectOptions::connect(&database.superuser().await).await.unwrap();
    // The obvious design: look, then write. Its arguments are those of the real function; only the lock is missing.
    db.execute(
        "DROP INDEX budget.attempt_open;
         CREATE OR REPLACE FUNCTION budget.decide(
             p_attempt uuid, p_nonce uuid, p_provider text, p_directory text, p_object text, p_daily_max integer,
             p_threshold integer, p_us_gov boolean, p_ad_backed boolean, p_low_threshold_opt_in boolean,
             p_owner_sign_in timestamptz, p_password_changed timestamptz, p_locked boolean, p_event uuid, p_tenant uuid,
             p_intent bytea, p_traceparent text, p_instant timestamptz, p_window interval, p_owner_failures integer DEFAULT NULL)
             RETURNS budget.decision LANGUAGE plpgsql AS $$
         DECLARE d budget.decision;
         BEGIN
             INSERT INTO budget.account (provider, directory, object) VALUES (p_provider, p_directory, p_object) ON CONFLICT DO NOTHING;
             IF (SELECT count(*) FROM budget.attempt WHERE object = p_object AND reserved_at > p_instant - p_window) >= p_daily_max
                OR EXISTS (SELECT FROM budget.attempt WHERE object = p_object AND reserved_at > p_instant - interval '5 minutes') THEN
                 d.outcome := 'denied';
                 RETURN d;
             END IF;
             PERFORM pg_sleep(0.01); -- long enough for others to look, too, however the machine is loaded
             INSERT INTO budget.attempt (attempt_id, provider, directory, object, nonce, reserved_at)
                 VALUES (p_attempt, p_provider, p_directory, p_object, p_nonce, p_instant);
             d.outcome := 'granted';
             RETURN d;
         END $$",
    )
    .await
    .unwrap();
    let found = violations(&rush(&database, 40).await);
    assert!(!found.is_empty(), "the checker did not see that the protection was gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_redeliveries_of_one_attempt_get_one_permit() {
    // A million in the long run, most of them after the attempt was settled.
    let rounds = e2e::size(25, 25_000);
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let (tenant, attempt) = (TenantId::new(), AttemptId::new());
    let mut takers = JoinSet::new();
    for _ in 0..TAKERS {
        let db = db.clone();
        takers.spawn(async move {
            let (account, intent) = (account("ann"), intent(tenant));
            let (mut permits, mut repeated) = (0, 0);
            for _ in 0..rounds {
                let mut reservation = Reservation::begin(&db, tenant).await.unwrap();
                let answer =
                    reservation.ask(&ask(attempt, &account, limits(5, None), &intent)).await.unwrap();
                repeated += usize::from(answer == Answer::Already);
                let Some((_permit, ticket)) = reservation.commit().await.unwrap() else { continue };
                permits += 1;
                let mut tx = db.tenant(tenant).await.unwrap();
                let ended = Ended { answered: true, result: "invalid", code: None, locked: false };
                assert!(limiter::settle(&mut tx, &ticket, &ended).await.unwrap());
                tx.commit().await.unwrap();
            }
            (permits, repeated)
        });
    }
    let (permits, repeated) =
        takers.join_all().await.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((permits, repeated), (1, TAKERS * rounds - 1));
}
