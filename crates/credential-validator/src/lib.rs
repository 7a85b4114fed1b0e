//! credential-validator: matches leaked credentials against identities, decides most of them without touching a
//! directory, and tries the rest at most once each, never beyond an account's attempt budget.
//!
//! It owns exposures, verdicts, the memory of tried passwords, pauses of validation and the leak keys, and it alone may
//! call the attempt budget. [`matching`] makes exposures, [`triage`] decides for free, [`turn`] is the attempt,
//! [`conclude`] its result, [`caretaker`] what happens by itself, [`gate`] the doubt about the budget's own database, [`log_watch`] what the directories
//! have seen of us. SQL is in [`store`] alone.

pub mod caretaker;
pub mod conclude;
mod config;
mod digest;
pub mod ending;
pub mod failpoint;
pub mod gate;
pub mod keys;
pub mod log_watch;
pub mod matching;
mod message;
pub mod requests;
mod signals;
#[expect(missing_docs, reason = "rows; their columns are described in the migrations")]
pub mod store;
pub mod triage;
pub mod turn;

use std::{future::Future, process::ExitCode, sync::Arc};

use anyhow::Context;
use prost::Message;
use shared::{
    outbox::Topic,
    provider::{directory::Directories, http::Egress},
    queue,
    rotation::{self, Holder, Holding, Rotation},
    sealing::{Purpose, TopKeys},
    service::Service,
    wire::events::ValidationDue,
    work::{Caps, Dispatcher, WorkRow},
};

pub use self::{
    config::{Config, Keys, Tuning},
    digest::{DigestKey, DigestKeyError},
};

/// The service's name.
pub const NAME: &str = "credential-validator";
/// The kind of work that gives an exposure its turn.
pub const VALIDATE: &str = "validate";

/// Runs the validator until asked to stop.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let leak = Arc::new(TopKeys::open(&config.keys.leak, Purpose::Leak).await?);
    let integration = Arc::new(TopKeys::open(&config.keys.integration, Purpose::Integration).await?);
    let digest = Arc::new(DigestKey::load(&config.keys.digest)?);
    let egress = Egress::new(&config.idp).context("idp")?;
    let service = Service::start(NAME, config.common.clone(), stop).await?;
    let (db, token) = (service.db().clone(), service.stop_token());
    let keys = Arc::new(keys::LeakKeys::new(Arc::clone(&leak)));
    let directories = Arc::new(Directories::new(egress, integration));

    let connected = Arc::clone(&directories);
    let integration = Holding::Top {
        keys: Arc::clone(directories.top()),
        destroyed: Box::new(move |t| connected.forget(t)),
    };
    Holder::spawn(&service, vec![Holding::top(Arc::clone(&leak)), integration]);
    let rotation = Rotation {
        service: NAME,
        db: db.clone(),
        top: leak,
        of_tenants: &store::keys::OF_TENANTS,
        of_installation: &store::keys::OF_INSTALLATION,
        config: config.keys.rotation.clone(),
    };
    service.spawn("rotation of keys", rotation.run(token.clone()));
    service.spawn("deleted tenants", rotation::forget_deleted(db.clone(), token.clone()));
    service.spawn("leak keys", Arc::clone(&keys).reconcile(db.clone(), token.clone()));
    let synchronous = config.validator.synchronous_replication;
    service.spawn("gate", gate::watch(db.clone(), synchronous, token.clone()));
    service.spawn("reaper", caretaker::reap(db.clone(), token.clone()));
    service.spawn("retention", caretaker::expire(db.clone(), config.validator.retention_days, token.clone()));
    service.spawn("logs of sign-ins", log_watch::watch(db.clone(), Arc::clone(&directories), token.clone()));
    let caps = Caps { in_flight: i64::from(config.validator.in_flight), ..Caps::default() };
    service.spawn("dispatcher", Dispatcher::new(db.clone(), message_of, caps).run(token));
    service.spawn_relay(&["outbox", "budget.outbox"]);

    let matcher = matching::Matcher { db: db.clone(), keys: Arc::clone(&keys), digest };
    let few = config.validator.matching;
    queue::spawn_consumer(
        &service,
        Topic::FeedBatchReceived,
        few,
        Arc::new(matching::Batches(matcher.clone())),
    );
    queue::spawn_consumer(&service, Topic::IdentifiersChanged, few, Arc::new(matching::Identifiers(matcher)));
    queue::spawn_consumer(
        &service,
        Topic::ValidationRequested,
        few,
        Arc::new(requests::Requests(db.clone())),
    );
    queue::spawn_consumer(&service, Topic::AccountsChanged, few, Arc::new(requests::Accounts(db.clone())));
    queue::spawn_consumer(
        &service,
        Topic::ValidationDue,
        config.validator.concurrency,
        Arc::new(turn::Validator { db, directories, keys }),
    );
    service.run().await
}

fn message_of(work: &WorkRow) -> (Topic, Vec<u8>) {
    let due = ValidationDue {
        tenant_id: work.tenant.to_string(),
        work_id: work.work_id.to_string(),
        exposure_id: work.subject.to_string(),
    };
    (Topic::ValidationDue, due.encode_to_vec())
}
