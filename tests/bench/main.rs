//! `make bench`: what Parapet costs beside the least that would do the same work.
//!
//! Every figure is a ratio within one run on one machine: each round measures Parapet and then its limit, a bare program
//! that keeps none of Parapet's promises, on the same accounts, records and simulator. The report has the medians.

mod bare;
mod directory;
mod feeds;
mod load;
mod memory;
mod mitigations;
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
    /// Accounts of each directory. Beyond 50,000 only the sync is measured
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(2_000..=2_000_000))]
    accounts: u32,
    /// Measure the sync only
    #[arg(long)]
    sync_only: bool,
    /// Passwords tried in each round
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(10..=1_000))]
    passwords: u32,
    /// Accounts contained in each round, at 50 a second, and undone with one request; as many as passwords unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    mitigations: Option<u32>,
    /// Feed records imported in each round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    records: u32,
    /// Identifiers that the feeds meet; what the directories lack is made up
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
    identifiers: i64,
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
        let passwords = usize::try_from(self.passwords)?;
        for (round, tenant) in (1..).zip(&tenants) {
            stage.say(format_args!("verdicts, round {round} of {}", self.rounds));
            let all: Vec<_> = tenant.accounts.iter().filter(|a| a.testable()).collect();
            ensure!(all.len() >= 7 * passwords, "only {} accounts can be tested", all.len());
            let (bare, rest) = all.split_at(passwords);
            let rest: Vec<&str> = rest.iter().map(|a| a.login.as_str()).collect();
            let (ours, rest) = rest.split_at(passwords);
            let (half, rest) = rest.split_at(passwords);
            let (scale, _) = rest.split_at(passwords * 7 / 2);
            let rate = verdicts::round(stage, report, tenant, ours, bare).await?;
            load::half(stage, report, tenant, half, rate).await?;
            load::scale(stage, report, tenant, scale).await?;
            stage.say(format_args!("mitigations, round {round} of {}", self.rounds));
            let count = usize::try_from(self.mitigations.unwrap_or(self.passwords))?;
            ensure!(all.len() >= count, "only {} accounts can be contained", all.len());
            let contained: Vec<&str> = all.iter().take(count).map(|a| a.login.as_str()).collect();
            mitigations::round(stage, report, tenant, &contained).await?;
        }
        stage.say(format_args!("filling up to {} identifiers", self.identifiers));
        let identifiers = feeds::fill(stage, &tenants, self.identifiers).await?;
        for round in 1..=self.rounds {
            stage.say(format_args!("feed, round {round} of {}, {identifiers} identifiers", self.rounds));
            feeds::round(stage, report, round, self.records, &tenants).await?;
        }
        Ok(())
    }
}
