//! Undo: taking mitigations back.

use std::collections::BTreeSet;

use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, Tx},
    id::{CauseId, MitigationId, MitigationRequestId, TenantId},
    wire::v1,
};
use time::OffsetDateTime;

use super::{
    convert, id, is_text,
    mitigation_request::{hand_on, kept},
};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    idempotent,
    store::mitigations::{self, Undo},
};

const MOST_NAMED: usize = 1000;

/// Stores a request to take back, once for each idempotency key.
pub(super) async fn undo(
    db: &Db,
    caller: &Caller,
    mut request: v1::UndoRequest,
) -> Result<v1::UndoResponse, ApiError> {
    let tenant = caller.tenant()?;
    let key = std::mem::take(&mut request.idempotency_key);
    let fingerprint = idempotent::fingerprint(&request);
    let wanted = wanted(caller, request)?;
    let work = |tx: Tx| async move {
        let (tx, request) = ask(tx, caller, tenant, wanted).await?;
        Ok((tx, v1::UndoResponse { request: Some(request) }))
    };
    Ok(idempotent::once(db, tenant, "Undo", &key, &fingerprint, work).await?.0)
}

fn wanted(caller: &Caller, request: v1::UndoRequest) -> Result<Undo, ApiError> {
    let v1::UndoRequest { mitigation_ids, automated_since, dismiss_risk, reason, idempotency_key: _ } =
        request;
    let since = convert::instant("automated_since", automated_since)?;
    let mut check = Check::default();
    check.require(mitigation_ids.len() <= MOST_NAMED, "mitigation_ids", "name at most 1000 mitigations");
    check.require(
        mitigation_ids.is_empty() != since.is_none(),
        "mitigation_ids",
        "name mitigations, or a time in automated_since, and not both",
    );
    check.require(
        since.is_none_or(|since| since <= OffsetDateTime::now_utc()),
        "automated_since",
        "give a time in the past",
    );
    check.require(is_text(&reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    let of: BTreeSet<MitigationId> =
        mitigation_ids.iter().map(|t| id("mitigation_ids", t)).collect::<Result<_, _>>()?;
    Ok(Undo {
        id: MitigationRequestId::new(),
        requested_by: caller.claims.subject.clone(),
        requester_name: caller.claims.name.clone(),
        of: of.into_iter().collect(),
        since,
        dismiss_risk,
        reason: reason.trim().to_owned(),
    })
}

async fn ask(
    mut tx: Tx,
    caller: &Caller,
    tenant: TenantId,
    wanted: Undo,
) -> Result<(Tx, v1::MitigationRequest), ApiError> {
    if mitigations::count(&mut tx, tenant, &wanted.of).await? != wanted.of.len() {
        return Err(ApiError::NotFound("mitigation in the request"));
    }
    if let Some(since) = wanted.since
        && !mitigations::any_undoable(&mut tx, tenant, since).await?
    {
        return Err(ApiError::Precondition {
            reason: "NOTHING_TO_UNDO",
            message: "nothing that was carried out automatically since then is in effect and can be taken back; ended \
                      sessions stay ended"
                .into(),
        });
    }
    mitigations::insert_undo(&mut tx, tenant, &wanted).await?;
    let message = "the undo of mitigations requested";
    let mut event =
        Event::new(Some(tenant), names::MITIGATION_UNDO_REQUESTED, caller.actor(), Outcome::Success, message)
            .cause(CauseId(wanted.id.uuid()))
            .object("mitigation_request", wanted.id)
            .detail("dismiss_risk", wanted.dismiss_risk)
            .detail("reason", &wanted.reason);
    event = match wanted.since {
        Some(since) => event.detail("automated_since", since),
        None => event.detail("mitigations", wanted.of.len()),
    };
    audit::record(&mut tx, &event).await?;
    hand_on(&mut tx, tenant, wanted.id).await?;
    let request = kept(&mut tx, tenant, wanted.id).await?;
    Ok((tx, request))
}
