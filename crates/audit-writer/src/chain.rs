//! How an event becomes a link of its chain. Pure: whoever has the rows can derive every hash again.
//!
//! ```text
//! hash = SHA-256( "parapet-audit-1" | tenant | sequence | stored_at | previous hash | event )
//! ```
//! Every part is written as its length (4 bytes, big endian) and its bytes. `tenant` is a UUID's 16 bytes, all zero
//! for the installation; `sequence` and the times (microseconds since 1970) are 8 bytes, big endian. The event is the
//! sequence of its fields, each written the same way: event id, time, type, actor kind, actor id, actor name, outcome,
//! cause id, integration id (16 bytes, or none), object kind, object id, user object id, user name, message, and then
//! the details, sorted by name: their number (8 bytes), and for each its name and its value.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest;
use shared::id::TenantId;
use time::OffsetDateTime;
use uuid::Uuid;

/// Names the hash's construction; another construction gets another name.
const DOMAIN: &[u8] = b"parapet-audit-1";

/// Which chain: a tenant's, or the installation's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chain(Uuid);

impl Chain {
    /// The chain of the installation.
    pub const INSTALLATION: Self = Self(Uuid::nil());

    /// The chain's key: the tenant's id, or the nil UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
    /// As the tenant of a transaction.
    pub const fn tenant(self) -> TenantId {
        TenantId(self.0)
    }
}

impl From<Uuid> for Chain {
    fn from(key: Uuid) -> Self {
        Self(key)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What stands before the first link.
    pub const ZERO: Self = Self([0; 32]);
    /// The hash in these bytes, if there are 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What happened, as its producer recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Id given by the producer.
    pub event_id: Uuid,
    /// When it happened, in whole microseconds.
    pub occurred_at: OffsetDateTime,
    /// Stable event type.
    pub kind: String,
    /// `person`, `service` or `rule`.
    pub actor_kind: String,
    /// Stable id of the actor.
    pub actor_id: String,
    /// The actor's name, may be empty.
    pub actor_name: String,
    /// `intent`, `success`, `failure`, `refused`, `unknown` or `info`.
    pub outcome: String,
    /// What it followed from.
    pub cause_id: Option<Uuid>,
    /// Integration concerned.
    pub integration_id: Option<Uuid>,
    /// Kind of the object concerned, may be empty.
    pub object_kind: String,
    /// Id of the object concerned, may be empty.
    pub object_id: String,
    /// The directory user's object id, may be empty.
    pub user_object_id: String,
    /// The directory user's sign-in name, may be empty.
    pub user_name: String,
    /// One sentence.
    pub message: String,
    /// Further facts.
    pub details: BTreeMap<String, String>,
}

/// An event at its place in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The event.
    pub event: Event,
    /// Position, from 1.
    pub sequence: i64,
    /// When it was stored, in whole microseconds.
    pub stored_at: OffsetDateTime,
    /// Hash of the link before it.
    pub previous: Hash,
    /// Hash of this link.
    pub hash: Hash,
}

impl Link {
    /// Puts an event at its place.
    pub fn new(chain: Chain, sequence: i64, stored_at: OffsetDateTime, previous: Hash, event: Event) -> Self {
        let hash = hash(chain, sequence, stored_at, previous, &event);
        Self { event, sequence, stored_at, previous, hash }
    }
    /// The hash that this link must have.
    pub fn derive(&self, chain: Chain) -> Hash {
        hash(chain, self.sequence, self.stored_at, self.previous, &self.event)
    }
}

fn hash(chain: Chain, sequence: i64, stored_at: OffsetDateTime, previous: Hash, event: &Event) -> Hash {
    // Destructured, so that a new field cannot be left out of the hash.
    let Event {
        event_id,
        occurred_at,
        kind,
        actor_kind,
        actor_id,
        actor_name,
        outcome,
        cause_id,
        integration_id,
        object_kind,
        object_id,
        user_object_id,
        user_name,
        message,
        details,
    } = event;
    let mut parts = Parts::new(DOMAIN);
    parts.push(chain.uuid().as_bytes());
    parts.push(&sequence.to_be_bytes());
    parts.push(&micros(stored_at).to_be_bytes());
    parts.push(&previous.0);
    parts.push(event_id.as_bytes());
    parts.push(&micros(*occurred_at).to_be_bytes());
    for text in [kind, actor_kind, actor_id, actor_name, outcome] {
        parts.push(text.as_bytes());
    }
    for id in [cause_id, integration_id] {
        parts.push(id.as_ref().map_or(&[], |id| id.as_bytes().as_slice()));
    }
    for text in [object_kind, object_id, user_object_id, user_name, message] {
        parts.push(text.as_bytes());
    }
    parts.push(&(details.len() as u64).to_be_bytes());
    for (name, value) in details {
        parts.push(name.as_bytes());
        parts.push(value.as_bytes());
    }
    parts.finish()
}

/// Hashes parts so that no two different sequences of parts give the same input.
pub(crate) struct Parts(digest::Context);

impl Parts {
    pub(crate) fn new(domain: &[u8]) -> Self {
        let mut parts = Self(digest::Context::new(&digest::SHA256));
        parts.push(domain);
        parts
    }
    pub(crate) fn push(&mut self, part: &[u8]) {
        // A part is at most a message of 64 KiB.
        self.0.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.update(part);
    }
    pub(crate) fn finish(self) -> Hash {
        let mut hash = Hash::ZERO;
        hash.0.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// Microseconds since 1970: the precision of the database.
pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX)
}

/// The instant in whole microseconds, as the database keeps it.
pub(crate) fn whole_micros(at: OffsetDateTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros(at)) * 1000).unwrap_or(at)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn event(message: &str) -> Event {
        Event {
            event_id: Uuid::from_u128(7),
            occurred_at: OffsetDateTime::UNIX_EPOCH,
            kind: "sync.finished".into(),
            actor_kind: "service".into(),
            actor_id: "identity-sync-worker".into(),
            actor_name: String::new(),
            outcome: "success".into(),
            cause_id: None,
            integration_id: Some(Uuid::from_u128(9)),
            object_kind: String::new(),
            object_id: String::new(),
            user_object_id: String::new(),
            user_name: String::new(),
            message: message.into(),
            details: BTreeMap::from([("accounts".into(), "5".into())]),
        }
    }

    #[test]
    fn the_hash_of_a_known_event_never_changes() {
        let link = Link::new(Chain::INSTALLATION, 1, OffsetDateTime::UNIX_EPOCH, Hash::ZERO, event("done"));
        assert_eq!(format!("{:?}", link.hash), KNOWN);
    }

    const KNOWN: &str = "b1fcc7f5975b161938377e307d329548abcf8ec3809d4638cfa88adc6a7f159f";

    #[test]
    fn text_moved_from_one_field_to_the_next_changes_the_hash() {
        let link =
            |event| Link::new(Chain::INSTALLATION, 1, OffsetDateTime::UNIX_EPOCH, Hash::ZERO, event).hash;
        let (mut one, mut two) = (event("done"), event("done"));
        (one.actor_id, one.actor_name) = ("ab".into(), "c".into());
        (two.actor_id, two.actor_name) = ("a".into(), "bc".into());
        assert_ne!(link(one), link(two));
    }

    proptest! {
        #[test]
        fn every_change_of_a_field_changes_the_hash(at in 0usize..12, text in "[a-z]{1,8}") {
            let base = Link::new(Chain::INSTALLATION, 3, OffsetDateTime::UNIX_EPOCH, Hash::ZERO, event("done"));
            let mut link = base.clone();
            match at {
                0 => link.event.kind.push_str(&text),
                1 => link.event.actor_kind.push_str(&text),
                2 => link.event.actor_id.push_str(&text),
                3 => link.event.actor_name.push_str(&text),
                4 => link.event.outcome.push_str(&text),
                5 => link.event.cause_id = Some(Uuid::from_u128(1)),
                6 => link.event.integration_id = None,
                7 => link.event.message.push_str(&text),
                8 => { link.event.details.insert(text, String::new()); }
                9 => link.sequence += 1,
                10 => link.stored_at += time::Duration::MICROSECOND,
                _ => link.previous = Hash([1; 32]),
            }
            prop_assert_ne!(link.derive(Chain::INSTALLATION), base.hash);
        }
    }
}
