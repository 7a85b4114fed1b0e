//! Mitigation requests, and mitigations as the executor shows them.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, ApprovalId, ExposureId, IntegrationId, MitigationId, MitigationRequestId, TenantId},
};
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct New {
    /// Id.
    pub id: MitigationRequestId,
    /// Who asks.
    pub requested_by: String,
    /// Their name.
    pub requester_name: String,
    /// Actions.
    pub actions: Vec<&'static str>,
    /// Accounts named directly.
    pub named: Vec<AccountId>,
    /// Exposures whose accounts are meant.
    pub exposures: Vec<ExposureId>,
    /// The accounts are items of the request, and neither named nor those of named exposures.
    pub bulk: bool,
    /// How many accounts it is about.
    pub accounts: i32,
    /// Why.
    pub reason: String,
}

/// Stores a request.
pub async fn insert(tx: &mut Tx, tenant: TenantId, new: &New) -> Result<(), StoreError> {
    let New { id, requested_by, requester_name, actions, named, exposures, bulk, accounts, reason } = new;
    sqlx::query(
        "INSERT INTO mitigation_requests (tenant_id, request_id, requested_by, requester_name, actions, account_ids,
                                          exposure_ids, bulk, accounts, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(tenant)
    .bind(id)
    .bind(requested_by)
    .bind(requester_name)
    .bind(actions)
    .bind(named.iter().map(|a| a.uuid()).collect::<Vec<Uuid>>())
    .bind(exposures.iter().map(|e| e.uuid()).collect::<Vec<Uuid>>())
    .bind(bulk)
    .bind(accounts)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Makes these accounts the items of a bulk request.
pub async fn insert_items(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
    accounts: &[AccountId],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO mitigation_items (tenant_id, request_id, account_id) SELECT $1, $2, unnest($3::uuid[])
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(request)
    .bind(accounts.iter().map(|a| a.uuid()).collect::<Vec<Uuid>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The integrations through which a bulk request's accounts are reached. What is deleted is not among them: the executor
/// refuses its accounts, one by one.
pub async fn integrations_of_items(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
) -> Result<Vec<IntegrationId>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT n.integration_id FROM integrations n
         WHERE n.tenant_id = $1 AND n.integration_id IN (
             SELECT a.integration_id FROM mitigation_items i
             JOIN sync.accounts_v a ON a.tenant_id = i.tenant_id AND a.account_id = i.account_id
             WHERE i.tenant_id = $1 AND i.request_id = $2)
         ORDER BY n.integration_id",
    )
    .bind(tenant)
    .bind(request)
    .fetch_all(&mut **tx)
    .await?)
}

/// How many of a bulk request's accounts belong to no integration any more: nothing can be done to them.
pub async fn unreachable_items(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
) -> Result<usize, StoreError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM mitigation_items i
         JOIN sync.accounts_v a ON a.tenant_id = i.tenant_id AND a.account_id = i.account_id
         WHERE i.tenant_id = $1 AND i.request_id = $2 AND NOT EXISTS (
             SELECT FROM integrations n WHERE n.tenant_id = $1 AND n.integration_id = a.integration_id)",
    )
    .bind(tenant)
    .bind(request)
    .fetch_one(&mut **tx)
    .await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// A request as it is kept.
#[derive(Clone, Debug, FromRow)]
pub struct Request {
    /// Id.
    pub request_id: MitigationRequestId,
    /// Who asked.
    pub requested_by: String,
    /// Their name.
    pub requester_name: String,
    /// Actions.
    pub actions: Vec<String>,
    /// Accounts, those of the exposures included; none of a bulk request.
    pub account_ids: Vec<Uuid>,
    /// Exposures named.
    pub exposure_ids: Vec<Uuid>,
    /// Why.
    pub reason: String,
    /// When.
    pub created_at: OffsetDateTime,
    /// It takes back,
    pub undo: bool,
    /// these mitigations
    pub mitigation_ids: Vec<Uuid>,
    /// or all automated ones since.
    pub undo_since: Option<OffsetDateTime>,
    /// Risk may be dismissed.
    pub dismiss_risk: bool,
    /// Its accounts are items.
    pub bulk: bool,
    /// How many there are.
    pub accounts: i32,
}

/// One request.
pub async fn request(
    tx: &mut Tx,
    tenant: TenantId,
    id: MitigationRequestId,
) -> Result<Option<Request>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT request_id, requested_by, requester_name, actions, exposure_ids, reason, created_at, undo,
                mitigation_ids, undo_since, dismiss_risk, bulk, accounts,
                ARRAY(SELECT unnest(r.account_ids) UNION
                      SELECT e.account_id FROM validator.exposures_v e
                      WHERE e.tenant_id = $1 AND e.exposure_id = ANY (r.exposure_ids)) AS account_ids
         FROM mitigation_requests r WHERE tenant_id = $1 AND request_id = $2",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

/// How many mitigations of a request stand alike.
#[derive(Clone, Debug, FromRow)]
pub struct Count {
    /// State.
    pub state: String,
    /// Its reason, or empty.
    pub reason: String,
    /// How many.
    pub count: i64,
}

/// The mitigations of a request, counted by state and reason.
pub async fn counts(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
) -> Result<Vec<Count>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT state, coalesce(reason, '') AS reason, count(*) AS count FROM mitigation.mitigations_v
         WHERE tenant_id = $1 AND request_id = $2 GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .bind(tenant)
    .bind(request)
    .fetch_all(&mut **tx)
    .await?)
}

/// A request to take back.
#[derive(Clone, Debug)]
pub struct Undo {
    /// Id.
    pub id: MitigationRequestId,
    /// Who asks.
    pub requested_by: String,
    /// Their name.
    pub requester_name: String,
    /// These mitigations,
    pub of: Vec<MitigationId>,
    /// or all automated ones since.
    pub since: Option<OffsetDateTime>,
    /// Risk may be dismissed.
    pub dismiss_risk: bool,
    /// Why.
    pub reason: String,
}

/// Stores a request to take back.
pub async fn insert_undo(tx: &mut Tx, tenant: TenantId, new: &Undo) -> Result<(), StoreError> {
    let Undo { id, requested_by, requester_name, of, since, dismiss_risk, reason } = new;
    sqlx::query(
        "INSERT INTO mitigation_requests (tenant_id, request_id, requested_by, requester_name, actions, account_ids,
                                          exposure_ids, reason, undo, mitigation_ids, undo_since, dismiss_risk)
         VALUES ($1, $2, $3, $4, '{}', '{}', '{}', $5, true, $6, $7, $8)",
    )
    .bind(tenant)
    .bind(id)
    .bind(requested_by)
    .bind(requester_name)
    .bind(reason)
    .bind(of.iter().map(|m| m.uuid()).collect::<Vec<Uuid>>())
    .bind(since)
    .bind(dismiss_risk)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How many of these the tenant has.
pub async fn count(tx: &mut Tx, tenant: TenantId, of: &[MitigationId]) -> Result<usize, StoreError> {
    let query =
        "SELECT count(*) FROM mitigation.mitigations_v WHERE tenant_id = $1 AND mitigation_id = ANY ($2)";
    let ids: Vec<Uuid> = of.iter().map(|m| m.uuid()).collect();
    let count: i64 = sqlx::query_scalar(query).bind(tenant).bind(ids).fetch_one(&mut **tx).await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Whether anything that was carried out automatically since is in effect and can be taken back. What the directory showed
/// already was not our doing: no call was begun.
pub async fn any_undoable(tx: &mut Tx, tenant: TenantId, since: OffsetDateTime) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM mitigation.mitigations_v
                        WHERE tenant_id = $1 AND automatic AND undoes IS NULL AND state IN ('done', 'verified')
                          AND finished_at >= $2 AND action <> 'revoke_sessions' AND attempt > 0)",
    )
    .bind(tenant)
    .bind(since)
    .fetch_one(&mut **tx)
    .await?)
}

/// A mitigation.
#[derive(Clone, Debug, FromRow)]
pub struct Mitigation {
    /// Id.
    pub mitigation_id: MitigationId,
    /// Exposure.
    pub exposure_id: Option<ExposureId>,
    /// Request.
    pub request_id: Option<MitigationRequestId>,
    /// Account.
    pub account_id: AccountId,
    /// Its sign-in name, while it is known.
    pub login: Option<String>,
    /// Integration.
    pub integration_id: IntegrationId,
    /// Action.
    pub action: String,
    /// State.
    pub state: String,
    /// Its reason.
    pub reason: Option<String>,
    /// Follows from a verdict.
    pub automatic: bool,
    /// Who asked.
    pub requested_by: Option<String>,
    /// Who released it.
    pub released_by: Option<String>,
    /// Planned.
    pub created_at: OffsetDateTime,
    /// Carried out or given up.
    pub finished_at: Option<OffsetDateTime>,
    /// Seen to be in effect.
    pub verified_at: Option<OffsetDateTime>,
    /// Undone.
    pub undone_at: Option<OffsetDateTime>,
    /// Seen to be taken back.
    pub reverted_at: Option<OffsetDateTime>,
    /// What holds it.
    pub held_by: Option<String>,
    /// Further facts.
    pub details: Json<serde_json::Value>,
    /// What it takes back.
    pub undoes: Option<MitigationId>,
    /// What it waits or waited for.
    pub approval_id: Option<ApprovalId>,
}

macro_rules! columns {
    () => {
        "SELECT mitigation_id, exposure_id, request_id, account_id, integration_id, action, state, reason, automatic,
                requested_by, released_by, created_at, finished_at, verified_at, undone_at, reverted_at, held_by, undoes,
                approval_id,
                coalesce(details, '{}'::jsonb) AS details,
                (SELECT a.login FROM sync.accounts_v a
                 WHERE a.tenant_id = m.tenant_id AND a.account_id = m.account_id) AS login
         FROM mitigation.mitigations_v m "
    };
}

/// One mitigation.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: MitigationId) -> Result<Option<Mitigation>, StoreError> {
    Ok(sqlx::query_as(concat!(columns!(), "WHERE tenant_id = $1 AND mitigation_id = $2"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// Which mitigations; what is not set does not restrict.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these states.
    pub states: Option<Vec<String>>,
    /// Any of these actions.
    pub actions: Option<Vec<&'static str>>,
    /// Any of these accounts.
    pub accounts: Option<Vec<Uuid>>,
    /// Any of these exposures.
    pub exposures: Option<Vec<Uuid>>,
    /// Request.
    pub request: Option<Uuid>,
    /// Integration.
    pub integration: Option<Uuid>,
    /// Automatic or by hand.
    pub automatic: Option<bool>,
    /// Planned in this time.
    pub created: (Option<OffsetDateTime>, Option<OffsetDateTime>),
    /// Approval.
    pub approval: Option<Uuid>,
}

/// Mitigations after a place, newest first.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    filter: &Filter,
    after: Option<(OffsetDateTime, MitigationId)>,
    limit: i64,
) -> Result<Vec<Mitigation>, StoreError> {
    let (at, id) = after.unzip();
    let Filter { states, actions, accounts, exposures, request, integration, automatic, created, approval } =
        filter;
    Ok(sqlx::query_as(concat!(
        columns!(),
        "WHERE tenant_id = $1
           AND ($2::text[] IS NULL OR state = ANY ($2))
           AND ($3::text[] IS NULL OR action = ANY ($3))
           AND ($4::uuid[] IS NULL OR account_id = ANY ($4))
           AND ($5::uuid[] IS NULL OR exposure_id = ANY ($5))
           AND ($6::uuid IS NULL OR request_id = $6)
           AND ($7::uuid IS NULL OR integration_id = $7)
           AND ($8::boolean IS NULL OR automatic = $8)
           AND ($9::timestamptz IS NULL OR created_at >= $9)
           AND ($10::timestamptz IS NULL OR created_at < $10)
           AND ($11::uuid IS NULL OR approval_id = $11)
           AND ($12::timestamptz IS NULL OR (created_at, mitigation_id) < ($12, $13))
         ORDER BY created_at DESC, mitigation_id DESC LIMIT $14"
    ))
    .bind(tenant)
    .bind(states)
    .bind(actions)
    .bind(accounts)
    .bind(exposures)
    .bind(request)
    .bind(integration)
    .bind(automatic)
    .bind(created.0)
    .bind(created.1)
    .bind(approval)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// What a person should look at, of one integration's mitigations.
#[derive(Clone, Debug, FromRow)]
pub struct Attention {
    /// The integration.
    pub integration_id: IntegrationId,
    /// Accounts with a mitigation that waits for a second person.
    pub held: i64,
    /// Accounts whose containment was taken back within a week.
    pub reverted: i64,
    /// Break-glass accounts with a leaked password that worked within a week.
    pub break_glass: i64,
}

/// What a person should look at, of these integrations that have anything.
pub async fn attention(
    tx: &mut Tx,
    tenant: TenantId,
    of: &[IntegrationId],
) -> Result<Vec<Attention>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT integration_id, count(DISTINCT account_id) FILTER (WHERE state = 'held') AS held,
                count(DISTINCT account_id) FILTER (WHERE state = 'reverted') AS reverted,
                count(DISTINCT account_id) FILTER (WHERE state = 'refused') AS break_glass
         FROM mitigation.mitigations_v
         WHERE tenant_id = $1 AND integration_id = ANY ($2)
           AND (state IN ('held', 'reverted') OR (state = 'refused' AND reason = 'break_glass'))
           AND (state = 'held' OR coalesce(reverted_at, created_at) > statement_timestamp() - interval '7 days')
         GROUP BY integration_id",
    )
    .bind(tenant)
    .bind(of.iter().map(|i| i.uuid()).collect::<Vec<Uuid>>())
    .fetch_all(&mut **tx)
    .await?)
}
