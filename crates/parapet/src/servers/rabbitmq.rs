//! A private RabbitMQ broker. It is reached over TLS 1.3 only; its management interface, for this program alone, is plain
//! HTTP on the loopback interface.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use shared::queue::BrokerConfig;
use tokio::net::TcpStream;

use super::admin::Admin;
use super::process::{Child, Program, tail};
use super::{Package, private_dir, remembered_password, remembered_ports, write_private};

pub use super::admin::Permissions;
use crate::certs::Certificates;

/// The administrator of every private broker.
const ADMINISTRATOR: &str = "parapet";
const READY_WITHIN: Duration = Duration::from_mins(2);

/// A private RabbitMQ broker. It ends with this process.
#[derive(Debug)]
pub struct RabbitMq {
    program: Program,
    log: PathBuf,
    port: u16,
    ca: PathBuf,
    password_file: PathBuf,
    admin: Admin,
    child: Mutex<Arc<Child>>,
    /// Erlang's name service. Left to itself the broker would start one that outlives it.
    epmd: Arc<Child>,
}

impl RabbitMq {
    /// Starts a broker on the data kept in `dir`, or a new one there.
    pub async fn start(dir: &Path, certificates: &Certificates) -> anyhow::Result<Self> {
        super::ensure(&[Package::RabbitmqServer]).await?;
        let bin = Package::RabbitmqServer.bin().context("RabbitMQ is not installed")?;
        for part in ["home", "log", "schema", "generated"] {
            private_dir(&dir.join(part))?;
        }
        let password_file = dir.join("password");
        let password = remembered_password(&password_file)?;
        let [port, management, distribution, names] = remembered_ports(&dir.join("ports"))?;
        let config = config(port, management, &password, certificates);
        write_private(&dir.join("rabbitmq.conf"), config.as_bytes())?;
        write_private(&dir.join("advanced.config"), b"[].\n")?;
        write_private(&dir.join("enabled_plugins"), b"[rabbitmq_management].\n")?;
        // Empty: keeps the machine's own /etc/rabbitmq out.
        write_private(&dir.join("env.conf"), b"")?;
        let log = dir.join("rabbitmq.log");
        let epmd = Program::new("epmd", "epmd", &log)
            .bare()
            .env("PATH", search_path())
            .args(["-port", &names.to_string(), "-address", "127.0.0.1"])
            .spawn()?;
        let program = broker(&bin, dir, &log, distribution, names);
        let child = Mutex::new(Arc::new(program.clone().spawn()?));
        let admin = Admin::new(management, ADMINISTRATOR, &password)?;
        let ca = certificates.ca();
        let server = Self { program, log, port, ca, password_file, admin, child, epmd: Arc::new(epmd) };
        server.wait_ready().await?;
        Ok(server)
    }

    /// The AMQP port, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How a service that logs in as `user` is told to connect to `vhost`.
    pub fn config(&self, vhost: &str, user: &str, password_file: &Path) -> BrokerConfig {
        broker_config(self.port, vhost, user, password_file, &self.ca)
    }

    /// How the administrator connects to `vhost`.
    pub fn administrator(&self, vhost: &str) -> BrokerConfig {
        self.config(vhost, ADMINISTRATOR, &self.password_file)
    }

    /// Creates a virtual host, unless it exists; the administrator may do everything in it.
    pub async fn create_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.admin.create_vhost(name).await?;
        self.admin.permit(name, ADMINISTRATOR, &Permissions::all()).await
    }

    /// Deletes a virtual host with everything in it, if it exists.
    pub async fn delete_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.admin.delete_vhost(name).await
    }

    /// Creates a user without any permission, or gives an existing one this password.
    pub async fn create_user(&self, name: &str, password: &str) -> anyhow::Result<()> {
        self.admin.create_user(name, password).await
    }

    /// Says what `user` may do in `vhost`, in place of what it could do before.
    pub async fn permit(&self, vhost: &str, user: &str, permissions: &Permissions) -> anyhow::Result<()> {
        self.admin.permit(vhost, user, permissions).await
    }

    /// Kills it without warning, as `kill -9` does, and returns when it is gone.
    pub async fn kill(&self) {
        let child = self.child();
        child.signal(Signal::KILL);
        child.wait().await;
    }

    /// Stops it in order and returns when it is gone. The name service stays for the next start.
    pub async fn stop(&self) {
        self.child().stop(Signal::TERM, Duration::from_secs(30)).await;
    }

    /// Stops it for good, its name service too.
    pub async fn shut_down(&self) {
        self.stop().await;
        self.epmd.stop(Signal::TERM, Duration::from_secs(5)).await;
    }

    /// Starts it again, on the same ports and data, after it ended or was stopped.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        if self.child().exited().is_none() {
            bail!("RabbitMQ is still running");
        }
        self.spawn()?;
        self.wait_ready().await
    }

    /// Stops it and starts it again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await;
        self.start_again().await
    }

    /// The present broker process.
    pub fn child(&self) -> Arc<Child> {
        Arc::clone(&self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn spawn(&self) -> anyhow::Result<()> {
        let child = self.program.clone().spawn()?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(child);
        Ok(())
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut starts_left = 3;
        while Instant::now() < deadline {
            if listens(self.port).await && self.admin.answers().await {
                return Ok(());
            }
            if self.child().exited().is_some() {
                if starts_left == 0 {
                    break;
                }
                starts_left -= 1;
                self.spawn()?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.child().signal(Signal::KILL);
        bail!("RabbitMQ does not get ready; its log ends:\n{}", tail(&self.log, 10))
    }
}

/// How to connect to the broker of a private server on this port.
pub fn broker_config(port: u16, vhost: &str, user: &str, password_file: &Path, ca: &Path) -> BrokerConfig {
    BrokerConfig {
        host: Ipv4Addr::LOCALHOST.to_string(),
        port,
        vhost: vhost.to_owned(),
        user: user.to_owned(),
        password_file: password_file.to_owned(),
        tls: true,
        ca_file: Some(ca.to_owned()),
        ..BrokerConfig::default()
    }
}

/// Whether the port is open. The broker opens it at the very end of its start, when everything behind is up.
async fn listens(port: u16) -> bool {
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    matches!(tokio::time::timeout(Duration::from_secs(2), connected).await, Ok(Ok(_)))
}

fn config(port: u16, management: u16, password: &str, certificates: &Certificates) -> String {
    let own = certificates.of("rabbitmq");
    format!(
        "listeners.tcp = none\n\
         listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.versions.1 = tlsv1.3\n\
         ssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n\
         # Whoever shows a certificate shows a good one; nobody needs to.\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = false\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {management}\n\
         default_user = {ADMINISTRATOR}\n\
         default_pass = {password}\n\
         default_user_tags.administrator = true\n\
         vm_memory_high_watermark.absolute = 2GB\n\
         disk_free_limit.absolute = 200MB\n\
         # One write-ahead log serves all quorum queues, and is held in memory until it is full.\n\
         raft.wal_max_size_bytes = 64000000\n\
         log.console = false\n\
         log.file.level = info\n",
        certificates.ca().display(),
        own.cert.display(),
        own.key.display(),
    )
}

/// Where the broker finds Erlang: unpacked beside it, which happens only where the system had no broker, else in the
/// system.
fn search_path() -> OsString {
    let system = std::env::var_os("PATH").unwrap_or_default();
    let dirs = super::unpack::erlang_bin().into_iter().chain(std::env::split_paths(&system));
    std::env::join_paths(dirs).unwrap_or(system)
}

fn broker(bin: &Path, dir: &Path, log: &Path, distribution: u16, names: u16) -> Program {
    let mut program = Program::new("rabbitmq", bin.join("rabbitmq-server"), log).bare();
    for (name, file) in [
        ("HOME", "home"),
        ("RABBITMQ_CONF_ENV_FILE", "env.conf"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_MNESIA_BASE", "mnesia"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_LOGS", "rabbitmq.log"),
        ("RABBITMQ_SCHEMA_DIR", "schema"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
        ("RABBITMQ_PID_FILE", "pid"),
    ] {
        program = program.env(name, dir.join(file));
    }
    program
        .env("PATH", search_path())
        .env("ERL_EPMD_PORT", names.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        // Always resolvable, and no clash with a system broker: it is registered with another name service.
        .env("RABBITMQ_NODENAME", "rabbit@localhost")
        // Idle schedulers sleep instead of spinning: the cores belong to everybody.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        )
        // The script then becomes the broker: its process id is the broker's, and SIGTERM stops it in order.
        .env("RUNNING_UNDER_SYSTEMD", "true")
}
