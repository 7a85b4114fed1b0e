//! The judge: holds what Parapet says against the simulator's own log and the generator's knowledge.
//!
//! It trusts neither Parapet's counts nor its words: attempts are counted at the simulator, containment is read
//! there, and the database is read as its superuser only to show that each submission had its reservation and intent.

mod containment;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use anyhow::Context as _;
use shared::wire::v1::{
    self as api, audit_service_client::AuditServiceClient,
    installation_service_client::InstallationServiceClient,
};
use sqlx::{PgConnection, Row};
use time::{Duration, OffsetDateTime};

use crate::{
    canary::{self, Scanner},
    cli::Global,
    client, stack,
};

use super::{
    containment::Acts,
    directory::{Account, Change, Entry, Event},
    feeds::{Expected, Feeds},
    report::{Report, SideReport},
    steps::{Imported, Run, Side, Told},
};

/// Attempts per account the demo's settings allow in any 25 hours.
const LIMIT: usize = 2;
const LONGEST_DAY: Duration = Duration::hours(25);

/// An account at a directory.
type Key = (String, String);
/// What was done to accounts, in order, by the simulator's log.
type Changes = HashMap<Key, Vec<(OffsetDateTime, Change)>>;

/// Judges the run.
pub async fn judge(
    run: &Run,
    feeds: &Feeds,
    imported: &BTreeMap<String, Imported>,
    acts: &Acts,
    told: Vec<Told>,
) -> anyhow::Result<Report> {
    let mut report = Report::new(imported, feeds);
    let mut truth: HashMap<Key, Account> = HashMap::new();
    let mut submissions: HashMap<Key, Vec<(OffsetDateTime, bool)>> = HashMap::new();
    let mut changes = Changes::new();
    for side in &run.sides {
        for account in run.control.accounts(&side.directory.id).await? {
            truth.insert(key(&side.directory.id, &account.id), account);
        }
        for entry in run.control.log(&side.directory.id).await? {
            count(&mut report, &mut submissions, &entry);
            if let Event::Change(change) = entry.event {
                let account = key(&entry.directory, &change.account);
                changes.entry(account).or_default().push((entry.time, change));
            }
        }
    }
    report.attempts = submissions.values().map(Vec::len).sum();
    for times in submissions.values() {
        report.attempts_over_limit += over_limit(times);
    }
    records(&mut report, feeds);
    verdicts(&mut report, &feeds.expected, &told, &submissions);
    containment::judge(&mut report, run, &told, &truth);
    sides(&mut report, &told);
    ledger(&mut report, run, &submissions).await?;
    let events = audit(&mut report, run, &submissions).await?;
    containment::Acted { run, acts, told: &told, truth: &truth, changes: &changes, events: &events }
        .judge(&mut report);
    follow(&mut report, run, &events).await?;
    run.stage.say("searching logs, tables, messages and audit events for every password of the run");
    secrets(&mut report, run, feeds).await?;
    report.elapsed_s = run.elapsed_s();
    report.objections.sort();
    Ok(report)
}

fn key(directory: &str, account: &str) -> Key {
    (directory.to_lowercase(), account.to_lowercase())
}

fn count(report: &mut Report, submissions: &mut HashMap<Key, Vec<(OffsetDateTime, bool)>>, entry: &Entry) {
    let Event::Submission { account, correct, by, locked } = &entry.event else { return };
    if by != "wire" {
        return;
    }
    report.accounts_locked += usize::from(*locked);
    match account {
        Some(account) => submissions
            .entry(key(&entry.directory, account))
            .or_default()
            .push((entry.time, correct.unwrap_or(false))),
        // The connection test submits a name that nobody has; nobody can be locked by it.
        None => report.probes += 1,
    }
}

/// How many submissions exceed the limit in the worst window that ends with one.
fn over_limit(times: &[(OffsetDateTime, bool)]) -> usize {
    let worst = times
        .iter()
        .map(|(end, _)| times.iter().filter(|(at, _)| at <= end && *end - *at < LONGEST_DAY).count())
        .max()
        .unwrap_or(0);
    worst.saturating_sub(LIMIT)
}

fn records(report: &mut Report, feeds: &Feeds) {
    if report.attempts_over_limit > 0 {
        report.object(format!("{} submissions exceed an account's limit", report.attempts_over_limit));
    }
    if report.accounts_locked > 0 {
        report.object(format!("{} accounts were locked by us", report.accounts_locked));
    }
    if report.feed_records_accounted != feeds.records as u64 || report.feed_records != feeds.records as u64 {
        report.object(format!(
            "{} of {} feed records are accounted for",
            report.feed_records_accounted, feeds.records
        ));
    }
    if report.attempts == 0 || report.feed_records == 0 {
        report.object("nothing was tried: the run proves nothing".to_owned());
    }
}

fn verdicts(
    report: &mut Report,
    expected: &[Expected],
    told: &[Told],
    submissions: &HashMap<Key, Vec<(OffsetDateTime, bool)>>,
) {
    let mut valid: HashMap<Key, usize> = HashMap::new();
    let mut deferred: HashMap<Key, String> = HashMap::new();
    for (side, exposure) in told.iter().flat_map(|t| t.exposures.iter().map(|e| (&t.side, e))) {
        let verdict = exposure.verdict.clone().unwrap_or_default();
        let name = name(verdict.kind());
        *report.verdicts.entry(name.to_owned()).or_default() += 1;
        let reason =
            if verdict.reason.is_empty() { name.to_owned() } else { format!("{name}: {}", verdict.reason) };
        let decided = report.decisions.entry(reason).or_default();
        decided.exposures += 1;
        decided.attempts += i64::from(exposure.attempts);
        report.exposures += 1;
        report.decided_without_attempt += usize::from(exposure.decided_without_attempt);
        let account = key(&side.directory.id, &exposure.object_id);
        if name.starts_with("valid") {
            *valid.entry(account).or_default() += usize::from(exposure.attempts > 0);
        } else if name == "deferred" {
            deferred.insert(account, verdict.reason);
        }
    }
    report.valid_expected = expected.len();
    let working: HashSet<Key> = expected.iter().map(|e| key(&e.directory, &e.account)).collect();
    for expected in expected {
        let account = key(&expected.directory, &expected.account);
        if valid.contains_key(&account) {
            report.valid_found += 1;
        } else if !expected.only_candidate && deferred.contains_key(&account) {
            report.valid_deferred += 1;
        } else {
            let why = deferred.get(&account).map_or("not found".to_owned(), |r| format!("deferred: {r}"));
            report.object(format!("a working password of account {} was missed ({why})", account.1));
        }
    }
    for (account, by_attempt) in &valid {
        let right = submissions.get(account).map_or(0, |s| s.iter().filter(|(_, correct)| *correct).count());
        if !working.contains(account) || *by_attempt > right {
            report.false_valid += 1;
            report.object(format!("account {} was called valid without a right password", account.1));
        }
    }
    for (account, times) in submissions {
        if !told
            .iter()
            .any(|t| t.exposures.iter().any(|e| key(&t.side.directory.id, &e.object_id) == *account))
        {
            report.object(format!(
                "{} submissions for account {} without any exposure",
                times.len(),
                account.1
            ));
        }
    }
}

fn sides(report: &mut Report, told: &[Told]) {
    for Told { side, exposures, mitigations } in told {
        let valid = exposures
            .iter()
            .filter(|e| name(e.verdict.clone().unwrap_or_default().kind()).starts_with("valid"));
        let mut states = BTreeMap::<String, usize>::new();
        for mitigation in mitigations {
            *states.entry(mitigation.state.clone()).or_default() += 1;
        }
        report.sides.push(SideReport {
            name: side.name.to_owned(),
            exposures: exposures.len(),
            valid: valid.count(),
            mitigations: states,
        });
    }
}

/// Every submission has its own reservation, made before it.
async fn ledger(
    report: &mut Report,
    run: &Run,
    submissions: &HashMap<Key, Vec<(OffsetDateTime, bool)>>,
) -> anyhow::Result<()> {
    let mut database = superuser(run).await?;
    let rows = sqlx::query("SELECT directory, object, reserved_at FROM budget.attempt ORDER BY reserved_at")
        .fetch_all(&mut database)
        .await?;
    let mut reserved: HashMap<Key, Vec<OffsetDateTime>> = HashMap::new();
    for row in &rows {
        let account = key(row.try_get("directory")?, row.try_get("object")?);
        reserved.entry(account).or_default().push(row.try_get("reserved_at")?);
    }
    for (account, times) in submissions {
        let mut times: Vec<OffsetDateTime> = times.iter().map(|(at, _)| *at).collect();
        times.sort_unstable();
        let reservations = reserved.remove(account).unwrap_or_default();
        let covered = times.len() <= reservations.len()
            && times.iter().zip(&reservations).all(|(sent, made)| made <= sent);
        if !covered {
            report.object(format!(
                "account {} has {} submissions but {} reservations before them",
                account.1,
                times.len(),
                reservations.len()
            ));
        }
    }
    report.reservations = rows.len();
    // What the product's own auditor makes of the same ledger.
    let operator = Global { caller: Some("operator".into()), ..run.global.clone() };
    let audit = InstallationServiceClient::new(client::connect(&operator).await?)
        .audit_attempts(api::AuditAttemptsRequest::default())
        .await?
        .into_inner();
    for finding in &audit.findings {
        report.object(format!(
            "the limit auditor found, of account {}: {}",
            finding.object_id, finding.message
        ));
    }
    if audit.attempts != i64::try_from(rows.len())? {
        report.object(format!(
            "the limit auditor looked at {} of {} reservations",
            audit.attempts,
            rows.len()
        ));
    }
    Ok(())
}

/// Every submission has its audit intent, and the chains verify. Returns what the log says about mitigations, each event
/// with its tenant's directory, newest first.
async fn audit(
    report: &mut Report,
    run: &Run,
    submissions: &HashMap<Key, Vec<(OffsetDateTime, bool)>>,
) -> anyhow::Result<Vec<(String, api::AuditEvent)>> {
    let mut kept = Vec::new();
    for side in &run.sides {
        let mut client = AuditServiceClient::new(run.api("auditor", side).await?)
            .max_decoding_message_size(16 * 1024 * 1024);
        let mut intents: HashMap<Key, usize> = HashMap::new();
        let mut page_token = String::new();
        loop {
            let page = client
                .search_audit_events(api::SearchAuditEventsRequest {
                    page_size: 1000,
                    page_token,
                    ..Default::default()
                })
                .await?
                .into_inner();
            report.audit_events += page.events.len();
            for event in &page.events {
                if event.outcome() == api::AuditOutcome::Intent && event.r#type.starts_with("validation.") {
                    *intents.entry(key(&side.directory.id, &event.user_object_id)).or_default() += 1;
                }
            }
            let about = page.events.into_iter().filter(|e| e.r#type.contains("mitigation"));
            kept.extend(about.map(|event| (side.directory.id.to_lowercase(), event)));
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        for (account, times) in submissions.iter().filter(|(a, _)| a.0 == side.directory.id.to_lowercase()) {
            if intents.get(account).copied().unwrap_or(0) < times.len() {
                report.object(format!("account {} has a submission without an audit intent", account.1));
            }
        }
        let chain = client.verify_audit_chain(api::VerifyAuditChainRequest::default()).await?.into_inner();
        if !chain.intact {
            report.object(format!("the audit chain of {} does not verify: {}", side.name, chain.fault));
        }
    }
    Ok(kept)
}

/// Follows one credential through the audit log by one id: from the record of a feed to what became of its account; one
/// whose account was contained and given back, if there is one.
async fn follow(report: &mut Report, run: &Run, events: &[(String, api::AuditEvent)]) -> anyhow::Result<()> {
    let exposure = |of: &dyn Fn(&api::AuditEvent) -> bool| {
        let mut events = events.iter().filter(|(_, e)| e.outcome() == api::AuditOutcome::Success && of(e));
        events.find_map(|(directory, e)| Some((directory, e.details.get("exposure_id")?)))
    };
    let undone = exposure(&|e| e.r#type == "mitigation.performed" && e.details.contains_key("undoes"));
    let Some((directory, cause)) = undone.or_else(|| exposure(&|e| e.r#type == "mitigation.verified")) else {
        report.object("no credential can be followed through the audit log".to_owned());
        return Ok(());
    };
    let side = run.sides.iter().find(|side| side.directory.id.eq_ignore_ascii_case(directory));
    let side = side.context("an event of a directory that is not there")?;
    let mut client = AuditServiceClient::new(run.api("auditor", side).await?);
    let request = api::SearchAuditEventsRequest { cause_id: cause.clone(), ..Default::default() };
    let mut events = client.search_audit_events(request).await?.into_inner().events;
    events.reverse();
    for needed in ["exposure.received", "exposure.verdict", "mitigation.performed", "mitigation.verified"] {
        if !events.iter().any(|e| e.r#type == needed) {
            report.object(format!("following exposure {cause} through the audit log, there is no {needed}"));
        }
    }
    let told = |e: &api::AuditEvent| format!("{:>6}  {:<24}  {}", e.sequence, e.r#type, e.message);
    report.followed = events.iter().map(told).collect();
    Ok(())
}

/// No password and no client secret of the run lies anywhere but where it was put in.
async fn secrets(report: &mut Report, run: &Run, feeds: &Feeds) -> anyhow::Result<()> {
    let data = run.global.data()?;
    let proof = data.path().join("search-proof");
    std::fs::create_dir_all(&proof)?;
    Scanner::prove(&proof)?;
    let wanted: Vec<String> =
        feeds.secrets.iter().cloned().chain(run.client_secrets.iter().cloned()).collect();
    let scanner =
        tokio::task::spawn_blocking(move || Scanner::new(wanted.iter().map(String::as_str))).await??;
    let found = canary::search(&data, &Arc::new(scanner), &[data.path().join("feeds")]).await?;
    report.secrets_found = found.len();
    for finding in found.into_iter().take(20) {
        report.object(format!("a secret of the run lies in {} ({:?})", finding.place, finding.spelling));
    }
    Ok(())
}

async fn superuser(run: &Run) -> anyhow::Result<PgConnection> {
    stack::superuser(&run.global.data()?).await
}

/// A verdict's stable name.
pub fn name(kind: api::VerdictKind) -> &'static str {
    match kind {
        api::VerdictKind::Unspecified | api::VerdictKind::Pending => "pending",
        api::VerdictKind::Valid => "valid",
        api::VerdictKind::ValidSecondFactor => "valid_second_factor",
        api::VerdictKind::ValidExpired => "valid_expired",
        api::VerdictKind::Invalid => "invalid",
        api::VerdictKind::Inconclusive => "inconclusive",
        api::VerdictKind::NotTestable => "not_testable",
        api::VerdictKind::Stale => "stale",
        api::VerdictKind::Deferred => "deferred",
    }
}

/// The side's name, for messages.
impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_submission_within_25_hours_is_over_the_limit_and_one_later_is_not() {
        let at = |hours| (OffsetDateTime::UNIX_EPOCH + Duration::hours(hours), false);
        assert_eq!(over_limit(&[at(0), at(24)]), 0);
        assert_eq!(over_limit(&[at(0), at(24), at(25)]), 0);
        assert_eq!(over_limit(&[at(0), at(12), at(24)]), 1);
    }
}
