//! `audit-writer`: keeps the audit log, one hash chain per tenant and one for the installation.
//!
//! Belongs here: appending events to their chains, signing checkpoints, answering searches, exports, deriving a chain again.
//! Does not: deciding what is recorded; every service writes its events to its own outbox (`shared::audit`).

pub mod chain;
pub mod checkpoint;
pub mod export;
pub mod offline;
mod rpc;
mod search;
mod store;
mod tail;
pub mod verify;
mod wire;
mod writer;

use std::{future::Future, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use serde::Deserialize;
use shared::{
    grpc::{self, Callers},
    outbox::Topic,
    queue,
    service::{Common, Configuration, Faults, Service},
    wire::internal::audit_query_service_server::AuditQueryServiceServer,
};

/// Name of the service.
pub const NAME: &str = "audit-writer";

const PREFETCH: u16 = 1000;
const MAX_BATCH: usize = 500;
const LINGER: Duration = Duration::from_millis(20);

/// Configuration of `audit-writer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// Signing of checkpoints.
    pub checkpoint: CheckpointConfig,
}

/// Signing of checkpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// File with the Ed25519 private key (PKCS#8, PEM), and the public halves of those before it. Read again when it changes.
    pub key_file: PathBuf,
    /// Public keys (32 bytes, hex) that signed earlier checkpoints, beside those in the file.
    pub trusted_keys: Vec<String>,
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.common
    }
    fn check(&self, faults: &mut Faults) {
        faults.require_file(&self.checkpoint.key_file, "checkpoint.key_file");
        faults.require(self.common.tls.is_some(), "common.tls", "is required");
        for key in &self.checkpoint.trusted_keys {
            let fits = hex::decode(key).is_ok_and(|bytes| bytes.len() == 32);
            faults.require(fits, "checkpoint.trusted_keys", "each must be 32 bytes in hex");
        }
    }
}

/// Runs the service until it is asked to stop.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let trusted: Result<_, _> = config.checkpoint.trusted_keys.iter().map(hex::decode).collect();
    let trusted = trusted.context("checkpoint.trusted_keys")?;
    let keys = Arc::new(checkpoint::Keys::open(&config.checkpoint.key_file, trusted)?);
    let service = Service::start(NAME, config.common.clone(), stop).await?;
    let db = service.db().clone();
    let writer = Arc::new(writer::Writer { db: db.clone() });
    queue::spawn_batch_consumer(&service, Topic::AuditRecorded, PREFETCH, writer, MAX_BATCH, LINGER);
    service.spawn("checkpoints", checkpoint::run(db.clone(), Arc::clone(&keys), service.stop_token()));
    grpc::Server::new()
        .add(AuditQueryServiceServer::new(rpc::AuditQuery { db, keys, stop: service.stop_token() }))
        .listen(&service, &config.common.grpc, Callers::Peers, config.common.tls.as_ref())
        .await?;
    service.run().await
}
