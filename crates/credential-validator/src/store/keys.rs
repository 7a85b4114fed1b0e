//! Key pairs of purpose `leak`.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
    rotation::SealedColumn,
    sealing::{StoredKeyPair, column},
};
use sqlx::{Row, postgres::PgRow};

/// What a tenant's key pair protects.
pub const OF_TENANTS: [SealedColumn; 3] = [
    SealedColumn {
        place: column::EXPOSURE_SECRET,
        select: "SELECT exposure_id, 1, secret_sealed FROM exposures
                 WHERE tenant_id = platform.current_tenant() AND exposure_id > $1 AND secret_sealed IS NOT NULL
                   AND platform.sealed_to(secret_sealed) <> $2 ORDER BY exposure_id LIMIT $3",
        update: "UPDATE exposures SET secret_sealed = $4
                 WHERE tenant_id = platform.current_tenant() AND exposure_id = $1 AND $2 = 1 AND secret_sealed = $3
                 RETURNING secret_sealed",
    },
    SealedColumn {
        place: column::EXPOSURE_COOKIES,
        select: "SELECT exposure_id, 1, cookies_sealed FROM exposures
                 WHERE tenant_id = platform.current_tenant() AND exposure_id > $1 AND cookies_sealed IS NOT NULL
                   AND platform.sealed_to(cookies_sealed) <> $2 ORDER BY exposure_id LIMIT $3",
        update: "UPDATE exposures SET cookies_sealed = $4
                 WHERE tenant_id = platform.current_tenant() AND exposure_id = $1 AND $2 = 1 AND cookies_sealed = $3
                 RETURNING cookies_sealed",
    },
    SealedColumn {
        place: column::FEED_DATA_KEY,
        select: "SELECT batch_id, 1, sealed FROM api.feed_batch_keys_v
                 WHERE tenant_id = platform.current_tenant() AND batch_id > $1 AND platform.sealed_to(sealed) <> $2
                 ORDER BY batch_id LIMIT $3",
        update: "SELECT api.reseal_data_key($1, $3, $4) WHERE $2 = 1",
    },
];

/// What the installation's key pair protects.
pub const OF_INSTALLATION: [SealedColumn; 1] = [SealedColumn {
    place: column::FEED_DATA_KEY,
    select: "SELECT batch_id, 1, sealed FROM api.feed_batch_keys_v
             WHERE tenant_id IS NULL AND batch_id > $1 AND platform.sealed_to(sealed) <> $2 ORDER BY batch_id LIMIT $3",
    update: "SELECT api.reseal_data_key($1, $3, $4) WHERE $2 = 1",
}];

/// What is missing: the installation's pair, and up to 100 tenants without one.
pub async fn missing(tx: &mut Tx) -> Result<(bool, Vec<TenantId>), StoreError> {
    let installation: bool = sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM installation_sealing_keys)")
        .fetch_one(&mut **tx)
        .await?;
    let tenants = sqlx::query_scalar(
        "SELECT t.tenant_id FROM api.tenants_v t
         WHERE NOT EXISTS (SELECT FROM sealing_key_tenants k WHERE k.tenant_id = t.tenant_id) LIMIT 100",
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok((installation, tenants.into_iter().map(TenantId).collect()))
}

/// Stores the installation's pair; one that another replica made stays.
pub async fn add_installation(tx: &mut Tx, version: u32, pair: &StoredKeyPair) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO installation_sealing_keys (version, public_key, signature, wrapped_private)
         VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(number(version)?)
    .bind(&pair.public)
    .bind(&pair.signature)
    .bind(&pair.wrapped_private)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores a tenant's pair; one that another replica made stays.
pub async fn add(
    tx: &mut Tx,
    tenant: TenantId,
    version: u32,
    pair: &StoredKeyPair,
) -> Result<(), StoreError> {
    // This row first: who shreds a tenant's keys waits for it, or is waited for.
    let first = sqlx::query("INSERT INTO sealing_key_tenants (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(tenant)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if first == 1 {
        sqlx::query(
            "INSERT INTO sealing_keys (tenant_id, version, public_key, signature, wrapped_private)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(number(version)?)
        .bind(&pair.public)
        .bind(&pair.signature)
        .bind(&pair.wrapped_private)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// One pair.
pub async fn pair(
    tx: &mut Tx,
    tenant: Option<TenantId>,
    version: u32,
) -> Result<Option<StoredKeyPair>, StoreError> {
    let row = match tenant {
        Some(tenant) => {
            sqlx::query(
                "SELECT public_key, signature, wrapped_private FROM sealing_keys
                 WHERE tenant_id = $1 AND version = $2 AND wrapped_private IS NOT NULL",
            )
            .bind(tenant)
            .bind(number(version)?)
            .fetch_optional(&mut **tx)
            .await?
        }
        None => {
            sqlx::query(
                "SELECT public_key, signature, wrapped_private FROM installation_sealing_keys
                 WHERE version = $1 AND wrapped_private IS NOT NULL",
            )
            .bind(number(version)?)
            .fetch_optional(&mut **tx)
            .await?
        }
    };
    row.map(|row| stored(&row)).transpose()
}

/// A tenant's newest pair. Until the transaction ends it is not deleted: what is sealed to it is seen by who would.
pub async fn newest(tx: &mut Tx, tenant: TenantId) -> Result<Option<(u32, StoredKeyPair)>, StoreError> {
    let row = sqlx::query(
        "SELECT version, public_key, signature, wrapped_private FROM sealing_keys
         WHERE tenant_id = $1 AND wrapped_private IS NOT NULL ORDER BY version DESC LIMIT 1 FOR KEY SHARE",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let version: i32 = row.try_get("version")?;
    let version = u32::try_from(version).map_err(|_| StoreError::Corrupt("sealing_keys.version".into()))?;
    Ok(Some((version, stored(&row)?)))
}

fn stored(row: &PgRow) -> Result<StoredKeyPair, StoreError> {
    Ok(StoredKeyPair {
        public: row.try_get("public_key")?,
        signature: row.try_get("signature")?,
        wrapped_private: row.try_get("wrapped_private")?,
    })
}

fn number(version: u32) -> Result<i32, StoreError> {
    i32::try_from(version).map_err(|_| StoreError::Corrupt("a key version beyond any that was made".into()))
}
