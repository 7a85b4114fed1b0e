//! Mitigations, their targets and their ledger. Every function works in a transaction of the tenant.

use std::collections::BTreeMap;

use shared::{
    db::{StoreError, Tx, parse},
    id::{
        AccountId, CauseId, ExposureId, IntegrationId, MessageId, MitigationId, MitigationRequestId,
        ProviderKind, TenantId, WorkId,
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

/// An account of the tenant, as synced.
#[derive(Clone, Debug)]
pub struct Target {
    /// Id.
    pub account: AccountId,
    /// The integration that sees it.
    pub integration: IntegrationId,
    /// Kind of provider.
    pub provider: ProviderKind,
    /// The directory.
    pub directory: String,
    /// Object id there.
    pub object_id: String,
    /// Sign-in name.
    pub login: String,
    /// Known administrator.
    pub is_admin: bool,
    /// Mastered in Active Directory.
    pub hybrid: bool,
    /// In the directory.
    pub present: bool,
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

/// Adds a mitigation; `false`: the exposure or the request has this one already.
pub async fn add(tx: &mut Tx, m: &Mitigation) -> Result<bool, StoreError> {
    let parts = Parts::from(&m.state);
    let (id, name) = m.requested_by.clone().unzip();
    let added = sqlx::query(
        "INSERT INTO mitigations (tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, provider,
             directory_id, object_id, login, is_admin, action, state, reason, held_by, automatic, requested_by,
             requester_name, cause_id, details, undoes, finished_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
             CASE WHEN $13 = 'refused' THEN clock_timestamp() END)
         ON CONFLICT DO NOTHING",
    )
    .bind(m.tenant)
    .bind(m.id)
    .bind(m.exposure)
    .bind(m.request)
    .bind(m.account)
    .bind(m.integration)
    .bind(m.provider.as_str())
    .bind(&m.directory)
    .bind(&m.object_id)
    .bind(&m.login)
    .bind(m.is_admin)
    .bind(m.action.as_str())
    .bind(parts.name)
    .bind(parts.reason)
    .bind(parts.held_by)
    .bind(m.automatic)
    .bind(id)
    .bind(name)
    .bind(m.cause)
    .bind(Json(&m.details))
    .bind(m.undoes)
    .execute(&mut **tx)
    .await?;
    Ok(added.rows_affected() == 1)
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
             revision = revision + 1
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
    .execute(&mut **tx)
    .await?;
    if saved.rows_affected() != 1 {
        return Err(StoreError::Stale("the mitigation was changed meanwhile"));
    }
    m.revision += 1;
    Ok(())
}

/// Held mitigations of these accounts, the listed actions only, or all when none is listed.
pub async fn held(
    tx: &mut Tx,
    accounts: &[AccountId],
    actions: &[Action],
) -> Result<Vec<Mitigation>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM mitigations WHERE state = 'held' AND account_id = ANY ($1)
             AND (cardinality($2::text[]) = 0 OR action = ANY ($2))
         ORDER BY created_at, mitigation_id",
    )
    .bind(accounts.iter().map(|a| a.uuid()).collect::<Vec<_>>())
    .bind(actions.iter().map(|a| a.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(mitigation).collect()
}

/// The accounts, with those of the exposures, that the tenant has.
pub async fn targets(tx: &mut Tx, accounts: &[Uuid], exposures: &[Uuid]) -> Result<Vec<Target>, StoreError> {
    let rows = sqlx::query(
        "SELECT account_id, integration_id, provider, directory_id, object_id, login, is_admin, hybrid,
                removed_at IS NULL AS present
         FROM sync.accounts_v
         WHERE account_id = ANY ($1)
            OR account_id IN (SELECT e.account_id FROM validator.exposures_v e WHERE e.exposure_id = ANY ($2))
         ORDER BY account_id",
    )
    .bind(accounts)
    .bind(exposures)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Target {
                account: row.try_get("account_id")?,
                integration: row.try_get("integration_id")?,
                provider: parse("accounts.provider", row.try_get("provider")?)?,
                directory: row.try_get("directory_id")?,
                object_id: row.try_get("object_id")?,
                login: row.try_get("login")?,
                is_admin: row.try_get("is_admin")?,
                hybrid: row.try_get("hybrid")?,
                present: row.try_get("present")?,
            })
        })
        .collect()
}

/// What a person asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token subject.
    pub requested_by: String,
    /// Name for display.
    pub requester_name: String,
    /// Actions; none in a release means all.
    pub actions: Vec<Action>,
    /// Accounts named directly.
    pub accounts: Vec<Uuid>,
    /// Exposures whose accounts are meant.
    pub exposures: Vec<Uuid>,
    /// Release instead of asking.
    pub release: bool,
    /// Take back instead of asking.
    pub undo: Option<Undo>,
    /// The reason given.
    pub reason: String,
}

/// What a person wants taken back.
#[derive(Clone, Debug)]
pub struct Undo {
    /// These mitigations,
    pub of: Vec<Uuid>,
    /// or all that was carried out automatically since.
    pub since: Option<OffsetDateTime>,
    /// Risk may be dismissed, with the directory's own detections.
    pub dismiss_risk: bool,
}

/// A person's request, as integration-api stored it.
pub async fn request(tx: &mut Tx, id: MitigationRequestId) -> Result<Option<Request>, StoreError> {
    let row = sqlx::query(
        "SELECT requested_by, requester_name, actions, account_ids, exposure_ids, release, reason,
                undo, mitigation_ids, undo_since, dismiss_risk
         FROM api.mitigation_requests_v WHERE request_id = $1",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let actions = row.try_get::<Vec<String>, _>("actions")?;
    Ok(Some(Request {
        requested_by: row.try_get("requested_by")?,
        requester_name: row.try_get("requester_name")?,
        actions: actions
            .iter()
            .map(|a| Action::parse(a))
            .collect::<Option<_>>()
            .ok_or_else(|| StoreError::Corrupt("mitigation_requests.actions has an unknown value".into()))?,
        accounts: row.try_get("account_ids")?,
        exposures: row.try_get("exposure_ids")?,
        release: row.try_get("release")?,
        undo: if row.try_get("undo")? {
            let (of, since) = (row.try_get("mitigation_ids")?, row.try_get("undo_since")?);
            Some(Undo { of, since, dismiss_risk: row.try_get("dismiss_risk")? })
        } else {
            None
        },
        reason: row.try_get("reason")?,
    }))
}

/// The verdict of an exposure; `None`: there is no such exposure.
pub async fn verdict(tx: &mut Tx, exposure: ExposureId) -> Result<Option<Option<String>>, StoreError> {
    Ok(sqlx::query_scalar("SELECT verdict FROM validator.exposures_v WHERE exposure_id = $1")
        .bind(exposure)
        .fetch_optional(&mut **tx)
        .await?)
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
