//! The failover gate's witness: a validator's own memory of what the budget's database said last.
//!
//! The database compares its identity on every reservation by itself. What it cannot see of itself, that its clock jumped
//! or that it woke up younger than it was, the validators tell it with every beat (reliability §3.6).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sqlx::Row;
use time::OffsetDateTime;

use crate::db::{StoreError, Tx};

/// The longest time a beat may take: it blurs the comparison of clocks, which notices a minute.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one validator has seen.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    beats: i64,
    at: OffsetDateTime,
    own: Duration,
}

/// What a beat found to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The gate closed.
    Closed {
        /// Why, a stable word.
        reason: &'static str,
        /// The same for a person.
        message: &'static str,
    },
    /// A failover that lost nothing, as the deployment declares: the gate stays open.
    Kept,
    /// The database's clock went back by more than a minute. It frees nothing.
    ClockBack,
    /// The window has passed: the gate is open again.
    Opened,
}

impl News {
    fn parse(word: &str) -> Result<Self, StoreError> {
        let closed = |reason, message| Self::Closed { reason, message };
        Ok(match word {
            "another_cluster" => {
                closed("another_cluster", "the attempt budget is in another database cluster than before")
            }
            "failover" => closed("failover", "a replica was promoted, which may lack the last reservations"),
            "history_lost" => closed("history_lost", "the database forgot what it had committed"),
            "clock_stepped" => closed("clock_stepped", "the database's clock jumped forward"),
            "kept" => Self::Kept,
            "clock_back" => Self::ClockBack,
            "opened" => Self::Opened,
            _ => return Err(StoreError::Corrupt("unknown news of the gate".into())),
        })
    }
}

/// A beat that is seen once its transaction has committed.
#[derive(Debug)]
pub struct Beat {
    /// Until when no reservation is made; `None` when the gate is open.
    pub closed_until: Option<OffsetDateTime>,
    /// What is new.
    pub news: Option<News>,
    seen: Seen,
}

impl Witness {
    /// Testifies, in a transaction that the caller commits. `synchronous`: the deployment declares that a failover loses
    /// no acknowledged commit; it counts only if the database was seen to wait for a replica.
    ///
    /// # Errors
    /// Those of the database; also when it takes longer than ten seconds, which would blur the comparison of clocks.
    pub async fn beat(&self, tx: &mut Tx, synchronous: bool) -> Result<Beat, StoreError> {
        let own = uptime();
        let seen = self.seen;
        let asked = sqlx::query("SELECT beats, beat_at, closed_until, news FROM budget.beat($1, $2, $3 * interval '1 second', $4)")
            .bind(seen.map(|s| s.beats))
            .bind(seen.map(|s| s.at))
            .bind(seen.map(|s| own.saturating_sub(s.own).as_secs_f64()))
            .bind(synchronous)
            .fetch_one(&mut **tx);
        let row = tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| StoreError::Unavailable("a beat took longer than ten seconds".into()))??;
        let news: Option<&str> = row.try_get("news")?;
        Ok(Beat {
            closed_until: row.try_get("closed_until")?,
            news: news.map(News::parse).transpose()?,
            seen: Seen { beats: row.try_get("beats")?, at: row.try_get("beat_at")?, own },
        })
    }

    /// Remembers a beat whose transaction was seen to commit.
    pub fn saw(&mut self, beat: &Beat) {
        self.seen = Some(beat.seen);
    }
}

/// Time by a clock that nobody sets and that goes on while the machine sleeps.
fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    // A machine that sleeps then looks as if the database's clock had jumped: the gate closes, which is safe.
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    clock_gettime(clock).try_into().unwrap_or_default()
}
