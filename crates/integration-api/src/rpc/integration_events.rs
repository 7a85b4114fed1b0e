//! What follows from a change of an integration: its events, its sync run, its health.

use shared::{
    audit::{self, Event, Outcome, names},
    db::Tx,
    id::{CauseId, IntegrationId, SyncRunId, TenantId},
    outbox::{self, Topic},
    provider::Capability,
    wire::{events::SyncRequested, internal::CapabilityResult},
};
use time::OffsetDateTime;

use super::edit;
use crate::{
    auth::Caller,
    error::ApiError,
    integration::{CapabilityState, Health, Integration},
};

/// Queues a sync run with its event.
pub(super) async fn request_sync(
    tx: &mut Tx,
    tenant: TenantId,
    caller: &Caller,
    integration: IntegrationId,
    full: bool,
    cause: CauseId,
) -> Result<SyncRunId, ApiError> {
    let run = ask_worker(tx, tenant, integration, full, cause).await?;
    let event =
        Event::new(Some(tenant), names::SYNC_REQUESTED, caller.actor(), Outcome::Success, "sync run queued")
            .cause(cause)
            .integration(integration)
            .object("sync_run", run)
            .detail("full", full);
    audit::record(tx, &event).await?;
    Ok(run)
}

/// Lets the sync worker let go of an integration that this transaction deletes: asked to sync what is gone, it destroys
/// the client keys it made and removes the accounts.
pub(super) async fn let_go(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    cause: CauseId,
) -> Result<(), ApiError> {
    ask_worker(tx, tenant, integration, false, cause).await.map(drop)
}

async fn ask_worker(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    full: bool,
    cause: CauseId,
) -> Result<SyncRunId, ApiError> {
    let run = SyncRunId::new();
    let message = SyncRequested {
        tenant_id: tenant.to_string(),
        integration_id: integration.to_string(),
        run_id: run.to_string(),
        full,
        cause_id: cause.to_string(),
        work_id: String::new(),
    };
    outbox::enqueue(tx, Topic::SyncRequested, Some(tenant), &message).await?;
    Ok(run)
}

pub(super) async fn status_changed(
    tx: &mut Tx,
    tenant: TenantId,
    caller: &Caller,
    before: &Integration,
    after: &Integration,
) -> Result<(), ApiError> {
    if before.status == after.status {
        return Ok(());
    }
    let event = Event::new(
        Some(tenant),
        names::INTEGRATION_STATUS_CHANGED,
        caller.actor(),
        Outcome::Info,
        format!("integration {} is {}", after.name, after.status),
    )
    .integration(after.id)
    .object("integration", after.id)
    .detail("before.status", before.status)
    .detail("after.status", after.status)
    .detail("reason", &after.status_reason);
    audit::record(tx, &event).await?;
    Ok(())
}

/// What a person changed, field by field.
pub(super) fn updated_event(
    tenant: TenantId,
    caller: &Caller,
    before: &Integration,
    after: &Integration,
) -> Event {
    let event = Event::new(
        Some(tenant),
        names::INTEGRATION_UPDATED,
        caller.actor(),
        Outcome::Success,
        format!("integration {} changed", after.name),
    )
    .integration(after.id)
    .object("integration", after.id);
    edit::differences(before, after).into_iter().fold(event, |event, (path, old, new)| {
        event.detail(format!("before.{path}"), old).detail(format!("after.{path}"), new)
    })
}

pub(super) fn tested_event(tenant: TenantId, caller: &Caller, tested: &Integration, passed: bool) -> Event {
    let outcome = if passed { Outcome::Success } else { Outcome::Failure };
    let message =
        format!("test of integration {} {}", tested.name, if passed { "passed" } else { "did not pass" });
    let event = Event::new(Some(tenant), names::INTEGRATION_TESTED, caller.actor(), outcome, message)
        .integration(tested.id)
        .object("integration", tested.id);
    tested.health.iter().fold(event, |event, health| {
        let result = if health.reason.is_empty() {
            health.state.as_str().to_owned()
        } else {
            format!("{}: {}", health.state.as_str(), health.reason)
        };
        event.detail(format!("capability.{}", health.capability.as_str()), result)
    })
}

// A worker that is newer than this build may report more; what is unknown here is no result.
pub(super) fn health_in(result: CapabilityResult, now: OffsetDateTime) -> Option<Health> {
    let CapabilityResult { capability, result, reason, message } = result;
    let state = match result.as_str() {
        "passed" => CapabilityState::Working,
        "not_granted" => CapabilityState::NotGranted,
        _ => CapabilityState::Failed,
    };
    let capability = Capability::parse(&capability)?;
    Some(Health { capability, state, reason, message, since: now, observed_at: now })
}
