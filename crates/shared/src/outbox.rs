//! Messages are written here, in the transaction that decided them; [`crate::relay`] sends them afterwards.

use std::fmt;

use prost::Message;

use crate::{
    db::{StoreError, Tx, outgoing::Outgoing},
    id::{MessageId, TenantId},
    service::telemetry,
    verdict::names,
};

/// Largest message, as the consumer refuses a larger one.
pub const MAX_BODY: usize = 64 * 1024;

macro_rules! topics {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal;)+) => {
        /// What a message is about: the name of its queue, and the one message type that travels there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Topic { $($(#[doc = $doc])+ $variant,)+ }

        impl Topic {
            /// Every topic.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The name of the queue.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
            /// The AMQP content type of its messages, version included; a consumer refuses any other.
            pub const fn content_type(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("application/x-protobuf; type=parapet.events.v1.", stringify!($variant)),)+
                }
            }
        }
    };
}

topics! {
    /// A worker saw how an integration behaves.
    IntegrationObserved => "integration.observed";
    /// Bring an integration's accounts up to date.
    SyncRequested => "sync.requested";
    /// A batch of feed records waits to be matched.
    FeedBatchReceived => "feed.batch_received";
    /// Identifiers were created.
    IdentifiersChanged => "identifiers.changed";
    /// State, sign-in name or password date of accounts changed.
    AccountsChanged => "accounts.changed";
    /// Somebody wants exposures validated.
    ValidationRequested => "validation.requested";
    /// An exposure's turn has come.
    ValidationDue => "validation.due";
    /// Somebody wants accounts contained.
    MitigationRequested => "mitigation.requested";
    /// A mitigation's turn has come.
    MitigationDue => "mitigation.due";
    /// An audit event waits to be chained.
    AuditRecorded => "audit.recorded";
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The exchange through which events leave for the customer's own systems: durable, of type `topic`.
pub const OUTBOUND_EXCHANGE: &str = "parapet.outbound";

names! {
    /// An event for the customer's own systems; its name is the routing key that they bind with. [`crate::outbound`] has
    /// what it carries.
    Outbound {
        /// A leaked password was proven to work.
        ValidCredential = "valid_credential",
        /// A leaked password was proven wrong.
        InvalidCredential = "invalid_credential",
        /// An account is contained.
        MitigatedCredential = "mitigated_credential",
    }
}

/// Where a message goes. Its text is what the outbox's column `topic` holds: the name of the queue, or `exchange/event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The queue of this topic, which must take it.
    Queue(Topic),
    /// The queues that others bound to [`OUTBOUND_EXCHANGE`]; nobody's, while none is bound.
    Outbound(Outbound),
}

impl Destination {
    /// The exchange; the default one is empty, and knows every queue by its name.
    pub const fn exchange(self) -> &'static str {
        match self {
            Self::Queue(_) => "",
            Self::Outbound(_) => OUTBOUND_EXCHANGE,
        }
    }
    /// The routing key.
    pub const fn routing_key(self) -> &'static str {
        match self {
            Self::Queue(topic) => topic.as_str(),
            Self::Outbound(event) => event.as_str(),
        }
    }
    /// The AMQP content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Queue(topic) => topic.content_type(),
            Self::Outbound(_) => "application/cloudevents+json",
        }
    }
    /// Whether it counts as sent only when a queue took it (AMQP's `mandatory`).
    pub const fn must_route(self) -> bool {
        matches!(self, Self::Queue(_))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(topic) => topic.fmt(f),
            Self::Outbound(event) => write!(f, "{OUTBOUND_EXCHANGE}/{}", event.as_str()),
        }
    }
}

/// The text is no destination, or one that only a newer version knows.
#[derive(Debug, thiserror::Error)]
#[error("unknown destination")]
pub struct UnknownDestination;

impl std::str::FromStr for Destination {
    type Err = UnknownDestination;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = match text.split_once('/') {
            Some((OUTBOUND_EXCHANGE, event)) => Outbound::parse(event).map(Self::Outbound),
            _ => Topic::ALL.iter().find(|topic| topic.as_str() == text).map(|topic| Self::Queue(*topic)),
        };
        known.ok_or(UnknownDestination)
    }
}

/// Writes a message that is sent if, and only if, the transaction commits.
pub async fn enqueue<M: Message>(
    tx: &mut Tx,
    topic: Topic,
    tenant: Option<TenantId>,
    message: &M,
) -> Result<MessageId, StoreError> {
    let id = MessageId::new();
    write(tx, Destination::Queue(topic), id, tenant, message.encode_to_vec()).await?;
    Ok(id)
}

/// Writes many messages of one topic and tenant.
pub async fn enqueue_many<M: Message>(
    tx: &mut Tx,
    topic: Topic,
    tenant: Option<TenantId>,
    messages: &[M],
) -> Result<(), StoreError> {
    for message in messages {
        enqueue(tx, topic, tenant, message).await?;
    }
    Ok(())
}

/// Writes a message that is encoded already.
pub async fn enqueue_encoded(
    tx: &mut Tx,
    topic: Topic,
    tenant: Option<TenantId>,
    body: Vec<u8>,
) -> Result<(), StoreError> {
    write(tx, Destination::Queue(topic), MessageId::new(), tenant, body).await
}

/// Writes one message under an id that its body may name.
pub(crate) async fn write(
    tx: &mut Tx,
    to: Destination,
    id: MessageId,
    tenant: Option<TenantId>,
    body: Vec<u8>,
) -> Result<(), StoreError> {
    if body.len() > MAX_BODY {
        return Err(StoreError::Corrupt(format!("a message to {to} is larger than {MAX_BODY} bytes")));
    }
    let traceparent = telemetry::current_traceparent();
    let (id, tenant) = (id.uuid(), tenant.map(TenantId::uuid));
    tx.send(Outgoing { id, tenant, topic: to.to_string(), body, traceparent }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_its_message_type() {
        assert_eq!(
            Topic::SyncRequested.content_type(),
            "application/x-protobuf; type=parapet.events.v1.SyncRequested"
        );
    }

    #[test]
    fn every_destination_is_found_again_by_what_the_outbox_holds() {
        let queues = Topic::ALL.iter().map(|topic| Destination::Queue(*topic));
        let outbound = Outbound::ALL.iter().map(|event| Destination::Outbound(*event));
        for destination in queues.chain(outbound) {
            assert_eq!(destination.to_string().parse::<Destination>().unwrap(), destination);
        }
        assert_eq!(Destination::Queue(Topic::FeedBatchReceived).to_string(), "feed.batch_received");
        for unknown in
            ["", "nothing", "valid_credential", "parapet.outbound", "parapet.outbound/later", "a/b"]
        {
            assert!(unknown.parse::<Destination>().is_err(), "{unknown}");
        }
    }
}
