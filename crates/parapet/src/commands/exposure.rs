//! `parapet exposure`, `validate`, `mitigate` and `budget`: what an analyst does with a leaked credential.

use anyhow::bail;
use shared::wire::v1::{
    self as api, exposure_service_client::ExposureServiceClient,
    mitigation_service_client::MitigationServiceClient, validation_service_client::ValidationServiceClient,
};

use super::{ROWS, idempotency_key, instant, integration::Action, integration_id, output};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// Leaked credentials that matched an account of the tenant
#[derive(Debug, clap::Subcommand)]
pub enum Exposure {
    /// List exposures by filter
    List {
        /// Which exposures
        #[command(flatten)]
        filter: Filter,
        /// Sort by
        #[arg(long, value_enum, default_value = "received")]
        sort: Sort,
        /// Smallest first
        #[arg(long)]
        ascending: bool,
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Show one with the evidence of its verdict and its mitigations
    Show {
        /// Id
        id: String,
    },
}

/// Which exposures.
#[derive(Debug, Clone, clap::Args)]
pub struct Filter {
    /// With these verdicts
    #[arg(long, value_enum, value_delimiter = ',')]
    verdict: Vec<Verdict>,
    /// With these reasons, for example `changed_since_capture`
    #[arg(long, value_delimiter = ',')]
    reason: Vec<String>,
    /// Of this integration (name or id)
    #[arg(long)]
    integration: Option<String>,
    /// Of this account (id)
    #[arg(long, default_value = "")]
    account: String,
    /// Of the account with this sign-in name
    #[arg(long, default_value = "")]
    login: String,
    /// From this feed, for example `spycloud`
    #[arg(long, default_value = "")]
    feed: String,
    /// From this source, by its name
    #[arg(long, default_value = "")]
    source: String,
    /// Received at or after: 2026-01-31, or 7d
    #[arg(long, value_parser = instant)]
    since: Option<prost_types::Timestamp>,
    /// Received before
    #[arg(long, value_parser = instant)]
    until: Option<prost_types::Timestamp>,
}

/// A verdict, as typed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Verdict {
    Pending,
    Valid,
    ValidSecondFactor,
    ValidExpired,
    Invalid,
    Inconclusive,
    NotTestable,
    Stale,
    Deferred,
}

/// What to sort by.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Sort {
    Received,
    Verdict,
    Decided,
    Provider,
    Login,
    Source,
    Captured,
    Reason,
}

impl From<Verdict> for api::VerdictKind {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pending => Self::Pending,
            Verdict::Valid => Self::Valid,
            Verdict::ValidSecondFactor => Self::ValidSecondFactor,
            Verdict::ValidExpired => Self::ValidExpired,
            Verdict::Invalid => Self::Invalid,
            Verdict::Inconclusive => Self::Inconclusive,
            Verdict::NotTestable => Self::NotTestable,
            Verdict::Stale => Self::Stale,
            Verdict::Deferred => Self::Deferred,
        }
    }
}

impl From<Sort> for api::ExposureSort {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Received => Self::Received,
            Sort::Verdict => Self::Verdict,
            Sort::Decided => Self::Decided,
            Sort::Provider => Self::Provider,
            Sort::Login => Self::Login,
            Sort::Source => Self::Source,
            Sort::Captured => Self::Captured,
            Sort::Reason => Self::Reason,
        }
    }
}

impl Filter {
    async fn resolve(self, api: &Api) -> anyhow::Result<api::ExposureFilter> {
        let integration_id = match &self.integration {
            Some(named) => integration_id(api, named).await?,
            None => String::new(),
        };
        let received = (self.since.is_some() || self.until.is_some())
            .then_some(api::DateRange { from: self.since, until: self.until });
        Ok(api::ExposureFilter {
            verdicts: self.verdict.into_iter().map(|v| api::VerdictKind::from(v).into()).collect(),
            reasons: self.reason,
            integration_id,
            account_id: self.account,
            login: self.login,
            feed: self.feed,
            source: self.source,
            received,
            ..Default::default()
        })
    }

    fn is_empty(&self) -> bool {
        let Self { verdict, reason, integration, account, login, feed, source, since, until } = self;
        verdict.is_empty()
            && reason.is_empty()
            && integration.is_none()
            && [account, login, feed, source].into_iter().all(String::is_empty)
            && since.is_none()
            && until.is_none()
    }
}

impl Exposure {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = ExposureServiceClient::new(api.clone()).max_decoding_message_size(16 * 1024 * 1024);
        match self {
            Self::List { filter, sort, ascending, limit } => {
                let filter = Some(filter.resolve(&api).await?);
                let direction =
                    if ascending { api::SortDirection::Ascending } else { api::SortDirection::Descending };
                let (mut rows, mut page_token) = (Vec::new(), String::new());
                loop {
                    let left = limit.saturating_sub(u32::try_from(rows.len())?).min(500);
                    if left == 0 {
                        break;
                    }
                    let page = client
                        .list_exposures(api::ListExposuresRequest {
                            page_size: i32::try_from(left)?,
                            page_token,
                            filter: filter.clone(),
                            sort: api::ExposureSort::from(sort).into(),
                            direction: direction.into(),
                        })
                        .await?
                        .into_inner();
                    for exposure in &page.exposures {
                        rows.push(output::json("Exposure", exposure)?);
                    }
                    if page.next_page_token.is_empty() {
                        break;
                    }
                    page_token = page.next_page_token;
                }
                let columns = [
                    ("LOGIN", "login"),
                    ("VERDICT", "verdict.kind"),
                    ("REASON", "verdict.reason"),
                    ("ATTEMPTS", "attempts"),
                    ("FEED", "feed"),
                    ("SOURCE", "source.name"),
                    ("CAPTURED", "captured_before"),
                    ("RECEIVED", "received_at"),
                    ("ID", "id"),
                ];
                output::list(global, &columns, &rows, "no exposures")
            }
            Self::Show { id } => {
                let shown = client.get_exposure(api::GetExposureRequest { id }).await?.into_inner();
                output::show(global, &output::json("GetExposureResponse", &shown)?)
            }
        }
    }
}

/// Find out whether leaked passwords work today: of one exposure, or of many by filter
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// The exposure; without it, all that the filter selects
    exposure: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Try again although a verdict stands that was decided without an attempt
    #[arg(long)]
    force: bool,
}

impl Validate {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = ValidationServiceClient::new(api.clone());
        let (force, idempotency_key) = (self.force, idempotency_key());
        let validation = match self.exposure {
            Some(_) if !self.filter.is_empty() => bail!("name an exposure, or filter; not both"),
            Some(exposure_id) => {
                let request = api::ValidateRequest { exposure_id, force, idempotency_key };
                client.validate(request).await?.into_inner().validation
            }
            None if self.filter.is_empty() => {
                bail!("name an exposure, or select some with a filter such as --verdict not-testable")
            }
            None => {
                let filter = self.filter.resolve(&api).await?;
                let selection = Some(api::bulk_validate_request::Selection::Filter(filter));
                let request = api::BulkValidateRequest { selection, force, idempotency_key };
                client.bulk_validate(request).await?.into_inner().validation
            }
        };
        output::show(global, &output::json("Validation", &validation.unwrap_or_default())?)
    }
}

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
        let actions: Vec<i32> =
            self.action.into_iter().map(|a| api::MitigationAction::from(a).into()).collect();
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
        output::list(global, &columns, &requests, "nothing")
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

/// What an account's attempt budget allows, and why
#[derive(Debug, clap::Subcommand)]
pub enum Budget {
    /// Show the budget of an account
    Show {
        /// The account (id)
        account: String,
    },
}

impl Budget {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let Self::Show { account: account_id } = self;
        let mut client = ValidationServiceClient::new(client::connect(global).await?);
        let budget =
            client.get_attempt_budget(api::GetAttemptBudgetRequest { account_id }).await?.into_inner();
        output::show(global, &output::json("GetAttemptBudgetResponse", &budget)?)
    }
}
