//! `parapet identity`

use shared::wire::v1::{self as api, identity_service_client::IdentityServiceClient};

use super::{ROWS, integration_id_or_any, output, pages};
use crate::{cli::Global, client};

/// People, built from the accounts of the directories
#[derive(Debug, clap::Subcommand)]
pub enum Identity {
    /// List identities
    List {
        /// Only of this integration (name or id)
        #[arg(long)]
        integration: Option<String>,
        /// Only whose identifier this is: a login, an e-mail address, an alias
        #[arg(long, default_value = "", hide_default_value = true)]
        identifier: String,
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Show one with its accounts, identifiers, exposures and mitigations
    Show {
        /// Id
        id: String,
    },
}

impl Identity {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = IdentityServiceClient::new(api.clone());
        match self {
            Self::List { integration, identifier, limit } => {
                let integration_id = integration_id_or_any(&api, integration.as_deref()).await?;
                let rows = pages(limit, async |page_size, page_token| {
                    let (integration_id, identifier) = (integration_id.clone(), identifier.clone());
                    let request =
                        api::ListIdentitiesRequest { page_size, page_token, integration_id, identifier };
                    let page = client.list_identities(request).await?.into_inner();
                    let mut rows = output::rows("Identity", &page.identities)?;
                    for (row, identity) in rows.iter_mut().zip(&page.identities).filter(|_| !global.json) {
                        let logins: Vec<&str> = identity.accounts.iter().map(|a| a.login.as_str()).collect();
                        if let Some(row) = row.as_object_mut() {
                            row.insert("logins".into(), logins.into());
                        }
                    }
                    Ok((rows, page.next_page_token))
                })
                .await?;
                let columns =
                    [("NAME", "display_name"), ("ACCOUNTS", "logins"), ("SINCE", "created_at"), ("ID", "id")];
                output::list(global, &columns, &rows, "no identities")
            }
            Self::Show { id } => {
                let shown = client.get_identity(api::GetIdentityRequest { id }).await?.into_inner();
                output::show(global, &output::json("GetIdentityResponse", &shown)?)
            }
        }
    }
}
