//! `parapet tenant`: the tenants of the installation, what they may use and what they use.

use anyhow::{Context as _, bail};
use shared::wire::v1::{self as api, tenant_service_client::TenantServiceClient};
use uuid::Uuid;

use super::{organization, output, pages, words::Provider};
use crate::{
    bootstrap::ids,
    cli::Global,
    client::{self, Api},
};

/// Tenants of the installation, their packages and their usage; needs the operator's role
#[derive(Debug, clap::Subcommand)]
pub enum Tenant {
    /// List the tenants with their packages
    List,
    /// Create a tenant; without more, it may connect Entra ID, validate and mitigate
    ///
    /// Running it again changes nothing. Many at once: `parapet bootstrap FILE`.
    Create {
        /// Name, unique in the organization
        name: String,
        /// The organization: its name or id
        #[arg(long, value_name = "NAME|ID")]
        organization: String,
        /// Id (UUID); derived from the names unless given
        #[arg(long)]
        id: Option<Uuid>,
        /// A name of the IANA time zone database, such as Europe/Berlin
        #[arg(long, default_value = "UTC")]
        time_zone: String,
        /// Whom a refusal by package names
        #[arg(long)]
        contact: String,
        /// What it may use
        #[command(flatten)]
        package: Allowed,
    },
    /// Change what a tenant may use; what is not named stays
    Package {
        // Not called `tenant`: that is the option of every command.
        /// The tenant: its name or id
        #[arg(value_name = "TENANT")]
        which: String,
        /// Whom a refusal by package names
        #[arg(long)]
        contact: Option<String>,
        /// What changes
        #[command(flatten)]
        package: Allowed,
    },
    /// Show what tenants use of their packages, as numbers: now, and in the last 30 days
    Usage {
        /// Only this tenant: its name or id
        #[arg(value_name = "TENANT")]
        which: Option<String>,
    },
    /// Delete a tenant for ever: nothing sealed of it opens any more from then on, its rows go in the background
    ///
    /// Its audit events and the attempts of its accounts stay; its id is never used again.
    Delete {
        /// The tenant (id)
        id: String,
        /// Its name, exactly, to confirm
        #[arg(long, value_name = "NAME")]
        confirm: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
}

/// What a tenant may use.
#[derive(Debug, clap::Args)]
pub struct Allowed {
    /// The kinds of provider it may connect, all of them
    #[arg(long, value_enum, value_delimiter = ',')]
    providers: Vec<Provider>,
    /// Make identities and identifiers from synced accounts
    #[arg(long)]
    identity_creation: Option<bool>,
    /// Validate leaked passwords
    #[arg(long)]
    validation: Option<bool>,
    /// Contain accounts
    #[arg(long)]
    mitigation: Option<bool>,
    /// How many identifiers it may have
    #[arg(long)]
    identifier_cap: Option<i64>,
    /// How many integrations it may have
    #[arg(long)]
    integration_cap: Option<i32>,
}

impl Allowed {
    /// This package, changed as typed.
    fn onto(self, mut package: api::TenantPackage, contact: Option<String>) -> api::TenantPackage {
        let Self { providers, identity_creation, validation, mitigation, identifier_cap, integration_cap } =
            self;
        if !providers.is_empty() {
            package.providers = providers.into_iter().map(Provider::wire).collect();
        }
        package.identity_creation = identity_creation.unwrap_or(package.identity_creation);
        package.validation = validation.unwrap_or(package.validation);
        package.mitigation = mitigation.unwrap_or(package.mitigation);
        package.identifier_cap = identifier_cap.unwrap_or(package.identifier_cap);
        package.integration_cap = integration_cap.unwrap_or(package.integration_cap);
        package.contact = contact.unwrap_or(package.contact);
        package
    }
}

impl Tenant {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut client = TenantServiceClient::new(client::connect(global).await?);
        match self {
            Self::List => list(global, &mut client).await,
            Self::Create { name, organization, id, time_zone, contact, package } => {
                let of = organization::named(&mut client, &organization).await?;
                let granted_to_all = api::TenantPackage {
                    providers: vec![api::ProviderKind::EntraId.into()],
                    validation: true,
                    mitigation: true,
                    ..Default::default()
                };
                let request = api::CreateTenantRequest {
                    id: id.unwrap_or_else(|| ids::tenant(&of.name, &name)).to_string(),
                    organization_id: of.id,
                    name,
                    package: Some(package.onto(granted_to_all, Some(contact))),
                    time_zone,
                };
                let made = client.create_tenant(request).await?.into_inner().tenant.unwrap_or_default();
                output::show(global, &output::json("Tenant", &made)?)
            }
            Self::Package { which, contact, package } => {
                let api::Tenant { id, package: before, .. } = named(&mut client, &which).await?;
                let package = package.onto(before.unwrap_or_default(), contact);
                let request = api::UpdateTenantPackageRequest { tenant_id: id, package: Some(package) };
                let changed = client.update_tenant_package(request).await?.into_inner();
                output::show(global, &output::json("Tenant", &changed.tenant.unwrap_or_default())?)
            }
            Self::Usage { which } => usage(global, &mut client, which).await,
            Self::Delete { id, confirm, reason } => {
                let request = api::DeleteTenantRequest { tenant_id: id, confirm_name: confirm, reason };
                let deleted = client.delete_tenant(request).await?.into_inner();
                let keys = deleted.keys_destroyed;
                output::show(global, &serde_json::json!({"deleted": true, "keys_destroyed": keys}))
            }
        }
    }
}

async fn list(global: &Global, client: &mut TenantServiceClient<Api>) -> anyhow::Result<()> {
    let tenants = all(client).await?;
    let columns = [
        ("NAME", "name"),
        ("ID", "id"),
        ("PROVIDERS", "package.providers"),
        ("IDENTIFIERS", "package.identifier_cap"),
        ("INTEGRATIONS", "package.integration_cap"),
        ("TIME ZONE", "time_zone"),
        ("CONTACT", "package.contact"),
    ];
    let none = "no tenants; `parapet tenant create` and `parapet bootstrap FILE` make them";
    output::list(global, &columns, &output::rows("Tenant", &tenants)?, none)
}

async fn usage(
    global: &Global,
    client: &mut TenantServiceClient<Api>,
    tenant: Option<String>,
) -> anyhow::Result<()> {
    let tenants = match tenant {
        Some(tenant) => vec![named(client, &tenant).await?],
        None => all(client).await?,
    };
    let mut rows = Vec::new();
    for api::Tenant { id, name, .. } in tenants {
        let request = api::GetTenantUsageRequest { tenant_id: id };
        let usage = client.get_tenant_usage(request).await?.into_inner().usage.unwrap_or_default();
        // A number that is zero is a number.
        let api::TenantUsage {
            tenant_id,
            identifiers,
            identifier_cap,
            identifiers_skipped,
            integrations,
            integration_cap,
            since,
            exposures,
            attempts,
            mitigations,
        } = usage;
        rows.push(serde_json::json!({
            "tenant_id": tenant_id,
            "name": name,
            "identifiers": identifiers,
            "identifier_cap": identifier_cap,
            "identifiers_skipped": identifiers_skipped,
            "integrations": integrations,
            "integration_cap": integration_cap,
            "since": since.map(|at| at.to_string()),
            "exposures": exposures,
            "attempts": attempts,
            "mitigations": mitigations,
        }));
    }
    let columns = [
        ("NAME", "name"),
        ("IDENTIFIERS", "identifiers"),
        ("OF", "identifier_cap"),
        ("SKIPPED", "identifiers_skipped"),
        ("INTEGRATIONS", "integrations"),
        ("OF", "integration_cap"),
        ("EXPOSURES", "exposures"),
        ("ATTEMPTS", "attempts"),
        ("MITIGATIONS", "mitigations"),
        ("SINCE", "since"),
    ];
    output::list(global, &columns, &rows, "no tenants")
}

async fn all(client: &mut TenantServiceClient<Api>) -> anyhow::Result<Vec<api::Tenant>> {
    let mut tenants = Vec::new();
    pages(u32::MAX, async |page_size, page_token| {
        let request = api::ListTenantsRequest { page_size, page_token, ..Default::default() };
        let page = client.list_tenants(request).await?.into_inner();
        tenants.extend(page.tenants);
        Ok((Vec::new(), page.next_page_token))
    })
    .await?;
    Ok(tenants)
}

/// The tenant with this id or name.
pub(super) async fn named(
    client: &mut TenantServiceClient<Api>,
    wanted: &str,
) -> anyhow::Result<api::Tenant> {
    let mut found: Vec<_> =
        all(client).await?.into_iter().filter(|t| t.id == wanted || t.name == wanted).collect();
    match found.len() {
        0 => bail!("there is no tenant {wanted}; `parapet tenant list` shows them"),
        1 => found.pop().context("no tenant"),
        _ => bail!("several tenants are called {wanted}; name one by its id"),
    }
}
