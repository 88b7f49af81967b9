//! What the project promises, beside what was measured. It is printed and judged by whoever reads it.

use super::figures::readable;
use super::page::{Section, Table};
use serde::Serialize;
use std::fmt;

/// A measure of the project's plan.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    measure: String,
    measured: f64,
    must: f64,
    goal: f64,
    /// Whether more is better.
    at_least: bool,
}

/// Above a table of them.
pub(super) fn head() -> String {
    format!("{:<76} {:>9}  {:>9}  {:>9}", "target", "measured", "must", "goal")
}

impl Target {
    pub(super) fn new(measure: impl Into<String>, measured: f64, must: f64, goal: f64) -> Self {
        Self { measure: measure.into(), measured, must, goal, at_least: goal > must }
    }

    fn sign(&self) -> char {
        if self.at_least { '≥' } else { '≤' }
    }

    /// For a page.
    pub(super) fn section(targets: &[Self]) -> Section {
        let line = |target: &Self| {
            let (sign, must, goal) = (target.sign(), readable(target.must), readable(target.goal));
            vec![target.measure.clone(), readable(target.measured), format!("{sign} {must}"), format!("{sign} {goal}")]
        };
        Section {
            title: "Beside the project's targets",
            text: String::new(),
            charts: Vec::new(),
            tables: vec![Table::new(&["measure", "measured", "must", "goal"], targets.iter().map(line))],
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [measured, must, goal] = [self.measured, self.must, self.goal].map(readable);
        let sign = self.sign();
        write!(out, "{:<76} {measured:>9}  {sign}{must:>8}  {sign}{goal:>8}", self.measure)
    }
}
