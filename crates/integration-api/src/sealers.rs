//! Sealing with public halves: what this process accepts it can never open.

use shared::{
    db::Tx,
    id::TenantId,
    sealing::{Sealer, TopVerifier},
};

use crate::{config::KeysConfig, error::ApiError, store, store::sealing::PublicKey};

const PREPARING: ApiError = ApiError::Unavailable("the keys are being prepared; try again in a moment");

/// Checks the public halves that other services made.
#[derive(Clone, Debug)]
pub struct Sealers {
    integration: TopVerifier,
    leak: TopVerifier,
}

impl Sealers {
    /// Reads the public files.
    pub fn load(config: &KeysConfig) -> anyhow::Result<Self> {
        Ok(Self {
            integration: TopVerifier::load(&config.integration_verifier)?,
            leak: TopVerifier::load(&config.leak_verifier)?,
        })
    }

    /// Seals credentials of a tenant's integrations.
    pub async fn integration(&self, tx: &mut Tx, tenant: TenantId) -> Result<Sealer, ApiError> {
        let PublicKey { version, public, signature } =
            store::sealing::integration_key(tx, tenant).await?.ok_or(PREPARING)?;
        Ok(self.integration.sealer(Some(tenant), version, &public, &signature)?)
    }

    /// Seals leaked secrets of a tenant's feed or of the installation's.
    pub async fn leak(&self, tx: &mut Tx, owner: Option<TenantId>) -> Result<Sealer, ApiError> {
        let PublicKey { version, public, signature } =
            store::sealing::leak_key(tx, owner).await?.ok_or(PREPARING)?;
        Ok(self.leak.sealer(owner, version, &public, &signature)?)
    }
}
