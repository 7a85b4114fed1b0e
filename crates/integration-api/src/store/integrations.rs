//! Integrations.

use shared::{
    db::{StoreError, Tx, parse},
    id::{IntegrationId, ProviderKind, TenantId},
    integration::{Connection, Settings},
};
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::integration::{Health, Integration, Status};

#[derive(FromRow)]
struct Row {
    integration_id: IntegrationId,
    name: String,
    provider: String,
    config: Json<Connection>,
    settings: Json<Settings>,
    status: String,
    status_reason: String,
    status_message: String,
    status_since: OffsetDateTime,
    disabled_by: Option<String>,
    disabled_reason: Option<String>,
    tested_at: Option<OffsetDateTime>,
    test_passed: Option<bool>,
    proven_at: Option<OffsetDateTime>,
    connection_since: OffsetDateTime,
    directory_id: Option<String>,
    directory_name: Option<String>,
    version: i64,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    updated_by: String,
    secret_version: Option<i32>,
}

impl TryFrom<Row> for Integration {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let Row {
            integration_id,
            name,
            provider,
            config,
            settings,
            status,
            status_reason,
            status_message,
            status_since,
            disabled_by,
            disabled_reason,
            tested_at,
            test_passed,
            proven_at,
            connection_since,
            directory_id,
            directory_name,
            version,
            created_at,
            updated_at,
            updated_by,
            secret_version,
        } = row;
        Ok(Self {
            id: integration_id,
            name,
            provider: parse::<ProviderKind>("integrations.provider", &provider)?,
            connection: config.0,
            settings: settings.0,
            status: parse::<Status>("integrations.status", &status)?,
            status_reason,
            status_message,
            status_since,
            disabled_by,
            disabled_reason,
            tested_at,
            test_passed,
            proven_at,
            connection_since,
            directory_id,
            directory_name,
            version,
            created_at,
            updated_at,
            updated_by,
            secret_version,
            health: Vec::new(),
        })
    }
}

macro_rules! columns {
    () => {
        "SELECT i.integration_id, i.name, i.provider, i.config, i.settings, i.status, i.status_reason, i.status_message,
                i.status_since, i.disabled_by, i.disabled_reason, i.tested_at, i.test_passed, i.proven_at,
                i.connection_since, i.directory_id, i.directory_name, i.version, i.created_at, i.updated_at, i.updated_by,
                s.version AS secret_version
         FROM integrations i LEFT JOIN integration_secrets s USING (tenant_id, integration_id) "
    };
}

/// One integration.
pub async fn get(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
) -> Result<Option<Integration>, StoreError> {
    let row: Option<Row> =
        sqlx::query_as(concat!(columns!(), "WHERE i.tenant_id = $1 AND i.integration_id = $2"))
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut **tx)
            .await?;
    with_health(tx, tenant, row).await
}

/// One integration, locked until the end of the transaction.
pub async fn lock(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
) -> Result<Option<Integration>, StoreError> {
    let row: Option<Row> = sqlx::query_as(concat!(
        columns!(),
        "WHERE i.tenant_id = $1 AND i.integration_id = $2 FOR UPDATE OF i"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    with_health(tx, tenant, row).await
}

async fn with_health(
    tx: &mut Tx,
    tenant: TenantId,
    row: Option<Row>,
) -> Result<Option<Integration>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let mut integration = Integration::try_from(row)?;
    let id = integration.id;
    integration.health = health(tx, tenant, &[id]).await?.into_iter().map(|(_, health)| health).collect();
    Ok(Some(integration))
}

/// Integrations after a place, oldest first.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    provider: Option<ProviderKind>,
    status: Option<Status>,
    after: Option<(OffsetDateTime, IntegrationId)>,
    limit: i64,
) -> Result<Vec<Integration>, StoreError> {
    let (at, id) = after.unzip();
    let rows: Vec<Row> = sqlx::query_as(concat!(
        columns!(),
        "WHERE i.tenant_id = $1 AND ($2::text IS NULL OR i.provider = $2) AND ($3::text IS NULL OR i.status = $3)
               AND ($4::timestamptz IS NULL OR (i.created_at, i.integration_id) > ($4, $5))
         ORDER BY i.created_at, i.integration_id LIMIT $6"
    ))
    .bind(tenant)
    .bind(provider.map(ProviderKind::as_str))
    .bind(status.map(Status::as_str))
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    let mut integrations = rows.into_iter().map(Integration::try_from).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<_> = integrations.iter().map(|i| i.id).collect();
    for (id, health) in health(tx, tenant, &ids).await? {
        if let Some(integration) = integrations.iter_mut().find(|i| i.id == id) {
            integration.health.push(health);
        }
    }
    Ok(integrations)
}

#[derive(FromRow)]
struct HealthRow {
    integration_id: IntegrationId,
    capability: String,
    state: String,
    reason: String,
    message: String,
    since: OffsetDateTime,
    observed_at: OffsetDateTime,
}

async fn health(
    tx: &mut Tx,
    tenant: TenantId,
    ids: &[IntegrationId],
) -> Result<Vec<(IntegrationId, Health)>, StoreError> {
    let rows: Vec<HealthRow> = sqlx::query_as(
        "SELECT integration_id, capability, state, reason, message, since, observed_at FROM capabilities
         WHERE tenant_id = $1 AND integration_id = ANY ($2)",
    )
    .bind(tenant)
    .bind(ids.iter().map(|i| i.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let HealthRow { integration_id, capability, state, reason, message, since, observed_at } = row;
            let capability = shared::provider::Capability::parse(&capability)
                .ok_or_else(|| StoreError::Corrupt("capabilities.capability".into()))?;
            let state = parse("capabilities.state", &state)?;
            Ok((integration_id, Health { capability, state, reason, message, since, observed_at }))
        })
        .collect()
}

/// The active integrations of a tenant at one kind of provider.
pub async fn active_of(
    tx: &mut Tx,
    tenant: TenantId,
    provider: ProviderKind,
) -> Result<Vec<IntegrationId>, StoreError> {
    let ids = sqlx::query_scalar(
        "SELECT integration_id FROM integrations WHERE tenant_id = $1 AND provider = $2 AND status = 'active'",
    );
    Ok(ids.bind(tenant).bind(provider.as_str()).fetch_all(&mut **tx).await?)
}

/// How many integrations a tenant has.
pub async fn count(tx: &mut Tx, tenant: TenantId) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM integrations WHERE tenant_id = $1")
        .bind(tenant)
        .fetch_one(&mut **tx)
        .await?)
}

/// Stores a new integration.
pub async fn insert(tx: &mut Tx, tenant: TenantId, new: &Integration) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO integrations (tenant_id, integration_id, name, provider, config, settings, status, status_reason,
                                   status_message, created_by, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(tenant)
    .bind(new.id)
    .bind(&new.name)
    .bind(new.provider.as_str())
    .bind(Json(&new.connection))
    .bind(Json(&new.settings))
    .bind(new.status.as_str())
    .bind(&new.status_reason)
    .bind(&new.status_message)
    .bind(&new.updated_by)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores what a locked integration has become. The database's clock dates a change of its status.
pub async fn update(tx: &mut Tx, tenant: TenantId, changed: &Integration) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE integrations SET
             name = $3, config = $4, settings = $5,
             status_since = CASE WHEN (status, status_reason) = ($6, $7) THEN status_since ELSE clock_timestamp() END,
             status = $6, status_reason = $7, status_message = $8, disabled_by = $9, disabled_reason = $10,
             tested_at = $11, test_passed = $12, proven_at = $13, connection_since = $14, directory_id = $15,
             directory_name = $16,
             updated_at = CASE WHEN version = $17 THEN updated_at ELSE clock_timestamp() END,
             updated_by = $18, version = $17
         WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(changed.id)
    .bind(&changed.name)
    .bind(Json(&changed.connection))
    .bind(Json(&changed.settings))
    .bind(changed.status.as_str())
    .bind(&changed.status_reason)
    .bind(&changed.status_message)
    .bind(&changed.disabled_by)
    .bind(&changed.disabled_reason)
    .bind(changed.tested_at)
    .bind(changed.test_passed)
    .bind(changed.proven_at)
    .bind(changed.connection_since)
    .bind(&changed.directory_id)
    .bind(&changed.directory_name)
    .bind(changed.version)
    .bind(&changed.updated_by)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Replaces the knowledge about capabilities.
pub async fn set_health(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    health: &[Health],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM capabilities WHERE tenant_id = $1 AND integration_id = $2")
        .bind(tenant)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    for known in health {
        sqlx::query(
            "INSERT INTO capabilities (tenant_id, integration_id, capability, state, reason, message, since, observed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(tenant)
        .bind(id)
        .bind(known.capability.as_str())
        .bind(known.state.as_str())
        .bind(&known.reason)
        .bind(&known.message)
        .bind(known.since)
        .bind(known.observed_at)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Stores sealed credentials under their version.
pub async fn set_secret(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    version: i32,
    sealed: &[u8],
) -> Result<(), StoreError> {
    // Replaced in two steps: an upsert would need the right to read what is sealed.
    sqlx::query("DELETE FROM integration_secrets WHERE tenant_id = $1 AND integration_id = $2")
        .bind(tenant)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO integration_secrets (tenant_id, integration_id, version, sealed) VALUES ($1, $2, $3, $4)",
    )
    .bind(tenant)
    .bind(id)
    .bind(version)
    .bind(sealed)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes that a person was told what goes with an integration; returns the confirmation and its end.
pub async fn ask_deletion(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    subject: &str,
    version: i64,
) -> Result<(Uuid, OffsetDateTime), StoreError> {
    Ok(sqlx::query_as(
        "INSERT INTO deletions_asked (tenant_id, integration_id, confirmation, asked_by, version, expires_at)
         VALUES ($1, $2, gen_random_uuid(), $3, $4, clock_timestamp() + interval '10 minutes')
         ON CONFLICT (tenant_id, integration_id) DO UPDATE SET confirmation = excluded.confirmation,
             asked_by = excluded.asked_by, version = excluded.version, expires_at = excluded.expires_at
         RETURNING confirmation, expires_at",
    )
    .bind(tenant)
    .bind(id)
    .bind(subject)
    .bind(version)
    .fetch_one(&mut **tx)
    .await?)
}

/// Whether this is the confirmation that this person was given of the integration as it is now.
pub async fn confirmed(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    confirmation: Option<Uuid>,
    subject: &str,
    version: i64,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM deletions_asked
                        WHERE tenant_id = $1 AND integration_id = $2 AND confirmation = $3 AND asked_by = $4
                          AND version = $5 AND expires_at > clock_timestamp())",
    )
    .bind(tenant)
    .bind(id)
    .bind(confirmation)
    .bind(subject)
    .bind(version)
    .fetch_one(&mut **tx)
    .await?)
}

/// Removes an integration with everything sealed under it.
pub async fn delete(tx: &mut Tx, tenant: TenantId, id: IntegrationId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM integrations WHERE tenant_id = $1 AND integration_id = $2")
        .bind(tenant)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    sqlx::query("DELETE FROM client_keys_wanted WHERE integration_id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Notes that an integration needs its client key.
pub async fn want_client_key(tx: &mut Tx, tenant: TenantId, id: IntegrationId) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO client_keys_wanted (integration_id, tenant_id, next_try_at)
         VALUES ($1, $2, clock_timestamp() + interval '10 seconds') ON CONFLICT DO NOTHING",
    )
    .bind(id)
    .bind(tenant)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes client keys whose turn has come, and sets their next turn.
pub async fn client_keys_due(tx: &mut Tx) -> Result<Vec<(TenantId, IntegrationId)>, StoreError> {
    Ok(sqlx::query_as(
        "UPDATE client_keys_wanted SET tries = tries + 1,
             next_try_at = clock_timestamp() + least(interval '2 seconds' * power(2, least(tries, 8)), interval '5 minutes')
         WHERE integration_id IN (SELECT integration_id FROM client_keys_wanted WHERE next_try_at <= statement_timestamp()
                                  ORDER BY next_try_at LIMIT 20 FOR UPDATE SKIP LOCKED)
         RETURNING tenant_id, integration_id",
    )
    .fetch_all(&mut **tx)
    .await?)
}

/// The client key is there.
pub async fn client_key_made(tx: &mut Tx, id: IntegrationId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM client_keys_wanted WHERE integration_id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The public key set of an integration.
pub async fn public_jwks(tx: &mut Tx, id: IntegrationId) -> Result<Option<serde_json::Value>, StoreError> {
    Ok(sqlx::query_scalar("SELECT sync.public_jwks($1)").bind(id).fetch_one(&mut **tx).await?)
}
