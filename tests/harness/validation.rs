//! A tenant with a simulated Entra ID directory and leaked credentials for it: the world of validator tests.

use std::{path::Path, sync::Arc, time::Duration};

use identity_sync_worker::{Config as SyncWorker, KeyConfig, SyncConfig};
use idp_simulator::{log::Submission, model::Directory};
use parapet::{
    certs::Certificates,
    servers::{Permissions, write_private},
};
use prost::Message;
use serde_json::json;
use shared::{
    db::{DatabaseConfig, Db},
    id::{BatchId, ExposureId, FeedRecordId, IntegrationId, SyncRunId, TenantId, ValidationId},
    outbox::Topic,
    provider::directory::Directories,
    queue::{BrokerConfig, declare_topology},
    sealing::{DataKey, Owner, Purpose, Sealer, TopKey, column},
    service::{Common, ListenConfig, TlsFiles},
    wire::events::{FeedBatchReceived, SyncRequested, ValidationRequested},
};
use sqlx::PgConnection;
use tokio::{process::Child, sync::oneshot};
use uuid::Uuid;

use crate::{
    idp::Idp,
    process,
    servers::{Database, ROLE_PASSWORD, Vhost, database, servers, unique, vhost},
};

const CLIENT_SECRET: &str = "graph-client-secret-value";
const GRAPH_APP: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
/// The application that passwords are checked with.
pub const ROPC_APP: &str = "11111111-aaaa-4bbb-8ccc-000000000002";

/// The right password of account `n`.
pub fn password(n: usize) -> String {
    format!("Right-horse-{n}-battery")
}

/// One leaked credential: whose, and what.
#[derive(Clone, Debug)]
pub struct Leak {
    /// The account's number.
    pub account: usize,
    /// The password as leaked.
    pub password: String,
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// The tenant.
    pub tenant: TenantId,
    /// Its integration.
    pub integration: IntegrationId,
    /// The directory's id.
    pub directory: String,
    /// The directory as it really is.
    pub people: Arc<Directory>,
    /// The simulator: directory and judge.
    pub idp: Idp,
    /// The database.
    pub database: Database,
    _vhost: Vhost,
    broker: BrokerConfig,
    database_config: DatabaseConfig,
    leak: Sealer,
    dir: tempfile::TempDir,
}

impl World {
    /// A tenant that validates automatically, with this many active accounts.
    pub async fn new(accounts: usize) -> Self {
        Self::with_unsynced(accounts, 0).await
    }

    /// The same, with further accounts in the directory that no sync has seen yet.
    pub async fn with_unsynced(accounts: usize, unsynced: usize) -> Self {
        let (database, vhost) = (database().await, vhost().await);
        let servers = servers().await;
        // One for each test: the broker refuses to create the same user twice at the same moment.
        let user = unique("user");
        servers.rabbitmq.create_user(&user, ROLE_PASSWORD).await.unwrap();
        servers.rabbitmq.permit(&vhost.name, &user, &Permissions::all()).await.unwrap();
        let broker = servers.rabbitmq.config(&vhost.name, &user, &servers.role_password_file);
        declare_topology(&broker).await.unwrap();

        let database_config = database.config_as("").await;
        let dir = tempfile::tempdir().unwrap();
        let idp = Idp::start().await;
        let directory = Uuid::new_v4().to_string();
        let people = idp.directory(specification(&directory, accounts + unsynced));

        let (tenant, integration) = (TenantId::new(), IntegrationId::new());
        let (leak, sealed_with) =
            (TopKey::generate(Purpose::Leak).unwrap(), TopKey::generate(Purpose::Integration).unwrap());
        write_private(&dir.path().join("leak.key"), leak.to_file().unwrap().as_bytes()).unwrap();
        write_private(&dir.path().join("integration.key"), sealed_with.to_file().unwrap().as_bytes())
            .unwrap();
        write_private(&dir.path().join("digest.hex"), "5a".repeat(32).as_bytes()).unwrap();
        let pair = leak.new_key_pair(Some(tenant), 1).unwrap();
        let sealer = leak.verifier().sealer(Some(tenant), 1, &pair.public, &pair.signature).unwrap();
        let world = Self {
            tenant,
            integration,
            directory,
            people,
            idp,
            database,
            _vhost: vhost,
            broker,
            database_config,
            leak: sealer,
            dir,
        };
        let mut db = world.superuser().await;
        sqlx::query("INSERT INTO validator.sealing_keys (tenant_id, version, public_key, signature, wrapped_private) VALUES ($1, 1, $2, $3, $4)")
            .bind(tenant).bind(&pair.public).bind(&pair.signature).bind(&pair.wrapped_private)
            .execute(&mut db).await.unwrap();
        sqlx::query("INSERT INTO validator.sealing_key_tenants VALUES ($1)")
            .bind(tenant)
            .execute(&mut db)
            .await
            .unwrap();
        world.register(&mut db, &sealed_with).await;
        world.sync(&mut db, accounts).await;
        world
    }

    async fn register(&self, db: &mut PgConnection, top: &TopKey) {
        let organization = Uuid::new_v4();
        sqlx::query("INSERT INTO api.organizations (organization_id, name) VALUES ($1, 'acme')")
            .bind(organization)
            .execute(&mut *db)
            .await
            .unwrap();
        sqlx::query(
            "INSERT INTO api.tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
                 mitigation, identifier_cap, integration_cap, contact)
             VALUES ($1, $2, 'acme', '{entra_id}', true, true, true, 100000, 1, 'sales')",
        )
        .bind(self.tenant).bind(organization).execute(&mut *db).await.unwrap();
        sqlx::query(
            "INSERT INTO api.integrations (tenant_id, integration_id, name, provider, config, settings, status,
                 status_reason, status_message, directory_id, created_by, updated_by)
             VALUES ($1, $2, 'entra', 'entra_id', $3, $4, 'active', '', '', $5, 'test', 'test')",
        )
        .bind(self.tenant)
        .bind(self.integration)
        .bind(json!({"cloud": "global", "tenant": self.directory, "client_id": GRAPH_APP, "ropc_client_id": ROPC_APP}))
        .bind(json!({"identity_creation": true, "validation": {"automated": true, "manual": true},
                     "mitigation": {"disable_account": {"automated": true, "manual": true}}}))
        .bind(&self.directory)
        .execute(&mut *db).await.unwrap();
        sqlx::query("INSERT INTO sync.sealing_key_tenants VALUES ($1)")
            .bind(self.tenant)
            .execute(&mut *db)
            .await
            .unwrap();
        let pair = top.new_key_pair(Some(self.tenant), 1).unwrap();
        sqlx::query("INSERT INTO sync.sealing_keys (tenant_id, version, public_key, signature, wrapped_private) VALUES ($1, 1, $2, $3, $4)")
            .bind(self.tenant).bind(&pair.public).bind(&pair.signature).bind(&pair.wrapped_private)
            .execute(&mut *db).await.unwrap();
        let sealer = top.verifier().sealer(Some(self.tenant), 1, &pair.public, &pair.signature).unwrap();
        let place = Owner {
            tenant: Some(self.tenant),
            table: column::INTEGRATION_SECRET,
            row: self.integration.uuid(),
            version: 1,
        };
        sqlx::query("INSERT INTO api.integration_secrets (tenant_id, integration_id, version, sealed) VALUES ($1, $2, 1, $3)")
            .bind(self.tenant).bind(self.integration).bind(sealer.seal(&place, CLIENT_SECRET.as_bytes()).unwrap())
            .execute(&mut *db).await.unwrap();
    }

    async fn sync(&self, db: &mut PgConnection, accounts: usize) {
        for n in 0..accounts {
            let (account, identity) = (Uuid::new_v4(), Uuid::new_v4());
            sqlx::query(
                "INSERT INTO sync.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
                     login_key, display_name, addresses, state, kind, authority, is_admin, hybrid, password_changed_at, identity_id)
                 VALUES ($1, $2, $3, 'entra_id', $4, $5, $6, $6, '', '{}', 'active', 'member', 'cloud', false, false, '2024-01-01', $7)",
            )
            .bind(self.tenant).bind(account).bind(self.integration).bind(&self.directory).bind(object(n)).bind(login(n)).bind(identity)
            .execute(&mut *db).await.unwrap();
            sqlx::query(
                "INSERT INTO sync.identifiers (tenant_id, identifier_id, identity_id, account_id, value, kind, created_at)
                 VALUES ($1, $2, $3, $4, $5, 'login', '2025-01-01')",
            )
            .bind(self.tenant).bind(Uuid::new_v4()).bind(identity).bind(account).bind(login(n))
            .execute(&mut *db).await.unwrap();
        }
    }

    /// Stores a batch of records as integration-api does, and tells the validator.
    pub async fn leak(&self, leaks: &[Leak]) {
        let mut db = self.superuser().await;
        let (batch, key) = (BatchId::new(), DataKey::generate().unwrap());
        let owner = |table, row| Owner { tenant: Some(self.tenant), table, row, version: 1 };
        sqlx::query(
            "INSERT INTO api.feed_batches (tenant_id, batch_id, feed, client_batch_id, fingerprint, answer, records, data_key_sealed, received_from)
             VALUES ($1, $2, 'test', $3, '', '', $4, $5, 'test')",
        )
        .bind(self.tenant).bind(batch).bind(batch.to_string()).bind(i32::try_from(leaks.len()).unwrap())
        .bind(key.seal_to(&self.leak, &owner(column::FEED_DATA_KEY, batch.uuid())).unwrap())
        .execute(&mut db).await.unwrap();
        for leak in leaks {
            let record = FeedRecordId::new();
            let sealed =
                key.seal(&owner(column::FEED_SECRET, record.uuid()), leak.password.as_bytes()).unwrap();
            sqlx::query(
                "INSERT INTO api.feed_records (tenant_id, record_id, batch_id, feed, external_id, identity, identity_original,
                     identity_kind, secret_form, secret_sealed, hashes, date_precision, source, targets, severity, severity_raw, feed_credential_hash)
                 VALUES ($1, $2, $3, 'test', $4, $5, $5, 'email', 'plaintext', $6, '[]', 'unknown', '{}', '{}', 0, '', '')",
            )
            .bind(self.tenant).bind(record).bind(batch).bind(record.to_string()).bind(login(leak.account)).bind(sealed)
            .execute(&mut db).await.unwrap();
        }
        let message = FeedBatchReceived {
            tenant_id: self.tenant.to_string(),
            batch_id: batch.to_string(),
            cause_id: Uuid::now_v7().to_string(),
        };
        self.send(Topic::FeedBatchReceived, &message, 1).await;
    }

    /// Puts a message into the validator's outbox, this many times, each under an id of its own.
    pub async fn send<M: Message>(&self, topic: Topic, message: &M, times: usize) {
        let ids: Vec<_> = (0..times).map(|_| Uuid::now_v7()).collect();
        sqlx::query(
            "INSERT INTO validator.outbox (id, tenant_id, topic, body) SELECT unnest($1::uuid[]), $2, $3, $4",
        )
        .bind(ids)
        .bind(self.tenant)
        .bind(topic.as_str())
        .bind(message.encode_to_vec())
        .execute(&mut self.superuser().await)
        .await
        .unwrap();
    }

    /// A person asks for exposures to be validated; the request is delivered this many times.
    pub async fn ask(&self, exposures: &[ExposureId], force: bool, times: usize) -> ValidationId {
        let (request, mut db) = (ValidationId::new(), self.superuser().await);
        sqlx::query(
            "INSERT INTO api.validation_requests (tenant_id, validation_id, kind, requested_by, requester_name, force, items)
             VALUES ($1, $2, 'selection', 'ann', 'Ann', $3, $4)",
        )
        .bind(self.tenant).bind(request).bind(force).bind(i32::try_from(exposures.len()).unwrap())
        .execute(&mut db).await.unwrap();
        sqlx::query(
            "INSERT INTO api.validation_items (tenant_id, validation_id, exposure_id) SELECT $1, $2, unnest($3::uuid[])",
        )
        .bind(self.tenant)
        .bind(request)
        .bind(exposures.iter().map(|e| e.uuid()).collect::<Vec<_>>())
        .execute(&mut db)
        .await
        .unwrap();
        self.tell(request, times).await;
        request
    }

    /// A person wants a request `running`, `paused` or `cancelled`. The validator is told when [`World::tell`] is called.
    pub async fn steer(&self, request: ValidationId, state: &str) {
        sqlx::query("UPDATE api.validation_requests SET state = $2 WHERE validation_id = $1")
            .bind(request)
            .bind(state)
            .execute(&mut self.superuser().await)
            .await
            .unwrap();
    }

    /// Tells the validator of a request, this many times.
    pub async fn tell(&self, request: ValidationId, times: usize) {
        let message = ValidationRequested {
            tenant_id: self.tenant.to_string(),
            validation_id: request.to_string(),
            cause_id: request.to_string(),
        };
        self.send(Topic::ValidationRequested, &message, times).await;
    }

    /// Changes an account at the directory.
    pub fn patch(&self, account: usize, patch: &serde_json::Value) {
        let now = self.idp.simulator.world.now();
        self.people.accounts.patch(&object(account), patch, now).unwrap().unwrap();
    }

    /// Syncs the directory in full, with the real worker, and waits for the end of its run.
    pub async fn synced(&self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = tokio::spawn(identity_sync_worker::run(self.sync_worker(), async move {
            stopped.await.ok();
        }));
        let run = SyncRunId::new();
        let message = SyncRequested {
            tenant_id: self.tenant.to_string(),
            integration_id: self.integration.to_string(),
            run_id: run.to_string(),
            full: true,
            ..SyncRequested::default()
        };
        self.send(Topic::SyncRequested, &message, 1).await;
        self.until("SELECT count(*) FROM sync.runs WHERE state = 'running' OR state = 'finished'", 1).await;
        self.until("SELECT count(*) FROM sync.runs WHERE state <> 'finished'", 0).await;
        self.until("SELECT count(*) FROM sync.outbox", 0).await;
        self.execute("DELETE FROM sync.runs").await;
        stop.send(()).unwrap();
        worker.await.unwrap().unwrap();
    }

    fn sync_worker(&self) -> SyncWorker {
        let certificates = Certificates::prepare(self.dir.path(), &["identity-sync-worker"]).unwrap();
        let own = certificates.of("identity-sync-worker");
        SyncWorker {
            common: Common {
                database: self.database_as("parapet_sync"),
                broker: self.broker.clone(),
                tls: Some(TlsFiles { cert_file: own.cert, key_file: own.key, ca_file: certificates.ca() }),
                grpc: ListenConfig { listen: ([127, 0, 0, 1], 0).into(), ..ListenConfig::default() },
                ..Common::default()
            },
            idp: self.idp.egress_config(),
            keys: KeyConfig {
                integration: self.dir.path().join("integration.key").into(),
                ..Default::default()
            },
            sync: SyncConfig::default(),
        }
    }

    /// The file with the top key of a purpose.
    pub fn top_key(&self, purpose: Purpose) -> std::path::PathBuf {
        self.dir.path().join(format!("{}.key", purpose.as_str()))
    }

    /// The database as a service has it that logs in as this role.
    pub async fn db(&self, role: &str) -> Db {
        Db::connect(&self.database_as(role)).await.unwrap()
    }

    /// The way to the directory that services have.
    pub fn directories(&self) -> Directories {
        let top = TopKey::load(&self.dir.path().join("integration.key")).unwrap();
        Directories::new(self.idp.egress(), Arc::new(top.into()))
    }

    fn database_as(&self, role: &str) -> DatabaseConfig {
        DatabaseConfig { user: role.into(), ..self.database_config.clone() }
    }

    /// A connection as superuser.
    pub async fn superuser(&self) -> PgConnection {
        sqlx::ConnectOptions::connect(&self.database.superuser().await).await.unwrap()
    }

    /// A channel of a client that is none of ours.
    pub async fn channel(&self) -> (lapin::Connection, lapin::Channel) {
        crate::bus::channel(&self.broker).await
    }

    /// Runs statements as superuser.
    pub async fn execute(&self, statements: &'static str) {
        sqlx::raw_sql(statements).execute(&mut self.superuser().await).await.unwrap();
    }

    /// Counts as superuser.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.superuser().await).await.unwrap()
    }

    /// Waits until the query counts exactly this.
    pub async fn until(&self, query: &'static str, expected: i64) {
        let deadline = tokio::time::Instant::now() + Duration::from_mins(3);
        loop {
            let found = self.count(query).await;
            if found == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{query}: {found}, expected {expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Verdicts and reasons of one account's exposures.
    pub async fn verdicts(&self, account: usize) -> Vec<(String, Option<String>)> {
        sqlx::query_as("SELECT verdict, verdict_reason FROM validator.exposures WHERE object_id = $1 AND verdict IS NOT NULL ORDER BY 1, 2")
            .bind(object(account)).fetch_all(&mut self.superuser().await).await.unwrap()
    }

    /// The exposure of an account that has one.
    pub async fn exposure(&self, account: usize) -> ExposureId {
        let id = sqlx::query_scalar("SELECT exposure_id FROM validator.exposures WHERE object_id = $1")
            .bind(object(account))
            .fetch_one(&mut self.superuser().await)
            .await
            .unwrap();
        ExposureId(id)
    }

    /// Every password submission, as the judge saw it.
    pub fn submissions(&self) -> Vec<Submission> {
        self.idp.submissions()
    }

    /// Has services that are started from now on reach the database like this.
    pub fn reach_database(&mut self, change: impl FnOnce(&mut DatabaseConfig)) {
        change(&mut self.database_config);
    }

    /// Starts a validator process. `fail_point`: the stage at which it is to die.
    pub fn validator(&self, program: &Path, fail_point: Option<&str>) -> Child {
        let key = |name: &str| self.dir.path().join(name);
        let common = Common {
            database: self.database_as("parapet_validator"),
            broker: self.broker.clone(),
            ..Common::default()
        };
        let options = json!({
            "common": process::common(&common),
            "idp": process::egress(&self.idp.egress_config()),
            "keys": { "integration": key("integration.key"), "leak": key("leak.key"), "digest": key("digest.hex"),
                      "rotation": { "every_days": 0, "grace_seconds": 0 } },
            "validator": { "concurrency": if fail_point.is_some() { 1 } else { 8 } },
        });
        process::start(program, &process::file(self.dir.path(), &options), fail_point)
    }
}

/// The immutable id of account `n`.
pub fn object(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// The sign-in name of account `n`.
pub fn login(n: usize) -> String {
    format!("user{n}@acme.test")
}

fn specification(directory: &str, accounts: usize) -> serde_json::Value {
    let accounts: Vec<_> = (0..accounts)
        .map(|n| {
            json!({"id": object(n), "login": login(n), "password": password(n),
                   "password_changed": "2024-01-01T00:00:00Z"})
        })
        .collect();
    json!({
        "name": "acme",
        "provider": {"entra_id": {
            "tenant_id": directory,
            "domains": [{"name": "acme.test"}],
            "apps": [
                {"client_id": GRAPH_APP, "secrets": [{"value": CLIENT_SECRET}],
                 "permissions": ["User.Read.All", "Directory.Read.All", "AuditLog.Read.All"]},
                {"client_id": ROPC_APP, "public": true},
            ],
            "licences": ["P1"],
        }},
        "accounts": accounts,
    })
}
