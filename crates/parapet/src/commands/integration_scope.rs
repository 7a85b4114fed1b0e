//! Which accounts an integration covers: the flags that say so, and `parapet integration preview`.

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use super::{integration_id, output};
use crate::{cli::Global, client::Api};

/// Another scope of a connection.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct Scope {
    /// Only the members of these groups (object ids): begin with a pilot group
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    group: Vec<String>,
    /// Every account of the directory
    #[arg(long)]
    whole_directory: bool,
}

impl Scope {
    /// The scope that was named, if any was.
    pub fn named(self) -> Option<api::SyncScope> {
        let named = self.whole_directory || !self.group.is_empty();
        named.then_some(api::SyncScope { group_ids: self.group })
    }
}

/// Which connection, and which scope to look at.
#[derive(Debug, clap::Args)]
pub struct Preview {
    /// Name or id
    integration: String,
    #[command(flatten)]
    scope: Scope,
}

impl Preview {
    /// Shows progress while the directory is read, then what would change.
    pub async fn run(self, global: &Global, api: &Api) -> anyhow::Result<()> {
        let scope = self.scope.named().context("name the scope: --group ID,… or --whole-directory")?;
        let groups = scope.group_ids.join(",");
        let integration_id = integration_id(api, &self.integration).await?;
        let request = api::PreviewScopeRequest { integration_id, scope: Some(scope) };
        let mut answers =
            IntegrationServiceClient::new(api.clone()).preview_scope(request).await?.into_inner();
        let bar = if global.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
        let mut last = api::PreviewScopeResponse::default();
        while let Some(answer) = answers.message().await? {
            bar.set_message(format!("{} accounts read", answer.accounts_read));
            bar.tick();
            last = answer;
        }
        bar.finish_and_clear();
        anyhow::ensure!(last.done, "the preview ended before it was complete; try again");
        if global.json {
            return output::show(global, &output::json("PreviewScopeResponse", &last)?);
        }
        print!("{}", summary(&last));
        let scope =
            if groups.is_empty() { "--whole-directory".to_owned() } else { format!("--group {groups}") };
        eprintln!("\nto change to it: parapet integration update '{}' {scope}", self.integration);
        Ok(())
    }
}

/// What would change, noughts included: that nobody goes is what most people look for.
fn summary(preview: &api::PreviewScopeResponse) -> String {
    let sample = |what: &str, all: i64, sample: &[String]| {
        let more = if usize::try_from(all).is_ok_and(|all| all > sample.len()) { ", …" } else { "" };
        if sample.is_empty() { String::new() } else { format!("{what:<13} {}{more}\n", sample.join(", ")) }
    };
    format!(
        "accounts      {} added, {} kept, {} removed\n\
         identifiers   {} added, {} removed; {} of {} are used now, {} would be beyond the cap\n{}{}",
        preview.accounts_added,
        preview.accounts_kept,
        preview.accounts_removed,
        preview.identifiers_added,
        preview.identifiers_removed,
        preview.identifiers_used,
        preview.identifier_cap,
        preview.identifiers_over_cap,
        sample("added", preview.accounts_added, &preview.added_sample),
        sample("removed", preview.accounts_removed, &preview.removed_sample),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_says_that_nobody_is_removed() {
        let preview = api::PreviewScopeResponse {
            accounts_added: 3,
            accounts_kept: 40,
            identifier_cap: 1000,
            added_sample: vec!["a@b.example".into()],
            ..Default::default()
        };
        assert_eq!(
            summary(&preview),
            "accounts      3 added, 40 kept, 0 removed\n\
             identifiers   0 added, 0 removed; 0 of 1000 are used now, 0 would be beyond the cap\n\
             added         a@b.example, …\n"
        );
    }
}
