//! `parapet overview`

use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use super::{output, watch::Watch};
use crate::{cli::Global, client};

/// What is connected, what works, what waits, and what the last 30 days brought
#[derive(Debug, clap::Args)]
pub struct Overview {
    /// Every tenant of the organization that you may work in, and their sum
    #[arg(long)]
    organization: bool,
    #[command(flatten)]
    watch: Watch,
}

impl Overview {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let client = IntegrationServiceClient::new(client::connect(global).await?);
        let scope =
            if self.organization { api::OverviewScope::Organization } else { api::OverviewScope::Tenant };
        let request = api::GetOverviewRequest { scope: scope.into() };
        self.watch
            .each(global, async || {
                let seen = client.clone().get_overview(request).await?.into_inner();
                print(global, &seen)
            })
            .await
    }
}

fn print(global: &Global, seen: &api::GetOverviewResponse) -> anyhow::Result<()> {
    if global.json {
        println!("{}", output::json("GetOverviewResponse", seen)?);
        return Ok(());
    }
    let total = seen.total.clone().unwrap_or_default();
    let mut shown = seen.tenants.clone();
    if shown.len() != 1 {
        shown.push(api::Overview { name: "all".to_owned(), ..total.clone() });
    }
    let columns = [
        ("TENANT", "name"),
        ("ACTIVE", "active"),
        ("ERROR", "error"),
        ("DISABLED", "disabled"),
        ("ACCOUNTS", "counts.accounts"),
        ("IDENTITIES", "counts.identities"),
        ("IDENTIFIERS", "counts.identifiers"),
        ("BEYOND CAP", "counts.identifiers_skipped"),
        ("TRIED TODAY", "counts.attempts_today"),
        ("DEFERRED", "counts.deferred"),
        ("TO APPROVE", "counts.approvals"),
    ];
    output::list(global, &columns, &output::rows("Overview", &shown)?, "no tenant")?;
    if !total.warnings.is_empty() {
        println!();
        let columns = [("WARNING", "reason"), ("INTEGRATIONS", "integrations")];
        output::list(global, &columns, &output::rows("OverviewWarning", &total.warnings)?, "")?;
    }
    println!();
    let days: Vec<_> = total.days.iter().rev().filter(|day| happened(day)).cloned().collect();
    let columns = [
        ("DAY", "date"),
        ("EXPOSURES", "exposures"),
        ("VALID", "valid"),
        ("INVALID", "invalid"),
        ("UNDECIDED", "undecided"),
        ("MITIGATIONS", "mitigations"),
        ("ATTEMPTS", "attempts"),
        ("SAVED", "attempts_saved"),
    ];
    output::list(
        global,
        &columns,
        &output::rows("OverviewDay", &days)?,
        "nothing happened in the last 30 days",
    )
}

fn happened(day: &api::OverviewDay) -> bool {
    let api::OverviewDay { date, .. } = day;
    *day != api::OverviewDay { date: date.clone(), ..Default::default() }
}
