//! How handling ends: it waits, is held, is refused, or is over. Each commits what it writes with the delivery.

use std::time::Duration;

use shared::{
    audit::{self, Outcome as Audited, names},
    db::{StoreError, Tx},
    id::WorkId,
    provider::{Action, Capability, ProviderError, Retry},
    queue::Delivery,
    work,
};
use time::OffsetDateTime;

use super::{Executor, PERMISSION, Stop};
use crate::{
    approvals, events,
    plan::{Hold, Refusal},
    planner::{self, World},
    state::State,
    store::{self, Mitigation},
};

/// Between tries at a directory that does not answer.
pub(super) const OUTAGE: Duration = Duration::from_secs(5);

impl Executor {
    pub(super) async fn unreadable(
        &self,
        delivery: &Delivery,
        m: Mitigation,
        work: WorkId,
        error: &ProviderError,
        capability: Capability,
    ) -> Result<(), Stop> {
        let mut tx = self.db.tenant(m.tenant).await?;
        let now = tx.clock().await?;
        let (until, reason) = self.put_off(&mut tx, &m, error, capability, now).await?;
        self.wait(delivery, tx, m, work, until, reason).await
    }

    /// How long an error makes us wait, and what it is called. Outages and throttles spend no tries.
    pub(super) async fn put_off(
        &self,
        tx: &mut Tx,
        m: &Mitigation,
        error: &ProviderError,
        capability: Capability,
        now: OffsetDateTime,
    ) -> Result<(OffsetDateTime, &'static str), StoreError> {
        let after = match error.retry(OUTAGE) {
            Retry::After(after) => time::Duration::try_from(after).unwrap_or(PERMISSION),
            Retry::Restart => time::Duration::seconds(5),
            Retry::Never => PERMISSION,
        };
        // Longer if the whole directory is left alone. A turn with Identity Protection is no other action's concern.
        let held = match (m.action, error) {
            (Action::MarkCompromised, ProviderError::Paced { .. }) => None,
            _ => m.lane().failed(tx, error).await?,
        };
        let until = held.unwrap_or(now).max(now + after);
        let reason = match error {
            ProviderError::Throttled { .. } | ProviderError::Paced { .. } => "throttled",
            ProviderError::Refused(missing) => {
                events::observed(tx, m, capability, Some(missing)).await?;
                "permission_missing"
            }
            ProviderError::NotSent(_)
            | ProviderError::Lost(_)
            | ProviderError::Unavailable { .. }
            | ProviderError::CursorExpired
            | ProviderError::Protocol(_) => "provider_unavailable",
        };
        Ok((until, reason))
    }

    pub(super) async fn wait<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
        until: OffsetDateTime,
        reason: &str,
    ) -> Result<T, Stop> {
        if matches!(m.state, State::Planned { .. } | State::Acting { .. } | State::Unknown) {
            m.state = m.state.wait(reason)?;
            store::save(&mut tx, &mut m).await?;
            planner::advance(&mut tx, &m).await?;
        }
        work::postpone(&mut tx, work, until, reason).await?;
        self.over(delivery, tx).await
    }

    pub(super) async fn hold<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
        by: Hold,
        world: &World,
    ) -> Result<T, Stop> {
        // The account was read and does not show the action: nothing has happened.
        if m.state == State::Unknown {
            m.state = State::Planned { waits: None };
        }
        m.state = m.state.hold(by)?;
        m.approval = Some(approvals::join(&mut tx, &world.policy, &m, by, 1).await?);
        m.details.insert("held".to_owned(), by.sentence().to_owned());
        store::save(&mut tx, &mut m).await?;
        let event = events::about(&m, names::MITIGATION_HELD, Audited::Info, by.sentence())
            .detail("held_by", by.as_str());
        audit::record(&mut tx, &event).await?;
        planner::advance(&mut tx, &m).await?;
        work::finish(&mut tx, work).await?;
        self.over(delivery, tx).await
    }

    pub(super) async fn refuse<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
        reason: Refusal,
    ) -> Result<T, Stop> {
        m.state = m.state.refuse(reason)?;
        m.finished_at = Some(tx.clock().await?);
        m.details.insert("refused".to_owned(), reason.sentence().to_owned());
        store::save(&mut tx, &mut m).await?;
        let mut event = events::about(&m, names::MITIGATION_REFUSED, Audited::Refused, reason.sentence())
            .detail("reason", reason.as_str());
        for name in ["changed_by", "changed_at"] {
            if let Some(told) = m.details.get(name) {
                event = event.detail(name, told);
            }
        }
        audit::record(&mut tx, &event).await?;
        metrics::counter!("parapet_mitigations_refused_total", "reason" => reason.as_str()).increment(1);
        planner::advance(&mut tx, &m).await?;
        work::finish(&mut tx, work).await?;
        self.over(delivery, tx).await
    }

    /// Without the integration nothing is begun; what may have happened waits to be looked at, checks end.
    pub(super) async fn without_integration<T>(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        m: Mitigation,
        work: WorkId,
        now: OffsetDateTime,
    ) -> Result<T, Stop> {
        match m.state {
            State::Planned { .. } => self.refuse(delivery, tx, m, work, Refusal::IntegrationDisabled).await,
            State::Unknown => {
                let until = now + time::Duration::minutes(5);
                self.wait(delivery, tx, m, work, until, "integration_disabled").await
            }
            _ => {
                work::finish(&mut tx, work).await?;
                self.over(delivery, tx).await
            }
        }
    }

    /// Commits with the delivery marked done.
    pub(super) async fn finished(&self, delivery: &Delivery, mut tx: Tx) -> Result<(), Stop> {
        if delivery.done(&mut tx).await? {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(())
    }

    /// The same, when nothing else is to follow.
    pub(super) async fn over<T>(&self, delivery: &Delivery, tx: Tx) -> Result<T, Stop> {
        self.finished(delivery, tx).await?;
        Err(Stop::Over)
    }
}
