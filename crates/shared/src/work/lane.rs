//! A lane is what one tenant has to do at one directory. While the directory asks to slow down, or does not answer, the
//! lane's work stays where it is instead of failing message by message: a circuit breaker that all replicas share.
//!
//! Closed: no row, or failures below [`TRIP`]. Open: held until a time. Half open: that time has come, and one piece of
//! work is given out at a time until a call is answered.

use std::time::Duration;

use time::OffsetDateTime;

use crate::{
    db::{StoreError, Tx},
    id::TenantId,
    provider::ProviderError,
};

/// Calls in a row without a usable answer that open the breaker.
pub const TRIP: i32 = 5;
/// How long it is open the first time; twice as long each further time in a row,
const FIRST: Duration = Duration::from_secs(30);
/// up to this.
const LONGEST: Duration = Duration::from_mins(10);
/// How long a directory is left alone that asks to slow down and does not say how long;
const UNTOLD: Duration = Duration::from_mins(1);
/// and how long at most, and at least, whatever it says.
const WISHES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// What one tenant has to do at one directory.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The directory, as in [`super::NewWork`].
    pub directory: &'a str,
}

/// How a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known against it.
    Well,
    /// It was held, or calls have failed; whoever gets an answer now says so with [`Lane::answered`].
    Doubtful,
    /// Nothing goes there until then.
    Held(OffsetDateTime, String),
}

impl Standing {
    /// What a row of `lane_holds` says: its `held_until`, whether that is still to come, and its `reason`.
    pub fn of(held_until: Option<OffsetDateTime>, held: bool, reason: String) -> Self {
        match held_until {
            Some(until) if held => Self::Held(until, reason),
            _ => Self::Doubtful,
        }
    }
}

impl Lane<'_> {
    /// How the lane stands. Asked before anything is sent: work may have been given out just before it was held.
    pub async fn standing(self, tx: &mut Tx) -> Result<Standing, StoreError> {
        let row: Option<(Option<OffsetDateTime>, bool, String)> = sqlx::query_as(
            "SELECT held_until, coalesce(held_until > clock_timestamp(), false), reason FROM lane_holds
             WHERE tenant_id = $1 AND directory = $2",
        )
        .bind(self.tenant)
        .bind(self.directory)
        .fetch_optional(&mut **tx)
        .await?;
        Ok(row.map_or(Standing::Well, |(until, held, reason)| Standing::of(until, held, reason)))
    }

    /// A call was answered: the lane is well.
    pub async fn answered(self, tx: &mut Tx) -> Result<(), StoreError> {
        let open: Option<i32> = sqlx::query_scalar(
            "DELETE FROM lane_holds WHERE tenant_id = $1 AND directory = $2 RETURNING opened",
        )
        .bind(self.tenant)
        .bind(self.directory)
        .fetch_optional(&mut **tx)
        .await?;
        if open.is_some_and(|times| times > 0) {
            tracing::info!(tenant = %self.tenant, directory = self.directory, "directory answers again");
        }
        Ok(())
    }

    /// A call failed. Returns until when nothing goes to the directory, if that is so now.
    pub async fn failed(
        self,
        tx: &mut Tx,
        error: &ProviderError,
    ) -> Result<Option<OffsetDateTime>, StoreError> {
        match error {
            ProviderError::Throttled { retry_after } => {
                self.slow_down(tx, retry_after.unwrap_or(UNTOLD)).await.map(Some)
            }
            ProviderError::Paced { wait } => self.slow_down(tx, *wait).await.map(Some),
            ProviderError::NotSent(_) | ProviderError::Lost(_) | ProviderError::Unavailable { .. } => {
                self.count(tx).await
            }
            // An answer, whatever it says.
            ProviderError::Refused(_) | ProviderError::CursorExpired | ProviderError::Protocol(_) => Ok(None),
        }
    }

    /// The directory asks to be left alone for so long, from a second to an hour.
    pub async fn slow_down(self, tx: &mut Tx, length: Duration) -> Result<OffsetDateTime, StoreError> {
        metrics::counter!("parapet_lanes_held_total", "reason" => "throttled").increment(1);
        let length = length.clamp(WISHES.0, WISHES.1);
        Ok(sqlx::query_scalar(
            "INSERT INTO lane_holds AS h (tenant_id, directory, held_until, reason)
             VALUES ($1, $2, clock_timestamp() + $3 * interval '1 second', 'throttled')
             ON CONFLICT (tenant_id, directory) DO UPDATE SET
                 held_until = greatest(h.held_until, excluded.held_until),
                 reason = CASE WHEN h.held_until >= excluded.held_until THEN h.reason ELSE excluded.reason END
             RETURNING held_until",
        )
        .bind(self.tenant)
        .bind(self.directory)
        .bind(length.as_secs_f64())
        .fetch_one(&mut **tx)
        .await?)
    }

    async fn count(self, tx: &mut Tx) -> Result<Option<OffsetDateTime>, StoreError> {
        sqlx::query(
            "INSERT INTO lane_holds (tenant_id, directory, reason) VALUES ($1, $2, 'unavailable')
             ON CONFLICT (tenant_id, directory) DO NOTHING",
        )
        .bind(self.tenant)
        .bind(self.directory)
        .execute(&mut **tx)
        .await?;
        let (failures, opened, held, now): (i32, i32, Option<OffsetDateTime>, OffsetDateTime) =
            sqlx::query_as(
                "SELECT failures, opened, held_until, clock_timestamp() FROM lane_holds
             WHERE tenant_id = $1 AND directory = $2 FOR UPDATE",
            )
            .bind(self.tenant)
            .bind(self.directory)
            .fetch_one(&mut **tx)
            .await?;
        // What fails while the lane is held was under way before: it is no further failure.
        if held.is_some_and(|until| until > now) {
            return Ok(held);
        }
        let (failures, opened, held) = match open_for(failures + 1, opened) {
            None => (failures + 1, opened, None),
            Some(length) => (0, opened + 1, Some(now + length)),
        };
        sqlx::query(
            "UPDATE lane_holds SET failures = $3, opened = $4, held_until = $5, reason = 'unavailable'
             WHERE tenant_id = $1 AND directory = $2",
        )
        .bind(self.tenant)
        .bind(self.directory)
        .bind(failures)
        .bind(opened)
        .bind(held)
        .execute(&mut **tx)
        .await?;
        if let Some(until) = held {
            metrics::counter!("parapet_lanes_held_total", "reason" => "unavailable").increment(1);
            tracing::warn!(tenant = %self.tenant, directory = self.directory, %until, "directory does not answer; its work waits");
        }
        Ok(held)
    }
}

/// For how long so many failures in a row open a breaker that was open so many times in a row before.
fn open_for(failures: i32, opened: i32) -> Option<Duration> {
    let trips = opened > 0 || failures >= TRIP;
    let doublings = u32::try_from(opened.clamp(0, 16)).unwrap_or_default();
    trips.then(|| FIRST.saturating_mul(1 << doublings).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_failures_in_a_row_and_for_longer_each_time_it_fails_again() {
        assert_eq!(open_for(TRIP - 1, 0), None);
        assert_eq!(open_for(TRIP, 0), Some(FIRST));
        assert_eq!(open_for(1, 1), Some(2 * FIRST));
        assert_eq!(open_for(1, 2), Some(4 * FIRST));
        assert_eq!(open_for(1, i32::MAX), Some(LONGEST));
    }
}
