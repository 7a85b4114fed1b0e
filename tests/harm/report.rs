//! What the runs of all seeds add up to, and whether it is good enough.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    directory::Provider,
    numbers::OWNER_RESERVE,
    ours::Ours,
    policies::{Course, Policy, Untouched},
};

/// One policy at one directory, as `harm-report.json` has it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which policy.
    pub policy: &'static str,
    /// Which directory.
    pub directory: &'static str,
    /// Lockouts that the same seed does not have without attempts.
    pub lockouts: usize,
    /// Passwords submitted.
    pub attempts: u64,
    /// Working passwords found.
    pub working_found: usize,
    /// Working passwords there were, on accounts that may be tested.
    pub working_total: usize,
    /// Attempts for each working password found.
    pub attempts_per_working: f64,
    /// From arrival to proof.
    pub median_hours_to_find: f64,
}

/// A policy at a directory, over all seeds.
#[derive(Debug, Default)]
struct Sum {
    lockouts: usize,
    /// Of these, the ones whose owner had more wrong tries than the reserve.
    beyond_reserve: usize,
    attempts: u64,
    found: usize,
    total: usize,
    hours: Vec<f64>,
}

/// What only Parapet has.
#[derive(Debug, Default)]
struct Own {
    /// Working passwords that stay untested because the reserve is their owner's.
    reserved: usize,
    free: BTreeMap<String, u64>,
    tried: u64,
    waiting: u64,
    locked_answers: u64,
    wrong: Vec<String>,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Report {
    sums: BTreeMap<(usize, usize), Sum>,
    own: BTreeMap<usize, Own>,
    /// Exposures, the ones that work, owners' own lockouts; of each directory.
    untouched: BTreeMap<usize, (u64, u64, usize)>,
}

/// The place of Parapet among the policies.
const OURS: usize = 0;

fn place<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|other| other == one).unwrap_or_default()
}

impl Report {
    /// Adds a seed without any attempt.
    pub fn untouched(&mut self, provider: Provider, untouched: &Untouched) {
        let sum = self.untouched.entry(place(&Provider::ALL, &provider)).or_default();
        sum.0 += untouched.exposures;
        sum.1 += untouched.work;
        sum.2 += untouched.lockouts.len();
    }

    /// Adds what a policy did in a seed.
    pub fn policy(&mut self, policy: Policy, provider: Provider, untouched: &Untouched, course: &Course) {
        let key = (place(&Provider::ALL, &provider), place(&Policy::ALL, &policy));
        let sum = self.sums.entry(key).or_default();
        for (account, locked) in &course.lockouts {
            if !untouched.lockouts.contains(&(*account, locked.session)) {
                sum.lockouts += 1;
                sum.beyond_reserve += usize::from(locked.owner_failures > OWNER_RESERVE);
            }
        }
        sum.attempts += course.attempts;
        sum.total += untouched.working.len();
        for (pair, arrived) in &untouched.working {
            if let Some(found) = course.found.get(pair) {
                sum.found += 1;
                #[expect(clippy::cast_precision_loss, reason = "seconds of a month")]
                sum.hours.push((found - arrived).max(0) as f64 / 3_600.0);
            }
        }
    }

    /// Adds what Parapet decided in a seed.
    pub fn ours(&mut self, provider: Provider, untouched: &Untouched, ours: &Ours) {
        let own = self.own.entry(place(&Provider::ALL, &provider)).or_default();
        let missed = untouched.working.keys().filter(|pair| !ours.course.found.contains_key(pair));
        own.reserved += missed.filter(|pair| ours.reserved.contains(pair)).count();
        for (rule, times) in &ours.free {
            *own.free.entry(rule.clone()).or_default() += times;
        }
        own.tried += ours.tried;
        own.waiting += ours.waiting;
        own.locked_answers += ours.locked_answers;
        own.wrong.extend(ours.wrong.iter().cloned());
    }

    /// The rows, by directory.
    pub fn rows(&self) -> Vec<Row> {
        let row = |((directory, policy), sum): (&(usize, usize), &Sum)| {
            Some(Row {
                policy: Policy::ALL.get(*policy)?.name(),
                directory: Provider::ALL.get(*directory)?.name(),
                lockouts: sum.lockouts,
                attempts: sum.attempts,
                working_found: sum.found,
                working_total: sum.total,
                attempts_per_working: ratio(sum.attempts, sum.found),
                median_hours_to_find: median(sum.hours.clone()),
            })
        };
        self.sums.iter().filter_map(row).collect()
    }

    /// What must never happen: somebody locked out who stayed within the reserve, a wrong verdict without an attempt.
    pub fn harm(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (provider, directory) in Provider::ALL.iter().zip(0..) {
            let name = provider.name();
            let within = self.sums.get(&(directory, OURS)).map_or(0, |sum| sum.lockouts - sum.beyond_reserve);
            if within > 0 {
                found.push(format!(
                    "{name}: {within} were locked although their owners stayed within the reserve"
                ));
            }
            let wrong = self.own.get(&directory).map_or(&[][..], |own| &own.wrong);
            if !wrong.is_empty() {
                let some = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
                found.push(format!("{name}: {} verdicts without an attempt are wrong: {some}", wrong.len()));
            }
        }
        found
    }

    /// Where Parapet finds or decides too little.
    pub fn shortfalls(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (provider, directory) in Provider::ALL.iter().zip(0..) {
            let name = provider.name();
            let Some(ours) = self.sums.get(&(directory, OURS)) else { continue };
            // Where I2 leaves no attempt, an account may not be tested (design §5: `not_testable(reserve)`).
            let may = ours.total - self.own.get(&directory).map_or(0, |own| own.reserved);
            if ours.found * 100 < may * 99 {
                found.push(format!(
                    "{name}: found {} of {may} that may be tested, less than 99 %",
                    ours.found
                ));
            }
            let others = self.sums.iter().filter(|((of, policy), _)| *of == directory && *policy != OURS);
            let best = others.map(|(_, other)| other.found).max().unwrap_or_default();
            if ours.found * 10 < best * 9 {
                found.push(format!(
                    "{name}: found {}, less than 90 % of the best reference's {best}",
                    ours.found
                ));
            }
            let free = self.share_free(directory);
            if free < 0.8 {
                found.push(format!(
                    "{name}: triage decides {:.1} % of the exposures, less than 80 %",
                    100.0 * free
                ));
            }
        }
        found
    }

    fn share_free(&self, directory: usize) -> f64 {
        let Some(own) = self.own.get(&directory) else { return f64::NAN };
        let free: u64 = own.free.values().sum();
        ratio(free, usize::try_from(free + own.tried + own.waiting).unwrap_or(usize::MAX))
    }

    /// Prints everything for people.
    pub fn print(&self) {
        println!(
            "{:<10}{:<39}{:>9}{:>10}{:>16}{:>8}{:>10}{:>8}",
            "directory", "policy", "lockouts", "attempts", "working found", "share", "attempts", "median"
        );
        println!("{:>85}{:>17}{:>8}", "", "per found", "hours");
        for row in self.rows() {
            println!(
                "{:<10}{:<39}{:>9}{:>10}{:>16}{:>7.1}%{:>10.1}{:>8.1}",
                row.directory,
                row.policy,
                row.lockouts,
                row.attempts,
                format!("{} of {}", row.working_found, row.working_total),
                100.0 * ratio(row.working_found as u64, row.working_total),
                row.attempts_per_working,
                row.median_hours_to_find,
            );
        }
        println!();
        for (directory, (exposures, work, lockouts)) in &self.untouched {
            let name = Provider::ALL.get(*directory).map_or("", |provider| provider.name());
            println!(
                "{name}: {exposures} exposures, {:.1} % of them work; owners lock themselves out {lockouts} times without any attempt",
                100.0 * ratio(*work, usize::try_from(*exposures).unwrap_or(usize::MAX))
            );
            if let Some(sum) = self.sums.get(&(*directory, OURS)) {
                println!(
                    "  ours: {} lockouts caused while the owner stayed within the reserve of {OWNER_RESERVE} wrong tries, {} beyond it",
                    sum.lockouts - sum.beyond_reserve,
                    sum.beyond_reserve
                );
            }
            if let Some(own) = self.own.get(directory) {
                println!(
                    "  triage decided {:.1} % without an attempt, {} of them wrongly; {} had one, {} wait; {} attempts met a lock",
                    100.0 * self.share_free(*directory),
                    own.wrong.len(),
                    own.tried,
                    own.waiting,
                    own.locked_answers
                );
                println!(
                    "  {} working passwords not found stay untested until their owners sign in: not_testable(reserve)",
                    own.reserved
                );
                let rules: Vec<_> = own.free.iter().map(|(rule, times)| format!("{rule} {times}")).collect();
                println!("  by rule: {}", rules.join(", "));
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a simulation")]
fn ratio(part: u64, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or_default();
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    f64::midpoint(lower, upper)
}
