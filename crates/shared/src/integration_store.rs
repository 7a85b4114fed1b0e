//! What the services that talk to directories read about an integration: configuration, package and sealed secrets,
//! through the owners' views. Every transaction here is a tenant's.

use std::str::FromStr;

use sqlx::{Row, postgres::PgRow, types::Json};

use crate::{
    db::{StoreError, Tx, parse},
    id::{IntegrationId, ProviderKind, TenantId},
    integration::{Connection, Settings},
    sealing::StoredKeyPair,
};

/// Whether an integration is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// At work.
    Active,
    /// Switched off by a person, or never tested.
    Disabled,
    /// Reading the directory is lost; it recovers by itself.
    Error,
}

impl FromStr for Status {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "active" => Ok(Self::Active),
            "disabled" => Ok(Self::Disabled),
            "error" => Ok(Self::Error),
            _ => Err(()),
        }
    }
}

/// An integration, as integration-api keeps it.
#[derive(Clone, Debug)]
pub struct Integration {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its id.
    pub id: IntegrationId,
    /// The name its tenant gave it.
    pub name: String,
    /// Kind of directory.
    pub provider: ProviderKind,
    /// How to reach the directory.
    pub connection: Connection,
    /// What it may do.
    pub settings: Settings,
    /// Whether it is at work.
    pub status: Status,
    /// The directory's immutable id, once it was read.
    pub directory_id: Option<String>,
    /// Grows with every change.
    pub version: i64,
}

/// Reads an integration of the transaction's tenant.
pub async fn integration(tx: &mut Tx, id: IntegrationId) -> Result<Option<Integration>, StoreError> {
    let row = sqlx::query(
        "SELECT tenant_id, name, provider, config, settings, status, directory_id, version
         FROM api.integrations_v WHERE integration_id = $1",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(|row| integration_of(id, row)).transpose()
}

/// Whether an integration is disabled because a person disabled it: what runs may end. Otherwise it is disabled because
/// nothing proves any more that it may be used.
pub async fn disabled_by_person(tx: &mut Tx, id: IntegrationId) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM api.integrations_v
                        WHERE integration_id = $1 AND status = 'disabled' AND status_reason = 'disabled_by_person')",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await?)
}

/// Reads every integration of the transaction's tenant.
pub async fn integrations(tx: &mut Tx) -> Result<Vec<Integration>, StoreError> {
    let rows = sqlx::query(
        "SELECT tenant_id, integration_id, name, provider, config, settings, status, directory_id, version
         FROM api.integrations_v",
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(|row| integration_of(row.try_get("integration_id")?, row)).collect()
}

/// The columns that [`entitled_of`] reads, where `i` is `api.integrations_v` and `o` the `api.tenants_v` of its owner.
#[macro_export]
macro_rules! entitled {
    () => {
        "i.tenant_id, i.name, i.provider, i.config, i.settings, i.status, i.directory_id, i.version,
         o.identity_creation, o.validation, o.mitigation, o.identifier_cap::bigint AS identifier_cap, o.contact"
    };
}

/// Reads an integration of the transaction's tenant and the tenant's package: what it may do now is told by both.
pub async fn entitled(tx: &mut Tx, id: IntegrationId) -> Result<Option<(Integration, Package)>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        entitled!(),
        " FROM api.integrations_v i JOIN api.tenants_v o ON o.tenant_id = i.tenant_id WHERE i.integration_id = $1",
    ))
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map_or(Ok(None), |row| entitled_of(id, row))
}

/// The same from a row with the columns of [`crate::entitled!`]; `None` where the join found neither.
pub fn entitled_of(id: IntegrationId, row: &PgRow) -> Result<Option<(Integration, Package)>, StoreError> {
    let found = row.try_get::<Option<TenantId>, _>("tenant_id")?.is_some();
    found.then(|| Ok((integration_of(id, row)?, package_of(row)?))).transpose()
}

fn integration_of(id: IntegrationId, row: &PgRow) -> Result<Integration, StoreError> {
    Ok(Integration {
        tenant: row.try_get("tenant_id")?,
        id,
        name: row.try_get("name")?,
        provider: parse("api.integrations.provider", row.try_get("provider")?)?,
        connection: row.try_get::<Json<Connection>, _>("config")?.0,
        settings: row.try_get::<Json<Settings>, _>("settings")?.0,
        status: parse("api.integrations.status", row.try_get("status")?)?,
        directory_id: row.try_get("directory_id")?,
        version: row.try_get("version")?,
    })
}

/// The tenant's integrations that validate by themselves.
pub async fn automatic(tx: &mut Tx) -> Result<Vec<IntegrationId>, StoreError> {
    with_settings(tx, Settings::validates_automatically).await
}

/// The tenant's integrations that validate at all, by themselves or for a person.
pub async fn validating(tx: &mut Tx) -> Result<Vec<IntegrationId>, StoreError> {
    with_settings(tx, |settings| settings.validation.manual || settings.validates_automatically()).await
}

async fn with_settings(
    tx: &mut Tx,
    wanted: impl Fn(&Settings) -> bool,
) -> Result<Vec<IntegrationId>, StoreError> {
    let rows: Vec<(IntegrationId, Json<Settings>)> =
        sqlx::query_as("SELECT integration_id, settings FROM api.integrations_v")
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows.into_iter().filter(|(_, settings)| wanted(settings)).map(|(id, _)| id).collect())
}

/// What a tenant's package allows, as far as workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Identities and identifiers may be made.
    pub identity_creation: bool,
    /// Passwords may be validated.
    pub validation: bool,
    /// Accounts may be contained.
    pub mitigation: bool,
    /// Most identifiers.
    pub identifier_cap: i64,
    /// Whom to ask for more.
    pub contact: String,
}

/// Reads a tenant's package.
pub async fn package(tx: &mut Tx, tenant: TenantId) -> Result<Option<Package>, StoreError> {
    let row = sqlx::query(
        "SELECT identity_creation, validation, mitigation, identifier_cap::bigint AS identifier_cap, contact
         FROM api.tenants_v WHERE tenant_id = $1",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(package_of).transpose()
}

fn package_of(row: &PgRow) -> Result<Package, StoreError> {
    Ok(Package {
        identity_creation: row.try_get("identity_creation")?,
        validation: row.try_get("validation")?,
        mitigation: row.try_get("mitigation")?,
        identifier_cap: row.try_get("identifier_cap")?,
        contact: row.try_get::<Option<String>, _>("contact")?.unwrap_or_default(),
    })
}

/// A sealed secret and what its envelope is bound to.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Version within the row.
    pub version: u32,
    /// Key id of a client key; empty for a client secret.
    pub kid: String,
    /// The envelope.
    pub envelope: Vec<u8>,
    /// A client key that is used since an emergency and that the directory has not accepted yet.
    pub unproven: bool,
}

/// The newest sealed secret of an integration.
pub async fn sealed_secret(tx: &mut Tx, id: IntegrationId) -> Result<Option<Sealed>, StoreError> {
    let row = sqlx::query(
        "SELECT version::bigint AS secret_version, '' AS kid, sealed, false AS unproven FROM api.integration_secrets_v
         WHERE integration_id = $1 ORDER BY version DESC LIMIT 1",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map_or(Ok(None), sealed_of)
}

/// The sealed client key that signs for an Okta integration.
pub async fn sealed_client_key(tx: &mut Tx, id: IntegrationId) -> Result<Option<Sealed>, StoreError> {
    client_key(tx, id, &["signing", "unproven"]).await
}

/// The sealed client key that is published for an Okta integration and that will sign next.
pub async fn next_client_key(tx: &mut Tx, id: IntegrationId) -> Result<Option<Sealed>, StoreError> {
    client_key(tx, id, &["next"]).await
}

async fn client_key(tx: &mut Tx, id: IntegrationId, states: &[&str]) -> Result<Option<Sealed>, StoreError> {
    let row = sqlx::query(
        "SELECT version::bigint AS secret_version, kid, sealed, state = 'unproven' AS unproven
         FROM sync.client_key_secrets_v
         WHERE integration_id = $1 AND state = ANY ($2) ORDER BY version DESC LIMIT 1",
    )
    .bind(id)
    .bind(states)
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map_or(Ok(None), sealed_of)
}

/// The query for the secret that an integration `i` is used with, whatever its provider; [`sealed_of`] reads it.
#[macro_export]
macro_rules! sealed_secret {
    () => {
        "(SELECT version::bigint AS secret_version, '' AS kid, sealed, false AS unproven FROM api.integration_secrets_v
           WHERE i.provider = 'entra_id' AND integration_id = i.integration_id ORDER BY version DESC LIMIT 1)
         UNION ALL
         (SELECT version::bigint, kid, sealed, state = 'unproven' FROM sync.client_key_secrets_v
           WHERE i.provider = 'okta' AND integration_id = i.integration_id AND state IN ('signing', 'unproven')
           ORDER BY version DESC LIMIT 1)"
    };
}

/// A sealed secret; `None` where the join found none.
pub fn sealed_of(row: &PgRow) -> Result<Option<Sealed>, StoreError> {
    let Some(number) = row.try_get("secret_version")? else { return Ok(None) };
    Ok(Some(Sealed {
        version: version(number)?,
        kid: row.try_get("kid")?,
        envelope: row.try_get("sealed")?,
        unproven: row.try_get("unproven")?,
    }))
}

/// The tenant's key pair of purpose `integration` in one version, private half wrapped.
pub async fn sealing_key(tx: &mut Tx, wanted: u32) -> Result<Option<StoredKeyPair>, StoreError> {
    let row = sqlx::query(
        "SELECT public_key, signature, wrapped_private FROM sync.sealing_keys_v
         WHERE tenant_id = platform.current_tenant() AND purpose = 'integration' AND version = $1",
    )
    .bind(i64::from(wanted))
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(StoredKeyPair {
        public: row.try_get("public_key")?,
        signature: row.try_get("signature")?,
        wrapped_private: row.try_get("wrapped_private")?,
    }))
}

fn version(number: i64) -> Result<u32, StoreError> {
    u32::try_from(number)
        .map_err(|_| StoreError::Corrupt("a secret's version is not a small positive number".into()))
}
