//! Cancelling a request for mitigations: decided by the executor, who alone knows what is begun.

use shared::{
    id::MitigationRequestId,
    wire::{internal::CancelRequest, v1},
};

use super::{id, is_text, mitigation::Mitigations, mitigation_request::kept};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
};

/// Has the executor drop what is not begun of a request.
pub(super) async fn cancel(
    service: &Mitigations,
    caller: &Caller,
    request: v1::CancelMitigationRequest,
) -> Result<v1::CancelMitigationResponse, ApiError> {
    let tenant = caller.tenant()?;
    let v1::CancelMitigationRequest { request_id, reason } = request;
    let of: MitigationRequestId = id("request_id", &request_id)?;
    let mut check = Check::default();
    check.require(is_text(&reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    let cancellation = CancelRequest {
        tenant_id: tenant.to_string(),
        request_id: of.to_string(),
        actor_id: caller.claims.subject.clone(),
        actor_name: caller.claims.name.clone(),
        reason: reason.trim().to_owned(),
    };
    let dropped = service.peers.cancel(cancellation).await?.dropped;
    let mut tx = service.db.tenant(tenant).await?;
    let request = kept(&mut tx, tenant, of).await?;
    tx.rollback().await?;
    Ok(v1::CancelMitigationResponse { request: Some(request), dropped })
}
