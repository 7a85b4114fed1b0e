//! Sync: how fast, in how much memory, what a second time costs, and what a few changes cost among many accounts.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    bare,
    directory::{Directory, Kind, Run},
    memory,
    report::Report,
    stage::{Stage, rate},
};

const WORKER: &str = "identity-sync-worker";
/// The small directory beside which memory and changes are measured.
pub const SMALL: u32 = 10_000;
const MANY: usize = 1_000;
const FEW: usize = 100;

/// Measures one kind of directory with so many accounts.
pub async fn round(
    stage: &Stage,
    report: &mut Report,
    kind: Kind,
    round: u32,
    accounts: u32,
) -> anyhow::Result<Directory> {
    let small = Directory::create(stage, kind, kind.directory(round, "small"), SMALL.min(accounts)).await?;
    let all = Directory::create(stage, kind, kind.directory(round, "all"), accounts).await?;

    memory::forget_peak(stage, WORKER)?;
    small.first_sync(stage).await?;
    let few = memory::peak(stage, WORKER)?;
    let among_few = changes(stage, &small, 0, MANY).await?;

    let copied = bare::run(stage, &all).await?;
    memory::forget_peak(stage, WORKER)?;
    let first = all.first_sync(stage).await?;
    let many = memory::peak(stage, WORKER)?;
    bare::check(stage, &all, &copied).await?;
    let name = format!("{kind}: accounts synced, beside one program that drains and COPYs");
    report.add(&name, "1/s", per_second(&first), rate(first.seen, copied.took));
    let name = format!("{kind}: peak memory of the sync worker, beside that at {}", small.accounts);
    report.add(&name, "MiB", many, few);

    let before = stage.next_transaction().await?;
    let second = all.sync(stage, true).await?;
    ensure!(second.seen == first.seen, "the second sync saw {} of {}", second.seen, first.seen);
    let (rewritten, rows) = stage.written_since(all.tenant, before).await?;
    let name = format!("{kind}: accounts of a second full sync, beside the first");
    report.add(&name, "1/s", per_second(&second), per_second(&first));
    let name = format!("{kind}: rows that the second full sync wrote, of all");
    report.add(&name, "rows", rewritten, rows);

    let handful = changes(stage, &all, 0, FEW).await?;
    let among_all = changes(stage, &all, 2 * FEW as u64, MANY).await?;
    let name = format!("{kind}: sync of {MANY} changes, beside {FEW} changes");
    report.add(&name, "ms", millis(among_all), millis(handful));
    let name = format!("{kind}: sync of {MANY} changes, beside the same among {}", small.accounts);
    report.add(&name, "ms", millis(among_all), millis(among_few));
    Ok(all)
}

/// Changes some accounts and reads the changes.
async fn changes(stage: &Stage, directory: &Directory, from: u64, count: usize) -> anyhow::Result<Duration> {
    directory.change(stage, from, count).await?;
    let run = directory.sync(stage, false).await?;
    ensure!(run.changed == count, "a sync of {count} changes changed {}", run.changed);
    Ok(run.took)
}

fn per_second(run: &Run) -> f64 {
    rate(run.seen, run.took)
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
