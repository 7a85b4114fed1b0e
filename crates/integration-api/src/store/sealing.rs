//! The public halves of the sealing keys.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
};

/// A public half with its signature.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// Version.
    pub version: u32,
    /// Public half.
    pub public: Vec<u8>,
    /// Signature by the purpose's top key.
    pub signature: Vec<u8>,
}

type Row = (i32, Vec<u8>, Vec<u8>);

fn key((version, public, signature): Row) -> Result<PublicKey, StoreError> {
    let version =
        u32::try_from(version).map_err(|_| StoreError::Corrupt("a sealing key's version".into()))?;
    Ok(PublicKey { version, public, signature })
}

/// The newest key of purpose `integration`.
pub async fn integration_key(tx: &mut Tx, tenant: TenantId) -> Result<Option<PublicKey>, StoreError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT version, public_key, signature FROM sync.sealing_public_keys_v
         WHERE tenant_id = $1 AND purpose = 'integration' ORDER BY version DESC LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(key).transpose()
}

/// The newest key of purpose `leak`, of a tenant or of the installation.
pub async fn leak_key(tx: &mut Tx, tenant: Option<TenantId>) -> Result<Option<PublicKey>, StoreError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT version, public_key, signature FROM validator.sealing_public_keys_v
         WHERE tenant_id IS NOT DISTINCT FROM $1 AND purpose = 'leak' ORDER BY version DESC LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(key).transpose()
}
