//! A message as a handler sees it, and the checks it passed before.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use lapin::{message, types::AMQPValue};
use time::OffsetDateTime;

use super::{
    HandlerError,
    publisher::{TENANT, TRACEPARENT},
};
use crate::{
    db::{StoreError, Tx},
    id::{MessageId, TenantId},
    inbox::{self, Parked},
    outbox::{MAX_BODY, Topic},
};

/// One message of a topic.
#[derive(Debug)]
pub struct Delivery {
    /// The message's id: the same for every delivery of it.
    pub message_id: MessageId,
    /// Its topic.
    pub topic: Topic,
    /// Tenant it belongs to, as its writer said.
    pub tenant: Option<TenantId>,
    /// How often it was tried, this try included.
    pub tries: i32,
    /// When it came from the broker.
    pub received: Instant,
    pub(super) content_type: Option<String>,
    pub(super) traceparent: Option<String>,
    body: Vec<u8>,
    settled: AtomicBool,
}

impl Delivery {
    /// Takes a message from the broker apart. The second value says why it must be parked unread, if it must.
    pub(super) fn read(
        topic: Topic,
        raw: &message::Delivery,
        now: OffsetDateTime,
    ) -> (Self, Option<&'static str>) {
        let properties = &raw.properties;
        let header = |name: &str| {
            properties.headers().as_ref().and_then(|h| h.inner().get(name)).and_then(|value| match value {
                AMQPValue::LongString(text) => Some(storable(&text.to_string())),
                _ => None,
            })
        };
        let message_id =
            properties.message_id().as_ref().and_then(|id| id.as_str().parse::<MessageId>().ok());
        let tenant = header(TENANT).map(|text| text.parse::<TenantId>());
        let content_type = properties.content_type().as_ref().map(|t| storable(t.as_str()));
        let refused = if raw.data.len() > MAX_BODY {
            Some("the message is larger than 64 KiB")
        } else if content_type.as_deref() != Some(topic.content_type()) {
            Some("the content type is not the one of this topic")
        } else if matches!(tenant, Some(Err(_))) {
            Some("the tenant header is not an id")
        } else if let Some(id) = message_id {
            inbox::refused_by_age(id, now)
        } else {
            Some("the message has no id")
        };
        let delivery = Self {
            // A message without an id is parked under a new one.
            message_id: message_id.unwrap_or_else(MessageId::new),
            topic,
            tenant: tenant.and_then(Result::ok),
            tries: 0,
            received: Instant::now(),
            content_type,
            traceparent: header(TRACEPARENT),
            body: raw.data.iter().take(MAX_BODY).copied().collect(),
            settled: AtomicBool::new(false),
        };
        (delivery, refused)
    }

    /// Reads the message; one that cannot be read is poison.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, HandlerError> {
        M::decode(self.body.as_slice()).map_err(|error| HandlerError::Poison(format!("unreadable: {error}")))
    }

    /// Marks the message done in the transaction that holds its effect. `false`: its effect is committed already,
    /// by another replica; roll back and return [`super::Outcome::Done`]. Cheapest as the last thing before the commit: what
    /// the transaction sends is written along.
    pub async fn done(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        let first = inbox::done_one(tx, self.topic, self.message_id).await?;
        self.settled.store(true, Ordering::Relaxed);
        Ok(first)
    }

    pub(super) fn next_try(&mut self, tries: i32) {
        self.tries = tries;
        self.settled.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    pub(super) fn parked<'a>(&'a self, reason: &'a str) -> Parked<'a> {
        Parked {
            topic: self.topic,
            message_id: self.message_id,
            tenant: self.tenant,
            content_type: self.content_type.as_deref(),
            traceparent: self.traceparent.as_deref(),
            body: &self.body,
            reason,
            tries: self.tries,
        }
    }
}

// Whoever can reach the broker writes these; PostgreSQL has no text with NUL, and a row no room for more.
fn storable(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(256).collect()
}

/// Marks a batch done, as the first statement of the transaction that holds its effect. Only the returned messages
/// may be worked on: the effects of the others are committed already, by another replica.
pub async fn done_many<'a>(tx: &mut Tx, batch: &'a [Delivery]) -> Result<Vec<&'a Delivery>, StoreError> {
    let Some(first) = batch.first() else {
        return Ok(Vec::new());
    };
    let ids: Vec<_> = batch.iter().map(|d| d.message_id).collect();
    let fresh = inbox::done(tx, first.topic, &ids).await?;
    for delivery in batch {
        delivery.settled.store(true, Ordering::Relaxed);
    }
    Ok(batch.iter().filter(|d| fresh.contains(&d.message_id)).collect())
}
