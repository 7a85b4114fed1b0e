//! Sealing with public halves: what this process accepts it can never open.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use shared::{
    db::Tx,
    id::TenantId,
    rotation::Holding,
    sealing::{Purpose, SealError, Sealer, TopId, TopVerifier},
};

use crate::{config::KeysConfig, error::ApiError, store, store::sealing::PublicKey};

const PREPARING: ApiError = ApiError::Unavailable("the keys are being prepared; try again in a moment");

/// Checks the public halves that other services made.
#[derive(Clone, Debug)]
pub struct Sealers {
    integration: Arc<Public>,
    leak: Arc<Public>,
}

/// A public file, which gets a further key when a top key is to be rotated.
#[derive(Debug)]
struct Public {
    path: PathBuf,
    verifier: ArcSwap<TopVerifier>,
}

impl Public {
    fn load(path: &std::path::Path) -> Result<Arc<Self>, SealError> {
        Ok(Arc::new(Self {
            path: path.to_owned(),
            verifier: ArcSwap::from_pointee(TopVerifier::load(path)?),
        }))
    }

    fn reload(&self) -> Result<Vec<TopId>, SealError> {
        let verifier = TopVerifier::load(&self.path)?;
        let ids = verifier.ids().collect();
        self.verifier.store(Arc::new(verifier));
        Ok(ids)
    }
}

impl Sealers {
    /// Reads the public files.
    pub fn load(config: &KeysConfig) -> anyhow::Result<Self> {
        Ok(Self {
            integration: Public::load(&config.integration_verifier)?,
            leak: Public::load(&config.leak_verifier)?,
        })
    }

    /// What this process holds: public keys, read anew every few seconds.
    pub fn holdings(&self) -> Vec<Holding> {
        [(Purpose::Integration, &self.integration), (Purpose::Leak, &self.leak)]
            .map(|(purpose, public)| {
                let public = Arc::clone(public);
                Holding::Verifier { purpose, reload: Box::new(move || public.reload()) }
            })
            .into()
    }

    /// Seals credentials of a tenant's integrations.
    pub async fn integration(&self, tx: &mut Tx, tenant: TenantId) -> Result<Sealer, ApiError> {
        let PublicKey { version, public, signature } =
            store::sealing::integration_key(tx, tenant).await?.ok_or(PREPARING)?;
        Ok(self.integration.verifier.load().sealer(Some(tenant), version, &public, &signature)?)
    }

    /// Seals leaked secrets of a tenant's feed or of the installation's.
    pub async fn leak(&self, tx: &mut Tx, owner: Option<TenantId>) -> Result<Sealer, ApiError> {
        let PublicKey { version, public, signature } =
            store::sealing::leak_key(tx, owner).await?.ok_or(PREPARING)?;
        Ok(self.leak.verifier.load().sealer(owner, version, &public, &signature)?)
    }
}
