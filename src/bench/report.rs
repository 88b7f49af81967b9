//! Figures: of each round, their medians, and what they are to be held against. As a table, and as data.

mod page;

use super::Settings;
use super::figures::{Quantiles, grouped, median};
use super::host::Host;
use super::latency::LatencyRow;
use super::load::Load;
use super::rounds::{BATCH, BUSY, CROWDED, Kind, Operation};
use super::stand::Cell;
use super::target::{self, Target};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    host: Host,
    settings: Settings,
    fdatasync: Probe,
    rows: Vec<Row>,
    /// At a steady rate, whether or not the server keeps up.
    latency: Vec<LatencyRow>,
    /// Empty until [`Report::conclude`].
    targets: Vec<Target>,
}

/// One append of 4 KiB with fdatasync, in the vault's own directory.
#[derive(Debug, Default, Serialize)]
struct Probe {
    p50_us: f64,
    p99_us: f64,
    rounds: Vec<Quantiles>,
}

/// One kind of call, with so many in flight.
#[derive(Debug, Serialize)]
struct Row {
    operation: Operation,
    values: usize,
    in_flight: usize,
    request_bytes: usize,
    reply_bytes: usize,
    /// Medians over the rounds, each figure by itself.
    vault: Figures,
    floor: Figures,
    /// Median of the rounds' ratios.
    ratio: f64,
    cpu_ratio: f64,
    noisy_rounds: usize,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    vault: Figures,
    floor: Figures,
    /// The vault's calls per second in those of the floor.
    ratio: f64,
    /// The vault's CPU a call in the floor's.
    cpu_ratio: f64,
    /// Why this round should not be trusted.
    noisy: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) calls_per_second: f64,
    pub(super) values_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) server_cpu_us_per_call: f64,
    pub(super) server_cpu_us_per_value: f64,
    client_cpu_us_per_call: f64,
    /// Of all cores' time.
    others_share: f64,
    stolen_share: f64,
}

/// Shares of all cores' time above which a round is called noisy.
const OTHERS_AT_MOST: f64 = 0.10;
const STOLEN_AT_MOST: f64 = 0.05;
/// A round whose calls per second differ from the median by more than this part of it.
const STRAYS_AT_MOST: f64 = 0.25;

impl Report {
    pub(super) fn new(settings: &Settings, directory: &Path) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            host: Host::look(directory),
            settings: settings.clone(),
            fdatasync: Probe::default(),
            rows: Vec::new(),
            latency: Vec::new(),
            targets: Vec::new(),
        }
    }

    pub(super) fn add_probe(&mut self, taken: &[Duration]) {
        let quantiles = Quantiles::of(taken);
        self.fdatasync.rounds.push(quantiles);
    }

    /// Takes up one round of one row, and says what it was, for whoever is waiting.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        in_flight: usize,
        loads: (&Load, &Load),
        [vault, floor]: [Cell; 2],
    ) -> String {
        let cores = self.host.cores;
        let idle = |cell: &Cell, server: f64| cell.noise(server, cores);
        let noisy = [idle(&vault, vault.used.floor), idle(&floor, floor.used.vault)].concat();
        let vault = vault.figures(kind.values, vault.used.vault, cores);
        let floor = floor.figures(kind.values, floor.used.floor, cores);
        let round = Round {
            ratio: vault.calls_per_second / floor.calls_per_second,
            cpu_ratio: vault.server_cpu_us_per_call / floor.server_cpu_us_per_call,
            vault,
            floor,
            noisy,
        };
        let line = format!(
            "{} of {} with {in_flight} in flight: {} calls/s, floor {}",
            kind.operation.name(),
            kind.values,
            grouped(vault.calls_per_second),
            grouped(floor.calls_per_second),
        );
        match self.rows.iter_mut().find(|row| row.is_of(kind.operation, kind.values, in_flight)) {
            Some(row) => row.rounds.push(round),
            None => self.rows.push(Row::new(kind, in_flight, loads, round)),
        }
        line
    }

    /// Medians, and what they are to be held against.
    pub(super) fn conclude(&mut self, latency: Vec<LatencyRow>) {
        let probes = &self.fdatasync.rounds;
        self.fdatasync.p50_us = median(probes.iter().map(|probe| probe.p50_us));
        self.fdatasync.p99_us = median(probes.iter().map(|probe| probe.p99_us));
        self.rows.iter_mut().for_each(Row::conclude);
        self.latency = latency;
        self.latency.iter_mut().for_each(|row| row.conclude(&self.fdatasync.rounds));
        self.targets = self.targets();
    }

    fn row(&self, operation: Operation, values: usize, in_flight: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.is_of(operation, values, in_flight))
    }

    /// The part of the project's targets that can be had from these rows. Both numbers stand in its plan.
    fn targets(&self) -> Vec<Target> {
        use Operation::{Detokenize, Tokenize};
        let throughput = |operation| Some(self.row(operation, 1, CROWDED)?.ratio);
        let cpu = |operation| Some(self.row(operation, 1, CROWDED)?.cpu_ratio);
        let batch = |operation| Some(1e6 / self.row(operation, BATCH, BUSY)?.vault.server_cpu_us_per_value);
        let alone = |operation| self.row(operation, 1, 1)?.in_syncs(&self.fdatasync.rounds);
        let target =
            |measure: &str, measured: Option<f64>, must, goal| Some(Target::new(measure, measured?, must, goal));
        let calls = [
            target("Tokenize of one, 256 in flight: calls/s ÷ floor", throughput(Tokenize), 0.55, 0.72),
            target("Detokenize of one, 256 in flight: calls/s ÷ floor", throughput(Detokenize), 0.50, 0.70),
            target("Tokenize of one, 256 in flight: server CPU a call ÷ floor", cpu(Tokenize), 2.4, 1.7),
            target("Detokenize of one, 256 in flight: server CPU a call ÷ floor", cpu(Detokenize), 2.4, 1.7),
            target("Tokenize of 100: values per second of server CPU", batch(Tokenize), 350e3, 700e3),
            target("Detokenize of 100, hot: values per second of server CPU", batch(Detokenize), 300e3, 500e3),
            target("Tokenize of one, one in flight: p50 ÷ (floor p50 + fdatasync p50)", alone(Tokenize), 1.8, 1.4),
            target("Detokenize of one, one in flight: p50 ÷ (floor p50 + fdatasync p50)", alone(Detokenize), 1.8, 1.4),
        ];
        let latency = self.latency.iter().map(|row| {
            let (measure, measured, must, goal) = row.target();
            target(&measure, Some(measured), must, goal)
        });
        calls.into_iter().chain(latency).flatten().collect()
    }
}

impl Row {
    fn new(kind: Kind, in_flight: usize, (vault, floor): (&Load, &Load), round: Round) -> Self {
        Self {
            operation: kind.operation,
            values: kind.values,
            in_flight,
            request_bytes: vault.request_bytes(),
            reply_bytes: floor.reply_bytes(),
            vault: Figures::default(),
            floor: Figures::default(),
            ratio: 0.0,
            cpu_ratio: 0.0,
            noisy_rounds: 0,
            rounds: vec![round],
        }
    }

    fn is_of(&self, operation: Operation, values: usize, in_flight: usize) -> bool {
        self.operation == operation && self.values == values && self.in_flight == in_flight
    }

    fn conclude(&mut self) {
        self.vault = Figures::medians(self.rounds.iter().map(|round| &round.vault));
        self.floor = Figures::medians(self.rounds.iter().map(|round| &round.floor));
        self.ratio = median(self.rounds.iter().map(|round| round.ratio));
        self.cpu_ratio = median(self.rounds.iter().map(|round| round.cpu_ratio));
        for round in &mut self.rounds {
            let strays = |figures: &Figures, median: &Figures| {
                (figures.calls_per_second / median.calls_per_second - 1.0).abs() > STRAYS_AT_MOST
            };
            if strays(&round.vault, &self.vault) || strays(&round.floor, &self.floor) {
                round.noisy.push("far from the median");
            }
        }
        self.noisy_rounds = self.rounds.iter().filter(|round| !round.noisy.is_empty()).count();
    }

    /// The vault's p50 in what it can't do without: an echo and a sync. Median over the rounds, each with its own probe.
    fn in_syncs(&self, probes: &[Quantiles]) -> Option<f64> {
        let ratio = |(round, probe): (&Round, &Quantiles)| round.vault.p50_us / (round.floor.p50_us + probe.p50_us);
        (!probes.is_empty()).then(|| median(self.rounds.iter().zip(probes).map(ratio)))
    }
}

impl Cell {
    pub(super) fn figures(&self, values: usize, server: f64, cores: usize) -> Figures {
        let calls = self.calls_per_second();
        let quantiles = Quantiles::of(&self.durations);
        let share = |cpu: f64| cpu / (self.used.seconds * cores as f64);
        Figures {
            calls_per_second: calls,
            values_per_second: calls * values as f64,
            p50_us: quantiles.p50_us,
            p99_us: quantiles.p99_us,
            server_cpu_us_per_call: self.per_call(server),
            server_cpu_us_per_value: self.per_call(server) / values as f64,
            client_cpu_us_per_call: self.per_call(self.used.client),
            others_share: share(self.used.others),
            stolen_share: share(self.used.stolen),
        }
    }

    /// What speaks against this cell. `idle` is what the server used whose turn it was not.
    pub(super) fn noise(&self, idle: f64, cores: usize) -> Vec<&'static str> {
        let capacity = self.used.seconds * cores as f64;
        let mut noise = Vec::new();
        if self.failed > 0 {
            noise.push("calls were refused");
        }
        if self.used.others + idle > OTHERS_AT_MOST * capacity {
            noise.push("others were busy");
        }
        if self.used.stolen > STOLEN_AT_MOST * capacity {
            noise.push("the host was busy");
        }
        noise
    }
}

impl Figures {
    pub(super) fn medians<'f>(rounds: impl Iterator<Item = &'f Self> + Clone) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.clone().map(figure));
        Self {
            calls_per_second: of(|figures| figures.calls_per_second),
            values_per_second: of(|figures| figures.values_per_second),
            p50_us: of(|figures| figures.p50_us),
            p99_us: of(|figures| figures.p99_us),
            server_cpu_us_per_call: of(|figures| figures.server_cpu_us_per_call),
            server_cpu_us_per_value: of(|figures| figures.server_cpu_us_per_value),
            client_cpu_us_per_call: of(|figures| figures.client_cpu_us_per_call),
            others_share: of(|figures| figures.others_share),
            stolen_share: of(|figures| figures.stolen_share),
        }
    }
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Tokenize => "Tokenize",
            Self::Detokenize => "Detokenize",
            Self::DetokenizeOld => "Detokenize, old",
        }
    }
}

// === as a table ===

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "Cloakroom {}, {} cores; medians of {} rounds of {} s; the floor is a gRPC echo of the same bytes behind the \
             same door",
            self.version, self.host.cores, self.settings.rounds, self.settings.seconds,
        )?;
        writeln!(
            out,
            "4 KiB appended and synced (fdatasync) here: p50 {:.0} µs, p99 {:.0} µs",
            self.fdatasync.p50_us, self.fdatasync.p99_us,
        )?;
        if !self.rows.is_empty() {
            writeln!(out, "\n{HEAD}")?;
        }
        for row in &self.rows {
            writeln!(out, "{row}")?;
        }
        if !self.latency.is_empty() {
            writeln!(out, "\n{}", super::latency::HEAD)?;
        }
        for row in &self.latency {
            writeln!(out, "{row}")?;
        }
        writeln!(
            out,
            "\nCPU: the server's, µs a call or value. old: of the {} tokens from the beginning.",
            self.settings.tokens
        )?;
        writeln!(
            out,
            "noisy: rounds in which others were busy or calls were refused, or that lie far from the median.\n"
        )?;
        writeln!(out, "{}", target::head())?;
        for target in &self.targets {
            writeln!(out, "{target}")?;
        }
        Ok(())
    }
}

const HEAD: &str = concat!(
    "                         in |                         vault                          |          floor          | vault ÷ floor\n",
    "call            values flight  calls/s  values/s    p50 µs    p99 µs CPU/call CPU/value   calls/s  p50 µs CPU/call  calls    CPU  noisy",
);

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vault, floor) = (&self.vault, &self.floor);
        write!(out, "{:<15} {:>6} {:>6} ", self.operation.name(), self.values, self.in_flight)?;
        write!(out, "{:>8} {:>9} ", grouped(vault.calls_per_second), grouped(vault.values_per_second))?;
        write!(out, "{:>9} {:>9} ", grouped(vault.p50_us), grouped(vault.p99_us))?;
        write!(out, "{:>8.1} {:>9.2} ", vault.server_cpu_us_per_call, vault.server_cpu_us_per_value)?;
        write!(out, "{:>9} {:>7} ", grouped(floor.calls_per_second), grouped(floor.p50_us))?;
        write!(out, "{:>8.1} {:>6.2} {:>6.2}", floor.server_cpu_us_per_call, self.ratio, self.cpu_ratio)?;
        match self.noisy_rounds {
            0 => Ok(()),
            noisy => write!(out, "  {noisy}/{}", self.rounds.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::probe::Used;

    #[test]
    fn a_busy_machine_is_noticed_and_a_quiet_one_is_not() {
        let cell = |others, stolen| Cell {
            durations: Vec::new(),
            failed: 0,
            seconds: 1.0,
            used: Used { seconds: 1.0, others, stolen, ..Used::default() },
        };
        assert!(cell(0.1, 0.0).noise(0.0, 2).is_empty());
        assert_eq!(cell(0.3, 0.0).noise(0.0, 2), ["others were busy"]);
        assert_eq!(cell(0.1, 0.0).noise(0.2, 2), ["others were busy"], "the other server is somebody else too");
        assert_eq!(cell(0.0, 0.2).noise(0.0, 2), ["the host was busy"]);
        let refusing = Cell { failed: 1, ..cell(0.0, 0.0) };
        assert_eq!(refusing.noise(0.0, 2), ["calls were refused"]);
    }
}
