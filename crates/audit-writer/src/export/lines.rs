//! The lines of an NDJSON export, and how to read them again: an export can be verified without the database.
//!
//! The first line names the chain (`"line": "chain"`), the last one says how many events there are (`"line": "end"`).
//! Between them stand events with everything that their hash covers, and after the last event that it covers each
//! signed checkpoint. Times are RFC 3339 with microseconds, hashes, keys and signatures are hex.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    chain::{self, Chain, Hash, Link},
    checkpoint,
};

/// The construction of the hashes.
const CONSTRUCTION: &str = "parapet-audit-1";

/// A line. A field that is not known is refused: no hash would cover it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first.
    Chain(Head),
    /// An event.
    Event(Box<Event>),
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// The last.
    End(End),
}

/// Which chain.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Construction of the hashes.
    pub construction: String,
    /// The tenant, or the nil UUID for the installation.
    pub tenant_id: Uuid,
    /// Place of the first event in the export.
    pub first: i64,
}

/// An event at its place.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    sequence: i64,
    id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    stored_at: OffsetDateTime,
    r#type: String,
    actor_kind: String,
    actor_id: String,
    actor_name: String,
    outcome: String,
    cause_id: Option<Uuid>,
    integration_id: Option<Uuid>,
    object_kind: String,
    object_id: String,
    user_object_id: String,
    user_name: String,
    message: String,
    details: BTreeMap<String, String>,
    #[serde(with = "in_hex")]
    previous_hash: [u8; 32],
    #[serde(with = "in_hex")]
    hash: [u8; 32],
}

/// A signed statement of how far the chain had come.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    sequence: i64,
    #[serde(with = "in_hex")]
    event_hash: [u8; 32],
    #[serde(with = "time::serde::rfc3339")]
    signed_at: OffsetDateTime,
    #[serde(with = "in_hex")]
    previous_hash: [u8; 32],
    #[serde(with = "in_hex")]
    hash: [u8; 32],
    #[serde(with = "in_hex")]
    public_key: Vec<u8>,
    #[serde(with = "in_hex")]
    signature: Vec<u8>,
}

/// What the export has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Events.
    pub events: i64,
    /// Place of the last one.
    pub last: i64,
    /// Its hash.
    #[serde(with = "in_hex")]
    pub hash: [u8; 32],
}

impl Event {
    /// As a link of the chain.
    pub fn link(self) -> Link {
        Link {
            event: chain::Event {
                event_id: self.id,
                occurred_at: self.occurred_at,
                kind: self.r#type,
                actor_kind: self.actor_kind,
                actor_id: self.actor_id,
                actor_name: self.actor_name,
                outcome: self.outcome,
                cause_id: self.cause_id,
                integration_id: self.integration_id,
                object_kind: self.object_kind,
                object_id: self.object_id,
                user_object_id: self.user_object_id,
                user_name: self.user_name,
                message: self.message,
                details: self.details,
            },
            sequence: self.sequence,
            stored_at: self.stored_at,
            previous: Hash(self.previous_hash),
            hash: Hash(self.hash),
        }
    }
}

impl Checkpoint {
    /// As it was signed.
    pub fn checkpoint(self) -> checkpoint::Checkpoint {
        checkpoint::Checkpoint {
            sequence: self.sequence,
            event_hash: Hash(self.event_hash),
            signed_at: self.signed_at,
            previous: Hash(self.previous_hash),
            hash: Hash(self.hash),
            public_key: self.public_key,
            signature: self.signature,
        }
    }
}

pub(super) fn head(chain: Chain, first: i64) -> String {
    let construction = CONSTRUCTION.to_owned();
    line(&Line::Chain(Head { construction, tenant_id: chain.uuid(), first }))
}

impl Head {
    /// Whether this build can derive its hashes.
    pub fn is_known(&self) -> bool {
        self.construction == CONSTRUCTION
    }
}

pub(super) fn event(link: &Link) -> String {
    let Link { event, sequence, stored_at, previous, hash } = link;
    let event = event.clone();
    line(&Line::Event(Box::new(Event {
        sequence: *sequence,
        id: event.event_id,
        occurred_at: event.occurred_at,
        stored_at: *stored_at,
        r#type: event.kind,
        actor_kind: event.actor_kind,
        actor_id: event.actor_id,
        actor_name: event.actor_name,
        outcome: event.outcome,
        cause_id: event.cause_id,
        integration_id: event.integration_id,
        object_kind: event.object_kind,
        object_id: event.object_id,
        user_object_id: event.user_object_id,
        user_name: event.user_name,
        message: event.message,
        details: event.details,
        previous_hash: previous.0,
        hash: hash.0,
    })))
}

pub(super) fn checkpoint(of: &checkpoint::Checkpoint) -> String {
    line(&Line::Checkpoint(Checkpoint {
        sequence: of.sequence,
        event_hash: of.event_hash.0,
        signed_at: of.signed_at,
        previous_hash: of.previous.0,
        hash: of.hash.0,
        public_key: of.public_key.clone(),
        signature: of.signature.clone(),
    }))
}

pub(super) fn end(events: i64, last: i64, hash: Hash) -> String {
    line(&Line::End(End { events, last, hash: hash.0 }))
}

fn line(of: &Line) -> String {
    // Nothing here has a key that is no text, or a number that is none: it always can be written.
    let mut text = serde_json::to_string(of).unwrap_or_default();
    text.push('\n');
    text
}

mod in_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, T: TryFrom<Vec<u8>>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let bytes = hex::decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        T::try_from(bytes).map_err(|_| D::Error::custom("hex of another length is expected"))
    }
}
