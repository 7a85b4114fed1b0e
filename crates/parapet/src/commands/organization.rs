//! `parapet organization`: customers, and what they have decided for all their tenants.

use anyhow::Context as _;
use shared::wire::v1::{self as api, tenant_service_client::TenantServiceClient};
use uuid::Uuid;

use super::{output, pages};
use crate::{
    bootstrap::ids,
    cli::Global,
    client::{self, Api},
};

/// Organizations, and what they have decided for all their tenants
#[derive(Debug, clap::Subcommand)]
pub enum Organization {
    /// List the organizations; needs the operator's role
    List,
    /// Create an organization; needs the operator's role. Running it again changes nothing
    Create {
        /// Name
        name: String,
        /// Id (UUID); derived from the name unless given
        #[arg(long)]
        id: Option<Uuid>,
    },
    /// Show or change what an organization has decided; needs its administrator's role, or the operator's
    Settings {
        /// The organization's id; the caller's own unless given
        #[arg(long)]
        organization: Option<Uuid>,
        /// Administrators of its tenants may add integrations too
        #[arg(long)]
        tenant_admins_add_integrations: Option<bool>,
    },
}

impl Organization {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut client = TenantServiceClient::new(client::connect(global).await?);
        match self {
            Self::List => {
                let rows = output::rows("Organization", &all(&mut client).await?)?;
                let columns = [("NAME", "name"), ("ID", "id"), ("CREATED", "created_at")];
                output::list(
                    global,
                    &columns,
                    &rows,
                    "no organizations; `parapet organization create` makes one",
                )
            }
            Self::Create { name, id } => {
                let id = id.unwrap_or_else(|| ids::organization(&name)).to_string();
                let request = api::CreateOrganizationRequest { id, name };
                let made = client.create_organization(request).await?.into_inner().organization;
                output::show(global, &output::json("Organization", &made.unwrap_or_default())?)
            }
            Self::Settings { organization, tenant_admins_add_integrations } => {
                let organization_id = organization.map(|id| id.to_string()).unwrap_or_default();
                let (id, settings) = if let Some(add) = tenant_admins_add_integrations {
                    let settings = Some(api::OrganizationSettings { tenant_admins_add_integrations: add });
                    let request = api::UpdateOrganizationSettingsRequest { organization_id, settings };
                    let now = client.update_organization_settings(request).await?.into_inner();
                    (now.organization_id, now.settings)
                } else {
                    let request = api::GetOrganizationSettingsRequest { organization_id };
                    let now = client.get_organization_settings(request).await?.into_inner();
                    (now.organization_id, now.settings)
                };
                let api::OrganizationSettings { tenant_admins_add_integrations } =
                    settings.unwrap_or_default();
                output::show(
                    global,
                    &serde_json::json!({
                        "organization_id": id,
                        "tenant_admins_add_integrations": tenant_admins_add_integrations,
                    }),
                )
            }
        }
    }
}

async fn all(client: &mut TenantServiceClient<Api>) -> anyhow::Result<Vec<api::Organization>> {
    let mut organizations = Vec::new();
    pages(u32::MAX, async |page_size, page_token| {
        let request = api::ListOrganizationsRequest { page_size, page_token };
        let page = client.list_organizations(request).await?.into_inner();
        organizations.extend(page.organizations);
        Ok((Vec::new(), page.next_page_token))
    })
    .await?;
    Ok(organizations)
}

/// The organization with this id or name.
pub async fn named(client: &mut TenantServiceClient<Api>, wanted: &str) -> anyhow::Result<api::Organization> {
    let mut all = all(client).await?.into_iter();
    all.find(|o| o.id == wanted || o.name == wanted)
        .with_context(|| format!("there is no organization {wanted}; `parapet organization list` shows them"))
}
