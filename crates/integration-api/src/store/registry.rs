//! Organizations, tenants and packages.

use shared::{
    db::{StoreError, Tx},
    id::{OrganizationId, ProviderKind, TenantId},
};
use sqlx::FromRow;
use time::OffsetDateTime;

/// An organization.
#[derive(Clone, Debug, FromRow)]
pub struct Organization {
    /// Id.
    pub organization_id: OrganizationId,
    /// Name.
    pub name: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// What a tenant may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Kinds of provider.
    pub providers: Vec<ProviderKind>,
    /// Profiles and identifiers.
    pub identity_creation: bool,
    /// Validation.
    pub validation: bool,
    /// Mitigation.
    pub mitigation: bool,
    /// Identifiers.
    pub identifier_cap: i64,
    /// Integrations.
    pub integration_cap: i32,
    /// Whom to ask for more.
    pub contact: String,
}

/// A tenant.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Id.
    pub id: TenantId,
    /// Organization.
    pub organization: OrganizationId,
    /// Name.
    pub name: String,
    /// Package.
    pub package: Package,
    /// Name of its time zone.
    pub time_zone: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

#[derive(FromRow)]
struct TenantRow {
    tenant_id: TenantId,
    organization_id: OrganizationId,
    name: String,
    entitled_providers: Vec<String>,
    identity_creation: bool,
    validation: bool,
    mitigation: bool,
    identifier_cap: i64,
    integration_cap: i32,
    contact: String,
    time_zone: String,
    created_at: OffsetDateTime,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = StoreError;
    fn try_from(row: TenantRow) -> Result<Self, StoreError> {
        let TenantRow {
            tenant_id,
            organization_id,
            name,
            entitled_providers,
            identity_creation,
            validation,
            mitigation,
            identifier_cap,
            integration_cap,
            contact,
            time_zone,
            created_at,
        } = row;
        let providers = entitled_providers
            .iter()
            .map(|text| shared::db::parse("tenants.entitled_providers", text))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: tenant_id,
            organization: organization_id,
            name,
            package: Package {
                providers,
                identity_creation,
                validation,
                mitigation,
                identifier_cap,
                integration_cap,
                contact,
            },
            time_zone,
            created_at,
        })
    }
}

macro_rules! tenant_columns {
    () => {
        "SELECT tenant_id, organization_id, name, entitled_providers, identity_creation, validation, mitigation,
                identifier_cap, integration_cap, contact, time_zone, created_at
         FROM tenants "
    };
}

/// The organization a tenant belongs to.
pub async fn organization_of(tx: &mut Tx, tenant: TenantId) -> Result<Option<OrganizationId>, StoreError> {
    Ok(sqlx::query_scalar("SELECT organization_id FROM tenants WHERE tenant_id = $1")
        .bind(tenant)
        .fetch_optional(&mut **tx)
        .await?)
}

/// A tenant, by id.
pub async fn tenant(tx: &mut Tx, tenant: TenantId) -> Result<Option<Tenant>, StoreError> {
    let row: Option<TenantRow> = sqlx::query_as(concat!(tenant_columns!(), "WHERE tenant_id = $1"))
        .bind(tenant)
        .fetch_optional(&mut **tx)
        .await?;
    row.map(Tenant::try_from).transpose()
}

/// A tenant's package, locked until the end of the transaction: creations under one cap take turns.
pub async fn package_locked(tx: &mut Tx, tenant: TenantId) -> Result<Package, StoreError> {
    let row: TenantRow = sqlx::query_as(concat!(tenant_columns!(), "WHERE tenant_id = $1 FOR NO KEY UPDATE"))
        .bind(tenant)
        .fetch_one(&mut **tx)
        .await?;
    Ok(Tenant::try_from(row)?.package)
}

/// A tenant's package.
pub async fn package(tx: &mut Tx, tenant: TenantId) -> Result<Package, StoreError> {
    let row: TenantRow = sqlx::query_as(concat!(tenant_columns!(), "WHERE tenant_id = $1"))
        .bind(tenant)
        .fetch_one(&mut **tx)
        .await?;
    Ok(Tenant::try_from(row)?.package)
}

/// Makes an organization unless its id exists; the row as it is afterwards, and whether it is new.
pub async fn create_organization(
    tx: &mut Tx,
    id: OrganizationId,
    name: &str,
) -> Result<(Organization, bool), StoreError> {
    let made = sqlx::query(
        "INSERT INTO organizations (organization_id, name) VALUES ($1, $2) ON CONFLICT (organization_id) DO NOTHING",
    )
    .bind(id)
    .bind(name)
    .execute(&mut **tx)
    .await?
    .rows_affected()
        == 1;
    let row = sqlx::query_as(
        "SELECT organization_id, name, created_at FROM organizations WHERE organization_id = $1",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await?;
    Ok((row, made))
}

/// Whether an organization exists.
pub async fn organization_exists(tx: &mut Tx, id: OrganizationId) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM organizations WHERE organization_id = $1)")
        .bind(id)
        .fetch_one(&mut **tx)
        .await?)
}

/// What an organization has decided for all its tenants, locked until the end of the transaction; nothing, when it does
/// not exist.
pub async fn settings_locked(tx: &mut Tx, id: OrganizationId) -> Result<Option<bool>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT tenant_admins_add_integrations FROM organizations WHERE organization_id = $1 FOR NO KEY UPDATE",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

/// Lets administrators of an organization's tenants add integrations, or no longer.
pub async fn update_settings(tx: &mut Tx, id: OrganizationId, add: bool) -> Result<(), StoreError> {
    sqlx::query("UPDATE organizations SET tenant_admins_add_integrations = $2 WHERE organization_id = $1")
        .bind(id)
        .bind(add)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether administrators of this tenant may add integrations to it.
pub async fn tenant_admins_add_integrations(tx: &mut Tx, tenant: TenantId) -> Result<bool, StoreError> {
    let found: Option<bool> = sqlx::query_scalar(
        "SELECT o.tenant_admins_add_integrations FROM tenants t JOIN organizations o USING (organization_id)
         WHERE t.tenant_id = $1",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(found.unwrap_or(false))
}

/// Makes a tenant unless its id exists; the tenant as it is afterwards, and whether it is new.
pub async fn create_tenant(
    tx: &mut Tx,
    id: TenantId,
    organization: OrganizationId,
    name: &str,
    package: &Package,
    time_zone: &str,
) -> Result<(Tenant, bool), StoreError> {
    let made = sqlx::query(
        "INSERT INTO tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
                              mitigation, identifier_cap, integration_cap, contact, time_zone)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant_id) DO NOTHING",
    )
    .bind(id)
    .bind(organization)
    .bind(name)
    .bind(names(package))
    .bind(package.identity_creation)
    .bind(package.validation)
    .bind(package.mitigation)
    .bind(package.identifier_cap)
    .bind(package.integration_cap)
    .bind(&package.contact)
    .bind(time_zone)
    .execute(&mut **tx)
    .await?
    .rows_affected()
        == 1;
    let row: TenantRow = sqlx::query_as(concat!(tenant_columns!(), "WHERE tenant_id = $1"))
        .bind(id)
        .fetch_one(&mut **tx)
        .await?;
    Ok((Tenant::try_from(row)?, made))
}

/// Replaces a package.
pub async fn update_package(tx: &mut Tx, id: TenantId, package: &Package) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE tenants SET entitled_providers = $2, identity_creation = $3, validation = $4, mitigation = $5,
                            identifier_cap = $6, integration_cap = $7, contact = $8
         WHERE tenant_id = $1",
    )
    .bind(id)
    .bind(names(package))
    .bind(package.identity_creation)
    .bind(package.validation)
    .bind(package.mitigation)
    .bind(package.identifier_cap)
    .bind(package.integration_cap)
    .bind(&package.contact)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether the server knows a time zone by this name. Names of its own making (`posix/…`, `right/…`) do not count.
pub async fn is_time_zone(tx: &mut Tx, name: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT $1 !~ '^(posix|right)/' AND EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)",
    )
    .bind(name)
    .fetch_one(&mut **tx)
    .await?)
}

/// Moves a tenant to another time zone.
pub async fn update_time_zone(tx: &mut Tx, id: TenantId, time_zone: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE tenants SET time_zone = $2 WHERE tenant_id = $1")
        .bind(id)
        .bind(time_zone)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn names(package: &Package) -> Vec<&'static str> {
    package.providers.iter().map(|p| p.as_str()).collect()
}

/// Organizations after a place, oldest first.
pub async fn organizations(
    tx: &mut Tx,
    after: Option<(OffsetDateTime, OrganizationId)>,
    limit: i64,
) -> Result<Vec<Organization>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(
        "SELECT organization_id, name, created_at FROM organizations
         WHERE $1::timestamptz IS NULL OR (created_at, organization_id) > ($1, $2)
         ORDER BY created_at, organization_id LIMIT $3",
    )
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// Tenants after a place, oldest first.
pub async fn tenants(
    tx: &mut Tx,
    organization: Option<OrganizationId>,
    after: Option<(OffsetDateTime, TenantId)>,
    limit: i64,
) -> Result<Vec<Tenant>, StoreError> {
    let (at, id) = after.unzip();
    let rows: Vec<TenantRow> = sqlx::query_as(concat!(
        tenant_columns!(),
        "WHERE ($1::uuid IS NULL OR organization_id = $1)
               AND ($2::timestamptz IS NULL OR (created_at, tenant_id) > ($2, $3))
         ORDER BY created_at, tenant_id LIMIT $4"
    ))
    .bind(organization)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Tenant::try_from).collect()
}

/// The ids of an organization's tenants.
pub async fn tenants_of(tx: &mut Tx, organization: OrganizationId) -> Result<Vec<TenantId>, StoreError> {
    let ids =
        sqlx::query_scalar("SELECT tenant_id FROM tenants WHERE organization_id = $1 ORDER BY tenant_id");
    Ok(ids.bind(organization).fetch_all(&mut **tx).await?)
}

/// What a tenant uses of its package.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Usage {
    /// Identifiers.
    pub identifiers: i64,
    /// Identifiers beyond the cap.
    pub identifiers_skipped: i64,
    /// Integrations.
    pub integrations: i64,
    /// Exposures made in the time.
    pub exposures: i64,
    /// Attempts in the time.
    pub attempts: i64,
    /// Mitigations planned in the time that were carried out.
    pub mitigations: i64,
}

/// Counts what a tenant uses, since an instant where time matters. In the tenant's transaction: row security chooses.
pub async fn usage(tx: &mut Tx, since: OffsetDateTime) -> Result<Usage, StoreError> {
    Ok(sqlx::query_as(
        "SELECT coalesce((SELECT sum(identifiers) FROM sync.usage_v), 0)::bigint AS identifiers,
                (SELECT count(*) FROM sync.identifiers_skipped_v) AS identifiers_skipped,
                (SELECT count(*) FROM integrations) AS integrations,
                (SELECT count(*) FROM validator.exposures_v WHERE created_at >= $1) AS exposures,
                validator.attempts_since($1) AS attempts,
                (SELECT count(*) FROM mitigation.mitigations_v
                 WHERE created_at >= $1 AND undoes IS NULL AND state IN ('done', 'verified', 'reverted', 'undone'))
                    AS mitigations",
    )
    .bind(since)
    .fetch_one(&mut **tx)
    .await?)
}

/// Every tenant's id, for loops that visit them all.
pub async fn tenant_ids(tx: &mut Tx) -> Result<Vec<TenantId>, StoreError> {
    Ok(sqlx::query_scalar("SELECT tenant_id FROM tenants ORDER BY tenant_id").fetch_all(&mut **tx).await?)
}
