//! What the demo ends with: a report for a person, and the same as JSON.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{feeds::Feeds, steps::Imported};

/// Everything the demo found out. The flat keys are stable.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Records in the feed files, as the import found them.
    pub feed_records: u64,
    /// Of these, accepted, recognised as duplicates, or rejected with a reason.
    pub feed_records_accounted: u64,
    /// Exposures over both tenants.
    pub exposures: usize,
    /// Exposures by verdict.
    pub verdicts: BTreeMap<String, usize>,
    /// Password submissions that reached a directory, by the directory's log.
    pub attempts: usize,
    /// Exposures that were decided without an attempt.
    pub decided_without_attempt: usize,
    /// Submissions beyond an account's limit in any 25 hours. Must be 0.
    pub attempts_over_limit: usize,
    /// Accounts locked by us. Must be 0.
    pub accounts_locked: usize,
    /// Working passwords in the files, by the generator.
    pub valid_expected: usize,
    /// Of these, found.
    pub valid_found: usize,
    /// Of these, waiting for their account's budget.
    pub valid_deferred: usize,
    /// Accounts called valid wrongly. Must be 0.
    pub false_valid: usize,
    /// Accounts found valid and contained at the directory as switched on.
    pub contained: usize,
    /// Accounts found valid and held by a brake or a protection.
    pub held: usize,
    /// Accounts whose containment was undone.
    pub undone: usize,
    /// Accounts whose containment somebody reverted.
    pub reverted: usize,
    /// What the plans said and whether it came so.
    pub planned: Planned,
    /// Actions at a directory before a second person had approved. Must be 0.
    pub before_approval: usize,
    /// Tries of those who changed a policy to approve its first run, and how many of them were refused.
    pub own_approvals: usize,
    /// See there.
    pub own_approvals_refused: usize,
    /// The account that was enabled again with one call.
    pub undone_account: Option<String>,
    /// The account that Active Directory enabled again, which was noticed.
    pub written_back_account: Option<String>,
    /// Audit events of both tenants.
    pub audit_events: usize,
    /// One credential's way through the audit log, from the feed's record to what became of the account.
    pub followed: Vec<String>,
    /// Places where a secret of the run was found. Must be 0.
    pub secrets_found: usize,
    /// Seconds from the start of the stack to the end of the judgement.
    pub elapsed_s: f64,
    /// Reservations in the ledger.
    pub reservations: usize,
    /// Submissions of connection tests, with names nobody has.
    pub probes: usize,
    /// Per file.
    pub files: BTreeMap<String, Imported>,
    /// Per verdict and reason: exposures and attempts.
    pub decisions: BTreeMap<String, Decided>,
    /// Why accounts are held.
    pub held_because: BTreeMap<String, usize>,
    /// Per tenant.
    pub sides: Vec<SideReport>,
    /// What the judge objects to. Empty when all is well.
    pub objections: Vec<String>,
}

/// How many exposures were decided in one way, and what it cost.
#[derive(Debug, Default, Serialize)]
pub struct Decided {
    /// Exposures.
    pub exposures: usize,
    /// Attempts.
    pub attempts: i64,
}

/// What the plans said would happen to the actions in them, and what the directories saw.
#[derive(Debug, Default, Serialize)]
pub struct Planned {
    /// Would run.
    pub run: usize,
    /// Would wait for a second person.
    pub held: usize,
    /// Would not be done.
    pub refused: usize,
    /// Nothing to do.
    pub already: usize,
    /// Came as the plan said.
    pub kept: usize,
    /// Would run, but were dropped later: how many for which reason.
    pub dropped: BTreeMap<String, usize>,
}

/// One tenant.
#[derive(Debug, Serialize)]
pub struct SideReport {
    /// Name.
    pub name: String,
    /// Exposures.
    pub exposures: usize,
    /// Exposures with a valid verdict.
    pub valid: usize,
    /// Mitigations by state.
    pub mitigations: BTreeMap<String, usize>,
}

impl Report {
    /// Begins with what the imports said.
    pub fn new(imported: &BTreeMap<String, Imported>, _feeds: &Feeds) -> Self {
        Self {
            feed_records: imported.values().map(|i| i.records).sum(),
            feed_records_accounted: imported.values().map(|i| i.accepted + i.duplicates + i.rejected).sum(),
            files: imported.clone(),
            ..Self::default()
        }
    }

    /// Adds an objection.
    pub fn object(&mut self, objection: String) {
        self.objections.push(objection);
    }

    /// Prints the report for a person.
    pub fn print(&self) {
        println!("\nWhat came in");
        let mut table = new_table(&["file", "records", "accepted", "duplicates", "rejected"]);
        for (name, file) in &self.files {
            row(&mut table, name, &[file.records, file.accepted, file.duplicates, file.rejected]);
        }
        println!("{table}");
        println!(
            "\n{} of {} records are accounted for; {} exposures matched an account of a tenant.",
            self.feed_records_accounted, self.feed_records, self.exposures
        );
        println!("\nHow each exposure was decided, and what it cost");
        let mut table = new_table(&["verdict", "exposures", "attempts"]);
        for (name, decided) in &self.decisions {
            row(&mut table, name, &[decided.exposures as u64, u64::try_from(decided.attempts).unwrap_or(0)]);
        }
        println!("{table}");
        println!(
            "\n{} exposures were decided without an attempt. {} passwords were submitted, each once; {} exceeded an\n\
             account's limit, {} accounts were locked.",
            self.decided_without_attempt, self.attempts, self.attempts_over_limit, self.accounts_locked
        );
        println!(
            "{} passwords really work: {} found, {} wait for their account's budget, {} called valid wrongly.",
            self.valid_expected, self.valid_found, self.valid_deferred, self.false_valid
        );
        println!("\nWhat was contained");
        for side in &self.sides {
            let states: Vec<String> = side.mitigations.iter().map(|(s, n)| format!("{n} {s}")).collect();
            println!(
                "  {:<9} {} exposures, {} valid; mitigations: {}",
                side.name,
                side.exposures,
                side.valid,
                states.join(", ")
            );
        }
        println!(
            "  Of {} exposed accounts {} are contained at the directory, {} held, {} undone, {} reverted.",
            self.valid_found, self.contained, self.held, self.undone, self.reverted
        );
        for (why, count) in &self.held_because {
            println!("    held: {count} because of {why}");
        }
        self.print_acts();
        println!("\nOne credential, followed through the audit log by one id");
        for event in &self.followed {
            println!("  {event}");
        }
        println!(
            "\n{} audit events, both chains verified. {} places with a password or client secret in clear.",
            self.audit_events, self.secrets_found
        );
        if self.objections.is_empty() {
            println!("The judge has no objection. {:.0} s.", self.elapsed_s);
        } else {
            println!("\nThe judge objects:");
            for objection in &self.objections {
                println!("  - {objection}");
            }
        }
    }

    fn print_acts(&self) {
        let Planned { run, held, refused, already, kept, dropped } = &self.planned;
        println!(
            "  Plan: of {} actions {run} would run, {held} be held, {refused} be refused; {kept} came so at the directory.",
            run + held + refused + already
        );
        for (why, count) in dropped {
            println!("    dropped: {count} because of {why}");
        }
        println!(
            "  Brake: {} actions before a second person approved. Approving the first run of one's own change was refused \
             {} of {} times.",
            self.before_approval, self.own_approvals_refused, self.own_approvals
        );
        let account = |account: &Option<String>| account.clone().unwrap_or_else(|| "no account".to_owned());
        println!("  Undo: {} was disabled and is active again.", account(&self.undone_account));
        println!(
            "  Writeback: {} was disabled, enabled again by its Active Directory, and told as reverted, with an alert.",
            account(&self.written_back_account)
        );
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header.iter().copied());
    for index in 1..header.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(table: &mut Table, name: &str, numbers: &[u64]) {
    table.add_row(std::iter::once(name.to_owned()).chain(numbers.iter().map(u64::to_string)));
}
