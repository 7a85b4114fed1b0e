//! `parapet mitigate` and `mitigation`: containing accounts, and seeing what became of it.

use anyhow::bail;
use shared::wire::v1::{self as api, mitigation_service_client::MitigationServiceClient};

use super::{ROWS, idempotency_key, instant, integration_id_or_any, output, pages, range, words::Action};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// Contain accounts by hand, or release what a brake holds
#[derive(Debug, clap::Args)]
pub struct Mitigate {
    /// The accounts (ids)
    #[arg(long, value_delimiter = ',')]
    account: Vec<String>,
    /// The accounts of these exposures (ids)
    #[arg(long, value_delimiter = ',')]
    exposure: Vec<String>,
    /// What to do; without it and with --release, whatever is held
    #[arg(long, value_enum, value_delimiter = ',')]
    action: Vec<Action>,
    /// Release held mitigations; it takes another person than the one who asked for them
    #[arg(long)]
    release: bool,
    /// Everything that is held; with --release
    #[arg(long, requires = "release", conflicts_with_all = ["account", "exposure"])]
    all: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    reason: String,
}

impl Mitigate {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut client = MitigationServiceClient::new(client::connect(global).await?);
        let mut accounts = self.account;
        if self.all {
            accounts = held_accounts(&mut client).await?;
        }
        if accounts.is_empty() && self.exposure.is_empty() {
            bail!("name accounts or exposures; nothing was selected");
        }
        let actions: Vec<i32> = self.action.into_iter().map(Action::wire).collect();
        let mut requests = Vec::new();
        for chunk in accounts.chunks(100).chain(accounts.is_empty().then_some(&[][..])) {
            let request = api::RequestMitigationRequest {
                account_ids: chunk.to_vec(),
                exposure_ids: if requests.is_empty() { self.exposure.clone() } else { Vec::new() },
                actions: actions.clone(),
                release: self.release,
                reason: self.reason.clone(),
                idempotency_key: idempotency_key(),
            };
            let request = client.request_mitigation(request).await?.into_inner().request.unwrap_or_default();
            requests.push(output::json("MitigationRequest", &request)?);
        }
        let columns =
            [("REQUEST", "id"), ("ACTIONS", "actions"), ("RELEASE", "release"), ("BY", "requester_name")];
        output::list(global, &columns, &requests, "nothing")?;
        if !global.json {
            eprintln!("\nsee what becomes of it with: parapet mitigation list");
        }
        Ok(())
    }
}

async fn held_accounts(client: &mut MitigationServiceClient<Api>) -> anyhow::Result<Vec<String>> {
    let (mut accounts, mut page_token) = (Vec::new(), String::new());
    loop {
        let states = vec!["held".to_owned()];
        let request =
            api::ListMitigationsRequest { page_size: 500, page_token, states, ..Default::default() };
        let page = client.list_mitigations(request).await?.into_inner();
        accounts.extend(page.mitigations.into_iter().map(|m| m.account_id));
        if page.next_page_token.is_empty() {
            accounts.sort();
            accounts.dedup();
            return Ok(accounts);
        }
        page_token = page.next_page_token;
    }
}

/// Actions on accounts: planned, held, carried out, verified, taken back
#[derive(Debug, clap::Subcommand)]
pub enum Mitigation {
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
                let request = client.undo(request).await?.into_inner().request.unwrap_or_default();
                let id = request.id.clone();
                output::show(global, &output::json("MitigationRequest", &request)?)?;
                if !global.json {
                    eprintln!("\nsee what becomes of it with: parapet mitigation list --request {id}");
                }
                Ok(())
            }
            Self::Show { id } => {
                let shown = client.get_mitigation(api::GetMitigationRequest { id }).await?.into_inner();
                output::show(global, &output::json("Mitigation", &shown.mitigation.unwrap_or_default())?)
            }
        }
    }
}
