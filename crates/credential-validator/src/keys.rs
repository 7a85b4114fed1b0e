//! Key pairs of purpose `leak`: made for every tenant and for the installation, and opened here alone (design §8).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shared::{
    db::{Db, StoreError, Tx},
    id::TenantId,
    sealing::{Opener, SealError, Sealer, TopKey},
};
use tokio_util::sync::CancellationToken;

use crate::store::keys as store;

/// Most openers kept in memory.
const KEPT: usize = 1024;
const VERSION: u32 = 1;

/// A leak key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key pair is not there: not made yet, or shredded.
    #[error("the leak key pair is not there")]
    Missing,
    /// It does not open or seal.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// By tenant (none: the installation) and key version.
type Openers = HashMap<(Option<TenantId>, u32), Arc<Opener>>;

/// The leak keys of all tenants.
#[derive(Debug)]
pub struct LeakKeys {
    top: TopKey,
    openers: Mutex<Openers>,
}

impl LeakKeys {
    /// `top` is the top key of purpose `leak`.
    pub fn new(top: TopKey) -> Self {
        Self { top, openers: Mutex::default() }
    }

    /// The private half an envelope was sealed to. The transaction is the tenant's, or any for the installation.
    pub async fn opener(
        &self,
        tx: &mut Tx,
        tenant: Option<TenantId>,
        envelope: &[u8],
    ) -> Result<Arc<Opener>, KeyError> {
        let version = Opener::version_of(envelope)?;
        if let Some(opener) = self.kept(tenant, version) {
            return Ok(opener);
        }
        let pair = store::pair(tx, tenant, version).await?.ok_or(KeyError::Missing)?;
        let opener = Arc::new(self.top.opener(tenant, version, &pair)?);
        let mut openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
        if openers.len() >= KEPT {
            openers.clear();
        }
        openers.insert((tenant, version), Arc::clone(&opener));
        Ok(opener)
    }

    /// The same, if it was used before: without asking the database.
    pub fn opener_kept(&self, tenant: Option<TenantId>, envelope: &[u8]) -> Option<Arc<Opener>> {
        self.kept(tenant, Opener::version_of(envelope).ok()?)
    }

    fn kept(&self, tenant: Option<TenantId>, version: u32) -> Option<Arc<Opener>> {
        self.openers.lock().unwrap_or_else(PoisonError::into_inner).get(&(tenant, version)).cloned()
    }

    /// The newest public half of a tenant, checked.
    pub async fn sealer(&self, tx: &mut Tx, tenant: TenantId) -> Result<Sealer, KeyError> {
        let (version, pair) = store::newest(tx, tenant).await?.ok_or(KeyError::Missing)?;
        Ok(self.top.verifier().sealer(Some(tenant), version, &pair.public, &pair.signature)?)
    }

    /// Makes key pairs that are missing, for as long as the service runs: callers wait for them.
    pub async fn reconcile(self: Arc<Self>, db: Db, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            if let Err(error) = self.make_missing(&db).await {
                tracing::warn!(%error, "leak keys not made; it is tried again");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    async fn make_missing(&self, db: &Db) -> Result<(), KeyError> {
        let mut tx = db.system().await?;
        let (installation, tenants) = store::missing(&mut tx).await?;
        if installation {
            store::add_installation(&mut tx, VERSION, &self.top.new_key_pair(None, VERSION)?).await?;
        }
        tx.commit().await?;
        for tenant in tenants {
            let pair = self.top.new_key_pair(Some(tenant), VERSION)?;
            let mut tx = db.tenant(tenant).await?;
            store::add(&mut tx, tenant, VERSION, &pair).await?;
            tx.commit().await?;
            tracing::info!(%tenant, "leak key pair made");
        }
        Ok(())
    }
}
