//! `parapet sync`

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
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
        bar.set_message(format!(
            "{} accounts read, {:.0} per second",
            last.accounts_read, last.accounts_per_second
        ));
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
