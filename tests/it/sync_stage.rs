//! A tenant with an Okta org at the simulator and the sync worker on it.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use e2e::{Bus, Idp, free_port};
use identity_sync_worker::{ClientKeyConfig, Config, KeyConfig, SyncConfig};
use idp_simulator::{
    model::{Directory, Kind, Link, Settings},
    okta,
};
use parapet::certs::{Certificates, service_name};
use serde_json::{Value, json};
use shared::{
    db::Db,
    grpc,
    id::{IntegrationId, SyncRunId, TenantId},
    outbox::{self, Topic},
    provider::directory::Directories,
    sealing::{Purpose, TopKey, TopKeys},
    service::{ListenConfig, PeerConfig, TlsFiles},
    wire::{
        events::SyncRequested,
        internal::{EnsureClientKeyRequest, directory_service_client::DirectoryServiceClient},
    },
};
use sqlx::Row;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

pub const CLIENT: &str = "0oaparapet0000000001";
pub const ORG: &str = "00oacme0000000000001";
const SERVICE: &str = "parapet.internal.v1.DirectoryService";

/// The worker and everything around it.
pub struct Stage {
    pub bus: Bus,
    pub idp: Idp,
    pub directory: Arc<Directory>,
    pub tenant: TenantId,
    pub integration: IntegrationId,
    /// As the worker's own role.
    pub db: Db,
    files: tempfile::TempDir,
    port: u16,
    jwks: Value,
    /// How client keys are rotated by a worker that is started after this was set.
    pub client: ClientKeyConfig,
    worker: Option<Worker>,
}

struct Worker {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<ExitCode>>,
}

/// A run, as stored.
#[derive(Debug)]
pub struct Run {
    pub state: String,
    pub full: bool,
    pub seen: i64,
    pub created: i64,
    pub changed: i64,
    pub missing: i64,
    pub removed: i64,
    pub skipped: i64,
    pub message: String,
}

impl Stage {
    /// An org with these accounts (`generated` or `accounts`), a tenant with this cap, and a worker.
    pub async fn new(accounts: Value, identifier_cap: i64) -> Self {
        let (bus, idp) = (Bus::new().await, Idp::start().await);
        let files = tempfile::tempdir().unwrap();
        let key = TopKey::generate(Purpose::Integration).unwrap();
        std::fs::write(files.path().join("integration.key"), key.to_file().unwrap().as_bytes()).unwrap();
        Certificates::prepare(files.path(), &["identity-sync-worker", "integration-api", "audit-writer"])
            .unwrap();
        let (tenant, integration) = (TenantId::new(), IntegrationId::new());
        add_tenant(&bus, tenant, identifier_cap).await;
        let db = Db::connect(&bus.common_as("parapet_sync").database).await.unwrap();
        let jwks = json!({ "keys": [] });
        let directory = idp.directory(org(&accounts, &jwks));
        let (port, worker) = (free_port(), None);
        let client = ClientKeyConfig::default();
        let mut stage =
            Self { bus, idp, directory, tenant, integration, db, files, port, jwks, client, worker };
        stage.start();
        stage.add_integration(integration, "Acme", CLIENT).await;
        stage.jwks = stage.ensure_client_key(integration).await;
        stage.replace(&accounts);
        stage
    }

    /// Replaces the org by one with these accounts and groups.
    pub fn replace(&mut self, accounts: &Value) {
        self.directory = self.idp.directory(org(accounts, &self.jwks));
    }

    /// Has the integration cover these groups.
    pub async fn cover(&self, groups: &[&str]) {
        sqlx::query(
            "UPDATE api.integrations SET version = version + 1, settings = jsonb_set(settings, '{scope}', $1)",
        )
        .bind(json!({ "group_ids": groups }))
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
    }

    /// Starts a worker.
    pub fn start(&mut self) {
        let (stop, asked) = oneshot::channel::<()>();
        let ended = tokio::spawn(identity_sync_worker::run(self.config(), async move {
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        self.worker = Some(Worker { stop, ended });
    }

    /// Stops the worker and waits for its end.
    pub async fn stop(&mut self) {
        let worker = self.worker.take().unwrap();
        worker.stop.send(()).unwrap();
        assert_eq!(format!("{:?}", worker.ended.await.unwrap().unwrap()), format!("{:?}", ExitCode::SUCCESS));
    }

    /// What another service reaches directories with.
    pub async fn directories(&self) -> Directories {
        let top = TopKeys::open(&self.file("integration.key").into(), Purpose::Integration).await.unwrap();
        Directories::new(self.idp.egress(), Arc::new(top))
    }

    /// A second worker, which ends with the runtime.
    pub fn start_another(&self) {
        let mut config = self.config();
        config.common.grpc.listen = ([127, 0, 0, 1], free_port()).into();
        tokio::spawn(identity_sync_worker::run(config, std::future::pending()));
    }

    fn config(&self) -> Config {
        let mut common = self.bus.common_as("parapet_sync");
        common.tls = Some(self.tls("identity-sync-worker"));
        common.grpc = ListenConfig {
            listen: ([127, 0, 0, 1], self.port).into(),
            allow: [(SERVICE.to_owned(), vec![service_name("integration-api")])].into(),
            ..ListenConfig::default()
        };
        Config {
            common,
            idp: self.idp.egress_config(),
            keys: KeyConfig {
                integration: self.file("integration.key").into(),
                client: self.client.clone(),
                ..Default::default()
            },
            sync: SyncConfig { changes_every_seconds: 3600, slice_seconds: 2, ..SyncConfig::default() },
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn tls(&self, service: &str) -> TlsFiles {
        TlsFiles {
            cert_file: self.file(&format!("{service}.pem")),
            key_file: self.file(&format!("{service}-key.pem")),
            ca_file: self.file("ca.pem"),
        }
    }

    /// A client of the worker that shows this service's certificate.
    pub async fn client(&self, service: &str) -> DirectoryServiceClient<Channel> {
        let peer = PeerConfig {
            address: format!("https://127.0.0.1:{}", self.port),
            server_name: Some(service_name("identity-sync-worker")),
        };
        DirectoryServiceClient::new(grpc::channel(&peer, &self.tls(service)).await.unwrap())
    }

    /// Asks for the client key until it is there.
    pub async fn ensure_client_key(&self, integration: IntegrationId) -> Value {
        let mut client = self.client("integration-api").await;
        let request = EnsureClientKeyRequest {
            tenant_id: self.tenant.to_string(),
            integration_id: integration.to_string(),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        loop {
            match client.ensure_client_key(request.clone()).await {
                Ok(answer) => return serde_json::from_str(&answer.into_inner().jwks_json).unwrap(),
                Err(status) => assert!(tokio::time::Instant::now() < deadline, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Adds an integration with the org, by this application.
    pub async fn add_integration(&self, integration: IntegrationId, name: &str, client: &str) {
        sqlx::query(
            "INSERT INTO api.integrations (tenant_id, integration_id, name, provider, config, settings, status, status_reason,
                                           status_message, created_by, updated_by)
             VALUES ($1, $2, $5, 'okta', $3, $4, 'active', '', '', 'test', 'test')",
        )
        .bind(self.tenant)
        .bind(integration)
        .bind(json!({ "host": "acme.okta.com", "client_id": client }))
        .bind(json!({ "identity_creation": true }))
        .bind(name)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
    }

    /// Asks for a run.
    pub async fn request(&self, run: SyncRunId, full: bool, times: usize) {
        let message = SyncRequested {
            tenant_id: self.tenant.to_string(),
            integration_id: self.integration.to_string(),
            run_id: run.to_string(),
            full,
            ..SyncRequested::default()
        };
        let mut tx = self.db.system().await.unwrap();
        outbox::enqueue_many(&mut tx, Topic::SyncRequested, Some(self.tenant), &vec![message; times])
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// Asks for a run and waits for its end.
    pub async fn sync(&self, full: bool) -> Run {
        let run = SyncRunId::new();
        self.request(run, full, 1).await;
        self.ended(run).await
    }

    /// Waits for the end of a run.
    pub async fn ended(&self, run: SyncRunId) -> Run {
        let mut last = None;
        let deadline = tokio::time::Instant::now() + Duration::from_mins(2);
        while tokio::time::Instant::now() < deadline {
            match self.run(run).await {
                Some(run) if run.state != "running" => return run,
                other => last = other,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the run did not end: {last:?}");
    }

    /// A run, if it is stored.
    pub async fn run(&self, run: SyncRunId) -> Option<Run> {
        let row = sqlx::query("SELECT * FROM sync.runs WHERE run_id = $1")
            .bind(run)
            .fetch_optional(&mut self.bus.superuser().await)
            .await
            .unwrap()?;
        Some(Run {
            state: row.get("state"),
            full: row.get("is_full"),
            seen: row.get("accounts_seen"),
            created: row.get("accounts_created"),
            changed: row.get("accounts_changed"),
            missing: row.get("accounts_missing"),
            removed: row.get("accounts_removed"),
            skipped: row.get("skipped_by_cap"),
            message: row.get("message"),
        })
    }

    /// Object id and sign-in name of every account that was synced and is there.
    pub async fn synced(&self) -> BTreeSet<(String, String)> {
        sqlx::query_as("SELECT object_id, login FROM sync.accounts WHERE removed_at IS NULL")
            .fetch_all(&mut self.bus.superuser().await)
            .await
            .unwrap()
            .into_iter()
            .collect()
    }

    /// The same, as the directory has them.
    pub fn real(&self) -> BTreeSet<(String, String)> {
        let (accounts, _) = self.directory.accounts.page(0, usize::MAX, |_| true);
        accounts.into_iter().map(|account| (account.id, account.login)).collect()
    }

    /// Grants the service app a further scope.
    pub fn grant(&self, scope: &str) {
        self.patch_settings(|okta| okta.apps[0].scopes.push(scope.to_owned()));
    }

    /// Changes the org's settings.
    pub fn patch_settings(&self, change: impl FnOnce(&mut okta::Settings)) {
        let Settings::Okta(okta) = &*self.directory.settings() else { panic!("not an Okta org") };
        let mut okta = okta.clone();
        change(&mut okta);
        self.directory.set_settings(Settings::Okta(okta));
    }

    /// Has somebody join a group, or leave it, as the System Log tells it.
    pub fn move_member(&self, login: &str, group: &str, member: bool) {
        let account = self.directory.accounts.by_login(login).unwrap();
        let link = Link::new(Kind::Member, group, &account.id);
        self.directory.links.set(link, member, self.idp.simulator.world.now());
        let group = self.directory.group(group).unwrap();
        okta::moved(&self.idp.simulator.world, &self.directory, &account, group, member);
    }

    /// Changes an account at the directory without moving its `lastUpdated`, as the System Log tells it.
    pub fn patch_quietly(&self, login: &str, patch: &Value) {
        let before = self.directory.accounts.by_login(login).unwrap();
        let after = self.directory.accounts.update_quietly(&before.id, |account| {
            let mut merged = serde_json::to_value(&*account).unwrap();
            idp_simulator::model::merge(&mut merged, patch);
            *account = serde_json::from_value(merged).unwrap();
            account.clone()
        });
        okta::noticed(&self.idp.simulator.world, &self.directory, &before, &after.unwrap());
    }

    /// Changes an account at the directory, found by its sign-in name.
    pub fn patch(&self, login: &str, patch: &Value) {
        let id = self.directory.accounts.by_login(login).unwrap().id;
        self.directory.accounts.patch(&id, patch, self.idp.simulator.world.now()).unwrap().unwrap();
    }

    /// Removes the first accounts of the directory.
    pub fn remove(&self, count: usize) {
        for (id, _) in self.real().into_iter().take(count) {
            let now = self.idp.simulator.world.now();
            self.directory.accounts.patch(&id, &json!({ "status": "deleted" }), now).unwrap().unwrap();
        }
    }
}

/// Registers a tenant, as `parapet bootstrap` does.
pub async fn add_tenant(bus: &Bus, tenant: TenantId, identifier_cap: i64) {
    sqlx::query(
        "WITH o AS (INSERT INTO api.organizations (organization_id, name) VALUES ($1, $1::text) RETURNING organization_id)
         INSERT INTO api.tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
                                  mitigation, identifier_cap, integration_cap, contact)
         SELECT $1, organization_id, 'main', '{okta,entra_id}', true, true, true, $2, 1, 'sales' FROM o",
    )
    .bind(tenant)
    .bind(identifier_cap)
    .execute(&mut bus.superuser().await)
    .await
    .unwrap();
}

fn org(accounts: &Value, jwks: &Value) -> Value {
    let scopes = ["okta.users.read", "okta.groups.read", "okta.policies.read", "okta.roles.read"];
    let app = json!({ "client_id": CLIENT, "scopes": scopes, "roles": ["SUPER_ADMIN"], "jwks": jwks });
    let okta = json!({ "org_id": ORG, "subdomain": "acme", "mail_domain": "acme.example", "buckets": null, "apps": [app] });
    let mut spec = json!({ "name": "Acme", "provider": { "okta": okta } });
    idp_simulator::model::merge(&mut spec, accounts);
    spec
}

/// Accounts made from a seed.
pub fn generated(count: u64) -> Value {
    json!({ "generated": { "seed": 7, "count": count } })
}
