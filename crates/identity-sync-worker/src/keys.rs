//! Makes the keys this service owns: a sealing key pair for every tenant that lacks one, and client keys for Okta.

use std::time::Duration;

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::{Db, StoreError},
    id::{IntegrationId, TenantId},
    integration_store,
    provider::{directory::Directories, okta},
    sealing::{Owner, SealError, column},
};
use tokio_util::sync::CancellationToken;

use crate::{NAME, store_keys as store};

const BATCH: i64 = 64;
const LOOK: Duration = Duration::from_millis(500);
const FIRST: u32 = 1;

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the tenant's sealing key is being prepared")]
    NotPrepared,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the key could not be generated")]
    Generate,
    #[error("there is no such integration")]
    Gone,
}

/// Makes missing sealing key pairs until asked to stop.
pub(crate) async fn reconcile(
    db: Db,
    directories: std::sync::Arc<Directories>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let made = match round(&db, &directories).await {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(%error, "sealing keys could not be made");
                0
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK), if made == 0 => {}
            () = std::future::ready(()), if made > 0 => {}
        }
    }
}

async fn round(db: &Db, directories: &Directories) -> Result<usize, KeyError> {
    let tenants = store::tenants_without_key(db, BATCH).await?;
    for tenant in &tenants {
        let pair = directories.top().new_key_pair(Some(*tenant), FIRST).await?;
        let mut tx = db.tenant(*tenant).await?;
        if store::insert_sealing_key(&mut tx, *tenant, FIRST, &pair).await? {
            let message = "the tenant's sealing key of purpose integration was made";
            let event = Event::new(
                Some(*tenant),
                names::KEY_CREATED,
                Actor::Service(NAME),
                Outcome::Success,
                message,
            );
            audit::record(&mut tx, &event.detail("purpose", "integration").detail("version", FIRST)).await?;
        }
        tx.commit().await?;
    }
    Ok(tenants.len())
}

/// The public key set of an Okta integration, making its client key at first sight.
pub(crate) async fn ensure_client_key(
    db: &Db,
    directories: &Directories,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<serde_json::Value, KeyError> {
    let mut tx = db.tenant(tenant).await?;
    let present = store::public_jwks(&mut tx, integration).await?;
    let sealing = store::public_sealing_key(&mut tx, tenant).await?;
    tx.rollback().await?;
    if let Some(jwks) = present {
        return Ok(jwks);
    }
    let (version, public, signature) = sealing.ok_or(KeyError::NotPrepared)?;
    let sealer = directories.top().sealer(Some(tenant), version, &public, &signature)?;
    let key = tokio::task::spawn_blocking(okta::keys::generate)
        .await
        .map_err(|_| KeyError::Generate)?
        .map_err(|_| KeyError::Generate)?;
    let owner =
        Owner { tenant: Some(tenant), table: column::CLIENT_KEY, row: integration.uuid(), version: FIRST };
    let sealed = sealer.seal(&owner, key.pkcs8.expose())?;
    let mut tx = db.tenant(tenant).await?;
    // INVARIANT: under this lock an integration that is there cannot lose its keys before this one is stored.
    store::lock_client_keys(&mut tx, integration).await?;
    if integration_store::integration(&mut tx, integration).await?.is_none() {
        return Err(KeyError::Gone);
    }
    match store::insert_client_key(&mut tx, tenant, integration, FIRST, &key, &sealed).await {
        Ok(()) => {
            let message = "the integration's client key was made";
            let event =
                Event::new(Some(tenant), names::KEY_CREATED, Actor::Service(NAME), Outcome::Success, message)
                    .integration(integration)
                    .detail("purpose", "client_key")
                    .detail("kid", &key.kid);
            audit::record(&mut tx, &event).await?;
            tx.commit().await?;
            Ok(okta::keys::jwks(std::slice::from_ref(&key.public)))
        }
        // Another call was first: its key counts.
        Err(StoreError::Duplicate { .. }) => {
            tx.rollback().await?;
            let mut tx = db.tenant(tenant).await?;
            let jwks = store::public_jwks(&mut tx, integration).await?;
            tx.rollback().await?;
            jwks.ok_or(KeyError::Generate)
        }
        Err(error) => Err(error.into()),
    }
}
