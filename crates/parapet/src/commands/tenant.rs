//! `parapet tenant`

use shared::wire::v1::{self as api, installation_service_client::InstallationServiceClient};

use super::{output, pages};
use crate::{cli::Global, client};

/// Tenants of the installation; needs the operator's role
#[derive(Debug, clap::Subcommand)]
pub enum Tenant {
    /// List the tenants with their packages
    List,
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

impl Tenant {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut client = InstallationServiceClient::new(client::connect(global).await?);
        if let Self::Delete { id, confirm, reason } = self {
            let request = api::DeleteTenantRequest { tenant_id: id, confirm_name: confirm, reason };
            let deleted = client.delete_tenant(request).await?.into_inner();
            let keys = deleted.keys_destroyed;
            return output::show(global, &serde_json::json!({"deleted": true, "keys_destroyed": keys}));
        }
        let rows = pages(u32::MAX, async |page_size, page_token| {
            let request = api::ListTenantsRequest { page_size, page_token, ..Default::default() };
            let page = client.list_tenants(request).await?.into_inner();
            Ok((output::rows("Tenant", &page.tenants)?, page.next_page_token))
        })
        .await?;
        let columns = [
            ("NAME", "name"),
            ("ID", "id"),
            ("PROVIDERS", "package.providers"),
            ("IDENTIFIERS", "package.identifier_cap"),
            ("INTEGRATIONS", "package.integration_cap"),
            ("TIME ZONE", "time_zone"),
            ("CONTACT", "package.contact"),
        ];
        output::list(global, &columns, &rows, "no tenants; `parapet bootstrap FILE` creates them")
    }
}
