//! Client keys of Okta integrations, as identity-sync-worker keeps them.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, TenantId},
};
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

/// How far the rotation of an integration's key is.
#[derive(Debug, FromRow)]
pub struct Rotation {
    /// Of which integration.
    pub integration_id: IntegrationId,
    /// `idle`, `published`, `activated` or `emergency`.
    pub step: String,
    /// When the next step is due.
    pub due_at: Option<OffsetDateTime>,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
}

/// The public side of a key.
#[derive(Debug, FromRow)]
pub struct Key {
    /// Of which integration.
    pub integration_id: IntegrationId,
    /// Key id.
    pub kid: String,
    /// `next`, `signing`, `unproven` or `old`.
    pub state: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// The keys of these integrations, newest first, and their rotations.
pub async fn of(
    tx: &mut Tx,
    tenant: TenantId,
    integrations: &[IntegrationId],
) -> Result<(Vec<Rotation>, Vec<Key>), StoreError> {
    let ids: Vec<Uuid> = integrations.iter().map(|i| i.uuid()).collect();
    let rotations = sqlx::query_as(
        "SELECT integration_id, step, due_at, last_error FROM sync.client_key_rotations_v
         WHERE tenant_id = $1 AND integration_id = ANY ($2)",
    );
    let rotations = rotations.bind(tenant).bind(&ids).fetch_all(&mut **tx).await?;
    let keys = sqlx::query_as(
        "SELECT integration_id, kid, state, created_at FROM sync.client_keys_v
         WHERE tenant_id = $1 AND integration_id = ANY ($2) ORDER BY version DESC",
    );
    Ok((rotations, keys.bind(tenant).bind(&ids).fetch_all(&mut **tx).await?))
}
