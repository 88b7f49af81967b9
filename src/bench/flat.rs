//! Whether a call costs the same, however much there is of everything else: scopes, policies, connections, identities, log.
//!
//! For each of them two vaults, one with little and one with much, are measured in turn with the same calls. Two, so that
//! both are measured in each round, and what the machine does meanwhile is done to both.

mod page;
mod side;

use super::driver::Window;
use super::figures::{Quantiles, grouped, median, readable};
use super::host::Host;
use super::load::Load;
use super::rounds::BUSY;
use super::stand::LONGER_AT_MOST;
use super::{Error, probe};
use serde::Serialize;
use side::Side;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// How much and where to measure.
#[derive(Clone, Debug, Serialize)]
pub struct FlatSettings {
    /// Scopes that are used, against one.
    pub scopes: usize,
    /// Policies beside those of `init`, against none.
    pub policies: usize,
    /// Connections of the same two callers, against one of each.
    pub connections: usize,
    /// Identities, each with a connection, against two.
    pub identities: usize,
    /// Events in the log, against next to none.
    pub events: usize,
    /// How often everything is measured.
    pub rounds: usize,
    /// How long each time.
    pub seconds: f64,
    /// Where the vaults' directories are made.
    pub directory: PathBuf,
    /// Only these: `scopes`, `policies`, `connections`, `identities` or `log`. All if empty.
    pub only: String,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct FlatReport {
    version: &'static str,
    host: Host,
    settings: FlatSettings,
    fdatasync: Quantiles,
    rows: Vec<Row>,
}

/// What there is little or much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Calls go to all of them in turn.
    Scopes,
    /// Of other scopes than the one that is called.
    OtherPolicies,
    /// Of the scope and the actions that are called, for other callers.
    SamePolicies,
    /// Calls go over all of them in turn.
    Connections,
    Identities,
    Log,
}

/// One call with little and with much of something.
#[derive(Debug, Serialize)]
struct Row {
    of: &'static str,
    call: &'static str,
    little: usize,
    much: usize,
    /// The server's CPU a call, medians of the rounds.
    little_cpu_us: f64,
    much_cpu_us: f64,
    /// Much ÷ little: median of the rounds' own.
    ratio: f64,
    /// The same of an echo over as many connections, where that is what there is much of.
    floor_little_cpu_us: Option<f64>,
    floor_much_cpu_us: Option<f64>,
    floor_ratio: Option<f64>,
    /// Memory of the server with little and with much of it.
    little_resident_bytes: u64,
    much_resident_bytes: u64,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    little_cpu_us: f64,
    much_cpu_us: f64,
}

impl FlatSettings {
    /// Some minutes.
    pub fn full(directory: PathBuf) -> Self {
        Self {
            scopes: 10_000,
            policies: 1_000,
            connections: 1_000,
            identities: 10_000,
            events: 1_000_000,
            rounds: 5,
            seconds: 1.0,
            directory,
            only: String::new(),
        }
    }

    fn wanted(&self) -> Vec<Of> {
        let wanted = |of: &Of| self.only.is_empty() || self.only == of.option();
        Of::ALL.into_iter().filter(wanted).collect()
    }

    /// How many of it there are, where there is much.
    fn much(&self, of: Of) -> usize {
        match of {
            Of::Scopes => self.scopes,
            Of::OtherPolicies | Of::SamePolicies => self.policies,
            Of::Connections => self.connections,
            Of::Identities => self.identities,
            Of::Log => self.events,
        }
    }
}

impl Of {
    const ALL: [Self; 6] =
        [Self::Scopes, Self::OtherPolicies, Self::SamePolicies, Self::Connections, Self::Identities, Self::Log];

    fn option(self) -> &'static str {
        match self {
            Self::Scopes => "scopes",
            Self::OtherPolicies | Self::SamePolicies => "policies",
            Self::Connections => "connections",
            Self::Identities => "identities",
            Self::Log => "log",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Scopes => "scopes, called in turn",
            Self::OtherPolicies => "policies, of other scopes",
            Self::SamePolicies => "policies, of the same scope for others",
            Self::Connections => "connections of two callers, in turn",
            Self::Identities => "identities with a connection each, in turn",
            Self::Log => "events in the log",
        }
    }

    fn little(self) -> usize {
        match self {
            Self::Scopes => 1,
            Self::OtherPolicies | Self::SamePolicies | Self::Log => 0,
            // One for those who tokenize and one for those who detokenize.
            Self::Connections | Self::Identities => 2,
        }
    }

    /// Whether an echo would feel it, too.
    fn concerns_the_floor(self) -> bool {
        matches!(self, Self::Connections | Self::Identities)
    }
}

pub(super) async fn measure(settings: &FlatSettings, tell: &mut dyn FnMut(&str)) -> Result<FlatReport, Error> {
    side::raise_limit();
    let mut report = FlatReport {
        version: env!("CARGO_PKG_VERSION"),
        host: Host::look(&settings.directory),
        settings: settings.clone(),
        fdatasync: Quantiles::default(),
        rows: Vec::new(),
    };
    let mut probes = Vec::new();
    for of in settings.wanted() {
        let much = settings.much(of);
        tell(&format!("two vaults: {} and {} {}", of.little(), grouped(much as f64), of.name()));
        let began = Instant::now();
        let sides = [Side::set_up(settings, of, of.little()).await?, Side::set_up(settings, of, much).await?];
        probes.append(&mut probe::fdatasync(sides[0].path())?);
        tell(&format!("made in {:.0} s", began.elapsed().as_secs_f64()));
        for row in compare(settings, of, &sides).await? {
            tell(&row.to_string());
            report.rows.push(row);
        }
    }
    report.fdatasync = Quantiles::of(&probes);
    Ok(report)
}

/// Tokenize and Detokenize, little and much in turn.
async fn compare(settings: &FlatSettings, of: Of, sides: &[Side; 2]) -> Result<[Row; 2], Error> {
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for side in sides {
        for load in side.loads() {
            cpu(side, load, settings.seconds / 4.0).await?;
        }
    }
    for round in 0..settings.rounds {
        for (call, rounds) in all.iter_mut().enumerate() {
            let [Some(little), Some(much)] = [0, 1].map(|side: usize| sides[side].loads().nth(call)) else { continue };
            let loads = [(&sides[0], little), (&sides[1], much)];
            let mut found = [0.0; 2];
            // The order alternates.
            for turn in [round % 2, 1 - round % 2] {
                let (side, load) = loads[turn];
                found[turn] = cpu(side, load, settings.seconds).await?;
            }
            rounds.push(Round { little_cpu_us: found[0], much_cpu_us: found[1] });
        }
    }
    let [tokenize, detokenize, echo] = all;
    let resident = |side: &Side| probe::resident_bytes(side.vault.id());
    let memory = (resident(&sides[0])?, resident(&sides[1])?);
    let row = |call, rounds| Row::new(of, call, settings.much(of), &echo, memory, rounds);
    Ok([row("Tokenize", tokenize), row("Detokenize", detokenize)])
}

/// The server's CPU for a call, in microseconds. Where not one call ends in that time, in twice the time, and so on.
async fn cpu(side: &Side, load: &Load, seconds: f64) -> Result<f64, Error> {
    let (server, mut seconds) = (side.server_of(load), seconds);
    for _ in 0..LONGER_AT_MOST {
        let window = Window::after_warm_up(seconds);
        let watching = async {
            tokio::time::sleep_until(window.begin.into()).await;
            let before = (Instant::now(), probe::cpu_of(server)?);
            tokio::time::sleep_until(window.end.into()).await;
            let used = probe::cpu_of(server)?.saturating_sub(before.1);
            Ok::<_, Error>((used.as_secs_f64(), before.0.elapsed().as_secs_f64()))
        };
        let (measured, used) = tokio::join!(side.drivers.measure(load, BUSY, window), watching);
        let (calls, (used, watched)) = (measured?.durations.len(), used?);
        // On a machine that is too busy to look in time, what was seen is no measure of the window.
        if calls > 0 && watched > seconds / 2.0 {
            return Ok(used / watched * seconds * 1e6 / calls as f64);
        }
        seconds *= 2.0;
    }
    Err(Error::Call { call: load.name(), problem: format!("not one ended in {:.0} s", seconds / 2.0) })
}

impl Row {
    fn new(
        of: Of,
        call: &'static str,
        much: usize,
        floor: &[Round],
        (little_resident_bytes, much_resident_bytes): (u64, u64),
        rounds: Vec<Round>,
    ) -> Self {
        let little_cpu_us = |rounds: &[Round]| median(rounds.iter().map(|round| round.little_cpu_us));
        let much_cpu_us = |rounds: &[Round]| median(rounds.iter().map(|round| round.much_cpu_us));
        let of_floor = |figure: &dyn Fn(&[Round]) -> f64| (!floor.is_empty()).then(|| figure(floor));
        Self {
            of: of.name(),
            call,
            little: of.little(),
            much,
            little_cpu_us: little_cpu_us(&rounds),
            much_cpu_us: much_cpu_us(&rounds),
            ratio: Self::ratio_of(&rounds),
            floor_little_cpu_us: of_floor(&little_cpu_us),
            floor_much_cpu_us: of_floor(&much_cpu_us),
            floor_ratio: of_floor(&Self::ratio_of),
            little_resident_bytes,
            much_resident_bytes,
            rounds,
        }
    }

    fn ratio_of(rounds: &[Round]) -> f64 {
        median(rounds.iter().map(|round| round.much_cpu_us / round.little_cpu_us))
    }
}

// === as a table ===

const HEAD: &str = concat!(
    "                                                            |  server CPU, µs a call  |  much   | floor's | memory, MiB\n",
    "what there is little or much of              little    much call       |  little    much | ÷ little|  ratio  | little  much",
);

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| grouped(bytes as f64 / 1_048_576.0);
        write!(out, "{:<43} {:>7} {:>9} ", self.of, self.little, grouped(self.much as f64))?;
        write!(out, "{:<10} ", self.call)?;
        write!(out, "{:>9} {:>9} {:>9.3} ", readable(self.little_cpu_us), readable(self.much_cpu_us), self.ratio)?;
        match self.floor_ratio {
            Some(ratio) => write!(out, "{ratio:>9.3} ")?,
            None => write!(out, "{:>9} ", "–")?,
        }
        write!(out, "{:>8} {:>6}", mebibytes(self.little_resident_bytes), mebibytes(self.much_resident_bytes))
    }
}

impl fmt::Display for FlatReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "Cloakroom {}, {} cores; calls of one value, {BUSY} in flight; medians of {} rounds of {} s",
            self.version, self.host.cores, self.settings.rounds, self.settings.seconds
        )?;
        writeln!(
            out,
            "4 KiB appended and synced (fdatasync) here: p50 {:.0} µs, p99 {:.0} µs",
            self.fdatasync.p50_us, self.fdatasync.p99_us
        )?;
        writeln!(out, "\n{HEAD}")?;
        self.rows.iter().try_for_each(|row| writeln!(out, "{row}"))?;
        writeln!(
            out,
            "\nThe floor's ratio is that of an echo over as many connections: what it costs anybody to have them."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own() {
        let round = |little, much| Round { little_cpu_us: little, much_cpu_us: much };
        // A slow round slows both, so its ratio is as good as the others'.
        let rounds = vec![round(10.0, 11.0), round(30.0, 33.0), round(10.0, 99.0)];
        let row = Row::new(Of::Scopes, "Tokenize", 10, &[round(2.0, 3.0)], (1, 2), rounds);
        assert!((row.ratio - 1.1).abs() < 1e-9, "{row:?}");
        assert!((row.floor_ratio.unwrap() - 1.5).abs() < 1e-9, "{row:?}");
    }
}
