//! What leads to mitigations: people's requests and verdicts, and the accounts they are about. Every function works in a
//! transaction of the tenant.

use shared::{
    db::{StoreError, Tx, parse},
    id::{AccountId, ExposureId, IntegrationId, MitigationRequestId, ProviderKind},
    policy::{Protected, ValidKind},
    provider::{AccountState, Action},
};
use sqlx::Row;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::foresight;

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
    /// State, as synced.
    pub state: AccountState,
    /// When the password last changed, as synced.
    pub password_changed_at: Option<OffsetDateTime>,
    /// When the account was last seen in its directory.
    pub seen_at: Option<OffsetDateTime>,
    /// The group or role that protects it, as it was read last.
    pub protected_by: Option<String>,
}

/// The accounts, with those of the exposures, that the tenant has, and which of them are protected by group or role.
pub async fn targets(
    tx: &mut Tx,
    accounts: &[Uuid],
    exposures: &[Uuid],
    protected: &Protected,
) -> Result<Vec<Target>, StoreError> {
    let rows = sqlx::query(
        "SELECT account_id, integration_id, provider, directory_id, object_id, login, is_admin, hybrid,
                removed_at IS NULL AS present, state, password_changed_at, last_seen_at
         FROM sync.accounts_v
         WHERE account_id = ANY ($1)
            OR account_id IN (SELECT e.account_id FROM validator.exposures_v e WHERE e.exposure_id = ANY ($2))
         ORDER BY account_id",
    )
    .bind(accounts)
    .bind(exposures)
    .fetch_all(&mut **tx)
    .await?;
    let targets: Result<Vec<Target>, StoreError> = rows
        .iter()
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
                state: AccountState::parse(row.try_get("state")?)
                    .ok_or_else(|| StoreError::Corrupt("accounts.state has an unknown value".into()))?,
                password_changed_at: row.try_get("password_changed_at")?,
                seen_at: row.try_get("last_seen_at")?,
                protected_by: None,
            })
        })
        .collect();
    let mut targets = targets?;
    foresight::protect(tx, protected, &mut targets).await?;
    Ok(targets)
}

/// What a person asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token subject.
    pub requested_by: String,
    /// Name for display.
    pub requester_name: String,
    /// Actions.
    pub actions: Vec<Action>,
    /// Accounts named directly.
    pub accounts: Vec<Uuid>,
    /// Exposures whose accounts are meant.
    pub exposures: Vec<Uuid>,
    /// Its accounts are items.
    pub bulk: bool,
    /// How many accounts it is about.
    pub about: usize,
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
        "SELECT requested_by, requester_name, actions, account_ids, exposure_ids, bulk, accounts, reason,
                undo, mitigation_ids, undo_since, dismiss_risk
         FROM api.mitigation_requests_v WHERE request_id = $1 AND NOT release",
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
        bulk: row.try_get("bulk")?,
        about: usize::try_from(row.try_get::<i32, _>("accounts")?).unwrap_or_default(),
        undo: if row.try_get("undo")? {
            let (of, since) = (row.try_get("mitigation_ids")?, row.try_get("undo_since")?);
            Some(Undo { of, since, dismiss_risk: row.try_get("dismiss_risk")? })
        } else {
            None
        },
        reason: row.try_get("reason")?,
    }))
}

/// The accounts of a bulk request after one, in order.
pub async fn items(
    tx: &mut Tx,
    request: MitigationRequestId,
    after: Uuid,
    most: i64,
) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT account_id FROM api.mitigation_items_v WHERE request_id = $1 AND account_id > $2 ORDER BY account_id LIMIT $3",
    )
    .bind(request)
    .bind(after)
    .bind(most)
    .fetch_all(&mut **tx)
    .await?)
}

/// A verdict that proves a leaked password right.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The exposure.
    pub exposure: ExposureId,
    /// The kind of valid.
    pub kind: ValidKind,
    /// When it was given.
    pub at: OffsetDateTime,
    /// Which feed the leak came from.
    pub feed: String,
}

impl Proof {
    /// Whether the password was changed since: a leak that was proven right works no more. Clocks may differ.
    pub fn is_outdated_by(&self, password_changed_at: Option<OffsetDateTime>) -> bool {
        const CLOCKS: Duration = Duration::minutes(2);
        password_changed_at.is_some_and(|changed| changed > self.at + CLOCKS)
    }
}

/// What an exposure proves now; `None`: nothing.
pub async fn proof(tx: &mut Tx, exposure: ExposureId) -> Result<Option<Proof>, StoreError> {
    let row =
        sqlx::query("SELECT verdict, verdict_at, feed FROM validator.exposures_v WHERE exposure_id = $1")
            .bind(exposure)
            .fetch_optional(&mut **tx)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let kind = row.try_get::<Option<&str>, _>("verdict")?.and_then(ValidKind::of);
    match (kind, row.try_get("verdict_at")?) {
        (Some(kind), Some(at)) => Ok(Some(Proof { exposure, kind, at, feed: row.try_get("feed")? })),
        _ => Ok(None),
    }
}
