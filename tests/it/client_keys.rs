//! Rotation of client keys, at an org that keeps our key set for a while and does not ask again for a key it lacks.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::until;
use identity_sync_worker::ClientKeyConfig;
use idp_simulator::okta::App;
use serde_json::Value;
use shared::{
    db::Db,
    id::{IntegrationId, TenantId},
    integration_store,
    provider::{
        Listing, Missing, Provider, ProviderError,
        directory::{ConnectError, Directories},
    },
    wire::internal::RotateClientKeyRequest,
};
use sqlx::types::Json;

use crate::sync_stage::{CLIENT, Stage as Synced, generated};

const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "k", "oth"];

/// Every key set that was fetched, with the keys that there were.
type Fetched = Arc<Mutex<Vec<(Value, HashSet<String>)>>>;

/// Integrations with an org that fetches their keys.
struct Stage {
    synced: Synced,
    integrations: Vec<IntegrationId>,
    fetched: Fetched,
}

/// As fast as a key set that is kept for 400 ms allows.
fn fast() -> ClientKeyConfig {
    ClientKeyConfig { every_days: 0, publish_seconds: 2, keep_seconds: 4 }
}

impl Stage {
    /// So many integrations, with an org that keeps key sets for so many seconds.
    async fn new(count: usize, client: ClientKeyConfig, kept_seconds: f64) -> Self {
        let mut synced = Synced::new(generated(2), 100).await;
        synced.stop().await;
        synced.client = client;
        synced.start();
        let mut integrations = vec![synced.integration];
        for number in 1..count {
            let id = IntegrationId::new();
            synced.add_integration(id, &format!("Acme {number}"), &client_id(number)).await;
            synced.ensure_client_key(id).await;
            integrations.push(id);
        }
        let fetched = Fetched::default();
        // Connections of its own: a fetch that waits for one behind the callers could outlast the old key's time.
        let serving = Db::connect(&synced.bus.common_as("parapet_sync").database).await.unwrap();
        let url = serve(serving, synced.tenant, Arc::clone(&fetched)).await;
        synced.patch_settings(|okta| {
            okta.jwks_life_s = kept_seconds;
            okta.jwks_refetch = false;
            okta.token_life_s = 1;
            let app = okta.apps[0].clone();
            okta.apps = (0..count)
                .map(|number| App {
                    client_id: client_id(number),
                    jwks: None,
                    jwks_uri: Some(format!("{url}/.well-known/{}/jwks.json", integrations[number])),
                    ..app.clone()
                })
                .collect();
        });
        synced.bus.execute(RECORD).await;
        Self { synced, integrations, fetched }
    }

    async fn rotate(&self, integration: IntegrationId, emergency: bool) -> bool {
        let request = RotateClientKeyRequest {
            tenant_id: self.synced.tenant.to_string(),
            integration_id: integration.to_string(),
            emergency,
        };
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            // The worker may be starting.
            match self.synced.client("integration-api").await.rotate_client_key(request.clone()).await {
                Ok(answer) => return answer.into_inner().begun,
                Err(status) => assert!(Instant::now() < deadline, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn step(&self, integration: IntegrationId) -> String {
        sqlx::query_scalar("SELECT step FROM sync.client_key_rotations WHERE integration_id = $1")
            .bind(integration)
            .fetch_one(&mut self.synced.bus.superuser().await)
            .await
            .unwrap()
    }

    async fn until_step(&self, integration: IntegrationId, step: &str) {
        let deadline = Instant::now() + Duration::from_mins(2);
        while self.step(integration).await != step {
            assert!(Instant::now() < deadline, "it does not become {step}: {}", self.step(integration).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn signing(&self, integration: IntegrationId) -> String {
        let mut tx = self.synced.db.tenant(self.synced.tenant).await.unwrap();
        let key = integration_store::sealed_client_key(&mut tx, integration).await.unwrap().unwrap();
        tx.rollback().await.unwrap();
        key.kid
    }

    async fn published(&self, integration: IntegrationId) -> HashSet<String> {
        let set: Option<Json<Value>> = sqlx::query_scalar("SELECT sync.public_jwks($1)")
            .bind(integration)
            .fetch_one(&mut self.synced.bus.superuser().await)
            .await
            .unwrap();
        kids(&set.unwrap().0)
    }

    async fn caller(&self) -> Caller {
        Caller {
            db: self.synced.db.clone(),
            tenant: self.synced.tenant,
            directories: self.synced.directories().await,
        }
    }

    /// INVARIANT: public members of keys that are not retired, nothing else.
    fn check_published(&self) {
        let fetched = self.fetched.lock().unwrap();
        assert!(!fetched.is_empty(), "control");
        for (set, there) in fetched.iter() {
            assert!(kids(set).is_subset(there), "a retired key is published: {set}");
            for key in set["keys"].as_array().unwrap() {
                let members = key.as_object().unwrap();
                assert!(PRIVATE.iter().all(|private| !members.contains_key(*private)), "{key}");
            }
        }
    }
}

fn client_id(number: usize) -> String {
    if number == 0 { CLIENT.to_owned() } else { format!("0oaparapet{number:010}") }
}

fn kids(set: &Value) -> HashSet<String> {
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Keeps what is told to the audit log.
const RECORD: &str = "CREATE TABLE public.told (kind text NOT NULL);
    CREATE FUNCTION public.hear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.told SELECT m[1] FROM regexp_matches(encode(NEW.body, 'escape'), '(client_key[.][a-z]+)') m;
        RETURN NULL;
    END $$;
    CREATE TRIGGER hear AFTER INSERT ON sync.outbox FOR EACH ROW EXECUTE FUNCTION public.hear()";

/// Serves key sets as integration-api does, without remembering them, and notes what it served.
async fn serve(db: Db, tenant: TenantId, fetched: Fetched) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = async move |axum::extract::Path(integration): axum::extract::Path<String>| {
        let integration: IntegrationId = integration.parse().unwrap();
        let mut tx = db.tenant(tenant).await.unwrap();
        let (set, there): (Json<Value>, Vec<String>) = sqlx::query_as(
            "SELECT sync.public_jwks($1), array_agg(kid) FROM sync.client_keys WHERE integration_id = $1",
        )
        .bind(integration)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        tx.rollback().await.unwrap();
        fetched.lock().unwrap().push((set.0.clone(), there.into_iter().collect()));
        axum::Json(set.0)
    };
    let routes = axum::Router::new().route(
        "/.well-known/{integration}/jwks.json",
        axum::routing::get(move |path| {
            let answer = answer.clone();
            async move { answer(path).await }
        }),
    );
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

/// Another service that signs for the integrations.
struct Caller {
    db: Db,
    tenant: TenantId,
    directories: Directories,
}

impl Caller {
    /// A token call with the key that signs, and more of them with the same adapter for a while.
    async fn sign(&self, integration: IntegrationId, for_a_while: Duration) -> Result<usize, ProviderError> {
        let mut tx = self.db.tenant(self.tenant).await.unwrap();
        let found = integration_store::integration(&mut tx, integration).await.unwrap().unwrap();
        let key = integration_store::sealed_client_key(&mut tx, integration).await.unwrap().unwrap();
        let okta = self.directories.connect_with(&mut tx, &found, &key).await.unwrap();
        tx.rollback().await.unwrap();
        let begun = Instant::now();
        let mut calls = 0;
        while calls == 0 || begun.elapsed() < for_a_while {
            okta.prove().await?;
            calls += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(calls)
    }

    /// What services do: the adapter that is kept for the integration, which renews its token when it ends.
    async fn read(&self, integration: IntegrationId) -> Result<(), ProviderError> {
        let mut tx = self.db.tenant(self.tenant).await.unwrap();
        let found = integration_store::integration(&mut tx, integration).await.unwrap().unwrap();
        let provider: Result<Arc<dyn Provider>, ConnectError> =
            self.directories.connect(&mut tx, &found).await;
        tx.rollback().await.unwrap();
        provider.unwrap().accounts(Listing::Full, None).await.map(drop)
    }
}

fn is_refused_for_the_key(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Refused(Missing { reason: "key_unknown", .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_call_fails_during_a_hundred_rotations_at_an_org_that_keeps_our_keys() {
    const INTEGRATIONS: usize = 10;
    const EACH: usize = 10;
    let stage = Stage::new(INTEGRATIONS, fast(), 0.4).await;
    stage.synced.start_another();
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (one, other) = (stage.caller().await, stage.caller().await);
    let (over, calls, one, other, stage) = (&over, &calls, &one, &other, &stage);
    let traffic = |integration| async move {
        while !over.load(Ordering::Relaxed) {
            let signed = one.sign(integration, Duration::from_millis(600));
            let begun = Instant::now();
            let (signed, read) = tokio::join!(signed, other.read(integration));
            read.unwrap_or_else(|error| panic!("after {:?}: {error:?}", begun.elapsed()));
            calls.fetch_add(signed.unwrap() + 1, Ordering::Relaxed);
        }
    };
    let rotations = |integration| async move {
        for _ in 0..EACH {
            let before = stage.signing(integration).await;
            assert!(stage.rotate(integration, false).await);
            stage.until_step(integration, "activated").await;
            assert_ne!(stage.signing(integration).await, before);
            assert!(stage.published(integration).await.contains(&before), "it stays published for a while");
            stage.until_step(integration, "idle").await;
            assert_eq!(stage.published(integration).await, HashSet::from([stage.signing(integration).await]));
        }
    };
    let traffic = async { futures::future::join_all(stage.integrations.iter().map(|i| traffic(*i))).await };
    let rotations = async {
        futures::future::join_all(stage.integrations.iter().map(|i| rotations(*i))).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(traffic, rotations);
    assert!(calls.load(Ordering::Relaxed) > 3 * INTEGRATIONS * EACH, "{calls:?} calls");
    stage.check_published();
    for kind in ["published", "activated", "retired"] {
        let told: i64 =
            sqlx::query_scalar("SELECT count(*) FROM public.told WHERE kind = 'client_key.' || $1")
                .bind(kind)
                .fetch_one(&mut stage.synced.bus.superuser().await)
                .await
                .unwrap();
        assert_eq!(told, 100, "{kind}");
    }
}

/// Negative control: the org does keep our keys, and the wait is what a rotation needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_signs_as_soon_as_it_is_published_is_refused() {
    let stage = Stage::new(1, ClientKeyConfig::default(), 3600.0).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert!(stage.rotate(integration, false).await);
    assert!(!stage.rotate(integration, false).await, "it is under way");
    caller.sign(integration, Duration::ZERO).await.unwrap();
    let now = "UPDATE sync.client_keys SET state = 'old' WHERE state = 'signing';
               UPDATE sync.client_keys SET state = 'signing' WHERE state = 'next'";
    stage.synced.bus.execute(now).await;
    let refused = caller.sign(integration, Duration::ZERO).await.unwrap_err();
    assert!(is_refused_for_the_key(&refused), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_proven_does_not_replace_the_one_that_works() {
    let hasty = ClientKeyConfig { publish_seconds: 0, ..fast() };
    let stage = Stage::new(1, hasty, 3600.0).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    let failed =
        "SELECT count(*) FROM sync.client_key_rotations WHERE last_error LIKE '%does not know our key%'";
    stage.synced.bus.until_count(failed, 1).await;
    assert_eq!(stage.signing(integration).await, before);
    assert_eq!(stage.published(integration).await.len(), 2);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    stage.synced.patch_settings(|okta| okta.jwks_life_s = 0.0);
    stage.until_step(integration, "idle").await;
    assert_ne!(stage.signing(integration).await, before);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert_eq!(stage.synced.bus.count(failed).await, 0);
    let told = "SELECT count(*) FROM public.told WHERE kind = 'client_key.unproven'";
    assert_eq!(stage.synced.bus.count(told).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_emergency_work_waits_until_the_org_has_the_new_key_and_nothing_is_refused() {
    let kept = Duration::from_secs(3);
    let stage = Stage::new(1, ClientKeyConfig::default(), kept.as_secs_f64()).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    caller.read(integration).await.unwrap();
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert!(stage.rotate(integration, true).await, "also while another is under way");
    let after = stage.signing(integration).await;
    assert_ne!(after, before);
    assert_eq!(stage.published(integration).await, HashSet::from([after]), "at once");
    let (begun, mut waited) = (Instant::now(), 0);
    loop {
        match caller.read(integration).await {
            Ok(()) => break,
            Err(ProviderError::Unavailable { .. }) => waited += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(begun.elapsed() < kept + Duration::from_secs(3), "later than the org's cache ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(waited > 0, "control");
    stage.until_step(integration, "idle").await;
    caller.sign(integration, Duration::ZERO).await.unwrap();
    let proven = "SELECT count(*) FROM sync.client_keys WHERE state = 'signing'";
    assert_eq!(stage.synced.bus.count(proven).await, 1);
    stage.check_published();
    for kind in [
        "SELECT count(*) FROM public.told WHERE kind = 'client_key.emergency'",
        "SELECT count(*) FROM public.told WHERE kind = 'client_key.activated'",
    ] {
        assert_eq!(stage.synced.bus.count(kind).await, 1, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_goes_on_in_another_process_after_every_step() {
    let mut stage = Stage::new(1, fast(), 0.4).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    stage.synced.stop().await;
    assert_eq!(stage.signing(integration).await, before);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    stage.synced.start();
    stage.until_step(integration, "activated").await;
    stage.synced.stop().await;
    caller.sign(integration, Duration::ZERO).await.unwrap();
    // One that claimed the last step and died: its lease ends.
    stage.synced.bus.execute("UPDATE sync.client_key_rotations SET due_at = now() + interval '2 s'").await;
    stage.synced.start();
    stage.until_step(integration, "idle").await;
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert_eq!(stage.published(integration).await, HashSet::from([stage.signing(integration).await]));
    assert_eq!(stage.synced.bus.count("SELECT count(*) FROM sync.client_keys").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_in_the_middle_of_steps_leave_one_key_that_signs() {
    let stage = Stage::new(1, fast(), 0.4).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND usename = 'parapet_sync' AND state <> 'idle' AND query LIKE '%client_key%'";
        stage.synced.bus.execute(kill).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.until_step(integration, "idle").await;
    let after = stage.signing(integration).await;
    assert_ne!(after, before);
    assert_eq!(stage.published(integration).await, HashSet::from([after]));
    caller.sign(integration, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_when_it_is_as_old_as_the_schedule_says() {
    let stage = Stage::new(1, ClientKeyConfig { every_days: 90, ..fast() }, 0.4).await;
    let integration = stage.integrations[0];
    let before = stage.signing(integration).await;
    let scheduled = "SELECT count(*) FROM sync.client_key_rotations
                     WHERE step = 'idle' AND due_at - rotated_at = interval '90 days'";
    stage.synced.bus.until_count(scheduled, 1).await;
    stage
        .synced
        .bus
        .execute("UPDATE sync.client_key_rotations SET rotated_at = now() - interval '90 days'")
        .await;
    until("the key is replaced", || async {
        stage.signing(integration).await != before && stage.step(integration).await == "idle"
    })
    .await;
    stage.synced.bus.until_count(scheduled, 1).await;
}
