//! gRPC between services: mutual TLS on both sides, and a list of who may call what.

mod allow;
mod shed;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, pki_types::ServerName};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    service::RoutesBuilder,
    transport::{Channel, Endpoint, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service as TowerService;

pub use self::allow::Peer;
use self::{
    allow::{AllowLayer, AllowList},
    shed::ShedLayer,
};
use crate::{
    db::StoreError,
    service::{ListenConfig, PeerConfig, Service, TlsFiles},
    tls::{self, Files, Reloaded},
    wire,
};

/// What is spoken inside TLS.
const HTTP2: &[&[u8]] = &[b"h2"];
/// How long a connection may take, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a caller may take to show who it is.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Most callers of a port that are still at TLS; further ones wait in the system's queue.
const HANDSHAKES: usize = 512;

/// What a caller of an internal port learns of a failing database; the rest stays in our log.
impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a call failed at the database");
        if error.is_transient() {
            Self::unavailable("the database cannot be asked now")
        } else {
            Self::internal("internal error")
        }
    }
}

/// Who may call a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Other services, by client certificate and the port's allow-list.
    Peers,
    /// Anybody who reaches the port; the services check tokens themselves.
    Public,
    /// The same, and a client certificate of the authority in `tls.ca_file` is asked for: without one a caller still needs
    /// a token.
    PublicOrCertified,
}

/// The gRPC services behind one port.
#[derive(Debug, Default)]
pub struct Server {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Server {
    /// No services yet, but health.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a generated service.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "adds a service, not a number")]
    pub fn add<S>(mut self, service: S) -> Self
    where
        S: TowerService<http::Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Opens the port and serves for the life of the service. `tls` is required where certificates are asked for; with
    /// [`Callers::Public`] it may be absent when something in front ends TLS.
    ///
    /// At a stop: health and readiness say so first, then no new connections, then open calls end.
    pub async fn listen(
        mut self,
        service: &Service,
        config: &ListenConfig,
        callers: Callers,
        tls: Option<&TlsFiles>,
    ) -> anyhow::Result<SocketAddr> {
        let (health, health_server) = tonic_health::server::health_reporter();
        self.routes.add_service(health_server);
        if config.reflection {
            let descriptors = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            self.routes.add_service(descriptors().build_v1()?);
            self.routes.add_service(descriptors().build_v1alpha()?);
        }
        let allow = match callers {
            Callers::Peers => Some(AllowList::new(&self.names, &config.allow)?),
            Callers::Public | Callers::PublicOrCertified => None,
        };
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_header_list_size(32 * 1024)
            .max_concurrent_streams(u32::try_from(config.calls_per_connection)?)
            .concurrency_limit_per_connection(config.calls_per_connection)
            .load_shed(true)
            .timeout(Duration::from_secs(config.timeout_seconds));
        let presented = match (callers, tls) {
            (Callers::Peers, Some(files)) => Some(tls::server("services", files.all(), HTTP2).await?),
            (Callers::Public, Some(files)) => {
                let own = Files { authorities: None, ..files.all() };
                Some(tls::server("public", own, HTTP2).await?)
            }
            (Callers::PublicOrCertified, Some(files)) => {
                let asking = Files { optional: true, ..files.all() };
                Some(tls::server("public", asking, HTTP2).await?)
            }
            (Callers::Peers, None) => bail!("common.tls is required for the port of the services"),
            (Callers::PublicOrCertified, None) => bail!("certificates are asked for over TLS only"),
            (Callers::Public, None) => None,
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let serving = server
            .layer(ShedLayer::new(config.calls_at_once))
            .layer(AllowLayer(allow.map(Arc::new)))
            .add_routes(self.routes.routes());
        let (stop, drain) =
            (service.stop_token(), Duration::from_secs(service.common().lifecycle.drain_seconds));
        service.spawn("gRPC", async move {
            let stopped = async move {
                stop.cancelled().await;
                tokio::time::sleep(drain).await;
            };
            if let Some(presented) = presented {
                serving.serve_with_incoming_shutdown(secured(listener, presented), stopped).await?;
            } else {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                serving.serve_with_incoming_shutdown(incoming, stopped).await?;
            }
            Ok(())
        });
        service.spawn("gRPC health", report_health(service.clone(), health, self.names));
        tracing::info!(%address, ?callers, tls = tls.is_some(), "gRPC port open");
        Ok(address)
    }
}

/// Connections that are through with TLS. Each meets the certificates as they are when it begins, and keeps them.
///
/// tonic's own TLS reads its certificates once.
fn secured(
    listener: TcpListener,
    presented: Reloaded<ServerConfig>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (ready, incoming) = mpsc::channel(1);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&handshakes).acquire_owned().await {
            let accepted = tokio::select! {
                // Nobody takes connections any more: the port closes.
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    // Out of file descriptors, most likely: that takes a moment to pass.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, ready) = (TlsAcceptor::from(presented.current()), ready.clone());
            tokio::spawn(async move {
                let secured = async {
                    stream.set_nodelay(true)?;
                    acceptor.accept(stream).await
                };
                match tokio::time::timeout(HANDSHAKE_WITHIN, secured).await {
                    // If nobody takes it, the port has closed meanwhile.
                    Ok(Ok(stream)) => ready.send(Ok(stream)).await.unwrap_or_default(),
                    Ok(Err(error)) => tracing::debug!(%error, "a caller failed at TLS"),
                    Err(_) => tracing::debug!("a caller was too slow at TLS"),
                }
                drop(place);
            });
        }
    });
    ReceiverStream::new(incoming)
}

async fn report_health(
    service: Service,
    health: HealthReporter,
    names: Vec<&'static str>,
) -> anyhow::Result<()> {
    let stop = service.stop_token();
    loop {
        let stopping = stop.is_cancelled();
        let status =
            if service.readiness().is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in names.iter().copied().chain([""]) {
            health.set_service_status(name, status).await;
        }
        if stopping {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// A channel to another service. It connects when it is first used and again whenever the connection is lost, each time
/// with the certificates as they are then.
///
/// A peer that refuses our certificate shows at the first call, not here: TLS 1.3 tells the client afterwards.
pub async fn channel(peer: &PeerConfig, tls: &TlsFiles) -> anyhow::Result<Channel> {
    let address = || format!("peer address {:?}", peer.address);
    let uri: http::Uri = peer.address.parse().with_context(address)?;
    let host = uri.host().with_context(address)?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let name = ServerName::try_from(peer.server_name.clone().unwrap_or_else(|| host.clone()))
        .with_context(|| format!("the name expected of {}", peer.address))?;
    let presented = tls::client("services", tls.all(), HTTP2).await?;
    let connector = tower::service_fn(move |_: http::Uri| {
        let (config, host, name) = (presented.current(), host.clone(), name.clone());
        async move {
            match tokio::time::timeout(CONNECT_WITHIN, tls::connect(config, &host, port, name)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    });
    // The connector does TLS: to tonic the transport looks plain. Calls still say https.
    let plain = peer.address.replacen("https://", "http://", 1);
    Ok(Endpoint::from_shared(plain)
        .with_context(address)?
        .origin(uri)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect_with_connector_lazy(connector))
}
