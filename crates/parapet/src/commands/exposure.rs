//! `parapet exposure`: the analyst's browser of leaked credentials, and the filter that selects them.

use shared::wire::v1::{self as api, exposure_service_client::ExposureServiceClient};

use super::{
    ROWS, instant, integration_id_or_any, output, pages, range,
    words::{Provider, Sort, SourceKind, Verdict},
};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// Leaked credentials that matched an account of the tenant
#[derive(Debug, clap::Subcommand)]
pub enum Exposure {
    /// List exposures by filter
    List(Box<List>),
    /// Show one with the evidence of its verdict and its mitigations
    Show {
        /// Id
        id: String,
    },
}

/// Which exposures, in which order.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Sort by
    #[arg(long, value_enum, default_value = "received")]
    sort: Sort,
    /// Smallest or oldest first
    #[arg(long)]
    ascending: bool,
    /// At most so many
    #[arg(long, default_value_t = ROWS)]
    limit: u32,
    #[command(flatten)]
    filter: Filter,
}

/// Which exposures; every option that is given restricts.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Which exposures")]
pub struct Filter {
    #[command(flatten)]
    matching: Matching,
    /// With these reasons, for example `changed_since_capture`
    #[arg(long, value_delimiter = ',')]
    reason: Vec<String>,
    /// Of this account (id)
    #[arg(long, default_value = "", hide_default_value = true)]
    account: String,
}

/// What every command that selects exposures understands; others name accounts and reasons in their own way.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Which exposures")]
pub struct Matching {
    /// With these verdicts
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    #[arg(help = "With these verdicts: pending, valid, valid-second-factor, valid-expired, invalid, \
                  inconclusive, not-testable, stale, deferred")]
    verdict: Vec<Verdict>,
    /// At this kind of provider
    #[arg(long, value_enum)]
    provider: Option<Provider>,
    /// Of this integration (name or id)
    #[arg(long)]
    integration: Option<String>,
    /// Of this identity (id)
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
    /// Of the account with this sign-in name
    #[arg(long, default_value = "", hide_default_value = true)]
    login: String,
    /// From this feed, for example `spycloud`
    #[arg(long, default_value = "", hide_default_value = true)]
    feed: String,
    /// From this source, by its name or id
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    /// From these kinds of source
    #[arg(long, value_enum, value_delimiter = ',')]
    source_kind: Vec<SourceKind>,
    /// Received at or after: 2026-01-31, or 7d
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    since: Option<prost_types::Timestamp>,
    /// Received before
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    until: Option<prost_types::Timestamp>,
    /// Captured, at the latest, at or after
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    captured_since: Option<prost_types::Timestamp>,
    /// Captured, at the latest, before
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    captured_until: Option<prost_types::Timestamp>,
    /// With a verdict given at or after
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    decided_since: Option<prost_types::Timestamp>,
    /// With a verdict given before
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    decided_until: Option<prost_types::Timestamp>,
    /// Only leaks older than their identifier, which are never handled automatically; `--history=false`: only others
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    history: Option<bool>,
}

impl Filter {
    /// As the API takes it.
    pub(super) async fn resolve(self, api: &Api) -> anyhow::Result<api::ExposureFilter> {
        let Self { matching, reason, account } = self;
        let filter = matching.resolve(api).await?;
        Ok(api::ExposureFilter { reasons: reason, account_id: account, ..filter })
    }
}

impl Matching {
    /// As the API takes it.
    pub(super) async fn resolve(self, api: &Api) -> anyhow::Result<api::ExposureFilter> {
        Ok(api::ExposureFilter {
            verdicts: self.verdict.into_iter().map(Verdict::wire).collect(),
            provider: self.provider.map(Provider::wire).unwrap_or_default(),
            identity_id: self.identity,
            integration_id: integration_id_or_any(api, self.integration.as_deref()).await?,
            login: self.login,
            feed: self.feed,
            source: self.source,
            source_kinds: self.source_kind.into_iter().map(SourceKind::wire).collect(),
            received: range(self.since, self.until),
            captured: range(self.captured_since, self.captured_until),
            decided: range(self.decided_since, self.decided_until),
            history: self.history,
            ..Default::default()
        })
    }
}

const COLUMNS: [output::Column; 10] = [
    ("LOGIN", "login"),
    ("PROVIDER", "provider"),
    ("VERDICT", "verdict.kind"),
    ("REASON", "verdict.reason"),
    ("ATTEMPTS", "attempts"),
    ("FEED", "feed"),
    ("SOURCE", "source.name"),
    ("CAPTURED", "captured_before"),
    ("RECEIVED", "received_at"),
    ("ID", "id"),
];

impl Exposure {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = ExposureServiceClient::new(api.clone()).max_decoding_message_size(16 * 1024 * 1024);
        match self {
            Self::List(list) => {
                let List { filter, sort, ascending, limit } = *list;
                let filter = Some(filter.resolve(&api).await?);
                let direction =
                    if ascending { api::SortDirection::Ascending } else { api::SortDirection::Descending };
                let rows = pages(limit, async |page_size, page_token| {
                    let request = api::ListExposuresRequest {
                        page_size,
                        page_token,
                        filter: filter.clone(),
                        sort: sort.wire(),
                        direction: direction.into(),
                    };
                    let page = client.list_exposures(request).await?.into_inner();
                    Ok((output::rows("Exposure", &page.exposures)?, page.next_page_token))
                })
                .await?;
                output::list(global, &COLUMNS, &rows, "no exposures")
            }
            Self::Show { id } => {
                let shown = client.get_exposure(api::GetExposureRequest { id }).await?.into_inner();
                output::show(global, &output::json("GetExposureResponse", &shown)?)
            }
        }
    }
}
