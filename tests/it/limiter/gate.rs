//! The failover gate: a database that may have forgotten attempts gives no permit until they no longer count.

use std::path::Path;

use credential_validator::gate::beat;
use e2e::{Database, servers::ROLE_PASSWORD, until};
use parapet::servers::{Postgres, PostgresSettings, write_private};
use shared::{
    db::Db,
    id::{AttemptId, TenantId},
    limiter::{
        self, Answer, Denial, Reservation,
        gate::{News, Witness},
    },
};
use sqlx::{ConnectOptions as _, PgConnection, Row as _};
use time::{Duration, OffsetDateTime};

use super::{Question, START, WINDOW, account, as_validator, ask, decide, intent, limits, spend};

async fn superuser(database: &Database) -> PgConnection {
    database.superuser().await.connect().await.unwrap()
}

async fn run(db: &mut PgConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(db).await.unwrap();
}

fn closed(reason: &str, news: Option<News>) -> bool {
    matches!(news, Some(News::Closed { reason: why, .. }) if why == reason)
}

/// Asks for an attempt on ann and keeps it when it is granted.
async fn attempt(db: &Db) -> Answer {
    let (tenant, key) = (TenantId::new(), account("ann"));
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(db, tenant).await.unwrap();
    let answer = reservation.ask(&ask(AttemptId::new(), &key, limits(2, None), &intent)).await.unwrap();
    reservation.commit().await.unwrap();
    answer
}

/// Lets the last attempt on every account be over and some minutes ago.
const MINUTES_PASS: &str = "
    UPDATE budget.attempt SET state = 'answered', reserved_at = reserved_at - interval '10 minutes',
        finished_at = coalesce(finished_at, clock_timestamp());
    UPDATE budget.account SET last_attempt_at = last_attempt_at - interval '10 minutes',
        recent = ARRAY(SELECT t - interval '10 minutes' FROM unnest(recent) AS t ORDER BY t)";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_in_time_gives_no_permit_although_it_forgot_why() {
    let dir = e2e::server_dir();
    let home = dir.path().join("pg");
    let server = Postgres::start(&home, PostgresSettings::for_tests(), e2e::certificates()).await.unwrap();
    e2e::servers::prepare(&server).await;
    let name = e2e::servers::database_on(&server).await;
    let password_file = dir.path().join("password");
    write_private(&password_file, ROLE_PASSWORD.as_bytes()).unwrap();
    let connect = || {
        let config = server.config(&name, "parapet_validator", &password_file);
        async move { Db::connect(&config).await.unwrap() }
    };
    let db = connect().await;
    assert_eq!(attempt(&db).await, Answer::Granted);
    run(&mut server.connect(&name).await.unwrap(), MINUTES_PASS).await;
    assert_eq!(beat(&db, &mut Witness::default(), false).await.unwrap(), None);
    db.close().await;

    // What a backup has, or a replica that lags.
    server.stop().await;
    let (data, backup) = (Postgres::data_dir(&home).unwrap(), dir.path().join("backup"));
    copy(&data, &backup);
    server.start_again().await.unwrap();
    let db = connect().await;
    assert_eq!(beat(&db, &mut Witness::default(), false).await.unwrap(), None);
    assert_eq!(attempt(&db).await, Answer::Granted, "the second of two, acknowledged, and lost below");
    db.close().await;
    server.kill().await;
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    let mut settings = std::fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
    settings.push_str("restore_command = 'false'\n");
    std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
    server.start_again().await.unwrap();
    until("it is promoted", || async {
        let mut db = server.connect(&name).await.unwrap();
        !sqlx::query_scalar::<_, bool>("SELECT pg_is_in_recovery()").fetch_one(&mut db).await.unwrap()
    })
    .await;
    let db = connect().await;
    let mut superuser = server.connect(&name).await.unwrap();
    let remembered: i64 =
        sqlx::query_scalar("SELECT count(*) FROM budget.attempt").fetch_one(&mut superuser).await.unwrap();
    assert_eq!(remembered, 1, "it does not know of the second");

    // Denied before anybody noticed, and after.
    for noticed in [false, true] {
        let Answer::Denied { reason: Denial::Gate, free_at: Some(free_at) } = attempt(&db).await else {
            panic!("the gate is open");
        };
        let wait = free_at - OffsetDateTime::now_utc();
        assert!(wait > WINDOW - Duration::minutes(5) && wait <= WINDOW, "{wait}");
        if !noticed {
            assert!(closed("failover", beat(&db, &mut Witness::default(), true).await.unwrap()));
        }
    }
    let mut tx = db.system().await.unwrap();
    let told = limiter::explain(&mut tx, &account("ann"), &limits(2, None)).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(told.blocked_by.as_deref(), Some("gate"));
    assert!(told.next_free_at.is_some());

    // Without the gate the account gets a third password within its window.
    run(
        &mut superuser,
        "CREATE OR REPLACE FUNCTION budget.closed_until(p_instant timestamptz, p_window interval) RETURNS timestamptz
         LANGUAGE sql AS 'SELECT NULL::timestamptz'",
    )
    .await;
    assert_eq!(attempt(&db).await, Answer::Granted, "or this test proves nothing");
    db.close().await;
    server.stop().await;
}

fn copy(from: &Path, to: &Path) {
    // Keeps the owner, who is not who runs the tests.
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test]
async fn what_a_validator_saw_committed_and_the_database_forgot_closes_the_gate() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let mut superuser = superuser(&database).await;
    let mut witness = Witness::default();
    for _ in 0..3 {
        assert_eq!(beat(&db, &mut witness, true).await.unwrap(), None);
    }
    run(&mut superuser, "UPDATE budget.gate SET beats = beats - 2").await;
    assert_eq!(beat(&db, &mut Witness::default(), true).await.unwrap(), None, "who just came knows nothing");
    assert!(closed("history_lost", beat(&db, &mut witness, true).await.unwrap()));
    assert_eq!(beat(&db, &mut witness, true).await.unwrap(), None, "it is told once");
    assert!(matches!(attempt(&db).await, Answer::Denied { reason: Denial::Gate, .. }));
    let told: i64 =
        sqlx::query_scalar("SELECT count(*) FROM validator.outbox WHERE topic = 'audit.recorded'")
            .fetch_one(&mut superuser)
            .await
            .unwrap();
    assert_eq!(told, 1);

    run(
        &mut superuser,
        "UPDATE budget.gate SET closed_at = closed_at - interval '26 hours', closed_until = closed_until - interval '26 hours'",
    )
    .await;
    assert_eq!(attempt(&db).await, Answer::Granted, "a window has passed");
    assert_eq!(beat(&db, &mut witness, true).await.unwrap(), Some(News::Opened));
    assert_eq!(beat(&db, &mut witness, true).await.unwrap(), None);
}

/// What the gate has to say to a validator whose own clock says that so much less time passed than the database's.
async fn clock_ahead(db: &mut PgConnection, seconds: i32) -> Option<String> {
    sqlx::query(
        "SELECT news FROM budget.beat((SELECT beats FROM budget.gate), clock_timestamp() - $1 * interval '1 second',
             interval '0', false)",
    )
    .bind(seconds + 1)
    .fetch_one(db)
    .await
    .unwrap()
    .get(0)
}

#[tokio::test]
async fn a_clock_that_jumps_forward_closes_the_gate_and_one_that_goes_back_frees_nothing() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let mut superuser = superuser(&database).await;
    assert_eq!(clock_ahead(&mut superuser, 50).await, None, "networks and clocks may wander");
    assert_eq!(clock_ahead(&mut superuser, -300).await.as_deref(), Some("clock_back"));
    assert_eq!(attempt(&db).await, Answer::Granted);
    assert_eq!(clock_ahead(&mut superuser, 300).await.as_deref(), Some("clock_stepped"));
    assert!(matches!(attempt(&db).await, Answer::Denied { reason: Denial::Gate, .. }));

    // Before any beat sees it, nobody vouches for the clock.
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let mut superuser = self::superuser(&database).await;
    let mut witness = Witness::default();
    assert_eq!(beat(&db, &mut witness, false).await.unwrap(), None);
    run(&mut superuser, "UPDATE budget.gate SET beat_at = beat_at - interval '2 minutes'").await;
    let Answer::Denied { reason: Denial::Gate, free_at: Some(free_at) } = attempt(&db).await else {
        panic!("a jump between two beats is not noticed");
    };
    assert!(free_at - OffsetDateTime::now_utc() <= Duration::minutes(1), "the next beat tells");
    assert_eq!(beat(&db, &mut witness, false).await.unwrap(), None);
    assert_eq!(attempt(&db).await, Answer::Granted, "it was the watchers that were late");

    // The decision itself, an hour back: two attempts stay two.
    let database = e2e::database().await;
    let mut db = self::superuser(&database).await;
    let at = |minutes| Question::new("bob", limits(2, None), START + Duration::minutes(minutes));
    assert!(spend(&mut db, &at(0)).await.granted());
    assert!(spend(&mut db, &at(10)).await.granted());
    for minutes in [-60, 11, 25 * 60] {
        assert_eq!(decide(&mut db, &at(minutes)).await.unwrap().reason(), "window");
    }
}

#[tokio::test]
async fn an_attempt_is_dated_no_earlier_than_the_last_beat_even_if_the_clock_went_back_since() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let mut superuser = superuser(&database).await;
    // As shipped; the tests' template has a time of its own.
    let shipped = include_str!("../../../migrations/0074_budget_gate.sql");
    let (_, dated) = shipped.split_once("CREATE FUNCTION budget.dated").unwrap();
    let (dated, _) = dated.split_once(";\n").unwrap();
    let dated = format!("CREATE OR REPLACE FUNCTION budget.dated{dated}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(dated)).execute(&mut superuser).await.unwrap();
    assert_eq!(beat(&db, &mut Witness::default(), false).await.unwrap(), None);
    run(&mut superuser, "UPDATE budget.gate SET beat_at = beat_at + interval '1 hour'").await;
    assert_eq!(attempt(&db).await, Answer::Granted);
    let dated: bool = sqlx::query_scalar("SELECT reserved_at = beat_at FROM budget.attempt, budget.gate")
        .fetch_one(&mut superuser)
        .await
        .unwrap();
    assert!(dated);
}

#[tokio::test]
async fn a_declared_failover_is_believed_only_where_commits_were_seen_to_wait_for_a_replica() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let mut superuser = superuser(&database).await;
    let mut witness = Witness::default();
    for (replicated, declared, another, expected) in [
        ("true", true, "split_part(cluster, '/', 1) || '/000000AA'", "kept"),
        ("true", false, "split_part(cluster, '/', 1) || '/000000AB'", "failover"),
        ("false", true, "split_part(cluster, '/', 1) || '/000000AC'", "failover"),
        ("true", true, "'1234567/' || split_part(cluster, '/', 2)", "another_cluster"),
    ] {
        let before = format!(
            "UPDATE budget.gate SET cluster = {another}, replicated = {replicated}, closed_at = NULL, closed_until = NULL, reason = NULL"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(before)).execute(&mut superuser).await.unwrap();
        assert!(
            matches!(attempt(&db).await, Answer::Denied { reason: Denial::Gate, .. }),
            "until somebody looks"
        );
        let news = beat(&db, &mut witness, declared).await.unwrap();
        if expected == "kept" {
            assert_eq!(news, Some(News::Kept));
            assert_eq!(attempt(&db).await, Answer::Granted);
        } else {
            assert!(closed(expected, news), "{expected}: {news:?}");
            assert!(matches!(attempt(&db).await, Answer::Denied { reason: Denial::Gate, .. }));
        }
    }
}
