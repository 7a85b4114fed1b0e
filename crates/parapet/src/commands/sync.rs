//! `parapet sync`

use std::time::Duration;

use anyhow::bail;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use super::{idempotency_key, integration_id, output, removal};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// Bring accounts up to date with the directory
#[derive(Debug, clap::Subcommand)]
pub enum Sync {
    /// Start a run, or join the one that is under way
    Start {
        /// Name or id of the integration
        integration: String,
        /// Read every account, not only what changed
        #[arg(long)]
        full: bool,
        /// Stay and watch it
        #[arg(long)]
        watch: bool,
    },
    /// Watch the present or the last run until it ends
    Watch {
        /// Name or id of the integration
        integration: String,
    },
}

impl Sync {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        match self {
            Self::Start { integration, full, watch } => {
                let integration_id = integration_id(&api, &integration).await?;
                let request = api::StartSyncRequest {
                    integration_id: integration_id.clone(),
                    full,
                    idempotency_key: idempotency_key(),
                };
                let run =
                    IntegrationServiceClient::new(api.clone()).start_sync(request).await?.into_inner().run_id;
                if watch {
                    return follow(global, &api, integration_id, run).await;
                }
                output::show(global, &serde_json::json!({"run_id": run}))
            }
            Self::Watch { integration } => {
                let integration_id = integration_id(&api, &integration).await?;
                follow(global, &api, integration_id, String::new()).await
            }
        }
    }
}

/// A line about a run that goes on.
fn said(run: &api::SyncProgress) -> String {
    let of = run.accounts_expected.map(|all| format!(" of about {all}")).unwrap_or_default();
    // Reckoned from the run's own figures: this machine's clock may be another one.
    let left = run.expected_end_at.and(run.accounts_expected).map_or_else(String::new, |all| {
        #[expect(clippy::cast_precision_loss, reason = "an expectation for people")]
        let seconds = (all - run.accounts_read) as f64 / run.accounts_per_second;
        let left = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or_default();
        format!(", about {} left", HumanDuration(left))
    });
    format!("{}{of} accounts read, {:.0} per second{left}", run.accounts_read, run.accounts_per_second)
}

async fn follow(global: &Global, api: &Api, integration_id: String, run_id: String) -> anyhow::Result<()> {
    let mut client = IntegrationServiceClient::new(api.clone());
    let mut updates = client
        .watch_sync(api::WatchSyncRequest { integration_id: integration_id.clone(), run_id })
        .await?
        .into_inner();
    let bar = if global.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    let mut last = api::SyncProgress::default();
    while let Some(update) = updates.message().await? {
        last = update.progress.unwrap_or_default();
        bar.set_message(said(&last));
        bar.tick();
        if global.json {
            println!("{}", output::json("SyncProgress", &last)?);
        }
    }
    bar.finish_and_clear();
    if !global.json {
        output::show(global, &output::json("SyncProgress", &last)?)?;
    }
    removal::hint(global, api, last.phase(), &integration_id).await;
    match last.phase() {
        api::SyncPhase::Done => Ok(()),
        phase => bail!("the run ended as {phase:?}: {}", last.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_told_how_long_it_takes_when_that_is_known() {
        let run =
            api::SyncProgress { accounts_read: 2_000, accounts_per_second: 500.0, ..Default::default() };
        assert_eq!(said(&run), "2000 accounts read, 500 per second");
        let run = api::SyncProgress { accounts_expected: Some(12_000), ..run };
        assert_eq!(said(&run), "2000 of about 12000 accounts read, 500 per second");
        let run = api::SyncProgress { expected_end_at: Some(prost_types::Timestamp::default()), ..run };
        assert_eq!(said(&run), "2000 of about 12000 accounts read, 500 per second, about 20 seconds left");
    }
}
