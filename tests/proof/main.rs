//! `make proof`: searches every state of the attempt protocol (design §5) for one in which it is broken.
//!
//! `world` is what there is, `budget` the SQL functions rule by rule, `model` the steps of a validator and what can come
//! between them, `properties` what must hold, `catalogue` the models: the shipped protocol, and the same protocol with one
//! protection taken out at a time, which must fail. A search in which nothing happens proves nothing: what must happen
//! sometimes is checked as well.
//!
//! Taken for granted: PostgreSQL keeps what it committed and its row locks; only one database answers at a time; the
//! monotonic clocks of the processes run with true time; the provider receives a submission when it is sent.

mod budget;
mod catalogue;
mod model;
mod properties;
mod search;
mod world;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use parapet::data::save_json;

use catalogue::{Extent, broken, sound};
use search::{Found, search};

/// Searches every state of the attempt protocol for one in which it is broken; fails if there is one, if a broken variant
/// has none, or if what must happen sometimes never does.
#[derive(Debug, Parser)]
struct Proof {
    /// Search the small worlds only, as the tests do
    #[arg(long)]
    quick: bool,
    /// Only models whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Print the steps of each counterexample
    #[arg(long)]
    steps: bool,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Threads that search
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Where the report is written
    #[arg(long, default_value = "target/proof-report.json", value_name = "FILE")]
    report: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let proof = Proof::parse();
    let extent = if proof.quick { Extent::Quick } else { Extent::Full };
    let mut found = Vec::new();
    for entry in sound(extent).iter().chain(&broken()).filter(|entry| entry.name.contains(&proof.only)) {
        let one = search(entry, proof.threads.into());
        eprintln!("{:6.1} s  {}: {}", one.seconds, one.model, one.result());
        found.push(one);
    }
    save_json(&proof.report, &found)?;
    if proof.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        println!("{}", table(&found));
        if proof.steps {
            print_steps(&found);
        }
    }
    let wrong = found.iter().filter(|one| !one.as_expected()).count();
    eprintln!(
        "{wrong} of {} models are not as they must be. The same as JSON: {}",
        found.len(),
        proof.report.display()
    );
    Ok(if wrong == 0 && !found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(found: &[Found]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["model", "states", "unique", "depth", "seconds", "result"]);
    for one in found {
        table.add_row([
            one.model.to_owned(),
            one.states.to_string(),
            one.unique.to_string(),
            one.depth.to_string(),
            format!("{:.1}", one.seconds),
            one.result(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn print_steps(found: &[Found]) {
    for one in found {
        let Some(counterexample) = &one.counterexample else { continue };
        println!("\n{}: {}", one.model, counterexample.property);
        for (n, step) in (1..).zip(&counterexample.steps) {
            println!("  {n:3} {step}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_keeps_every_promise_in_every_state_that_it_can_reach() {
        for entry in sound(Extent::Quick) {
            let found = search(&entry, 2);
            assert!(found.as_expected(), "{found:?}");
        }
    }

    #[test]
    fn without_any_one_of_its_protections_it_does_not() {
        for entry in broken() {
            let found = search(&entry, 1);
            assert!(found.as_expected(), "{found:?}");
        }
    }
}
