//! Clocks that step: whatever instants the database names, the ledger keeps its order and its distances.

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use shared::{
    id::{AttemptId, TenantId},
    limiter::{self, Answer, Denial, Ended, Reservation},
};
use sqlx::{ConnectOptions as _, Executor as _, PgConnection};
use time::{Duration, OffsetDateTime};

use super::{
    Question, START, WINDOW, account, as_validator, ask,
    checker::{Sent, allowed, violations},
    decide, intent, limits, settle,
};

/// Minutes by which the clock goes on, or back, before each question: seconds to days.
fn steps(count: usize) -> Vec<i64> {
    let step = prop_oneof![4 => 1i64..30, 2 => 30i64..4000, 2 => -1800i64..-30, 1 => -30i64..-1];
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    prop::collection::vec(step, count).new_tree(&mut runner).unwrap().current()
}

/// Asks for one account while the clock steps; what was granted, in the order in which it was, as the ledger dates it.
async fn walk(db: &mut PgConnection, count: usize) -> Vec<Sent> {
    let (daily, reserve) = allowed(2, Some(2 * 100_000), false, false, false, 0);
    let (mut clock, mut sent) = (START, Vec::new());
    for minutes in steps(count) {
        clock += Duration::minutes(minutes);
        let q = Question::new("ann", limits(2, Some(2 * 100_000)), clock);
        if decide(db, &q).await.unwrap().granted() {
            assert!(settle(db, &q).await);
            let at: OffsetDateTime =
                sqlx::query_scalar("SELECT reserved_at FROM budget.attempt WHERE attempt_id = $1")
                    .bind(q.attempt)
                    .fetch_one(&mut *db)
                    .await
                    .unwrap();
            let owner = START - Duration::days(10_000);
            sent.push(Sent { attempt: q.attempt, account: q.object, at, daily, reserve, owner });
        }
    }
    sent
}

fn out_of_order(sent: &[Sent]) -> bool {
    !sent.is_sorted_by(|before, after| before.at < after.at)
}

#[tokio::test]
async fn a_clock_that_steps_forward_and_back_never_brings_the_ledger_out_of_order_nor_over_its_limit() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    let sent = walk(&mut db, e2e::size(400, 20_000)).await;
    assert!(!out_of_order(&sent));
    assert_eq!(violations(&sent), Vec::<String>::new());
    assert!(sent.len() >= 20, "only {} attempts were granted: the test proves nothing", sent.len());
}

/// Negative control. Two rules keep the order, and either alone does.
#[tokio::test]
async fn a_function_that_believes_every_instant_is_caught() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    let mut source: String = sqlx::query_scalar(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid = 'budget.decide'::regproc",
    )
    .fetch_one(&mut db)
    .await
    .unwrap();
    for (rule, gone) in [
        ("greatest(budget.dated(p_instant), a.last_attempt_at)", "p_instant"),
        ("ELSIF a.last_attempt_at + spacing > at THEN", "ELSIF false THEN"),
    ] {
        assert!(source.contains(rule), "{rule} is not there any more");
        source = source.replace(rule, gone);
    }
    db.execute(sqlx::AssertSqlSafe(source)).await.unwrap();
    let sent = walk(&mut db, 400).await;
    assert!(out_of_order(&sent), "nobody saw that the protection was gone");
}

/// The door that services use, after a clock that had been two days ahead came back.
#[tokio::test]
async fn after_the_database_s_clock_went_back_the_last_attempt_still_counts_from_when_it_was() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let (tenant, key) = (TenantId::new(), account("ann"));
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(&db, tenant).await.unwrap();
    let answer = reservation.ask(&ask(AttemptId::new(), &key, limits(1, None), &intent)).await.unwrap();
    assert_eq!(answer, Answer::Granted);
    let (_permit, ticket) = reservation.commit().await.unwrap().unwrap();
    let mut tx = db.tenant(tenant).await.unwrap();
    let ended = Ended { answered: true, result: "invalid", code: None, locked: false };
    assert!(limiter::settle(&mut tx, &ticket, &ended).await.unwrap());
    tx.commit().await.unwrap();
    let mut superuser = database.superuser().await.connect().await.unwrap();
    let then: OffsetDateTime = sqlx::query_scalar(
        "UPDATE budget.account SET last_attempt_at = last_attempt_at + interval '2 days',
             recent = ARRAY[last_attempt_at + interval '2 days'] RETURNING last_attempt_at",
    )
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    let mut again = Reservation::begin(&db, tenant).await.unwrap();
    let answer = again.ask(&ask(AttemptId::new(), &key, limits(1, None), &intent)).await.unwrap();
    assert_eq!(answer, Answer::Denied { reason: Denial::Window, free_at: Some(then + WINDOW) });
    again.abandon().await.unwrap();
}
