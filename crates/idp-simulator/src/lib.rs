//! Microsoft Entra ID and Okta as their own protocols show them, faithful, and hostile on request.
//!
//! One public listener (HTTP/1.1 and HTTP/2, plain or TLS) answers as `login.microsoftonline.com`, `graph.microsoft.com`
//! and `{org}.okta.com` when addressed by these names, and under `/entra-login/…`, `/graph/…` and `/okta/{org}/…` when
//! addressed as localhost. A second, loopback listener is the [control port](control). The crate shares no line with the
//! services: its [log] is the judge of what they did.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is an HTTP response, answered once and not carried around"
)]

pub mod control;
pub mod entra;
pub mod faults;
pub mod generate;
pub mod log;
pub mod model;
pub mod okta;
mod server;
mod sync;
mod tokens;
pub mod wire;
pub mod world;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use model::DirectorySpec;
use world::World;

/// What to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the public listener; port 0 = any free one.
    pub listen: SocketAddr,
    /// Address of the control port; keep it on loopback.
    pub control: SocketAddr,
    /// Certificate chain and private key, PEM, for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// CA certificates, PEM, to trust besides the system's when fetching an application's keys.
    pub ca: Option<PathBuf>,
    /// Files with one directory or an array of directories each.
    pub directories: Vec<PathBuf>,
    /// File to append the log to.
    pub log: Option<PathBuf>,
}

impl Default for Config {
    /// Plain HTTP on two free loopback ports, no directories.
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { listen: any, control: any, tls: None, ca: None, directories: Vec::new(), log: None }
    }
}

/// A running simulator; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Where the public listener is.
    pub addr: SocketAddr,
    /// Where the control port is.
    pub control_addr: SocketAddr,
    /// The state itself, for tests in the same process.
    pub world: Arc<World>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Root URL of the control port.
    pub fn control_url(&self) -> String {
        format!("http://{}", self.control_addr)
    }

    /// Stops accepting, lets open requests end, and waits for it.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts the simulator inside the current runtime.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let world = Arc::new(World::new(log::Log::open(config.log.as_deref())?, config.ca.as_ref())?);
    for path in &config.directories {
        for spec in directories(path)? {
            world.put(spec).with_context(|| format!("directories file {}", path.display()))?;
        }
    }
    let tls = config.tls.as_ref().map(|(cert, key)| acceptor(cert, key)).transpose()?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("listen {}", config.listen))?;
    let control =
        TcpListener::bind(config.control).await.with_context(|| format!("control {}", config.control))?;
    let (addr, control_addr) = (listener.local_addr()?, control.local_addr()?);

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(server::serve(listener, tls, Arc::clone(&world), stop.clone()));
    let serve = axum::serve(control, control::router(Arc::clone(&world)))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tasks.spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "control port failed");
        }
    });
    tasks.close();
    Ok(Running { addr, control_addr, world, stop, tasks })
}

/// Directories of a file: one object, or an array of them.
fn directories(path: &Path) -> anyhow::Result<Vec<DirectorySpec>> {
    let name = || format!("directories file {}", path.display());
    let text = std::fs::read(path).with_context(name)?;
    let value: serde_json::Value = serde_json::from_slice(&text).with_context(name)?;
    let specs = if value.is_array() { value } else { serde_json::Value::Array(vec![value]) };
    serde_json::from_value(specs).with_context(name)
}

fn acceptor(cert: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("certificate {}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("private key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
