//! The public API against real servers: who may call, what commits, what is remembered, what stays apart.

use e2e::until;
use prost::Message as _;
use shared::{
    id::IntegrationId,
    outbox::Topic,
    sealing::Opener,
    wire::{
        self,
        events::SyncRequested,
        v1::{
            self, exposure_service_client::ExposureServiceClient,
            integration_service_client::IntegrationServiceClient,
        },
    },
};
use tokio_stream::StreamExt;
use tonic::{Code, Status, service::interceptor::InterceptedService};
use tonic_types::StatusExt;

use crate::api_stage::{Api, Stage, package};

const GUID: &str = "2f0a4e9c-6a44-4a0e-9d8b-1f2f3c4d5e6f";
const SECRET: &str = "Canary~client.secret-4711";

pub fn entra(name: &str, key: &str) -> v1::CreateIntegrationRequest {
    v1::CreateIntegrationRequest {
        integration: Some(v1::Integration {
            name: name.into(),
            config: Some(v1::integration::Config::Entra(v1::EntraConfig {
                tenant: "contoso.onmicrosoft.com".into(),
                client_id: GUID.into(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        credentials: Some(credentials(SECRET)),
        idempotency_key: key.into(),
    }
}

fn credentials(secret: &str) -> v1::IntegrationCredentials {
    let entra = v1::EntraCredentials { client_secret: secret.into(), ..Default::default() };
    v1::IntegrationCredentials { credentials: Some(v1::integration_credentials::Credentials::Entra(entra)) }
}

pub async fn created(stage: &Stage) -> v1::Integration {
    let mut admin = IntegrationServiceClient::new(stage.by("ann", &["org_admin"]));
    admin.create_integration(entra("corp", "k1")).await.unwrap().into_inner().integration.unwrap()
}

pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|i| i.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_integration_is_sealed_audited_and_created_once_however_often_it_is_asked_for() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    assert_eq!(made.status(), v1::IntegrationStatus::Disabled);
    assert_eq!((made.status_reason.as_str(), made.has_credentials), ("untested", true));
    assert_eq!(created(&stage).await.id, made.id, "the same key and request return the remembered answer");
    let mut admin = IntegrationServiceClient::new(stage.by("ann", &["org_admin"]));
    let other = admin.create_integration(entra("other", "k1")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".into()));
    let capped = admin.create_integration(entra("second", "k2")).await.unwrap_err();
    assert_eq!((capped.code(), reason(&capped)), (Code::FailedPrecondition, "CAP_REACHED".into()));
    let mut okta = entra("okta", "k3");
    okta.credentials = None;
    okta.integration.as_mut().unwrap().config = Some(v1::integration::Config::Okta(v1::OktaConfig {
        host: "acme.okta.com".into(),
        client_id: String::new(),
    }));
    let refused = admin.create_integration(okta).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "NOT_ENTITLED".into()));
    assert!(refused.message().contains("sales@parapet.example"), "{}", refused.message());

    // The relay has sent the events to the queue of the audit writer.
    stage.bus.until_count("SELECT count(*) FROM api.outbox", 0).await;
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed FROM api.integration_secrets")
        .fetch_one(&mut stage.bus.superuser().await)
        .await
        .unwrap();
    assert_eq!(Opener::version_of(&sealed).unwrap(), 1);
    assert!(!sealed.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()));
    let (_connection, channel) = stage.bus.channel().await;
    let mut kinds = Vec::new();
    while let Some(got) = channel
        .basic_get(Topic::AuditRecorded.as_str().into(), lapin::options::BasicGetOptions { no_ack: true })
        .await
        .unwrap()
    {
        assert!(!got.data.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()));
        let event: wire::events::AuditRecorded = prost::Message::decode(got.data.as_slice()).unwrap();
        kinds.push((event.r#type, event.actor.unwrap().id, event.integration_id));
    }
    let expected = ("integration.created".to_owned(), "ann".to_owned(), made.id.clone());
    assert_eq!(kinds.iter().filter(|k| **k == expected).count(), 1, "{kinds:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_credentials_undoes_the_test_and_a_stale_etag_changes_nothing() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    stage.activate_all().await;
    let mut admin = IntegrationServiceClient::new(stage.by("tom", &["tenant_admin"]));
    let update = |paths: &[&str], etag: &str, change: v1::Integration, secret: Option<&str>| {
        v1::UpdateIntegrationRequest {
            integration: Some(v1::Integration { id: made.id.clone(), etag: etag.into(), ..change }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|&p| p.to_owned()).collect(),
            }),
            credentials: secret.map(credentials),
        }
    };
    let named = v1::Integration { name: "renamed".into(), ..Default::default() };
    let renamed = admin.update_integration(update(&["name"], &made.etag, named.clone(), None)).await.unwrap();
    let renamed = renamed.into_inner().integration.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.status()), ("renamed", v1::IntegrationStatus::Active));
    let stale = admin.update_integration(update(&["name"], &made.etag, named, None)).await.unwrap_err();
    assert_eq!((stale.code(), reason(&stale)), (Code::Aborted, "STALE_ETAG".into()));
    let changed = admin
        .update_integration(update(
            &["credentials"],
            &renamed.etag,
            v1::Integration::default(),
            Some("New~secret"),
        ))
        .await
        .unwrap()
        .into_inner()
        .integration
        .unwrap();
    assert_eq!(
        (changed.status(), changed.status_reason.as_str()),
        (v1::IntegrationStatus::Disabled, "untested")
    );
    assert_eq!(changed.connection(), v1::ConnectionResult::Untested);
    let id = v1::TestIntegrationRequest { id: made.id.clone(), ..Default::default() };
    let away = admin.test_integration(id).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    assert!(away.get_error_details().retry_info().is_some());
    let disabled = v1::DisableIntegrationRequest { id: made.id.clone(), reason: "maintenance".into() };
    let disabled = admin.disable_integration(disabled).await.unwrap().into_inner().integration.unwrap();
    assert_eq!(disabled.status_reason, "disabled_by_person");
    let sync =
        v1::StartSyncRequest { integration_id: made.id.clone(), full: true, idempotency_key: "s".into() };
    assert_eq!(reason(&admin.start_sync(sync).await.unwrap_err()), "INTEGRATION_NOT_ACTIVE");
    let enabled = v1::EnableIntegrationRequest { id: made.id.clone() };
    assert_eq!(
        admin.enable_integration(enabled).await.unwrap().into_inner().integration.unwrap().status_reason,
        "untested"
    );
    let mut owner = IntegrationServiceClient::new(stage.by("ann", &["org_admin"]));
    let delete = |confirmation: String| v1::DeleteIntegrationRequest {
        id: made.id.clone(),
        confirmation,
        ..Default::default()
    };
    let unconfirmed = owner.delete_integration(delete(String::new())).await.unwrap_err();
    assert_eq!(reason(&unconfirmed), "CONFIRMATION_NEEDED");
    let prepare = v1::PrepareDeletionRequest { id: made.id.clone() };
    let told = owner.prepare_deletion(prepare.clone()).await.unwrap().into_inner();
    assert_eq!(told.integration.unwrap().id, made.id);
    // It counts for who was told, and for what was told.
    let mut other = IntegrationServiceClient::new(stage.by("bob", &["org_admin"]));
    assert_eq!(
        reason(&other.delete_integration(delete(told.confirmation.clone())).await.unwrap_err()),
        "CONFIRMATION_NEEDED"
    );
    let again = v1::DisableIntegrationRequest { id: made.id.clone(), reason: String::new() };
    admin.disable_integration(again).await.unwrap();
    assert_eq!(
        reason(&owner.delete_integration(delete(told.confirmation)).await.unwrap_err()),
        "CONFIRMATION_NEEDED"
    );
    let told = owner.prepare_deletion(prepare).await.unwrap().into_inner();
    owner.delete_integration(delete(told.confirmation)).await.unwrap();
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.integration_secrets").await, 0);
    // The worker is told, and finds nothing to sync: it destroys what it holds for the integration.
    let (_connection, channel) = stage.bus.channel().await;
    until("the sync worker is told", || async {
        let no_ack = lapin::options::BasicGetOptions { no_ack: true };
        let message = channel.basic_get("sync.requested".into(), no_ack).await.unwrap();
        message.is_some_and(|m| {
            let told = SyncRequested::decode(m.delivery.data.as_slice()).unwrap();
            told.integration_id == made.id && told.work_id.is_empty() && !told.run_id.is_empty()
        })
    })
    .await;
    stage.stop().await;
}

fn record(number: u32) -> v1::FeedRecord {
    v1::FeedRecord {
        external_id: format!("r{number}"),
        identity: format!("User{number}@Example.com"),
        secret_form: v1::SecretForm::Plaintext.into(),
        secret: format!("canary-password-{number}").into_bytes(),
        raw_json: r#"{"k":"canary-raw"}"#.into(),
        ..Default::default()
    }
}

pub fn batch(id: &str, numbers: std::ops::Range<u32>) -> v1::IngestFeedRecordsRequest {
    v1::IngestFeedRecordsRequest {
        batch_id: id.into(),
        feed: "spycloud".into(),
        records: numbers.map(record).collect(),
        ..Default::default()
    }
}

pub async fn ingest(
    api: Api,
    batches: Vec<v1::IngestFeedRecordsRequest>,
) -> Result<Vec<v1::IngestFeedRecordsResponse>, Status> {
    let mut answers =
        ExposureServiceClient::new(api).ingest_feed_records(tokio_stream::iter(batches)).await?.into_inner();
    let mut received = Vec::new();
    while let Some(answer) = answers.next().await {
        received.push(answer?);
    }
    Ok(received)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_stored_once_whatever_is_sent_again_and_no_password_is_in_clear() {
    let stage = Stage::new().await;
    let writer = || stage.by("feed", &["feed_writer"]);
    let mut first = batch("b1", 0..100);
    first.records.push(v1::FeedRecord { identity: String::new(), ..record(100) });
    first.records.push(record(0));
    let answers = ingest(writer(), vec![first.clone(), batch("b2", 50..150)]).await.unwrap();
    let counts: Vec<_> = answers.iter().map(|a| (a.accepted, a.duplicates, a.rejected)).collect();
    assert_eq!(counts, [(100, 1, 1), (50, 50, 0)]);
    assert_eq!(answers[0].outcomes[100].reason, "identity_malformed");
    assert_eq!(answers[0].outcomes[101].record_id, answers[0].outcomes[0].record_id);
    // A client whose stream was killed sends what was not answered again.
    let again = ingest(writer(), vec![first]).await.unwrap();
    assert!(again[0].repeated_batch);
    assert_eq!(
        (again[0].stored_batch_id.as_str(), &again[0].outcomes),
        (answers[0].stored_batch_id.as_str(), &answers[0].outcomes)
    );
    assert_eq!(ingest(writer(), vec![batch("b1", 7..8)]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.feed_records").await, 150);
    let shown = "SELECT count(*) FROM api.feed_records r WHERE r::text LIKE '%canary%'
                 OR position('canary'::bytea IN r.secret_sealed) > 0 OR position('canary'::bytea IN r.extra_sealed) > 0";
    assert_eq!(stage.bus.count(shown).await, 0);
    stage.bus.until_count("SELECT count(*) FROM api.outbox", 0).await;

    let installation = |id: &str| v1::IngestFeedRecordsRequest {
        feed_scope: v1::FeedScope::Installation.into(),
        ..batch(id, 0..3)
    };
    assert_eq!(ingest(writer(), vec![installation("i")]).await.unwrap_err().code(), Code::PermissionDenied);
    let operator =
        InterceptedService::new(stage.channel.clone(), stage.token("op", &[], &["feed_writer", "operator"]));
    let preparing = ingest(operator, vec![installation("i")]).await.unwrap_err();
    assert_eq!(preparing.code(), Code::Unavailable, "the installation's keys are being prepared");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_and_changes_nothing_of_another() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    ingest(stage.by("feed", &["feed_writer"]), vec![batch("b1", 0..5)]).await.unwrap();
    let stranger = stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
    let roles = ["org_admin", "tenant_admin", "analyst", "viewer", "feed_writer"];
    let mut other = IntegrationServiceClient::new(stage.by_in(stranger, &roles));
    let id = made.id.clone();
    let mut codes = Vec::new();
    codes.push(other.get_integration(v1::GetIntegrationRequest { id: id.clone() }).await.unwrap_err().code());
    codes.push(
        other.enable_integration(v1::EnableIntegrationRequest { id: id.clone() }).await.unwrap_err().code(),
    );
    codes.push(
        other
            .disable_integration(v1::DisableIntegrationRequest { id: id.clone(), reason: String::new() })
            .await
            .unwrap_err()
            .code(),
    );
    codes.push(
        other
            .test_integration(v1::TestIntegrationRequest { id: id.clone(), ..Default::default() })
            .await
            .unwrap_err()
            .code(),
    );
    codes.push(
        other
            .delete_integration(v1::DeleteIntegrationRequest { id: id.clone(), ..Default::default() })
            .await
            .unwrap_err()
            .code(),
    );
    let watch = v1::WatchSyncRequest { integration_id: id.clone(), run_id: String::new() };
    codes.push(other.watch_sync(watch).await.unwrap_err().code());
    assert_eq!(codes, [Code::NotFound; 6]);
    let listed = other.list_integrations(v1::ListIntegrationsRequest::default()).await.unwrap().into_inner();
    assert!(listed.integrations.is_empty());
    // The same batch id and records are another feed's there.
    let answers = ingest(stage.by_in(stranger, &roles), vec![batch("b1", 0..5)]).await.unwrap();
    assert_eq!((answers[0].accepted, answers[0].repeated_batch), (5, false));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_reading_makes_an_error_that_recovers() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    stage.activate_all().await;
    for (working, expected) in [(false, "error"), (true, "active")] {
        let now = time::OffsetDateTime::now_utc();
        let message = wire::events::IntegrationObserved {
            tenant_id: stage.tenant.to_string(),
            integration_id: made.id.clone(),
            observer: "identity-sync-worker".into(),
            observed_at: Some(prost_types::Timestamp {
                seconds: now.unix_timestamp(),
                nanos: i32::try_from(now.nanosecond()).unwrap(),
            }),
            capabilities: vec![wire::events::CapabilityObservation {
                capability: "read".into(),
                working,
                reason: if working { String::new() } else { "secret_expired".into() },
                message: String::new(),
            }],
            ..Default::default()
        };
        // From the service's own outbox: the relay does not care who wrote it.
        let body = prost::Message::encode_to_vec(&message);
        sqlx::query(
            "INSERT INTO api.outbox (id, tenant_id, topic, body) VALUES ($1, $2, 'integration.observed', $3)",
        )
        .bind(shared::id::MessageId::new())
        .bind(stage.tenant)
        .bind(body)
        .execute(&mut stage.bus.superuser().await)
        .await
        .unwrap();
        let query = if expected == "error" {
            "SELECT count(*) FROM api.integrations WHERE status = 'error' AND status_reason = 'secret_expired'"
        } else {
            "SELECT count(*) FROM api.integrations WHERE status = 'active'"
        };
        stage.bus.until_count(query, 1).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_set_is_public_and_holds_public_members_only() {
    let stage = Stage::new().await;
    let integration = IntegrationId::new();
    sqlx::query("INSERT INTO sync.public_client_keys (integration_id, kid, jwk) VALUES ($1, 'k', $2)")
        .bind(integration)
        .bind(serde_json::json!({"kty": "RSA", "kid": "k", "n": "n", "e": "AQAB", "d": "private"}))
        .execute(&mut stage.bus.superuser().await)
        .await
        .unwrap();
    let answer = reqwest::get(format!("{}/.well-known/{integration}/jwks.json", stage.http)).await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
    let set: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(set, serde_json::json!({"keys": [{"kty": "RSA", "kid": "k", "n": "n", "e": "AQAB"}]}));
    let unknown =
        reqwest::get(format!("{}/.well-known/{}/jwks.json", stage.http, IntegrationId::new())).await.unwrap();
    assert_eq!(unknown.status(), 404);
    stage.stop().await;
}
