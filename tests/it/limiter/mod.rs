//! The attempt budget against real PostgreSQL, judged by a checker that shares nothing with it.

mod checker;
mod clock;
mod concurrent;
mod doors;
mod gate;
mod random;
mod stops;

use e2e::Database;
use shared::{
    audit::{Actor, Event, Outcome, names},
    db::Db,
    id::{AccountKey, AttemptId, ProviderKind, TenantId},
    limiter::{Ask, Limits, OwnerSeen},
};
use sqlx::{PgConnection, Row};
use time::{Duration, OffsetDateTime, macros::datetime};
use uuid::Uuid;

/// Where virtual time starts.
pub const START: OffsetDateTime = datetime!(2026-03-28 12:00 UTC);
/// The shipped window.
pub const WINDOW: Duration = Duration::minutes(25 * 60 + 15);

pub fn limits(daily_max: u32, threshold: Option<u32>) -> Limits {
    Limits { daily_max, threshold, us_gov: false, ad_backed: false, low_threshold_opt_in: false }
}

pub const UNSEEN: OwnerSeen =
    OwnerSeen { sign_in_at: None, password_changed_at: None, locked: false, failures: None };

/// What the inner function is asked, with instant and window as arguments.
#[derive(Clone, Debug)]
pub struct Question {
    pub attempt: Uuid,
    pub nonce: Uuid,
    pub directory: String,
    pub object: String,
    pub limits: Limits,
    pub owner: OwnerSeen,
    pub at: OffsetDateTime,
    pub window: Duration,
}

impl Question {
    pub fn new(object: &str, limits: Limits, at: OffsetDateTime) -> Self {
        Self {
            attempt: Uuid::new_v4(),
            nonce: Uuid::new_v4(),
            directory: "d".into(),
            object: object.into(),
            limits,
            owner: UNSEEN,
            at,
            window: WINDOW,
        }
    }
    pub fn owner(mut self, owner: OwnerSeen) -> Self {
        self.owner = owner;
        self
    }
}

/// The inner function's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub outcome: String,
    pub reason: Option<String>,
    pub free_at: Option<OffsetDateTime>,
    pub since_success: Option<i32>,
}

impl Said {
    pub fn granted(&self) -> bool {
        self.outcome == "granted"
    }
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or(&self.outcome)
    }
}

pub async fn decide(db: &mut PgConnection, q: &Question) -> Result<Said, sqlx::Error> {
    let signed = |n: u32| i32::try_from(n).unwrap();
    let row = sqlx::query(
        "SELECT outcome, reason, free_at, since_success FROM budget.decide($1, $2, 'okta', $3, $4, $5, $6, $7, $8, $9,
            $10, $11, $12, gen_random_uuid(), gen_random_uuid(), '\\x00', NULL, $13, $14 * interval '1 second', $15)",
    )
    .bind(q.attempt)
    .bind(q.nonce)
    .bind(&q.directory)
    .bind(&q.object)
    .bind(signed(q.limits.daily_max))
    .bind(q.limits.threshold.map(signed))
    .bind(q.limits.us_gov)
    .bind(q.limits.ad_backed)
    .bind(q.limits.low_threshold_opt_in)
    .bind(q.owner.sign_in_at)
    .bind(q.owner.password_changed_at)
    .bind(q.owner.locked)
    .bind(q.at)
    .bind(q.window.as_seconds_f64())
    .bind(q.owner.failures.map(signed))
    .fetch_one(db)
    .await?;
    Ok(Said {
        outcome: row.try_get("outcome")?,
        reason: row.try_get("reason")?,
        free_at: row.try_get("free_at")?,
        since_success: row.try_get("since_success")?,
    })
}

pub async fn settle(db: &mut PgConnection, q: &Question) -> bool {
    sqlx::query_scalar("SELECT budget.settle($1, $2, true, 'invalid', NULL, false)")
        .bind(q.attempt)
        .bind(q.nonce)
        .fetch_one(db)
        .await
        .unwrap()
}

/// Asks and settles at once, as an attempt that was answered does.
pub async fn spend(db: &mut PgConnection, q: &Question) -> Said {
    let said = decide(db, q).await.unwrap();
    if said.granted() {
        assert!(settle(db, q).await);
    }
    said
}

/// The database as the validator's role reaches it, on another port if a proxy stands in front.
pub async fn as_validator(database: &Database, port: Option<u16>) -> Db {
    let mut config = database.config_as("parapet_validator").await;
    config.port = port.unwrap_or(config.port);
    config.max_connections = 20;
    Db::connect(&config).await.unwrap()
}

pub fn account(object: &str) -> AccountKey {
    AccountKey { provider: ProviderKind::Okta, directory: "d".into(), object: object.into() }
}

pub fn intent(tenant: TenantId) -> Event {
    Event::new(
        Some(tenant),
        names::VALIDATION_ATTEMPT,
        Actor::Service("test"),
        Outcome::Intent,
        "about to submit",
    )
}

pub fn ask<'a>(attempt: AttemptId, account: &'a AccountKey, limits: Limits, intent: &'a Event) -> Ask<'a> {
    Ask { attempt, account, limits, owner: UNSEEN, intent, turn: None }
}
