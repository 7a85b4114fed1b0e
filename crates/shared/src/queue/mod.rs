//! RabbitMQ: topology, publishing with confirms, consuming through the inbox.
//!
//! Handlers never see lapin. Connections are ours to rebuild (lapin's recovery stays off): [`link`] reconnects for
//! ever, publishing and consuming never share a connection, and every buffer has a bound.

mod batch;
mod config;
mod consumer;
mod delivery;
mod link;
mod publisher;
mod topology;

use async_trait::async_trait;

pub(crate) use self::link::LinkState;
pub use self::{
    batch::spawn_batch_consumer,
    config::{BrokerConfig, BrokerError},
    consumer::spawn_consumer,
    delivery::{Delivery, done_many},
    publisher::{Message, PublishError, Publisher, WINDOW},
    topology::{dead_letter_queue, declare_topology},
};
use crate::db::StoreError;
pub use crate::outbox::Topic;

/// How a message was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its effect is committed, or there is nothing to do (any more).
    Done,
    /// It can never be done; the reason is for an operator.
    Park(String),
}

/// Why a message could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// Worth another try.
    #[error("{0:#}")]
    Transient(#[source] anyhow::Error),
    /// The message itself is at fault: it is parked at once.
    #[error("{0}")]
    Poison(String),
}

impl From<StoreError> for HandlerError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(reason) => Self::Poison(reason),
            error => Self::Transient(error.into()),
        }
    }
}

impl From<anyhow::Error> for HandlerError {
    fn from(error: anyhow::Error) -> Self {
        Self::Transient(error)
    }
}

/// Handles messages one at a time, up to `prefetch` of them at once.
///
/// It must end by itself within ten minutes, and be ready to meet a message again, late, or out of order.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Does the work. The transaction with the effect must call [`Delivery::done`] before it commits.
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError>;
}

/// Handles messages many at a time, in one transaction. While a failing one is tried again alone, batches go on beside it.
#[async_trait]
pub trait BatchHandler: Send + Sync + 'static {
    /// Does the work of all of them, or of none: on an error each is tried again alone, so that one bad message
    /// cannot hold up the others. The transaction must mark them with [`done_many`] or [`Delivery::done`].
    async fn handle(&self, batch: &[Delivery]) -> Result<(), HandlerError>;
}
