//! Audit events: who did what to what, when, with which outcome. Written to the actor's own outbox, in the
//! transaction that decides or settles the deed; `audit-writer` chains them.

pub mod catalogue;

use std::collections::BTreeMap;

use time::OffsetDateTime;

use self::catalogue::Class;
pub use self::catalogue::{EventType, names};
use crate::{
    db::{StoreError, Tx},
    id::{CauseId, EventId, IntegrationId, TenantId},
    outbox::{self, Topic},
    wire::events,
};

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person, by the token's subject.
    Person {
        /// The token's subject.
        id: String,
        /// Name for display.
        name: String,
    },
    /// A program of the customer's, by its own credentials: a token without a person, or a client certificate.
    Client {
        /// The caller's id, with [`SERVICE_PREFIX`].
        id: String,
        /// Name for display.
        name: String,
    },
    /// One of our services, of its own accord.
    Service(&'static str),
    /// A rule somebody switched on, for example automated mitigation.
    Rule(&'static str),
}

/// Stands for a secret's value.
const CHANGED: &str = "changed";

/// Begins the id of every caller that is no person, wherever ids of callers are kept; no person's id begins with it.
pub const SERVICE_PREFIX: &str = "service:";

impl Actor {
    /// A caller, by the id and name that rows and messages keep of it.
    pub fn caller(id: &str, name: &str) -> Self {
        let (id, name) = (id.to_owned(), name.to_owned());
        if id.starts_with(SERVICE_PREFIX) { Self::Client { id, name } } else { Self::Person { id, name } }
    }
}

/// What became of the deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is about to happen: committed before the effect.
    Intent,
    /// It happened.
    Success,
    /// It did not happen.
    Failure,
    /// It was not allowed.
    Refused,
    /// Nobody knows whether it happened.
    Unknown,
    /// Nothing was to happen; worth knowing.
    Info,
}

impl Outcome {
    /// The name in messages and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Info => "info",
        }
    }
}

/// One event, before it has an id and a time. Nothing in it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Tenant; None for the installation's own chain.
    pub tenant: Option<TenantId>,
    /// Its entry in the catalogue.
    pub kind: &'static EventType,
    /// Who.
    pub actor: Actor,
    /// What became of it.
    pub outcome: Outcome,
    /// The event or request that led here.
    pub cause: Option<CauseId>,
    /// The integration concerned.
    pub integration: Option<IntegrationId>,
    /// Kind and id of the object concerned.
    pub object: Option<(&'static str, String)>,
    /// Object id and sign-in name of the directory user concerned.
    pub user: Option<(String, String)>,
    /// One sentence for a person.
    pub message: String,
    /// Further facts by name.
    pub details: BTreeMap<String, String>,
}

impl Event {
    /// An event with nothing but the essentials.
    pub fn new(
        tenant: Option<TenantId>,
        kind: &'static EventType,
        actor: Actor,
        outcome: Outcome,
        message: impl Into<String>,
    ) -> Self {
        Self {
            tenant,
            kind,
            actor,
            outcome,
            cause: None,
            integration: None,
            object: None,
            user: None,
            message: message.into(),
            details: BTreeMap::new(),
        }
    }

    /// What led here.
    #[must_use]
    pub fn cause(mut self, cause: CauseId) -> Self {
        self.cause = Some(cause);
        self
    }

    /// The integration concerned.
    #[must_use]
    pub fn integration(mut self, integration: IntegrationId) -> Self {
        self.integration = Some(integration);
        self
    }

    /// The object concerned.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "ids and numbers are passed as they are")]
    pub fn object(mut self, kind: &'static str, id: impl ToString) -> Self {
        self.object = Some((kind, id.to_string()));
        self
    }

    /// The directory user concerned.
    #[must_use]
    pub fn user(mut self, object_id: impl Into<String>, name: impl Into<String>) -> Self {
        self.user = Some((object_id.into(), name.into()));
        self
    }

    /// A further fact, which the event's entry declares. Of a secret, only that it changed.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "ids and numbers are passed as they are")]
    pub fn detail(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        let name = name.into();
        let secret = self.kind.detail(&name).is_some_and(|detail| detail.class == Class::Secret);
        let value = if secret { CHANGED.to_owned() } else { value.to_string() };
        self.details.insert(name, value);
        self
    }

    /// The message that carries the event to `audit-writer`.
    ///
    /// What the event's entry does not declare is refused by debug builds. Otherwise it is counted and kept: an event is
    /// never lost for it.
    pub fn to_message(&self, event_id: EventId, occurred_at: OffsetDateTime) -> events::AuditRecorded {
        if let Some(undeclared) = self.kind.undeclared(self) {
            debug_assert!(false, "the catalogue's entry {} does not declare {undeclared}", self.kind.name);
            metrics::counter!("parapet_audit_undeclared_total", "type" => self.kind.name).increment(1);
        }
        let (kind, id, name) = match &self.actor {
            Actor::Person { id, name } => ("person", id.as_str(), name.as_str()),
            Actor::Client { id, name } => ("service", id.as_str(), name.as_str()),
            Actor::Service(name) => ("service", *name, ""),
            Actor::Rule(name) => ("rule", *name, ""),
        };
        let (object_kind, object_id) = self.object.clone().unzip();
        let (user_object_id, user_name) = self.user.clone().unzip();
        events::AuditRecorded {
            event_id: event_id.to_string(),
            tenant_id: self.tenant.map(|t| t.to_string()).unwrap_or_default(),
            occurred_at: Some(prost_types::Timestamp {
                seconds: occurred_at.unix_timestamp(),
                nanos: i32::try_from(occurred_at.nanosecond()).unwrap_or_default(),
            }),
            r#type: self.kind.name.to_owned(),
            actor: Some(events::Actor { kind: kind.to_owned(), id: id.to_owned(), name: name.to_owned() }),
            outcome: self.outcome.as_str().to_owned(),
            cause_id: self.cause.map(|c| c.to_string()).unwrap_or_default(),
            integration_id: self.integration.map(|i| i.to_string()).unwrap_or_default(),
            object_kind: object_kind.unwrap_or_default().to_owned(),
            object_id: object_id.unwrap_or_default(),
            user_object_id: user_object_id.unwrap_or_default(),
            user_name: user_name.unwrap_or_default(),
            message: self.message.clone(),
            details: self.details.clone().into_iter().collect(),
        }
    }
}

/// Records an event in this transaction, at the database's time.
pub async fn record(tx: &mut Tx, event: &Event) -> Result<EventId, StoreError> {
    let id = EventId::new();
    let now = tx.clock().await?;
    outbox::enqueue(tx, Topic::AuditRecorded, event.tenant, &event.to_message(id, now)).await?;
    Ok(id)
}

/// Records many events in this transaction.
pub async fn record_many(tx: &mut Tx, events: &[Event]) -> Result<(), StoreError> {
    for event in events {
        record(tx, event).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_a_person_is_a_service_wherever_its_id_is_kept() {
        let told = |id: &str| {
            let event =
                Event::new(None, names::ROLE_REFUSED, Actor::caller(id, "Feeds"), Outcome::Refused, "");
            event.to_message(EventId::new(), OffsetDateTime::UNIX_EPOCH).actor.unwrap()
        };
        assert_eq!(told("service:feeds").kind, "service");
        assert_eq!(told("feeds").kind, "person");
    }

    #[test]
    fn an_event_carries_everything_it_was_given() {
        let (tenant, cause, integration, id) =
            (TenantId::new(), CauseId::new(), IntegrationId::new(), EventId::new());
        let actor = Actor::Person { id: "sub".into(), name: "Ann".into() };
        let message = Event::new(Some(tenant), names::MITIGATION_VERIFIED, actor, Outcome::Success, "seen")
            .cause(cause)
            .integration(integration)
            .object("mitigation", integration)
            .user("object", "ann@example.com")
            .detail("state", "verified")
            .to_message(id, OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1500));
        assert_eq!(message.event_id, id.to_string());
        assert_eq!(message.tenant_id, tenant.to_string());
        assert_eq!(message.occurred_at.unwrap().nanos, 500_000_000);
        assert_eq!((message.r#type.as_str(), message.outcome.as_str()), ("mitigation.verified", "success"));
        assert_eq!(message.actor.unwrap().name, "Ann");
        assert_eq!(message.cause_id, cause.to_string());
        assert_eq!(
            (message.object_kind.as_str(), message.object_id),
            ("mitigation", integration.to_string())
        );
        assert_eq!(message.user_object_id, "object");
        assert_eq!(message.details["state"], "verified");
    }
}
