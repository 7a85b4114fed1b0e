//! `parapet approval`: what waits for a second person.

use shared::wire::v1::{self as api, mitigation_service_client::MitigationServiceClient};

use super::{ROWS, output, pages, words::ApprovalState};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// Mitigations that wait for a second person: shown, approved, rejected
#[derive(Debug, clap::Subcommand)]
pub enum Approval {
    /// List what waits, oldest first
    List {
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
        /// In these states instead of open
        #[arg(long, value_enum, value_delimiter = ',')]
        state: Vec<ApprovalState>,
    },
    /// Show one with its mitigations
    Show {
        /// Id
        id: String,
        /// At most so many of its mitigations
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Let its mitigations run; it takes another person than the one who asked for them
    ///
    /// Each account is read from the directory again before anything is done to it.
    Approve {
        /// Id
        id: String,
        /// Only these mitigations (ids); the others of it are dropped
        #[arg(long, value_delimiter = ',', value_name = "MITIGATION")]
        only: Vec<String>,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// Drop its mitigations for good
    Reject {
        /// Id
        id: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
}

const APPROVALS: [output::Column; 8] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("HELD BY", "held_by"),
    ("MITIGATIONS", "held"),
    ("ACCOUNTS", "accounts"),
    ("ADMINS", "administrators"),
    ("ASKED BY", "requester_name"),
    ("EXPIRES", "expires_at"),
];

const MITIGATIONS: [output::Column; 7] = [
    ("LOGIN", "login"),
    ("ACTION", "action"),
    ("STATE", "state"),
    ("REASON", "reason"),
    ("PLANNED", "created_at"),
    ("ACCOUNT", "account_id"),
    ("ID", "id"),
];

impl Approval {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut client = MitigationServiceClient::new(client::connect(global).await?);
        let decided = match self {
            Self::List { limit, state } => {
                let states: Vec<i32> = state.into_iter().map(ApprovalState::wire).collect();
                let rows = pages(limit, async |page_size, page_token| {
                    let states = states.clone();
                    let request = api::ListPendingApprovalsRequest { page_size, page_token, states };
                    let page = client.list_pending_approvals(request).await?.into_inner();
                    Ok((output::rows("Approval", &page.approvals)?, page.next_page_token))
                })
                .await?;
                return output::list(global, &APPROVALS, &rows, "nothing waits for a second person");
            }
            Self::Show { id, limit } => return show(global, client, id, limit).await,
            Self::Approve { id, only, reason } => {
                let request = api::ApproveRequest { id, mitigation_ids: only, reason };
                client.approve(request).await?.into_inner().approval
            }
            Self::Reject { id, reason } => {
                client.reject(api::RejectRequest { id, reason }).await?.into_inner().approval
            }
        };
        output::show(global, &output::json("Approval", &decided.unwrap_or_default())?)
    }
}

async fn show(
    global: &Global,
    mut client: MitigationServiceClient<Api>,
    id: String,
    limit: u32,
) -> anyhow::Result<()> {
    let approval = find(&mut client, &id).await?;
    let mitigations = pages(limit, async |page_size, page_token| {
        let approval_id = id.clone();
        let request =
            api::ListMitigationsRequest { page_size, page_token, approval_id, ..Default::default() };
        let page = client.list_mitigations(request).await?.into_inner();
        Ok((output::rows("Mitigation", &page.mitigations)?, page.next_page_token))
    })
    .await?;
    let shown = output::json("Approval", &approval)?;
    if global.json {
        return output::show(global, &serde_json::json!({"approval": shown, "mitigations": mitigations}));
    }
    output::show(global, &shown)?;
    println!();
    output::list(global, &MITIGATIONS, &mitigations, "it has no mitigations")?;
    if approval.state() == api::ApprovalState::Open {
        eprintln!(
            "\nnext: parapet approval approve {id} --reason WHY, or parapet approval reject {id} --reason WHY"
        );
    }
    Ok(())
}

/// The approval with this id, whatever its state.
async fn find(client: &mut MitigationServiceClient<Api>, id: &str) -> anyhow::Result<api::Approval> {
    use api::ApprovalState as State;
    let states = [State::Open, State::Approved, State::Rejected, State::Expired];
    let states: Vec<i32> = states.into_iter().map(Into::into).collect();
    let mut page_token = String::new();
    loop {
        let states = states.clone();
        let request = api::ListPendingApprovalsRequest { page_size: 1000, page_token, states };
        let page = client.list_pending_approvals(request).await?.into_inner();
        if let Some(found) = page.approvals.into_iter().find(|approval| approval.id == id) {
            return Ok(found);
        }
        if page.next_page_token.is_empty() {
            let said =
                format!("no approval has the id {id}; `parapet approval list` shows those that are open");
            return Err(tonic::Status::not_found(said).into());
        }
        page_token = page.next_page_token;
    }
}
