//! A database and a virtual host, declared and migrated, with services on them: what messaging tests share.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use parapet::servers::{Permissions, Postgres, RabbitMq, write_private};
use shared::{
    queue::{BrokerConfig, declare_topology},
    service::{Common, Service},
};
use sqlx::PgConnection;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::servers::{
    Database, ROLE_PASSWORD, Vhost, database, database_on, prepare, servers, unique, vhost,
};

/// Waits until the condition holds; fails the test after a minute.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where services of one test meet.
#[derive(Debug)]
pub struct Bus {
    /// Configuration of a service on this bus; the database's user is still to be set.
    pub common: Common,
    superuser: sqlx::postgres::PgConnectOptions,
    _owned: Option<(Database, Vhost)>,
}

/// A service that runs in this process, and how it is stopped.
#[derive(Debug)]
pub struct Running {
    /// The service.
    pub service: Service,
    stop: oneshot::Sender<()>,
}

impl Bus {
    /// On the shared servers.
    pub async fn new() -> Self {
        let bus = Self::without_queues().await;
        declare_topology(&bus.common.broker).await.unwrap();
        bus
    }

    /// On the shared servers, before anybody declared queues.
    pub async fn without_queues() -> Self {
        let servers = servers().await;
        let (database, vhost) = (database().await, vhost().await);
        let superuser = database.superuser().await;
        let common = common(
            &servers.postgres,
            &servers.rabbitmq,
            &database.name,
            &vhost.name,
            &servers.role_password_file,
        )
        .await;
        Self { common, superuser, _owned: Some((database, vhost)) }
    }

    /// On servers of the test's own.
    pub async fn on(postgres: &Postgres, rabbitmq: &RabbitMq, password_file: PathBuf) -> Self {
        prepare(postgres).await;
        write_private(&password_file, ROLE_PASSWORD.as_bytes()).unwrap();
        let (database, vhost) = (database_on(postgres).await, unique("test"));
        rabbitmq.create_vhost(&vhost).await.unwrap();
        let common = common(postgres, rabbitmq, &database, &vhost, &password_file).await;
        declare_topology(&common.broker).await.unwrap();
        Self { common, superuser: postgres.connect_options(&database), _owned: None }
    }

    /// The configuration of a service that logs in as this role.
    pub fn common_as(&self, role: &str) -> Common {
        let mut common = self.common.clone();
        role.clone_into(&mut common.database.user);
        common
    }

    /// Starts a bare service: lifecycle, database, publisher; no relay, no consumer.
    pub async fn start(&self, name: &'static str, role: &str) -> Running {
        start(name, self.common_as(role)).await
    }

    /// A connection as superuser, whom no row security binds.
    pub async fn superuser(&self) -> PgConnection {
        sqlx::ConnectOptions::connect(&self.superuser).await.unwrap()
    }

    /// The URL of the database, as the file for `parapet migrate` and `parapet doctor` holds it.
    pub fn superuser_url(&self) -> String {
        // sqlx writes the file of the authority as `file: PATH`, and reads PATH.
        sqlx::ConnectOptions::to_url_lossy(&self.superuser).as_str().replace("file%3A+", "")
    }

    /// Runs statements as superuser.
    pub async fn execute(&self, statements: &'static str) {
        sqlx::raw_sql(statements).execute(&mut self.superuser().await).await.unwrap();
    }

    /// Counts as superuser.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.superuser().await).await.unwrap()
    }

    /// Waits until the query, run as superuser, counts exactly this; fails when nothing changes for a minute.
    pub async fn until_count(&self, query: &'static str, expected: i64) {
        self.until_counted(query, |count| count == expected).await;
    }

    /// Waits until the query, run as superuser, counts at least this; fails when nothing changes for a minute.
    pub async fn until_at_least(&self, query: &'static str, expected: i64) {
        self.until_counted(query, |count| count >= expected).await;
    }

    async fn until_counted(&self, query: &'static str, enough: impl Fn(i64) -> bool) {
        let mut connection = self.superuser().await;
        let (mut last, mut changed) = (None, tokio::time::Instant::now());
        loop {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
            if enough(count) {
                return;
            }
            if last != Some(count) {
                (last, changed) = (Some(count), tokio::time::Instant::now());
            }
            assert!(changed.elapsed() < Duration::from_mins(1), "{query}: no longer changes, at {count}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// A channel of a client that is none of ours.
    pub async fn channel(&self) -> (lapin::Connection, lapin::Channel) {
        channel(&self.common.broker).await
    }
}

/// A channel of a client that is none of ours, on this broker.
pub async fn channel(broker: &BrokerConfig) -> (lapin::Connection, lapin::Channel) {
    let connection = broker.connect("test").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Starts a bare service with this configuration.
pub async fn start(name: &'static str, common: Common) -> Running {
    let (stop, asked) = oneshot::channel::<()>();
    let service = Service::start(name, common, async move {
        if asked.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
    .await
    .unwrap();
    Running { service, stop }
}

impl Running {
    /// Asks it to stop and waits for its exit code.
    pub async fn stop(self) -> std::process::ExitCode {
        let running = self.run();
        running.stop().await
    }

    /// Lets it run; its exit code is known later.
    pub fn run(self) -> Stoppable {
        let service = self.service;
        Stoppable { stop: self.stop, ended: tokio::spawn(async move { service.run().await.unwrap() }) }
    }
}

/// A service whose end somebody waits for.
#[derive(Debug)]
pub struct Stoppable {
    stop: oneshot::Sender<()>,
    /// Ends with the exit code.
    pub ended: JoinHandle<std::process::ExitCode>,
}

impl Stoppable {
    /// Asks it to stop and waits for its exit code.
    pub async fn stop(self) -> std::process::ExitCode {
        // It may have ended by itself: then the code says so.
        self.stop.send(()).ok();
        self.ended.await.unwrap()
    }
}

async fn common(
    postgres: &Postgres,
    rabbitmq: &RabbitMq,
    database: &str,
    vhost: &str,
    password_file: &Path,
) -> Common {
    // One for each test: the broker refuses to create the same user twice at the same moment.
    let user = unique("user");
    rabbitmq.create_user(&user, ROLE_PASSWORD).await.unwrap();
    rabbitmq.permit(vhost, &user, &Permissions::all()).await.unwrap();
    Common {
        database: postgres.config(database, "", password_file),
        broker: rabbitmq.config(vhost, &user, password_file),
        ..Common::default()
    }
}
