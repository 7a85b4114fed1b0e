//! Publishing with confirms: only what the broker has is a success, and of ours only what a queue took.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Event,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    config::{BrokerConfig, BrokerError, answered},
    link::{self, LinkState},
};
use crate::{
    id::{MessageId, TenantId},
    outbox::Destination,
};

/// Header with the tenant a message belongs to.
pub(super) const TENANT: &str = "parapet-tenant";
/// Header with the W3C trace context of the writer.
pub(super) const TRACEPARENT: &str = "traceparent";

/// Most messages whose confirm is outstanding; while the broker blocks us, lapin holds them in memory.
pub const WINDOW: usize = 256;
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its id; consumers deduplicate by it.
    pub id: MessageId,
    /// Where it goes.
    pub to: Destination,
    /// Tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// Trace context of the writer.
    pub traceparent: Option<String>,
    /// The encoded message.
    pub body: Vec<u8>,
}

/// Why a message was not, or perhaps not, taken by a queue.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue of that name: the broker acknowledged and returned it.
    #[error("no queue takes this topic")]
    Unroutable,
    /// The broker refused it.
    #[error("the broker refused the message")]
    Refused,
    /// The exchange for outbound events is not there, or this service may not write to it.
    #[error("the exchange does not take it: {0}")]
    Exchange(#[source] lapin::Error),
    /// Nobody knows; it is sent again.
    #[error("no confirm in time")]
    Unconfirmed,
    /// There is no usable connection.
    #[error("no connection to the broker")]
    Disconnected,
    /// The connection failed while sending.
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
}

impl PublishError {
    /// Whether the message itself is at fault, rather than the connection.
    pub fn concerns_message(&self) -> bool {
        matches!(self, Self::Unroutable | Self::Refused | Self::Exchange(_))
    }
}

#[derive(Clone)]
enum Line {
    Down,
    Blocked,
    Open(Arc<Channels>),
}

/// The broker closes a channel that publishes to an exchange which is not there or not permitted, and nobody learns what
/// became of the rest that was on its way. So what leaves for others has a channel of its own.
struct Channels {
    queues: Channel,
    outbound: Channel,
}

/// Sends messages over a connection of its own, which is rebuilt whenever it is lost.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

struct Inner {
    line: watch::Sender<Line>,
    window: Semaphore,
    broken: Notify,
    state: LinkState,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("state", &self.inner.state).finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher that connects once [`Publisher::run`] is polled; `name` is shown to broker operators.
    pub fn new(name: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                line: watch::Sender::new(Line::Down),
                window: Semaphore::new(WINDOW),
                broken: Notify::new(),
                state: LinkState::new(format!("{name} publish")),
            }),
        }
    }

    pub(crate) fn state(&self) -> LinkState {
        self.inner.state.clone()
    }

    /// Keeps the connection until asked to stop.
    pub async fn run(self, config: BrokerConfig, stop: CancellationToken) -> anyhow::Result<()> {
        link::supervise(&config, &self.inner.state, &stop, |connection| {
            let (publisher, stop) = (self.clone(), stop.clone());
            async move {
                let ended = publisher.session(connection, &stop).await;
                publisher.inner.line.send_replace(Line::Down);
                metrics::gauge!("parapet_amqp_blocked").set(0.0);
                ended
            }
        })
        .await;
        Ok(())
    }

    async fn session(&self, connection: Connection, stop: &CancellationToken) -> Result<(), BrokerError> {
        let mut events = std::pin::pin!(connection.events_listener());
        let (queues, outbound) = (confirming(&connection).await?, confirming(&connection).await?);
        let mut channels = Arc::new(Channels { queues, outbound });
        self.inner.line.send_replace(Line::Open(Arc::clone(&channels)));
        self.inner.state.up();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(reason, "the broker blocks publishing");
                        metrics::gauge!("parapet_amqp_blocked").set(1.0);
                        self.inner.line.send_replace(Line::Blocked);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes messages again");
                        metrics::gauge!("parapet_amqp_blocked").set(0.0);
                        self.inner.line.send_replace(Line::Open(Arc::clone(&channels)));
                    }
                    // A soft error concerns one channel, which is looked for below.
                    Some(Event::Error(error)) if !error.is_amqp_soft_error() => return Err(error.into()),
                    Some(_) => {}
                    None => return Err(BrokerError::Ended("the connection was closed")),
                },
                _ = tokio::time::timeout(Duration::from_secs(1), self.inner.broken.notified()) => {}
            }
            if !channels.queues.status().connected() || !connection.status().connected() {
                return Err(BrokerError::Ended("the publishing channel was closed"));
            }
            if !channels.outbound.status().connected() {
                let (queues, outbound) = (channels.queues.clone(), confirming(&connection).await?);
                channels = Arc::new(Channels { queues, outbound });
                self.inner.line.send_if_modified(|line| {
                    let open = matches!(line, Line::Open(_));
                    if open {
                        *line = Line::Open(Arc::clone(&channels));
                    }
                    open
                });
            }
        }
        // What is on its way may still be confirmed; whatever is not is sent again at the next start.
        let window = u32::try_from(WINDOW).unwrap_or(u32::MAX);
        let _drained =
            tokio::time::timeout(Duration::from_secs(5), self.inner.window.acquire_many(window)).await;
        answered(connection.close(200, "stopping".into())).await?;
        Ok(())
    }

    /// Returns when the broker takes messages.
    pub async fn ready(&self) {
        let mut line = self.inner.line.subscribe();
        // The sender lives as long as `self`, so waiting ends only by the condition.
        let _open = line.wait_for(|line| matches!(line, Line::Open(_))).await;
    }

    /// Sends one message; `Ok` means that a queue holds it, and of an outbound event that every queue bound to it does.
    pub async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let _permit = self.inner.window.acquire().await.map_err(|_| PublishError::Disconnected)?;
        let line = self.inner.line.borrow().clone();
        let Line::Open(channels) = line else {
            return Err(PublishError::Disconnected);
        };
        let result = match message.to {
            Destination::Queue(_) => confirmed(&channels.queues, message).await,
            Destination::Outbound(_) => match confirmed(&channels.outbound, message).await {
                Err(PublishError::Amqp(error)) if error.is_amqp_soft_error() => {
                    Err(PublishError::Exchange(error))
                }
                result => result,
            },
        };
        if let Err(PublishError::Amqp(_) | PublishError::Exchange(_) | PublishError::Unconfirmed) = &result {
            self.inner.broken.notify_one();
        }
        result
    }
}

async fn confirming(connection: &Connection) -> Result<Channel, BrokerError> {
    let channel = answered(connection.create_channel()).await?;
    answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

async fn confirmed(channel: &Channel, message: Message) -> Result<(), PublishError> {
    const PERSISTENT: u8 = 2;
    let mut headers = FieldTable::default();
    if let Some(tenant) = message.tenant {
        headers.insert(TENANT.into(), AMQPValue::LongString(tenant.to_string().into()));
    }
    if let Some(traceparent) = message.traceparent {
        headers.insert(TRACEPARENT.into(), AMQPValue::LongString(traceparent.into()));
    }
    let properties = BasicProperties::default()
        .with_message_id(message.id.to_string().into())
        .with_content_type(message.to.content_type().into())
        .with_delivery_mode(PERSISTENT)
        .with_headers(headers);
    let confirmed = async {
        let (exchange, key) = (message.to.exchange().into(), message.to.routing_key().into());
        let options = BasicPublishOptions { mandatory: message.to.must_route(), immediate: false };
        let sent = channel.basic_publish(exchange, key, options, &message.body, properties).await?;
        sent.await
    };
    // INVARIANT: only Ack(None) is success. An unroutable message that must route is acknowledged too, and returned.
    match tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(()),
        Ok(Ok(Confirmation::Ack(Some(_)))) => Err(PublishError::Unroutable),
        Ok(Ok(Confirmation::Nack(_))) => Err(PublishError::Refused),
        Ok(Ok(Confirmation::NotRequested)) | Err(_) => Err(PublishError::Unconfirmed),
        Ok(Err(error)) => Err(error.into()),
    }
}
