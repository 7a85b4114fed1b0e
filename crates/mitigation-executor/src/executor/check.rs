//! Whether an action took effect, and later whether it stuck.

use shared::{
    audit::{self, Outcome as Audited, names},
    db::Tx,
    id::WorkId,
    provider::{Action, Capability},
    queue::Delivery,
    work,
};

use super::{Executor, Open, Stop};
use crate::{
    events,
    plan::{self, Evidence},
    state::State,
    store::{self, Mitigation},
    undo,
};

/// How long a directory may take to show what it confirmed.
const SETTLES: time::Duration = time::Duration::minutes(1);

/// The directory shows it for the first time: the one place where a mitigation becomes `verified`. The caller stores it.
pub(super) async fn takes_effect(tx: &mut Tx, m: &mut Mitigation, message: &str) -> Result<(), Stop> {
    m.state = m.state.clone().see()?;
    m.verified_at = Some(tx.clock().await?);
    audit::record(tx, &events::about(m, names::MITIGATION_VERIFIED, Audited::Success, message)).await?;
    events::contained(tx, m).await?;
    Ok(())
}

impl Executor {
    /// Looks whether an action took effect, and later whether it stuck.
    pub(super) async fn check(&self, delivery: &Delivery, open: Open) -> Result<(), Stop> {
        let Open { mut m, work, provider, .. } = open;
        let now = match provider.containment(&m.object_id, m.action).await {
            Ok(now) => now,
            Err(error) => return self.unreadable(delivery, m, work, &error, Capability::Read).await,
        };
        let mut tx = self.db.tenant(m.tenant).await?;
        m.lane().answered(&mut tx).await?;
        let clock = tx.clock().await?;
        let before = store::before(&mut tx, m.id).await?;
        let shown = match m.undoes {
            Some(_) => undo::evidence(m.action, now.as_ref()),
            None => plan::evidence(m.action, before, now.as_ref()),
        };
        let evidence = match shown {
            // Okta does not show when sessions were revoked: its answer to the call is all there is.
            Evidence::Silent if m.action == Action::RevokeSessions => {
                m.details.insert(
                    "evidence".to_owned(),
                    "the provider's answer; it does not show sessions".to_owned(),
                );
                Evidence::Shown
            }
            evidence => evidence,
        };
        if evidence == Evidence::Shown && m.undoes.is_none() {
            store::note_change(&mut tx, &m, now.as_ref().and_then(|now| now.changed_at)).await?;
        }
        match (evidence, m.state.clone()) {
            (Evidence::Shown, State::Done) => {
                takes_effect(&mut tx, &mut m, "the directory shows the action's effect").await?;
                self.next_check(delivery, tx, m, work).await
            }
            (Evidence::Shown | Evidence::Silent, State::Verified) => {
                self.next_check(delivery, tx, m, work).await
            }
            (Evidence::Absent, State::Verified) if undo::under_way(&mut tx, m.account, m.action).await? => {
                work::postpone(&mut tx, work, clock + SETTLES, "is being undone").await?;
                self.finished(delivery, tx).await
            }
            (Evidence::Absent, State::Verified) => {
                m.state = m.state.revert()?;
                m.reverted_at = Some(clock);
                store::save(&mut tx, &mut m).await?;
                let message = "the directory does not show the action's effect any more; somebody or a directory sync took it back";
                let told = [
                    events::about(&m, names::MITIGATION_REVERTED, Audited::Info, message),
                    events::alert(&m, names::ALERT_MITIGATION_REVERTED, message),
                ];
                audit::record_many(&mut tx, &told).await?;
                metrics::counter!("parapet_mitigations_reverted_total", "action" => m.action.as_str())
                    .increment(1);
                work::finish(&mut tx, work).await?;
                self.finished(delivery, tx).await
            }
            _ if m.finished_at.is_some_and(|at| clock - at < SETTLES) => {
                work::postpone(&mut tx, work, clock + time::Duration::seconds(3), "not shown yet").await?;
                self.finished(delivery, tx).await
            }
            _ => {
                if m.details
                    .insert("unverified".to_owned(), "the directory does not show it".to_owned())
                    .is_none()
                {
                    let message = "the provider confirmed the action, but the directory does not show it";
                    let told = [
                        events::about(&m, names::MITIGATION_VERIFIED, Audited::Failure, message),
                        events::alert(&m, names::ALERT_MITIGATION_UNVERIFIED, message),
                    ];
                    audit::record_many(&mut tx, &told).await?;
                }
                self.next_check(delivery, tx, m, work).await
            }
        }
    }

    /// Ends a check: the next one, or no more.
    pub(super) async fn next_check(
        &self,
        delivery: &Delivery,
        mut tx: Tx,
        mut m: Mitigation,
        work: WorkId,
    ) -> Result<(), Stop> {
        m.checks += 1;
        store::save(&mut tx, &mut m).await?;
        // Sessions that were revoked stay revoked, and who contains again what was taken back means to.
        let once = m.action == Action::RevokeSessions || m.undoes.is_some();
        let next = if once { None } else { usize::try_from(m.checks).ok() };
        match (next.and_then(|n| self.checks.get(n)), m.finished_at) {
            (Some(after), Some(finished)) => {
                work::postpone(&mut tx, work, finished + *after, "waits for its check").await?;
            }
            _ => work::finish(&mut tx, work).await?,
        }
        self.finished(delivery, tx).await
    }
}
