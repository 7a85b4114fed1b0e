//! The SQL of keys: each tenant's sealing key pair of purpose `integration`, and Okta client keys.

use serde_json::Value;
use shared::{
    db::{Db, StoreError, Tx},
    id::{IntegrationId, TenantId},
    rotation::SealedColumn,
    sealing::{StoredKeyPair, column},
};
use sqlx::{Row, types::Json};

/// What a tenant's key pair protects.
pub(crate) const OF_TENANTS: [SealedColumn; 2] = [
    SealedColumn {
        place: column::INTEGRATION_SECRET,
        select: "SELECT integration_id, version, sealed FROM api.integration_secrets_v
                 WHERE tenant_id = platform.current_tenant() AND integration_id > $1 AND platform.sealed_to(sealed) <> $2
                 ORDER BY integration_id LIMIT $3",
        update: "SELECT api.reseal_integration_secret($1, $2, $3, $4)",
    },
    SealedColumn {
        place: column::CLIENT_KEY,
        select: "SELECT integration_id, version, sealed_private FROM client_keys
                 WHERE tenant_id = platform.current_tenant() AND integration_id > $1
                   AND platform.sealed_to(sealed_private) <> $2
                 ORDER BY integration_id, version LIMIT $3",
        update: "UPDATE client_keys SET sealed_private = $4
                 WHERE tenant_id = platform.current_tenant() AND integration_id = $1 AND version = $2
                   AND sealed_private = $3
                 RETURNING sealed_private",
    },
];

/// Some tenants without a sealing key pair.
pub(crate) async fn tenants_without_key(db: &Db, limit: i64) -> Result<Vec<TenantId>, StoreError> {
    let mut tx = db.system().await?;
    let tenants = sqlx::query_scalar(
        "SELECT t.tenant_id FROM api.tenants_v t
         WHERE NOT EXISTS (SELECT FROM sealing_key_tenants k WHERE k.tenant_id = t.tenant_id) LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    Ok(tenants)
}

/// Stores a tenant's key pair; false when another replica was first.
pub(crate) async fn insert_sealing_key(
    tx: &mut Tx,
    tenant: TenantId,
    version: u32,
    pair: &StoredKeyPair,
) -> Result<bool, StoreError> {
    let first = sqlx::query("INSERT INTO sealing_key_tenants (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(tenant)
        .execute(&mut **tx)
        .await?
        .rows_affected()
        == 1;
    if first {
        sqlx::query(
            "INSERT INTO sealing_keys (tenant_id, version, public_key, signature, wrapped_private)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(tenant)
        .bind(i64::from(version))
        .bind(&pair.public)
        .bind(&pair.signature)
        .bind(&pair.wrapped_private)
        .execute(&mut **tx)
        .await?;
    }
    Ok(first)
}

/// The public half of the tenant's newest key pair: version, key, signature.
pub(crate) async fn public_sealing_key(
    tx: &mut Tx,
    tenant: TenantId,
) -> Result<Option<(u32, Vec<u8>, Vec<u8>)>, StoreError> {
    let row = sqlx::query(
        "SELECT version, public_key, signature FROM sealing_keys
         WHERE tenant_id = $1 AND wrapped_private IS NOT NULL ORDER BY version DESC LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let version = u32::try_from(row.try_get::<i32, _>("version")?)
        .map_err(|_| StoreError::Corrupt("a sealing key's version is negative".into()))?;
    Ok(Some((version, row.try_get("public_key")?, row.try_get("signature")?)))
}

/// The public key set of an integration, if it has a client key.
pub(crate) async fn public_jwks(
    tx: &mut Tx,
    integration: IntegrationId,
) -> Result<Option<Value>, StoreError> {
    Ok(sqlx::query_scalar::<_, Option<Json<Value>>>("SELECT sync.public_jwks($1)")
        .bind(integration)
        .fetch_one(&mut **tx)
        .await?
        .map(|jwks| jwks.0))
}

/// Lets one transaction at a time make or destroy an integration's client keys: a key made while the integration is
/// being deleted would otherwise stay for ever.
pub(crate) async fn lock_client_keys(tx: &mut Tx, integration: IntegrationId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('client key ' || $1::text, 0))")
        .bind(integration)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Destroys the client keys of an integration, both halves; returns what they were called.
pub(crate) async fn destroy_client_keys(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<Vec<String>, StoreError> {
    sqlx::query("DELETE FROM public_client_keys WHERE integration_id = $1")
        .bind(integration)
        .execute(&mut **tx)
        .await?;
    Ok(sqlx::query_scalar(
        "DELETE FROM client_keys WHERE tenant_id = $1 AND integration_id = $2 RETURNING kid",
    )
    .bind(tenant)
    .bind(integration)
    .fetch_all(&mut **tx)
    .await?)
}
