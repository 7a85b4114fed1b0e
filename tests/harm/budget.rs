//! The shipped budget, asked with simulated instants: `budget.decide` and `budget.settle` in a PostgreSQL of its own.

use anyhow::{Context, ensure};
use shared::{limiter::Denial, provider::SignIns};
use sqlx::{ConnectOptions as _, PgConnection, Row, postgres::PgConnectOptions};
use time::{Duration, OffsetDateTime, macros::datetime};
use uuid::Uuid;

use crate::directory::Provider;

/// When the simulation begins. In the past, so that what `budget.settle` dates by the real clock is later than all of it.
const BEGIN: OffsetDateTime = datetime!(2026-01-05 00:00 UTC);
/// The window that `budget.reserve` has built in; [`Budget::connect`] holds it against the function.
const WINDOW: &str = "interval '25 hours 15 minutes'";
/// Questions in one statement.
const AT_ONCE: usize = 500;

/// A simulated instant, as everybody else knows it.
pub fn instant(at: i64) -> OffsetDateTime {
    BEGIN + Duration::seconds(at)
}

/// The other way round.
pub fn seconds(at: OffsetDateTime) -> i64 {
    (at - BEGIN).whole_seconds()
}

/// What an account's turn asks, with what the directory showed just before.
#[derive(Clone, Debug)]
pub struct Question {
    /// Names the attempt.
    pub attempt: Uuid,
    /// Known to who reserved.
    pub nonce: Uuid,
    /// Number of the account.
    pub account: u32,
    /// The owner's last sign-in.
    pub signed_in: Option<i64>,
    /// The last change of the password that can be trusted.
    pub changed: Option<i64>,
    /// It is locked.
    pub locked: bool,
    /// What the log of sign-ins shows. It is looked at only where the budget says that it matters.
    pub log: SignIns,
    /// When.
    pub at: i64,
}

/// The budget's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Once.
    Granted,
    /// Not now.
    Denied(Denial, Option<i64>),
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The attempt.
    pub attempt: Uuid,
    /// Its nonce.
    pub nonce: Uuid,
    /// Number of the account.
    pub account: u32,
    /// The verdict's name.
    pub result: &'static str,
    /// The answer said "locked".
    pub locked: bool,
    /// When.
    pub at: i64,
}

/// The budget of one directory.
#[derive(Debug)]
pub struct Budget {
    db: PgConnection,
    provider: Provider,
    daily_max: i32,
    threshold: Option<i32>,
}

fn object(account: u32) -> String {
    format!("account-{account}")
}

impl Budget {
    /// Of a fresh database. `threshold`: what was read of the directory's policy.
    pub async fn connect(
        options: &PgConnectOptions,
        provider: Provider,
        threshold: Option<i32>,
    ) -> anyhow::Result<Self> {
        let mut db = options.connect().await?;
        let source: String =
            sqlx::query_scalar("SELECT prosrc FROM pg_proc WHERE oid = 'budget.reserve'::regproc")
                .fetch_one(&mut db)
                .await?;
        ensure!(source.contains(WINDOW), "the shipped window is not {WINDOW} any more");
        let daily_max = shared::integration::ValidationSettings::default().daily_max;
        Ok(Self { db, provider, daily_max: i32::try_from(daily_max)?, threshold })
    }

    /// Asks for many accounts, each once.
    pub async fn decide(&mut self, questions: &[Question]) -> anyhow::Result<Vec<Said>> {
        let mut said = Vec::with_capacity(questions.len());
        for some in questions.chunks(AT_ONCE) {
            let each =
                |f: fn(&Question) -> Option<i64>| some.iter().map(|q| f(q).map(instant)).collect::<Vec<_>>();
            let rows = sqlx::query(
                "SELECT d.outcome, d.reason, d.free_at
                 FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::bool[], $9::timestamptz[],
                             $12::timestamptz[], $13::int[])
                      WITH ORDINALITY AS q (attempt, nonce, object, signed_in, changed, locked, at, logged, failures, place),
                      LATERAL (SELECT budget.log_matters($1, $2, q.object) AS matters) AS log,
                      LATERAL budget.decide(q.attempt, q.nonce, $1, $2, q.object, $10, $11, false, false, false,
                          CASE WHEN log.matters THEN greatest(q.signed_in, q.logged) ELSE q.signed_in END,
                          q.changed, q.locked, gen_random_uuid(), gen_random_uuid(), '\\x00', NULL, q.at,
                          interval '25 hours 15 minutes', CASE WHEN log.matters THEN q.failures END) AS d
                 ORDER BY q.place",
            )
            .bind(self.provider.name())
            .bind(DIRECTORY)
            .bind(some.iter().map(|q| q.attempt).collect::<Vec<_>>())
            .bind(some.iter().map(|q| q.nonce).collect::<Vec<_>>())
            .bind(some.iter().map(|q| object(q.account)).collect::<Vec<_>>())
            .bind(each(|q| q.signed_in))
            .bind(each(|q| q.changed))
            .bind(some.iter().map(|q| q.locked).collect::<Vec<_>>())
            .bind(each(|q| Some(q.at)))
            .bind(self.daily_max)
            .bind(self.threshold)
            .bind(some.iter().map(|q| q.log.last_success).collect::<Vec<_>>())
            .bind(some.iter().map(|q| i32::try_from(q.log.failures).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .fetch_all(&mut self.db)
            .await?;
            for row in rows {
                said.push(match row.try_get::<&str, _>("outcome")? {
                    "granted" => Said::Granted,
                    "denied" => Said::Denied(
                        Denial::parse(row.try_get("reason")?)?,
                        row.try_get::<Option<OffsetDateTime>, _>("free_at")?.map(seconds),
                    ),
                    other => anyhow::bail!("the budget said {other} to a new attempt"),
                });
            }
        }
        ensure!(said.len() == questions.len(), "the budget did not answer every question");
        Ok(said)
    }

    /// Stores how attempts ended, before anybody asks about these accounts again.
    pub async fn settle(&mut self, ended: &[Ended]) -> anyhow::Result<()> {
        for some in ended.chunks(AT_ONCE) {
            let settled: i64 = sqlx::query_scalar(
                "SELECT count(*) FILTER (WHERE budget.settle(e.attempt, e.nonce, true, e.result, NULL, e.locked))
                 FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bool[]) AS e (attempt, nonce, result, locked)",
            )
            .bind(some.iter().map(|e| e.attempt).collect::<Vec<_>>())
            .bind(some.iter().map(|e| e.nonce).collect::<Vec<_>>())
            .bind(some.iter().map(|e| e.result).collect::<Vec<_>>())
            .bind(some.iter().map(|e| e.locked).collect::<Vec<_>>())
            .fetch_one(&mut self.db)
            .await?;
            ensure!(usize::try_from(settled)? == some.len(), "an attempt could not be settled");
        }
        for locked in ended.iter().filter(|e| e.locked) {
            // The cool-down was reckoned from the real clock; the simulated one says when it began.
            sqlx::query(
                "UPDATE budget.account SET cool_until = cool_until + ($4 - clock_timestamp())
                 WHERE provider = $1 AND directory = $2 AND object = $3",
            )
            .bind(self.provider.name())
            .bind(DIRECTORY)
            .bind(object(locked.account))
            .bind(instant(locked.at))
            .execute(&mut self.db)
            .await
            .context("the cool-down cannot be moved")?;
        }
        Ok(())
    }
}

const DIRECTORY: &str = "harm";
