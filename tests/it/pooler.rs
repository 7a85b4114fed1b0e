//! Behind a pooler that lends a connection to the server for one transaction (`common.database.pooler`).

use std::time::Duration;

use e2e::{
    Bus, PgBouncer,
    pooler::SERVER_CONNECTIONS,
    validation::{Leak, World, password},
};
use futures::future::join_all;
use shared::{db::Db, id::TenantId};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

const CALLERS: usize = 8;
const ROUNDS: usize = 30;

/// One transaction with statements of its own, which prepares them in an order of its own.
async fn work(db: &Db, tenant: TenantId, caller: usize, round: usize) {
    let mut tx = match round % 2 {
        0 => db.tenant(tenant).await.unwrap(),
        _ => db.tenant_by_key(tenant).await.unwrap(),
    };
    for shift in 0..3 {
        let nth = (caller + round + shift) % 5;
        let statement = format!("SELECT $1::bigint + {nth}, current_setting('app.tenant')");
        let (sum, seen): (i64, String) =
            sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(1_i64).fetch_one(&mut *tx).await.unwrap();
        assert_eq!((sum, seen), (1 + i64::try_from(nth).unwrap(), tenant.to_string()));
    }
    let held: Vec<String> = sqlx::query_scalar(
        "SELECT current_setting(name) FROM unnest(ARRAY['statement_timeout', 'lock_timeout',
             'idle_in_transaction_session_timeout', 'plan_cache_mode', 'random_page_cost', 'jit']) AS name",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    assert_eq!(held, ["1min", "20s", "1min", "force_custom_plan", "1.1", "off"]);
    let insert = sqlx::query("INSERT INTO validator.useful VALUES ($1, $2)");
    insert.bind(tenant).bind(i64::try_from(round).unwrap()).execute(&mut *tx).await.unwrap();
    if round.is_multiple_of(3) {
        drop(tx); // its connection goes, and with it the server's
    } else {
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_share_two_of_a_pooler_and_each_transaction_is_as_it_would_be_alone() {
    let (bus, pooler) = (Bus::without_queues().await, PgBouncer::start().await);
    bus.execute(
        "CREATE TABLE validator.useful (tenant_id uuid, n bigint);
         GRANT SELECT, INSERT ON validator.useful TO parapet_validator;
         SELECT platform.protect_tenant_table('validator.useful')",
    )
    .await;
    let config = pooler.before(&bus.common_as("parapet_validator").database);
    let db = Db::connect(&config).await.unwrap();
    join_all((0..CALLERS).map(|caller| {
        let db = db.clone();
        async move {
            let tenant = TenantId::new();
            for round in 0..ROUNDS {
                work(&db, tenant, caller, round).await;
            }
            let mut tx = db.tenant(tenant).await.unwrap();
            let own: i64 = sqlx::query_scalar("SELECT count(*) FROM validator.useful")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            tx.rollback().await.unwrap();
            assert_eq!(own, i64::try_from(ROUNDS - ROUNDS / 3).unwrap(), "its own rows, and all of them");
        }
    }))
    .await;
    // Nobody's tenant stays in a session.
    let mut tx = db.system().await.unwrap();
    let foreign: i64 =
        sqlx::query_scalar("SELECT count(*) FROM validator.useful").fetch_one(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(foreign, 0);
    let sessions = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = 'parapet_validator'";
    let sessions = usize::try_from(bus.count(sessions).await).unwrap();
    assert!((1..=SERVER_CONNECTIONS).contains(&sessions), "{sessions} connections to the server");
    db.close().await;
}

/// Negative control: who does not know of the pooler is refused for what it asks of its session.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_a_pooler_refuses_the_connection() {
    let (bus, pooler) = (Bus::without_queues().await, PgBouncer::start().await);
    let config = pooler.unknown(&bus.common_as("parapet_validator").database);
    let refused = Db::connect(&config).await.unwrap_err();
    assert!(format!("{refused:?}").contains("unsupported startup parameter"), "{refused:?}");
}

/// Negative control: with the driver's cache off and nothing more, as many a guide has it, prepared statements collide. When
/// this no longer fails, `DEALLOCATE ALL` may go.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_of_two_connections_collide_in_one_session() {
    let (bus, pooler) = (Bus::without_queues().await, PgBouncer::start().await);
    let config = pooler.unknown(&bus.common_as("parapet_validator").database);
    let options = PgConnectOptions::new_without_pgpass()
        .host(&config.host)
        .port(config.port)
        .database(&config.database)
        .username(&config.user)
        .password(e2e::servers::ROLE_PASSWORD)
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(config.ca_file.as_ref().unwrap())
        .extra_float_digits(None)
        .statement_cache_capacity(0);
    let mut collided = false;
    for _ in 0..=SERVER_CONNECTIONS {
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("BEGIN").execute(&mut connection).await.unwrap();
        let one =
            sqlx::query_scalar::<_, i64>("SELECT $1::bigint").bind(1_i64).fetch_one(&mut connection).await;
        collided |= one.is_err_and(|error| error.to_string().contains("already exists"));
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
    assert!(collided);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_behind_a_pooler_comes_to_its_verdicts() {
    let pooler = PgBouncer::start().await;
    let mut world = World::new(20).await;
    world.reach_database(|config| *config = pooler.before(config));
    let mut validator = world.validator(&e2e::program("validator-under-test"), None);
    let leak = |account| Leak {
        account,
        password: if account % 2 == 0 { password(account) } else { "wrong-guess".into() },
    };
    world.leak(&(0..20).map(leak).collect::<Vec<_>>()).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'valid'", 10).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 10).await;
    assert_eq!(world.submissions().len(), 20);
    let stopped = tokio::time::timeout(Duration::from_secs(20), async {
        let pid = rustix::process::Pid::from_raw(i32::try_from(validator.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        validator.wait().await.unwrap()
    });
    assert!(stopped.await.unwrap().success());
}
