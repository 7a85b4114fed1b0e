//! Identity Protection: who is confirmed compromised, and the pace its API allows.
//!
//! It takes one request a second per tenant and throttles without a hint (entra.md §7.4). So our calls are spaced, and
//! one list answers for every account that is looked at within a few seconds. Other callers share the tenant's limit: a
//! 429 remains possible and is reported as such.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use time::OffsetDateTime;

use super::{Entra, account::date, optional};
use crate::{integration::EntraCloud, provider::ProviderError};

const SPACING: Duration = Duration::from_millis(1100);
/// Whoever would wait longer is sent away instead of holding its caller's lease.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How long one list answers for; our own marks end it at once.
const VIEW_LIFE: Duration = Duration::from_secs(5);

/// What is known of the tenant's risks. The lock is held while reading, so that many callers share one list.
#[derive(Debug, Default)]
pub(super) struct Risks {
    turns: Turns,
    view: tokio::sync::Mutex<Option<View>>,
}

#[derive(Debug)]
struct View {
    read: Instant,
    /// Who is confirmed compromised; `None` when we may not know.
    confirmed: Option<Confirmed>,
}

/// Object ids, lower case, and when the risk was last updated, once that is settled.
type Confirmed = HashMap<String, Option<OffsetDateTime>>;

impl Risks {
    /// Waits for a turn to call Identity Protection, or says after how long to come back.
    pub async fn turn(&self) -> Result<(), ProviderError> {
        self.turns.next().await
    }

    /// Forgets the list: something was just changed.
    pub async fn forget(&self) {
        *self.view.lock().await = None;
    }
}

impl Entra {
    /// Whether the tenant holds an account to be compromised, and since when; `None` when it does not tell us.
    pub(super) async fn is_compromised(
        &self,
        id: &str,
    ) -> Result<(Option<bool>, Option<OffsetDateTime>), ProviderError> {
        let mut view = self.risk.view.lock().await;
        let fresh = view.as_ref().is_some_and(|view| view.read.elapsed() < VIEW_LIFE);
        if !fresh {
            let confirmed = self.confirmed().await?;
            *view = Some(View { read: Instant::now(), confirmed });
        }
        let confirmed = view.as_ref().and_then(|view| view.confirmed.as_ref());
        let risk = confirmed.map(|confirmed| confirmed.get(&id.to_ascii_lowercase()));
        Ok((risk.map(|risk| risk.is_some()), risk.flatten().copied().flatten()))
    }

    async fn confirmed(&self) -> Result<Option<Confirmed>, ProviderError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct RiskyUser {
            id: String,
            risk_state: Option<String>,
            risk_last_updated_date_time: Option<String>,
            is_processing: Option<bool>,
        }
        let granted = self.graph.permissions().await?;
        let may_not = granted.is_some_and(|granted| !granted.contains("IdentityRiskyUser.Read.All"));
        if may_not || self.connection.cloud == EntraCloud::China {
            return Ok(None);
        }
        self.risk.turn().await?;
        let path = "/identityProtection/riskyUsers?$filter=riskState eq 'confirmedCompromised'&$top=500";
        let users = optional(self.graph.list::<RiskyUser>(path).await)?;
        // Filtered here as well: what a filter misses must not read as compromised.
        let confirmed = |u: &RiskyUser| u.risk_state.as_deref() == Some("confirmedCompromised");
        let told = |u: RiskyUser| {
            let settled = u.risk_last_updated_date_time.filter(|_| u.is_processing != Some(true));
            (u.id.to_ascii_lowercase(), date(settled.as_deref()))
        };
        Ok(users.map(|all| all.into_iter().filter(confirmed).map(told).collect()))
    }
}

/// When the next call may go out.
#[derive(Debug, Default)]
struct Turns(Mutex<Option<Instant>>);

impl Turns {
    async fn next(&self) -> Result<(), ProviderError> {
        let wait = self.take(Instant::now())?;
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn take(&self, now: Instant) -> Result<Duration, ProviderError> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        let wait = at - now;
        if wait > LONGEST_WAIT {
            return Err(ProviderError::Paced { wait });
        }
        *next = Some(at + SPACING);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spaced_and_a_long_queue_is_sent_away_without_growing() {
        let (turns, now) = (Turns::default(), Instant::now());
        assert_eq!(turns.take(now).unwrap(), Duration::ZERO);
        assert_eq!(turns.take(now).unwrap(), SPACING);
        let mut served = 2;
        while turns.take(now).is_ok() {
            served += 1;
        }
        assert_eq!(served, 14);
        assert!(matches!(turns.take(now), Err(ProviderError::Paced { .. })));
        assert_eq!(turns.take(now + Duration::from_mins(1)).unwrap(), Duration::ZERO);
    }
}
