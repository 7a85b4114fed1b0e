//! Cancelling a person's request: what is not begun of it is dropped for good; what is begun finishes.

use shared::{
    audit::{self, Actor, Event, Outcome as Audited, names},
    db::{Db, StoreError, Tx},
    id::{ApprovalId, MitigationId, MitigationRequestId, TenantId},
    work,
};

use crate::{
    approvals::{self, Decision},
    plan::Refusal,
    planner,
    store::{self, Mitigation},
    store_requests,
};

/// What a person cancels.
#[derive(Clone, Debug)]
pub struct Cancellation {
    /// Whose.
    pub tenant: TenantId,
    /// The request: for actions, in bulk, or for an undo.
    pub request: MitigationRequestId,
    /// The person: token subject and name.
    pub actor: (String, String),
    /// Why.
    pub reason: String,
}

/// Cancels a request; how many mitigations that dropped. `None`: the tenant has no such request. Repeated, it answers as the
/// first time.
///
/// INVARIANT: once this has returned, nothing of the request that was not begun before is begun. What is planned later is
/// refused at once ([`stands`]); what was planned is refused here, and whoever was about to begin it finds its row changed;
/// what was begun and surely did nothing is asked about again before it is begun anew ([`exists`]).
pub async fn cancel(db: &Db, cancellation: &Cancellation) -> Result<Option<i64>, StoreError> {
    let Cancellation { tenant, request, actor: (id, name), reason } = cancellation;
    let mut tx = db.tenant(*tenant).await?;
    let asked = store_requests::request(&mut tx, *request).await?;
    lock(&mut tx, *request).await?;
    let earlier = sqlx::query_scalar("SELECT dropped FROM cancellations WHERE request_id = $1")
        .bind(request)
        .fetch_optional(&mut *tx)
        .await?;
    if asked.is_none() || earlier.is_some() {
        tx.rollback().await?;
        return Ok(earlier);
    }
    let open: Vec<ApprovalId> = sqlx::query_scalar(
        "SELECT approval_id FROM approvals WHERE request_id = $1 AND state = 'open' ORDER BY approval_id FOR UPDATE",
    )
    .bind(request)
    .fetch_all(&mut *tx)
    .await?;
    let dropped = drop_what_waits(&mut tx, *request).await?;
    for approval in open {
        let decision = Decision {
            tenant: *tenant,
            approval,
            approve: false,
            only: Vec::new(),
            actor: (id.clone(), name.clone()),
            reason: format!("its request was cancelled: {reason}"),
        };
        approvals::close(&mut tx, approval, "rejected", Some(&decision)).await?;
    }
    let count = i64::try_from(dropped.len()).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO cancellations (tenant_id, request_id, cancelled_by, canceller_name, reason, dropped)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(tenant)
    .bind(request)
    .bind(id)
    .bind(name)
    .bind(reason)
    .bind(count)
    .execute(&mut *tx)
    .await?;
    let actor = Actor::Person { id: id.clone(), name: name.clone() };
    let mut told = approvals::told(&[], &dropped);
    for event in &mut told {
        event.actor = actor.clone();
    }
    let message = "a person cancels a request for mitigations: what was not begun is dropped";
    told.push(
        Event::new(Some(*tenant), names::MITIGATION_REQUEST_CANCELLED, actor, Audited::Success, message)
            .object("mitigation_request", request)
            .detail("dropped", count)
            .detail("reason", reason),
    );
    audit::record_many(&mut tx, &told).await?;
    tx.commit().await?;
    // Its turns would find nothing to do, one by one, in the way of others. Not in the transaction above: a turn holds its work
    // before it holds its mitigation.
    let turns: Vec<_> = dropped.iter().map(|m| MitigationId::uuid(m.id)).collect();
    let mut tx = db.tenant(*tenant).await?;
    work::cancel(&mut tx, *tenant, planner::WORK, &turns).await?;
    tx.commit().await?;
    Ok(Some(count))
}

async fn drop_what_waits(tx: &mut Tx, request: MitigationRequestId) -> Result<Vec<Mitigation>, StoreError> {
    let rows = sqlx::query(
        "UPDATE mitigations SET state = 'refused', reason = $2, held_by = NULL, finished_at = statement_timestamp(),
             details = details || jsonb_build_object('refused', $3::text), revision = revision + 1
         WHERE request_id = $1 AND state IN ('planned', 'held') RETURNING *",
    )
    .bind(request)
    .bind(Refusal::Cancelled.as_str())
    .bind(Refusal::Cancelled.sentence())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(store::mitigation).collect()
}

/// Planning a request and cancelling it wait for each other.
async fn lock(tx: &mut Tx, request: MitigationRequestId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('mitigation request ' || $1::text, 0))")
        .bind(request)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether a request is cancelled, which stays so until the transaction ends.
pub async fn stands(tx: &mut Tx, request: MitigationRequestId) -> Result<bool, StoreError> {
    lock(tx, request).await?;
    exists(tx, request).await
}

/// Whether a request is cancelled now.
pub async fn exists(tx: &mut Tx, request: MitigationRequestId) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM cancellations WHERE request_id = $1)")
        .bind(request)
        .fetch_one(&mut **tx)
        .await?)
}
