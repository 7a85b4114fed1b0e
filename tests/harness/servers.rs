//! One PostgreSQL and one RabbitMQ for all tests of the process; a database and a virtual host for each test.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};

use parapet::certs::Certificates;
use parapet::servers::{Postgres, PostgresSettings, RabbitMq, free_ports, private_dir, write_private};
use shared::db::DatabaseConfig;
use sqlx::{Connection as _, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

/// The servers that all tests of this process share. A test that stops, kills or restarts one starts its own.
#[derive(Debug)]
pub struct Servers {
    /// The database server.
    pub postgres: Postgres,
    /// The broker.
    pub rabbitmq: RabbitMq,
    /// A file with the one password of every service role, as services want it.
    pub role_password_file: PathBuf,
}

/// The password of every service role in tests.
pub const ROLE_PASSWORD: &str = "only-for-tests";

const TEMPLATE: &str = "parapet_template";

/// Starts the shared servers at the first call. They die with this process, whatever ends it.
pub async fn servers() -> &'static Servers {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    SERVERS
        .get_or_init(|| async {
            let dir = process_dir();
            let (postgres_dir, rabbitmq_dir) = (dir.join("postgres"), dir.join("rabbitmq"));
            let (postgres, rabbitmq) = tokio::try_join!(
                Postgres::start(&postgres_dir, PostgresSettings::for_tests(), certificates()),
                RabbitMq::start(&rabbitmq_dir, certificates()),
            )
            .unwrap();
            prepare(&postgres).await;
            let role_password_file = dir.join("role-password");
            write_private(&role_password_file, ROLE_PASSWORD.as_bytes()).unwrap();
            Servers { postgres, rabbitmq, role_password_file }
        })
        .await
}

/// The authority of this process's servers, and what it signed.
pub fn certificates() -> &'static Certificates {
    static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();
    CERTIFICATES.get_or_init(|| {
        let dir = process_dir().join("tls");
        private_dir(&dir).unwrap();
        Certificates::prepare(&dir, &["client"]).unwrap()
    })
}

/// A port of 127.0.0.1 for a server that starts later: no other test of this process gets it, and no client's connection.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let [port] = free_ports().unwrap();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// Makes the migrated database that tests copy, and lets the service roles log in with [`ROLE_PASSWORD`]. For a test
/// with a server of its own.
pub async fn prepare(postgres: &Postgres) {
    postgres.create_database(TEMPLATE, None).await.unwrap();
    parapet::migrate::run(&postgres.connect_options(TEMPLATE)).await.unwrap();
    // Most tests run no validator that watches the attempt gate, and some have a time of their own.
    let mut template = postgres.connect(TEMPLATE).await.unwrap();
    let unwatched = "UPDATE budget.gate SET beat_at = '2100-01-01';
        CREATE OR REPLACE FUNCTION budget.dated(p_instant timestamptz) RETURNS timestamptz LANGUAGE sql AS 'SELECT p_instant'";
    sqlx::raw_sql(unwatched).execute(&mut template).await.unwrap();
    template.close().await.unwrap();
    for role in parapet::migrate::service_roles(&postgres.connect_options(TEMPLATE)).await.unwrap() {
        postgres.set_password(&role, ROLE_PASSWORD).await.unwrap();
    }
}

/// A migrated database of one test on the shared server. It is dropped with this value.
#[derive(Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
}

/// A fresh migrated database.
pub async fn database() -> Database {
    let name = unique("test");
    servers().await.postgres.create_database(&name, Some(TEMPLATE)).await.unwrap();
    Database { name }
}

/// A fresh migrated database on a server of the test's own, which [`prepare`] has seen.
pub async fn database_on(postgres: &Postgres) -> String {
    let name = unique("test");
    postgres.create_database(&name, Some(TEMPLATE)).await.unwrap();
    name
}

impl Database {
    /// How the superuser, whom no row security binds, connects.
    pub async fn superuser(&self) -> PgConnectOptions {
        servers().await.postgres.connect_options(&self.name)
    }

    /// How a service role connects.
    pub async fn config_as(&self, role: &str) -> DatabaseConfig {
        let servers = servers().await;
        servers.postgres.config(&self.name, role, &servers.role_password_file)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        sweep(Leftover::Database(std::mem::take(&mut self.name)));
    }
}

/// A virtual host of one test on the shared broker, without any queue. It is deleted with this value.
#[derive(Debug)]
pub struct Vhost {
    /// Its name.
    pub name: String,
}

/// A fresh virtual host.
pub async fn vhost() -> Vhost {
    let name = unique("test");
    servers().await.rabbitmq.create_vhost(&name).await.unwrap();
    Vhost { name }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        sweep(Leftover::Vhost(std::mem::take(&mut self.name)));
    }
}

/// A directory for the servers of one test, which the database server's user can reach. It is removed with this value.
pub fn server_dir() -> tempfile::TempDir {
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().permissions(open).tempdir().unwrap()
}

/// A program of the workspace, which `make test` has built before.
pub fn program(name: &str) -> PathBuf {
    // The test's own file lies in `deps`, below the programs.
    let dir = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let program = dir.join(name);
    assert!(program.is_file(), "{} is missing: cargo build --workspace --bins", program.display());
    program
}

/// A name that no other test of this process has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

enum Leftover {
    Database(String),
    Vhost(String),
}

/// Removes what a finished test leaves, on a thread of its own: `drop` cannot wait.
fn sweep(leftover: Leftover) {
    static SWEEPER: OnceLock<mpsc::Sender<Leftover>> = OnceLock::new();
    let sweeper = SWEEPER.get_or_init(|| {
        let (leftovers, next) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while let Ok(leftover) = next.recv() {
                runtime.block_on(async {
                    let servers = servers().await;
                    // Best effort: the whole server goes at the end of the process.
                    match leftover {
                        Leftover::Database(name) => servers.postgres.drop_database(&name).await.ok(),
                        Leftover::Vhost(name) => servers.rabbitmq.delete_vhost(&name).await.ok(),
                    }
                });
            }
        });
        leftovers
    });
    sweeper.send(leftover).ok();
}

/// A directory named after this process, cleared of those whose process is gone.
fn process_dir() -> PathBuf {
    const PREFIX: &str = "parapet-test-";
    let temp = std::env::temp_dir();
    for entry in std::fs::read_dir(&temp).unwrap().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
    let dir = temp.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
