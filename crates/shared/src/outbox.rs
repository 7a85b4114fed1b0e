//! Messages are written here, in the transaction that decided them; [`crate::relay`] sends them afterwards.

use std::fmt;

use prost::Message;
use uuid::Uuid;

use crate::{
    db::{StoreError, Tx},
    id::{MessageId, TenantId},
    service::telemetry,
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

/// The text is no topic.
#[derive(Debug, thiserror::Error)]
#[error("unknown topic")]
pub struct UnknownTopic;

impl std::str::FromStr for Topic {
    type Err = UnknownTopic;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|t| t.as_str() == text).ok_or(UnknownTopic)
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
    insert(tx, topic, &[id.uuid()], &[tenant.map(TenantId::uuid)], &[message.encode_to_vec()]).await?;
    Ok(id)
}

/// Writes many messages of one topic and tenant in one statement.
pub async fn enqueue_many<M: Message>(
    tx: &mut Tx,
    topic: Topic,
    tenant: Option<TenantId>,
    messages: &[M],
) -> Result<(), StoreError> {
    let bodies: Vec<_> = messages.iter().map(Message::encode_to_vec).collect();
    enqueue_bodies(tx, topic, &vec![tenant; bodies.len()], &bodies).await
}

/// Writes messages that are encoded already, each for its own tenant.
pub async fn enqueue_bodies(
    tx: &mut Tx,
    topic: Topic,
    tenants: &[Option<TenantId>],
    bodies: &[Vec<u8>],
) -> Result<(), StoreError> {
    let ids: Vec<_> = bodies.iter().map(|_| MessageId::new().uuid()).collect();
    let tenants: Vec<_> = tenants.iter().map(|t| t.map(TenantId::uuid)).collect();
    insert(tx, topic, &ids, &tenants, bodies).await
}

async fn insert(
    tx: &mut Tx,
    topic: Topic,
    ids: &[Uuid],
    tenants: &[Option<Uuid>],
    bodies: &[Vec<u8>],
) -> Result<(), StoreError> {
    if bodies.iter().any(|b| b.len() > MAX_BODY) {
        return Err(StoreError::Corrupt(format!(
            "a message of topic {topic} is larger than {MAX_BODY} bytes"
        )));
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO outbox (id, tenant_id, body, topic, traceparent)
         SELECT m.id, m.tenant_id, m.body, $4, $5
         FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS m (id, tenant_id, body)",
    )
    .bind(ids)
    .bind(tenants)
    .bind(bodies)
    .bind(topic.as_str())
    .bind(telemetry::current_traceparent())
    .execute(&mut **tx)
    .await?;
    tx.wrote_messages();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_known_by_its_queue_and_names_its_message_type() {
        assert_eq!("feed.batch_received".parse::<Topic>().unwrap(), Topic::FeedBatchReceived);
        assert_eq!(
            Topic::SyncRequested.content_type(),
            "application/x-protobuf; type=parapet.events.v1.SyncRequested"
        );
        assert!("nothing".parse::<Topic>().is_err());
    }
}
