//! What becomes of a vault that grows: the same calls empty and full, what it takes of memory and disk, and how long it takes
//! to come back.
//!
//! Everything happens on one vault, which is filled by calls like any other.

mod page;

use super::figures::{Quantiles, grouped, median, readable, whole};
use super::host::Host;
use super::load::Load;
use super::rounds::{BATCH, BUSY, CROWDED};
use super::stand::{Stand, scattered, tokens_in};
use super::target::{self, Target};
use super::{Error, probe};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Different requests of one kind.
const DIFFERENT_CALLS: usize = 256;
/// Values that are sent before it is looked how far it came.
const STEP_AT_MOST: usize = 200_000;
/// So many steps at the least, so that there is a line to draw.
const STEPS: usize = 20;
/// Tokens that are kept to be read again: enough that none has to be read twice.
const KEPT_AT_MOST: usize = 1_000_000;
/// Restarts, each after as many new values as this part of all, but no more than the step.
const RESTARTS: usize = 3;
const BEFORE_A_RESTART: usize = 10;
/// Lines that tell how far it came.
const TELL_EVERY: Duration = Duration::from_secs(5);
const MEBIBYTE: f64 = 1_048_576.0;
const MEGABYTE: f64 = 1e6;

/// How much and where to measure.
#[derive(Clone, Debug, Serialize)]
pub struct GrowthSettings {
    /// Tokens that the vault is filled with.
    pub tokens: usize,
    /// How often each kind of call is measured.
    pub rounds: usize,
    /// How long each time.
    pub seconds: f64,
    /// Where the vault's directory is made.
    pub directory: PathBuf,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct GrowthReport {
    version: &'static str,
    host: Host,
    settings: GrowthSettings,
    fdatasync: Quantiles,
    calls: Vec<Call>,
    filling: Filling,
    memory: Memory,
    disk: Disk,
    cold: Cold,
    restart: Restart,
    targets: Vec<Target>,
}

/// One kind of call, before and after.
#[derive(Debug, Serialize)]
struct Call {
    values: usize,
    in_flight: usize,
    empty: Point,
    full: Point,
    /// The server's CPU a call, full ÷ empty.
    ratio: f64,
    /// The same of CPU in parts of the floor's, which was measured beside both.
    ratio_to_floor: f64,
}

/// Medians of the rounds.
#[derive(Debug, Serialize)]
struct Point {
    cpu_us_per_call: f64,
    floor_cpu_us_per_call: f64,
    calls_per_second: f64,
    rounds: Vec<Measured>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Measured {
    cpu_us_per_call: f64,
    floor_cpu_us_per_call: f64,
    calls_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Filling {
    tokens: usize,
    seconds: f64,
    values_per_second: f64,
    cpu_us_per_value: f64,
    steps: Vec<Step>,
}

/// How it stood when so many had been stored.
#[derive(Clone, Copy, Debug, Serialize)]
struct Step {
    tokens: usize,
    values_per_second: f64,
    cpu_us_per_value: f64,
    resident_bytes: u64,
    disk_bytes: u64,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are read in JSON, where nothing else says what they count")]
struct Memory {
    resident_bytes: u64,
    /// As configured.
    cache_bytes: u64,
    over_cache_bytes: i64,
}

/// What the vault's data and checkpoints take.
#[derive(Debug, Serialize)]
struct Disk {
    empty_bytes: u64,
    full_bytes: u64,
    /// With all that belongs to a value: its row, what leads to it, its part of an event.
    bytes_per_value: f64,
}

/// Detokenize of tokens from all over, in batches, none of them twice as long as they last.
#[derive(Debug, Serialize)]
struct Cold {
    tokens: usize,
    values_per_second_of_cpu: f64,
    values_per_second: f64,
    took: Quantiles,
    rounds: Vec<ColdRound>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ColdRound {
    values_per_second_of_cpu: f64,
    values_per_second: f64,
    took: Quantiles,
}

#[derive(Debug, Serialize)]
struct Restart {
    /// From the start of the process until it said that it listens, each after `kill -9`.
    seconds: Vec<f64>,
    median_seconds: f64,
    values_before_each: usize,
}

struct Growth<'a> {
    stand: Stand,
    settings: &'a GrowthSettings,
    kept: Vec<String>,
}

impl GrowthSettings {
    /// Ten million tokens.
    pub fn full(directory: PathBuf) -> Self {
        Self { tokens: 10_000_000, rounds: 5, seconds: 1.0, directory }
    }
}

pub(super) async fn measure(settings: &GrowthSettings, tell: &mut dyn FnMut(&str)) -> Result<GrowthReport, Error> {
    tell(&format!("making a vault in {}", settings.directory.display()));
    let stand = Stand::set_up(&settings.directory).await?;
    let mut growth = Growth { stand, settings, kept: Vec::new() };
    let host = Host::look(growth.stand.place.path());
    let fdatasync = Quantiles::of(&probe::fdatasync(growth.stand.place.path())?);
    let config = growth.stand.place.config()?;
    let empty = growth.calls().await?;
    tell("the empty vault is measured");
    let (filling, disk) = growth.fill(&config, tell).await?;
    let full = growth.calls().await?;
    let memory = growth.memory(config.storage.cache_bytes as u64)?;
    tell("the full vault is measured");
    let cold = growth.cold().await?;
    let restart = growth.restart(tell).await?;
    let calls = empty.into_iter().zip(full).map(|(empty, full)| Call::new(empty, full)).collect();
    let mut report = GrowthReport {
        version: env!("CARGO_PKG_VERSION"),
        host,
        settings: settings.clone(),
        fdatasync,
        calls,
        filling,
        memory,
        disk,
        cold,
        restart,
        targets: Vec::new(),
    };
    report.targets = report.targets();
    Ok(report)
}

impl Growth<'_> {
    /// Tokenize of one and of a hundred, the floor beside each.
    async fn calls(&self) -> Result<Vec<(usize, usize, Vec<Measured>)>, Error> {
        let mut all = Vec::new();
        for (values, in_flight) in [(1, CROWDED), (BATCH, BUSY)] {
            let vault = Load::tokenize(values, DIFFERENT_CALLS);
            let floor = self.stand.echoes_of(&vault).await?;
            self.stand.pair((&vault, &floor), in_flight, self.settings.seconds / 4.0, false).await?;
            let mut rounds = Vec::new();
            for round in 0..self.settings.rounds {
                let loads = (&vault, &floor);
                let pair = self.stand.pair(loads, in_flight, self.settings.seconds, round % 2 == 1).await?;
                let [vault, floor] = &pair;
                rounds.push(Measured {
                    cpu_us_per_call: vault.per_call(vault.used.vault),
                    floor_cpu_us_per_call: floor.per_call(floor.used.floor),
                    calls_per_second: vault.calls_per_second(),
                });
            }
            all.push((values, in_flight, rounds));
        }
        Ok(all)
    }

    async fn fill(
        &mut self,
        config: &crate::config::Config,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(Filling, Disk), Error> {
        let disk = || disk_bytes(&[&config.storage.path, &config.audit.checkpoints]);
        let vault = self.stand.vault.id();
        probe::settled(vault).await?;
        let empty_bytes = disk()?;
        let wanted = self.settings.tokens;
        let step = (wanted / STEPS).clamp(BATCH, STEP_AT_MOST);
        let load = Load::tokenize(BATCH, step.div_ceil(BATCH));
        let keep_one_in = wanted.div_ceil(KEPT_AT_MOST).max(1);
        let (began, cpu_before, mut told) = (Instant::now(), probe::cpu_of(vault)?, Instant::now());
        let (mut steps, mut done) = (Vec::new(), 0);
        while done < wanted {
            let (begin, before) = (Instant::now(), probe::cpu_of(vault)?);
            let calls = (wanted - done).div_ceil(BATCH);
            let replies = self.stand.drivers.collect(&load.first(calls), BUSY).await?;
            let values = replies.len() * BATCH;
            done += values;
            let cpu = probe::cpu_of(vault)?.saturating_sub(before);
            steps.push(Step {
                tokens: done,
                values_per_second: values as f64 / begin.elapsed().as_secs_f64(),
                cpu_us_per_value: cpu.as_secs_f64() * 1e6 / values as f64,
                resident_bytes: probe::resident_bytes(vault)?,
                disk_bytes: disk()?,
            });
            let kept: Vec<_> = replies.into_iter().step_by(keep_one_in).collect();
            self.kept.append(&mut tokens_in(&kept)?);
            if told.elapsed() > TELL_EVERY || done >= wanted {
                told = Instant::now();
                tell(&steps.last().map(|step| step.line(wanted, began.elapsed())).unwrap_or_default());
            }
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), probe::cpu_of(vault)?.saturating_sub(cpu_before));
        probe::settled(vault).await?;
        let full_bytes = disk()?;
        let filling = Filling {
            tokens: done,
            seconds,
            values_per_second: done as f64 / seconds,
            cpu_us_per_value: cpu.as_secs_f64() * 1e6 / done as f64,
            steps,
        };
        let bytes_per_value = (full_bytes as f64 - empty_bytes as f64) / done as f64;
        Ok((filling, Disk { empty_bytes, full_bytes, bytes_per_value }))
    }

    fn memory(&self, cache_bytes: u64) -> Result<Memory, Error> {
        let resident_bytes = probe::resident_bytes(self.stand.vault.id())?;
        let over_cache_bytes = resident_bytes.cast_signed() - cache_bytes.cast_signed();
        Ok(Memory { resident_bytes, cache_bytes, over_cache_bytes })
    }

    async fn cold(&self) -> Result<Cold, Error> {
        let tokens: Vec<&str> = scattered(&self.kept).map(String::as_str).collect();
        let mut rounds = Vec::new();
        // Each round has tokens of its own: what the last one read is no longer cold.
        let part = (tokens.len() / self.settings.rounds).max(BATCH);
        for tokens in tokens.chunks(part).take(self.settings.rounds).filter(|tokens| tokens.len() >= BATCH) {
            let load = Load::detokenize(BATCH, tokens.iter().copied());
            let cell = self.stand.cell(&load, BUSY, self.settings.seconds).await?;
            rounds.push(ColdRound {
                values_per_second_of_cpu: BATCH as f64 * 1e6 / cell.per_call(cell.used.vault),
                values_per_second: cell.calls_per_second() * BATCH as f64,
                took: Quantiles::of(&cell.durations),
            });
        }
        let of = |figure: fn(&ColdRound) -> f64| median(rounds.iter().map(figure));
        Ok(Cold {
            tokens: tokens.len(),
            values_per_second_of_cpu: of(|round| round.values_per_second_of_cpu),
            values_per_second: of(|round| round.values_per_second),
            took: Quantiles::medians(rounds.iter().map(|round| &round.took)),
            rounds,
        })
    }

    /// Killed each time when it has just stored much, so that there is something to be found again.
    async fn restart(&mut self, tell: &mut dyn FnMut(&str)) -> Result<Restart, Error> {
        let values = (self.settings.tokens / BEFORE_A_RESTART).clamp(BATCH, STEP_AT_MOST);
        let mut seconds = Vec::new();
        for _ in 0..RESTARTS {
            let issued = self.stand.issue(values).await?;
            let took = self.stand.restart(&[]).await?.as_secs_f64();
            // The last that was acknowledged and the first: both are there.
            let some = issued.iter().rev().take(BATCH).chain(self.kept.iter().take(BATCH)).map(String::as_str);
            self.stand.drivers.collect(&Load::detokenize(BATCH, some), 2).await?;
            tell(&format!("killed and back after {took:.2} s"));
            seconds.push(took);
        }
        Ok(Restart { median_seconds: median(seconds.iter().copied()), seconds, values_before_each: values })
    }
}

impl Call {
    fn new(
        (values, in_flight, empty): (usize, usize, Vec<Measured>),
        (.., full): (usize, usize, Vec<Measured>),
    ) -> Self {
        let (empty, full) = (Point::of(empty), Point::of(full));
        let in_floors = |point: &Point| point.cpu_us_per_call / point.floor_cpu_us_per_call;
        Self {
            values,
            in_flight,
            ratio: full.cpu_us_per_call / empty.cpu_us_per_call,
            ratio_to_floor: in_floors(&full) / in_floors(&empty),
            empty,
            full,
        }
    }
}

impl Point {
    fn of(rounds: Vec<Measured>) -> Self {
        let of = |figure: fn(&Measured) -> f64| median(rounds.iter().map(figure));
        Self {
            cpu_us_per_call: of(|round| round.cpu_us_per_call),
            floor_cpu_us_per_call: of(|round| round.floor_cpu_us_per_call),
            calls_per_second: of(|round| round.calls_per_second),
            rounds,
        }
    }
}

impl Step {
    fn line(&self, wanted: usize, since: Duration) -> String {
        format!(
            "{} of {} tokens after {:.0} s: {} values/s, {:.2} µs of CPU a value, {:.0} MiB in memory, {:.0} MiB on disk",
            grouped(self.tokens as f64),
            grouped(wanted as f64),
            since.as_secs_f64(),
            grouped(self.values_per_second),
            self.cpu_us_per_value,
            self.resident_bytes as f64 / MEBIBYTE,
            self.disk_bytes as f64 / MEBIBYTE,
        )
    }
}

impl GrowthReport {
    /// Those of the project's plan, which has them for ten million.
    fn targets(&self) -> Vec<Target> {
        let tokens = grouped(self.filling.tokens as f64);
        let at = |what: &str| format!("{what} at {tokens} tokens");
        let call = |call: &Call| {
            let measure = at(&format!("Tokenize of {}: CPU ÷ that of the empty vault,", call.values));
            Target::new(measure, call.ratio, 1.10, 1.03)
        };
        let mut targets: Vec<Target> = self.calls.iter().map(call).collect();
        targets.extend([
            Target::new(
                at("Detokenize of cold ones, values per second of server CPU,"),
                self.cold.values_per_second_of_cpu,
                80e3,
                180e3,
            ),
            Target::new(at("memory over the cache, MB,"), self.memory.over_cache_bytes as f64 / MEGABYTE, 150.0, 100.0),
            Target::new(at("disk a value, bytes,"), self.disk.bytes_per_value, 350.0, 250.0),
            Target::new(at("restart after kill -9, s,"), self.restart.median_seconds, 2.0, 0.5),
        ]);
        targets
    }
}

/// Of directories together, each counted once.
fn disk_bytes(directories: &[&Path]) -> Result<u64, Error> {
    directories.iter().map(|directory| probe::disk_bytes(directory)).sum()
}

// === as a table ===

impl fmt::Display for GrowthReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, Filling { seconds, values_per_second, cpu_us_per_value, .. }) =
            (grouped(self.filling.tokens as f64), &self.filling);
        writeln!(
            out,
            "Cloakroom {}, {} cores; from empty to {tokens} tokens in batches of {BATCH}; medians of {} rounds of {} s",
            self.version, self.host.cores, self.settings.rounds, self.settings.seconds
        )?;
        writeln!(
            out,
            "4 KiB appended and synced (fdatasync) here: p50 {:.0} µs, p99 {:.0} µs",
            self.fdatasync.p50_us, self.fdatasync.p99_us
        )?;
        writeln!(
            out,
            "Filled in {seconds:.0} s: {} values/s, {cpu_us_per_value:.2} µs of the server's CPU a value.",
            grouped(*values_per_second)
        )?;
        writeln!(out, "\nserver CPU, µs a call          empty      full  full ÷ empty  the same in floors")?;
        for call in &self.calls {
            writeln!(
                out,
                "Tokenize of {:<4} {:>4} in flight {:>8} {:>9} {:>13.3} {:>19.3}",
                call.values,
                call.in_flight,
                readable(call.empty.cpu_us_per_call),
                readable(call.full.cpu_us_per_call),
                call.ratio,
                call.ratio_to_floor,
            )?;
        }
        let mebibytes = |bytes: u64| grouped(bytes as f64 / MEBIBYTE);
        let Memory { resident_bytes, cache_bytes, over_cache_bytes } = self.memory;
        let (resident, cache) = (mebibytes(resident_bytes), mebibytes(cache_bytes));
        let over = grouped(over_cache_bytes as f64 / MEBIBYTE);
        writeln!(out, "\nMemory: {resident} MiB, the cache {cache} MiB, so {over} MiB besides.")?;
        let (full, bytes) = (mebibytes(self.disk.full_bytes), whole(self.disk.bytes_per_value.max(0.0)));
        writeln!(out, "Disk: {full} MiB with everything, {bytes} bytes a value.")?;
        writeln!(
            out,
            "Detokenize of cold tokens, of {} from all over, in batches of {BATCH}: {} values per second of server CPU.",
            grouped(self.cold.tokens as f64),
            grouped(self.cold.values_per_second_of_cpu)
        )?;
        let seconds: Vec<String> = self.restart.seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
        writeln!(out, "Restart after kill -9 until it listens: {} s.\n", seconds.join(", "))?;
        writeln!(out, "{}", target::head())?;
        self.targets.iter().try_for_each(|target| writeln!(out, "{target}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_by_cpu_and_by_cpu_in_floors() {
        let rounds = |vault: f64, floor: f64| {
            let round = |factor: f64| Measured {
                cpu_us_per_call: vault * factor,
                floor_cpu_us_per_call: floor * factor,
                calls_per_second: 1.0,
            };
            (1, 256, vec![round(1.0), round(9.0), round(0.5)])
        };
        // Everything cost twice as much, the floor too: the machine was slow, not the vault.
        let call = Call::new(rounds(20.0, 8.0), rounds(40.0, 16.0));
        assert!((call.ratio - 2.0).abs() < 1e-9 && (call.ratio_to_floor - 1.0).abs() < 1e-9, "{call:?}");
    }
}
