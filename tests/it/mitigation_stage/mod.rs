//! A tenant with a directory of either kind, its accounts synced, and an executor: the world of mitigation tests.

mod asking;
mod decisions;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

#[cfg(feature = "fail-points")]
use e2e::process;
use e2e::{Bus, Idp, free_port};
use idp_simulator::model::{Directory, Kind, Link};
use mitigation_executor::{
    config::{Config, Keys, Tuning},
    planner,
};
use parapet::certs::{Certificates, service_name};
use serde_json::{Value, json};
use shared::{
    db::Db,
    grpc,
    id::{AccountId, IntegrationId, MessageId, ProviderKind, SyncRunId, TenantId, WorkId},
    inbox,
    outbox::{self, Topic},
    policy::MitigationPolicy,
    provider::{Action, okta::keys},
    sealing::{Owner, Purpose, TopKey, column},
    service::{ListenConfig, PeerConfig, TlsFiles},
    wire::{events::SyncRequested, internal::containment_service_client::ContainmentServiceClient},
    work::{self, NewWork},
};
use sqlx::Row as _;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;
use uuid::Uuid;

pub use self::decisions::{braked, free, protecting};

const SERVICE: &str = "parapet.internal.v1.ContainmentService";
const ORG: &str = "00oacme0000000000001";
const ENTRA: &str = "7c2f1f6e-1111-4222-8333-444455556666";
const CLIENT: &str = "0oaparapet0000000001";
/// Groups at Entra ID: one, another within it, and one whose members are hidden from us.
pub const GROUPS: [&str; 3] = [
    "6d1f8f6e-1f0a-4a53-9d2e-000000000001",
    "6d1f8f6e-1f0a-4a53-9d2e-000000000002",
    "6d1f8f6e-1f0a-4a53-9d2e-000000000003",
];
/// A group at Okta.
pub const OKTA_GROUP: &str = "00gpilot000000000001";
const ENTRA_CLIENT: &str = "11112222-3333-4444-8555-666677778888";

/// The world.
pub struct Stage {
    pub bus: Bus,
    pub idp: Idp,
    pub directory: Arc<Directory>,
    directory_id: &'static str,
    provider: ProviderKind,
    pub tenant: TenantId,
    integration: IntegrationId,
    /// As the executor's own role, to hand it requests as its neighbours do.
    db: Db,
    files: tempfile::TempDir,
    config: Config,
    running: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<ExitCode>>)>,
}

/// Settings with these actions switched on.
pub fn switched(actions: &[Action], automated: bool, manual: bool) -> Value {
    let mut switches = serde_json::Map::new();
    for action in actions {
        switches.insert(action.as_str().to_owned(), json!({ "automated": automated, "manual": manual }));
    }
    json!({ "identity_creation": true, "mitigation": switches })
}

/// Accounts without any role.
pub fn people(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| json!({ "login": format!("u{n:03}@acme.example"), "password": "right horse battery" }))
        .collect()
}

impl Stage {
    pub async fn new(
        provider: ProviderKind,
        accounts: Vec<Value>,
        settings: Value,
        policy: MitigationPolicy,
    ) -> Self {
        let mut stage = Self::prepare(provider, accounts, settings, policy).await;
        stage.start();
        stage
    }

    /// The same before any executor was started.
    pub async fn prepare(
        provider: ProviderKind,
        accounts: Vec<Value>,
        settings: Value,
        policy: MitigationPolicy,
    ) -> Self {
        let (bus, idp) = (Bus::new().await, Idp::start().await);
        let files = tempfile::tempdir().unwrap();
        let top = TopKey::generate(Purpose::Integration).unwrap();
        let key_file: PathBuf = files.path().join("integration.key");
        std::fs::write(&key_file, top.to_file().unwrap().as_bytes()).unwrap();
        let (tenant, integration) = (TenantId::new(), IntegrationId::new());
        let pair = top.new_key_pair(Some(tenant), 1).unwrap();
        let sealer = top.verifier().sealer(Some(tenant), 1, &pair.public, &pair.signature).unwrap();
        let mut root = bus.superuser().await;
        sqlx::query(
            "WITH o AS (INSERT INTO api.organizations (organization_id, name) VALUES ($1, $1::text) RETURNING organization_id)
             INSERT INTO api.tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
                                      mitigation, identifier_cap, integration_cap, contact)
             SELECT $1, organization_id, 'main', '{okta,entra_id}', true, true, true, 1000, 1, 'sales' FROM o",
        )
        .bind(tenant)
        .execute(&mut root)
        .await
        .unwrap();
        sqlx::query("INSERT INTO sync.sealing_keys (tenant_id, version, public_key, signature, wrapped_private) VALUES ($1, 1, $2, $3, $4)")
            .bind(tenant)
            .bind(&pair.public)
            .bind(&pair.signature)
            .bind(&pair.wrapped_private)
            .execute(&mut root)
            .await
            .unwrap();
        let owner = |table| Owner { tenant: Some(tenant), table, row: integration.uuid(), version: 1 };
        let (spec, connection, directory_id) = match provider {
            ProviderKind::Okta => {
                let key = tokio::task::spawn_blocking(keys::generate).await.unwrap().unwrap();
                let app = json!({ "client_id": CLIENT, "roles": ["SUPER_ADMIN"], "jwks": keys::jwks(std::slice::from_ref(&key.public)),
                    "scopes": ["okta.users.read", "okta.users.manage", "okta.groups.read", "okta.policies.read", "okta.roles.read",
                        "okta.logs.read", "okta.userRisk.manage", "okta.userRisk.read"] });
                let okta = json!({ "org_id": ORG, "subdomain": "acme", "mail_domain": "acme.example", "buckets": null, "apps": [app] });
                let sealed = sealer.seal(&owner(column::CLIENT_KEY), key.pkcs8.expose()).unwrap();
                sqlx::query("INSERT INTO sync.client_keys (tenant_id, integration_id, version, kid, sealed_private) VALUES ($1, $2, 1, $3, $4)")
                    .bind(tenant)
                    .bind(integration)
                    .bind(&key.kid)
                    .bind(sealed)
                    .execute(&mut root)
                    .await
                    .unwrap();
                (json!({ "okta": okta }), json!({ "host": "acme.okta.com", "client_id": CLIENT }), ORG)
            }
            ProviderKind::EntraId => {
                let app = json!({ "client_id": ENTRA_CLIENT, "secrets": [{ "value": "only-for-tests" }],
                    "permissions": ["User.Read.All", "User.RevokeSessions.All", "User.EnableDisableAccount.All",
                        "IdentityRiskyUser.ReadWrite.All", "IdentityRiskyUser.Read.All", "RoleManagement.Read.Directory",
                        "Directory.Read.All", "AuditLog.Read.All"],
                    "roles": ["Privileged Authentication Administrator"] });
                let entra = json!({ "tenant_id": ENTRA, "domains": [{ "name": "acme.example" }], "apps": [app],
                    "licences": ["P1", "P2"], "risk_throttling": false });
                (
                    json!({ "entra_id": entra }),
                    json!({ "cloud": "global", "tenant": ENTRA, "client_id": ENTRA_CLIENT }),
                    ENTRA,
                )
            }
        };
        let [outer, inner, hidden] = GROUPS;
        let groups = match provider {
            ProviderKind::EntraId => json!([
                { "id": outer, "name": "Protected", "groups": [inner] },
                { "id": inner, "name": "Within" },
                { "id": hidden, "name": "Hidden", "hidden": true },
            ]),
            ProviderKind::Okta => json!([{ "id": OKTA_GROUP, "name": "Protected" }]),
        };
        let directory = idp
            .directory(json!({ "name": "Acme", "provider": spec, "accounts": accounts, "groups": groups }));
        sqlx::query(
            "INSERT INTO api.integrations (tenant_id, integration_id, name, provider, config, settings, status, status_reason,
                                           status_message, directory_id, created_by, updated_by)
             VALUES ($1, $2, 'Acme', $3, $4, $5, 'active', '', '', $6, 'test', 'test')",
        )
        .bind(tenant)
        .bind(integration)
        .bind(provider.as_str())
        .bind(connection)
        .bind(settings)
        .bind(directory_id)
        .execute(&mut root)
        .await
        .unwrap();
        if provider == ProviderKind::EntraId {
            let sealed = sealer.seal(&owner(column::INTEGRATION_SECRET), b"only-for-tests").unwrap();
            sqlx::query("INSERT INTO api.integration_secrets (tenant_id, integration_id, version, sealed) VALUES ($1, $2, 1, $3)")
                .bind(tenant)
                .bind(integration)
                .bind(sealed)
                .execute(&mut root)
                .await
                .unwrap();
        }
        Certificates::prepare(
            files.path(),
            &["mitigation-executor", "identity-sync-worker", "integration-api", "audit-writer"],
        )
        .unwrap();
        let mut common = bus.common_as("parapet_mitigation");
        common.tls = Some(tls(files.path(), "mitigation-executor"));
        common.grpc = ListenConfig {
            listen: ([127, 0, 0, 1], free_port()).into(),
            allow: [(SERVICE.to_owned(), vec![service_name("integration-api")])].into(),
            ..ListenConfig::default()
        };
        let config = Config {
            common,
            idp: idp.egress_config(),
            keys: Keys { integration: key_file.into() },
            executor: Tuning { check_after_seconds: vec![0, 2], ..Tuning::default() },
        };
        let db = Db::connect(&config.common.database).await.unwrap();
        let stage = Self {
            bus,
            idp,
            directory,
            directory_id,
            provider,
            tenant,
            integration,
            db,
            files,
            config,
            running: None,
        };
        stage.sync().await;
        stage.follow(&policy).await;
        stage
    }

    /// Copies the directory's accounts to where identity-sync-worker would.
    async fn sync(&self) {
        let (accounts, _) = self.directory.accounts.page(0, usize::MAX, |_| true);
        for account in accounts {
            sqlx::query(
                "INSERT INTO sync.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
                     login_key, display_name, addresses, state, kind, authority, is_admin, hybrid)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $7, '', '{}', 'active', 'member', 'cloud', $8, $9)",
            )
            .bind(self.tenant)
            .bind(AccountId::new())
            .bind(self.integration)
            .bind(self.provider.as_str())
            .bind(self.directory_id)
            .bind(&account.id)
            .bind(&account.login)
            .bind(!account.roles.is_empty())
            .bind(account.hybrid)
            .execute(&mut self.bus.superuser().await)
            .await
            .unwrap();
        }
    }

    pub fn start(&mut self) {
        assert!(self.files.path().exists());
        let (stop, asked) = oneshot::channel::<()>();
        let run = mitigation_executor::run(self.config.clone(), async move {
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        self.running = Some((stop, tokio::spawn(run)));
    }

    /// Starts an executor as a process of its own, which takes one action at a time; `fail_point`: where it is to die.
    #[cfg(feature = "fail-points")]
    pub fn process(&self, program: &std::path::Path, fail_point: Option<&str>) -> tokio::process::Child {
        let Config { common, idp, keys, executor } = &self.config;
        let options = json!({
            "common": process::common(common),
            "idp": process::egress(idp),
            "keys": { "integration": keys.integration.file },
            "executor": { "concurrency": 1, "check_after_seconds": executor.check_after_seconds },
        });
        process::start(program, &process::file(self.files.path(), &options), fail_point)
    }

    pub async fn stop(&mut self) {
        let (stop, ended) = self.running.take().unwrap();
        stop.send(()).unwrap();
        assert_eq!(format!("{:?}", ended.await.unwrap().unwrap()), format!("{:?}", ExitCode::SUCCESS));
    }

    /// Starts a worker that syncs the directory.
    pub fn sync_worker(&self) -> (oneshot::Sender<()>, JoinHandle<anyhow::Result<ExitCode>>) {
        let mut common = self.bus.common_as("parapet_sync");
        common.tls = Some(tls(self.files.path(), "identity-sync-worker"));
        let listen = ([127, 0, 0, 1], free_port()).into();
        common.grpc = ListenConfig { listen, ..ListenConfig::default() };
        let config = identity_sync_worker::Config {
            common,
            idp: self.idp.egress_config(),
            keys: identity_sync_worker::KeyConfig {
                integration: self.config.keys.integration.clone(),
                ..identity_sync_worker::KeyConfig::default()
            },
            ..identity_sync_worker::Config::default()
        };
        let (stop, asked) = oneshot::channel::<()>();
        let run = identity_sync_worker::run(config, async move {
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        (stop, tokio::spawn(run))
    }

    /// Has the directory read in full by a worker that runs, and waits until so many protected groups and roles were
    /// looked at.
    pub async fn read_again(&self, sets: i64) {
        let mut root = self.bus.superuser().await;
        sqlx::query("UPDATE sync.protected_sets SET tried_at = 'epoch'").execute(&mut root).await.unwrap();
        let message = SyncRequested {
            tenant_id: self.tenant.to_string(),
            integration_id: self.integration.to_string(),
            run_id: SyncRunId::new().to_string(),
            full: true,
            ..SyncRequested::default()
        };
        let db = Db::connect(&self.bus.common_as("parapet_sync").database).await.unwrap();
        let mut tx = db.system().await.unwrap();
        outbox::enqueue(&mut tx, Topic::SyncRequested, Some(self.tenant), &message).await.unwrap();
        tx.commit().await.unwrap();
        self.until("SELECT count(*) FROM sync.protected_sets WHERE tried_at > 'epoch'", sets).await;
    }

    /// Somebody joins a group, or leaves it.
    pub fn member(&self, login: &str, group: &str, member: bool) {
        let id = self.directory.accounts.by_login(login).unwrap().id;
        let link = Link::new(Kind::Member, group, &id);
        self.directory.links.set(link, member, self.idp.simulator.world.now());
    }

    /// A client of the executor that shows this service's certificate.
    pub async fn client(&self, service: &str) -> ContainmentServiceClient<Channel> {
        let peer = PeerConfig {
            address: format!("https://{}", self.config.common.grpc.listen),
            server_name: Some(service_name("mitigation-executor")),
        };
        let listens =
            || async { tokio::net::TcpStream::connect(self.config.common.grpc.listen).await.is_ok() };
        e2e::until("the executor listens", listens).await;
        let channel = grpc::channel(&peer, &tls(self.files.path(), service)).await.unwrap();
        ContainmentServiceClient::new(channel).max_decoding_message_size(16 * 1024 * 1024)
    }

    pub async fn account(&self, login: &str) -> Uuid {
        sqlx::query_scalar("SELECT account_id FROM sync.accounts WHERE login = $1")
            .bind(login)
            .fetch_one(&mut self.bus.superuser().await)
            .await
            .unwrap()
    }

    /// The mitigations that this query selects get their turn once more.
    pub async fn due_again(&self, query: &'static str) {
        let work = self.ids(query).await.into_iter().map(|subject| NewWork {
            work_id: WorkId::new(),
            tenant: self.tenant,
            directory: self.directory_id.to_owned(),
            kind: planner::WORK,
            subject,
            priority: 0,
            due_at: None,
        });
        let mut tx = self.db.system().await.unwrap();
        work::schedule_many(&mut tx, &work.collect::<Vec<_>>()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// An operator has every parked message tried again.
    pub async fn retry_parked(&self) {
        let mut tx = self.db.system().await.unwrap();
        for id in self.ids("SELECT message_id FROM mitigation.parked").await {
            assert!(inbox::retry(&mut tx, MessageId(id)).await.unwrap());
        }
        tx.commit().await.unwrap();
    }

    /// Waits until this query over mitigations counts so many.
    pub async fn until(&self, query: &'static str, expected: i64) {
        self.bus.until_count(query, expected).await;
    }

    /// State and reason of every mitigation, by sign-in name and action.
    pub async fn told(&self) -> Vec<(String, String, String, Option<String>)> {
        sqlx::query("SELECT login, action, state, coalesce(held_by, reason) AS why FROM mitigation.mitigations ORDER BY login, action")
            .fetch_all(&mut self.bus.superuser().await)
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get("login"), row.get("action"), row.get("state"), row.get("why")))
            .collect()
    }

    /// What a mitigation tells by this name, of those that this state has.
    pub async fn details(&self, name: &str, state: &str) -> Vec<Option<String>> {
        sqlx::query_scalar(
            "SELECT details ->> $1 FROM mitigation.mitigations WHERE state = $2 ORDER BY login",
        )
        .bind(name)
        .bind(state)
        .fetch_all(&mut self.bus.superuser().await)
        .await
        .unwrap()
    }

    /// Somebody at the directory changes an account, and its logs tell who.
    pub fn somebody(&self, login: &str, patch: &Value) {
        let account = self.directory.accounts.by_login(login).unwrap();
        let world = &self.idp.simulator.world;
        idp_simulator::control::changed_by_somebody(world, &self.directory, &account, patch).unwrap();
    }

    /// Takes a permission or scope away from our application; tokens that it has keep it.
    pub fn without(&self, permission: &str) {
        let mut settings = serde_json::to_value(&*self.directory.settings()).unwrap();
        let (kind, granted) = match self.provider {
            ProviderKind::EntraId => ("entra_id", "permissions"),
            ProviderKind::Okta => ("okta", "scopes"),
        };
        settings[kind]["apps"][0][granted].as_array_mut().unwrap().retain(|name| *name != json!(permission));
        self.directory.set_settings(serde_json::from_value(settings).unwrap());
    }

    /// What our application changed at the directory, in order.
    pub fn done(&self) -> Vec<String> {
        let ours = |actor: &str| actor == CLIENT || actor == ENTRA_CLIENT;
        self.idp.changes().into_iter().filter(|c| ours(&c.actor)).map(|c| c.action).collect()
    }
}

/// The certificate of a service, from the authority of this directory.
fn tls(dir: &Path, service: &str) -> TlsFiles {
    let file = |name: &str| dir.join(name);
    TlsFiles {
        cert_file: file(&format!("{service}.pem")),
        key_file: file(&format!("{service}-key.pem")),
        ca_file: file("ca.pem"),
    }
}
