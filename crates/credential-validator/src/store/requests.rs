//! What people and changed accounts ask for.

use std::str::FromStr;

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, ExposureId, TenantId, ValidationId},
    integration_store,
    triage::Place,
};
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{exposures, turn::attempt_of};

/// An exposure that is to have its turn, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopened {
    pub exposure: ExposureId,
    pub directory: String,
    /// It waits until then at least.
    pub deferred_until: Option<OffsetDateTime>,
    /// Where it stands.
    pub place: Place,
}

fn reopened(rows: Vec<PgRow>) -> Result<Vec<Reopened>, StoreError> {
    rows.into_iter()
        .map(|row| {
            Ok(Reopened {
                exposure: ExposureId(row.try_get("exposure_id")?),
                directory: row.try_get("directory_id")?,
                deferred_until: row.try_get("deferred_until")?,
                place: exposures::place(&row)?,
            })
        })
        .collect()
}

/// What its people want of a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Paused,
    Cancelled,
}

impl FromStr for State {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "running" => Ok(Self::Running),
            "paused" => Ok(Self::Paused),
            "cancelled" => Ok(Self::Cancelled),
            _ => Err(()),
        }
    }
}

/// A person's request.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: ValidationId,
    /// Decide again what is decided.
    pub force: bool,
    pub created_at: OffsetDateTime,
    pub state: State,
}

/// A request, for whose pages nobody else does anything until the end of the transaction; `None`: there is none.
pub async fn locked(tx: &mut Tx, id: ValidationId) -> Result<Option<Request>, StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('validation ' || $1::text, 0))")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    // A statement of its own: it sees what was committed while the lock was waited for.
    let row = sqlx::query(
        "SELECT force, created_at, state FROM api.validation_requests_v WHERE validation_id = $1",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Request {
        id,
        force: row.try_get("force")?,
        created_at: row.try_get("created_at")?,
        state: shared::db::parse("validation_requests.state", row.try_get("state")?)?,
    }))
}

/// The next page of a request's exposures.
pub async fn items(
    tx: &mut Tx,
    validation: ValidationId,
    after: Option<ExposureId>,
    page: i64,
) -> Result<Vec<ExposureId>, StoreError> {
    let ids = sqlx::query_scalar(
        "SELECT exposure_id FROM api.validation_items_v
         WHERE validation_id = $1 AND ($2::uuid IS NULL OR exposure_id > $2) ORDER BY exposure_id LIMIT $3",
    )
    .bind(validation)
    .bind(after)
    .bind(page)
    .fetch_all(&mut **tx)
    .await?;
    Ok(ids.into_iter().map(ExposureId).collect())
}

/// Has exposures wait for a request. Those that wait already go on waiting; those nobody wanted wait now; decided ones
/// only when forced, each in a new round, and never one whose proven password is destroyed. What was decided since the
/// request was made is its result already.
pub async fn take_up(
    tx: &mut Tx,
    tenant: TenantId,
    request: &Request,
    exposures: &[ExposureId],
) -> Result<Vec<Reopened>, StoreError> {
    let rows = sqlx::query(
        "WITH mine AS (
             SELECT exposure_id FROM exposures
             WHERE tenant_id = $1 AND exposure_id = ANY ($2)
               AND (state = 'waiting'
                    OR verdict_at < $5 AND (state = 'idle'
                        OR ($4 AND state = 'decided' AND NOT (attempts > 0 AND secret_sealed IS NULL))))
             ORDER BY exposure_id FOR UPDATE)
         UPDATE exposures e SET requested = true, wanted = true,
             asked_by = CASE WHEN state <> 'waiting' THEN ARRAY[$3] WHEN $3 = ANY (asked_by) THEN asked_by
                             ELSE asked_by || $3 END,
             set_aside = CASE WHEN state = 'waiting' THEN set_aside ELSE jsonb_build_object(
                 'state', state, 'wanted', wanted, 'verdict', verdict, 'reason', verdict_reason, 'at', verdict_at,
                 'evidence', evidence, 'without_attempt', decided_without_attempt) END,
             round = round + CASE WHEN state = 'waiting' THEN 0 ELSE 1 END,
             verdict = CASE WHEN state = 'waiting' THEN verdict END,
             verdict_reason = CASE WHEN state = 'waiting' THEN verdict_reason END,
             deferred_until = CASE WHEN state = 'waiting' THEN deferred_until END,
             decided_without_attempt = false, state = 'waiting'
         FROM mine WHERE e.tenant_id = $1 AND e.exposure_id = mine.exposure_id
         RETURNING e.exposure_id, e.directory_id, e.deferred_until, e.likelihood, e.privileged",
    )
    .bind(tenant)
    .bind(uuids(exposures))
    .bind(request.id)
    .bind(request.force)
    .bind(request.created_at)
    .fetch_all(&mut **tx)
    .await?;
    reopened(rows)
}

/// Of these, the exposures that wait for this request and for nothing else that goes on: neither another request that runs
/// nor a rule. No rule wants what had a verdict when it was asked for.
pub async fn only_asked_by(
    tx: &mut Tx,
    tenant: TenantId,
    request: &Request,
    exposures: &[ExposureId],
) -> Result<Vec<Uuid>, StoreError> {
    let automatic = integration_store::automatic(tx).await?;
    Ok(sqlx::query_scalar(
        "SELECT e.exposure_id FROM exposures e
         WHERE e.tenant_id = $1 AND e.exposure_id = ANY ($2) AND e.state = 'waiting' AND $3 = ANY (e.asked_by)
           AND (e.history OR e.integration_id <> ALL ($4) OR e.set_aside ->> 'state' = 'decided')
           AND NOT EXISTS (SELECT FROM api.validation_requests_v r
                           WHERE r.tenant_id = $1 AND r.validation_id = ANY (e.asked_by) AND r.state = 'running')",
    )
    .bind(tenant)
    .bind(uuids(exposures))
    .bind(request.id)
    .bind(automatic.iter().map(|i| i.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?)
}

/// Lets exposures no longer wait for a request. Those that wait for nothing else get back what it set aside; the rest
/// waits on, and an attempt that is under way ends with its verdict. Returns the first and the second.
pub async fn give_back(
    tx: &mut Tx,
    tenant: TenantId,
    request: &Request,
    exposures: &[ExposureId],
) -> Result<(Vec<Uuid>, Vec<Reopened>), StoreError> {
    let waiting = sqlx::query(
        "SELECT exposure_id, round, directory_id, deferred_until, likelihood, privileged FROM exposures
         WHERE tenant_id = $1 AND exposure_id = ANY ($2) AND state = 'waiting' AND $3 = ANY (asked_by)
         ORDER BY exposure_id FOR UPDATE",
    )
    .bind(tenant)
    .bind(uuids(exposures))
    .bind(request.id)
    .fetch_all(&mut **tx)
    .await?;
    // Reservations take the same row locks, so that none begins from here on.
    let mut attempts = Vec::with_capacity(waiting.len());
    for row in &waiting {
        let exposure = ExposureId(row.try_get("exposure_id")?);
        attempts.push(attempt_of(exposure, row.try_get("round")?).uuid());
    }
    let under_way: Vec<Uuid> =
        sqlx::query_scalar("SELECT exposure_id FROM attempts WHERE attempt_id = ANY ($1) AND NOT concluded")
            .bind(attempts)
            .fetch_all(&mut **tx)
            .await?;
    let automatic = integration_store::automatic(tx).await?;
    let back: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE exposures SET
             state = set_aside ->> 'state', wanted = (set_aside ->> 'wanted')::boolean,
             verdict = set_aside ->> 'verdict', verdict_reason = set_aside ->> 'reason',
             verdict_at = (set_aside ->> 'at')::timestamptz, evidence = set_aside -> 'evidence',
             decided_without_attempt = (set_aside ->> 'without_attempt')::boolean, deferred_until = NULL
         WHERE tenant_id = $1 AND exposure_id = ANY ($2) AND state = 'waiting' AND asked_by = ARRAY[$3]
           AND set_aside IS NOT NULL AND exposure_id <> ALL ($4)
           AND (history OR integration_id <> ALL ($5) OR set_aside ->> 'state' = 'decided')
         RETURNING exposure_id",
    )
    .bind(tenant)
    .bind(uuids(exposures))
    .bind(request.id)
    .bind(&under_way)
    .bind(automatic.iter().map(|i| i.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    sqlx::query(
        "UPDATE exposures SET asked_by = array_remove(asked_by, $3), requested = asked_by <> ARRAY[$3]
         WHERE tenant_id = $1 AND exposure_id = ANY ($2) AND $3 = ANY (asked_by)",
    )
    .bind(tenant)
    .bind(uuids(exposures))
    .bind(request.id)
    .execute(&mut **tx)
    .await?;
    let mut stay = reopened(waiting)?;
    stay.retain(|r| !back.contains(&r.exposure.uuid()) && !under_way.contains(&r.exposure.uuid()));
    Ok((back, stay))
}

/// Exposures that a change of these accounts may decide or reopen: those that wait, and those that could not be
/// tested because of the account.
pub async fn affected(
    tx: &mut Tx,
    tenant: TenantId,
    accounts: &[AccountId],
) -> Result<Vec<Reopened>, StoreError> {
    let rows = sqlx::query(
        "WITH mine AS (
             SELECT exposure_id FROM exposures
             WHERE tenant_id = $1 AND account_id = ANY ($2)
               AND (state = 'waiting' OR (state = 'decided' AND verdict = 'not_testable' AND verdict_reason IN
                    ('account_disabled', 'account_locked', 'account_gone', 'account_state', 'guest', 'passwordless',
                     'federated', 'ad_backed', 'reserve', 'threshold_too_low')))
             ORDER BY exposure_id FOR UPDATE)
         UPDATE exposures e SET state = 'waiting', round = round + CASE WHEN state = 'waiting' THEN 0 ELSE 1 END
         FROM mine WHERE e.tenant_id = $1 AND e.exposure_id = mine.exposure_id
         RETURNING e.exposure_id, e.directory_id, NULL::timestamptz AS deferred_until, e.likelihood, e.privileged",
    )
    .bind(tenant)
    .bind(accounts.iter().map(|a| a.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    reopened(rows)
}

/// Every tenant there is.
pub async fn tenants(tx: &mut Tx) -> Result<Vec<TenantId>, StoreError> {
    let ids = sqlx::query_scalar("SELECT tenant_id FROM api.tenants_v").fetch_all(&mut **tx).await?;
    Ok(ids.into_iter().map(TenantId).collect())
}

fn uuids(exposures: &[ExposureId]) -> Vec<Uuid> {
    exposures.iter().map(|e| e.uuid()).collect()
}
