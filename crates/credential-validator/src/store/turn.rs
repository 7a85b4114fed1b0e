//! What one exposure's turn reads and writes.

use shared::{
    db::{StoreError, Tx, parse},
    entitled,
    id::{AccountId, AccountKey, AttemptId, ExposureId, IntegrationId, TenantId, WorkId},
    integration_store::{self, Integration, Package, Sealed},
    provider::{AccountKind, AccountState, PasswordAuthority, account_key},
    sealed_secret,
    triage::Place,
    verdict::Verdict,
    work::{
        self,
        lane::{Lane, Standing},
    },
};
use sqlx::{AssertSqlSafe, Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    exposures::place,
    pauses::{Pause, pause_in_force},
};
use crate::triage::{AccountFacts, PasswordPolicy, Secret, SecretForm, Tried, captured_until};

/// Whether a person asks for an exposure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody does.
    No,
    /// Every request that does is paused, or just cancelled.
    Held,
    /// A running request does.
    Yes,
    /// One that decides again does, since then: what the rules save must be tried.
    Insists(OffsetDateTime),
}

impl Asked {
    /// Since when a person insists on an attempt, whatever the rules save.
    pub fn insists_since(self) -> Option<OffsetDateTime> {
        match self {
            Self::Insists(since) => Some(since),
            Self::No | Self::Held | Self::Yes => None,
        }
    }

    fn read(row: &PgRow) -> Result<Self, StoreError> {
        Ok(match (row.try_get("requested")?, row.try_get("running")?, row.try_get("insists_since")?) {
            (false, ..) => Self::No,
            (true, _, Some(since)) => Self::Insists(since),
            (true, true, None) => Self::Yes,
            (true, false, None) => Self::Held,
        })
    }
}

/// The columns that [`Asked`] is read from, of an exposure `e`, and the time.
macro_rules! asked {
    () => {
        "clock_timestamp() AS now, e.requested, e.asked_by = '{}' OR EXISTS (
             SELECT FROM api.validation_requests_v r
             WHERE r.tenant_id = e.tenant_id AND r.validation_id = ANY (e.asked_by) AND r.state = 'running') AS running,
         (SELECT max(r.created_at) FROM api.validation_requests_v r
          WHERE r.tenant_id = e.tenant_id AND r.validation_id = ANY (e.asked_by) AND r.state = 'running'
            AND r.force) AS insists_since"
    };
}

/// Names the attempt of an exposure's round: whatever message asks, it is the same one, and it is granted once.
pub fn attempt_of(exposure: ExposureId, round: i32) -> AttemptId {
    const ATTEMPTS: Uuid = Uuid::from_u128(0x6b1d_1a0e_1c2f_5a34_9c11_7061_7261_7065);
    let mut name = exposure.uuid().as_bytes().to_vec();
    name.extend_from_slice(&round.to_be_bytes());
    AttemptId(Uuid::new_v5(&ATTEMPTS, &name))
}

/// An exposure whose turn has come.
#[derive(Clone, Debug)]
pub struct Turn {
    pub tenant: TenantId,
    pub exposure: ExposureId,
    pub work: WorkId,
    pub account: AccountId,
    pub integration: IntegrationId,
    pub key: AccountKey,
    pub login_at_match: String,
    /// Whether it was entered at the directory's own page is told by `targets`, once the integration is known.
    pub secret: Secret,
    /// Where it was entered, as the record says.
    pub targets: Vec<String>,
    pub sealed: Option<Vec<u8>>,
    pub history: bool,
    /// Whether a person asks for it.
    pub asked: Asked,
    /// Whether it was decided when a person first asked: then people alone want it decided again.
    pub had_verdict: bool,
    pub round: i32,
    /// The account as synced; `None`: its row is gone.
    pub facts: Option<AccountFacts>,
    /// The strictest of the directory, as synced.
    pub threshold: Option<u32>,
    /// What passwords of the directory satisfy, as far as it was read.
    pub policy: Option<PasswordPolicy>,
    /// What attempts proved on the account.
    pub tried: Vec<Tried>,
    /// The pause that held when it was read.
    pub pause: Option<Pause>,
    /// How its lane stood then.
    pub standing: Standing,
}

impl Turn {
    /// Where its work is given out.
    pub fn lane(&self) -> Lane<'_> {
        Lane { tenant: self.tenant, directory: &self.key.directory }
    }

    /// The attempt of this round.
    pub fn attempt(&self) -> AttemptId {
        attempt_of(self.exposure, self.round)
    }
}

/// A turn with what is known before the directory is asked.
#[derive(Debug)]
pub struct Loaded {
    pub turn: Turn,
    /// The integration and its tenant's package.
    pub entitled: Option<(Integration, Package)>,
    /// The integration's newest secret.
    pub secret: Option<Sealed>,
    /// Whether what the directory's log of sign-ins shows of the account can change a decision about it.
    pub log_matters: bool,
}

/// The turn, if it is still to be taken: the exposure waits, and its work was given out.
pub async fn load(
    tx: &mut Tx,
    tenant: TenantId,
    work: WorkId,
    exposure: ExposureId,
) -> Result<Option<Loaded>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        asked!(),
        ", ",
        entitled!(),
        ", e.account_id, e.integration_id, e.provider AS exposed_at, e.directory_id AS exposed_in, e.object_id,
                e.login_at_match, e.secret_form,
                e.secret_sealed, e.secret_expired, e.unusable, e.digest, e.captured_before, e.date_precision,
                e.published_at, e.first_seen_at, e.received_at, e.targets, e.history, e.round,
                coalesce(e.set_aside ->> 'state' = 'decided', false) AS had_verdict,
                a.state, a.kind, a.authority, a.hybrid, a.password_changed_at, a.created_at_directory,
                a.under_policy_since, a.removed_at IS NOT NULL AS removed, p.lockout_threshold,
                p.rules_since, p.min_length, p.min_lower, p.min_upper, p.min_digits, p.min_classes,
                t.digests, t.verdicts, t.dates, z.pause_reason, z.pause_until,
                h.held_until, coalesce(h.held_until > clock_timestamp(), false) AS held, h.reason AS hold_reason,
                s.secret_version, s.kid, s.sealed, s.unproven, budget.log_matters(e.provider, k.directory, k.object) AS log_matters,
                e.state = 'waiting' AND w.state = 'in_flight' AS due
         FROM exposures e
         JOIN work w ON w.tenant_id = e.tenant_id AND w.subject = e.exposure_id AND w.work_id = $3
         LEFT JOIN sync.accounts_v a ON a.tenant_id = e.tenant_id AND a.account_id = e.account_id
         LEFT JOIN sync.directory_policies_v p ON p.tenant_id = e.tenant_id AND p.integration_id = e.integration_id
         CROSS JOIN LATERAL ( -- spelled as account_key does
             SELECT CASE e.provider WHEN 'entra_id' THEN lower(e.directory_id) ELSE e.directory_id END AS directory,
                    CASE e.provider WHEN 'entra_id' THEN lower(e.object_id) ELSE e.object_id END AS object) k
         LEFT JOIN lane_holds h ON h.tenant_id = e.tenant_id AND h.directory = k.directory
         LEFT JOIN LATERAL (
             SELECT array_agg(digest) AS digests, array_agg(verdict) AS verdicts, array_agg(tried_at) AS dates FROM tried
             WHERE tenant_id = e.tenant_id AND provider = e.provider AND directory_id = k.directory
               AND object_id = k.object) t ON true
         LEFT JOIN LATERAL (",
        pause_in_force!("e.tenant_id", "k.directory"),
        ") z ON true
         LEFT JOIN (api.integrations_v i JOIN api.tenants_v o ON o.tenant_id = i.tenant_id)
             ON i.tenant_id = e.tenant_id AND i.integration_id = e.integration_id
         LEFT JOIN LATERAL (",
        sealed_secret!(),
        ") s ON true
         WHERE e.tenant_id = $1 AND e.exposure_id = $2",
    ))
    .bind(tenant)
    .bind(exposure)
    .bind(work)
    .fetch_optional(&mut **tx)
    .await?;
    // The states are no conditions: a kept plan would read the whole index of what waits, which was empty when it was made.
    let Some(row) = row else { return Ok(None) };
    if !row.try_get::<bool, _>("due")? {
        return Ok(None);
    }
    tx.clock_was_read(row.try_get("now")?);
    let sealed: Option<Vec<u8>> = row.try_get("secret_sealed")?;
    let secret = Secret {
        form: SecretForm::parse(row.try_get("secret_form")?),
        kept: sealed.is_some(),
        expired: row.try_get("secret_expired")?,
        unusable: row.try_get("unusable")?,
        digest: row.try_get("digest")?,
        captured_until: captured_until(
            row.try_get("captured_before")?,
            row.try_get("date_precision")?,
            row.try_get("published_at")?,
            row.try_get("first_seen_at")?,
            row.try_get("received_at")?,
        ),
        own_page: false,
    };
    let provider = parse("exposures.provider", row.try_get("exposed_at")?)?;
    let integration = IntegrationId(row.try_get("integration_id")?);
    let synced = row.try_get::<Option<&str>, _>("state")?.is_some();
    let turn = Turn {
        tenant,
        exposure,
        work,
        account: AccountId(row.try_get("account_id")?),
        integration,
        key: account_key(provider, row.try_get("exposed_in")?, row.try_get("object_id")?),
        login_at_match: row.try_get("login_at_match")?,
        secret,
        targets: row.try_get("targets")?,
        sealed,
        history: row.try_get("history")?,
        asked: Asked::read(&row)?,
        had_verdict: row.try_get("had_verdict")?,
        round: row.try_get("round")?,
        facts: if synced { Some(account_facts(&row)?) } else { None },
        threshold: row.try_get::<Option<i32>, _>("lockout_threshold")?.and_then(|t| u32::try_from(t).ok()),
        policy: policy(&row)?,
        tried: tried(&row)?,
        pause: Pause::read(&row)?,
        standing: match row.try_get("hold_reason")? {
            Some(reason) => Standing::of(row.try_get("held_until")?, row.try_get("held")?, reason),
            None => Standing::Well,
        },
    };
    let entitled = integration_store::entitled_of(integration, &row)?;
    let (secret, log_matters) = (integration_store::sealed_of(&row)?, row.try_get("log_matters")?);
    Ok(Some(Loaded { turn, entitled, secret, log_matters }))
}

/// Ends work that was given out for an exposure that waits for nothing: it was scheduled once more while the turn that
/// decided it went on. Otherwise it would keep its place in the lane until its lease ends.
pub async fn drop_leftover(tx: &mut Tx, tenant: TenantId, id: WorkId) -> Result<(), StoreError> {
    let leftover: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM work w JOIN exposures e ON e.tenant_id = w.tenant_id AND e.exposure_id = w.subject
                        WHERE w.work_id = $1 AND w.tenant_id = $2 AND w.state = 'in_flight' AND e.state <> 'waiting')",
    )
    .bind(id)
    .bind(tenant)
    .fetch_one(&mut **tx)
    .await?;
    if leftover { work::finish(tx, id).await } else { Ok(()) }
}

fn tried(row: &PgRow) -> Result<Vec<Tried>, StoreError> {
    let digests = row.try_get::<Option<Vec<Vec<u8>>>, _>("digests")?.unwrap_or_default();
    let verdicts = row.try_get::<Option<Vec<String>>, _>("verdicts")?.unwrap_or_default();
    let dates = row.try_get::<Option<Vec<OffsetDateTime>>, _>("dates")?.unwrap_or_default();
    let rows = digests.into_iter().zip(verdicts).zip(dates);
    rows.map(|((digest, verdict), at)| Ok(Tried { digest, verdict: proven(&verdict)?, at })).collect()
}

fn proven(name: &str) -> Result<Verdict, StoreError> {
    [Verdict::Valid, Verdict::ValidSecondFactor, Verdict::ValidExpired, Verdict::Invalid]
        .into_iter()
        .find(|v| v.name() == name)
        .ok_or_else(|| StoreError::Corrupt("tried.verdict".into()))
}

fn policy(row: &PgRow) -> Result<Option<PasswordPolicy>, StoreError> {
    let Some(since) = row.try_get("rules_since")? else { return Ok(None) };
    let number =
        |column| Ok::<_, StoreError>(usize::try_from(row.try_get::<i32, _>(column)?).unwrap_or_default());
    Ok(Some(PasswordPolicy {
        min_length: number("min_length")?,
        min_lower: number("min_lower")?,
        min_upper: number("min_upper")?,
        min_digits: number("min_digits")?,
        min_classes: number("min_classes")?,
        since,
    }))
}

/// The columns of an account that triage looks at.
pub fn account_facts(row: &PgRow) -> Result<AccountFacts, StoreError> {
    let unknown = |column: &str| StoreError::Corrupt(format!("sync.accounts.{column} has an unknown value"));
    Ok(AccountFacts {
        state: AccountState::parse(row.try_get("state")?).ok_or_else(|| unknown("state"))?,
        kind: AccountKind::parse(row.try_get("kind")?).ok_or_else(|| unknown("kind"))?,
        authority: PasswordAuthority::parse(row.try_get("authority")?).ok_or_else(|| unknown("authority"))?,
        hybrid: row.try_get("hybrid")?,
        under_policy_since: row.try_get("under_policy_since")?,
        password_changed_at: row.try_get("password_changed_at")?,
        created_at: row.try_get("created_at_directory")?,
        removed: row.try_get("removed")?,
    })
}

/// Takes the exposure's row lock, if it still waits in this round: the first statement of a transaction.
pub fn hold(turn: &Turn) -> AssertSqlSafe<String> {
    // An id is hexadecimal digits and hyphens.
    AssertSqlSafe(format!("SELECT validator.hold('{}', {})", turn.exposure, turn.round))
}

/// Whether [`hold`], the first statement of this transaction, took the lock.
pub fn held(tx: &mut Tx, rows: &[PgRow]) -> Result<bool, StoreError> {
    let microseconds: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
    if let Some(now) = microseconds {
        let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(now) * 1_000);
        tx.clock_was_read(now.map_err(|_| StoreError::Corrupt("the clock is out of range".into()))?);
    }
    Ok(microseconds.is_some())
}

/// The same in a transaction that has begun.
pub async fn lock(tx: &mut Tx, turn: &Turn) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT validator.hold($1, $2)")
        .bind(turn.exposure)
        .bind(turn.round)
        .fetch_one(&mut **tx)
        .await?;
    held(tx, &[row])
}

/// What must hold at the instant of a reservation. A pause, a switch and a new request bite at once.
#[derive(Debug)]
pub struct Present {
    pub asked: Asked,
    pub entitled: Option<(Integration, Package)>,
    pub pause: Option<Pause>,
}

/// Reads it; the caller holds the exposure's row lock, from a statement before.
pub async fn present(tx: &mut Tx, turn: &Turn) -> Result<Present, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        asked!(),
        ", ",
        entitled!(),
        ", z.pause_reason, z.pause_until
         FROM exposures e
         LEFT JOIN (api.integrations_v i JOIN api.tenants_v o ON o.tenant_id = i.tenant_id)
             ON i.tenant_id = $1 AND i.integration_id = $4
         LEFT JOIN LATERAL (",
        pause_in_force!("e.tenant_id", "$3"),
        ") z ON true
         WHERE e.tenant_id = $1 AND e.exposure_id = $2",
    ))
    .bind(turn.tenant)
    .bind(turn.exposure)
    .bind(&turn.key.directory)
    .bind(turn.integration)
    .fetch_one(&mut **tx)
    .await?;
    let entitled = integration_store::entitled_of(turn.integration, &row)?;
    Ok(Present { asked: Asked::read(&row)?, entitled, pause: Pause::read(&row)? })
}

/// Notes that the outcome of the turn's attempt is recorded, and remembers what it proved: the verdict about a digest. The
/// newest proof of a password counts. Returns the exposures that wait and that this may decide without an attempt: an
/// invalid password decides itself, a valid one all others of the account.
pub async fn conclude(
    tx: &mut Tx,
    turn: &Turn,
    proved: Option<(Verdict, &[u8])>,
) -> Result<Vec<(ExposureId, Place)>, StoreError> {
    let (verdict, digest) = proved.unzip();
    let rows = sqlx::query(
        "WITH noted AS (UPDATE attempts SET concluded = true WHERE attempt_id = $1),
         remembered AS (
             INSERT INTO tried AS t (tenant_id, provider, directory_id, object_id, digest, verdict, exposure_id, tried_at)
             SELECT $2, $3, $4, $5, $6, $7, $8, clock_timestamp() WHERE $6 IS NOT NULL
             ON CONFLICT (tenant_id, provider, directory_id, object_id, digest)
             DO UPDATE SET verdict = excluded.verdict, exposure_id = excluded.exposure_id, tried_at = excluded.tried_at)
         SELECT exposure_id, likelihood, privileged FROM exposures
         WHERE tenant_id = $2 AND state = 'waiting' AND object_id = $5 AND directory_id = $4 AND provider = $3
           AND CASE WHEN $9 THEN $6 IS NOT NULL ELSE digest = $6 END LIMIT 1000",
    )
    .bind(turn.attempt())
    .bind(turn.tenant)
    .bind(turn.key.provider.as_str())
    .bind(&turn.key.directory)
    .bind(&turn.key.object)
    .bind(digest)
    .bind(verdict.map(Verdict::name))
    .bind(turn.exposure)
    .bind(verdict.is_some_and(Verdict::is_valid))
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(|row| Ok((ExposureId(row.try_get("exposure_id")?), place(row)?))).collect()
}

/// Notes that an attempt's outcome is recorded.
pub async fn concluded(tx: &mut Tx, attempt: AttemptId) -> Result<(), StoreError> {
    sqlx::query("UPDATE attempts SET concluded = true WHERE attempt_id = $1")
        .bind(attempt)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// An attempt that the reaper turned unknown, and whom it concerns.
#[derive(Clone, Debug)]
pub struct Orphan {
    pub attempt: AttemptId,
    pub tenant: TenantId,
    pub exposure: ExposureId,
    pub work: WorkId,
}

/// Whose attempts these are.
pub async fn orphans(tx: &mut Tx, attempts: &[AttemptId]) -> Result<Vec<Orphan>, StoreError> {
    let rows = sqlx::query(
        "SELECT attempt_id, tenant_id, exposure_id, work_id FROM attempts
         WHERE attempt_id = ANY ($1) AND NOT concluded ORDER BY tenant_id",
    )
    .bind(attempts.iter().map(|a| a.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Orphan {
                attempt: AttemptId(row.try_get("attempt_id")?),
                tenant: TenantId(row.try_get("tenant_id")?),
                exposure: ExposureId(row.try_get("exposure_id")?),
                work: WorkId(row.try_get("work_id")?),
            })
        })
        .collect()
}

/// What an audit event says of an exposure: integration, object id and sign-in name.
pub async fn subject(
    tx: &mut Tx,
    exposure: ExposureId,
) -> Result<Option<(IntegrationId, String, String)>, StoreError> {
    let row = sqlx::query(
        "SELECT integration_id, object_id, login_at_match FROM exposures
         WHERE tenant_id = platform.current_tenant() AND exposure_id = $1 FOR UPDATE",
    )
    .bind(exposure)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((
        IntegrationId(row.try_get("integration_id")?),
        row.try_get("object_id")?,
        row.try_get("login_at_match")?,
    )))
}
