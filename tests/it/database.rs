//! The door to PostgreSQL: its traps, each with and without the protection.

use std::time::Duration;

use e2e::{Bus, Proxy, until};
use shared::{
    db::{Db, StoreError},
    id::TenantId,
};
use sqlx::{Connection as _, Row as _, postgres::PgPoolOptions};

/// Sessions of the service's role that sit inside a transaction and do nothing.
const STUCK: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'parapet_validator' AND state LIKE 'idle in transaction%'";

#[tokio::test]
async fn requests_cancelled_while_the_database_is_slow_leave_no_transaction_open() {
    let bus = Bus::without_queues().await;
    bus.execute(
        "CREATE TABLE validator.useful (n int); GRANT INSERT ON validator.useful TO parapet_validator",
    )
    .await;
    let proxy = Proxy::to(bus.common.database.port).await;
    let mut config = bus.common_as("parapet_validator").database;
    config.port = proxy.port();
    let db = Db::connect(&config).await.unwrap();
    // Ten connections are there before it becomes slow.
    let held = futures::future::join_all((0..10).map(|_| db.system())).await;
    drop(held);
    for n in 0..10 {
        insert(&db, n).await;
    }
    proxy.delay(DELAY);
    let mut cancelled = 0;
    for round in 0..ROUNDS {
        let call = || {
            let db = db.clone();
            async move { db.system().await.map(drop).map_err(|e| e.to_string()) }
        };
        cancelled += cancel_some(round, call).await;
    }
    assert!(cancelled > 40, "only {cancelled} calls were cancelled in the middle");
    bus.until_count(STUCK, 0).await;
    // Useful work goes on, also on connections that were taken away from under a caller, and it is durable.
    proxy.delay(Duration::ZERO);
    for n in 10..60 {
        insert(&db, n).await;
    }
    assert_eq!(bus.count("SELECT count(*) FROM validator.useful").await, 60);
    db.close().await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.useful").await, 60);
}

/// Negative control: the same with the bare pool of sqlx. When it starts to hold there, the protections may go.
#[tokio::test]
async fn a_bare_pool_keeps_transactions_of_cancelled_requests_open() {
    let bus = Bus::without_queues().await;
    bus.execute(
        "CREATE TABLE validator.useful (n int); GRANT INSERT ON validator.useful TO parapet_validator",
    )
    .await;
    let proxy = Proxy::to(bus.common.database.port).await;
    let servers = e2e::servers().await;
    let options = servers.postgres.connect_options(&bus.common.database.database).port(proxy.port());
    let options = options.username("parapet_validator").password(e2e::servers::ROLE_PASSWORD);
    let pool = PgPoolOptions::new().max_connections(10).connect_with(options).await.unwrap();
    // Ten connections are there before it becomes slow.
    let held: Vec<_> = futures::future::join_all((0..10).map(|_| pool.acquire())).await;
    drop(held);
    proxy.delay(DELAY);
    let mut stuck = 0;
    for round in 0..ROUNDS {
        let call = || {
            let pool = pool.clone();
            async move {
                #[expect(clippy::disallowed_methods, reason = "shows what the rule forbids")]
                let begun = pool.begin().await;
                begun.map(drop).map_err(|e| e.to_string())
            }
        };
        cancel_some(round, call).await;
        stuck = lasting(&bus).await;
        if stuck > 0 {
            break;
        }
    }
    assert!(stuck > 0, "no transaction was left open: the trap of sqlx is gone");
    proxy.delay(Duration::ZERO);
    // The next statement runs inside the forgotten transaction: it is answered, and lost with the connection.
    let connections = futures::future::join_all((0..10).map(|_| pool.acquire())).await;
    let answered = i64::try_from(connections.len()).unwrap();
    for connection in connections {
        let mut connection = connection.unwrap();
        sqlx::query("INSERT INTO validator.useful VALUES (1)").execute(&mut *connection).await.unwrap();
    }
    pool.close().await;
    assert!(bus.count("SELECT count(*) FROM validator.useful").await < answered);
}

/// Transactions that are still open when everything has come to rest: the fewest of many looks.
async fn lasting(bus: &Bus) -> i64 {
    let mut fewest = i64::MAX;
    for _ in 0..20 {
        fewest = fewest.min(bus.count(STUCK).await);
        if fewest == 0 {
            break;
        }
        tokio::time::sleep(DELAY * 2).await;
    }
    fewest
}

/// How long a piece of data takes in each direction.
const DELAY: Duration = Duration::from_millis(15);
const CALLERS: u64 = 10;
const ROUNDS: u64 = 40;

/// Starts ten calls and drops each after another time, from before its first answer to after its last; returns how
/// many were dropped in the middle.
async fn cancel_some<F>(round: u64, call: impl Fn() -> F) -> usize
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let callers = (0..CALLERS).map(|n| {
        let patience = DELAY / 3 * u32::try_from(1 + (n * 3 + round) % 30).unwrap();
        tokio::spawn(tokio::time::timeout(patience, call()))
    });
    let mut cancelled = 0;
    for caller in callers.collect::<Vec<_>>() {
        match caller.await.unwrap() {
            Ok(result) => result.unwrap(),
            Err(_) => cancelled += 1,
        }
    }
    cancelled
}

async fn insert(db: &Db, n: i32) {
    let mut tx = db.system().await.unwrap();
    sqlx::query("INSERT INTO useful VALUES ($1)").bind(n).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn commit_refuses_a_transaction_in_which_a_statement_failed_unseen() {
    let bus = Bus::without_queues().await;
    bus.execute("CREATE TABLE validator.useful (n int PRIMARY KEY); GRANT INSERT, SELECT ON validator.useful TO parapet_validator")
        .await;
    let db = Db::connect(&bus.common_as("parapet_validator").database).await.unwrap();
    insert(&db, 1).await;
    let mut tx = db.system().await.unwrap();
    sqlx::query("INSERT INTO useful VALUES (2)").execute(&mut *tx).await.unwrap();
    let swallowed = sqlx::query("INSERT INTO useful VALUES (1)").execute(&mut *tx).await;
    assert!(swallowed.is_err());
    assert!(matches!(tx.commit().await, Err(StoreError::Aborted)));
    assert_eq!(bus.count("SELECT count(*) FROM validator.useful").await, 1);
    insert(&db, 3).await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.useful").await, 2);
}

/// Negative control: sqlx alone says that it committed, and nothing is there.
#[tokio::test]
async fn a_bare_commit_says_ok_and_keeps_nothing() {
    let bus = Bus::without_queues().await;
    bus.execute("CREATE TABLE public.useful (n int PRIMARY KEY); INSERT INTO public.useful VALUES (1)").await;
    let mut connection = bus.superuser().await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::query("INSERT INTO public.useful VALUES (2)").execute(&mut *tx).await.unwrap();
    assert!(sqlx::query("INSERT INTO public.useful VALUES (1)").execute(&mut *tx).await.is_err());
    tx.commit().await.expect("sqlx reports the ROLLBACK now: the extra question in Tx::commit may go");
    assert_eq!(bus.count("SELECT count(*) FROM public.useful").await, 1);
}

#[tokio::test]
async fn a_duplicate_names_its_constraint_and_shows_no_value() {
    let bus = Bus::without_queues().await;
    bus.execute("CREATE TABLE validator.useful (name text PRIMARY KEY); GRANT INSERT ON validator.useful TO parapet_validator")
        .await;
    let db = Db::connect(&bus.common_as("parapet_validator").database).await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..2 {
        let mut tx = db.system().await.unwrap();
        let result = sqlx::query("INSERT INTO useful VALUES ('ann@example.com')").execute(&mut *tx).await;
        match result {
            Ok(_) => tx.commit().await.unwrap(),
            Err(error) => errors.push(StoreError::from(error)),
        }
    }
    let [StoreError::Duplicate { constraint }] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!(constraint, "useful_pkey");
    assert!(!format!("{errors:?}").contains("ann"), "{errors:?}");
}

#[tokio::test]
async fn a_tenants_transaction_sees_and_writes_its_own_rows_only() {
    let bus = Bus::without_queues().await;
    bus.execute(
        "CREATE TABLE validator.probe (tenant_id uuid NOT NULL, n int, PRIMARY KEY (tenant_id, n));
         SELECT platform.protect_tenant_table('validator.probe');
         GRANT SELECT, INSERT ON validator.probe TO parapet_validator",
    )
    .await;
    let mut config = bus.common_as("parapet_validator").database;
    config.max_connections = 2;
    let db = Db::connect(&config).await.unwrap();
    let (one, other) = (TenantId::new(), TenantId::new());
    for tenant in [one, other, one, other] {
        let mut tx = db.tenant(tenant).await.unwrap();
        sqlx::query("INSERT INTO probe SELECT $1, count(*) FROM probe")
            .bind(tenant)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = db.tenant(one).await.unwrap();
    let seen = sqlx::query("SELECT tenant_id FROM probe").fetch_all(&mut *tx).await.unwrap();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|row| row.get::<TenantId, _>(0) == one));
    let foreign = sqlx::query("INSERT INTO probe VALUES ($1, 9)").bind(other).execute(&mut *tx).await;
    assert!(foreign.is_err(), "wrote another tenant's row");
    drop(tx);
    // The setting ends with its transaction, on every connection of the pool.
    for _ in 0..6 {
        let mut tx = db.system().await.unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM probe").fetch_one(&mut *tx).await.unwrap();
        assert_eq!(seen, 0);
        tx.rollback().await.unwrap();
    }
    let mut tx = db.tenant(one).await.unwrap();
    tx.set_tenant(other).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM probe").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn a_server_that_may_lose_commits_is_refused() {
    let bus = Bus::without_queues().await;
    let config = bus.common_as("parapet_validator").database;
    Db::connect(&config).await.unwrap().close().await;
    bus.execute(
        "DO $$ BEGIN EXECUTE format('ALTER ROLE parapet_validator IN DATABASE %I SET synchronous_commit = off', current_database()); END $$",
    )
    .await;
    let refused = Db::connect(&config).await;
    assert!(matches!(refused, Err(StoreError::NotDurable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_connection_made_later_is_checked_too() {
    let bus = Bus::without_queues().await;
    let mut config = bus.common_as("parapet_validator").database;
    config.acquire_timeout_seconds = 2;
    let db = Db::connect(&config).await.unwrap();
    bus.execute(
        "DO $$ BEGIN EXECUTE format('ALTER ROLE parapet_validator IN DATABASE %I SET synchronous_commit = off', current_database()); END $$",
    )
    .await;
    assert!(db.system().await.is_err(), "a connection to an undurable server was used");
}

#[tokio::test]
async fn inbox_partitions_are_made_ahead_and_dropped_when_their_messages_are_too_old() {
    let bus = Bus::without_queues().await;
    bus.execute(
        "CREATE TABLE audit.inbox_20200101 PARTITION OF audit.inbox
             FOR VALUES FROM (platform.uuid_floor('2020-01-01')) TO (platform.uuid_floor('2020-01-02'))",
    )
    .await;
    let db = Db::connect(&bus.common_as("parapet_audit").database).await.unwrap();
    shared::inbox::maintain(&db).await.unwrap();
    shared::inbox::maintain(&db).await.unwrap();
    assert_eq!(bus.count("SELECT count(*) FROM pg_class WHERE relname = 'inbox_20200101'").await, 0);
    let ahead = bus
        .count(
            "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'audit.inbox'::regclass
               AND to_date(right(c.relname, 8), 'YYYYMMDD') BETWEEN (clock_timestamp() AT TIME ZONE 'UTC')::date
                   AND (clock_timestamp() AT TIME ZONE 'UTC')::date + 3",
        )
        .await;
    assert_eq!(ahead, 4);
    // A partition of 15 days ago may hold messages of 14 days ago: with one there, the days between exist as well.
    assert!(
        bus.count("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit.inbox'::regclass").await >= 18
    );
}

#[tokio::test]
async fn a_service_that_lost_the_database_finds_it_again() {
    let bus = Bus::without_queues().await;
    let proxy = Proxy::to(bus.common.database.port).await;
    let mut config = bus.common_as("parapet_validator").database;
    config.port = proxy.port();
    config.acquire_timeout_seconds = 1;
    let db = Db::connect(&config).await.unwrap();
    db.ping().await.unwrap();
    proxy.close();
    let error = db.ping().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    proxy.open();
    db.wait_until_reachable().await;
    until("the database answers", || async { db.ping().await.is_ok() }).await;
}
