//! Bringing the local stack up, in order, and down again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::board::{Board, State};
use super::config::{Installation, Ports, SERVICES, declare_queues};
use super::spans::Spans;
use super::unit::Unit;
use super::{DATABASE, Lock, Options, VHOST};
use crate::certs::Certificates;
use crate::client::Endpoints;
use crate::data::DataDir;
use crate::servers::process::Program;
use crate::servers::{
    Postgres, PostgresSettings, RabbitMq, remembered_password, remembered_ports, write_private,
};
use crate::{issuer, keys, migrate};

const SAMPLE_DIRECTORY: &str = include_str!("../../../../deploy/local/directory.json");
const SIMULATOR: &str = "idp-simulator";
const ISSUER: &str = "issuer";
/// How long a service may drain; its own deadline is shorter.
const SERVICE_GRACE: Duration = Duration::from_secs(30);
const HELPER_GRACE: Duration = Duration::from_secs(5);

/// A running local stack. Its processes end with this process at the latest.
#[derive(Debug)]
pub struct Stack {
    data: DataDir,
    endpoints: Endpoints,
    board: Arc<Board>,
    /// In the order in which they started.
    units: Vec<Arc<Unit>>,
    keepers: TaskTracker,
    stopping: CancellationToken,
    hurry: CancellationToken,
    /// Ends with this value: after the services, which flush as they end.
    spans: Option<Spans>,
    _lock: Lock,
}

impl Stack {
    /// Starts everything and returns when every process says that it is ready. The services meet the simulator under
    /// the providers' names, or the real ones.
    pub async fn start(data: &DataDir, options: &Options) -> anyhow::Result<Self> {
        data.create()?;
        let lock = Lock::take(data)?;
        crate::servers::ensure_all().await?;
        let ports = Ports::new(remembered_ports(&data.path().join("ports"))?);
        let board = Arc::new(Board::new(data.state(), processes(data, &ports)));
        let certificates = Certificates::prepare(&data.tls(), &SERVICES.map(|service| service.name))?;
        keys::prepare(&data.path().join("keys"))?;
        issuer::prepare(&data.issuer())?;
        issuer::callers::prepare(&data.issuer())?;
        let endpoints = Endpoints {
            api: format!("https://localhost:{}", ports.grpc("integration-api")),
            api_ca: Some(certificates.ca()),
            issuer: issuer::url(ports.issuer()),
            simulator: format!("https://localhost:{}", ports.simulator()),
            simulator_control: format!("http://127.0.0.1:{}", ports.control()),
        };
        let mut stack = Self {
            data: data.clone(),
            endpoints,
            board,
            units: Vec::new(),
            keepers: TaskTracker::new(),
            stopping: CancellationToken::new(),
            hurry: CancellationToken::new(),
            spans: None,
            _lock: lock,
        };
        // Whatever fails, what was started ends in order.
        match stack.bring_up(&ports, &certificates, options).await {
            Ok(()) => Ok(stack),
            Err(error) => {
                stack.stop().await;
                Err(error)
            }
        }
    }

    async fn bring_up(
        &mut self,
        ports: &Ports,
        certificates: &Certificates,
        options: &Options,
    ) -> anyhow::Result<()> {
        let data = self.data.clone();
        self.start_servers(certificates).await?;
        let (postgres, rabbitmq) = self.servers()?;
        prepare_database(&data, postgres).await?;
        prepare_broker(&data, rabbitmq).await?;
        let (postgres, rabbitmq) = (postgres.port(), rabbitmq.port());
        if options.keep_spans {
            self.spans = Some(Spans::keep(&data.spans()).await?);
        }
        let spans = self.spans.as_ref().map(Spans::port);
        Installation { data: &data, ports: *ports, certificates, postgres, rabbitmq, spans, options }
            .write_all()?;

        let http = probe_client()?;
        let mut programs = vec![issuer_unit(&data, ports)?, simulator_unit(&data, ports, certificates)?];
        for service in &SERVICES {
            let program = Program::new(service.name, binary(service.name)?, data.log(service.name))
                .args(["--config".into(), data.config(service.name).into_os_string()]);
            let ready = format!("http://127.0.0.1:{}/readyz", ports.http(service.name));
            programs.push(Unit::program(program, ready, SERVICE_GRACE));
        }
        let programs: Vec<Arc<Unit>> = programs.into_iter().map(Arc::new).collect();
        self.units.extend(programs.iter().cloned());
        try_join_all(programs.iter().map(|unit| unit.start_first(&self.board, &http))).await?;

        write_private(&data.endpoints(), &serde_json::to_vec_pretty(&self.endpoints)?)?;
        for unit in &self.units {
            let keeper =
                Arc::clone(unit).keep(Arc::clone(&self.board), http.clone(), self.stopping.child_token());
            self.keepers.spawn(keeper);
        }
        self.board.up();
        Ok(())
    }

    async fn start_servers(&mut self, certificates: &Certificates) -> anyhow::Result<()> {
        let (postgres_dir, rabbitmq_dir) = (self.data.postgres(), self.data.rabbitmq());
        for name in ["postgres", "rabbitmq"] {
            self.board.set(name, State::Starting, None);
        }
        let (postgres, rabbitmq) = tokio::try_join!(
            Postgres::start(&postgres_dir, PostgresSettings::default(), certificates),
            RabbitMq::start(&rabbitmq_dir, certificates),
        )?;
        self.board.address("postgres", format!("127.0.0.1:{}", postgres.port()));
        self.board.address("rabbitmq", format!("127.0.0.1:{}", rabbitmq.port()));
        for unit in [Unit::postgres(postgres), Unit::rabbitmq(rabbitmq)] {
            self.board.set(&unit.name, State::Ready, unit.child().map(|child| child.pid()));
            eprintln!("{} is ready", unit.name);
            self.units.push(Arc::new(unit));
        }
        Ok(())
    }

    fn servers(&self) -> anyhow::Result<(&Postgres, &RabbitMq)> {
        self.postgres()
            .zip(self.units.iter().find_map(|unit| unit.as_rabbitmq()))
            .context("a server is missing")
    }

    /// Its database server.
    pub fn postgres(&self) -> Option<&Postgres> {
        self.units.iter().find_map(|unit| unit.as_postgres())
    }

    /// Where it answers.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// What its processes are doing.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Cancelled to end without waiting for anything.
    pub fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Ends everything: first the services, last the servers.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.keepers.close();
        self.keepers.wait().await;
        let (servers, programs): (Vec<_>, Vec<_>) =
            self.units.iter().partition(|unit| unit.as_postgres().is_some() || unit.as_rabbitmq().is_some());
        // The issuer and the simulator go after those that call them.
        let (helpers, services): (Vec<_>, Vec<_>) =
            programs.into_iter().partition(|unit| [ISSUER, SIMULATOR].contains(&unit.name.as_str()));
        for group in [services, helpers, servers] {
            join_all(group.iter().map(|unit| unit.stop(&self.board, &self.hurry))).await;
        }
    }
}

fn processes(data: &DataDir, ports: &Ports) -> Vec<(String, String, PathBuf)> {
    let mut all = vec![
        ("postgres", String::new()),
        ("rabbitmq", String::new()),
        (ISSUER, issuer::url(ports.issuer())),
        (SIMULATOR, format!("https://localhost:{} (control: {})", ports.simulator(), ports.control())),
    ];
    for service in &SERVICES {
        let (grpc, http) = (ports.grpc(service.name), ports.http(service.name));
        all.push((service.name, format!("grpc {grpc}, http {http}")));
    }
    all.into_iter().map(|(name, address)| (name.to_owned(), address, data.log(name))).collect()
}

async fn prepare_database(data: &DataDir, postgres: &Postgres) -> anyhow::Result<()> {
    postgres.create_database(DATABASE, None).await?;
    migrate::run(&postgres.connect_options(DATABASE)).await?;
    for service in &SERVICES {
        let password = remembered_password(&service.database_password(data))?;
        postgres.set_password(service.role, &password).await?;
    }
    Ok(())
}

async fn prepare_broker(data: &DataDir, rabbitmq: &RabbitMq) -> anyhow::Result<()> {
    rabbitmq.create_vhost(VHOST).await?;
    declare_queues(rabbitmq, VHOST).await?;
    for service in &SERVICES {
        let password = remembered_password(&service.broker_password(data))?;
        rabbitmq.create_user(service.name, &password).await?;
        rabbitmq.permit(VHOST, service.name, &service.permissions()).await?;
    }
    Ok(())
}

fn issuer_unit(data: &DataDir, ports: &Ports) -> anyhow::Result<Unit> {
    let program = Program::new(ISSUER, binary("parapet")?, data.log(ISSUER))
        .args(["issuer".into(), "--dir".into(), data.issuer().into_os_string()])
        .args(["--port".to_owned(), ports.issuer().to_string()]);
    Ok(Unit::program(program, format!("{}/healthz", issuer::url(ports.issuer())), HELPER_GRACE))
}

fn simulator_unit(data: &DataDir, ports: &Ports, certificates: &Certificates) -> anyhow::Result<Unit> {
    let files = certificates.of(SIMULATOR);
    let program = Program::new(SIMULATOR, binary(SIMULATOR)?, data.log(SIMULATOR))
        .args([format!("--listen=127.0.0.1:{}", ports.simulator())])
        .args([format!("--control=127.0.0.1:{}", ports.control())])
        .args([
            "--tls-cert".into(),
            files.cert.into_os_string(),
            "--tls-key".into(),
            files.key.into_os_string(),
        ])
        .args(["--ca".into(), certificates.ca().into_os_string()])
        .args(
            directories(data)?.into_iter().flat_map(|file| ["--directories".into(), file.into_os_string()]),
        );
    Ok(Unit::program(program, format!("http://127.0.0.1:{}/health", ports.control()), HELPER_GRACE))
}

/// Files with directories that the simulator shall have from its start on: it forgets what the control port made.
/// Without any, the sample that README's first steps connect.
fn directories(data: &DataDir) -> anyhow::Result<Vec<PathBuf>> {
    let dir = data.directories();
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_json).collect();
    if files.is_empty() {
        let sample = dir.join("contoso.json");
        write_private(&sample, SAMPLE_DIRECTORY.as_bytes())?;
        files.push(sample);
    }
    files.sort();
    Ok(files)
}

/// The program of this name next to this one.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    // A test's executable lies one directory below the programs.
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => {
            bail!("{name} is not next to {}; build it with `cargo build --workspace --bins`", exe.display())
        }
    }
}

/// Asks over loopback only, so it needs neither proxy nor certificate authorities.
fn probe_client() -> anyhow::Result<reqwest::Client> {
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().tls_certs_only([]).build();
    client.context("cannot build the client that looks after the services")
}
