//! What workers report about integrations; the status follows from it.

use async_trait::async_trait;
use shared::{
    audit::{self, Actor, Event, Outcome as Became, names},
    db::{Db, Tx},
    id::TenantId,
    provider::Capability,
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events::{CapabilityObservation, IntegrationObserved},
};
use time::OffsetDateTime;

use crate::{
    NAME,
    integration::{CapabilityState, Health, Integration, Status},
    store::{hub, integrations},
};

/// The service that looks at integrations from outside.
const LOOKS: &str = "identity-sync-worker";
/// Reasons of a refusal for want of a grant, as `shared::provider` names them.
const GRANTS: [&str; 4] = ["consent_missing", "role_missing", "licence_missing", "resource_set_empty"];

/// Takes in `integration.observed`.
#[derive(Clone, Debug)]
pub struct Observer {
    db: Db,
}

impl Observer {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl Handler for Observer {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let IntegrationObserved {
            tenant_id,
            integration_id,
            observer,
            observed_at,
            capabilities,
            directory_id,
            sync_ended: _, // the run itself is read from the sync worker's view
        } = delivery.decode()?;
        let poison = |what: &str| HandlerError::Poison(format!("{what} is missing or malformed"));
        let tenant: TenantId = tenant_id.parse().map_err(|_| poison("tenant_id"))?;
        let integration = integration_id.parse().map_err(|_| poison("integration_id"))?;
        let seen_at = observed_at.and_then(instant).ok_or_else(|| poison("observed_at"))?;
        let mut tx = self.db.tenant(tenant).await?;
        if !delivery.done(&mut tx).await? {
            tx.rollback().await?;
            return Ok(Outcome::Done);
        }
        // Deleted meanwhile: there is nothing left to know about it.
        if let Some(before) = integrations::lock(&mut tx, tenant, integration).await? {
            let mut after = before.clone();
            let stopped = hub::stopped(&mut tx, tenant, integration, before.directory_id.as_deref()).await?;
            for observation in capabilities {
                if let Some(health) = health(observation, seen_at).filter(|h| believed(h, &observer, stopped))
                {
                    after.observe(health);
                }
            }
            if after.directory_id.is_none() && seen_at >= after.connection_since {
                after.directory_id = Some(directory_id).filter(|d| !d.is_empty());
            }
            after.derive_status();
            store(&mut tx, tenant, &before, &after).await?;
        }
        tx.commit().await?;
        Ok(Outcome::Done)
    }
}

/// A look from outside does not take for working what the service itself has stopped: an address that is blocked, say,
/// shows only to who tries passwords.
fn believed(seen: &Health, observer: &str, (validation, mitigation): (bool, bool)) -> bool {
    let stopped = match seen.capability {
        Capability::Read => false,
        Capability::Validate => validation,
        Capability::RevokeSessions | Capability::DisableAccount | Capability::MarkCompromised => mitigation,
    };
    seen.state != CapabilityState::Working || observer != LOOKS || !stopped
}

async fn store(
    tx: &mut Tx,
    tenant: TenantId,
    before: &Integration,
    after: &Integration,
) -> Result<(), HandlerError> {
    if before == after {
        return Ok(());
    }
    integrations::set_health(tx, tenant, after.id, &after.health).await?;
    integrations::update(tx, tenant, after).await?;
    for event in changes(tenant, before, after) {
        audit::record(tx, &event).await?;
    }
    Ok(())
}

/// What a person wants to know: the status changed, or a capability was lost or came back.
fn changes(tenant: TenantId, before: &Integration, after: &Integration) -> Vec<Event> {
    let event = |kind, outcome, message: String| {
        Event::new(Some(tenant), kind, Actor::Service(NAME), outcome, message)
            .integration(after.id)
            .object("integration", after.id)
    };
    let mut events = Vec::new();
    if before.status != after.status {
        let (kind, outcome) = match after.status {
            Status::Error => (names::INTEGRATION_ERROR, Became::Failure),
            Status::Active if before.status == Status::Error => {
                (names::INTEGRATION_RECOVERED, Became::Success)
            }
            Status::Active | Status::Disabled => (names::INTEGRATION_STATUS_CHANGED, Became::Info),
        };
        events.push(
            event(kind, outcome, format!("integration {} is {}", after.name, after.status))
                .detail("before.status", before.status)
                .detail("after.status", after.status)
                .detail("reason", &after.status_reason),
        );
    }
    for health in after.health.iter().filter(|h| h.capability != Capability::Read) {
        let was = before.health_of(health.capability).map(|h| h.state);
        let (was_working, works) =
            (was == Some(CapabilityState::Working), health.state == CapabilityState::Working);
        if was.is_some() && was_working != works {
            let (kind, outcome, what) = if works {
                (names::INTEGRATION_CAPABILITY_RECOVERED, Became::Success, "works again")
            } else {
                (names::INTEGRATION_CAPABILITY_LOST, Became::Failure, "does not work any more")
            };
            events.push(
                event(
                    kind,
                    outcome,
                    format!("{} of integration {} {what}", health.capability.as_str(), after.name),
                )
                .detail("capability", health.capability.as_str())
                .detail("reason", &health.reason),
            );
        }
    }
    events
}

fn health(observation: CapabilityObservation, seen_at: OffsetDateTime) -> Option<Health> {
    let CapabilityObservation { capability, working, reason, message } = observation;
    let state = if working {
        CapabilityState::Working
    } else if GRANTS.contains(&reason.as_str()) {
        CapabilityState::NotGranted
    } else {
        CapabilityState::Failed
    };
    let capability = Capability::parse(&capability)?;
    Some(Health { capability, state, reason, message, since: seen_at, observed_at: seen_at })
}

fn instant(at: prost_types::Timestamp) -> Option<OffsetDateTime> {
    let whole = OffsetDateTime::from_unix_timestamp(at.seconds).ok()?;
    whole.replace_nanosecond(u32::try_from(at.nanos).ok()? / 1000 * 1000).ok()
}
