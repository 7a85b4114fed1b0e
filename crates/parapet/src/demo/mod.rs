//! `parapet demo`: the main job on sample feeds, in front of an audience and a judge.
//!
//! Everything happens as a user would do it, through the public API and the command line. What happened is then held
//! against the simulator's own log and the generator's knowledge; the exit code is the judge's.

mod containment;
pub mod directory;
mod feeds;
mod judge;
mod report;
mod steps;

use std::{path::PathBuf, time::Instant};

use anyhow::Context;

use crate::{cli::Global, data};

/// `parapet demo`
#[derive(Debug, Clone, clap::Args)]
pub struct Demo {
    /// The same seed gives the same directories and feeds
    #[arg(long, default_value_t = 20_261_122)]
    seed: u64,
    /// Leave the stack running afterwards, to look around
    #[arg(long)]
    keep: bool,
    /// Where the report is written as JSON
    #[arg(long, default_value = "target/demo-report.json", value_name = "FILE")]
    report: PathBuf,
}

/// Says what happens, with the time since the start.
#[derive(Debug, Clone, Copy)]
struct Stage(Instant);

impl Stage {
    fn say(self, text: impl std::fmt::Display) {
        let seconds = self.0.elapsed().as_secs();
        eprintln!("[{:>2}:{:02}] {text}", seconds / 60, seconds % 60);
    }
}

impl Demo {
    /// Runs the whole job; fails when the judge objects.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut global = global.clone();
        let folder = match &global.data_dir {
            Some(folder) => folder.clone(),
            None => std::env::current_dir()?.join(".parapet").join("demo"),
        };
        global.data_dir = Some(folder);
        let stage = Stage(Instant::now());
        // A run starts from nothing: what an earlier one left would be counted into this one.
        steps::parapet(&global, &["clean"]).await.context("cleaning up after an earlier run")?;
        let outcome = tokio::select! {
            outcome = Box::pin(self.play(&global, stage)) => outcome,
            interrupted = crate::stack::interrupted() => interrupted.and(Err(anyhow::anyhow!("interrupted"))),
        };
        if self.keep {
            stage.say("the stack keeps running; stop it with `parapet down --data-dir .parapet/demo`");
        } else {
            steps::parapet(&global, &["down"]).await?;
        }
        let report = outcome?;
        data::save_json(&self.report, &report)?;
        if global.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.print();
        }
        eprintln!("the same as JSON: {}", self.report.display());
        anyhow::ensure!(
            report.objections.is_empty(),
            "the judge objects in {} points",
            report.objections.len()
        );
        Ok(())
    }

    async fn play(&self, global: &Global, stage: Stage) -> anyhow::Result<report::Report> {
        let run = steps::Run::start(global, stage, self.seed).await?;
        let synced = run.connect_and_sync().await?;
        run.set_policies().await?;
        let feeds = run.make_feeds(&synced)?;
        let imported = run.import(&feeds).await?;
        run.wait_for_verdicts().await?;
        run.wait_for_containment().await?;
        let acts = run.contain().await?;
        stage.say("collecting what Parapet says and what the directories say");
        let told = run.collect().await?;
        judge::judge(&run, &feeds, &imported, &acts, told).await
    }
}
