//! What answers say beyond one account: slow down, our address is blocked, our configuration is wrong.

use prost_types::Timestamp;
use shared::{
    audit::{self, Actor, Event, Outcome as Became, names},
    db::{StoreError, Tx},
    integration_store::Integration,
    outbox::{self, Topic},
    provider::{Capability, Signal},
    wire::events::{CapabilityObservation, IntegrationObserved},
};
use time::Duration;

use crate::{
    NAME,
    store::{pauses, turn::Turn},
};

/// This many different accounts said to be locked within [`LOCKED_SPAN`] mean that our address is blocked (entra.md §6).
const LOCKED_ACCOUNTS: i64 = 5;
const LOCKED_SPAN: Duration = Duration::minutes(30);
/// How long a directory is left alone after that.
const BLOCKED: Duration = Duration::hours(6);
/// How long a directory is left alone after it refused our configuration.
const MISCONFIGURED: Duration = Duration::minutes(15);

/// Acts on the signal of an answer, in the transaction that stores it.
pub async fn after(
    tx: &mut Tx,
    turn: &Turn,
    integration: &Integration,
    signal: Signal,
) -> Result<(), StoreError> {
    match signal {
        Signal::None => Ok(()),
        Signal::UnknownCode => {
            metrics::counter!("parapet_unknown_codes_total", "provider" => turn.key.provider.as_str())
                .increment(1);
            Ok(())
        }
        Signal::Throttled(length) => turn.lane().slow_down(tx, length).await.map(drop),
        Signal::Configuration => {
            lost(
                tx,
                turn,
                integration,
                "configuration",
                "The directory refuses the application used for the password check; review its registration",
            )
            .await
        }
        Signal::Locked => {
            let key = &turn.key;
            let accounts =
                pauses::locked_answer(tx, turn.tenant, &key.directory, &key.object, LOCKED_SPAN).await?;
            if accounts < LOCKED_ACCOUNTS {
                return Ok(());
            }
            let message = "Many different accounts are said to be locked: the directory blocks this address";
            pause(tx, turn, integration, "address_blocked", message, BLOCKED).await?;
            observe(tx, turn, integration, "address_blocked", message).await
        }
    }
}

/// Validation does not work with this integration as it is: stop, and tell.
pub async fn lost(
    tx: &mut Tx,
    turn: &Turn,
    integration: &Integration,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    pause(tx, turn, integration, "configuration", message, MISCONFIGURED).await?;
    observe(tx, turn, integration, reason, message).await
}

async fn pause(
    tx: &mut Tx,
    turn: &Turn,
    integration: &Integration,
    reason: &'static str,
    message: &str,
    length: Duration,
) -> Result<(), StoreError> {
    let first = pauses::pause(tx, turn.tenant, &turn.key.directory, reason, message, length).await?;
    if !first {
        return Ok(());
    }
    tracing::warn!(reason, integration = %integration.id, "validation paused for a directory");
    metrics::counter!("parapet_pauses_total", "reason" => reason).increment(1);
    let event =
        Event::new(Some(turn.tenant), names::VALIDATION_PAUSED, Actor::Service(NAME), Became::Info, message)
            .integration(integration.id)
            .object("directory", &turn.key.directory)
            .detail("reason", reason)
            .detail("seconds", length.whole_seconds());
    audit::record(tx, &event).await?;
    Ok(())
}

async fn observe(
    tx: &mut Tx,
    turn: &Turn,
    integration: &Integration,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    let now = tx.clock().await?;
    let observed = IntegrationObserved {
        tenant_id: turn.tenant.to_string(),
        integration_id: integration.id.to_string(),
        observer: NAME.to_owned(),
        observed_at: Some(Timestamp { seconds: now.unix_timestamp(), nanos: 0 }),
        capabilities: vec![CapabilityObservation {
            capability: Capability::Validate.as_str().to_owned(),
            working: false,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }],
        directory_id: String::new(),
        sync_ended: None,
    };
    outbox::enqueue(tx, Topic::IntegrationObserved, Some(turn.tenant), &observed).await?;
    Ok(())
}
