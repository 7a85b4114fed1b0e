//! `parapet bootstrap FILE`: organizations, tenants and packages, as a file says.
//!
//! The file is the wish, the installation the present state; only differences are sent, so running it twice changes
//! nothing. Nothing is ever deleted.

pub mod ids;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use shared::wire::v1::tenant_service_client::TenantServiceClient;
use shared::wire::v1::{
    CreateOrganizationRequest, CreateTenantRequest, ListOrganizationsRequest, ListTenantsRequest,
    Organization, ProviderKind, Tenant, TenantPackage, UpdateTenantPackageRequest,
    UpdateTenantTimeZoneRequest,
};
use uuid::Uuid;

use crate::cli::Global;
use crate::client::{self, Api};
use crate::data::DataDir;
use crate::servers::write_private;

/// `parapet bootstrap`
#[derive(Debug, clap::Args)]
pub struct Bootstrap {
    /// The TOML file: `[[organization]]` with `[[organization.tenant]]`; deploy/local/bootstrap.toml is an example
    file: PathBuf,
}

/// What a file wishes for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    #[serde(rename = "organization")]
    organizations: Vec<WishedOrganization>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WishedOrganization {
    name: String,
    id: Option<Uuid>,
    #[serde(default, rename = "tenant")]
    tenants: Vec<WishedTenant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WishedTenant {
    name: String,
    id: Option<Uuid>,
    /// Left out: UTC for a new tenant; an existing one stays where it is.
    time_zone: Option<String>,
    package: Package,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    providers: Vec<Provider>,
    identity_creation: bool,
    validation: bool,
    mitigation: bool,
    identifier_cap: i64,
    integration_cap: i32,
    contact: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Provider {
    EntraId,
    Okta,
}

impl From<Package> for TenantPackage {
    fn from(package: Package) -> Self {
        let Package {
            providers,
            identity_creation,
            validation,
            mitigation,
            identifier_cap,
            integration_cap,
            contact,
        } = package;
        let kind = |provider| match provider {
            Provider::EntraId => ProviderKind::EntraId.into(),
            Provider::Okta => ProviderKind::Okta.into(),
        };
        let providers = providers.into_iter().map(kind).collect();
        Self {
            providers,
            identity_creation,
            validation,
            mitigation,
            identifier_cap,
            integration_cap,
            contact,
        }
    }
}

/// One call that brings the installation closer to the wish.
#[derive(Debug, PartialEq)]
enum Step {
    Organization(CreateOrganizationRequest),
    Tenant(CreateTenantRequest),
    Package(UpdateTenantPackageRequest),
    TimeZone(UpdateTenantTimeZoneRequest),
}

#[derive(Debug, Serialize)]
struct Done {
    what: &'static str,
    name: String,
    id: Uuid,
    outcome: &'static str,
}

impl Wish {
    /// Reads a file.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a bootstrap file", file.display()))
    }

    /// What has to be done, and what everything is called: one line of report for each wish.
    fn plan(
        &self,
        organizations: &[Organization],
        tenants: &[Tenant],
    ) -> anyhow::Result<(Vec<Step>, Vec<Done>)> {
        let known: HashMap<&str, &Organization> = organizations.iter().map(|o| (o.id.as_str(), o)).collect();
        let known_tenants: HashMap<&str, &Tenant> = tenants.iter().map(|t| (t.id.as_str(), t)).collect();
        let (mut steps, mut report) = (Vec::new(), Vec::new());
        for organization in &self.organizations {
            let name = &organization.name;
            let id = organization.id.unwrap_or_else(|| ids::organization(name));
            let outcome = match known.get(id.to_string().as_str()) {
                Some(present) if present.name == *name => "unchanged",
                Some(present) => bail!("organization {id} exists and is called {}, not {name}", present.name),
                None => {
                    steps.push(Step::Organization(CreateOrganizationRequest {
                        id: id.to_string(),
                        name: name.clone(),
                    }));
                    "created"
                }
            };
            report.push(Done { what: "organization", name: name.clone(), id, outcome });
            for tenant in &organization.tenants {
                let tenant_id = tenant.id.unwrap_or_else(|| ids::tenant(name, &tenant.name));
                let package = TenantPackage::from(tenant.package.clone());
                let outcome = match known_tenants.get(tenant_id.to_string().as_str()) {
                    Some(present)
                        if present.organization_id != id.to_string() || present.name != tenant.name =>
                    {
                        bail!("tenant {tenant_id} exists and is {}, not {}", present.name, tenant.name)
                    }
                    Some(present) => {
                        let changed = present.package.as_ref() != Some(&package);
                        if changed {
                            steps.push(Step::Package(UpdateTenantPackageRequest {
                                tenant_id: tenant_id.to_string(),
                                package: Some(package),
                            }));
                        }
                        let moved = tenant.time_zone.as_ref().filter(|zone| **zone != present.time_zone);
                        if let Some(zone) = moved {
                            steps.push(Step::TimeZone(UpdateTenantTimeZoneRequest {
                                tenant_id: tenant_id.to_string(),
                                time_zone: zone.clone(),
                            }));
                        }
                        match (changed, moved.is_some()) {
                            (false, false) => "unchanged",
                            (true, false) => "package changed",
                            (false, true) => "time zone changed",
                            (true, true) => "package and time zone changed",
                        }
                    }
                    None => {
                        steps.push(Step::Tenant(CreateTenantRequest {
                            id: tenant_id.to_string(),
                            organization_id: id.to_string(),
                            name: tenant.name.clone(),
                            package: Some(package),
                            time_zone: tenant.time_zone.clone().unwrap_or_default(),
                        }));
                        "created"
                    }
                };
                report.push(Done { what: "tenant", name: tenant.name.clone(), id: tenant_id, outcome });
            }
        }
        Ok((steps, report))
    }
}

impl Bootstrap {
    /// Brings the installation to what the file says.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let wish = Wish::load(&self.file)?;
        let mut global = global.clone();
        // The local stack's operator, unless somebody else was named.
        if global.caller.is_none() && std::env::var_os("PARAPET_TOKEN_FILE").is_none() && global.api.is_none()
        {
            global.caller = Some("operator".into());
        }
        let report = apply(&wish, client::connect(&Global { tenant: None, ..global.clone() }).await?).await?;
        remember(&global.data()?, &report)?;
        if global.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            for Done { what, name, id, outcome } in report {
                println!("{what:<12}  {name:<24}  {id}  {outcome}");
            }
        }
        Ok(())
    }
}

async fn apply(wish: &Wish, api: Api) -> anyhow::Result<Vec<Done>> {
    let mut api = TenantServiceClient::new(api);
    let (organizations, tenants) = present(&mut api).await?;
    let (steps, report) = wish.plan(&organizations, &tenants)?;
    for step in steps {
        match step {
            Step::Organization(request) => drop(api.create_organization(request).await?),
            Step::Tenant(request) => drop(api.create_tenant(request).await?),
            Step::Package(request) => drop(api.update_tenant_package(request).await?),
            Step::TimeZone(request) => drop(api.update_tenant_time_zone(request).await?),
        }
    }
    Ok(report)
}

async fn present(api: &mut TenantServiceClient<Api>) -> anyhow::Result<(Vec<Organization>, Vec<Tenant>)> {
    const PAGE: i32 = 1000;
    let (mut organizations, mut tenants) = (Vec::new(), Vec::new());
    let mut page_token = String::new();
    loop {
        let request = ListOrganizationsRequest { page_size: PAGE, page_token };
        let page = api.list_organizations(request).await?.into_inner();
        organizations.extend(page.organizations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    loop {
        let request = ListTenantsRequest { page_size: PAGE, page_token, organization_id: String::new() };
        let page = api.list_tenants(request).await?.into_inner();
        tenants.extend(page.tenants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((organizations, tenants));
        }
    }
}

fn names_file(data: &DataDir) -> PathBuf {
    data.path().join("tenants.json")
}

/// Keeps the names of the tenants, so that `--tenant NAME` works: a token lists ids only.
fn remember(data: &DataDir, report: &[Done]) -> anyhow::Result<()> {
    let mut names = tenant_names(data);
    names.extend(report.iter().filter(|done| done.what == "tenant").map(|done| (done.name.clone(), done.id)));
    crate::servers::private_dir(data.path())?;
    write_private(&names_file(data), &serde_json::to_vec_pretty(&names)?)
}

/// The tenants bootstrapped from here, by name.
pub fn tenant_names(data: &DataDir) -> BTreeMap<String, Uuid> {
    std::fs::read(names_file(data))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../../../deploy/local/bootstrap.toml");

    fn sample() -> Wish {
        toml::from_str(SAMPLE).unwrap()
    }

    /// What the installation looks like after the steps.
    fn after(steps: &[Step]) -> (Vec<Organization>, Vec<Tenant>) {
        let (mut organizations, mut tenants) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Organization(CreateOrganizationRequest { id, name }) => {
                    organizations.push(Organization { id: id.clone(), name: name.clone(), created_at: None });
                }
                Step::Tenant(CreateTenantRequest { id, organization_id, name, package, time_zone }) => {
                    tenants.push(Tenant {
                        id: id.clone(),
                        organization_id: organization_id.clone(),
                        name: name.clone(),
                        package: package.clone(),
                        created_at: None,
                        time_zone: time_zone.clone(),
                    });
                }
                Step::Package(_) | Step::TimeZone(_) => {}
            }
        }
        (organizations, tenants)
    }

    #[test]
    fn a_second_run_has_nothing_to_do() {
        let (steps, report) = sample().plan(&[], &[]).unwrap();
        assert_eq!(steps.len(), report.len());
        let (organizations, tenants) = after(&steps);
        let (steps, report) = sample().plan(&organizations, &tenants).unwrap();
        assert_eq!(steps, []);
        assert!(report.iter().all(|done| done.outcome == "unchanged"));
    }

    #[test]
    fn a_changed_package_is_the_only_step() {
        let (steps, _) = sample().plan(&[], &[]).unwrap();
        let (organizations, mut tenants) = after(&steps);
        tenants[0].package.as_mut().unwrap().validation = false;
        let (steps, _) = sample().plan(&organizations, &tenants).unwrap();
        assert!(matches!(steps.as_slice(), [Step::Package(_)]));
    }

    #[test]
    fn a_tenant_moves_to_the_time_zone_of_the_file_and_stays_where_it_is_without_one() {
        let (steps, _) = sample().plan(&[], &[]).unwrap();
        let (organizations, mut tenants) = after(&steps);
        tenants[1].time_zone = "Asia/Tokyo".into();
        let mut wish = sample();
        let (steps, _) = wish.plan(&organizations, &tenants).unwrap();
        assert_eq!(steps, [], "the sample leaves the second tenant's zone open");
        wish.organizations[0].tenants[1].time_zone = Some("Europe/Berlin".into());
        let (steps, _) = wish.plan(&organizations, &tenants).unwrap();
        assert!(matches!(steps.as_slice(), [Step::TimeZone(to)] if to.time_zone == "Europe/Berlin"));
    }

    #[test]
    fn an_id_that_means_something_else_is_refused() {
        let (steps, _) = sample().plan(&[], &[]).unwrap();
        let (mut organizations, tenants) = after(&steps);
        organizations[0].name = "somebody else".into();
        assert!(sample().plan(&organizations, &tenants).is_err());
    }

    #[test]
    fn the_samples_callers_belong_to_the_samples_tenants() {
        let dir = tempfile::tempdir().unwrap();
        crate::issuer::callers::prepare(dir.path()).unwrap();
        let callers =
            crate::issuer::callers::Callers::load(&crate::issuer::callers::file(dir.path())).unwrap();
        let (_, report) = sample().plan(&[], &[]).unwrap();
        for tenant in &callers.find("admin").unwrap().tenants {
            assert!(report.iter().any(|done| done.id == *tenant));
        }
    }
}
