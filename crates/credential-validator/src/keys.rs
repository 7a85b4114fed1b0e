//! Key pairs of purpose `leak`: made for every tenant and for the installation, and opened here alone (design §8).

use std::{sync::Arc, time::Duration};

use shared::{
    db::{Db, StoreError, Tx},
    id::TenantId,
    sealing::{Opener, SealError, Sealer, TopKeys},
};
use tokio_util::sync::CancellationToken;

use crate::store::keys as store;

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

/// The leak keys of all tenants.
#[derive(Debug)]
pub struct LeakKeys {
    top: Arc<TopKeys>,
}

impl LeakKeys {
    /// `top` are the top keys of purpose `leak`.
    pub fn new(top: Arc<TopKeys>) -> Self {
        Self { top }
    }

    /// The private half an envelope was sealed to. The transaction is the tenant's, or any for the installation.
    pub async fn opener(
        &self,
        tx: &mut Tx,
        tenant: Option<TenantId>,
        envelope: &[u8],
    ) -> Result<Arc<Opener>, KeyError> {
        let version = Opener::version_of(envelope)?;
        if let Some(opener) = self.top.kept(tenant, version) {
            return Ok(opener);
        }
        let pair = store::pair(tx, tenant, version).await?.ok_or(KeyError::Missing)?;
        Ok(self.top.opener(tenant, version, &pair).await?)
    }

    /// The same, if it was used within the last ten minutes: without asking the database.
    pub fn opener_kept(&self, tenant: Option<TenantId>, envelope: &[u8]) -> Option<Arc<Opener>> {
        self.top.kept(tenant, Opener::version_of(envelope).ok()?)
    }

    /// The newest public half of a tenant, checked. It cannot be destroyed before the transaction ends.
    pub async fn sealer(&self, tx: &mut Tx, tenant: TenantId) -> Result<Sealer, KeyError> {
        let (version, pair) = store::newest(tx, tenant).await?.ok_or(KeyError::Missing)?;
        Ok(self.top.sealer(Some(tenant), version, &pair.public, &pair.signature)?)
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
            store::add_installation(&mut tx, VERSION, &self.top.new_key_pair(None, VERSION).await?).await?;
        }
        tx.commit().await?;
        for tenant in tenants {
            let pair = self.top.new_key_pair(Some(tenant), VERSION).await?;
            let mut tx = db.tenant(tenant).await?;
            store::add(&mut tx, tenant, VERSION, &pair).await?;
            tx.commit().await?;
            tracing::info!(%tenant, "leak key pair made");
        }
        Ok(())
    }
}
