//! Reads what the directories' own logs have of our submissions, every hour, for the limit auditor to compare with the
//! ledger. Whatever fails here stops no validation.

use std::sync::Arc;

use anyhow::Context;
use shared::{
    db::{Db, StoreError},
    id::{IntegrationId, TenantId},
    integration_store::{self, Integration, Status},
    provider::{Provider, ProviderError, account_key, directory::Directories},
    work::lane::{Lane, Standing},
};
use time::Duration;
use tokio_util::sync::CancellationToken;

use crate::store::{
    requests,
    sign_ins::{self, Claim},
};

/// How often it is looked which logs are due.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_mins(5);
/// How long a log rests that was read.
const REST: Duration = Duration::hours(1);
/// How long a reader has, and after which a read that failed is tried again: longer than [`AT_MOST`].
const LEASE: Duration = Duration::minutes(15);
const AT_MOST: std::time::Duration = std::time::Duration::from_mins(10);
/// How much is read once more: entries arrive late, at Entra ID by minutes up to hours.
const OVERLAP: Duration = Duration::hours(3);
/// What the first read of a log covers: a window, and a little more. Later ones read at most so much at once too,
const SPAN: Duration = Duration::hours(26);
/// and where that is too much, less and less, down to about this.
const SHORTEST: Duration = Duration::minutes(30);
/// What is older is not read after an outage: it is kept for eight days.
const OLDEST: Duration = Duration::days(7);

/// Reads the logs that are due until asked to stop.
pub async fn watch(db: Db, directories: Arc<Directories>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            looked = look(&db, &directories) => if let Err(error) = looked {
                tracing::warn!(%error, "logs of sign-ins not looked at; it is tried again");
            },
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Reads every log that is due. One that cannot be read holds up no other.
pub async fn look(db: &Db, directories: &Directories) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    let tenants = requests::tenants(&mut tx).await?;
    tx.rollback().await?;
    for tenant in tenants {
        let mut tx = db.tenant(tenant).await?;
        let validates = integration_store::package(&mut tx, tenant).await?.is_some_and(|p| p.validation);
        let integrations = if validates { integration_store::validating(&mut tx).await? } else { Vec::new() };
        tx.rollback().await?;
        for integration in integrations {
            let outcome = match read(db, directories, tenant, integration).await {
                Ok(None) => continue,
                Ok(Some(outcome)) => outcome,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, %integration, "log of sign-ins not read; it is tried again");
                    "missed"
                }
            };
            metrics::counter!("parapet_sign_in_log_reads_total", "outcome" => outcome).increment(1);
        }
    }
    Ok(())
}

/// Reads one log if it is due; returns what became of it.
async fn read(
    db: &Db,
    directories: &Directories,
    tenant: TenantId,
    integration: IntegrationId,
) -> anyhow::Result<Option<&'static str>> {
    let mut tx = db.tenant(tenant).await?;
    let found = integration_store::integration(&mut tx, integration).await?;
    let Some(integration) = found.filter(|found| found.status == Status::Active) else {
        return end(tx).await;
    };
    let Some(directory) = &integration.directory_id else { return end(tx).await };
    let lane = account_key(integration.provider, directory, "").directory;
    if let Standing::Held(..) = (Lane { tenant, directory: &lane }).standing(&mut tx).await? {
        return end(tx).await;
    }
    let Some(claim) = sign_ins::claim(&mut tx, integration.id, LEASE).await? else { return end(tx).await };
    let provider = directories.connect(&mut tx, &integration).await;
    tx.commit().await?;
    let provider = provider?;
    let outcome = catch_up(db, &integration, directory, provider.as_ref(), claim).await?;
    Ok(Some(outcome))
}

async fn end(tx: shared::db::Tx) -> anyhow::Result<Option<&'static str>> {
    tx.rollback().await?;
    Ok(None)
}

/// Reads from where it was left, some hours before it, to now.
async fn catch_up(
    db: &Db,
    integration: &Integration,
    directory: &str,
    provider: &dyn Provider,
    claim: Claim,
) -> anyhow::Result<&'static str> {
    let now = claim.at;
    let mut from = claim.read_until.map_or(now - SPAN, |until| (until - OVERLAP).max(now - OLDEST));
    let mut span = SPAN;
    loop {
        let until = now.min(from + span);
        let listed = tokio::time::timeout(AT_MOST, provider.own_sign_ins(from, until));
        let entries = match listed.await.context("the log takes too long")? {
            // Perhaps there are more than are read at once.
            Err(ProviderError::Protocol(_)) if span > SHORTEST => {
                span /= 4;
                continue;
            }
            answered => answered?,
        };
        let (read_until, rest) = match entries {
            None => (None, REST),
            Some(_) if until == now => (Some(until), REST),
            Some(_) => (Some(until), LEASE),
        };
        let mut tx = db.tenant(integration.tenant).await?;
        let place = (integration.provider, directory);
        let kept = entries.as_deref().unwrap_or_default();
        sign_ins::keep(&mut tx, integration.id, place, kept, read_until, rest).await?;
        tx.commit().await?;
        if entries.is_none() {
            tracing::debug!(integration = %integration.id, "the log of sign-ins may not be read");
            return Ok("not_granted");
        }
        if until == now {
            return Ok("read");
        }
        from = until;
    }
}
