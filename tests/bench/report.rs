//! Figures of several rounds, and the medians of them.

use std::{collections::BTreeMap, path::Path};

use parapet::data::save_json;
use serde::Serialize;

/// One figure of one round.
#[derive(Clone, Copy, Debug)]
struct Pair {
    ours: f64,
    limit: f64,
}

/// What the report says about one figure.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    limit: f64,
    ratio: f64,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub struct Report {
    names: Vec<(String, &'static str)>,
    rounds: BTreeMap<String, Vec<Pair>>,
}

impl Report {
    /// Adds a round's figure: Parapet's and that of its limit, measured one after the other.
    pub fn add(&mut self, name: &str, unit: &'static str, ours: f64, limit: f64) {
        eprintln!("          {name}: {ours:.0} {unit}, limit {limit:.0}");
        if !self.rounds.contains_key(name) {
            self.names.push((name.to_owned(), unit));
        }
        self.rounds.entry(name.to_owned()).or_default().push(Pair { ours, limit });
    }

    /// Medians; the ratio is the median of the rounds' ratios.
    fn rows(&self) -> Vec<Row> {
        let row = |(name, unit): &(String, &'static str)| {
            let pairs = self.rounds.get(name)?;
            let of = |figure: fn(&Pair) -> f64| median(pairs.iter().map(figure).collect());
            Some(Row {
                name: name.clone(),
                unit,
                ours: of(|pair| pair.ours),
                limit: of(|pair| pair.limit),
                ratio: of(|pair| pair.ours / pair.limit),
            })
        };
        self.names.iter().filter_map(row).collect()
    }

    /// Writes the list.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        save_json(file, &self.rows())
    }

    /// Prints a table for people.
    pub fn print(&self) {
        let width = self.names.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        println!("{:<width$} {:>10} {:>10} {:>7}  unit", "", "Parapet", "limit", "ratio");
        for Row { name, unit, ours, limit, ratio } in self.rows() {
            println!("{name:<width$} {ours:>10.0} {limit:>10.0} {ratio:>7.2}  {unit}");
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let mut report = Report::default();
        for (ours, limit) in [(1.0, 2.0), (10.0, 40.0), (3.0, 3.0)] {
            report.add("n", "1/s", ours, limit);
        }
        let rows = report.rows();
        let row = rows.first().unwrap();
        assert!((row.ours - 3.0).abs() < f64::EPSILON && (row.limit - 3.0).abs() < f64::EPSILON);
        assert!((row.ratio - 0.5).abs() < f64::EPSILON);
    }
}
