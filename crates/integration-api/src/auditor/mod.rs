//! The limit auditor: computes every account's windows again from the ledger of attempts, every hour and when an
//! operator asks, and once more from what the directories' own logs have of ours. What it finds is told once. What shows in
//! the ledger stops all attempts: the limiter cannot be trusted then. What shows in a log alone stops nothing ([`Source`]).

mod check;
mod log;

use std::time::Duration;

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::{Db, StoreError, Tx},
    id::{AccountKey, AttemptStopId},
};
use tokio_util::sync::CancellationToken;

use self::check::Fault;
use crate::store::{
    ledger,
    stops::{self, Place},
};

const EVERY: Duration = Duration::from_hours(1);
/// What the hourly run looks at: more than a day, in case some runs are missed.
const LOOK_BACK: time::Duration = time::Duration::days(3);
/// Accounts in memory at once.
const PAGE: i32 = 500;
/// Findings of logs that one run tells: whoever knows our client id can make any number of them. The rest is for later runs.
const MOST_TOLD: usize = 100;
const NAME: &str = "limit auditor";

/// What showed a fault, and so what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Our own ledger: the limiter failed, and all attempts stop.
    Ledger,
    /// A directory's log. It is told, and no more: anybody who knows the client id of a public client can submit under it, and
    /// must not be able to switch validation off.
    Log,
}

impl Source {
    /// Where faults against a rule show.
    pub fn of(rule: &str) -> Self {
        if [log::WINDOW_RULE, log::UNKNOWN_RULE].contains(&rule) { Self::Log } else { Self::Ledger }
    }

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Log => "log",
        }
    }
}

/// What a run looked at and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Accounts.
    pub accounts: i64,
    /// Attempts.
    pub attempts: i64,
    /// Entries of the directories' logs: none where none may be read.
    pub sign_ins: i64,
    /// Faults that were not known.
    pub new_findings: i32,
}

/// Audits every hour until asked to stop.
pub async fn watch(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match since(&db, LOOK_BACK).await {
            Ok(report) => tracing::debug!(?report, "attempts audited"),
            Err(error) => tracing::warn!(%error, "attempts not audited; it is tried again in an hour"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Audits the attempts of the time up to now.
pub async fn since(db: &Db, look_back: time::Duration) -> Result<Report, StoreError> {
    let mut tx = db.system().await?;
    let since = tx.clock().await? - look_back;
    tx.rollback().await?;
    let (mut report, mut after) = (Report::default(), None);
    loop {
        let mut tx = db.system().await?;
        let page = ledger::accounts(&mut tx, after.as_ref(), since, PAGE).await?;
        tx.rollback().await?;
        for account in &page {
            report.accounts += 1;
            report.attempts += i64::try_from(account.attempts.len()).unwrap_or(i64::MAX);
            report.sign_ins += i64::try_from(account.seen.len()).unwrap_or(i64::MAX);
            let mut faults = check::faults(account);
            let told = usize::try_from(report.new_findings).unwrap_or(MOST_TOLD);
            faults.extend(log::faults(account).into_iter().take(MOST_TOLD.saturating_sub(told)));
            if !faults.is_empty() {
                report.new_findings += alert(db, &account.key, &faults).await?;
            }
        }
        match page.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => break,
        }
    }
    metrics::counter!("parapet_limit_audits_total").increment(1);
    count(0, 0); // so that a first finding is an increase
    metrics::counter!("parapet_limit_audited_attempts_total").increment(report.attempts.unsigned_abs());
    metrics::counter!("parapet_limit_audited_sign_ins_total").increment(report.sign_ins.unsigned_abs());
    Ok(report)
}

/// Keeps what is new and tells it; returns how many were new. If the ledger shows some of it, all attempts stop in the same
/// transaction.
async fn alert(db: &Db, key: &AccountKey, faults: &[Fault]) -> Result<i32, StoreError> {
    let mut tx = db.system().await?;
    let (mut ledger, mut log) = (0, 0);
    for Fault { rule, at, message } in faults {
        if !ledger::found(&mut tx, key, rule, *at, message).await? {
            continue;
        }
        let (kind, dated, what) = match Source::of(rule) {
            Source::Ledger => {
                ledger += 1;
                (names::LIMIT_EXCEEDED, "reserved_at", "attempt limit exceeded")
            }
            Source::Log => {
                log += 1;
                let what = "a directory's log shows submissions that the ledger does not explain";
                (names::LIMIT_DOUBTED, "submitted_at", what)
            }
        };
        tracing::error!(rule, directory = key.directory, object = key.object, message, "{what}");
        let event = Event::new(None, kind, Actor::Rule(NAME), Outcome::Failure, message.as_str())
            .object("account", &key.object)
            .detail("rule", *rule)
            .detail("provider", key.provider.as_str())
            .detail("directory", &key.directory)
            .detail(dated, at.to_string());
        audit::record(&mut tx, &event).await?;
    }
    if ledger > 0 {
        stop(&mut tx).await?;
    }
    tx.commit().await?;
    count(ledger, log);
    Ok(ledger + log)
}

fn count(ledger: i32, log: i32) {
    for (source, new) in [(Source::Ledger, ledger), (Source::Log, log)] {
        metrics::counter!("parapet_limit_findings_total", "source" => source.as_str())
            .increment(new.unsigned_abs().into());
    }
}

/// INVARIANT: where a limit was exceeded, nothing is tried until an operator has understood why.
async fn stop(tx: &mut Tx) -> Result<(), StoreError> {
    let new = AttemptStopId::new();
    let reason = "the limit auditor found attempts beyond a limit; see `parapet attempts audit`";
    let held = stops::stop(tx, new, &Place::default(), reason, (NAME, NAME)).await?;
    if held == new {
        let message = "password attempts are stopped";
        let event = Event::new(None, names::VALIDATION_STOPPED, Actor::Rule(NAME), Outcome::Success, message)
            .object("attempt_stop", held)
            .detail("scope", "installation")
            .detail("reason", reason);
        audit::record(tx, &event).await?;
    }
    Ok(())
}

/// The latest findings, of any run.
pub async fn findings(db: &Db, at_most: i64) -> Result<Vec<ledger::Finding>, StoreError> {
    let mut tx = db.system().await?;
    let found = ledger::findings(&mut tx, at_most).await?;
    tx.rollback().await?;
    Ok(found)
}
