//! What happens by itself: attempts whose process vanished become unknown, old secrets are destroyed.

use std::time::Duration;

use shared::{
    audit::{self, Actor, Event, Outcome as Became, names},
    db::{Db, StoreError},
    id::{CauseId, TenantId},
    limiter,
    verdict::{Reason, Verdict},
    work,
};
use tokio_util::sync::CancellationToken;

use crate::{
    NAME, VALIDATE,
    store::{
        exposures::{self, Next},
        requests,
        turn::{self, Orphan},
    },
    triage::Decision,
};

const REAP_EVERY: Duration = Duration::from_secs(5);
const EXPIRE_EVERY: Duration = Duration::from_hours(1);
const AT_ONCE: u32 = 100;

/// Turns attempts that nobody settled into `unknown`, with their audit outcome and their exposure's verdict (I4).
pub async fn reap(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = reap_once(&db).await {
            tracing::warn!(%error, "overdue attempts not looked at; it is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(REAP_EVERY) => {}
        }
    }
}

async fn reap_once(db: &Db) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let overdue = limiter::reap(&mut tx, AT_ONCE).await?;
    if overdue.is_empty() {
        return tx.rollback().await;
    }
    for orphan in turn::orphans(&mut tx, &overdue).await? {
        tx.set_tenant(orphan.tenant).await?;
        let Orphan { attempt, tenant, exposure, work } = orphan;
        let Some((integration, object, login)) = turn::subject(&mut tx, exposure).await? else { continue };
        let event = Event::new(
            Some(tenant),
            names::VALIDATION_ATTEMPT,
            Actor::Service(NAME),
            Became::Unknown,
            "The process vanished after reserving; the password may have been received",
        )
        .cause(CauseId(exposure.uuid()))
        .integration(integration)
        .object("exposure", exposure)
        .user(object, login)
        .detail("attempt_id", attempt);
        audit::record(&mut tx, &event).await?;
        let decision =
            Decision::new(Verdict::Inconclusive(Reason::Unknown)).because("attempt_id", attempt.to_string());
        exposures::decide(&mut tx, (exposure, work), &decision, true, Next::Decided).await?;
        turn::concluded(&mut tx, attempt).await?;
        tracing::warn!(%attempt, %exposure, "an attempt's outcome is unknown");
    }
    metrics::counter!("parapet_attempts_unknown_total").increment(overdue.len() as u64);
    tx.commit().await
}

/// Destroys leaked secrets that reached their tenant's retention (design §8).
pub async fn expire(db: Db, days: u32, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = expire_all(&db, days).await {
            tracing::warn!(%error, "old secrets not destroyed; it is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EXPIRE_EVERY) => {}
        }
    }
}

async fn expire_all(db: &Db, days: u32) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let tenants = requests::tenants(&mut tx).await?;
    tx.rollback().await?;
    for tenant in tenants {
        while expire_some(db, tenant, days).await? > 0 {}
    }
    Ok(())
}

async fn expire_some(db: &Db, tenant: TenantId, days: u32) -> Result<u64, StoreError> {
    let mut tx = db.tenant(tenant).await?;
    let (destroyed, changed) = exposures::expire(&mut tx, days).await?;
    work::cancel(&mut tx, tenant, VALIDATE, &changed.iter().map(|e| e.uuid()).collect::<Vec<_>>()).await?;
    let mut events = Vec::with_capacity(changed.len());
    for exposure in changed {
        events.push(
            Event::new(
                Some(tenant),
                names::EXPOSURE_VERDICT,
                Actor::Rule("retention"),
                Became::Info,
                "The leaked secret reached its retention and was destroyed",
            )
            .cause(CauseId(exposure.uuid()))
            .object("exposure", exposure)
            .detail("verdict", "not_testable")
            .detail("reason", Reason::SecretExpired.as_str()),
        );
    }
    audit::record_many(&mut tx, &events).await?;
    tx.commit().await?;
    Ok(destroyed)
}
