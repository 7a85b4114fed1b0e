//! What an operator sees of the attempt budget as a whole: its gate, and what the auditor finds.

use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, Tx},
    wire::v1,
};

use super::{convert, is_text};
use crate::{
    auditor,
    auth::Caller,
    error::ApiError,
    store::{gate, ledger::Finding},
};

/// The longest look back. Older than any ledger.
const MOST_DAYS: u32 = 3650;
const FINDINGS: i64 = 100;

pub(super) async fn gate(db: &Db) -> Result<v1::GetAttemptGateResponse, ApiError> {
    let mut tx = db.system().await?;
    let gate = shown(&mut tx).await?;
    tx.rollback().await?;
    Ok(v1::GetAttemptGateResponse { gate: Some(gate) })
}

pub(super) async fn close_gate(
    db: &Db,
    caller: &Caller,
    request: v1::CloseAttemptGateRequest,
) -> Result<v1::CloseAttemptGateResponse, ApiError> {
    let reason = request.reason.trim();
    if !is_text(reason, 500) {
        return Err(ApiError::field("reason", "say why, in 1 to 500 printable characters"));
    }
    let mut tx = db.system().await?;
    let until = gate::close(&mut tx).await?;
    let message = "an operator says that reservations may have been lost";
    let event = Event::new(None, names::VALIDATION_GATE_CLOSED, caller.actor(), Outcome::Success, message)
        .detail("reason", reason)
        .detail("closed_until", until.to_string());
    audit::record(&mut tx, &event).await?;
    let gate = shown(&mut tx).await?;
    tx.commit().await?;
    Ok(v1::CloseAttemptGateResponse { gate: Some(gate) })
}

pub(super) async fn audit_attempts(
    db: &Db,
    request: v1::AuditAttemptsRequest,
) -> Result<v1::AuditAttemptsResponse, ApiError> {
    let days = match request.days {
        0 => MOST_DAYS,
        days @ 1..=MOST_DAYS => days,
        _ => return Err(ApiError::field("days", "at most 3650; 0: all that the ledger has")),
    };
    let report = auditor::since(db, time::Duration::days(days.into())).await?;
    let findings = auditor::findings(db, FINDINGS).await?;
    Ok(v1::AuditAttemptsResponse {
        accounts: report.accounts,
        attempts: report.attempts,
        sign_ins: report.sign_ins,
        new_findings: report.new_findings,
        findings: findings.into_iter().map(finding).collect(),
    })
}

async fn shown(tx: &mut Tx) -> Result<v1::AttemptGate, ApiError> {
    let gate = gate::state(tx).await?;
    let reason = match gate.reason.as_deref() {
        None => v1::AttemptGateReason::Unspecified,
        Some("another_cluster") => v1::AttemptGateReason::AnotherCluster,
        Some("failover") => v1::AttemptGateReason::Failover,
        Some("history_lost") => v1::AttemptGateReason::HistoryLost,
        Some("clock_stepped") => v1::AttemptGateReason::ClockStepped,
        Some("unwatched") => v1::AttemptGateReason::Unwatched,
        Some(_) => v1::AttemptGateReason::Operator,
    };
    Ok(v1::AttemptGate {
        open: gate.closed_until.is_none(),
        reason: reason.into(),
        closed_at: gate.closed_at.map(convert::timestamp),
        closed_until: gate.closed_until.map(convert::timestamp),
        cluster: gate.cluster,
        replicated: gate.replicated,
        looked_at: Some(convert::timestamp(gate.beat_at)),
    })
}

fn finding(found: Finding) -> v1::AttemptFinding {
    let Finding { provider, directory, object, rule, at, message, found_at } = found;
    let only_told = auditor::Source::of(&rule) == auditor::Source::Log;
    v1::AttemptFinding {
        provider: convert::provider_named(&provider),
        directory_id: directory,
        object_id: object,
        rule,
        at: Some(convert::timestamp(at)),
        message,
        found_at: Some(convert::timestamp(found_at)),
        only_told,
    }
}
