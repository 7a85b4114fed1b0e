//! The audit events of mitigations, what workers tell integration-api about an integration, and what the customer's own
//! systems are told.

use std::collections::BTreeMap;

use shared::{
    audit::{Actor, Event, EventType, Outcome, names},
    db::{StoreError, Tx},
    id::{ApprovalId, IntegrationId},
    outbound,
    outbox::{self, Topic},
    provider::{Capability, Missing},
    wire::events::{CapabilityObservation, IntegrationObserved},
};
use time::OffsetDateTime;

use crate::{plan::Hold, store::Mitigation};

/// Who is behind a mitigation.
pub fn actor(m: &Mitigation) -> Actor {
    match &m.requested_by {
        Some((id, name)) => Actor::caller(id, name),
        None => Actor::Rule("automated mitigation"),
    }
}

/// An event about a mitigation.
pub fn about(
    m: &Mitigation,
    kind: &'static EventType,
    outcome: Outcome,
    message: impl Into<String>,
) -> Event {
    let mut event = Event::new(Some(m.tenant), kind, actor(m), outcome, message)
        .integration(m.integration)
        .object("mitigation", m.id)
        .user(m.object_id.clone(), m.login.clone())
        .detail("mitigation_action", m.action.as_str())
        .detail("account_id", m.account)
        .detail("state", m.state.name());
    if let Some(exposure) = m.exposure {
        event = event.detail("exposure_id", exposure);
    }
    if let Some(undone) = m.undoes {
        event = event.detail("undoes", undone);
    }
    if let Some(request) = m.request {
        event = event.detail("mitigation_request_id", request);
    }
    if let Some(approval) = m.approval {
        event = event.detail("approval_id", approval);
    }
    if let Some(by) = &m.released_by {
        event = event.detail("released_by", by);
    }
    match m.cause {
        Some(cause) => event.cause(cause),
        None => event,
    }
}

/// The same as an alert: something a person should look at now.
pub fn alert(m: &Mitigation, kind: &'static EventType, message: impl Into<String>) -> Event {
    metrics::counter!("parapet_alerts_total", "alert" => kind.name).increment(1);
    let mut event = about(m, kind, Outcome::Info, message);
    event.actor = Actor::Service("mitigation-executor");
    event
}

/// The alert that an approval was opened. One account is named as the user; of several, how many there are. What the brake
/// stops of what follows verdicts comes one by one: that more of it joins the approval is said.
pub fn held(first: &Mitigation, by: Hold, approval: ApprovalId, accounts: usize) -> Event {
    let mut event = alert(first, names::ALERT_MITIGATION_HELD, by.sentence());
    if accounts > 1 {
        event.message = format!("{}: {accounts} accounts", by.sentence());
        (event.user, event.details) = (None, BTreeMap::new());
        // A request may be about accounts of several.
        event.integration = event.integration.filter(|_| first.request.is_none());
        event = event.object("approval", approval);
    }
    if first.automatic {
        let so_far =
            if accounts == 1 { "1 account so far".to_owned() } else { format!("{accounts} accounts so far") };
        let sentence = by.sentence();
        event.message =
            format!("{sentence}: {so_far}; what else is stopped for it joins approval {approval}");
    }
    if let Some(request) = first.request {
        event = event.detail("mitigation_request_id", request);
    }
    event
        .detail("held_by", by.as_str())
        .detail("approval_id", approval)
        .detail("accounts", accounts)
        .detail("policy_version", first.policy_version)
}

/// Tells integration-api whether a capability works.
pub async fn observed(
    tx: &mut Tx,
    m: &Mitigation,
    capability: Capability,
    missing: Option<&Missing>,
) -> Result<(), StoreError> {
    let now = tx.clock().await?;
    let message = IntegrationObserved {
        tenant_id: m.tenant.to_string(),
        integration_id: IntegrationId::to_string(&m.integration),
        observer: "mitigation-executor".to_owned(),
        observed_at: Some(timestamp(now)),
        capabilities: vec![CapabilityObservation {
            capability: capability.as_str().to_owned(),
            working: missing.is_none(),
            reason: missing.map(|m| m.reason.to_owned()).unwrap_or_default(),
            message: missing.map(|m| m.message.clone()).unwrap_or_default(),
        }],
        directory_id: String::new(),
        sync_ended: None,
    };
    outbox::enqueue(tx, Topic::IntegrationObserved, Some(m.tenant), &message).await?;
    Ok(())
}

/// Tells the customer's own systems that an account is contained. An undo contains nothing.
pub async fn contained(tx: &mut Tx, m: &Mitigation) -> Result<(), StoreError> {
    if m.undoes.is_some() {
        return Ok(());
    }
    let subject = outbound::Subject {
        tenant_id: m.tenant,
        integration_id: m.integration,
        provider: m.provider,
        directory_id: &m.directory,
        account_id: m.account,
        object_id: &m.object_id,
        login: &m.login,
    };
    outbound::mitigated(tx, subject, m.id, m.action, m.exposure, m.cause).await
}

pub(crate) fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or_default(),
    }
}
