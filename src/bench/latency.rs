//! How long calls take that come at a steady rate: most of what a caller feels, and what the busiest second hides.
//!
//! The rate is fixed before the first round, from the most that the vault did here; vault and floor get the same one in turn.
//! Times count from when a call was due.

use super::figures::{Quantiles, grouped, median, readable};
use super::load::Load;
use super::pace::Paced;
use super::page::Table;
use super::probe::Used;
use super::rounds::{BATCH, BUSY, CROWDED};
use serde::Serialize;
use std::fmt;

/// A cell lasts so many times as long as others: the last one in a thousand wants many calls, and what a vault does only now
/// and then wants time to come up.
pub(super) const LONGER: f64 = 4.0;

/// Values a second in batches, if the machine can do it.
const BATCHED_VALUES: f64 = 250e3;

/// Calls of one kind, at a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub values: usize,
    /// How many are in flight where the peak is looked for.
    pub crowd: usize,
    rule: Rule,
}

/// How the rate follows from the peak.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Part(f64),
    /// Values a second; half the peak if that is below it.
    Values(f64),
}

/// One kind of call at its rate, in all rounds.
#[derive(Debug, Serialize)]
pub(super) struct LatencyRow {
    values: usize,
    /// The rate, in words.
    load: &'static str,
    /// The most calls a second that the vault did before the first round, with many in flight.
    peak: f64,
    /// Calls a second.
    pub(super) rate: f64,
    values_per_second: f64,
    /// Medians over the rounds, each figure by itself.
    vault: Figures,
    floor: Figures,
    /// How much longer the vault's p99 is than the floor's, in p50s of fdatasync. Median of the rounds' own.
    p99_over_floor_in_fdatasyncs: f64,
    rounds: Vec<Round>,
    #[serde(skip)]
    pub(super) vault_load: Load,
    #[serde(skip)]
    pub(super) floor_load: Load,
    #[serde(skip)]
    rule: Rule,
}

#[derive(Debug, Serialize)]
struct Round {
    vault: Figures,
    floor: Figures,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Figures {
    /// That were due, over all rounds.
    calls: usize,
    /// Of them those that were refused, or answered wrongly.
    failed: usize,
    #[serde(flatten)]
    took: Quantiles,
    /// By how much the client itself was late, which is part of the above.
    sent_late_p50_us: f64,
    sent_late_p99_us: f64,
    server_cpu_us_per_call: f64,
}

impl Pace {
    /// As the project's plan has them.
    pub(super) const ALL: [Self; 2] = [
        Self { values: 1, crowd: CROWDED, rule: Rule::Part(0.2) },
        Self { values: BATCH, crowd: BUSY, rule: Rule::Values(BATCHED_VALUES) },
    ];

    /// Calls a second, and how that came about.
    fn rate(self, peak: f64) -> (f64, &'static str) {
        match self.rule {
            Rule::Part(part) => (peak * part, "a fifth of the peak"),
            Rule::Values(values) if values / self.values as f64 <= peak => {
                (values / self.values as f64, "250,000 values a second")
            }
            Rule::Values(_) => (peak / 2.0, "half the peak, which is below 250,000 values a second"),
        }
    }
}

impl LatencyRow {
    pub(super) fn new(pace: Pace, peak: f64, vault_load: Load, floor_load: Load) -> Self {
        let (rate, load) = pace.rate(peak);
        Self {
            values: pace.values,
            load,
            peak,
            rate,
            values_per_second: rate * pace.values as f64,
            vault: Figures::default(),
            floor: Figures::default(),
            p99_over_floor_in_fdatasyncs: f64::NAN,
            rounds: Vec::new(),
            vault_load,
            floor_load,
            rule: pace.rule,
        }
    }

    /// Takes up a round, and says what it was.
    pub(super) fn add(&mut self, vault: &(Paced, Used), floor: &(Paced, Used)) -> String {
        let vault = Figures::of(&vault.0, vault.1.vault);
        let floor = Figures::of(&floor.0, floor.1.floor);
        self.rounds.push(Round { vault, floor });
        format!(
            "Tokenize of {} at {} calls/s, {}: p99 {} µs, floor {}",
            self.values,
            grouped(self.rate),
            self.load,
            grouped(vault.took.p99_us),
            grouped(floor.took.p99_us),
        )
    }

    /// Medians. `probes` are of the same rounds.
    pub(super) fn conclude(&mut self, probes: &[Quantiles]) {
        self.vault = Figures::medians(self.rounds.iter().map(|round| &round.vault));
        self.floor = Figures::medians(self.rounds.iter().map(|round| &round.floor));
        let in_syncs =
            |(round, probe): (&Round, &Quantiles)| (round.vault.took.p99_us - round.floor.took.p99_us) / probe.p50_us;
        self.p99_over_floor_in_fdatasyncs = median(self.rounds.iter().zip(probes).map(in_syncs));
    }

    /// The vault's and the floor's.
    pub(super) fn quantiles(&self) -> (Quantiles, Quantiles) {
        (self.vault.took, self.floor.took)
    }

    /// How many values, at which rate.
    pub(super) fn name(&self) -> String {
        format!("{} at {} calls/s, {}", self.values, grouped(self.rate), self.load)
    }

    /// For a page.
    pub(super) fn table(rows: &[Self]) -> Table {
        let line = |row: &Self, name: &str, figures: &Figures| {
            let took = &figures.took;
            let mut line = vec![format!("{} of {}", name, row.name())];
            line.extend([took.p50_us, took.p99_us, took.p999_us, figures.sent_late_p99_us].map(readable));
            line.extend([figures.calls, figures.failed].map(|count| grouped(count as f64)));
            line
        };
        let both = |row: &Self| [line(row, "Tokenize", &row.vault), line(row, "echo of Tokenize", &row.floor)];
        let head = ["calls", "p50 µs", "p99 µs", "p99.9 µs", "sent late, p99 µs", "due", "failed"];
        Table::new(&head, rows.iter().flat_map(both))
    }

    /// What is promised of it: the measure, what was measured, what it must be and what it is to become.
    pub(super) fn target(&self) -> (String, f64, f64, f64) {
        let (values, load) = (self.values, self.load);
        match self.rule {
            Rule::Part(_) => (
                format!("Tokenize of {values} at {load}: p99 − floor's, in fdatasyncs"),
                self.p99_over_floor_in_fdatasyncs,
                10.0,
                5.0,
            ),
            Rule::Values(_) => {
                (format!("Tokenize of {values} at {load}: p99.9, ms"), self.vault.took.p999_us / 1e3, 12.0, 6.0)
            }
        }
    }
}

impl Figures {
    pub(super) fn of(paced: &Paced, server: f64) -> Self {
        let late = Quantiles::of(&paced.late);
        let calls = paced.late.len();
        Self {
            calls,
            failed: paced.failed,
            took: Quantiles::of(&paced.took),
            sent_late_p50_us: late.p50_us,
            sent_late_p99_us: late.p99_us,
            server_cpu_us_per_call: server * 1e6 / calls as f64,
        }
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        self.took
    }

    /// For a table: p50, p99, p99.9 and what failed.
    pub(super) fn line(&self) -> String {
        let [p50, p99, p999] = [self.took.p50_us, self.took.p99_us, self.took.p999_us].map(grouped);
        format!("{p50:>9} {p99:>9} {p999:>9} {:>9}", self.failed)
    }

    fn medians<'f>(rounds: impl Iterator<Item = &'f Self> + Clone) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.clone().map(figure));
        Self {
            calls: rounds.clone().map(|figures| figures.calls).sum(),
            failed: rounds.clone().map(|figures| figures.failed).sum(),
            took: Quantiles::medians(rounds.clone().map(|figures| &figures.took)),
            sent_late_p50_us: of(|figures| figures.sent_late_p50_us),
            sent_late_p99_us: of(|figures| figures.sent_late_p99_us),
            server_cpu_us_per_call: of(|figures| figures.server_cpu_us_per_call),
        }
    }
}

// === as a table ===

pub(super) const HEAD: &str = concat!(
    "Tokenize at a steady rate, from when a call was due       |          vault µs           |          floor µs           | p99 − floor's, sent late\n",
    "values  calls/s  of peak    calls failed  values/s        |     p50       p99     p99.9 |     p50       p99     p99.9 | in fdatasyncs   p99 µs",
);

impl fmt::Display for LatencyRow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = format!("{:.0} %", self.rate / self.peak * 100.0);
        write!(out, "{:>6} {:>8} {share:>8} ", self.values, grouped(self.rate))?;
        write!(out, "{:>8} {:>6} ", grouped(self.vault.calls as f64), self.vault.failed)?;
        write!(out, "{:>9}        |", grouped(self.values_per_second))?;
        for figures in [&self.vault, &self.floor] {
            let took = &figures.took;
            let [p50, p99, p999] = [took.p50_us, took.p99_us, took.p999_us].map(grouped);
            write!(out, "{p50:>8} {p99:>9} {p999:>9} |")?;
        }
        write!(out, "{:>14.1} {:>8}", self.p99_over_floor_in_fdatasyncs, grouped(self.vault.sent_late_p99_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_rate_is_a_part_of_the_peak_or_what_is_asked_for_if_it_can_be_had() {
        let [unary, batches] = Pace::ALL;
        assert!((unary.rate(50_000.0).0 - 10_000.0).abs() < 1e-6);
        assert!((batches.rate(5_000.0).0 - 2_500.0).abs() < 1e-6);
        let (rate, load) = batches.rate(1_000.0);
        assert!((rate - 500.0).abs() < 1e-6);
        assert!(load.starts_with("half the peak"), "and it is said");
    }

    #[test]
    fn what_failed_is_counted_and_what_took_long_is_held_against_the_floor_and_the_disk() {
        let load = || Load::tokenize(1, 1);
        let mut row = LatencyRow::new(Pace::ALL[0], 1000.0, load(), load());
        let paced = |micros: u64, failed| {
            let took = vec![Duration::from_micros(micros); 10];
            (Paced { late: vec![Duration::ZERO; 10 + failed], failed, took, ..Paced::default() }, Used::default())
        };
        row.add(&paced(900, 2), &paced(300, 0));
        row.add(&paced(1100, 0), &paced(300, 0));
        let probe = Quantiles { p50_us: 200.0, ..Quantiles::default() };
        row.conclude(&[probe, probe]);
        assert_eq!((row.vault.calls, row.vault.failed), (22, 2));
        assert!((row.p99_over_floor_in_fdatasyncs - 3.5).abs() < 1e-9, "{row:?}");
        assert!((row.target().1 - 3.5).abs() < 1e-9);
    }
}
