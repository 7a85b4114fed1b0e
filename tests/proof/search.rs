//! Searches a model and says what was found.

use std::time::Instant;

use serde::Serialize;
use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

use crate::catalogue::Entry;

/// What the search of one model found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The model.
    pub model: &'static str,
    /// It lacks a protection and must have a counterexample.
    pub broken: bool,
    /// States reached, counted each time.
    pub states: usize,
    /// States reached, counted once.
    pub unique: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub seconds: f64,
    /// The property that does not hold, and the steps that show it.
    pub counterexample: Option<Counterexample>,
    /// What must happen sometimes and never did. Not looked at in a broken model: its search ends at the counterexample.
    pub never: Vec<&'static str>,
}

/// A way to a state in which a property does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Counterexample {
    /// What does not hold.
    pub property: &'static str,
    /// How it comes about, the shortest way.
    pub steps: Vec<String>,
}

impl Found {
    /// Whether the model is as it must be.
    pub fn as_expected(&self) -> bool {
        self.counterexample.is_some() == self.broken && self.never.is_empty()
    }

    /// What became of it, for the table.
    pub fn result(&self) -> String {
        match (&self.counterexample, self.broken) {
            (Some(found), true) => format!("fails in {} steps: {}", found.steps.len(), found.property),
            (Some(found), false) => format!("FAILS in {} steps: {}", found.steps.len(), found.property),
            (None, true) => "HOLDS although it is broken".to_owned(),
            (None, false) if self.never.is_empty() => "holds".to_owned(),
            (None, false) => format!("NEVER: {}", self.never.join(", ")),
        }
    }
}

/// Searches every state that can be reached, or until a property fails.
pub fn search(entry: &Entry, threads: usize) -> Found {
    let begun = Instant::now();
    let broken = entry.protocol.fault.is_some();
    let checker = entry
        .protocol
        .checker()
        // One thread finds the shortest counterexample.
        .threads(if broken { 1 } else { threads })
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let properties = entry.protocol.properties();
    let counterexample = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Always)
        .find_map(|property| Some((property.name, discoveries.get(property.name)?)))
        .map(|(property, path)| Counterexample {
            property,
            steps: path.clone().into_actions().iter().map(|step| format!("{step:?}")).collect(),
        });
    let happens = |name| discoveries.contains_key(name);
    let never = properties
        .iter()
        .filter(|p| {
            counterexample.is_none() && !broken && p.expectation == Expectation::Sometimes && !happens(p.name)
        })
        .map(|property| property.name)
        .collect();
    Found {
        model: entry.name,
        broken,
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        seconds: begun.elapsed().as_secs_f64(),
        counterexample,
        never,
    }
}
