//! The audit log: complete, in one chain, and nobody changes it unnoticed.

use std::{process::ExitCode, time::Duration};

use audit_writer::{
    CheckpointConfig, Config,
    chain::Chain,
    checkpoint::{self, SigningKey},
    verify::{Report, verify},
};
use e2e::{Bus, bus::Running, until};
use parapet::certs::{Certificates, service_name};
use shared::{
    audit::{self, Actor, Event, EventType, Outcome, names},
    db::Db,
    grpc,
    id::{EventId, TenantId},
    outbox::{self, Topic},
    service::{ListenConfig, PeerConfig, TlsFiles},
    wire::internal::{
        SearchRequest, VerifyRequest, VerifyResponse, audit_query_service_client::AuditQueryServiceClient,
    },
};
use time::OffsetDateTime;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

const SERVICE: &str = "parapet.internal.v1.AuditQueryService";

/// Writers of the log, and a service that records events.
struct Stage {
    bus: Bus,
    producer: Running,
    /// As the writers' role.
    db: Db,
    files: tempfile::TempDir,
    port: u16,
    writers: Vec<(oneshot::Sender<()>, JoinHandle<anyhow::Result<ExitCode>>)>,
}

impl Stage {
    async fn new(writers: usize) -> Self {
        let bus = Bus::new().await;
        let files = tempfile::tempdir().unwrap();
        Certificates::prepare(files.path(), &["integration-api", "audit-writer"]).unwrap();
        std::fs::write(files.path().join("checkpoint.pem"), SigningKey::generate_pem().unwrap().as_bytes())
            .unwrap();
        let producer = bus.start("producer", "parapet_api").await;
        producer.service.spawn_relay(&["outbox"]);
        let db = Db::connect(&bus.common_as("parapet_audit").database).await.unwrap();
        let port = e2e::free_port();
        let mut stage = Self { bus, producer, db, files, port, writers: Vec::new() };
        for number in 0..writers {
            stage.start(if number == 0 { port } else { 0 });
        }
        stage
    }

    fn start(&mut self, port: u16) {
        let mut common = self.bus.common_as("parapet_audit");
        common.tls = Some(self.tls("audit-writer"));
        common.grpc = ListenConfig {
            listen: ([127, 0, 0, 1], port).into(),
            allow: [(SERVICE.to_owned(), vec![service_name("integration-api")])].into(),
            ..ListenConfig::default()
        };
        let checkpoint =
            CheckpointConfig { key_file: self.files.path().join("checkpoint.pem"), trusted_keys: Vec::new() };
        let (stop, asked) = oneshot::channel::<()>();
        let ended = tokio::spawn(audit_writer::run(Config { common, checkpoint }, async move {
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        self.writers.push((stop, ended));
    }

    fn tls(&self, service: &str) -> TlsFiles {
        let file = |name: String| self.files.path().join(name);
        TlsFiles {
            cert_file: file(format!("{service}.pem")),
            key_file: file(format!("{service}-key.pem")),
            ca_file: file("ca.pem".into()),
        }
    }

    fn key(&self) -> SigningKey {
        SigningKey::load(&self.files.path().join("checkpoint.pem")).unwrap()
    }

    async fn client(&self) -> AuditQueryServiceClient<Channel> {
        let peer = PeerConfig {
            address: format!("https://127.0.0.1:{}", self.port),
            server_name: Some(service_name("audit-writer")),
        };
        AuditQueryServiceClient::new(grpc::channel(&peer, &self.tls("integration-api")).await.unwrap())
    }

    /// Records events of one chain, in transactions of 100.
    async fn record(&self, tenant: Option<TenantId>, kind: &'static EventType, count: usize) {
        let events: Vec<Event> = (0..count)
            .map(|n| {
                Event::new(tenant, kind, Actor::Service("producer"), Outcome::Info, format!("event {n}"))
                    .detail("reason", n)
                    .user("00u1", "Ann@Example.com")
            })
            .collect();
        for some in events.chunks(100) {
            let mut tx = self.producer.service.db().system().await.unwrap();
            audit::record_many(&mut tx, some).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    async fn until_stored(&self, count: i64) {
        self.bus.until_count("SELECT count(*) FROM audit.events", count).await;
    }

    async fn verify(&self, tenant: Option<TenantId>) -> Report {
        let chain = tenant.map_or(Chain::INSTALLATION, |t| Chain::from(t.uuid()));
        verify(&self.db, chain, &[self.key().public_key()]).await.unwrap()
    }

    /// What the service says of a chain.
    async fn asked(&self, tenant: TenantId) -> VerifyResponse {
        let request = VerifyRequest { tenant_id: tenant.to_string() };
        self.client().await.verify(request).await.unwrap().into_inner()
    }

    async fn tamper(&self, tenant: TenantId, statement: &'static str) {
        let done =
            sqlx::query(statement).bind(tenant).execute(&mut self.bus.superuser().await).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }
}

#[tokio::test]
async fn two_writers_at_once_make_one_chain_per_tenant_without_gap_or_fork() {
    let stage = Stage::new(2).await;
    let tenants = [None, Some(TenantId::new()), Some(TenantId::new())];
    tokio::join!(
        stage.record(tenants[0], names::EXPOSURE_RECEIVED, 700),
        stage.record(tenants[1], names::EXPOSURE_RECEIVED, 700),
        stage.record(tenants[2], names::EXPOSURE_RECEIVED, 700),
    );
    stage.until_stored(2100).await;
    for tenant in tenants {
        let report = stage.verify(tenant).await;
        assert_eq!((report.events, report.fault), (700, None));
    }
    assert_eq!(stage.bus.count("SELECT count(*) FROM audit.parked").await, 0);
}

#[tokio::test]
async fn a_thousand_messages_about_one_event_store_it_once() {
    let stage = Stage::new(2).await;
    let tenant = TenantId::new();
    let event = Event::new(Some(tenant), names::EXPOSURE_VERDICT, Actor::Rule("demo"), Outcome::Info, "once");
    let message = event.to_message(EventId::new(), OffsetDateTime::now_utc());
    let mut tx = stage.producer.service.db().system().await.unwrap();
    outbox::enqueue_many(&mut tx, Topic::AuditRecorded, Some(tenant), &vec![message; 1000]).await.unwrap();
    tx.commit().await.unwrap();
    stage.bus.until_count("SELECT count(*) FROM audit.inbox WHERE status = 'done'", 1000).await;
    assert_eq!(stage.bus.count("SELECT count(*) FROM audit.events").await, 1);
    assert_eq!(stage.verify(Some(tenant)).await.events, 1);
}

#[tokio::test]
async fn a_changed_removed_inserted_or_reordered_event_is_found() {
    let stage = Stage::new(1).await;
    let cases: [(&'static str, &str); 6] = [
        ("UPDATE audit.events SET message = 'another' WHERE tenant_id = $1 AND sequence = 3", "event 3 was changed"),
        ("UPDATE audit.events SET details = '{}' WHERE tenant_id = $1 AND sequence = 4", "event 4 was changed"),
        ("DELETE FROM audit.events WHERE tenant_id = $1 AND sequence = 5", "event 5 is missing"),
        ("DELETE FROM audit.events WHERE tenant_id = $1 AND sequence = 10", "event 10 is missing"),
        ("INSERT INTO audit.events SELECT tenant_id, 11, gen_random_uuid(), occurred_at, stored_at, type, actor_kind, actor_id,
             actor_name, outcome, cause_id, integration_id, object_kind, object_id, user_object_id, user_name, message, details,
             previous_hash, hash FROM audit.events WHERE tenant_id = $1 AND sequence = 10", "event 11 stands outside the chain"),
        ("UPDATE audit.events e SET event_id = o.event_id, message = o.message, details = o.details FROM audit.events o
          WHERE e.tenant_id = $1 AND o.tenant_id = $1 AND e.sequence = 6 AND o.sequence = 7", "event 6"),
    ];
    stage.bus.execute("ALTER TABLE audit.events DROP CONSTRAINT events_tenant_id_event_id_key").await;
    let mut total = 0;
    for (statement, found) in cases {
        let tenant = TenantId::new();
        stage.record(Some(tenant), names::EXPOSURE_RECEIVED, 10).await;
        total += 10;
        stage
            .bus
            .until_count(
                "SELECT count(DISTINCT (tenant_id, sequence)) FROM audit.events WHERE sequence <= 10",
                total,
            )
            .await;
        assert_eq!(stage.verify(Some(tenant)).await.fault, None);
        stage.tamper(tenant, statement).await;
        let fault = stage.verify(Some(tenant)).await.fault.unwrap_or_default();
        assert!(fault.starts_with(found), "{statement}: {fault}");
        if statement.starts_with("DELETE") {
            total -= 1;
        }
    }
}

#[tokio::test]
async fn checkpoints_are_signed_in_a_chain_and_a_cut_tail_is_found_by_them() {
    let stage = Stage::new(1).await;
    let tenant = TenantId::new();
    stage.record(Some(tenant), names::EXPOSURE_RECEIVED, 1000).await;
    stage.bus.until_count("SELECT count(*) FROM audit.checkpoints WHERE sequence = 1000", 1).await;
    let report = stage.verify(Some(tenant)).await;
    assert_eq!((report.events, report.fault), (1000, None));
    assert!(report.checkpoints >= 1);
    let unknown = verify(&stage.db, Chain::from(tenant.uuid()), &[]).await.unwrap();
    assert!(unknown.fault.unwrap().ends_with("is not signed by a trusted key"));
    // Whoever owns the table can rewrite the head as well; the signed statement still stands.
    stage.tamper(tenant, "DELETE FROM audit.events WHERE tenant_id = $1 AND sequence > 990").await;
    stage
        .tamper(
            tenant,
            "UPDATE audit.heads h SET sequence = 990, hash = e.hash FROM audit.events e
             WHERE h.tenant_id = $1 AND e.tenant_id = $1 AND e.sequence = 990",
        )
        .await;
    assert!(stage.verify(Some(tenant)).await.fault.unwrap().contains("checkpoint"));
    assert_eq!(checkpoint::round(&stage.db, &stage.key()).await.unwrap(), 0, "nothing is due");
}

#[tokio::test]
async fn a_replaced_signing_key_signs_from_then_on_and_what_the_old_one_signed_still_verifies() {
    let stage = Stage::new(1).await;
    let tenant = TenantId::new();
    let file = stage.files.path().join("checkpoint.pem");
    let mut keys = vec![stage.key().public_key()];
    for (round, events) in [1000, 2000, 3000].into_iter().enumerate() {
        if round > 0 {
            keys.push(parapet::keys::rotate_checkpoint_key(&file).unwrap());
            assert_eq!(stage.key().public_key(), keys[round]);
        }
        stage.record(Some(tenant), names::EXPOSURE_RECEIVED, 1000).await;
        let signed = format!(
            "SELECT count(*) FROM audit.checkpoints WHERE sequence = {} AND public_key = '\\x{}'",
            events,
            hex::encode(&keys[round])
        );
        until("the new key has signed", || async {
            let signed = sqlx::query_scalar(sqlx::AssertSqlSafe(signed.clone()));
            signed.fetch_one(&mut stage.bus.superuser().await).await.unwrap_or(0_i64) == 1
        })
        .await;
        let report = stage.asked(tenant).await;
        assert_eq!((report.events, report.fault.as_str()), (events, ""));
    }
    // Negative control: a file without the keys before does not vouch for what they signed.
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("-----BEGIN PUBLIC KEY-----").count(), 2);
    assert_eq!(text.matches("-----BEGIN PRIVATE KEY-----").count(), 1);
    std::fs::write(&file, text.split("-----BEGIN PUBLIC KEY-----").next().unwrap()).unwrap();
    let fault = stage.asked(tenant).await.fault;
    assert!(fault.ends_with("is not signed by a trusted key"), "{fault}");
}

#[tokio::test]
async fn a_search_pages_through_the_newest_first_and_finds_by_type_and_user() {
    let stage = Stage::new(1).await;
    let (tenant, other) = (TenantId::new(), TenantId::new());
    stage.record(Some(tenant), names::EXPOSURE_RECEIVED, 25).await;
    stage.record(Some(tenant), names::EXPOSURE_VERDICT, 5).await;
    stage.record(Some(other), names::EXPOSURE_RECEIVED, 5).await;
    stage.until_stored(35).await;
    let mut client = stage.client().await;
    let base = SearchRequest { tenant_id: tenant.to_string(), page_size: 10, ..SearchRequest::default() };
    let (mut sequences, mut request) = (Vec::new(), base.clone());
    request.types = vec!["exposure.rec*".into()];
    request.user = "ann@example.COM".into();
    loop {
        let page = client.search(request.clone()).await.unwrap().into_inner();
        assert!(page.events.iter().all(|e| e.r#type == "exposure.received"));
        sequences.extend(page.events.iter().map(|e| e.sequence));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(sequences.len(), 25);
    let mut unique = sequences.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), 25);
    let nobody = SearchRequest { user: "bob@example.com".into(), ..base.clone() };
    assert!(client.search(nobody).await.unwrap().into_inner().events.is_empty());
    let wrong = SearchRequest { page_token: "made up".into(), ..base };
    assert_eq!(client.search(wrong).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let verified = client.verify(VerifyRequest { tenant_id: tenant.to_string() }).await.unwrap().into_inner();
    assert!(verified.intact, "{}", verified.fault);
    assert_eq!(verified.events, 30);
}

#[tokio::test]
async fn the_writers_role_can_neither_change_nor_remove_an_event_nor_reach_another_tenants() {
    let stage = Stage::new(1).await;
    let tenant = TenantId::new();
    stage.record(Some(tenant), names::EXPOSURE_RECEIVED, 3).await;
    stage.until_stored(3).await;
    for statement in [
        "UPDATE events SET message = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "DELETE FROM checkpoints",
    ] {
        let mut tx = stage.db.tenant(tenant).await.unwrap();
        let refused = sqlx::query(statement).execute(&mut *tx).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{statement}: {refused}");
        tx.rollback().await.unwrap();
    }
    let mut tx = stage.db.tenant(TenantId::new()).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(seen, 0);
    tx.rollback().await.unwrap();
    let mut stage = stage;
    let (stop, ended) = stage.writers.remove(0);
    stop.send(()).unwrap();
    let code = tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap().unwrap().unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}
