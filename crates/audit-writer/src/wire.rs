//! Between messages and the domain: what an `AuditRecorded` must look like to be chained.

use shared::{queue::HandlerError, wire::events};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::chain::{Chain, Event, whole_micros};

const ACTORS: [&str; 3] = ["person", "service", "rule"];
const OUTCOMES: [&str; 6] = ["intent", "success", "failure", "refused", "unknown", "info"];

/// Reads a message; one that cannot be read is parked, never half stored.
pub(crate) fn read(message: events::AuditRecorded) -> Result<(Chain, Event), HandlerError> {
    let events::AuditRecorded {
        event_id,
        tenant_id,
        occurred_at,
        r#type,
        actor,
        outcome,
        cause_id,
        integration_id,
        object_kind,
        object_id,
        user_object_id,
        user_name,
        message,
        details,
    } = message;
    let events::Actor { kind: actor_kind, id: actor_id, name: actor_name } =
        actor.ok_or_else(|| field("actor"))?;
    if !ACTORS.contains(&actor_kind.as_str()) {
        return Err(field("actor.kind"));
    }
    if !OUTCOMES.contains(&outcome.as_str()) {
        return Err(field("outcome"));
    }
    if r#type.is_empty() {
        return Err(field("type"));
    }
    let chain = optional("tenant_id", &tenant_id)?.map_or(Chain::INSTALLATION, Chain::from);
    let event = Event {
        event_id: event_id.parse().map_err(|_| field("event_id"))?,
        occurred_at: occurred_at.and_then(instant).ok_or_else(|| field("occurred_at"))?,
        kind: storable(r#type),
        actor_kind,
        actor_id: storable(actor_id),
        actor_name: storable(actor_name),
        outcome,
        cause_id: optional("cause_id", &cause_id)?,
        integration_id: optional("integration_id", &integration_id)?,
        object_kind: storable(object_kind),
        object_id: storable(object_id),
        user_object_id: storable(user_object_id),
        user_name: storable(user_name),
        message: storable(message),
        details: details.into_iter().map(|(name, value)| (storable(name), storable(value))).collect(),
    };
    Ok((chain, event))
}

// PostgreSQL text cannot hold NUL; an event must not be lost for one.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

fn instant(at: prost_types::Timestamp) -> Option<OffsetDateTime> {
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().map(whole_micros)
}

fn optional(name: &'static str, text: &str) -> Result<Option<Uuid>, HandlerError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| field(name)) }
}

fn field(name: &'static str) -> HandlerError {
    HandlerError::Poison(format!("audit event: field {name} is missing or malformed"))
}

/// An instant on the wire.
pub(crate) fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or_default(),
    }
}

/// An instant from the wire.
pub(crate) fn from_timestamp(at: prost_types::Timestamp) -> Option<OffsetDateTime> {
    instant(at)
}
