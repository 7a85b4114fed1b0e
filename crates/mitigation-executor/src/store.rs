//! Mitigations and their ledger. Every function works in a transaction of the tenant.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use shared::{
    db::{StoreError, Tx, parse},
    id::{
        AccountId, ApprovalId, CauseId, ExposureId, IntegrationId, MessageId, MitigationId,
        MitigationRequestId, ProviderKind, TenantId, WorkId,
    },
    provider::{Action, Containment},
    work::lane::Lane,
};
use sqlx::{Row, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    plan::{Before, Hold, Refusal, inverse},
    state::State,
};

/// An action on an account.
#[derive(Clone, Debug)]
pub struct Mitigation {
    /// Whose.
    pub tenant: TenantId,
    /// Id.
    pub id: MitigationId,
    /// The exposure whose verdict led here.
    pub exposure: Option<ExposureId>,
    /// The request that led here.
    pub request: Option<MitigationRequestId>,
    /// The account, as its integration sees it.
    pub account: AccountId,
    /// The integration.
    pub integration: IntegrationId,
    /// Kind of provider.
    pub provider: ProviderKind,
    /// The directory.
    pub directory: String,
    /// The account's object id there.
    pub object_id: String,
    /// Its sign-in name at planning.
    pub login: String,
    /// It was known to be an administrator at planning.
    pub is_admin: bool,
    /// What is done.
    pub action: Action,
    /// Where it is.
    pub state: State,
    /// It follows a verdict by itself.
    pub automatic: bool,
    /// Who asked: token subject and name.
    pub requested_by: Option<(String, String)>,
    /// The second person who let it run.
    pub released_by: Option<String>,
    /// What led here.
    pub cause: Option<CauseId>,
    /// The mitigation that this one takes back; `None`: it contains.
    pub undoes: Option<MitigationId>,
    /// What it is or was held with.
    pub approval: Option<ApprovalId>,
    /// Begun after the account's lower ones of the same origin.
    pub place: i16,
    /// Automated: the date of the password that the verdict was about; empty where the directory does not tell.
    pub password_epoch: String,
    /// The policy's version under which it was planned.
    pub policy_version: i32,
    /// Provider calls begun.
    pub attempt: i32,
    /// Re-reads done after the action.
    pub checks: i32,
    /// Facts by name.
    pub details: BTreeMap<String, String>,
    /// When it was planned.
    pub created_at: OffsetDateTime,
    /// When it was carried out or refused.
    pub finished_at: Option<OffsetDateTime>,
    /// When its effect was seen.
    pub verified_at: Option<OffsetDateTime>,
    /// When it was seen to be taken back.
    pub reverted_at: Option<OffsetDateTime>,
    /// The row's revision.
    pub revision: i32,
}

fn state(row: &PgRow) -> Result<State, StoreError> {
    let corrupt = |column: &str| StoreError::Corrupt(format!("mitigations.{column} has an unknown value"));
    let reason: Option<String> = row.try_get("reason")?;
    Ok(match row.try_get::<&str, _>("state")? {
        "planned" => State::Planned { waits: reason },
        "held" => {
            let by: &str = row.try_get("held_by")?;
            State::Held { by: Hold::parse(by).ok_or_else(|| corrupt("held_by"))? }
        }
        "acting" => State::Acting {
            message: MessageId(row.try_get("acting_message")?),
            until: row.try_get("acting_until")?,
        },
        "unknown" => State::Unknown,
        "done" => State::Done,
        "verified" => State::Verified,
        "reverted" => State::Reverted,
        "undone" => State::Undone,
        "refused" => {
            let reason = reason.as_deref().and_then(Refusal::parse);
            State::Refused { reason: reason.ok_or_else(|| corrupt("reason"))? }
        }
        _ => return Err(corrupt("state")),
    })
}

pub(crate) fn mitigation(row: &PgRow) -> Result<Mitigation, StoreError> {
    let action: &str = row.try_get("action")?;
    let requested_by: Option<String> = row.try_get("requested_by")?;
    let requester_name: Option<String> = row.try_get("requester_name")?;
    Ok(Mitigation {
        tenant: row.try_get("tenant_id")?,
        id: row.try_get("mitigation_id")?,
        exposure: row.try_get("exposure_id")?,
        request: row.try_get("request_id")?,
        account: row.try_get("account_id")?,
        integration: row.try_get("integration_id")?,
        provider: parse("mitigations.provider", row.try_get("provider")?)?,
        directory: row.try_get("directory_id")?,
        object_id: row.try_get("object_id")?,
        login: row.try_get("login")?,
        is_admin: row.try_get("is_admin")?,
        action: Action::parse(action)
            .ok_or_else(|| StoreError::Corrupt("mitigations.action has an unknown value".into()))?,
        state: state(row)?,
        automatic: row.try_get("automatic")?,
        requested_by: requested_by.map(|id| (id, requester_name.unwrap_or_default())),
        released_by: row.try_get("released_by")?,
        cause: row.try_get("cause_id")?,
        undoes: row.try_get("undoes")?,
        approval: row.try_get("approval_id")?,
        place: row.try_get("place")?,
        password_epoch: row.try_get("password_epoch")?,
        policy_version: row.try_get("policy_version")?,
        attempt: row.try_get("attempt")?,
        checks: row.try_get("checks")?,
        details: row.try_get::<Json<BTreeMap<String, String>>, _>("details")?.0,
        created_at: row.try_get("created_at")?,
        finished_at: row.try_get("finished_at")?,
        verified_at: row.try_get("verified_at")?,
        reverted_at: row.try_get("reverted_at")?,
        revision: row.try_get("revision")?,
    })
}

impl Mitigation {
    /// Where its work is given out.
    pub fn lane(&self) -> Lane<'_> {
        Lane { tenant: self.tenant, directory: &self.directory }
    }
}

/// Columns that hold the parts of a state.
struct Parts {
    name: &'static str,
    reason: Option<String>,
    held_by: Option<&'static str>,
    acting: Option<(Uuid, OffsetDateTime)>,
}

impl From<&State> for Parts {
    fn from(state: &State) -> Self {
        let name = state.name();
        let (mut reason, mut held_by, mut acting) = (None, None, None);
        match state {
            State::Planned { waits } => reason.clone_from(waits),
            State::Held { by } => {
                held_by = Some(by.as_str());
                reason = Some(by.as_str().to_owned());
            }
            State::Acting { message, until } => acting = Some((message.uuid(), *until)),
            State::Refused { reason: refusal } => reason = Some(refusal.as_str().to_owned()),
            State::Unknown | State::Done | State::Verified | State::Reverted | State::Undone => {}
        }
        Self { name, reason, held_by, acting }
    }
}

/// A mitigation as it is added; the names are those of the columns.
#[derive(Serialize)]
struct Added<'a> {
    mitigation_id: Uuid,
    exposure_id: Option<Uuid>,
    request_id: Option<Uuid>,
    account_id: Uuid,
    integration_id: Uuid,
    provider: &'static str,
    directory_id: &'a str,
    object_id: &'a str,
    login: &'a str,
    is_admin: bool,
    action: &'static str,
    state: &'static str,
    reason: Option<String>,
    held_by: Option<&'static str>,
    automatic: bool,
    requested_by: Option<&'a str>,
    requester_name: Option<&'a str>,
    cause_id: Option<Uuid>,
    details: &'a BTreeMap<String, String>,
    undoes: Option<Uuid>,
    approval_id: Option<Uuid>,
    place: i16,
    password_epoch: &'a str,
    policy_version: i32,
}

/// Adds mitigations of one tenant. Returns which of them: the others' exposure or request has them already.
pub async fn add(
    tx: &mut Tx,
    tenant: TenantId,
    mitigations: &[Mitigation],
) -> Result<HashSet<MitigationId>, StoreError> {
    let rows: Vec<_> = mitigations
        .iter()
        .map(|m| {
            let parts = Parts::from(&m.state);
            let (requested_by, requester_name) =
                m.requested_by.as_ref().map(|(id, name)| (id.as_str(), name.as_str())).unzip();
            Added {
                mitigation_id: m.id.uuid(),
                exposure_id: m.exposure.map(ExposureId::uuid),
                request_id: m.request.map(MitigationRequestId::uuid),
                account_id: m.account.uuid(),
                integration_id: m.integration.uuid(),
                provider: m.provider.as_str(),
                directory_id: &m.directory,
                object_id: &m.object_id,
                login: &m.login,
                is_admin: m.is_admin,
                action: m.action.as_str(),
                state: parts.name,
                reason: parts.reason,
                held_by: parts.held_by,
                automatic: m.automatic,
                requested_by,
                requester_name,
                cause_id: m.cause.map(CauseId::uuid),
                details: &m.details,
                undoes: m.undoes.map(MitigationId::uuid),
                approval_id: m.approval.map(ApprovalId::uuid),
                place: m.place,
                password_epoch: &m.password_epoch,
                policy_version: m.policy_version,
            }
        })
        .collect();
    let added: Vec<MitigationId> = sqlx::query_scalar(
        "INSERT INTO mitigations (tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, provider,
             directory_id, object_id, login, is_admin, action, state, reason, held_by, automatic, requested_by,
             requester_name, cause_id, details, undoes, approval_id, place, password_epoch, policy_version, finished_at)
         SELECT $1, mitigation_id, exposure_id, request_id, account_id, integration_id, provider, directory_id, object_id,
                login, is_admin, action, state, reason, held_by, automatic, requested_by, requester_name, cause_id, details,
                undoes, approval_id, place, password_epoch, policy_version,
                CASE WHEN state = 'refused' THEN clock_timestamp() END
         FROM jsonb_to_recordset($2) AS m (mitigation_id uuid, exposure_id uuid, request_id uuid, account_id uuid,
              integration_id uuid, provider text, directory_id text, object_id text, login text, is_admin boolean,
              action text, state text, reason text, held_by text, automatic boolean, requested_by text,
              requester_name text, cause_id uuid, details jsonb, undoes uuid, approval_id uuid, place smallint,
              password_epoch text, policy_version integer)
         ON CONFLICT DO NOTHING RETURNING mitigation_id",
    )
    .bind(tenant)
    .bind(Json(rows))
    .fetch_all(&mut **tx)
    .await?;
    Ok(added.into_iter().collect())
}

/// A mitigation.
pub async fn get(tx: &mut Tx, id: MitigationId) -> Result<Option<Mitigation>, StoreError> {
    let row = sqlx::query("SELECT * FROM mitigations WHERE mitigation_id = $1")
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(mitigation).transpose()
}

/// Stores what changed. [`StoreError::Stale`] when somebody else changed it since it was read.
pub async fn save(tx: &mut Tx, m: &mut Mitigation) -> Result<(), StoreError> {
    let parts = Parts::from(&m.state);
    let (message, until) = parts.acting.unzip();
    let saved = sqlx::query(
        "UPDATE mitigations SET state = $3, reason = $4, held_by = $5, acting_message = $6, acting_until = $7,
             released_by = $8, released_at = CASE WHEN $8 IS NULL THEN NULL ELSE coalesce(released_at, clock_timestamp()) END,
             attempt = $9, checks = $10, details = $11, finished_at = $12, verified_at = $13, reverted_at = $14,
             approval_id = $15, revision = revision + 1
         WHERE mitigation_id = $1 AND revision = $2",
    )
    .bind(m.id)
    .bind(m.revision)
    .bind(parts.name)
    .bind(parts.reason)
    .bind(parts.held_by)
    .bind(message)
    .bind(until)
    .bind(&m.released_by)
    .bind(m.attempt)
    .bind(m.checks)
    .bind(Json(&m.details))
    .bind(m.finished_at)
    .bind(m.verified_at)
    .bind(m.reverted_at)
    .bind(m.approval)
    .execute(&mut **tx)
    .await?;
    if saved.rows_affected() != 1 {
        return Err(StoreError::Stale("the mitigation was changed meanwhile"));
    }
    m.revision += 1;
    Ok(())
}

/// The next action on the account of the same origin that was not tried yet.
pub async fn next(tx: &mut Tx, m: &Mitigation) -> Result<Option<Mitigation>, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM mitigations
         WHERE account_id = $1 AND exposure_id IS NOT DISTINCT FROM $2 AND request_id IS NOT DISTINCT FROM $3
           AND undoes IS NULL AND place > $4 AND state = 'planned' AND attempt = 0 AND reason IS NULL
         ORDER BY place LIMIT 1",
    )
    .bind(m.account)
    .bind(m.exposure)
    .bind(m.request)
    .bind(m.place)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(mitigation).transpose()
}

/// Notes what the account looks like before a provider call.
pub async fn open_ledger(tx: &mut Tx, m: &Mitigation, before: &Containment) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO ledger (tenant_id, mitigation_id, attempt, before_state, before_sessions, before_compromised, inverse)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(m.tenant)
    .bind(m.id)
    .bind(m.attempt)
    .bind(before.state.as_str())
    .bind(before.sessions_valid_from)
    .bind(before.compromised)
    .bind(inverse(m.action).filter(|_| m.undoes.is_none()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes how the provider call ended.
pub async fn settle_ledger(
    tx: &mut Tx,
    m: &Mitigation,
    outcome: &'static str,
    request_id: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE ledger SET outcome = $3, provider_request_id = $4, settled_at = clock_timestamp()
         WHERE mitigation_id = $1 AND attempt = $2 AND outcome IS NULL",
    )
    .bind(m.id)
    .bind(m.attempt)
    .bind(outcome)
    .bind(request_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes when the directory says that an action took effect, once. A date far from our call is of somebody else's.
pub async fn note_change(tx: &mut Tx, m: &Mitigation, at: Option<OffsetDateTime>) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE ledger SET after_changed = $3
         WHERE mitigation_id = $1 AND attempt = $2 AND after_changed IS NULL
           AND $3 BETWEEN intent_at - interval '10 minutes' AND intent_at + interval '10 minutes'",
    )
    .bind(m.id)
    .bind(m.attempt)
    .bind(at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What was known before the first call of a mitigation.
pub async fn before(tx: &mut Tx, id: MitigationId) -> Result<Option<Before>, StoreError> {
    let before: Option<(Option<OffsetDateTime>, OffsetDateTime)> = sqlx::query_as(
        "SELECT before_sessions, intent_at FROM ledger WHERE mitigation_id = $1 ORDER BY attempt LIMIT 1",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(before.map(|(sessions, intent)| Before { sessions, intent }))
}

/// Whether a row of work is given out, held until the transaction ends. Not given out: the message is a repetition.
pub async fn is_given_out(tx: &mut Tx, work: WorkId) -> Result<bool, StoreError> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM work WHERE work_id = $1 FOR UPDATE")
        .bind(work)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(state.as_deref() == Some("in_flight"))
}
