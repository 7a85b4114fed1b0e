//! What waits for a second person: mitigations that are held for one reason wait together, are decided about together, and
//! are dropped when nobody decides.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use shared::{
    audit::{self, Actor, Event, Outcome as Audited, names},
    db::{Db, StoreError, Tx},
    id::{ApprovalId, IntegrationId, MitigationId, TenantId},
    integration_store, policy,
};
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    events,
    plan::{Hold, Refusal},
    planner,
    state::State,
    store::{self, Mitigation},
    store_brake, store_requests,
};

/// What was decided about held mitigations, by whom.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whose.
    pub tenant: TenantId,
    /// About what.
    pub approval: ApprovalId,
    /// Let them run, or drop them.
    pub approve: bool,
    /// Only these run, and the others are dropped; none: all.
    pub only: Vec<MitigationId>,
    /// The person: token subject and name.
    pub actor: (String, String),
    /// Why.
    pub reason: String,
}

/// Why a decision does not count.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such approval, or a mitigation is not held with it.
    #[error("there is no such approval, or one of the mitigations is not held with it")]
    NotFound,
    /// The person asked for it.
    #[error(
        "a second person approves it: not one who asked for it, or last changed the policy or the integration"
    )]
    SamePerson,
    /// It was approved.
    #[error("it was approved already")]
    Approved,
    /// It was rejected.
    #[error("it was rejected already")]
    Rejected,
    /// Nobody decided in time.
    #[error("nobody decided in time: it was dropped")]
    Expired,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The open approval that a mitigation is held with: one for each reason and request, or integration. Opens it, with an
/// alert, where there is none that still takes more. `accounts`: so many are held now.
pub async fn join(
    tx: &mut Tx,
    policy: &policy::Current,
    m: &Mitigation,
    by: Hold,
    accounts: usize,
) -> Result<ApprovalId, StoreError> {
    // Two that look at once would open two.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('mitigation approvals ' || $1::text, 0))")
        .bind(m.tenant)
        .execute(&mut **tx)
        .await?;
    let integration = Some(m.integration).filter(|_| m.request.is_none());
    let open: Option<ApprovalId> = sqlx::query_scalar(
        "SELECT approval_id FROM approvals
         WHERE state = 'open' AND held_by = $1 AND request_id IS NOT DISTINCT FROM $2
           AND integration_id IS NOT DISTINCT FROM $3 AND joins_until > statement_timestamp()
         ORDER BY opened_at DESC LIMIT 1 FOR SHARE",
    )
    .bind(by.as_str())
    .bind(m.request)
    .bind(integration)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(open) = open {
        return Ok(open);
    }
    let id = ApprovalId::new();
    // Half of its time is left to whatever joins last.
    sqlx::query(
        "WITH opened AS (
             INSERT INTO approvals (tenant_id, approval_id, held_by, request_id, integration_id, policy_version, state,
                                    joins_until, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, 'open', statement_timestamp() + $7 * interval '30 minutes',
                     statement_timestamp() + $7 * interval '1 hour')
             RETURNING approval_id, tenant_id, expires_at)
         INSERT INTO approvals_ending (approval_id, tenant_id, expires_at) SELECT * FROM opened",
    )
    .bind(m.tenant)
    .bind(id)
    .bind(by.as_str())
    .bind(m.request)
    .bind(integration)
    .bind(policy.version)
    .bind(f64::from(policy.policy.approval.expires_after_hours))
    .execute(&mut **tx)
    .await?;
    let about = about(tx, m, by, accounts).await?;
    audit::record(tx, &events::held(m, by, id, about)).await?;
    Ok(id)
}

/// How many accounts an approval that is being opened is about. A large request is planned piece by piece and held as a whole.
async fn about(tx: &mut Tx, m: &Mitigation, by: Hold, accounts: usize) -> Result<usize, StoreError> {
    let Some(request) = m.request.filter(|_| by == Hold::ManyAccounts) else { return Ok(accounts) };
    let asked = store_requests::request(tx, request).await?;
    Ok(asked.map_or(accounts, |asked| asked.about.max(accounts)))
}

/// Gives those that are held, which were just added, the approval that they wait for.
pub async fn hold(tx: &mut Tx, policy: &policy::Current, added: &mut [Mitigation]) -> Result<(), StoreError> {
    let mut together: HashMap<_, Vec<&mut Mitigation>> = HashMap::new();
    for m in added {
        if let State::Held { by } = m.state {
            let of = Some(m.integration).filter(|_| m.request.is_none());
            together.entry((by, m.request, of)).or_default().push(m);
        }
    }
    for ((by, ..), mut held) in together {
        let Some(first) = held.first() else { continue };
        let accounts: HashSet<_> = held.iter().map(|m| m.account).collect();
        let approval = join(tx, policy, first, by, accounts.len()).await?;
        for m in &mut held {
            m.approval = Some(approval);
        }
        sqlx::query("UPDATE mitigations SET approval_id = $1 WHERE mitigation_id = ANY ($2)")
            .bind(approval)
            .bind(held.iter().map(|m| m.id.uuid()).collect::<Vec<_>>())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// An approval, locked.
struct Approval {
    held_by: Hold,
    state: String,
    expires_at: OffsetDateTime,
    decided_by: Option<String>,
}

async fn lock(tx: &mut Tx, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
    let row = sqlx::query(
        "SELECT held_by, state, expires_at, decided_by FROM approvals WHERE approval_id = $1 FOR UPDATE",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    let read = |row: PgRow| -> Result<Approval, StoreError> {
        Ok(Approval {
            held_by: Hold::parse(row.try_get("held_by")?)
                .ok_or_else(|| StoreError::Corrupt("approvals.held_by has an unknown value".into()))?,
            state: row.try_get("state")?,
            expires_at: row.try_get("expires_at")?,
            decided_by: row.try_get("decided_by")?,
        })
    };
    row.map(read).transpose()
}

/// Carries a person's decision out. What the same person decided so before is answered as then.
///
/// # Errors
/// [`Refused`] says why it does not count; nothing was changed then.
pub async fn decide(db: &Db, decision: &Decision) -> Result<(), Refused> {
    let mut tx = db.tenant(decision.tenant).await?;
    match decide_in(&mut tx, decision).await {
        Ok(()) => Ok(tx.commit().await?),
        Err(refused) => {
            tx.rollback().await?;
            Err(refused)
        }
    }
}

async fn decide_in(tx: &mut Tx, decision: &Decision) -> Result<(), Refused> {
    let Some(approval) = lock(tx, decision.approval).await? else { return Err(Refused::NotFound) };
    let again = approval.decided_by.as_ref() == Some(&decision.actor.0);
    match (approval.state.as_str(), decision.approve) {
        ("open", _) if approval.expires_at > tx.clock().await? => {}
        ("open" | "expired", _) => return Err(Refused::Expired),
        ("approved", true) | ("rejected", false) if again => return Ok(()),
        ("approved", _) => return Err(Refused::Approved),
        _ => return Err(Refused::Rejected),
    }
    let policy = policy::current(tx).await?;
    if decision.approve {
        // INVARIANT: nobody approves what they asked for, nor the first run of their own change of policy or integration.
        let theirs: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM mitigations WHERE approval_id = $1 AND state = 'held' AND requested_by = $2)",
        )
        .bind(decision.approval)
        .bind(&decision.actor.0)
        .fetch_one(&mut **tx)
        .await
        .map_err(StoreError::from)?;
        let their_change = approval.held_by == Hold::FirstRun
            && (policy.updated_by == decision.actor.0 || changed_integration(tx, decision).await?);
        if theirs || their_change {
            return Err(Refused::SamePerson);
        }
    }
    let (run, dropped) = if decision.approve {
        let run = release(tx, decision).await?;
        let wanted: HashSet<_> = decision.only.iter().collect();
        if !wanted.is_empty() && run.len() != wanted.len() {
            return Err(Refused::NotFound);
        }
        (run, refuse(tx, decision.approval, Refusal::Trimmed).await?)
    } else {
        (Vec::new(), refuse(tx, decision.approval, Refusal::Rejected).await?)
    };
    planner::start(tx, &run).await?;
    // INVARIANT: only whoever approves a first run lets automated mitigations run from then on. What is held as protected is
    // held before that is asked, and who approves it has looked at nothing else.
    let first_run = run.iter().filter(|_| approval.held_by == Hold::FirstRun);
    let armed: HashSet<IntegrationId> = first_run.map(|m| m.integration).collect();
    for integration in armed {
        if let Some(read) = integration_store::integration(tx, integration).await? {
            let (tenant, by) = (decision.tenant, &decision.actor.0);
            store_brake::arm(tx, tenant, integration, read.version, policy.version, by).await?;
        }
    }
    let state = if decision.approve { "approved" } else { "rejected" };
    close(tx, decision.approval, state, Some(decision)).await?;
    let actor = Actor::caller(&decision.actor.0, &decision.actor.1);
    let mut told = told(&run, &dropped);
    for event in &mut told {
        event.actor = actor.clone();
    }
    let (kind, message) = if decision.approve {
        (names::MITIGATION_APPROVED, "a second person lets held mitigations run")
    } else {
        (names::MITIGATION_REJECTED, "a person drops held mitigations")
    };
    told.push(
        Event::new(Some(decision.tenant), kind, actor, Audited::Success, message)
            .object("approval", decision.approval)
            .detail("held_by", approval.held_by.as_str())
            .detail("released", run.len())
            .detail("dropped", dropped.len())
            .detail("reason", &decision.reason),
    );
    Ok(audit::record_many(tx, &told).await?)
}

/// Whether the person made the last change of the integration whose mitigations are held, or set its switches as they are.
async fn changed_integration(tx: &mut Tx, decision: &Decision) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM approvals a JOIN api.integrations_v i USING (tenant_id, integration_id)
                        WHERE a.approval_id = $1 AND $2 IN (i.updated_by, i.mitigation_by))",
    )
    .bind(decision.approval)
    .bind(&decision.actor.0)
    .fetch_one(&mut **tx)
    .await?)
}

/// Lets what is held run: many at once, so in one statement. Only what is held becomes planned, as [`State::release`] says.
async fn release(tx: &mut Tx, decision: &Decision) -> Result<Vec<Mitigation>, StoreError> {
    let rows = sqlx::query(
        "UPDATE mitigations SET state = 'planned', reason = NULL, held_by = NULL, released_by = $2,
             released_at = statement_timestamp(), revision = revision + 1
         WHERE approval_id = $1 AND state = 'held' AND (cardinality($3::uuid[]) = 0 OR mitigation_id = ANY ($3))
         RETURNING *",
    )
    .bind(decision.approval)
    .bind(&decision.actor.0)
    .bind(decision.only.iter().map(|m| m.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(store::mitigation).collect()
}

/// Refuses what is still held with it.
async fn refuse(tx: &mut Tx, id: ApprovalId, reason: Refusal) -> Result<Vec<Mitigation>, StoreError> {
    let rows = sqlx::query(
        "UPDATE mitigations SET state = 'refused', reason = $2, held_by = NULL, finished_at = statement_timestamp(),
             details = details || jsonb_build_object('refused', $3::text), revision = revision + 1
         WHERE approval_id = $1 AND state = 'held' RETURNING *",
    )
    .bind(id)
    .bind(reason.as_str())
    .bind(reason.sentence())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(store::mitigation).collect()
}

pub(crate) async fn close(
    tx: &mut Tx,
    id: ApprovalId,
    state: &str,
    by: Option<&Decision>,
) -> Result<(), StoreError> {
    sqlx::query(
        "WITH ended AS (DELETE FROM approvals_ending WHERE approval_id = $1)
         UPDATE approvals SET state = $2, decided_at = statement_timestamp(), decided_by = $3, decider_name = $4,
             decision_reason = $5
         WHERE approval_id = $1",
    )
    .bind(id)
    .bind(state)
    .bind(by.map(|d| &d.actor.0))
    .bind(by.map(|d| &d.actor.1))
    .bind(by.map(|d| &d.reason))
    .execute(&mut **tx)
    .await?;
    metrics::counter!("parapet_mitigation_approvals_total", "decision" => state.to_owned()).increment(1);
    Ok(())
}

pub(crate) fn told(run: &[Mitigation], dropped: &[Mitigation]) -> Vec<Event> {
    let released = run.iter().map(|m| {
        let message = "a second person lets the mitigation run";
        events::about(m, names::MITIGATION_RELEASED, Audited::Success, message)
    });
    let refused = dropped.iter().filter_map(|m| match m.state {
        State::Refused { reason } => Some(
            events::about(m, names::MITIGATION_REFUSED, Audited::Refused, reason.sentence())
                .detail("reason", reason.as_str()),
        ),
        _ => None,
    });
    released.chain(refused).collect()
}

const LOOK_EVERY: Duration = Duration::from_secs(15);
const AT_ONCE: i64 = 20;

/// Drops what nobody decided about in time.
pub async fn expire(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = expire_once(&db).await {
            tracing::warn!(%error, "overdue approvals not looked at; it is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn expire_once(db: &Db) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let overdue: Vec<(ApprovalId, TenantId)> = sqlx::query_as(
        "SELECT approval_id, tenant_id FROM approvals_ending WHERE expires_at <= statement_timestamp() LIMIT $1",
    )
    .bind(AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    for (id, tenant) in overdue {
        let mut tx = db.tenant(tenant).await?;
        // Decided since we looked, or gone with its tenant: then there is nothing left to end.
        let Some(approval) = lock(&mut tx, id).await?.filter(|a| a.state == "open") else {
            let ended = sqlx::query("DELETE FROM approvals_ending WHERE approval_id = $1").bind(id);
            ended.execute(&mut *tx).await?;
            tx.commit().await?;
            continue;
        };
        let dropped = refuse(&mut tx, id, Refusal::ApprovalExpired).await?;
        close(&mut tx, id, "expired", None).await?;
        let mut told = told(&[], &dropped);
        for event in &mut told {
            event.actor = Actor::Service("mitigation-executor");
        }
        let by = approval.held_by;
        let message = "nobody decided in time about held mitigations, which are dropped";
        told.push(
            Event::new(
                Some(tenant),
                names::ALERT_APPROVAL_EXPIRED,
                Actor::Service("mitigation-executor"),
                Audited::Info,
                message,
            )
            .object("approval", id)
            .detail("held_by", by.as_str())
            .detail("dropped", dropped.len()),
        );
        audit::record_many(&mut tx, &told).await?;
        tx.commit().await?;
    }
    Ok(())
}
