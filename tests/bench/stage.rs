//! The local stack of the benchmark, as a user starts it, and the ways past it that bare programs take.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use parapet::{
    bootstrap::ids,
    cli::Global,
    client,
    data::DataDir,
    demo::directory::Control,
    issuer::callers::{self, Caller, Callers},
    servers::{SUPERUSER, broker_config, private_dir, superuser_options},
    stack::{DATABASE, Snapshot, VHOST},
};
use reqwest::Url;
use rustix::process::{Pid, Signal, kill_process};
use shared::db::DatabaseConfig;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::process::Command;
use uuid::Uuid;

/// The service that gives verdicts.
pub const VALIDATOR: &str = "credential-validator";
const ORGANIZATION: &str = "bench";
/// Who administers, feeds and validates in every round.
pub const CALLER: &str = "bench";
/// What one step may take at the most: a million accounts take a while.
const PATIENCE: Duration = Duration::from_hours(2);

/// A running stack.
#[derive(Debug)]
pub struct Stage {
    /// The simulator's control port.
    pub control: Control,
    /// An HTTP client that trusts the simulator and meets it under the providers' names.
    pub http: reqwest::Client,
    /// The same, with a connection of its own for every call.
    pub fresh: reqwest::Client,
    global: Global,
    data: DataDir,
    began: Instant,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Starts the stack in a directory of its own, with a tenant for each name. An org of Okta has its tenant's name.
    pub async fn start(tenants: &[String]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let global = Global {
            json: true,
            tenant: None,
            data_dir: Some(folder.path().join("stack")),
            api: None,
            api_ca: None,
            caller: None,
        };
        let began = Instant::now();
        eprintln!("starting the stack");
        let data = global.data()?;
        introduce(&data, tenants)?;
        parapet(&global, &["up", "--detach"]).await?;
        let endpoints = client::Endpoints::load(&global)?;
        let at = |url: &str| url.trim_start_matches("http://").trim_start_matches("https://").parse();
        let control = Control::new(at(&endpoints.simulator_control)?)?;
        let simulator: std::net::SocketAddr = at(&endpoints.simulator.replace("localhost", "127.0.0.1"))?;
        let authority = std::fs::read(endpoints.api_ca.context("the stack has an authority")?)?;
        let client = || -> anyhow::Result<reqwest::ClientBuilder> {
            let client = reqwest::Client::builder()
                .tls_certs_only([reqwest::Certificate::from_pem(&authority)?])
                .no_proxy()
                .timeout(Duration::from_mins(1))
                .resolve("login.microsoftonline.com", simulator)
                .resolve("graph.microsoft.com", simulator);
            let orgs = tenants.iter().map(|name| format!("{name}.okta.com"));
            Ok(orgs.fold(client, |client, host| client.resolve(&host, simulator)))
        };
        let http = client()?.build()?;
        let fresh = client()?.pool_max_idle_per_host(0).build()?;
        let stage = Self { control, http, fresh, global, data, began, _folder: folder };
        stage.bootstrap(tenants).await?;
        Ok(stage)
    }

    async fn bootstrap(&self, tenants: &[String]) -> anyhow::Result<()> {
        let mut text = format!("[[organization]]\nname = \"{ORGANIZATION}\"\n");
        for name in tenants {
            write!(
                text,
                "[[organization.tenant]]\nname = \"{name}\"\n[organization.tenant.package]\n\
                 providers = [\"entra_id\", \"okta\"]\nidentity_creation = true\nvalidation = true\nmitigation = true\n\
                 identifier_cap = 10000000\nintegration_cap = 1\ncontact = \"bench@parapet.internal\"\n",
            )?;
        }
        let file = self.data.path().join("bench.toml");
        std::fs::write(&file, text)?;
        self.parapet("operator", None, &["bootstrap", &file.display().to_string()]).await.map(drop)
    }

    /// Stops the stack and removes it.
    pub async fn stop(self) -> anyhow::Result<()> {
        parapet(&self.global, &["clean"]).await.map(drop)
    }

    /// Says what happens, with the time since the start.
    pub fn say(&self, text: impl std::fmt::Display) {
        let seconds = self.began.elapsed().as_secs();
        eprintln!("[{:>2}:{:02}] {text}", seconds / 60, seconds % 60);
    }

    /// The public API in a tenant.
    pub async fn api(&self, tenant: Uuid) -> anyhow::Result<client::Api> {
        let mut global = self.global.clone();
        global.caller = Some(CALLER.to_owned());
        global.tenant = Some(tenant.to_string());
        client::connect(&global).await
    }

    /// Runs a command as a user would type it.
    pub async fn parapet(
        &self,
        caller: &str,
        tenant: Option<Uuid>,
        arguments: &[&str],
    ) -> anyhow::Result<String> {
        let mut global = self.global.clone();
        global.caller = Some(caller.to_owned());
        global.tenant = tenant.map(|tenant| tenant.to_string());
        parapet(&global, arguments).await
    }

    /// A connection of the database's superuser, for bare programs.
    pub async fn database(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect_with(&self.database_options()?).await?)
    }

    /// How the database's superuser connects.
    pub fn database_options(&self) -> anyhow::Result<PgConnectOptions> {
        let folder = self.data.postgres();
        let (port, password) = (read(&folder.join("port"))?.parse()?, read(&folder.join("password"))?);
        Ok(superuser_options(port, &password, DATABASE, &self.data.tls().join("ca.pem")))
    }

    /// How a service connects to the database.
    pub fn database_of(&self, service: &str) -> anyhow::Result<DatabaseConfig> {
        let configuration: toml::Table = read(&self.data.config(service))?.parse()?;
        let database = configuration.get("common").and_then(|c| c.get("database"));
        Ok(database.context("a service without a database")?.clone().try_into()?)
    }

    /// A connection of the broker's administrator, for bare programs.
    pub async fn broker(&self) -> anyhow::Result<lapin::Connection> {
        let folder = self.data.rabbitmq();
        let ports = read(&folder.join("ports"))?;
        let port = ports.split_whitespace().next().context("the broker has a port")?;
        let ca = self.data.tls().join("ca.pem");
        let broker = broker_config(port.parse()?, VHOST, SUPERUSER, &folder.join("password"), &ca);
        Ok(broker.connect("bench").await?)
    }

    /// Counts as superuser.
    pub async fn count(&self, query: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&mut self.database().await?).await?)
    }

    /// The id of the transaction that begins next.
    pub async fn next_transaction(&self) -> anyhow::Result<i64> {
        self.count("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").await
    }

    /// A tenant's rows of accounts, identities and identifiers that were written since this transaction, and all of them.
    /// A row's `xmin` is the transaction that wrote it; what was only read keeps its own.
    pub async fn written_since(&self, tenant: Uuid, transaction: i64) -> anyhow::Result<(f64, f64)> {
        let query = "SELECT (count(*) FILTER (WHERE written >= $2))::float8, count(*)::float8
             FROM (SELECT xmin::text::bigint AS written FROM sync.accounts WHERE tenant_id = $1
                   UNION ALL SELECT xmin::text::bigint FROM sync.identities WHERE tenant_id = $1
                   UNION ALL SELECT xmin::text::bigint FROM sync.identifiers WHERE tenant_id = $1) AS rows";
        let mut db = self.database().await?;
        Ok(sqlx::query_as(query).bind(tenant).bind(transaction).fetch_one(&mut db).await?)
    }

    /// Configuration file of a service.
    pub fn configuration(&self, service: &str) -> PathBuf {
        self.data.config(service)
    }

    /// Where a service serves health and metrics.
    pub fn plain(&self, service: &str) -> anyhow::Result<Url> {
        let configuration: toml::Table = read(&self.data.config(service))?.parse()?;
        let listen = configuration.get("common").and_then(|c| c.get("http")?.get("listen")?.as_str());
        Ok(format!("http://{}", listen.context("a service without a plain port")?).parse()?)
    }

    /// Process id of a service.
    pub fn pid(&self, service: &str) -> anyhow::Result<u32> {
        let processes = Snapshot::load(&self.data.state())?.processes;
        let found = processes.into_iter().find(|entry| entry.name == service);
        let found = found.with_context(|| format!("no process {service}"))?;
        ensure!(found.restarts == 0, "{service} died during the run; its log: {}", found.log.display());
        found.pid.with_context(|| format!("{service} does not run"))
    }

    /// Sends a signal to a service.
    pub fn signal(&self, service: &str, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid(service)?.try_into()?).context("a process has a number")?;
        Ok(kill_process(pid, signal)?)
    }
}

/// Waits until the query, asked as superuser, counts at least this.
pub async fn until(
    db: &mut PgConnection,
    query: &'static str,
    tenant: Option<Uuid>,
    enough: i64,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count: i64 = sqlx::query_scalar(query).bind(tenant).fetch_one(&mut *db).await?;
        if count >= enough {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{query}: {count} of {enough} after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// So many in this time, per second.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// The tenant of this name.
pub fn tenant(name: &str) -> Uuid {
    ids::tenant(ORGANIZATION, name)
}

/// Lists the benchmark's caller before the issuer starts.
fn introduce(data: &DataDir, tenants: &[String]) -> anyhow::Result<()> {
    data.create()?;
    private_dir(&data.issuer())?;
    let mut callers = Callers::default();
    callers.put(Caller {
        id: CALLER.to_owned(),
        secret: hex::encode(rand::random::<[u8; 24]>()),
        name: "Benchmark".to_owned(),
        subject: "local|bench".to_owned(),
        organization: Some(ids::organization(ORGANIZATION)),
        tenants: tenants.iter().map(|name| tenant(name)).collect(),
        roles: ["org_admin", "analyst", "feed_writer"].map(str::to_owned).into(),
    });
    callers.save(&callers::file(&data.issuer()))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// Runs the command line next to this program.
async fn parapet(global: &Global, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::current_exe()?.with_file_name("parapet");
    let mut command = Command::new(&program);
    command.arg("--json");
    for (option, value) in [
        ("--data-dir", global.data_dir.as_ref().map(|folder| folder.display().to_string())),
        ("--as", global.caller.clone()),
        ("--tenant", global.tenant.clone()),
    ] {
        command.args(value.map(|value| [option.to_owned(), value]).into_iter().flatten());
    }
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "`parapet {}` failed: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
