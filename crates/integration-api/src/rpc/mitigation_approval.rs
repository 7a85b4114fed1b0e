//! What waits for a second person: read through the executor's views, decided by the executor itself.

use shared::{
    db::Db,
    id::{ApprovalId, MitigationId},
    wire::{
        internal::DecideRequest,
        v1::{self, Role},
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{convert, id, is_text, mitigation::Mitigations, mitigation_request::listed};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    page::{self, Scope},
    store::approvals::{self, Approval},
};

const MOST_PICKED: usize = 10_000;

/// Approvals, oldest first.
pub(super) async fn list(
    db: &Db,
    caller: &Caller,
    mut request: v1::ListPendingApprovalsRequest,
) -> Result<v1::ListPendingApprovalsResponse, ApiError> {
    let tenant = caller.tenant()?;
    let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
    request.page_size = 0;
    let scope = Scope::of("approvals", &request);
    let after = scope.read::<(OffsetDateTime, Uuid)>(&token)?.map(|(at, id)| (at, ApprovalId(id)));
    if request.states.len() > 100 {
        return Err(ApiError::field("states", "give at most 100 values per field"));
    }
    let mut states = request.states.into_iter().map(state_in).collect::<Result<Vec<_>, _>>()?;
    if states.is_empty() {
        states.push("open");
    }
    let mut tx = db.tenant(tenant).await?;
    let mut rows = approvals::list(&mut tx, tenant, &states, after, size + 1).await?;
    tx.rollback().await?;
    let next_page_token = scope.cut(&mut rows, size, |a| (a.opened_at, a.approval_id.uuid()))?;
    Ok(v1::ListPendingApprovalsResponse { approvals: rows.into_iter().map(shown).collect(), next_page_token })
}

/// Has the executor approve or reject, and returns the approval as it left it.
pub(super) async fn decide(
    service: &Mitigations,
    caller: &Caller,
    approval: &str,
    approve: bool,
    mitigation_ids: Vec<String>,
    reason: &str,
) -> Result<v1::Approval, ApiError> {
    let tenant = caller.tenant()?;
    let mut check = Check::default();
    let of = check.take(id::<ApprovalId>("id", approval))?.unwrap_or(ApprovalId(Uuid::nil()));
    check.require(mitigation_ids.len() <= MOST_PICKED, "mitigation_ids", "name at most 10,000 mitigations");
    let picked = check.take(listed::<MitigationId>("mitigation_ids", &mitigation_ids))?.unwrap_or_default();
    check.require(is_text(reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    if !approve && !caller.has(Role::Approver) {
        let mut tx = service.db.tenant(tenant).await?;
        let waiting = approvals::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("approval"))?;
        tx.rollback().await?;
        if waiting.requested_by.as_ref() != Some(&caller.claims.subject) {
            caller.must_approve()?;
        }
    }
    let decision = DecideRequest {
        tenant_id: tenant.to_string(),
        approval_id: of.to_string(),
        approve,
        mitigation_ids: picked.iter().map(ToString::to_string).collect(),
        actor_id: caller.claims.subject.clone(),
        actor_name: caller.claims.name.clone(),
        reason: reason.trim().to_owned(),
    };
    service.peers.decide(decision).await?;
    let mut tx = service.db.tenant(tenant).await?;
    let row = approvals::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("approval"))?;
    tx.rollback().await?;
    Ok(shown(row))
}

fn state_in(value: i32) -> Result<&'static str, ApiError> {
    use v1::ApprovalState as State;
    match State::try_from(value) {
        Ok(State::Open) => Ok("open"),
        Ok(State::Approved) => Ok("approved"),
        Ok(State::Rejected) => Ok("rejected"),
        Ok(State::Expired) => Ok("expired"),
        Ok(State::Unspecified) | Err(_) => Err(ApiError::field("states", "give known states")),
    }
}

fn shown(row: Approval) -> v1::Approval {
    let Approval {
        approval_id,
        state,
        held_by,
        request_id,
        requested_by,
        requester_name,
        request_reason,
        integration_id,
        held,
        accounts,
        administrators,
        opened_at,
        expires_at,
        decided_at,
        decided_by,
        decider_name,
        decision_reason,
    } = row;
    let state = match state.as_str() {
        "open" => v1::ApprovalState::Open,
        "approved" => v1::ApprovalState::Approved,
        "rejected" => v1::ApprovalState::Rejected,
        "expired" => v1::ApprovalState::Expired,
        _ => v1::ApprovalState::Unspecified,
    };
    v1::Approval {
        id: approval_id.to_string(),
        state: state.into(),
        sentence: convert::hold(&held_by).to_owned(),
        held_by,
        request_id: request_id.map(|i| i.to_string()).unwrap_or_default(),
        requested_by: requested_by.unwrap_or_default(),
        requester_name: requester_name.unwrap_or_default(),
        request_reason: request_reason.unwrap_or_default(),
        integration_id: integration_id.map(|i| i.to_string()).unwrap_or_default(),
        held,
        accounts,
        administrators,
        opened_at: Some(convert::timestamp(opened_at)),
        expires_at: Some(convert::timestamp(expires_at)),
        decided_at: decided_at.map(convert::timestamp),
        decided_by: decided_by.unwrap_or_default(),
        decider_name: decider_name.unwrap_or_default(),
        decision_reason: decision_reason.unwrap_or_default(),
    }
}
