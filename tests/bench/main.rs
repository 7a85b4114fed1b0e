//! `make bench`: what Parapet costs beside the least that would do the same work.
//!
//! Every figure is a ratio within one run on one machine: each round measures Parapet and then its limit, a bare program
//! that keeps none of Parapet's promises, on the same accounts, records and simulator. The report has the medians.

mod bare;
mod directory;
mod feeds;
mod memory;
mod report;
mod stage;
mod sync;
mod verdicts;

use std::path::PathBuf;

use anyhow::ensure;
use clap::Parser;

use directory::{Kind, Tenant};
use report::Report;
use stage::Stage;

/// Beyond so many accounts only the sync is measured: the other figures hold the truth about every account in memory.
const MOST_FOR_ALL: u32 = 50_000;

/// Measures Parapet beside the least that would do the same work, and writes the ratios.
#[derive(Debug, Parser)]
struct Bench {
    /// Rounds; the report has their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Accounts of each directory; all of them stay, so that the feeds meet rounds × accounts. Beyond 50,000 only the
    /// sync is measured
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(2_000..=2_000_000))]
    accounts: u32,
    /// Measure the sync only
    #[arg(long)]
    sync_only: bool,
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
    let stage = Stage::start(&bench.tenants()).await?;
    let outcome = tokio::select! {
        outcome = bench.measure(&stage) => outcome,
        interrupted = parapet::stack::interrupted() => interrupted.and(Err(anyhow::anyhow!("interrupted"))),
    };
    stage.stop().await?;
    let report = outcome?;
    report.save(&bench.report)?;
    report.print();
    eprintln!("the same as JSON: {}", bench.report.display());
    Ok(())
}

impl Bench {
    /// The tenants of every round: one for each directory.
    fn tenants(&self) -> Vec<String> {
        let of = |round| Kind::ALL.map(|kind| ["small", "all"].map(|size| kind.directory(round, size)));
        (1..=self.rounds).flat_map(of).flatten().collect()
    }

    async fn measure(&self, stage: &Stage) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let idle = memory::resident(stage)?;
        let mut directories = Vec::new();
        for round in 1..=self.rounds {
            for kind in Kind::ALL {
                stage.say(format_args!(
                    "sync of {} accounts at {kind}, round {round} of {}",
                    self.accounts, self.rounds
                ));
                let directory = sync::round(stage, &mut report, kind, round, self.accounts).await?;
                if kind == Kind::Entra {
                    directories.push(directory);
                }
            }
        }
        if !self.sync_only && self.accounts <= MOST_FOR_ALL {
            self.measure_leaks(stage, &mut report, directories).await?;
            memory::report(stage, &mut report, &idle)?;
        }
        Ok(report)
    }

    /// Verdicts and matches, on what was synced.
    async fn measure_leaks(
        &self,
        stage: &Stage,
        report: &mut Report,
        directories: Vec<directory::Directory>,
    ) -> anyhow::Result<()> {
        let mut tenants = Vec::new();
        for of in directories {
            let accounts = stage.control.accounts(&of.id).await?;
            tenants.push(Tenant { id: of.tenant, directory: of.id, accounts });
        }
        for (round, tenant) in (1..).zip(&tenants) {
            stage.say(format_args!("verdicts, round {round} of {}", self.rounds));
            verdicts::round(stage, report, tenant, self.passwords).await?;
        }
        let identifiers: i64 = stage.count("SELECT count(*) FROM sync.identifier_lookup").await?;
        ensure!(
            identifiers >= i64::from(self.rounds * self.accounts),
            "only {identifiers} identifiers were made"
        );
        for round in 1..=self.rounds {
            stage.say(format_args!("feed, round {round} of {}, {identifiers} identifiers", self.rounds));
            feeds::round(stage, report, round, self.records, &tenants).await?;
        }
        Ok(())
    }
}
