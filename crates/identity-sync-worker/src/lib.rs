//! `identity-sync-worker`: reads directories into accounts, identities and identifiers, and keeps the keys that lead
//! to directories.
//!
//! Belongs here: sync runs, what is made of accounts, absence and its brake, sealing key pairs of purpose
//! `integration`, Okta client keys, connection tests, what a person decides about held removals. Does not: how a directory is spoken to (`shared::provider`), nor
//! an integration's status, which integration-api derives from what is reported here.

mod absence;
mod apply;
mod client_keys;
mod drive;
mod ending;
mod expiry;
mod forget;
mod health;
mod keys;
mod members;
mod page;
mod preview;
mod removals;
mod request;
mod rpc;
mod rpc_removals;
mod schedule;
mod statistics;
mod step;
mod store_accounts;
mod store_client_keys;
mod store_directories;
mod store_health;
mod store_identities;
mod store_keys;
mod store_members;
mod store_preview;
mod store_removals;
mod store_runs;

use std::{future::Future, process::ExitCode, sync::Arc, time::Duration};

use serde::Deserialize;
use shared::{
    grpc::{self, Callers},
    outbox::Topic,
    provider::{
        directory::Directories,
        http::{Egress, EgressConfig},
    },
    queue,
    rotation::{self, Holder, Holding, Rotation, RotationConfig},
    sealing::{KeySourceConfig, Purpose, TopKeys},
    service::{Common, Configuration, Faults, Service},
    wire::internal::{
        directory_service_server::DirectoryServiceServer, removal_service_server::RemovalServiceServer,
    },
    work::{Caps, Dispatcher},
};

pub use client_keys::ClientKeyConfig;

/// Name of the service.
pub const NAME: &str = "identity-sync-worker";

/// Configuration of `identity-sync-worker`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// How directories are reached.
    pub idp: EgressConfig,
    /// Keys.
    pub keys: KeyConfig,
    /// Sync.
    pub sync: SyncConfig,
}

/// Keys this service is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyConfig {
    /// Top key of purpose `integration`.
    pub integration: KeySourceConfig,
    /// How the key pairs of purpose `integration` are rotated.
    pub rotation: RotationConfig,
    /// How the client keys of Okta integrations are rotated.
    pub client: ClientKeyConfig,
}

/// How directories are synced.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncConfig {
    /// Directories one process reads at once; each holds at most two units of 2000 accounts in
    /// memory.
    pub concurrency: u16,
    /// Seconds between incremental runs.
    pub changes_every_seconds: u64,
    /// Seconds between two looks at the health of an integration. A broken credential counts at the first look, a
    /// directory that does not answer at the second: 100 keeps both below five minutes.
    pub check_every_seconds: u64,
    /// Seconds a worker stays with one directory before another has its turn.
    pub slice_seconds: u64,
    /// A full run that does not find more than this share of the accounts, in per cent, is held: nothing is removed
    /// until a person decides about its plan.
    pub hold_percent: u8,
    /// A full run that does not find more than so many accounts is held.
    pub hold_accounts: u32,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            concurrency: 4,
            changes_every_seconds: 300,
            check_every_seconds: 100,
            slice_seconds: 10,
            hold_percent: 10,
            hold_accounts: 500,
        }
    }
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.common
    }
    fn check(&self, faults: &mut Faults) {
        let SyncConfig {
            concurrency,
            changes_every_seconds,
            check_every_seconds,
            slice_seconds,
            hold_percent,
            hold_accounts: _,
        } = self.sync;
        self.keys.integration.check(faults, "keys.integration");
        self.idp.check(faults, "idp");
        self.keys.rotation.check(faults, "keys.rotation");
        self.keys.client.check(faults, "keys.client");
        faults.require(self.common.tls.is_some(), "common.tls", "is required");
        faults.require((1..=64).contains(&concurrency), "sync.concurrency", "must be 1 to 64");
        faults.require(
            (1..=86_400).contains(&changes_every_seconds),
            "sync.changes_every_seconds",
            "must be 1 to 86400",
        );
        faults.require(
            (1..=86_400).contains(&check_every_seconds),
            "sync.check_every_seconds",
            "must be 1 to 86400",
        );
        // Below the lease of work rows and the broker's patience.
        faults.require((1..=120).contains(&slice_seconds), "sync.slice_seconds", "must be 1 to 120");
        faults.require(hold_percent <= 100, "sync.hold_percent", "must be 0 to 100");
    }
}

/// Runs the service until it is asked to stop.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let top = Arc::new(TopKeys::open(&config.keys.integration, Purpose::Integration).await?);
    let directories = Arc::new(Directories::new(Egress::new(&config.idp)?, Arc::clone(&top)));
    let service = Service::start(NAME, config.common.clone(), stop).await?;
    let db = service.db().clone();
    let sync = Arc::new(drive::Sync {
        db: db.clone(),
        directories: Arc::clone(&directories),
        limits: absence::Limits {
            percent: config.sync.hold_percent.into(),
            accounts: config.sync.hold_accounts.into(),
        },
        every: Duration::from_secs(config.sync.changes_every_seconds),
        slice: Duration::from_secs(config.sync.slice_seconds),
        stop: service.stop_token(),
    });
    queue::spawn_consumer(&service, Topic::SyncRequested, config.sync.concurrency, sync);
    let dispatcher = Dispatcher::new(db.clone(), request::message_of, Caps::default());
    service.spawn("dispatcher", dispatcher.run(service.stop_token()));
    service.spawn_relay(&["outbox"]);
    let connected = Arc::clone(&directories);
    Holder::spawn(
        &service,
        vec![Holding::Top { keys: Arc::clone(&top), destroyed: Box::new(move |t| connected.forget(t)) }],
    );
    let rotation = Rotation {
        service: NAME,
        db: db.clone(),
        top,
        of_tenants: &store_keys::OF_TENANTS,
        of_installation: &[],
        config: config.keys.rotation.clone(),
    };
    service.spawn("rotation of keys", rotation.run(service.stop_token()));
    service.spawn("deleted tenants", rotation::forget_deleted(db.clone(), service.stop_token()));
    let watch = health::Watch {
        db: db.clone(),
        directories: Arc::clone(&directories),
        every: Duration::from_secs(config.sync.check_every_seconds),
        stop: service.stop_token(),
    };
    service.spawn("health", watch.run());
    service.spawn("keys", keys::reconcile(db.clone(), Arc::clone(&directories), service.stop_token()));
    let client_keys = Arc::new(client_keys::ClientKeys {
        db: db.clone(),
        directories: Arc::clone(&directories),
        config: config.keys.client.clone(),
    });
    service.spawn("client keys", Arc::clone(&client_keys).run(service.stop_token()));
    grpc::Server::new()
        .add(RemovalServiceServer::new(rpc_removals::Rpc { db: db.clone() }))
        .add(DirectoryServiceServer::new(rpc::Rpc { db, directories, client_keys }))
        .listen(&service, &config.common.grpc, Callers::Peers, config.common.tls.as_ref())
        .await?;
    service.run().await
}
