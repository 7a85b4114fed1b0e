//! The doors around the decision: who may call what, commits without an answer, settling, explaining.

use std::sync::Arc;

use shared::{
    db::StoreError,
    id::{AttemptId, TenantId},
    limiter::{self, Answer, Denial, Ended, OwnerSeen, Reservation},
    tls::{self, Files},
};
use sqlx::{ConnectOptions as _, Executor as _};
use time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

use super::{
    Question, START, UNSEEN, WINDOW, account, as_validator, ask, decide, intent, limits, settle, spend,
};

/// Forwards to PostgreSQL until told to swallow the next answer: the server has the bytes, the client never hears. TLS
/// ends here on both sides, so that it sees what goes through.
async fn swallowing_proxy(port: u16) -> (u16, watch::Sender<bool>) {
    let own = e2e::certificates().of("postgres");
    let presented = Files { own: Some((own.cert, own.key)), authorities: None, optional: false };
    let presented = tls::server("test", presented, &[]).await.unwrap();
    let believed = Files { own: None, authorities: Some(e2e::certificates().ca()), optional: false };
    let believed = Arc::new(tls::client_once("test", &believed).await.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let (swallow, told) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // In clear, each connection asks whether TLS is spoken, in eight bytes, and is answered with one.
            let mut asked = [0; 8];
            client.read_exact(&mut asked).await.unwrap();
            server.write_all(&asked).await.unwrap();
            let answer = server.read_u8().await.unwrap();
            client.write_u8(answer).await.unwrap();
            let client = TlsAcceptor::from(presented.current()).accept(client).await.unwrap();
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let server = TlsConnector::from(Arc::clone(&believed)).connect(name, server).await.unwrap();
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (mut from_server, mut to_server) = tokio::io::split(server);
            tokio::spawn(async move {
                tokio::io::copy(&mut from_client, &mut to_server).await.ok();
                to_server.shutdown().await.ok();
            });
            let told = told.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(n) = from_server.read(&mut buffer).await {
                    // An answer to SELECT 1 or COMMIT that is swallowed closes the client's side.
                    if n == 0 || (*told.borrow() && buffer[..n].windows(6).any(|w| w == b"COMMIT")) {
                        break;
                    }
                    if to_client.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
                to_client.shutdown().await.ok();
            });
        }
    });
    (own, swallow)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_gives_no_permit_and_keeps_the_slot_spent() {
    let database = e2e::database().await;
    let (port, swallow) = swallowing_proxy(database.superuser().await.get_port()).await;
    let db = as_validator(&database, Some(port)).await;
    let (tenant, attempt, key) = (TenantId::new(), AttemptId::new(), account("ann"));
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(&db, tenant).await.unwrap();
    let answer = reservation.ask(&ask(attempt, &key, limits(2, None), &intent)).await.unwrap();
    assert_eq!(answer, Answer::Granted);
    swallow.send(true).unwrap();
    let lost = reservation.commit().await.unwrap_err();
    assert!(lost.is_transient(), "{lost:?}");
    swallow.send(false).unwrap();
    // The redelivery finds the reservation and is not granted; the budget counts it; the intent is there.
    let mut again = Reservation::begin(&db, tenant).await.unwrap();
    assert_eq!(again.ask(&ask(attempt, &key, limits(2, None), &intent)).await.unwrap(), Answer::Already);
    assert!(again.commit().await.unwrap().is_none());
    let mut tx = db.system().await.unwrap();
    let explained = limiter::explain(&mut tx, &key, &limits(2, None)).await.unwrap();
    assert_eq!((explained.used, explained.in_flight), (1, true));
    tx.rollback().await.unwrap();
    let mut superuser = database.superuser().await.connect().await.unwrap();
    let intents: i64 =
        sqlx::query_scalar("SELECT count(*) FROM budget.outbox").fetch_one(&mut superuser).await.unwrap();
    assert_eq!(intents, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_does_not_commit_leaves_nothing_behind() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let (tenant, key) = (TenantId::new(), account("ann"));
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(&db, tenant).await.unwrap();
    reservation.ask(&ask(AttemptId::new(), &key, limits(2, None), &intent)).await.unwrap();
    // A statement fails and nobody looks: the commit must not be believed.
    let broken = sqlx::query("SELECT 1/0").execute(&mut **reservation.tx()).await;
    assert!(broken.is_err());
    assert!(matches!(reservation.commit().await, Err(StoreError::Aborted)));
    let mut superuser = database.superuser().await.connect().await.unwrap();
    for table in ["budget.attempt", "budget.account", "budget.outbox"] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(&mut superuser).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn the_validator_s_role_reaches_the_budget_through_its_functions_only() {
    let database = e2e::database().await;
    let mut superuser = database.superuser().await.connect().await.unwrap();
    for statement in [
        "SELECT * FROM budget.account",
        "SELECT * FROM budget.attempt",
        "UPDATE budget.account SET recent = '{}'",
        "DELETE FROM budget.attempt",
        "INSERT INTO budget.attempt (attempt_id) VALUES (gen_random_uuid())",
        "SELECT budget.vouch('okta', 'd', 'o')",
        "SELECT budget.expire(1, now())",
        "SELECT budget.decide(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)",
    ] {
        for role in
            ["parapet_api", "parapet_sync", "parapet_validator", "parapet_mitigation", "parapet_audit"]
        {
            let set = sqlx::AssertSqlSafe(format!("SET ROLE {role}"));
            superuser.execute(set).await.unwrap();
            let error = superuser.execute(statement).await.unwrap_err();
            let code = error.as_database_error().unwrap().code().unwrap().into_owned();
            assert_eq!(code, "42501", "{role}: {statement}");
        }
    }
    superuser.execute("RESET ROLE").await.unwrap();
    let callers: Vec<String> = sqlx::query_scalar(
        "SELECT r.rolname::text FROM pg_proc p, pg_roles r
         WHERE p.pronamespace = 'budget'::regnamespace AND p.proname IN ('reserve', 'settle', 'reap')
           AND r.rolname LIKE 'parapet_%' AND r.rolname <> 'parapet_budget_owner' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
         GROUP BY 1",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    assert_eq!(callers, ["parapet_validator"]);
    let owner: (bool, bool, bool) = sqlx::query_as(
        "SELECT rolcanlogin, rolbypassrls, rolsuper FROM pg_roles WHERE rolname = 'parapet_budget_owner'",
    )
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    assert_eq!(owner, (false, false, false));
}

#[tokio::test]
async fn the_function_services_call_holds_the_clock_and_the_window_and_nothing_else() {
    let database = e2e::database().await;
    let mut superuser = database.superuser().await.connect().await.unwrap();
    let source: String =
        sqlx::query_scalar("SELECT prosrc FROM pg_proc WHERE oid = 'budget.reserve'::regproc")
            .fetch_one(&mut superuser)
            .await
            .unwrap();
    let words: Vec<_> = source.split_whitespace().collect();
    assert_eq!(
        words.join(" "),
        "BEGIN RETURN budget.decide($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
         clock_timestamp(), interval '25 hours 15 minutes', $18); END"
    );
}

#[tokio::test]
async fn only_the_holder_settles_and_the_reaper_makes_the_rest_unknown() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    let held = Question::new("held", limits(2, None), START);
    let lost = Question::new("lost", limits(2, None), START);
    for q in [&held, &lost] {
        assert!(decide(&mut db, q).await.unwrap().granted());
    }
    let thief = Question { nonce: uuid::Uuid::new_v4(), ..held.clone() };
    assert!(!settle(&mut db, &thief).await);
    assert!(settle(&mut db, &held).await);
    assert!(!settle(&mut db, &held).await, "an attempt is settled once");
    let reaped: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT budget.expire(10, $1)")
        .bind(START + Duration::minutes(3))
        .fetch_all(&mut db)
        .await
        .unwrap();
    assert_eq!(reaped, [lost.attempt]);
    assert!(!settle(&mut db, &lost).await, "the reaper was first");
    let kept: (String, Option<String>, Option<String>) =
        sqlx::query_as("SELECT state, result, late_result FROM budget.attempt WHERE attempt_id = $1")
            .bind(lost.attempt)
            .fetch_one(&mut db)
            .await
            .unwrap();
    assert_eq!(kept, ("unknown".into(), None, Some("invalid".into())));
    let next = Question::new("lost", limits(1, None), START + Duration::hours(1));
    assert_eq!(decide(&mut db, &next).await.unwrap().reason(), "window", "an unknown attempt stays spent");
}

#[tokio::test]
async fn the_owner_s_reserve_falls_only_when_the_directory_shows_the_owner() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    let at = |days: i64| START + Duration::days(2 * days);
    for day in 0..5 {
        assert!(spend(&mut db, &Question::new("ann", limits(2, None), at(day))).await.granted(), "{day}");
    }
    // Half of ten is spent; time does not help, nor does our own trace, nor a date from the future.
    let seen = |sign_in_at| OwnerSeen { sign_in_at, ..UNSEEN };
    for shown in [None, Some(at(4) + Duration::minutes(10)), Some(at(40))] {
        let q = Question::new("ann", limits(2, None), at(30)).owner(seen(shown));
        assert_eq!(spend(&mut db, &q).await.reason(), "reserve", "{shown:?}");
    }
    let q = Question::new("ann", limits(2, None), at(30)).owner(seen(Some(at(4) + Duration::hours(1))));
    let said = spend(&mut db, &q).await;
    assert!(said.granted());
    assert_eq!(said.since_success, Some(1));
}

#[tokio::test]
async fn the_owner_keeps_three_tries_even_with_those_that_the_log_shows() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    let at = |days: i64| START + Duration::days(2 * days);
    let of_ten = |object: &str, day, failures| {
        Question::new(object, limits(2, None), at(day)).owner(OwnerSeen { failures, ..UNSEEN })
    };
    // Ten lock. Four of the owner's and two of ours leave three before the one that does.
    for day in 0..2 {
        assert!(spend(&mut db, &of_ten("ann", day, Some(4))).await.granted(), "{day}");
    }
    assert_eq!(spend(&mut db, &of_ten("ann", 2, Some(4))).await.reason(), "reserve");
    assert_eq!(
        spend(&mut db, &of_ten("ann", 3, None)).await.reason(),
        "reserve",
        "what was seen is not forgotten"
    );
    assert!(spend(&mut db, &of_ten("ann", 4, Some(3))).await.granted(), "the log says otherwise");
    assert_eq!(spend(&mut db, &of_ten("bob", 0, Some(6))).await.reason(), "reserve");
    assert_eq!(
        spend(&mut db, &of_ten("eve", 0, Some(i32::MAX.unsigned_abs()))).await.reason(),
        "reserve",
        "a lock"
    );
    // A sign-in that is surely later ends it, and failures after it count again.
    let later = OwnerSeen { sign_in_at: Some(at(5)), failures: Some(5), ..UNSEEN };
    let q = Question::new("ann", limits(2, None), at(6)).owner(later);
    assert!(spend(&mut db, &q).await.granted());
    assert_eq!(spend(&mut db, &of_ten("ann", 7, Some(5))).await.reason(), "reserve");
}

/// Negative control.
#[tokio::test]
async fn a_function_that_overlooks_the_owner_s_tries_takes_the_last_of_them() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    db.execute(
        "CREATE OR REPLACE FUNCTION budget.reserve_left(r budget.rules, owner_failures integer) RETURNS integer
             LANGUAGE sql IMMUTABLE AS 'SELECT ($1).reserve_limit'",
    )
    .await
    .unwrap();
    let q = Question::new("ann", limits(2, None), START).owner(OwnerSeen { failures: Some(9), ..UNSEEN });
    assert!(spend(&mut db, &q).await.granted(), "the tenth locks");
}

#[tokio::test]
async fn an_unlock_that_was_seen_and_an_operator_s_word_reset_the_count() {
    let database = e2e::database().await;
    let mut db = database.superuser().await.connect().await.unwrap();
    let at = |hours: i64| START + Duration::hours(hours);
    assert!(spend(&mut db, &Question::new("ann", limits(5, Some(5)), at(0))).await.granted());
    assert_eq!(spend(&mut db, &Question::new("ann", limits(5, Some(5)), at(30))).await.reason(), "reserve");
    let locked = Question::new("ann", limits(5, Some(5)), at(31)).owner(OwnerSeen { locked: true, ..UNSEEN });
    assert_eq!(spend(&mut db, &locked).await.reason(), "locked");
    assert!(spend(&mut db, &Question::new("ann", limits(5, Some(5)), at(32))).await.granted());
    assert_eq!(spend(&mut db, &Question::new("ann", limits(5, Some(5)), at(60))).await.reason(), "reserve");
    db.execute("SELECT budget.vouch('okta', 'd', 'ann')").await.unwrap();
    assert!(spend(&mut db, &Question::new("ann", limits(5, Some(5)), at(60))).await.granted());
}

#[tokio::test]
async fn a_locked_answer_keeps_the_account_untouched_for_a_window() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let (tenant, key) = (TenantId::new(), account("ann"));
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(&db, tenant).await.unwrap();
    reservation.ask(&ask(AttemptId::new(), &key, limits(2, None), &intent)).await.unwrap();
    let (_permit, ticket) = reservation.commit().await.unwrap().unwrap();
    let mut tx = db.tenant(tenant).await.unwrap();
    let ended = Ended { answered: true, result: "inconclusive", code: Some("AADSTS50053"), locked: true };
    assert!(limiter::settle(&mut tx, &ticket, &ended).await.unwrap());
    tx.commit().await.unwrap();
    let mut again = Reservation::begin(&db, tenant).await.unwrap();
    let now = again.tx().clock().await.unwrap();
    let answer = again.ask(&ask(AttemptId::new(), &key, limits(2, None), &intent)).await.unwrap();
    let Answer::Denied { reason: Denial::Cooling, free_at: Some(free_at) } = answer else {
        panic!("{answer:?}")
    };
    assert!((free_at - now - WINDOW).abs() < Duration::minutes(1), "{free_at}");
    again.abandon().await.unwrap();
}

#[tokio::test]
async fn explaining_says_what_deciding_does() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let (tenant, key) = (TenantId::new(), account("ann"));
    let mut tx = db.system().await.unwrap();
    let fresh = limiter::explain(&mut tx, &key, &limits(2, None)).await.unwrap();
    assert_eq!((fresh.limit, fresh.limited_by.as_str(), fresh.threshold), (2, "daily_max", 10));
    assert_eq!((fresh.used, fresh.reserve_limit, fresh.blocked_by), (0, 5, None));
    let low = limiter::explain(&mut tx, &key, &limits(2, Some(4))).await.unwrap();
    assert_eq!((low.limit, low.limited_by.as_str(), low.next_free_at), (0, "threshold_too_low", None));
    let half = limiter::explain(&mut tx, &key, &limits(5, Some(6))).await.unwrap();
    assert_eq!((half.limit, half.limited_by.as_str()), (2, "lockout_threshold"));
    tx.rollback().await.unwrap();
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(&db, tenant).await.unwrap();
    reservation.ask(&ask(AttemptId::new(), &key, limits(1, None), &intent)).await.unwrap();
    let (_permit, ticket) = reservation.commit().await.unwrap().unwrap();
    let mut tx = db.tenant(tenant).await.unwrap();
    let ended = Ended { answered: true, result: "invalid", code: None, locked: false };
    limiter::settle(&mut tx, &ticket, &ended).await.unwrap();
    let spent = limiter::explain(&mut tx, &key, &limits(1, None)).await.unwrap();
    assert_eq!((spent.used, spent.blocked_by.as_deref()), (1, Some("window")));
    let mut again = Reservation::begin(&db, tenant).await.unwrap();
    tx.commit().await.unwrap();
    let answer = again.ask(&ask(AttemptId::new(), &key, limits(1, None), &intent)).await.unwrap();
    assert_eq!(answer, Answer::Denied { reason: Denial::Window, free_at: spent.next_free_at });
    again.abandon().await.unwrap();
}
