//! Which accounts a plan or a request for mitigations is about.

use anyhow::bail;
use shared::wire::v1 as api;

use super::exposure::Matching;
use crate::client::Api;

/// Accounts by name, or all whose exposures match.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// These accounts (ids)
    #[arg(long, value_delimiter = ',')]
    account: Vec<String>,
    /// The accounts of these exposures (ids)
    #[arg(long, value_delimiter = ',')]
    exposure: Vec<String>,
    /// With these reasons of their verdicts, for example `changed_since_capture`
    #[arg(long, value_delimiter = ',', help_heading = "Which exposures")]
    verdict_reason: Vec<String>,
    #[command(flatten)]
    matching: Matching,
}

/// What was typed, as the API takes it.
pub enum Chosen {
    /// By name.
    Named {
        /// Accounts.
        account_ids: Vec<String>,
        /// Exposures whose accounts are meant.
        exposure_ids: Vec<String>,
    },
    /// The accounts of the exposures that match.
    Filter(Box<api::ExposureFilter>),
}

impl Selection {
    /// As the API takes it; a selection of everything is nobody's meaning.
    pub async fn resolve(self, api: &Api) -> anyhow::Result<Chosen> {
        let Self { account, exposure, verdict_reason, matching } = self;
        let named = !(account.is_empty() && exposure.is_empty());
        let filtered = !verdict_reason.is_empty() || matching != Matching::default();
        match (named, filtered) {
            (false, false) => bail!(
                "name accounts or exposures, or select some with a filter such as --verdict valid --since 2h"
            ),
            (true, true) => bail!("name accounts and exposures, or filter; not both"),
            (true, false) => Ok(Chosen::Named { account_ids: account, exposure_ids: exposure }),
            (false, true) => {
                let filter = matching.resolve(api).await?;
                let filter = api::ExposureFilter { reasons: verdict_reason, ..filter };
                Ok(Chosen::Filter(Box::new(filter)))
            }
        }
    }
}
