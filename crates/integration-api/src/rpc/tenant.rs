//! TenantService: organizations, tenants, packages, usage.

use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, StoreError, Tx},
    id::{CauseId, ProviderKind},
    wire::v1::{self, tenant_service_server::TenantService},
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    convert, id, integration_events::request_sync, is_text, optional_id, organization, tenant_deletion,
};
use crate::{
    auth::{Caller, caller},
    error::{ApiError, Check},
    page::{self, Scope},
    store::{
        integrations,
        registry::{self, Organization, Package, Tenant, Usage},
    },
};

const DEFAULT_IDENTIFIER_CAP: i64 = 100_000;
const MOST_IDENTIFIERS: i64 = 100_000_000;
/// What usage over time is counted of.
const USAGE_SPAN: time::Duration = time::Duration::days(30);

/// The service.
#[derive(Clone, Debug)]
pub struct Tenants {
    pub(super) db: Db,
}

impl Tenants {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    async fn create_organization(
        &self,
        caller: &Caller,
        request: v1::CreateOrganizationRequest,
    ) -> Result<v1::CreateOrganizationResponse, ApiError> {
        let v1::CreateOrganizationRequest { id: organization, name } = request;
        let organization = id("id", &organization)?;
        name_checked("name", &name)?;
        let mut tx = self.db.system().await?;
        let (row, made) =
            registry::create_organization(&mut tx, organization, name.trim()).await.map_err(name_taken)?;
        if !made && row.name != name.trim() {
            return Err(id_taken());
        }
        if made {
            let event = Event::new(
                None,
                names::ORGANIZATION_CREATED,
                caller.actor(),
                Outcome::Success,
                "organization created",
            )
            .object("organization", organization)
            .detail("name", &row.name);
            audit::record(&mut tx, &event).await?;
        }
        tx.commit().await?;
        Ok(v1::CreateOrganizationResponse { organization: Some(organization_out(row)) })
    }

    async fn create_tenant(
        &self,
        caller: &Caller,
        request: v1::CreateTenantRequest,
    ) -> Result<v1::CreateTenantResponse, ApiError> {
        let v1::CreateTenantRequest { id: tenant, organization_id, name, package, time_zone } = request;
        let time_zone = if time_zone.is_empty() { "UTC" } else { &time_zone };
        let mut check = Check::default();
        let tenant = check.take(id("id", &tenant))?;
        let organization = check.take(id("organization_id", &organization_id))?;
        check.take(name_checked("name", &name))?;
        let package = check.take(package.map_or_else(|| Ok(Package::default()), |p| package_in(Some(p))))?;
        check.done()?;
        let (Some(tenant), Some(organization), Some(package)) = (tenant, organization, package) else {
            return Err(ApiError::Internal("a checked request has gaps"));
        };
        let mut tx = self.db.system().await?;
        if !registry::organization_exists(&mut tx, organization).await? {
            return Err(ApiError::NotFound("organization"));
        }
        time_zone_checked(&mut tx, time_zone).await?;
        let (row, made) =
            registry::create_tenant(&mut tx, tenant, organization, name.trim(), &package, time_zone)
                .await
                .map_err(name_taken)?;
        if !made && (row.organization != organization || row.name != name.trim()) {
            return Err(id_taken());
        }
        if made {
            let event =
                Event::new(None, names::TENANT_CREATED, caller.actor(), Outcome::Success, "tenant created")
                    .object("tenant", tenant)
                    .detail("organization", organization)
                    .detail("name", &row.name)
                    .detail("time_zone", &row.time_zone);
            audit::record(&mut tx, &with_package(event, "", &row.package)).await?;
        }
        tx.commit().await?;
        Ok(v1::CreateTenantResponse { tenant: Some(tenant_out(row)) })
    }

    async fn update_tenant_package(
        &self,
        caller: &Caller,
        request: v1::UpdateTenantPackageRequest,
    ) -> Result<v1::UpdateTenantPackageResponse, ApiError> {
        let v1::UpdateTenantPackageRequest { tenant_id, package } = request;
        let tenant = id("tenant_id", &tenant_id)?;
        let package = package_in(package)?;
        let mut tx = self.db.system().await?;
        let before = registry::tenant(&mut tx, tenant).await?.ok_or(ApiError::NotFound("tenant"))?;
        if before.package != package {
            registry::update_package(&mut tx, tenant, &package).await?;
            let event = Event::new(
                None,
                names::TENANT_PACKAGE_CHANGED,
                caller.actor(),
                Outcome::Success,
                "package changed",
            )
            .object("tenant", tenant);
            let event = with_package(with_package(event, "before.", &before.package), "after.", &package);
            let cause = CauseId(audit::record(&mut tx, &event).await?.uuid());
            // What stood still because the package left its provider out goes on.
            tx.set_tenant(tenant).await?;
            for provider in package.providers.iter().filter(|p| !before.package.providers.contains(p)) {
                for integration in integrations::active_of(&mut tx, tenant, *provider).await? {
                    request_sync(&mut tx, tenant, caller, integration, false, cause).await?;
                }
            }
        }
        tx.commit().await?;
        Ok(v1::UpdateTenantPackageResponse { tenant: Some(tenant_out(Tenant { package, ..before })) })
    }

    async fn update_tenant_time_zone(
        &self,
        caller: &Caller,
        request: v1::UpdateTenantTimeZoneRequest,
    ) -> Result<v1::UpdateTenantTimeZoneResponse, ApiError> {
        let v1::UpdateTenantTimeZoneRequest { tenant_id, time_zone } = request;
        let tenant = id("tenant_id", &tenant_id)?;
        let mut tx = self.db.system().await?;
        let before = registry::tenant(&mut tx, tenant).await?.ok_or(ApiError::NotFound("tenant"))?;
        time_zone_checked(&mut tx, &time_zone).await?;
        if before.time_zone != time_zone {
            registry::update_time_zone(&mut tx, tenant, &time_zone).await?;
            let message = "time zone changed";
            let event =
                Event::new(None, names::TENANT_TIME_ZONE_CHANGED, caller.actor(), Outcome::Success, message)
                    .object("tenant", tenant)
                    .detail("before.time_zone", &before.time_zone)
                    .detail("after.time_zone", &time_zone);
            audit::record(&mut tx, &event).await?;
        }
        tx.commit().await?;
        Ok(v1::UpdateTenantTimeZoneResponse { tenant: Some(tenant_out(Tenant { time_zone, ..before })) })
    }

    /// Numbers only: an operator sees no tenant's data.
    async fn get_tenant_usage(
        &self,
        request: v1::GetTenantUsageRequest,
    ) -> Result<v1::GetTenantUsageResponse, ApiError> {
        let tenant = id("tenant_id", &request.tenant_id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let Tenant { package, .. } =
            registry::tenant(&mut tx, tenant).await?.ok_or(ApiError::NotFound("tenant"))?;
        let since = tx.clock().await? - USAGE_SPAN;
        let usage = registry::usage(&mut tx, since).await?;
        tx.rollback().await?;
        let Usage { identifiers, identifiers_skipped, integrations, exposures, attempts, mitigations } =
            usage;
        let usage = v1::TenantUsage {
            tenant_id: tenant.to_string(),
            identifiers,
            identifier_cap: package.identifier_cap,
            identifiers_skipped,
            integrations,
            integration_cap: package.integration_cap,
            since: Some(convert::timestamp(since)),
            exposures,
            attempts,
            mitigations,
        };
        Ok(v1::GetTenantUsageResponse { usage: Some(usage) })
    }

    async fn list_organizations(
        &self,
        request: v1::ListOrganizationsRequest,
    ) -> Result<v1::ListOrganizationsResponse, ApiError> {
        let v1::ListOrganizationsRequest { page_size, page_token } = request;
        let (size, scope) = (page::size(page_size)?, Scope::of("organizations", &()));
        let after = scope
            .read::<(OffsetDateTime, Uuid)>(&page_token)?
            .map(|(at, id)| (at, shared::id::OrganizationId(id)));
        let mut tx = self.db.system().await?;
        let mut rows = registry::organizations(&mut tx, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |o| (o.created_at, o.organization_id.uuid()))?;
        Ok(v1::ListOrganizationsResponse {
            organizations: rows.into_iter().map(organization_out).collect(),
            next_page_token,
        })
    }

    async fn list_tenants(
        &self,
        request: v1::ListTenantsRequest,
    ) -> Result<v1::ListTenantsResponse, ApiError> {
        let v1::ListTenantsRequest { page_size, page_token, organization_id } = request;
        let organization = optional_id("organization_id", &organization_id)?;
        let (size, scope) = (page::size(page_size)?, Scope::of("tenants", &organization_id));
        let after =
            scope.read::<(OffsetDateTime, Uuid)>(&page_token)?.map(|(at, id)| (at, shared::id::TenantId(id)));
        let mut tx = self.db.system().await?;
        let mut rows = registry::tenants(&mut tx, organization, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |t| (t.created_at, t.id.uuid()))?;
        Ok(v1::ListTenantsResponse { tenants: rows.into_iter().map(tenant_out).collect(), next_page_token })
    }
}

fn name_checked(field: &str, name: &str) -> Result<(), ApiError> {
    let mut check = Check::default();
    check.require(is_text(name, 120), field, "give 1 to 120 printable characters");
    check.done()
}

async fn time_zone_checked(tx: &mut Tx, name: &str) -> Result<(), ApiError> {
    let known = is_text(name, 64) && registry::is_time_zone(tx, name).await?;
    let unknown = "give a name of the IANA time zone database, for example Europe/Berlin";
    if known { Ok(()) } else { Err(ApiError::field("time_zone", unknown)) }
}

fn name_taken(error: StoreError) -> ApiError {
    match error {
        StoreError::Duplicate { .. } => {
            ApiError::Exists { reason: "NAME_TAKEN", message: "the name belongs to another id".into() }
        }
        other => other.into(),
    }
}

fn id_taken() -> ApiError {
    ApiError::Exists { reason: "ID_TAKEN", message: "the id belongs to something of another name".into() }
}

impl Default for Package {
    /// What a tenant has until more is granted: no Okta, no identity creation.
    fn default() -> Self {
        Self {
            providers: vec![ProviderKind::EntraId],
            identity_creation: false,
            validation: true,
            mitigation: true,
            identifier_cap: DEFAULT_IDENTIFIER_CAP,
            integration_cap: 1,
            contact: "the operator of this installation".to_owned(),
        }
    }
}

fn package_in(package: Option<v1::TenantPackage>) -> Result<Package, ApiError> {
    let v1::TenantPackage {
        providers,
        identity_creation,
        validation,
        mitigation,
        identifier_cap,
        integration_cap,
        contact,
    } = package.ok_or_else(|| ApiError::field("package", "say what the tenant may use"))?;
    let mut check = Check::default();
    let mut kinds: Vec<ProviderKind> = Vec::new();
    for value in providers {
        match convert::provider_in("package.providers", value)? {
            Some(kind) if !kinds.contains(&kind) => kinds.push(kind),
            Some(_) => {}
            None => check.require(false, "package.providers", "give known kinds of provider"),
        }
    }
    kinds.sort_unstable();
    check.require(
        (0..=MOST_IDENTIFIERS).contains(&identifier_cap),
        "package.identifier_cap",
        "give 0 (the default) to 100,000,000",
    );
    check.require(
        (0..=1000).contains(&integration_cap),
        "package.integration_cap",
        "give 0 (the default) to 1000",
    );
    check.require(
        is_text(&contact, 200),
        "package.contact",
        "say whom to ask for more, in 1 to 200 characters",
    );
    check.done()?;
    Ok(Package {
        providers: kinds,
        identity_creation,
        validation,
        mitigation,
        identifier_cap: if identifier_cap == 0 { DEFAULT_IDENTIFIER_CAP } else { identifier_cap },
        integration_cap: integration_cap.max(1),
        contact: contact.trim().to_owned(),
    })
}

fn with_package(event: Event, prefix: &str, package: &Package) -> Event {
    let Package {
        providers,
        identity_creation,
        validation,
        mitigation,
        identifier_cap,
        integration_cap,
        contact,
    } = package;
    let providers: Vec<_> = providers.iter().map(|p| p.as_str()).collect();
    event
        .detail(format!("{prefix}providers"), providers.join(","))
        .detail(format!("{prefix}identity_creation"), identity_creation)
        .detail(format!("{prefix}validation"), validation)
        .detail(format!("{prefix}mitigation"), mitigation)
        .detail(format!("{prefix}identifier_cap"), identifier_cap)
        .detail(format!("{prefix}integration_cap"), integration_cap)
        .detail(format!("{prefix}contact"), contact)
}

fn organization_out(row: Organization) -> v1::Organization {
    let Organization { organization_id, name, created_at } = row;
    v1::Organization {
        id: organization_id.to_string(),
        name,
        created_at: Some(convert::timestamp(created_at)),
    }
}

fn tenant_out(row: Tenant) -> v1::Tenant {
    let Tenant { id, organization, name, package, time_zone, created_at } = row;
    let Package {
        providers,
        identity_creation,
        validation,
        mitigation,
        identifier_cap,
        integration_cap,
        contact,
    } = package;
    v1::Tenant {
        id: id.to_string(),
        organization_id: organization.to_string(),
        name,
        package: Some(v1::TenantPackage {
            providers: providers.into_iter().map(|p| convert::provider(p).into()).collect(),
            identity_creation,
            validation,
            mitigation,
            identifier_cap,
            integration_cap,
            contact,
        }),
        created_at: Some(convert::timestamp(created_at)),
        time_zone,
    }
}

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn create_organization(
        &self,
        request: Request<v1::CreateOrganizationRequest>,
    ) -> Result<Response<v1::CreateOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.create_organization(&caller, request.into_inner()).await?))
    }
    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::CreateTenantResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.create_tenant(&caller, request.into_inner()).await?))
    }
    async fn update_tenant_package(
        &self,
        request: Request<v1::UpdateTenantPackageRequest>,
    ) -> Result<Response<v1::UpdateTenantPackageResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.update_tenant_package(&caller, request.into_inner()).await?))
    }
    async fn update_tenant_time_zone(
        &self,
        request: Request<v1::UpdateTenantTimeZoneRequest>,
    ) -> Result<Response<v1::UpdateTenantTimeZoneResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.update_tenant_time_zone(&caller, request.into_inner()).await?))
    }
    async fn list_organizations(
        &self,
        request: Request<v1::ListOrganizationsRequest>,
    ) -> Result<Response<v1::ListOrganizationsResponse>, Status> {
        Ok(Response::new(self.list_organizations(request.into_inner()).await?))
    }
    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        Ok(Response::new(self.list_tenants(request.into_inner()).await?))
    }
    async fn get_tenant_usage(
        &self,
        request: Request<v1::GetTenantUsageRequest>,
    ) -> Result<Response<v1::GetTenantUsageResponse>, Status> {
        Ok(Response::new(self.get_tenant_usage(request.into_inner()).await?))
    }
    async fn get_organization_settings(
        &self,
        request: Request<v1::GetOrganizationSettingsRequest>,
    ) -> Result<Response<v1::GetOrganizationSettingsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(organization::settings(&self.db, &caller, request.into_inner()).await?))
    }
    async fn update_organization_settings(
        &self,
        request: Request<v1::UpdateOrganizationSettingsRequest>,
    ) -> Result<Response<v1::UpdateOrganizationSettingsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(organization::update_settings(&self.db, &caller, request.into_inner()).await?))
    }
    async fn delete_tenant(
        &self,
        request: Request<v1::DeleteTenantRequest>,
    ) -> Result<Response<v1::DeleteTenantResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(tenant_deletion::delete(&self.db, &caller, request.into_inner()).await?))
    }
}
