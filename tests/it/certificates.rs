//! Certificates and passwords that change under running processes, and connections that are not good enough.

use std::{
    collections::BTreeMap,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use e2e::{Bus, Proxy, certificates, process, servers::ROLE_PASSWORD, until};
use parapet::servers::{Postgres, PostgresSettings};
use serde_json::json;
use shared::{
    db::{Db, StoreError},
    grpc,
    queue::BrokerConfig,
    service::{PeerConfig, TlsFiles},
    tls::{self, Files},
    wire::internal::{SearchRequest, audit_query_service_client::AuditQueryServiceClient},
};
use sqlx::{ConnectOptions as _, postgres::PgSslMode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, pki_types::ServerName, version},
};
use tonic::{Status, transport::Channel};

use crate::service::{Authority, free_address};

/// A party's files as Kubernetes mounts a secret: links through `..data`, which is swapped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: &Path, files: &TlsFiles) -> Self {
        std::fs::create_dir(dir).unwrap();
        let mounted = Self(dir.to_owned());
        mounted.swap(files);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
        }
        mounted
    }

    /// Puts all files of another version there, in one step.
    fn swap(&self, files: &TlsFiles) {
        let version = self.0.join(e2e::unique("..version"));
        std::fs::create_dir(&version).unwrap();
        for (file, name) in
            [(&files.cert_file, "tls.crt"), (&files.key_file, "tls.key"), (&files.ca_file, "ca.crt")]
        {
            std::fs::copy(file, version.join(name)).unwrap();
        }
        symlink(&version, self.0.join("..new")).unwrap();
        std::fs::rename(self.0.join("..new"), self.0.join("..data")).unwrap();
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert_file: self.0.join("tls.crt"),
            key_file: self.0.join("tls.key"),
            ca_file: self.0.join("ca.crt"),
        }
    }
}

async fn search(channel: &Channel) -> Result<(), Status> {
    AuditQueryServiceClient::new(channel.clone()).search(SearchRequest::default()).await.map(drop)
}

/// A metric's value, by its beginning.
async fn metric(http: &str, name: &str) -> Option<f64> {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let text = client.get(format!("{http}/metrics")).send().await.ok()?.text().await.ok()?;
    text.lines().find(|line| line.starts_with(name))?.split_whitespace().last()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_used_without_a_restart_and_what_is_broken_changes_nothing() {
    let bus = Bus::new().await;
    let (old, new) = (Authority::new(), Authority::new());
    let dir = old.dir.path();
    let server = Mounted::new(&dir.join("server"), &old.party("audit-writer"));
    let client = Mounted::new(&dir.join("client"), &old.party("integration-api"));
    let (grpc_address, http) = (free_address(), free_address());
    let mut common = bus.common_as("parapet_audit");
    common.tls = Some(server.files());
    common.grpc.listen = grpc_address;
    let listed = vec!["integration-api".to_owned()];
    common.grpc.allow = BTreeMap::from([("parapet.internal.v1.AuditQueryService".to_owned(), listed)]);
    let mut told = process::common(&common);
    told["http"] = json!({ "listen": http });
    let checkpoint = dir.join("checkpoint.pem");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(&checkpoint, key.serialize_pem()).unwrap();
    let told = json!({ "common": told, "checkpoint": { "key_file": checkpoint } });
    let mut writer = process::start(&e2e::program("audit-writer"), &process::file(dir, &told), None);

    let http = format!("http://{http}");
    let proxy = Proxy::to(grpc_address.port()).await;
    let peer = |port: u16| PeerConfig {
        address: format!("https://127.0.0.1:{port}"),
        server_name: Some("audit-writer".into()),
    };
    let open = grpc::channel(&peer(proxy.port()), &client.files()).await.unwrap();
    until("it answers", || async { search(&open).await.is_ok() }).await;
    let fresh = async |files: &TlsFiles| {
        let channel = grpc::channel(&peer(grpc_address.port()), files).await.unwrap();
        search(&channel).await
    };
    let expiry = "parapet_certificate_expiry_timestamp_seconds{certificate=\"services\"}";
    assert!(metric(&http, expiry).await.unwrap() > 1.7e9);

    // A key that belongs to another certificate.
    let broken = TlsFiles { key_file: new.party("x").key_file, ..old.party("audit-writer") };
    server.swap(&broken);
    let refused = "parapet_certificate_reloads_total{certificate=\"services\",outcome=\"refused\"}";
    until("the broken file is counted", || async { metric(&http, refused).await == Some(1.0) }).await;
    search(&open).await.unwrap();
    fresh(&old.party("integration-api")).await.unwrap();
    let ready = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    assert_eq!(ready.get(format!("{http}/readyz")).send().await.unwrap().status(), 200);

    // Everything of the old authority goes at once.
    server.swap(&new.party("audit-writer"));
    until("the new certificate is met", || async { fresh(&new.party("integration-api")).await.is_ok() })
        .await;
    search(&open).await.expect("the open connection stays");
    fresh(&old.party("integration-api")).await.unwrap_err();
    let impostor = TlsFiles { ca_file: new.party("x").ca_file, ..old.party("integration-api") };
    fresh(&impostor).await.unwrap_err();
    // The caller's side: its channel is the same, its next connection shows and believes the new ones.
    client.swap(&new.party("integration-api"));
    until("the channel connects again", || {
        proxy.cut();
        async { search(&open).await.is_ok() }
    })
    .await;
    writer.kill().await.unwrap();
}

#[tokio::test]
async fn a_pool_s_new_connections_use_the_password_as_its_file_is_now() {
    let bus = Bus::without_queues().await;
    let role = e2e::unique("renewed");
    let mut superuser = bus.superuser().await;
    let mut run = async |statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut superuser).await.unwrap();
    };
    run(format!("CREATE ROLE {role} LOGIN PASSWORD 'first'")).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let mut config = bus.common_as(&role).database;
    config.password_file = Some(file.path().to_owned());
    config.acquire_timeout_seconds = 2;
    let db = Db::connect(&config).await.unwrap();
    db.ping().await.unwrap();
    run(format!("ALTER ROLE {role} PASSWORD 'second'")).await;
    db.ping().await.expect("the open connection stays");
    run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")).await;
    until("the old password is refused", || async {
        db.ping()
            .await
            .is_err_and(|refused| refused.is_transient() && refused.to_string().contains("let this"))
    })
    .await;
    std::fs::write(file.path(), "second\n").unwrap();
    until("the new password is used", || async { db.ping().await.is_ok() }).await;
    db.close().await;
    run(format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn the_database_is_met_with_our_authority_and_our_certificate_if_there_is_one() {
    let bus = Bus::without_queues().await;
    let mut config = bus.common_as("parapet_validator").database;
    let shown = async |config: &_| {
        let db = Db::connect(config).await?;
        let mut tx = db.system().await?;
        let shown: (String, Option<String>) =
            sqlx::query_as("SELECT version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                .fetch_one(&mut *tx)
                .await?;
        tx.rollback().await?;
        Ok::<_, StoreError>(shown)
    };
    assert_eq!(shown(&config).await.unwrap(), ("TLSv1.3".into(), None));
    let own = certificates().of("client");
    (config.cert_file, config.key_file) = (Some(own.cert), Some(own.key));
    assert_eq!(shown(&config).await.unwrap(), ("TLSv1.3".into(), Some("/CN=client".into())));
    let strangers = Authority::new();
    let stranger = strangers.party("client");
    let forged = shared::db::DatabaseConfig {
        cert_file: Some(stranger.cert_file),
        key_file: Some(stranger.key_file),
        ..config.clone()
    };
    shown(&forged).await.unwrap_err();
    config.ca_file = Some(stranger.ca_file);
    let refused = shown(&config).await.unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
}

#[tokio::test]
async fn a_database_that_speaks_an_older_tls_is_refused() {
    let dir = e2e::server_dir();
    let mut settings = PostgresSettings::for_tests();
    for bound in ["min", "max"] {
        settings.settings.push(format!("ssl_{bound}_protocol_version=TLSv1.2"));
    }
    let server = Postgres::start(&dir.path().join("pg"), settings, certificates()).await.unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, ROLE_PASSWORD).unwrap();
    server.create_database("old", None).await.unwrap();
    let mut superuser = server.connect("old").await.unwrap();
    let role = format!("CREATE ROLE old LOGIN PASSWORD '{ROLE_PASSWORD}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(role)).execute(&mut superuser).await.unwrap();
    let refused = Db::connect(&server.config("old", "old", &password)).await.unwrap_err();
    assert!(matches!(refused, StoreError::OldTls(_)), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_broker_is_met_with_our_authority_and_our_certificate_if_there_is_one() {
    let bus = Bus::without_queues().await;
    let own = certificates().of("client");
    let good =
        BrokerConfig { cert_file: Some(own.cert), key_file: Some(own.key), ..bus.common.broker.clone() };
    for config in [&bus.common.broker, &good] {
        config.connect("test").await.unwrap().close(200, "done".into()).await.unwrap();
    }
    let strangers = Authority::new();
    let stranger = strangers.party("client");
    let forged = BrokerConfig {
        cert_file: Some(stranger.cert_file),
        key_file: Some(stranger.key_file),
        ..good.clone()
    };
    forged.connect("test").await.map(drop).unwrap_err();
    let elsewhere = BrokerConfig { ca_file: Some(stranger.ca_file), ..good.clone() };
    let refused = elsewhere.connect("test").await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    let clear = BrokerConfig { tls: false, ..good };
    clear.connect("test").await.map(drop).unwrap_err();
}

#[tokio::test]
async fn nobody_is_met_in_clear_or_with_an_older_tls() {
    let bus = Bus::without_queues().await;
    let servers = e2e::servers().await;
    let clear = servers.postgres.connect_options("postgres").ssl_mode(PgSslMode::Disable);
    let refused = clear.connect().await.unwrap_err();
    assert!(refused.to_string().contains("no encryption"), "{refused}");

    // A service's own port, on which any certificate of ours gets through TLS.
    let ours = Authority::new();
    let party = ours.party("audit-writer");
    let running = bus.start("audit-writer", "parapet_audit").await;
    let (grpc_tls, config) = (Some(&party), &bus.common.grpc);
    let server = grpc::Server::new();
    let service = server.listen(&running.service, config, grpc::Callers::Peers, grpc_tls).await.unwrap();
    let believed = |file: &Path, own: Option<(PathBuf, PathBuf)>| {
        (Files { own, authorities: Some(file.to_owned()), optional: false }, file.to_owned())
    };
    let (service_files, _) =
        believed(&party.ca_file, Some((party.cert_file.clone(), party.key_file.clone())));
    let (server_files, _) = believed(&certificates().ca(), None);
    let targets = [
        ("database", servers.postgres.port(), "127.0.0.1", &server_files),
        ("broker", servers.rabbitmq.port(), "127.0.0.1", &server_files),
        ("service", service.port(), "audit-writer", &service_files),
    ];
    for (what, port, name, files) in targets {
        handshake(what, port, name, files, &version::TLS13).await.unwrap();
        assert!(handshake(what, port, name, files, &version::TLS12).await.is_err(), "{what} spoke TLS 1.2");
    }
    running.stop().await;
}

/// TLS of exactly this version, up to the server's first word or for long enough that it would have refused.
async fn handshake(
    what: &str,
    port: u16,
    name: &str,
    files: &Files,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<()> {
    // What is shown and believed is as in production; only the version is not.
    let production = tls::client_once("test", files).await.unwrap();
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(files.authorities.as_ref().unwrap()).unwrap();
    let authority = <tokio_rustls::rustls::pki_types::CertificateDer<'_> as
        tokio_rustls::rustls::pki_types::pem::PemObject>::from_pem_slice(&pem);
    roots.add(authority.unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(production.crypto_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.client_auth_cert_resolver = production.client_auth_cert_resolver.clone();
    if what == "service" {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    if what == "database" {
        // "May we speak TLS?"; PostgreSQL answers S.
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
        assert_eq!(stream.read_u8().await?, b'S');
    }
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(Duration::from_secs(10), connected).await?.map(drop)
}
