//! gRPC between services: mutual TLS on both sides, and a list of who may call what.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::future::{Either, Ready, ready};
use tokio::net::TcpListener;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    service::RoutesBuilder,
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
        server::{TcpConnectInfo, TcpIncoming, TlsConnectInfo},
    },
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Layer, Service as TowerService};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{
    db::StoreError,
    service::{ListenConfig, PeerConfig, Service, TlsFiles},
    wire,
};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

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
        let mut server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_header_list_size(32 * 1024)
            .max_concurrent_streams(u32::try_from(config.calls_per_connection)?)
            .concurrency_limit_per_connection(config.calls_per_connection)
            .load_shed(true)
            .timeout(Duration::from_secs(config.timeout_seconds));
        match (callers, tls) {
            (_, Some(tls)) => {
                let mut files =
                    ServerTlsConfig::new().identity(identity(tls).await?).timeout(Duration::from_secs(10));
                if callers != Callers::Public {
                    let optional = callers == Callers::PublicOrCertified;
                    files =
                        files.client_ca_root(certificate(&tls.ca_file).await?).client_auth_optional(optional);
                }
                server = server.tls_config(files)?;
            }
            (Callers::Peers, None) => bail!("common.tls is required for the port of the services"),
            (Callers::PublicOrCertified, None) => bail!("certificates are asked for over TLS only"),
            (Callers::Public, None) => {}
        }
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let serving = server.layer(AllowLayer(allow.map(Arc::new))).add_routes(self.routes.routes());
        let (stop, drain) =
            (service.stop_token(), Duration::from_secs(service.common().lifecycle.drain_seconds));
        service.spawn("gRPC", async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let stopped = async move {
                stop.cancelled().await;
                tokio::time::sleep(drain).await;
            };
            Ok(serving.serve_with_incoming_shutdown(incoming, stopped).await?)
        });
        service.spawn("gRPC health", report_health(service.clone(), health, self.names));
        tracing::info!(%address, ?callers, tls = tls.is_some(), "gRPC port open");
        Ok(address)
    }
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

/// A channel to another service. It connects when it is first used and again whenever the connection is lost.
///
/// A peer that refuses our certificate shows at the first call, not here: TLS 1.3 tells the client afterwards.
pub async fn channel(peer: &PeerConfig, tls: &TlsFiles) -> anyhow::Result<Channel> {
    let mut config = ClientTlsConfig::new()
        .identity(identity(tls).await?)
        .ca_certificate(certificate(&tls.ca_file).await?);
    if let Some(name) = &peer.server_name {
        config = config.domain_name(name);
    }
    Ok(Endpoint::from_shared(peer.address.clone())
        .with_context(|| format!("peer address {:?}", peer.address))?
        .tls_config(config)?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .connect_lazy())
}

async fn identity(tls: &TlsFiles) -> anyhow::Result<Identity> {
    Ok(Identity::from_pem(read(&tls.cert_file).await?, read(&tls.key_file).await?))
}

async fn certificate(file: &Path) -> anyhow::Result<Certificate> {
    Ok(Certificate::from_pem(read(file).await?))
}

async fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(file).await.with_context(|| format!("cannot read {}", file.display()))
}

/// Which peers may call which service.
#[derive(Debug, Default)]
struct AllowList {
    services: BTreeMap<String, Vec<String>>,
}

impl AllowList {
    // A list for a service that is not there is a mistake that would leave another one closed: refused at start.
    fn new(names: &[&'static str], allow: &BTreeMap<String, Vec<String>>) -> anyhow::Result<Self> {
        for name in allow.keys() {
            if !names.contains(&name.as_str()) {
                bail!(
                    "common.grpc.allow names {name}, which is not served here; served are {}",
                    names.join(", ")
                );
            }
        }
        let mut services = allow.clone();
        // Whoever may call something here may ask whether it is healthy, and what it looks like if that is on.
        let mut all: Vec<String> = allow.values().flatten().cloned().collect();
        all.sort_unstable();
        all.dedup();
        for name in [HEALTH].into_iter().chain(REFLECTION) {
            services.insert(name.to_owned(), all.clone());
        }
        Ok(Self { services })
    }

    fn permits(&self, path: &str, peers: &[String]) -> bool {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.services.get(service).is_some_and(|allowed| peers.iter().any(|peer| allowed.contains(peer)))
    }
}

/// The caller, as its verified certificate names it; found in the extensions of requests on a port that asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Vec<String>);

fn peer_names<B>(request: &http::Request<B>) -> Vec<String> {
    let certificates =
        request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    certificates.as_ref().and_then(|chain| chain.first()).map(|leaf| names(leaf)).unwrap_or_default()
}

// DNS names, and URIs such as a SPIFFE id.
fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let known = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    });
    known.collect()
}

#[derive(Clone, Debug)]
struct AllowLayer(Option<Arc<AllowList>>);

impl<S> Layer<S> for AllowLayer {
    type Service = Allow<S>;
    fn layer(&self, inner: S) -> Allow<S> {
        Allow { inner, list: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
struct Allow<S> {
    inner: S,
    list: Option<Arc<AllowList>>,
}

impl<S, R> TowerService<http::Request<R>> for Allow<S>
where
    S: TowerService<http::Request<R>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<R>) -> Self::Future {
        // INVARIANT: who a caller is comes from the connection alone, also where nobody has to be listed.
        let peers = peer_names(&request);
        if let Some(list) = &self.list
            && !list.permits(request.uri().path(), &peers)
        {
            tracing::warn!(path = request.uri().path(), ?peers, "peer refused");
            metrics::counter!("parapet_grpc_peers_refused_total").increment(1);
            let refusal = Status::permission_denied("this service may not call that method");
            return Either::Right(ready(Ok(refusal.into_http())));
        }
        request.extensions_mut().insert(Peer(peers));
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> AllowList {
        let allow = BTreeMap::from([
            ("a.v1.Search".to_owned(), vec!["integration-api".to_owned()]),
            ("a.v1.Test".to_owned(), vec!["audit-writer".to_owned()]),
        ]);
        AllowList::new(&["a.v1.Search", "a.v1.Test", "a.v1.Closed"], &allow).unwrap()
    }

    #[test]
    fn a_peer_may_call_what_it_is_listed_for_and_nothing_else() {
        let (list, api) = (list(), ["integration-api".to_owned()]);
        assert!(list.permits("/a.v1.Search/Find", &api));
        assert!(!list.permits("/a.v1.Test/Run", &api));
        assert!(!list.permits("/a.v1.Closed/Run", &api), "a service without a list is closed");
        assert!(!list.permits("/a.v1.Search/Find", &[]), "a peer without a name is nobody");
        assert!(!list.permits("/a.v1.Searching/Find", &api));
    }

    #[test]
    fn everybody_on_a_list_may_ask_for_health() {
        assert!(list().permits("/grpc.health.v1.Health/Check", &["audit-writer".to_owned()]));
        assert!(!list().permits("/grpc.health.v1.Health/Check", &["stranger".to_owned()]));
    }

    #[test]
    fn a_list_for_an_unknown_service_is_refused() {
        let allow = BTreeMap::from([("a.v1.Serach".to_owned(), vec![])]);
        assert!(AllowList::new(&["a.v1.Search"], &allow).is_err());
    }

    #[test]
    fn a_peer_is_known_by_the_names_of_its_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let dns = vec!["audit-writer".to_owned(), "audit-writer.parapet.svc".to_owned()];
        let mut params = rcgen::CertificateParams::new(dns.clone()).unwrap();
        let spiffe = "spiffe://acme/audit-writer";
        params.subject_alt_names.push(rcgen::SanType::URI(spiffe.try_into().unwrap()));
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(names(certificate.der()), [dns[0].as_str(), dns[1].as_str(), spiffe]);
        assert!(names(b"nonsense").is_empty());
    }
}
