//! A private PostgreSQL server. It is reached over TLS 1.3 only.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, test_kill_process};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

use shared::db::{DatabaseConfig, DatabaseTls};

use super::process::{Child, Program, tail};
use super::{Package, private_dir, remembered_password, remembered_ports, write_private};
use crate::certs::Certificates;

/// The superuser of every private server.
pub const SUPERUSER: &str = "parapet";
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Who may connect, and how: everybody with a password, over TLS, from this machine.
const ACCESS: &str = "# Written at each start.\nhostssl all all 127.0.0.1/32 scram-sha-256\n";

/// How a private server differs from PostgreSQL's defaults.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// `name=value` pairs for the command line.
    pub settings: Vec<String>,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self { settings: vec!["max_connections=200".into()] }
    }
}

impl PostgresSettings {
    /// For tests: many connections. Durable as in production, because services refuse a server that is not.
    pub fn for_tests() -> Self {
        Self { settings: vec!["max_connections=600".into()] }
    }
}

/// A private PostgreSQL server. It ends with this process.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    log: PathBuf,
    ca: PathBuf,
    password: String,
    port: u16,
    user: Option<String>,
    settings: PostgresSettings,
    child: Mutex<Arc<Child>>,
}

impl Postgres {
    /// Starts a server on the data kept in `dir`, or on a new database cluster there.
    pub async fn start(
        dir: &Path,
        settings: PostgresSettings,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        super::ensure(&[Package::Postgresql]).await?;
        let bin = Package::Postgresql.bin().context("PostgreSQL is not installed")?;
        private_dir(dir)?;
        let user = server_user()?;
        let data = Self::data_dir(dir)?;
        let log = dir.join("postgres.log");
        let password_file = dir.join("password");
        if !password_file.exists() {
            // A new directory. One of the same path that was removed may have left its cluster elsewhere.
            clear(&data, user.as_deref())?;
        }
        let password = remembered_password(&password_file)?;
        if !data.join("PG_VERSION").exists() {
            init(&bin, &data, &password, user.as_deref(), &log).await?;
        }
        equip(&data, certificates, user.as_deref())?;
        let [port] = remembered_ports(&dir.join("port"))?;
        let program = server(&bin, &data, port, user.as_deref(), &settings, &log);
        let child = Mutex::new(Arc::new(program.spawn()?));
        let ca = certificates.ca();
        let server = Self { bin, data, log, ca, password, port, user, settings, child };
        server.wait_ready().await?;
        Ok(server)
    }

    /// Where the server of `dir` keeps its data: in `dir`, or in the temporary directory when the server's user cannot
    /// get there (root's home is closed to user `postgres`).
    pub fn data_dir(dir: &Path) -> anyhow::Result<PathBuf> {
        let Some(user) = server_user()? else { return Ok(dir.join("data")) };
        // `dir` itself is opened to that user; everything above it is not ours to change.
        let parent = dir.parent().unwrap_or(dir);
        let reachable = Command::new("setpriv")
            .args([
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
                "--init-groups",
                "--",
                "test",
                "-x",
            ])
            .arg(parent)
            .status()
            .context("cannot run setpriv (Debian package util-linux)")?;
        if reachable.success() {
            fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
            return Ok(dir.join("data"));
        }
        let path = fs::canonicalize(dir).with_context(|| format!("cannot find {}", dir.display()))?;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_os_str().as_encoded_bytes());
        let name = hex::encode(hash.as_ref().get(..8).unwrap_or_default());
        Ok(std::env::temp_dir().join(format!("parapet-postgres-{name}")))
    }

    /// The port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How the superuser connects to `database`.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        superuser_options(self.port, &self.password, database, &self.ca)
    }

    /// How a service that logs in as `user` is told to connect to `database`.
    pub fn config(&self, database: &str, user: &str, password_file: &Path) -> DatabaseConfig {
        DatabaseConfig {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: self.port,
            database: database.to_owned(),
            user: user.to_owned(),
            password_file: Some(password_file.to_owned()),
            tls: DatabaseTls::VerifyFull,
            ca_file: Some(self.ca.clone()),
            ..DatabaseConfig::default()
        }
    }

    /// One connection of the superuser.
    pub async fn connect(&self, database: &str) -> sqlx::Result<PgConnection> {
        self.connect_options(database).connect().await
    }

    /// Creates `name`, empty or as a copy of `template`, unless it exists.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> anyhow::Result<()> {
        let mut admin = self.connect("postgres").await?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut admin)
            .await?;
        if !exists {
            let template = template.unwrap_or("template1");
            let statement = format!("CREATE DATABASE {} TEMPLATE {}", quoted(name), quoted(template));
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await?;
        }
        admin.close().await?;
        Ok(())
    }

    /// Drops `name` and everybody connected to it, if it exists.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        let mut admin = self.connect("postgres").await?;
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await?;
        admin.close().await?;
        Ok(())
    }

    /// Lets `role` log in with `password`.
    pub async fn set_password(&self, role: &str, password: &str) -> anyhow::Result<()> {
        let mut admin = self.connect("postgres").await?;
        // Whatever goes wrong, the server's log must not quote this statement.
        sqlx::raw_sql("SET log_min_error_statement = panic").execute(&mut admin).await?;
        let statement = format!("ALTER ROLE {} LOGIN PASSWORD {}", quoted(role), literal(password));
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await?;
        admin.close().await?;
        Ok(())
    }

    /// Kills it without warning, as `kill -9` does, and returns when it is gone.
    pub async fn kill(&self) {
        let child = self.child();
        child.signal(Signal::KILL);
        child.wait().await;
    }

    /// Stops it, cutting open sessions, and returns when it is gone.
    pub async fn stop(&self) {
        self.child().stop(Signal::INT, Duration::from_secs(20)).await;
    }

    /// Starts it again, on the same port and data, after it ended or was stopped.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        if self.child().exited().is_none() {
            bail!("PostgreSQL is still running");
        }
        self.spawn()?;
        self.wait_ready().await
    }

    /// Stops it and starts it again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await;
        self.start_again().await
    }

    /// The present server process.
    pub fn child(&self) -> Arc<Child> {
        Arc::clone(&self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn spawn(&self) -> anyhow::Result<()> {
        let program =
            server(&self.bin, &self.data, self.port, self.user.as_deref(), &self.settings, &self.log)
                .spawn()?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(program);
        Ok(())
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            if let Ok(connection) = self.connect("postgres").await {
                connection.close().await?;
                return Ok(());
            }
            if self.child().exited().is_some() {
                // The sessions of a killed server hold its shared memory for a moment, and the port may linger.
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.spawn()?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.child().signal(Signal::KILL);
        bail!("PostgreSQL is not ready after {READY_WITHIN:?}; its log ends:\n{}", tail(&self.log, 10))
    }
}

/// How the superuser of a private server connects to `database`.
pub fn superuser_options(port: u16, password: &str, database: &str, ca: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&Ipv4Addr::LOCALHOST.to_string())
        .port(port)
        .username(SUPERUSER)
        .password(password)
        .database(database)
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(ca)
        .log_statements(tracing::log::LevelFilter::Off)
}

fn server(
    bin: &Path,
    data: &Path,
    port: u16,
    user: Option<&str>,
    more: &PostgresSettings,
    log: &Path,
) -> Program {
    let fixed = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        // No socket file: no limit on the length of the path, no clash with other servers.
        "unix_socket_directories=".to_owned(),
        // The log must never hold what a failing statement carried.
        "log_parameter_max_length_on_error=0".to_owned(),
        "log_line_prefix=%m [%p] %u@%d ".to_owned(),
        "timezone=UTC".to_owned(),
        "ssl=on".to_owned(),
        "ssl_min_protocol_version=TLSv1.3".to_owned(),
        "ssl_ca_file=root.crt".to_owned(),
    ];
    Program::new("postgres", bin.join("postgres"), log)
        .bare()
        .user(user)
        .args(["-D".into(), data.as_os_str().to_owned()])
        .args(fixed.into_iter().chain(more.settings.clone()).flat_map(|setting| ["-c".to_owned(), setting]))
}

/// PostgreSQL refuses to run as root, and then runs as this user.
fn server_user() -> anyhow::Result<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    ["postgres", "nobody"]
        .into_iter()
        .find(|user| users.lines().any(|line| line.split(':').next() == Some(*user)))
        .map(|user| Some(user.to_owned()))
        .context("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")
}

fn ids(user: &str) -> anyhow::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&user))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .with_context(|| format!("no user {user}"))
}

/// Removes a cluster that nothing needs: nobody else's, and none on which a server runs.
fn clear(data: &Path, user: Option<&str>) -> anyhow::Result<()> {
    if !data.exists() {
        return Ok(());
    }
    let owner = fs::symlink_metadata(data)?.uid();
    let ours = user.map(ids).transpose()?.map_or(rustix::process::geteuid().as_raw(), |(uid, _)| uid);
    if owner != ours {
        bail!("{} belongs to somebody else", data.display());
    }
    let lock = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let server = lock.lines().next().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
    if let Some(pid) = server.filter(|pid| test_kill_process(*pid).is_ok()) {
        let pid = pid.as_raw_pid();
        bail!("process {pid} still serves the database in {}; end it and start again", data.display());
    }
    fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))
}

/// Gives the server what it presents, whose certificates it takes, and the rules by which it admits, as files that are
/// its own: it refuses a key that others may read.
fn equip(data: &Path, certificates: &Certificates, user: Option<&str>) -> anyhow::Result<()> {
    let own = certificates.of("postgres");
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    for (name, content) in [
        ("server.crt", read(&own.cert)?),
        ("server.key", read(&own.key)?),
        ("root.crt", read(&certificates.ca())?),
        ("pg_hba.conf", ACCESS.into()),
    ] {
        let file = data.join(name);
        write_private(&file, &content)?;
        if let Some(user) = user {
            let (uid, gid) = ids(user)?;
            chown(&file, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

async fn init(bin: &Path, data: &Path, password: &str, user: Option<&str>, log: &Path) -> anyhow::Result<()> {
    // A half-made cluster of an earlier start has no version file: it holds nothing and goes.
    clear(data, user)?;
    // Not recursive: in the shared temporary directory, creating it proves that nobody else did.
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
        .create(data)
        .with_context(|| format!("cannot create {}", data.display()))?;
    // Beside the cluster, not in it: initdb wants an empty directory.
    let password_file = data.with_extension("password");
    fs::remove_file(&password_file).ok();
    write_private(&password_file, password.as_bytes())?;
    if let Some(user) = user {
        let (uid, gid) = ids(user)?;
        chown(data, Some(uid), Some(gid))?;
        chown(&password_file, Some(uid), Some(gid))?;
    }
    let made = Program::new("initdb", bin.join("initdb"), log)
        .bare()
        .user(user)
        .args(["-D".into(), data.as_os_str().to_owned()])
        .args(["-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "-k", "--no-sync"])
        .args([format!("--pwfile={}", password_file.display())])
        .spawn()?
        .wait()
        .await;
    fs::remove_file(&password_file).ok();
    if !made.success() {
        fs::remove_dir_all(data).ok();
        bail!("initdb failed:\n{}", tail(log, 10));
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_name_cannot_leave_its_quotes() {
        assert_eq!(quoted(r#"a"; DROP"#), r#""a""; DROP""#);
    }

    #[test]
    fn a_password_cannot_leave_its_quotes() {
        assert_eq!(literal(r"a'\b"), r"E'a''\\b'");
    }
}
