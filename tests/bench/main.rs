//! `make bench`: what Parapet costs beside the least that would do the same work.
//!
//! Every figure is a ratio within one run on one machine: each round measures Parapet and then its limit, a bare program
//! that keeps none of Parapet's promises, on the same accounts, records and simulator. The report has the medians.

mod feeds;
mod memory;
mod report;
mod stage;
mod sync;
mod verdicts;

use std::path::PathBuf;

use anyhow::ensure;
use clap::Parser;

use report::Report;
use stage::Stage;

/// Measures Parapet beside the least that would do the same work, and writes the ratios.
#[derive(Debug, Parser)]
struct Bench {
    /// Rounds; the report has their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Accounts of each round's directory; all of them stay, so that the feeds meet rounds × accounts
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(2_000..=50_000))]
    accounts: u32,
    /// Passwords tried in each round
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(10..=1_000))]
    passwords: u32,
    /// Feed records imported in each round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    records: u32,
    /// Where the report is written
    #[arg(long, default_value = "target/bench-report.json", value_name = "FILE")]
    report: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bench = Bench::parse();
    let stage = Stage::start(bench.rounds).await?;
    let outcome = tokio::select! {
        outcome = bench.measure(&stage) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    stage.stop().await?;
    let report = outcome?;
    report.save(&bench.report)?;
    report.print();
    eprintln!("the same as JSON: {}", bench.report.display());
    Ok(())
}

impl Bench {
    async fn measure(&self, stage: &Stage) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let idle = memory::resident(stage)?;
        let mut tenants = Vec::new();
        for round in 1..=self.rounds {
            stage.say(format_args!("sync, round {round} of {}", self.rounds));
            tenants.push(sync::round(stage, &mut report, round, self.accounts).await?);
        }
        for (round, tenant) in (1..).zip(&tenants) {
            stage.say(format_args!("verdicts, round {round} of {}", self.rounds));
            verdicts::round(stage, &mut report, tenant, self.passwords).await?;
        }
        let identifiers: i64 = stage.count("SELECT count(*) FROM sync.identifier_lookup").await?;
        ensure!(
            identifiers >= i64::from(self.rounds * self.accounts),
            "only {identifiers} identifiers were made"
        );
        for round in 1..=self.rounds {
            stage.say(format_args!("feed, round {round} of {}, {identifiers} identifiers", self.rounds));
            feeds::round(stage, &mut report, round, self.records, &tenants).await?;
        }
        memory::report(stage, &mut report, &idle)?;
        Ok(report)
    }
}
