//! The private servers that everything else stands on.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use parapet::servers::{Permissions, Postgres, PostgresSettings, RabbitMq};
use sqlx::{ConnectOptions as _, Connection as _};

#[tokio::test]
async fn committed_rows_survive_a_kill_of_the_database_server() {
    let dir = e2e::server_dir();
    let server = Postgres::start(&dir.path().join("pg"), PostgresSettings::for_tests(), e2e::certificates())
        .await
        .unwrap();
    let mut connection = server.connect("postgres").await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 1000)")
        .execute(&mut connection)
        .await
        .unwrap();
    server.kill().await;
    assert!(server.connect("postgres").await.is_err());
    server.start_again().await.unwrap();
    let mut connection = server.connect("postgres").await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1000);
    server.stop().await;
}

#[tokio::test]
async fn a_server_finds_its_data_and_its_port_at_the_next_start() {
    let dir = e2e::server_dir();
    let dir = dir.path().join("pg");
    let first = Postgres::start(&dir, PostgresSettings::for_tests(), e2e::certificates()).await.unwrap();
    first.create_database("mine", None).await.unwrap();
    let port = first.port();
    first.stop().await;
    let second = Postgres::start(&dir, PostgresSettings::for_tests(), e2e::certificates()).await.unwrap();
    assert_eq!(second.port(), port);
    second.connect("mine").await.unwrap().close().await.unwrap();
    second.stop().await;
}

#[tokio::test]
async fn a_directory_made_anew_does_not_meet_the_data_of_the_one_it_replaces() {
    let dir = e2e::server_dir();
    // Closed to the server's user, as root's home is: then the data lies elsewhere, and survives the directory.
    let closed = dir.path().join("closed");
    let make = || {
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    };
    make();
    let pg = closed.join("pg");
    let first = Postgres::start(&pg, PostgresSettings::for_tests(), e2e::certificates()).await.unwrap();
    first.create_database("mine", None).await.unwrap();
    let (data, elsewhere) = (Postgres::data_dir(&pg).unwrap(), closed.with_file_name("elsewhere"));
    std::fs::rename(&closed, &elsewhere).unwrap();
    make();
    let running = Postgres::start(&pg, PostgresSettings::for_tests(), e2e::certificates()).await;
    if data.starts_with(&closed) {
        running.unwrap().stop().await;
    } else {
        assert!(running.unwrap_err().to_string().contains("still serves"), "never under a server");
    }
    first.stop().await;
    std::fs::remove_dir_all(&closed).unwrap();
    make();
    let second = Postgres::start(&pg, PostgresSettings::for_tests(), e2e::certificates()).await.unwrap();
    assert!(second.connect("mine").await.is_err(), "it is empty");
    second.stop().await;
    std::fs::remove_dir_all(Postgres::data_dir(&pg).unwrap()).unwrap();
}

#[tokio::test]
async fn two_sets_of_servers_live_side_by_side() {
    let shared = e2e::servers().await;
    let dir = e2e::server_dir();
    let (postgres_dir, rabbitmq_dir) = (dir.path().join("pg"), dir.path().join("mq"));
    let (postgres, rabbitmq) = tokio::try_join!(
        Postgres::start(&postgres_dir, PostgresSettings::for_tests(), e2e::certificates()),
        RabbitMq::start(&rabbitmq_dir, e2e::certificates())
    )
    .unwrap();
    assert_ne!(postgres.port(), shared.postgres.port());
    assert_ne!(rabbitmq.port(), shared.rabbitmq.port());
    for server in [&shared.rabbitmq, &rabbitmq] {
        server.create_vhost("side-by-side").await.unwrap();
        let connected = server.administrator("side-by-side").connect("test").await;
        connected.unwrap().close(200, "done".into()).await.unwrap();
    }
    postgres.stop().await;
    rabbitmq.shut_down().await;
}

#[tokio::test]
async fn a_killed_broker_comes_back_on_its_port_with_its_virtual_hosts() {
    let dir = e2e::server_dir();
    let server = RabbitMq::start(&dir.path().join("mq"), e2e::certificates()).await.unwrap();
    server.create_vhost("kept").await.unwrap();
    server.create_user("worker", "secret").await.unwrap();
    let nothing = Permissions { configure: "^$".into(), write: "^$".into(), read: "^$".into() };
    server.permit("kept", "worker", &nothing).await.unwrap();
    server.kill().await;
    server.start_again().await.unwrap();
    let password = dir.path().join("worker");
    std::fs::write(&password, "secret").unwrap();
    let connection = server.config("kept", "worker", &password).connect("test").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let refused = channel
        .queue_declare(
            "own".into(),
            lapin::options::QueueDeclareOptions::default(),
            lapin::types::FieldTable::default(),
        )
        .await;
    assert!(refused.unwrap_err().to_string().contains("ACCESS_REFUSED"));
    server.shut_down().await;
}

#[tokio::test]
async fn a_test_gets_its_own_database_and_virtual_host_quickly() {
    e2e::servers().await;
    let start = Instant::now();
    let (one, two) = (e2e::database().await, e2e::database().await);
    let (here, there) = (e2e::vhost().await, e2e::vhost().await);
    let took = start.elapsed();
    assert_ne!(one.name, two.name);
    assert_ne!(here.name, there.name);
    for database in [&one, &two] {
        database.superuser().await.connect().await.unwrap().close().await.unwrap();
    }
    println!("two databases and two virtual hosts in {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}
