//! The lifecycle of a service, and the calls between services.

use std::{collections::BTreeMap, net::SocketAddr, process::ExitCode, time::Duration};

use e2e::{Bus, Proxy, until};
use futures::stream;
use parapet::servers::process::{Child, Program};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustix::process::Signal;
use shared::{
    grpc::{self, Callers},
    service::{PeerConfig, Service, TlsFiles},
    wire::internal::{
        ExportRequest, ExportResponse, SearchRequest, SearchResponse, TailRequest, TailResponse,
        VerifyRequest, VerifyResponse,
        audit_query_service_client::AuditQueryServiceClient,
        audit_query_service_server::{AuditQueryService, AuditQueryServiceServer},
    },
};
use tonic::{Code, Request, Response, Status};

#[tokio::test]
async fn a_service_waits_for_database_and_broker_and_says_that_it_is_not_ready() {
    let bus = Bus::new().await;
    let database = Proxy::to(bus.common.database.port).await;
    let broker = Proxy::to(bus.common.broker.port).await;
    database.close();
    broker.close();
    let mut common = bus.common_as("parapet_validator");
    common.database.port = database.port();
    common.broker.port = broker.port();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    common.http.listen = listener.local_addr().unwrap();
    drop(listener);
    let base = format!("http://{}", common.http.listen);
    let starting = tokio::spawn(e2e::bus::start("validator", common));
    until("it is alive", || async { get(&format!("{base}/livez")).await == Some(200) }).await;
    assert_eq!(get(&format!("{base}/readyz")).await, Some(503));
    assert!(!starting.is_finished());
    database.open();
    let running = starting.await.unwrap();
    assert_eq!(get(&format!("{base}/readyz")).await, Some(503), "ready without the broker");
    broker.open();
    until("it is ready", || async { get(&format!("{base}/readyz")).await == Some(200) }).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

async fn get(url: &str) -> Option<u16> {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    client.get(url).send().await.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test]
async fn a_service_asked_to_stop_while_it_waits_for_the_database_stops() {
    let bus = Bus::new().await;
    let database = Proxy::to(bus.common.database.port).await;
    database.close();
    let mut common = bus.common_as("parapet_validator");
    common.database.port = database.port();
    let stop = async { tokio::time::sleep(Duration::from_millis(300)).await };
    let error = Service::start("validator", common, stop).await.unwrap_err();
    assert!(error.is::<shared::service::Stopped>(), "{error:#}");
}

#[tokio::test]
async fn a_wrong_password_is_an_error_and_not_waited_for() {
    let bus = Bus::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong").unwrap();
    let mut common = bus.common_as("parapet_validator");
    common.database.password_file = Some(file.path().to_owned());
    let started = Service::start("validator", common, std::future::pending());
    let error = tokio::time::timeout(Duration::from_secs(20), started).await.unwrap().unwrap_err();
    assert!(!format!("{error:#}").contains("wrong"), "{error:#}");
}

#[tokio::test]
async fn a_service_on_an_older_schema_is_not_ready_until_it_is_migrated() {
    let bus = Bus::new().await;
    let running = bus.start("validator", "parapet_validator").await;
    until("it is ready", || async { running.service.readiness().is_ready() }).await;
    bus.execute("CREATE TABLE public.kept AS SELECT * FROM _sqlx_migrations; DELETE FROM _sqlx_migrations WHERE version > 1").await;
    until("it says so", || async {
        running.service.readiness().faults().iter().any(|f| f.contains("run the migrations"))
    })
    .await;
    bus.execute("INSERT INTO _sqlx_migrations SELECT * FROM public.kept WHERE version > 1").await;
    until("it is ready again", || async { running.service.readiness().is_ready() }).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_task_that_ends_fails_or_panics_takes_the_service_down_with_a_failure() {
    let bus = Bus::new().await;
    for how in ["ends", "fails", "panics"] {
        let running = bus.start("validator", "parapet_validator").await;
        running.service.spawn("short", async move {
            match how {
                "ends" => Ok(()),
                "fails" => anyhow::bail!("broken"),
                _ => panic!("a task that panics"),
            }
        });
        let code = tokio::time::timeout(Duration::from_secs(20), running.run().ended).await.unwrap().unwrap();
        assert_eq!(code, ExitCode::FAILURE, "{how}");
    }
}

#[tokio::test]
async fn a_task_that_does_not_end_is_left_behind_at_the_deadline() {
    let bus = Bus::new().await;
    let mut common = bus.common_as("parapet_validator");
    common.lifecycle.grace_seconds = 1;
    let running = e2e::bus::start("validator", common).await;
    running.service.spawn("endless", std::future::pending());
    let began = std::time::Instant::now();
    assert_eq!(running.stop().await, ExitCode::FAILURE);
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// A certificate authority and the files of its parties.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    pub fn party(&self, name: &str) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let path = |kind: &str| self.dir.path().join(format!("{name}.{kind}.pem"));
        std::fs::write(path("cert"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsFiles { cert_file: path("cert"), key_file: path("key"), ca_file: self.dir.path().join("ca.pem") }
    }
}

#[derive(Clone)]
struct Query;

#[tonic::async_trait]
impl AuditQueryService for Query {
    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        let peer = request.extensions().get::<grpc::Peer>().cloned();
        assert_eq!(peer, Some(grpc::Peer(vec!["integration-api".into()])), "the handler knows who calls");
        Ok(Response::new(SearchResponse::default()))
    }
    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        Ok(Response::new(VerifyResponse::default()))
    }
    type ExportStream = stream::Empty<Result<ExportResponse, Status>>;
    async fn export(&self, _: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        Ok(Response::new(stream::empty()))
    }
    type TailStream = stream::Empty<Result<TailResponse, Status>>;
    async fn tail(&self, _: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        Ok(Response::new(stream::empty()))
    }
}

#[tokio::test]
async fn only_listed_peers_with_our_certificates_may_call() {
    let bus = Bus::new().await;
    let (ours, strangers) = (Authority::new(), Authority::new());
    let mut common = bus.common_as("parapet_audit");
    common.grpc.reflection = true;
    let service_name = "parapet.internal.v1.AuditQueryService";
    common.grpc.allow = BTreeMap::from([(service_name.to_owned(), vec!["integration-api".to_owned()])]);
    let running = e2e::bus::start("audit-writer", common.clone()).await;
    let tls = ours.party("audit-writer");
    let address = grpc::Server::new()
        .add(AuditQueryServiceServer::new(Query))
        .listen(&running.service, &common.grpc, Callers::Peers, Some(&tls))
        .await
        .unwrap();
    let peer = PeerConfig { address: format!("https://{address}"), server_name: Some("audit-writer".into()) };
    let call = async |tls: TlsFiles, peer: &PeerConfig| {
        let channel = grpc::channel(peer, &tls).await.unwrap();
        AuditQueryServiceClient::new(channel).search(SearchRequest::default()).await.map(drop)
    };
    call(ours.party("integration-api"), &peer).await.unwrap();
    let other_service = call(ours.party("credential-validator"), &peer).await.unwrap_err();
    assert_eq!(other_service.code(), Code::PermissionDenied);
    // A certificate of somebody else's authority that carries the right name. The client learns of the refusal at
    // its first call only.
    let mut forged = strangers.party("integration-api");
    forged.ca_file = ours.party("x").ca_file;
    assert_ne!(call(forged, &peer).await.unwrap_err().code(), Code::PermissionDenied);
    // And we do not talk to a server that is not who we meant.
    let wrong = PeerConfig { server_name: Some("identity-sync-worker".into()), ..peer.clone() };
    assert!(call(ours.party("integration-api"), &wrong).await.is_err());
    assert!(plain_client(&address.to_string()).await.is_err(), "without TLS nobody gets in");

    let health = grpc::channel(&peer, &ours.party("integration-api")).await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(health);
    let request = tonic_health::pb::HealthCheckRequest { service: service_name.into() };
    until("it says that it is serving", || {
        let (mut health, request) = (health.clone(), request.clone());
        async move { health.check(request).await.is_ok_and(|answer| answer.into_inner().status == 1) }
    })
    .await;
    health.check(request).await.unwrap();
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

async fn plain_client(address: &str) -> Result<(), Status> {
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    AuditQueryServiceClient::new(channel).search(SearchRequest::default()).await.map(drop)
}

#[tokio::test]
async fn a_port_for_peers_without_certificates_or_with_an_unknown_service_is_refused() {
    let bus = Bus::new().await;
    let running = bus.start("audit-writer", "parapet_audit").await;
    let mut config = bus.common.grpc.clone();
    let server = || grpc::Server::new().add(AuditQueryServiceServer::new(Query));
    assert!(server().listen(&running.service, &config, Callers::Peers, None).await.is_err());
    let authority = Authority::new();
    let tls = authority.party("audit-writer");
    for unknown in ["parapet.internal.v1.Nothing", "parapet.internal.v1.AuditQueryService/Serach"] {
        config.allow = BTreeMap::from([(unknown.to_owned(), Vec::new())]);
        let refused =
            server().listen(&running.service, &config, Callers::Peers, Some(&tls)).await.unwrap_err();
        assert!(refused.to_string().contains(unknown), "{refused:#}");
    }
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

/// Runs `audit-writer`, the plainest of the services, as a process.
fn process(dir: &std::path::Path, settings: &[(String, String)]) -> Child {
    let mut program = Program::new("audit-writer", e2e::program("audit-writer"), dir.join("log")).bare();
    for (name, value) in settings {
        program = program.env(format!("PARAPET__{name}"), value);
    }
    program.spawn().unwrap()
}

fn settings(bus: &Bus, authority: &Authority, http: SocketAddr) -> Vec<(String, String)> {
    let dir = authority.dir.path();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(dir.join("checkpoint.pem"), key.serialize_pem()).unwrap();
    let tls = authority.party("audit-writer");
    let file = |path: &std::path::Path| path.display().to_string();
    let (database, broker) = (&bus.common.database, &bus.common.broker);
    [
        ("COMMON__DATABASE__HOST", database.host.clone()),
        ("COMMON__DATABASE__PORT", database.port.to_string()),
        ("COMMON__DATABASE__DATABASE", database.database.clone()),
        ("COMMON__DATABASE__USER", "parapet_audit".into()),
        ("COMMON__DATABASE__PASSWORD_FILE", file(database.password_file.as_ref().unwrap())),
        ("COMMON__DATABASE__TLS", "verify-full".into()),
        ("COMMON__DATABASE__CA_FILE", file(database.ca_file.as_ref().unwrap())),
        ("COMMON__BROKER__TLS", "true".into()),
        ("COMMON__BROKER__CA_FILE", file(broker.ca_file.as_ref().unwrap())),
        ("COMMON__BROKER__HOST", broker.host.clone()),
        ("COMMON__BROKER__PORT", broker.port.to_string()),
        ("COMMON__BROKER__VHOST", broker.vhost.clone()),
        ("COMMON__BROKER__USER", broker.user.clone()),
        ("COMMON__BROKER__PASSWORD_FILE", file(&broker.password_file)),
        ("COMMON__TLS__CERT_FILE", file(&tls.cert_file)),
        ("COMMON__TLS__KEY_FILE", file(&tls.key_file)),
        ("COMMON__TLS__CA_FILE", file(&tls.ca_file)),
        ("COMMON__HTTP__LISTEN", http.to_string()),
        ("COMMON__LIFECYCLE__DRAIN_SECONDS", "30".into()),
        ("CHECKPOINT__KEY_FILE", file(&dir.join("checkpoint.pem"))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_process_drains_at_the_first_signal_and_leaves_at_the_second() {
    let bus = Bus::new().await;
    let authority = Authority::new();
    let http = free_address();
    let child = process(authority.dir.path(), &settings(&bus, &authority, http));
    let ready = format!("http://{http}/readyz");
    until("it is ready", || async { get(&ready).await == Some(200) }).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    child.signal(Signal::TERM);
    until("it says that it is stopping", || async { get(&ready).await == Some(503) }).await;
    assert!(child.exited().is_none(), "it did not wait for its callers to notice");
    let began = std::time::Instant::now();
    child.signal(Signal::TERM);
    assert_eq!(child.wait().await.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(10));
    // No log line of the whole life is anything but JSON, and none shows the password.
    let log = std::fs::read_to_string(authority.dir.path().join("log")).unwrap();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    assert!(!log.contains(e2e::servers::ROLE_PASSWORD));
}

#[tokio::test]
async fn a_process_that_is_asked_once_ends_well() {
    let bus = Bus::new().await;
    let authority = Authority::new();
    let http = free_address();
    let mut settings = settings(&bus, &authority, http);
    settings.retain(|(name, _)| name != "COMMON__LIFECYCLE__DRAIN_SECONDS");
    let child = process(authority.dir.path(), &settings);
    let ready = format!("http://{http}/readyz");
    until("it is ready", || async { get(&ready).await == Some(200) }).await;
    child.signal(Signal::TERM);
    assert_eq!(child.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_process_with_a_wrong_configuration_names_every_fault_and_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = [("COMMON__DATABASE__PORT".to_owned(), "many".to_owned())];
    let child = process(dir.path(), &wrong);
    assert_eq!(child.wait().await.code(), Some(2));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    for field in [
        "common.database.host",
        "common.database.port",
        "common.broker.user",
        "checkpoint.key_file",
        "common.tls",
    ] {
        assert!(log.contains(field), "{field} is not in:\n{log}");
    }
}
