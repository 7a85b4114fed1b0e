//! `parapet mitigate` and `mitigation`: containing accounts, and seeing what would and what did become of it.

use shared::wire::v1::{self as api, mitigation_service_client::MitigationServiceClient};

use super::{
    ROWS, idempotency_key, instant, integration_id_or_any, output, pages,
    plan::{self, MOST_ITEMS},
    progress, range,
    selection::{Chosen, Selection},
    words::Action,
};
use crate::{cli::Global, client};

/// The most accounts and exposures that one request names; more are asked for in bulk.
const MOST_NAMED: usize = 1000;

/// Contain accounts by hand; `parapet mitigation plan` shows first what that would do
///
/// More accounts than the policy lets one person contain wait for a second one, as administrators and protected accounts do:
/// `parapet approval list`.
#[derive(Debug, clap::Args)]
pub struct Mitigate {
    #[command(flatten)]
    selection: Selection,
    /// What to do
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    action: Vec<Action>,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

impl Mitigate {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        use api::bulk_mitigate_request::Selection;
        let api = client::connect(global).await?;
        let mut client = MitigationServiceClient::new(api.clone());
        let Self { selection, action, reason } = self;
        let actions = action.into_iter().map(Action::wire).collect();
        let idempotency_key = idempotency_key();
        let many = match selection.resolve(&api).await? {
            Chosen::Filter(filter) => Ok(Selection::Filter(*filter)),
            Chosen::Named { account_ids, exposure_ids }
                if exposure_ids.is_empty() && account_ids.len() > MOST_NAMED =>
            {
                Ok(Selection::Accounts(api::AccountSelection { account_ids }))
            }
            Chosen::Named { account_ids, exposure_ids } => Err((account_ids, exposure_ids)),
        };
        let request = match many {
            Ok(selection) => {
                let selection = Some(selection);
                let request = api::BulkMitigateRequest { selection, actions, reason, idempotency_key };
                let answer = client.bulk_mitigate(request).await?.into_inner();
                if answer.unreachable_accounts > 0 {
                    eprintln!(
                        "{} of the accounts belong to an integration that was deleted: nothing can be done to them",
                        answer.unreachable_accounts
                    );
                }
                answer.request
            }
            Err((account_ids, exposure_ids)) => {
                let request = api::RequestMitigationRequest {
                    account_ids,
                    exposure_ids,
                    actions,
                    reason,
                    idempotency_key,
                };
                client.request_mitigation(request).await?.into_inner().request
            }
        };
        asked(global, &request.unwrap_or_default())
    }
}

// A request as it is kept, and how to follow it.
fn asked(global: &Global, request: &api::MitigationRequest) -> anyhow::Result<()> {
    output::show(global, &output::json("MitigationRequest", request)?)?;
    if !global.json {
        eprintln!("\nfollow it with: parapet mitigation progress {} --wait", request.id);
    }
    Ok(())
}

/// Actions on accounts: planned, held, carried out, verified, taken back
#[derive(Debug, clap::Subcommand)]
pub enum Mitigation {
    /// Show what a request would do, account by account, and do nothing
    ///
    /// The plan is made by the same planner that carries requests out, from what was last read from the directory. When a
    /// request is carried out each account is read again.
    Plan(Box<Plan>),
    /// Show how far a request or an undo is
    Progress {
        /// The request (id), as `parapet mitigate` and `mitigation undo` print it
        request: String,
        /// Stay until all is decided, but for what waits for a second person
        #[arg(long)]
        wait: bool,
    },
    /// Cancel a request or an undo: what is not begun of it is dropped
    ///
    /// What the directory was already asked to do finishes; `parapet mitigation undo` takes that back.
    Cancel {
        /// The request (id), as `parapet mitigate` and `mitigation undo` print it
        request: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// List mitigations by filter, newest first
    List(Box<List>),
    /// Show one with its details
    Show {
        /// Id
        id: String,
    },
    /// Take mitigations back: enable accounts again, dismiss marks
    ///
    /// Each undo is a mitigation of its own, in `parapet mitigation list`. What somebody else did, or changed since, is refused
    /// with the reason; ended sessions stay ended. It works whatever is switched off since.
    Undo(Undo),
}

/// What is to be planned.
#[derive(Debug, clap::Args)]
pub struct Plan {
    #[command(flatten)]
    selection: Selection,
    /// What to do
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    action: Vec<Action>,
    /// Show at most so many planned actions one by one; all are counted
    #[arg(long, default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_ITEMS)))]
    limit: u32,
}

/// What is to be taken back.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["ids", "automated_since"])))]
pub struct Undo {
    /// Mitigations (ids)
    ids: Vec<String>,
    /// Everything that was carried out automatically at or after: 2026-01-31, or 3h
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    automated_since: Option<prost_types::Timestamp>,
    /// Dismiss the risk of marked accounts too: it wipes the directory's own detections about them
    #[arg(long)]
    dismiss_risk: bool,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
}

/// Which mitigations; every option that is given restricts.
#[derive(Debug, clap::Args)]
pub struct List {
    /// At most so many
    #[arg(long, default_value_t = ROWS)]
    limit: u32,
    /// In these states
    #[arg(long, value_delimiter = ',', value_parser = STATES)]
    state: Vec<String>,
    /// With these actions
    #[arg(long, value_enum, value_delimiter = ',')]
    action: Vec<Action>,
    /// On this account (id)
    #[arg(long, default_value = "", hide_default_value = true)]
    account: String,
    /// Because of this exposure (id)
    #[arg(long, default_value = "", hide_default_value = true)]
    exposure: String,
    /// Because of this request (id), as `parapet mitigate` prints it
    #[arg(long, default_value = "", hide_default_value = true)]
    request: String,
    /// Of this approval (id), as `parapet approval list` shows it
    #[arg(long, default_value = "", hide_default_value = true)]
    approval: String,
    /// Of this integration (name or id)
    #[arg(long)]
    integration: Option<String>,
    /// Only what followed from a verdict; `--automatic=false`: only what a person asked for
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    automatic: Option<bool>,
    /// Planned at or after: 2026-01-31, or 7d
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    since: Option<prost_types::Timestamp>,
    /// Planned before
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    until: Option<prost_types::Timestamp>,
}

/// The states of a mitigation, in the order of its life.
const STATES: [&str; 9] =
    ["planned", "held", "acting", "unknown", "done", "verified", "reverted", "undone", "refused"];

const COLUMNS: [output::Column; 10] = [
    ("LOGIN", "login"),
    ("ACTION", "action"),
    ("STATE", "state"),
    ("REASON", "reason"),
    ("HELD BY", "held_by"),
    ("AUTOMATIC", "automatic"),
    ("PLANNED", "created_at"),
    ("ACCOUNT", "account_id"),
    ("ID", "id"),
    ("UNDOES", "undoes"),
];

impl Mitigation {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = MitigationServiceClient::new(api.clone());
        match self {
            Self::List(list) => {
                let wanted = api::ListMitigationsRequest {
                    states: list.state,
                    actions: list.action.into_iter().map(Action::wire).collect(),
                    account_id: list.account,
                    exposure_id: list.exposure,
                    request_id: list.request,
                    integration_id: integration_id_or_any(&api, list.integration.as_deref()).await?,
                    automatic: list.automatic,
                    created: range(list.since, list.until),
                    approval_id: list.approval,
                    ..Default::default()
                };
                let rows = pages(list.limit, async |page_size, page_token| {
                    let request = api::ListMitigationsRequest { page_size, page_token, ..wanted.clone() };
                    let page = client.list_mitigations(request).await?.into_inner();
                    Ok((output::rows("Mitigation", &page.mitigations)?, page.next_page_token))
                })
                .await?;
                output::list(global, &COLUMNS, &rows, "no mitigations")
            }
            Self::Undo(undo) => {
                let request = api::UndoRequest {
                    mitigation_ids: undo.ids,
                    automated_since: undo.automated_since,
                    dismiss_risk: undo.dismiss_risk,
                    reason: undo.reason,
                    idempotency_key: idempotency_key(),
                };
                asked(global, &client.undo(request).await?.into_inner().request.unwrap_or_default())
            }
            Self::Cancel { request, reason } => {
                let request = api::CancelMitigationRequest { request_id: request, reason };
                let answer = client.cancel_mitigation(request).await?.into_inner();
                output::show(global, &output::json("CancelMitigationResponse", &answer)?)
            }
            Self::Progress { request, wait } => progress::run(global, client, request, wait).await,
            Self::Plan(wanted) => {
                let Plan { selection, action, limit } = *wanted;
                let (account_ids, exposure_ids, filter) = match selection.resolve(&api).await? {
                    Chosen::Named { account_ids, exposure_ids } => (account_ids, exposure_ids, None),
                    Chosen::Filter(filter) => (Vec::new(), Vec::new(), Some(*filter)),
                };
                let request = api::PlanMitigationRequest {
                    account_ids,
                    exposure_ids,
                    filter,
                    actions: action.into_iter().map(Action::wire).collect(),
                    max_items: plan::items_to_ask_for(global, limit),
                };
                let mut client = client.max_decoding_message_size(plan::MOST_BYTES);
                let plan = client.plan_mitigation(request).await?.into_inner().plan.unwrap_or_default();
                if global.json {
                    return output::show(global, &output::json("MitigationPlan", &plan)?);
                }
                print!("{}", plan::told(&plan, limit)?);
                println!(
                    "\nNothing was done. To do it: the same options with `parapet mitigate`, and --reason."
                );
                Ok(())
            }
            Self::Show { id } => {
                let shown = client.get_mitigation(api::GetMitigationRequest { id }).await?.into_inner();
                output::show(global, &output::json("Mitigation", &shown.mitigation.unwrap_or_default())?)
            }
        }
    }
}
