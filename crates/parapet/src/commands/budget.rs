//! `parapet budget`: what an account's attempts are limited to, and how two administrators raise the daily maximum.

use shared::wire::v1::{
    self as api, integration_service_client::IntegrationServiceClient,
    validation_service_client::ValidationServiceClient,
};

use super::{ROWS, integration_id, integration_id_or_any, output, pages};
use crate::{cli::Global, client};

/// What an account's attempt budget allows, and how its daily maximum is raised above 3
#[derive(Debug, clap::Subcommand)]
pub enum Budget {
    /// Show the budget of an account
    Show {
        /// The account (id)
        account: String,
    },
    /// Ask for more than 3 attempts per account and day; another administrator approves it
    Raise {
        /// The integration (name or id)
        integration: String,
        /// Attempts per account in any 24 hours
        #[arg(long, value_parser = clap::value_parser!(i32).range(4..=5))]
        to: i32,
        /// Why, for the second administrator and the audit log
        #[arg(long)]
        reason: String,
    },
    /// Approve what another administrator asked for
    Approve {
        /// The request (id, see `parapet budget requests`)
        id: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// Withdraw a request of your own, or refuse another's
    Decline {
        /// The request (id, see `parapet budget requests`)
        id: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// List who asked for more, and what became of it, newest first
    Requests {
        /// Only of this integration (name or id)
        #[arg(long)]
        integration: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
}

const REQUESTS: [output::Column; 7] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("TO", "daily_max"),
    ("BY", "asker_name"),
    ("REASON", "reason"),
    ("DECIDED BY", "decider_name"),
    ("EXPIRES", "expires_at"),
];

impl Budget {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = IntegrationServiceClient::new(api.clone());
        let request = match self {
            Self::Show { account: account_id } => {
                let request = api::GetAttemptBudgetRequest { account_id };
                let budget =
                    ValidationServiceClient::new(api).get_attempt_budget(request).await?.into_inner();
                return output::show(global, &output::json("GetAttemptBudgetResponse", &budget)?);
            }
            Self::Requests { integration, limit } => {
                let integration_id = integration_id_or_any(&api, integration.as_deref()).await?;
                let rows = pages(limit, async |page_size, page_token| {
                    let integration_id = integration_id.clone();
                    let request = api::ListDailyMaxRequestsRequest { page_size, page_token, integration_id };
                    let page = client.list_daily_max_requests(request).await?.into_inner();
                    Ok((output::rows("DailyMaxRequest", &page.requests)?, page.next_page_token))
                })
                .await?;
                return output::list(global, &REQUESTS, &rows, "nobody asked for a higher daily maximum");
            }
            Self::Raise { integration, to: daily_max, reason } => {
                let integration_id = integration_id(&api, &integration).await?;
                let request = api::RequestDailyMaxRequest { integration_id, daily_max, reason };
                client.request_daily_max(request).await?.into_inner().request
            }
            Self::Approve { id, reason } => {
                let request = api::ApproveDailyMaxRequest { id, reason };
                client.approve_daily_max(request).await?.into_inner().request
            }
            Self::Decline { id, reason } => {
                let request = api::DeclineDailyMaxRequest { id, reason };
                client.decline_daily_max(request).await?.into_inner().request
            }
        };
        let request = request.unwrap_or_default();
        output::show(global, &output::json("DailyMaxRequest", &request)?)?;
        if !global.json && request.state() == api::DailyMaxRequestState::Waiting {
            eprintln!(
                "\nanother administrator approves it: parapet budget approve {} --reason …",
                request.id
            );
        }
        Ok(())
    }
}
