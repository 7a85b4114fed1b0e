//! An integration-api with an issuer, keys and a registry, and clients with the tokens tests ask for.

mod desk;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use audit_writer::checkpoint::SigningKey;
use e2e::{Bus, Idp, bus::until, free_port};
use identity_sync_worker::SyncConfig;
use integration_api::{ApiConfig, CertifiedService, Config, KeysConfig, OidcConfig, PublicTls};
use lapin::{options::BasicGetOptions, types::ShortString};
use parapet::{
    certs::{Certificates, service_name},
    issuer::{self, Issuer, callers::Caller},
};
use prost::Message as _;
use shared::{
    id::{OrganizationId, TenantId},
    outbox::Topic,
    sealing::{Purpose, TopKey},
    service::{ListenConfig, PeerConfig, TlsFiles},
    wire::{
        events::AuditRecorded,
        v1::{self, tenant_service_client::TenantServiceClient},
    },
};
use time::OffsetDateTime;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Request,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

pub use self::desk::Desk;

/// The service and everything around it.
pub struct Stage {
    pub bus: Bus,
    pub channel: Channel,
    pub organization: OrganizationId,
    pub tenant: TenantId,
    pub http: String,
    /// The port of the public API.
    pub grpc: u16,
    /// Where the API looks for the sync worker; nobody answers there until a test starts one.
    pub sync_worker: u16,
    /// Where it looks for the mitigation executor, likewise.
    executor: u16,
    /// Where it looks for the audit writer, likewise.
    audit_writer: u16,
    issuer: Issuer,
    integration_key: TopKey,
    leak_key: TopKey,
    files: tempfile::TempDir,
    running: Vec<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<ExitCode>>,
}

/// A client's calls carry this token.
#[derive(Clone)]
pub struct Token(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub type Api = InterceptedService<Channel, Token>;

pub fn package(providers: &[v1::ProviderKind]) -> v1::TenantPackage {
    v1::TenantPackage {
        providers: providers.iter().map(|p| (*p).into()).collect(),
        identity_creation: true,
        validation: true,
        mitigation: true,
        identifier_cap: 0,
        integration_cap: 1,
        contact: "sales@parapet.example".into(),
    }
}

impl Stage {
    /// With one tenant that may connect Entra ID.
    pub async fn new() -> Self {
        let mut stage = Self::start().await;
        stage.tenant = stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
        stage
    }

    /// With a tenant that may connect both kinds of directory, and a sync worker that reaches those of the simulator.
    pub async fn with_directories(idp: &Idp) -> Self {
        let mut stage = Self::start().await;
        let (stop, stopped) = oneshot::channel();
        let worker = identity_sync_worker::run(stage.sync_worker_config(idp), async { drop(stopped.await) });
        stage.running.push(Running { stop, ended: tokio::spawn(worker) });
        let port = stage.sync_worker;
        until("the sync worker listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let package = v1::TenantPackage {
            integration_cap: 100,
            identifier_cap: 1000,
            ..package(&[v1::ProviderKind::EntraId, v1::ProviderKind::Okta])
        };
        stage.tenant = stage.new_tenant(&package).await;
        stage
    }

    /// With one tenant of this id, behind a port that knows these programs by their certificates.
    pub async fn with_services(tenant: TenantId, services: Vec<CertifiedService>) -> Self {
        let mut stage = Self::start_with(Some(services)).await;
        stage.tenant = stage.new_tenant_of(tenant, &package(&[v1::ProviderKind::EntraId])).await;
        stage
    }

    async fn start() -> Self {
        Self::start_with(None).await
    }

    // Programs that are known by certificate call over TLS, and so does everybody then.
    async fn start_with(services: Option<Vec<CertifiedService>>) -> Self {
        let bus = Bus::new().await;
        let files = tempfile::tempdir().unwrap();
        let dir = files.path();
        issuer::prepare(dir).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = issuer::url(listener.local_addr().unwrap().port());
        let router = issuer::router(Issuer::load(dir, url.clone()).unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let top = |purpose, name: &str| {
            let key = TopKey::generate(purpose).unwrap();
            let file = dir.join(name);
            std::fs::write(&file, key.verifier().to_file().unwrap()).unwrap();
            (key, file)
        };
        let (integration_key, integration_verifier) = top(Purpose::Integration, "integration.pub");
        std::fs::write(dir.join("integration.key"), integration_key.to_file().unwrap().as_bytes()).unwrap();
        let (leak_key, leak_verifier) = top(Purpose::Leak, "leak.pub");
        let mut common = bus.common_as("parapet_api");
        common.tls = Some(tls(dir, "integration-api"));
        let (grpc, http) = (free_port(), free_port());
        let (sync_worker, executor, audit_writer) = (free_port(), free_port(), free_port());
        let peers = [
            ("identity-sync-worker", sync_worker),
            ("mitigation-executor", executor),
            ("audit-writer", audit_writer),
        ];
        for (peer, port) in peers {
            let away = PeerConfig {
                address: format!("https://127.0.0.1:{port}"),
                server_name: Some(service_name(peer)),
            };
            common.peers.insert(peer.into(), away);
        }
        common.grpc.listen = ([127, 0, 0, 1], grpc).into();
        common.http.listen = ([127, 0, 0, 1], http).into();
        let http = format!("http://127.0.0.1:{http}");
        let config = Config {
            common,
            api: ApiConfig {
                public_url: http.clone(),
                tls: services.is_some().then(|| {
                    let TlsFiles { cert_file, key_file, ca_file } = tls(dir, "integration-api");
                    PublicTls { cert_file, key_file, client_ca_file: Some(ca_file) }
                }),
                services: services.clone().unwrap_or_default(),
            },
            oidc: OidcConfig {
                issuer: url.clone(),
                audience: issuer::AUDIENCE.into(),
                ..OidcConfig::default()
            },
            keys: KeysConfig { integration_verifier, leak_verifier },
            ..Config::default()
        };
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(integration_api::run(config, async move { drop(stopped.await) }));
        let ready = format!("{http}/readyz");
        until("integration-api is ready", || async {
            reqwest::get(&ready).await.is_ok_and(|r| r.status().is_success())
        })
        .await;
        let channel = match services {
            Some(_) => channel(grpc, dir, None),
            None => Channel::from_shared(format!("http://127.0.0.1:{grpc}")).unwrap().connect_lazy(),
        };
        let stage = Self {
            issuer: Issuer::load(dir, url).unwrap(),
            bus,
            channel,
            organization: OrganizationId::new(),
            tenant: TenantId::new(),
            http,
            grpc,
            integration_key,
            leak_key,
            sync_worker,
            executor,
            audit_writer,
            files,
            running: vec![Running { stop, ended }],
        };
        let mut operator = stage.operator();
        let name = format!("org {}", stage.organization);
        let made = v1::CreateOrganizationRequest { id: stage.organization.to_string(), name };
        operator.create_organization(made.clone()).await.unwrap();
        operator.create_organization(made).await.unwrap();
        stage
    }

    /// Writes a file beside the keys and returns its path.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The configuration of a sync worker that the API finds, with directories at this simulator.
    pub fn sync_worker_config(&self, idp: &Idp) -> identity_sync_worker::Config {
        let dir = self.files.path();
        let mut common = self.bus.common_as("parapet_sync");
        common.tls = Some(tls(dir, "identity-sync-worker"));
        let callers = vec![service_name("integration-api")];
        let served = ["parapet.internal.v1.DirectoryService", "parapet.internal.v1.RemovalService"];
        common.grpc = ListenConfig {
            listen: ([127, 0, 0, 1], self.sync_worker).into(),
            allow: served.map(|name| (name.to_owned(), callers.clone())).into(),
            ..ListenConfig::default()
        };
        identity_sync_worker::Config {
            common,
            idp: idp.egress_config(),
            keys: identity_sync_worker::KeyConfig {
                integration: dir.join("integration.key").into(),
                ..Default::default()
            },
            sync: SyncConfig { changes_every_seconds: 3600, slice_seconds: 2, ..SyncConfig::default() },
        }
    }

    /// Starts a mitigation executor that the API finds, with directories at this simulator.
    pub async fn start_executor(&mut self, idp: &Idp) {
        let dir = self.files.path();
        let mut common = self.bus.common_as("parapet_mitigation");
        common.tls = Some(tls(dir, "mitigation-executor"));
        common.grpc = ListenConfig {
            listen: ([127, 0, 0, 1], self.executor).into(),
            allow: [(
                "parapet.internal.v1.ContainmentService".to_owned(),
                vec![service_name("integration-api")],
            )]
            .into(),
            ..ListenConfig::default()
        };
        let config = mitigation_executor::Config {
            common,
            idp: idp.egress_config(),
            keys: mitigation_executor::config::Keys { integration: dir.join("integration.key").into() },
            executor: mitigation_executor::config::Tuning::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let executor = mitigation_executor::run(config, async { drop(stopped.await) });
        self.running.push(Running { stop, ended: tokio::spawn(executor) });
        let port = self.executor;
        until("the mitigation executor listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
    }

    /// Starts an audit writer that the API finds.
    pub async fn start_audit_writer(&mut self) {
        let dir = self.files.path();
        let key_file = self.file("checkpoint.pem", &SigningKey::generate_pem().unwrap());
        let mut common = self.bus.common_as("parapet_audit");
        common.tls = Some(tls(dir, "audit-writer"));
        common.grpc = ListenConfig {
            listen: ([127, 0, 0, 1], self.audit_writer).into(),
            allow: [(
                "parapet.internal.v1.AuditQueryService".to_owned(),
                vec![service_name("integration-api")],
            )]
            .into(),
            ..ListenConfig::default()
        };
        let config = audit_writer::Config {
            common,
            checkpoint: audit_writer::CheckpointConfig { key_file, trusted_keys: Vec::new() },
        };
        let (stop, stopped) = oneshot::channel();
        let writer = audit_writer::run(config, async { drop(stopped.await) });
        self.running.push(Running { stop, ended: tokio::spawn(writer) });
        let port = self.audit_writer;
        until("the audit writer listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
    }

    /// Has every integration look as if its connection test had passed.
    pub async fn activate_all(&self) {
        self.bus
            .execute("UPDATE api.integrations SET proven_at = now(), test_passed = true, status = 'active', status_reason = ''")
            .await;
    }

    /// A further tenant, with its keys.
    pub async fn new_tenant(&self, package: &v1::TenantPackage) -> TenantId {
        self.new_tenant_of(TenantId::new(), package).await
    }

    async fn new_tenant_of(&self, tenant: TenantId, package: &v1::TenantPackage) -> TenantId {
        let request = v1::CreateTenantRequest {
            id: tenant.to_string(),
            organization_id: self.organization.to_string(),
            name: format!("tenant {tenant}"),
            package: Some(package.clone()),
            time_zone: String::new(),
        };
        self.operator().create_tenant(request).await.unwrap();
        let mut connection = self.bus.superuser().await;
        for (top, statement) in [
            (
                &self.integration_key,
                "INSERT INTO sync.sealing_keys (tenant_id, version, public_key, signature, wrapped_private)
                 VALUES ($1, 1, $2, $3, $4) ON CONFLICT DO NOTHING",
            ),
            (
                &self.leak_key,
                "INSERT INTO validator.sealing_keys (tenant_id, version, public_key, signature, wrapped_private)
                 VALUES ($1, 1, $2, $3, $4)",
            ),
        ] {
            let pair = top.new_key_pair(Some(tenant), 1).unwrap();
            sqlx::query(statement)
                .bind(tenant)
                .bind(pair.public)
                .bind(pair.signature)
                .bind(pair.wrapped_private)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        tenant
    }

    /// A token of this person.
    pub fn token(&self, subject: &str, tenants: &[TenantId], roles: &[&str]) -> Token {
        bearer(&self.access_token(subject, tenants, roles))
    }

    /// A channel on which a program calls with a token of its own: no person is behind it.
    pub fn program(&self, id: &str, roles: &[&str]) -> Api {
        let caller = Caller { id: id.into(), ..self.caller(id, &[self.tenant], roles) };
        let token = self.issuer.token(&caller, OffsetDateTime::now_utc()).unwrap();
        InterceptedService::new(self.channel.clone(), bearer(&token))
    }

    /// A channel without a token, with the certificate that the stage's authority gave a program of this name.
    pub fn certified(&self, name: &str) -> Api {
        let channel = channel(self.grpc, self.files.path(), Some(&tls(self.files.path(), name)));
        InterceptedService::new(channel, Token(None))
    }

    /// The same with a certificate of somebody else's authority.
    pub fn certified_elsewhere(&self, name: &str) -> Api {
        let elsewhere = tempfile::tempdir().unwrap();
        let channel = channel(self.grpc, self.files.path(), Some(&tls(elsewhere.path(), name)));
        InterceptedService::new(channel, Token(None))
    }

    /// A channel without anything that says who calls.
    pub fn nobody(&self) -> Api {
        InterceptedService::new(self.channel.clone(), Token(None))
    }

    fn caller(&self, subject: &str, tenants: &[TenantId], roles: &[&str]) -> Caller {
        Caller {
            id: format!("console of {subject}"),
            secret: String::new(),
            name: subject.into(),
            subject: subject.into(),
            organization: (!tenants.is_empty()).then(|| self.organization.uuid()),
            tenants: tenants.iter().map(|t| t.uuid()).collect(),
            roles: roles.iter().map(|&r| r.to_owned()).collect(),
        }
    }

    fn access_token(&self, subject: &str, tenants: &[TenantId], roles: &[&str]) -> String {
        self.issuer.token(&self.caller(subject, tenants, roles), OffsetDateTime::now_utc()).unwrap()
    }

    /// A person of the stage's tenant at a machine with the command line.
    pub fn desk(&self, subject: &str, roles: &[&str]) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), self.access_token(subject, &[self.tenant], roles)).unwrap();
        Desk { dir, port: self.grpc }
    }

    /// A channel on which a person with these roles calls for the stage's tenant.
    pub fn by(&self, subject: &str, roles: &[&str]) -> Api {
        InterceptedService::new(self.channel.clone(), self.token(subject, &[self.tenant], roles))
    }

    /// A channel on which a person calls for another tenant.
    pub fn by_in(&self, tenant: TenantId, roles: &[&str]) -> Api {
        InterceptedService::new(self.channel.clone(), self.token("stranger", &[tenant], roles))
    }

    /// The operator's client.
    pub fn operator(&self) -> TenantServiceClient<Api> {
        let token = self.token("operator", &[], &["operator"]);
        TenantServiceClient::new(InterceptedService::new(self.channel.clone(), token))
    }

    /// Takes what the audit log was told until now, and returns what is about objects of this kind.
    pub async fn audited(&self, object_kind: &str) -> Vec<AuditRecorded> {
        self.bus.until_count("SELECT count(*) FROM api.outbox", 0).await;
        let (_connection, channel) = self.bus.channel().await;
        let queue = ShortString::from(Topic::AuditRecorded.as_str());
        let options = BasicGetOptions { no_ack: true };
        let mut found = Vec::new();
        while let Some(got) = channel.basic_get(queue.clone(), options).await.unwrap() {
            let event = AuditRecorded::decode(got.data.as_slice()).unwrap();
            if event.object_kind == object_kind {
                found.push(event);
            }
        }
        found
    }

    /// Stops the services and expects them to end well.
    pub async fn stop(self) {
        for Running { stop, ended } in self.running {
            stop.send(()).unwrap();
            assert_eq!(ended.await.unwrap().unwrap(), ExitCode::SUCCESS);
        }
    }
}

fn bearer(token: &str) -> Token {
    Token(Some(format!("Bearer {token}").parse().unwrap()))
}

/// The certificate of a service, from the authority of this directory.
fn tls(dir: &Path, service: &str) -> TlsFiles {
    let own = Certificates::prepare(dir, &[service]).unwrap();
    let pair = own.of(service);
    TlsFiles { cert_file: pair.cert, key_file: pair.key, ca_file: own.ca() }
}

/// Calls the public port over TLS, with a certificate or without.
fn channel(port: u16, dir: &Path, own: Option<&TlsFiles>) -> Channel {
    let read = |file: &Path| std::fs::read(file).unwrap();
    let mut config = ClientTlsConfig::new()
        .domain_name(service_name("integration-api"))
        .ca_certificate(Certificate::from_pem(read(&tls(dir, "integration-api").ca_file)));
    if let Some(TlsFiles { cert_file, key_file, .. }) = own {
        config = config.identity(Identity::from_pem(read(cert_file), read(key_file)));
    }
    let endpoint = Channel::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(config).unwrap().connect_lazy()
}
