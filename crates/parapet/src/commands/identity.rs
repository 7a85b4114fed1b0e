//! `parapet identity`

use shared::wire::v1::{self as api, identity_service_client::IdentityServiceClient};

use super::{ROWS, integration_id, output};
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
        #[arg(long, default_value = "")]
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
                let integration_id = match integration {
                    Some(named) => integration_id(&api, &named).await?,
                    None => String::new(),
                };
                let (mut rows, mut page_token) = (Vec::new(), String::new());
                loop {
                    let left = limit.saturating_sub(u32::try_from(rows.len())?).min(500);
                    if left == 0 {
                        break;
                    }
                    let page = client
                        .list_identities(api::ListIdentitiesRequest {
                            page_size: i32::try_from(left)?,
                            page_token,
                            integration_id: integration_id.clone(),
                            identifier: identifier.clone(),
                        })
                        .await?
                        .into_inner();
                    for identity in &page.identities {
                        let mut row = output::json("Identity", identity)?;
                        let logins: Vec<&str> = identity.accounts.iter().map(|a| a.login.as_str()).collect();
                        if let Some(row) = row.as_object_mut().filter(|_| !global.json) {
                            row.insert("logins".into(), logins.into());
                        }
                        rows.push(row);
                    }
                    if page.next_page_token.is_empty() {
                        break;
                    }
                    page_token = page.next_page_token;
                }
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
