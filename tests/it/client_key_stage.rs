//! Integrations with an org that keeps our key set for a while and does not ask again for a key it lacks.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use identity_sync_worker::ClientKeyConfig;
use idp_simulator::okta::App;
use serde_json::Value;
use shared::{
    db::Db,
    id::{IntegrationId, TenantId},
    integration_store,
    provider::{Listing, Missing, Provider, ProviderError, directory::Directories},
    wire::internal::RotateClientKeyRequest,
};
use sqlx::types::Json;

use crate::sync_stage::{CLIENT, Stage as Synced, generated};

const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "k", "oth"];

/// A key set that was fetched, with the keys that there were.
#[derive(Debug)]
struct Served {
    of: IntegrationId,
    set: Value,
    there: HashSet<String>,
}

type Fetched = Arc<Mutex<Vec<Served>>>;

/// Integrations with an org that fetches their keys.
pub struct Stage {
    pub synced: Synced,
    pub integrations: Vec<IntegrationId>,
    fetched: Fetched,
}

// The product's times, compressed. INVARIANT: as `okta::rotation` has them: a key is published for longer than a set is kept
// (there is nothing in between that remembers it), and kept for longer than an adapter signs and a signed call takes.
pub const SET_KEPT: Duration = Duration::from_millis(400);
pub const PUBLISHED: Duration = Duration::from_secs(2);
pub const HELD: Duration = Duration::from_secs(3);
pub const CALL: Duration = Duration::from_secs(3);

/// As fast as these times allow.
pub fn fast() -> ClientKeyConfig {
    let seconds = |duration: Duration| duration.as_secs().try_into().unwrap();
    ClientKeyConfig { every_days: 0, publish_seconds: seconds(PUBLISHED), keep_seconds: seconds(HELD + CALL) }
}

impl Stage {
    /// So many integrations, with an org that keeps key sets for so many seconds.
    pub async fn new(count: usize, client: ClientKeyConfig, kept_seconds: f64) -> Self {
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

    pub async fn rotate(&self, integration: IntegrationId, emergency: bool) -> bool {
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

    pub async fn step(&self, integration: IntegrationId) -> String {
        sqlx::query_scalar("SELECT step FROM sync.client_key_rotations WHERE integration_id = $1")
            .bind(integration)
            .fetch_one(&mut self.synced.bus.superuser().await)
            .await
            .unwrap()
    }

    pub async fn until_step(&self, integration: IntegrationId, step: &str) {
        let deadline = Instant::now() + Duration::from_mins(2);
        while self.step(integration).await != step {
            assert!(Instant::now() < deadline, "it does not become {step}: {}", self.step(integration).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn signing(&self, integration: IntegrationId) -> String {
        let mut tx = self.synced.db.tenant(self.synced.tenant).await.unwrap();
        let key = integration_store::sealed_client_key(&mut tx, integration).await.unwrap().unwrap();
        tx.rollback().await.unwrap();
        key.kid
    }

    pub async fn published(&self, integration: IntegrationId) -> HashSet<String> {
        let set: Option<Json<Value>> = sqlx::query_scalar("SELECT sync.public_jwks($1)")
            .bind(integration)
            .fetch_one(&mut self.synced.bus.superuser().await)
            .await
            .unwrap();
        kids(&set.unwrap().0)
    }

    /// Whether a call counts: not one that took longer than a rotation can wait, by the fault of a slow machine. Any other
    /// failure ends the test, with what there is to judge it by.
    pub async fn counts(
        &self,
        of: IntegrationId,
        took: Duration,
        outcome: Result<(), ProviderError>,
    ) -> bool {
        match outcome {
            Ok(()) => true,
            // It asked for nothing: the adapter was held for too long to sign.
            Err(ProviderError::NotSent(_)) if took > HELD => false,
            Err(error) if is_refused_for_the_key(&error) && took > HELD + CALL => false,
            Err(error) => {
                let keys: Vec<(String, String)> =
                    sqlx::query_as("SELECT kid, state FROM sync.client_keys WHERE integration_id = $1")
                        .bind(of)
                        .fetch_all(&mut self.synced.bus.superuser().await)
                        .await
                        .unwrap();
                let fetched = self.fetched.lock().unwrap();
                let last: Vec<_> = fetched.iter().rev().filter(|fetched| fetched.of == of).take(3).collect();
                panic!("{of} after {took:?}: {error:?}; keys {keys:?}; the org fetched last {last:#?}");
            }
        }
    }

    pub async fn caller(&self) -> Caller {
        Caller {
            db: self.synced.db.clone(),
            tenant: self.synced.tenant,
            directories: self.synced.directories().await.holding(HELD),
        }
    }

    /// INVARIANT: public members of the keys that there are, of each, and nothing else.
    pub fn check_published(&self) {
        let fetched = self.fetched.lock().unwrap();
        assert!(!fetched.is_empty(), "control");
        for Served { of: _, set, there } in fetched.iter() {
            assert_eq!(&kids(set), there, "{set}");
            for key in set["keys"].as_array().unwrap() {
                let members = key.as_object().unwrap();
                assert!(PRIVATE.iter().all(|private| !members.contains_key(*private)), "{key}");
            }
        }
    }
}

/// The first is the stage's own. INVARIANT: no two are the same; the org would look for both keys in one set.
fn client_id(number: usize) -> String {
    if number == 0 { CLIENT.to_owned() } else { format!("0oarotated{number:010}") }
}

fn kids(set: &Value) -> HashSet<String> {
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Keeps what is told to the audit log, and when a key came to which state.
const RECORD: &str = "CREATE TABLE public.told (kind text NOT NULL);
    CREATE FUNCTION public.hear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.told SELECT m[1] FROM regexp_matches(encode(NEW.body, 'escape'), '(client_key[.][a-z]+)') m;
        RETURN NULL;
    END $$;
    CREATE TRIGGER hear AFTER INSERT ON sync.outbox FOR EACH ROW EXECUTE FUNCTION public.hear();
    CREATE TABLE public.lives (kid text PRIMARY KEY, published_at timestamptz, signed_at timestamptz,
                               replaced_at timestamptz, gone_at timestamptz);
    CREATE FUNCTION public.live() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO public.lives (kid, published_at) VALUES (NEW.kid, clock_timestamp());
        ELSIF TG_OP = 'DELETE' THEN
            UPDATE public.lives SET gone_at = clock_timestamp() WHERE kid = OLD.kid;
        ELSIF NEW.state = 'signing' THEN
            UPDATE public.lives SET signed_at = clock_timestamp() WHERE kid = NEW.kid;
        ELSIF NEW.state = 'old' THEN
            UPDATE public.lives SET replaced_at = clock_timestamp() WHERE kid = NEW.kid;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER live AFTER INSERT OR UPDATE OR DELETE ON sync.client_keys FOR EACH ROW EXECUTE FUNCTION public.live()";

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
        let served = Served { of: integration, set: set.0.clone(), there: there.into_iter().collect() };
        fetched.lock().unwrap().push(served);
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
pub struct Caller {
    db: Db,
    tenant: TenantId,
    pub directories: Directories,
}

impl Caller {
    /// A token call with the key that signs, and more of them with the same adapter for a while.
    pub async fn sign(&self, integration: IntegrationId, for_a_while: Duration) -> Result<(), ProviderError> {
        let mut tx = self.db.tenant(self.tenant).await.unwrap();
        let found = integration_store::integration(&mut tx, integration).await.unwrap().unwrap();
        let key = integration_store::sealed_client_key(&mut tx, integration).await.unwrap().unwrap();
        let okta = self.directories.connect_with(&mut tx, &found, &key).await.unwrap();
        tx.rollback().await.unwrap();
        let begun = Instant::now();
        loop {
            okta.prove().await?;
            if begun.elapsed() >= for_a_while {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// What services do: the adapter that is kept for the integration, which renews its token when it ends.
    pub async fn read(&self, integration: IntegrationId) -> Result<(), ProviderError> {
        self.connect(integration).await.accounts(Listing::Full, None).await.map(drop)
    }

    pub async fn connect(&self, integration: IntegrationId) -> Arc<dyn Provider> {
        let mut tx = self.db.tenant(self.tenant).await.unwrap();
        let found = integration_store::integration(&mut tx, integration).await.unwrap().unwrap();
        let provider = self.directories.connect(&mut tx, &found).await;
        tx.rollback().await.unwrap();
        provider.unwrap()
    }
}

pub async fn timed<T>(call: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let outcome = call.await;
    (begun.elapsed(), outcome)
}

pub fn is_refused_for_the_key(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Refused(Missing { reason: "key_unknown", .. }))
}
