//! What this service does by itself: ask again for client keys, notice the end of requests, and end what has had its time.

use std::time::Duration;

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::{Db, StoreError},
    id::TenantId,
};
use tokio_util::sync::CancellationToken;

use crate::{
    peers::Peers,
    rpc::{daily_max, validation_end},
    store::{integrations, registry, retention, validations},
};

const CLIENT_KEY_PAUSE: Duration = Duration::from_secs(2);
const VALIDATION_END_PAUSE: Duration = Duration::from_secs(1);
const RETENTION_PAUSE: Duration = Duration::from_hours(1);
const AT_ONCE: i64 = 1000;

/// Asks the directory worker for client keys that it could not make when their integration was created.
pub async fn client_keys(db: Db, peers: Peers, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = ask_for_client_keys(&db, &peers).await {
            tracing::warn!(%error, "client keys not asked for");
        }
        if paused(&stop, CLIENT_KEY_PAUSE).await {
            return Ok(());
        }
    }
}

async fn ask_for_client_keys(db: &Db, peers: &Peers) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let due = integrations::client_keys_due(&mut tx).await?;
    tx.commit().await?;
    for (tenant, integration) in due {
        if peers.ensure_client_key(tenant, integration).await.is_ok() {
            let mut tx = db.system().await?;
            integrations::client_key_made(&mut tx, integration).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

/// Notices that requests for validation are done.
pub async fn validation_ends(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = look_for_ends(&db).await {
            tracing::warn!(%error, "ends of requests for validation not looked for");
        }
        if paused(&stop, VALIDATION_END_PAUSE).await {
            return Ok(());
        }
    }
}

async fn look_for_ends(db: &Db) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let due = validations::to_look_at(&mut tx).await?;
    tx.rollback().await?;
    for (tenant, validation) in due {
        if let Err(error) = validation_end::notice(db, tenant, validation).await {
            tracing::warn!(%error, %validation, "the end of a request for validation is not noticed yet");
        }
    }
    Ok(())
}

/// Ends what has had its time, every hour until asked to stop.
pub async fn retention(db: Db, days: u16, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Err(error) = expire_all(&db, days, &stop).await {
            tracing::warn!(%error, "retention not finished; it goes on within the hour");
        }
        if paused(&stop, RETENTION_PAUSE).await {
            return Ok(());
        }
    }
}

/// Ends, tenant by tenant, the requests that nobody decided about in time, and destroys sealed parts of feed records that are
/// so many days old.
pub async fn expire_all(db: &Db, days: u16, stop: &CancellationToken) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let tenants = registry::tenant_ids(&mut tx).await?;
    tx.rollback().await?;
    for tenant in &tenants {
        let mut tx = db.tenant(*tenant).await?;
        daily_max::expire(&mut tx, *tenant).await?;
        tx.commit().await?;
    }
    for owner in tenants.into_iter().map(Some).chain([None]) {
        while !stop.is_cancelled() && expire(db, owner, i32::from(days)).await? >= AT_ONCE.unsigned_abs() {}
    }
    Ok(())
}

async fn expire(db: &Db, owner: Option<TenantId>, days: i32) -> Result<u64, StoreError> {
    let (mut tx, emptied) = if let Some(tenant) = owner {
        let mut tx = db.tenant(tenant).await?;
        let emptied = retention::expire_tenant_records(&mut tx, tenant, days, AT_ONCE).await?;
        (tx, emptied)
    } else {
        let mut tx = db.system().await?;
        let emptied = retention::expire_installation_records(&mut tx, days, AT_ONCE).await?;
        (tx, emptied)
    };
    if emptied > 0 {
        let actor = Actor::Rule("retention");
        let event = Event::new(
            owner,
            names::FEED_SECRETS_EXPIRED,
            actor,
            Outcome::Success,
            "sealed secrets destroyed at the end of retention",
        )
        .detail("records", emptied);
        audit::record(&mut tx, &event).await?;
    }
    tx.commit().await?;
    Ok(emptied)
}

async fn paused(stop: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}
