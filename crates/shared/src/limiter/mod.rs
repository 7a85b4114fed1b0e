//! The attempt limiter: the only maker of attempt permits (design §5).
//!
//! `reserve → send at most once → settle`. The decision itself is the SQL function `budget.reserve`; this module is
//! the narrow door to it. A permit exists only after the transaction with the reservation and the audit intent
//! was seen to commit. Whatever goes wrong before that gives no permit; whatever goes wrong after it leaves the slot
//! spent and [`reap`] makes the outcome visible. Nothing is ever refunded.

pub mod gate;

use std::time::{Duration, Instant};

use prost::Message;
use sqlx::{AssertSqlSafe, Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    audit,
    db::{Db, StoreError, Tx},
    id::{AccountKey, AttemptId, EventId, ExposureId, TenantId, WorkId},
    integration::{Connection, ValidationSettings},
    outbox::Topic,
    service::telemetry,
};

/// From the start of the reservation to the first byte sent, by the monotonic clock (reliability §3.2).
pub const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// Permission to submit one password once. Made only here, after the reservation has committed.
///
/// INVARIANT: not `Clone`, no public constructor, consumed by [`crate::provider::Verifier::verify`].
#[must_use = "a dropped permit is a spent attempt"]
#[derive(Debug)]
pub struct AttemptPermit {
    deadline: Instant,
}

impl AttemptPermit {
    /// The instant, by this process's monotonic clock, after which nothing may be sent under this permit.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// What makes an account's limit, besides its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts per account in any 24 hours, as the integration is set.
    pub daily_max: u32,
    /// The directory's lockout threshold, where it could be read.
    pub threshold: Option<u32>,
    /// The directory is in the US government cloud, where an unknown threshold counts as 3.
    pub us_gov: bool,
    /// Active Directory may count too, by a threshold of its own.
    pub ad_backed: bool,
    /// An administrator allows one attempt in total although the threshold is 4 or less.
    pub low_threshold_opt_in: bool,
}

impl Limits {
    /// The limits that an integration's configuration and what was read of its directory make.
    pub fn new(
        settings: &ValidationSettings,
        connection: &Connection,
        threshold: Option<u32>,
        ad_backed: bool,
    ) -> Self {
        Self {
            daily_max: settings.daily_max,
            threshold,
            us_gov: connection.is_us_gov(),
            ad_backed,
            low_threshold_opt_in: settings.low_threshold_opt_in,
        }
    }
}

/// What the directory showed of the account just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerSeen {
    /// The owner's last successful sign-in.
    pub sign_in_at: Option<OffsetDateTime>,
    /// When the password last changed.
    pub password_changed_at: Option<OffsetDateTime>,
    /// The account is locked out.
    pub locked: bool,
    /// Wrong tries since that sign-in, ours apart, as the directory's log of sign-ins shows them. `None`: it was not read.
    pub failures: Option<u32>,
}

/// One request for a permit.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Names the attempt. The same id is granted at most once, ever.
    pub attempt: AttemptId,
    /// Whose budget pays.
    pub account: &'a AccountKey,
    /// What limits it.
    pub limits: Limits,
    /// What the directory shows of the owner.
    pub owner: OwnerSeen,
    /// The audit intent; it commits with the reservation or not at all (I4).
    pub intent: &'a audit::Event,
    /// What it is for: noted beside the reservation, for whoever finds the attempt unknown. The ledger knows no tenants.
    pub turn: Option<(ExposureId, WorkId)>,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The database may have lost reservations, or its clock jumped: none is made for a window ([`gate`]).
    Gate,
    /// Somebody stopped attempts on the account, at its directory, for the tenant or for the installation.
    Stopped,
    /// The lockout threshold leaves no room.
    ThresholdTooLow,
    /// The integration allows no attempts.
    DailyMax,
    /// The account is locked.
    Locked,
    /// Another attempt on the account is under way.
    InFlight,
    /// Attempts on one account are kept apart.
    Spacing,
    /// An answer said the account is locked; it is left alone for a window.
    Cooling,
    /// The window is used up.
    Window,
    /// The rest belongs to the account's owner, until a sign-in is seen.
    Reserve,
}

impl Denial {
    const ALL: [(&'static str, Self); 10] = [
        ("gate", Self::Gate),
        ("stopped", Self::Stopped),
        ("threshold_too_low", Self::ThresholdTooLow),
        ("daily_max", Self::DailyMax),
        ("locked", Self::Locked),
        ("in_flight", Self::InFlight),
        ("spacing", Self::Spacing),
        ("cooling", Self::Cooling),
        ("window", Self::Window),
        ("reserve", Self::Reserve),
    ];

    /// The denial with this name, as the budget's functions give it.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, denial)| denial).ok_or_else(|| StoreError::Corrupt("unknown denial".into()))
    }
}

/// The database's answer inside the open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Granted, if and only if the transaction commits.
    Granted,
    /// This attempt has a reservation already: it may be under way, done or lost. It is never sent again.
    Already,
    /// Not now, or not at all.
    Denied {
        /// Why.
        reason: Denial,
        /// When to ask again; `None` when time alone frees nothing.
        free_at: Option<OffsetDateTime>,
    },
}

/// Names a granted attempt towards [`settle`]; known only to the process that reserved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    attempt: AttemptId,
    nonce: Uuid,
}

impl Ticket {
    /// The attempt.
    pub fn attempt(&self) -> AttemptId {
        self.attempt
    }
}

/// An open reservation: the transaction in which pauses, settings and budget are read and the slot is taken.
#[derive(Debug)]
pub struct Reservation {
    begun: Instant,
    tx: Tx,
    tenant: TenantId,
    granted: Option<Ticket>,
}

impl Reservation {
    /// Opens the transaction. The time to send starts now.
    pub async fn begin(db: &Db, tenant: TenantId) -> Result<Self, StoreError> {
        // Before BEGIN: waiting for the database or for the row lock uses up the time to send.
        let begun = Instant::now();
        Ok(Self { begun, tx: db.tenant_by_key(tenant).await?, tenant, granted: None })
    }

    /// As [`begin`](Self::begin), with a first statement and its rows as in [`Db::tenant_by_key_with`].
    pub async fn begin_with(
        db: &Db,
        tenant: TenantId,
        first: AssertSqlSafe<String>,
    ) -> Result<(Self, Vec<PgRow>), StoreError> {
        let begun = Instant::now();
        let (tx, rows) = db.tenant_by_key_with(tenant, first).await?;
        Ok((Self { begun, tx, tenant, granted: None }, rows))
    }

    /// The transaction, to read what must hold at this instant and to write what belongs to the attempt.
    pub fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Asks for the slot. [`Answer::Granted`] is no permit yet: [`Reservation::commit`] is.
    pub async fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer, StoreError> {
        if self.granted.is_some() {
            return Err(StoreError::Stale("a reservation asks once"));
        }
        let nonce = Uuid::new_v4();
        let event = EventId::new();
        let intent = ask.intent.to_message(event, self.tx.clock().await?).encode_to_vec();
        let row = sqlx::query(
            "WITH asked AS MATERIALIZED (
                 SELECT outcome, reason, free_at FROM budget.reserve(
                     $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)),
             noted AS (
                 INSERT INTO attempts (attempt_id, tenant_id, exposure_id, work_id)
                 SELECT $1, $15, $19, $20 FROM asked WHERE outcome = 'granted' AND $19 IS NOT NULL)
             SELECT outcome, reason, free_at FROM asked",
        )
        .bind(ask.attempt)
        .bind(nonce)
        .bind(ask.account.provider.as_str())
        .bind(&ask.account.directory)
        .bind(&ask.account.object)
        .bind(i32::try_from(ask.limits.daily_max).unwrap_or(i32::MAX))
        .bind(ask.limits.threshold.map(|t| i32::try_from(t).unwrap_or(i32::MAX)))
        .bind(ask.limits.us_gov)
        .bind(ask.limits.ad_backed)
        .bind(ask.limits.low_threshold_opt_in)
        .bind(ask.owner.sign_in_at)
        .bind(ask.owner.password_changed_at)
        .bind(ask.owner.locked)
        .bind(event)
        .bind(self.tenant)
        .bind(intent)
        .bind(telemetry::current_traceparent())
        .bind(ask.owner.failures.map(|n| i32::try_from(n).unwrap_or(i32::MAX)))
        .bind(ask.turn.map(|(exposure, _)| exposure))
        .bind(ask.turn.map(|(_, work)| work))
        .fetch_one(&mut *self.tx)
        .await?;
        match row.try_get::<&str, _>("outcome")? {
            "granted" => {
                self.granted = Some(Ticket { attempt: ask.attempt, nonce });
                self.tx.wrote_messages(); // the intent
                Ok(Answer::Granted)
            }
            "already" => Ok(Answer::Already),
            "denied" => Ok(Answer::Denied {
                reason: Denial::parse(row.try_get("reason")?)?,
                free_at: row.try_get("free_at")?,
            }),
            _ => Err(StoreError::Corrupt("unknown outcome of a reservation".into())),
        }
    }

    /// Commits. A permit comes out only if the slot was granted and the commit was seen to succeed.
    ///
    /// INVARIANT: an error means "not ours": nothing is sent. If the commit happened all the same, the slot is spent
    /// and the reaper makes it unknown: under-use, never over-use.
    pub async fn commit(self) -> Result<Option<(AttemptPermit, Ticket)>, StoreError> {
        self.tx.commit().await?;
        let deadline = self.begun + SEND_DEADLINE;
        Ok(self.granted.map(|ticket| (AttemptPermit { deadline }, ticket)))
    }

    /// Undoes everything.
    pub async fn abandon(self) -> Result<(), StoreError> {
        self.tx.rollback().await
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The directory answered; otherwise the attempt stays `unknown`.
    pub answered: bool,
    /// The verdict, by its stable name.
    pub result: &'a str,
    /// The provider's code.
    pub code: Option<&'a str>,
    /// The answer said the account is locked: leave it alone for a window.
    pub locked: bool,
}

/// Stores how an attempt ended, in the transaction that stores its verdict. False when the reaper was first: then
/// the outcome stays unknown and this answer is kept as evidence only.
pub async fn settle(tx: &mut Tx, ticket: &Ticket, ended: &Ended<'_>) -> Result<bool, StoreError> {
    let (ours, now) = sqlx::query_as("SELECT budget.settle($1, $2, $3, $4, $5, $6), clock_timestamp()")
        .bind(ticket.attempt)
        .bind(ticket.nonce)
        .bind(ended.answered)
        .bind(ended.result)
        .bind(ended.code)
        .bind(ended.locked)
        .fetch_one(&mut **tx)
        .await?;
    tx.clock_was_read(now);
    Ok(ours)
}

/// Turns overdue reservations into `unknown` and returns them; the caller records each outcome in this transaction.
pub async fn reap(tx: &mut Tx, at_most: u32) -> Result<Vec<AttemptId>, StoreError> {
    let ids = sqlx::query_scalar("SELECT budget.reap($1)")
        .bind(i32::try_from(at_most).unwrap_or(i32::MAX))
        .fetch_all(&mut **tx)
        .await?;
    Ok(ids.into_iter().map(AttemptId).collect())
}

/// An account's budget, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Attempts allowed in any 25 hours.
    pub limit: i32,
    /// What made it so: `daily_max`, `lockout_threshold`, `ceiling` or `threshold_too_low`.
    pub limited_by: String,
    /// The lockout threshold counted with.
    pub threshold: i32,
    /// Attempts in the window, all tenants together.
    pub used: i32,
    /// Attempts since the owner's last seen sign-in.
    pub since_success: i32,
    /// How many of these there may be, with what was seen of the owner's own wrong tries.
    pub reserve_limit: i32,
    /// An attempt is under way.
    pub in_flight: bool,
    /// When the next attempt may be; `None` when time alone frees nothing.
    pub next_free_at: Option<OffsetDateTime>,
    /// What stands in the way now.
    pub blocked_by: Option<String>,
}

/// Explains an account's budget under the given limits.
pub async fn explain(tx: &mut Tx, account: &AccountKey, limits: &Limits) -> Result<Explanation, StoreError> {
    let row = sqlx::query("SELECT * FROM budget.explain($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(account.provider.as_str())
        .bind(&account.directory)
        .bind(&account.object)
        .bind(i32::try_from(limits.daily_max).unwrap_or(i32::MAX))
        .bind(limits.threshold.map(|t| i32::try_from(t).unwrap_or(i32::MAX)))
        .bind(limits.us_gov)
        .bind(limits.ad_backed)
        .bind(limits.low_threshold_opt_in)
        .fetch_one(&mut **tx)
        .await?;
    Ok(Explanation {
        limit: row.try_get("attempt_limit")?,
        limited_by: row.try_get("limited_by")?,
        threshold: row.try_get("threshold")?,
        used: row.try_get("used")?,
        since_success: row.try_get("since_success")?,
        reserve_limit: row.try_get("reserve_limit")?,
        in_flight: row.try_get("in_flight")?,
        next_free_at: row.try_get("next_free_at")?,
        blocked_by: row.try_get("blocked_by")?,
    })
}

// The intent is written by the SQL function under this very topic.
const _: () = assert!(matches!(Topic::AuditRecorded.as_str().as_bytes(), b"audit.recorded"));
