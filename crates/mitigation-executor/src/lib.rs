//! Contains accounts whose leaked password was proven valid, or that an analyst named: deliberately, verified, limited.
//!
//! Belongs here: planning, the brake, holds and their release, provider actions, their verification, the undo ledger.
//! Does not: finding out whether a password works; who may ask for what, which integration-api decides.

pub mod approvals;
pub mod cancellations;
pub mod config;
pub mod events;
pub mod executor;
pub mod foresight;
pub mod intake;
pub mod plan;
pub mod planner;
pub mod preview;
pub mod rpc;
pub mod simulate;
pub mod state;
pub mod store;
pub mod store_brake;
pub mod store_history;
pub mod store_requests;
pub mod undo;

use std::{future::Future, process::ExitCode, sync::Arc};

use anyhow::Context;
use prost::Message;
use shared::{
    grpc::{self, Callers},
    provider::{directory::Directories, http::Egress},
    queue::{self, Topic},
    rotation::{self, Holder, Holding},
    sealing::{Purpose, TopKeys},
    service::Service,
    wire::{events::MitigationDue, internal::containment_service_server::ContainmentServiceServer},
    work::{Caps, Dispatcher, WorkRow},
};

pub use config::Config;

/// Requests are short transactions under the tenant's brake; more at once would only wait for each other.
const REQUESTS: u16 = 4;

/// Runs the service until `stop` ends.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let top =
        TopKeys::open(&config.keys.integration, Purpose::Integration).await.context("keys.integration")?;
    let egress = Egress::new(&config.idp).context("idp")?;
    let service = Service::start("mitigation-executor", config.common.clone(), stop).await?;
    let directories = Arc::new(Directories::new(egress, Arc::new(top)));
    let connected = Arc::clone(&directories);
    let holding = Holding::Top {
        keys: Arc::clone(directories.top()),
        destroyed: Box::new(move |t| connected.forget(t)),
    };
    Holder::spawn(&service, vec![holding]);
    service.spawn("deleted tenants", rotation::forget_deleted(service.db().clone(), service.stop_token()));

    let intake = intake::Intake::new(service.db().clone());
    queue::spawn_consumer(&service, Topic::MitigationRequested, REQUESTS, Arc::new(intake));
    let executor =
        executor::Executor::new(service.db().clone(), directories, &config.executor.check_after_seconds);
    queue::spawn_consumer(&service, Topic::MitigationDue, config.executor.concurrency, Arc::new(executor));

    let caps = Caps { in_flight: i64::from(config.executor.in_flight), ..Caps::default() };
    let dispatcher = Dispatcher::new(service.db().clone(), due, caps);
    service.spawn("dispatcher", dispatcher.run(service.stop_token()));
    service.spawn("approvals", approvals::expire(service.db().clone(), service.stop_token()));
    service.spawn_relay(&["outbox"]);
    let common = &config.common;
    grpc::Server::new()
        .add(ContainmentServiceServer::new(rpc::Rpc { db: service.db().clone() }))
        .listen(&service, &common.grpc, Callers::Peers, common.tls.as_ref())
        .await?;
    service.run().await
}

fn due(row: &WorkRow) -> (Topic, Vec<u8>) {
    let message = MitigationDue {
        tenant_id: row.tenant.to_string(),
        work_id: row.work_id.to_string(),
        mitigation_id: row.subject.to_string(),
    };
    (Topic::MitigationDue, message.encode_to_vec())
}
