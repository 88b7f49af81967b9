//! What is measured, in which order.
//!
//! A round measures every row once, the vault and the floor directly after one another, in an order that alternates.

use super::driver::{Drivers, Window};
use super::load::{Load, tokens_of};
use super::place::{Place, Server};
use super::probe::{self, Moment, Used};
use super::report::{Cell, Report};
use super::{Error, Settings};
use std::time::{Duration, Instant};

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub operation: Operation,
    pub values: usize,
    in_flight: &'static [usize],
}

/// An operation, and on which tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    Tokenize,
    /// Of tokens that were issued within the last minute.
    Detokenize,
    /// Of tokens from all over what the vault held at the beginning.
    DetokenizeOld,
}

const IN_FLIGHT: &[usize] = &[1, 16, 64, 256];
/// Where the servers are busy, and the callers don't yet wait for one another.
pub(super) const BUSY: usize = 64;
/// The most.
pub(super) const CROWDED: usize = 256;
/// In a batch.
pub(super) const BATCH: usize = 100;

const KINDS: [Kind; 5] = [
    Kind { operation: Operation::Tokenize, values: 1, in_flight: IN_FLIGHT },
    Kind { operation: Operation::Tokenize, values: BATCH, in_flight: IN_FLIGHT },
    Kind { operation: Operation::Detokenize, values: 1, in_flight: IN_FLIGHT },
    Kind { operation: Operation::Detokenize, values: BATCH, in_flight: IN_FLIGHT },
    Kind { operation: Operation::DetokenizeOld, values: BATCH, in_flight: &[BUSY] },
];

/// Before calls are counted, in parts of the time in which they are.
const WARM_UP_PART: f64 = 0.15;
const WARM_UP_AT_LEAST: f64 = 0.1;
/// Tokens that are "hot": fewer than are issued in a second of a busy vault.
const HOT_TOKENS: usize = 32_768;
/// They are issued anew when they are older than this, so that they are always younger than a minute.
const HOT_FOR: Duration = Duration::from_secs(30);
/// Values in one call of those that fill the vault.
const FILLING_VALUES: usize = 1000;
/// Different requests of one kind.
const DIFFERENT_CALLS: usize = 256;
/// Replies from which the floor learns how long its own are to be.
const SAMPLE: usize = 9;

/// Everything that a measurement needs. The servers go before the place that they run on.
struct Bench {
    vault: Server,
    floor: Server,
    drivers: Drivers,
    place: Place,
    settings: Settings,
    old: Vec<String>,
    hot: Vec<String>,
    hot_since: Instant,
}

pub(super) async fn measure(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    tell(&format!("making a vault in {} and giving it {} tokens", settings.directory.display(), settings.tokens));
    let mut bench = Bench::set_up(settings).await?;
    let mut report = Report::new(settings);
    bench.warm_up().await?;
    for round in 0..settings.rounds {
        report.add_probe(&probe::fdatasync(bench.place.path())?);
        for kind in settings.kinds() {
            bench.freshen().await?;
            let (vault, floor) = bench.loads(kind).await?;
            let mut line = String::new();
            for (place, &in_flight) in kind.in_flight.iter().enumerate() {
                let floor_first = (round + place) % 2 == 1;
                let cells = bench.pair(&vault, &floor, in_flight, floor_first).await?;
                line = report.add(kind, in_flight, (&vault, &floor), cells);
            }
            tell(&format!("round {} of {}: {}", round + 1, settings.rounds, line));
        }
    }
    report.conclude();
    Ok(report)
}

impl Settings {
    fn kinds(&self) -> Vec<Kind> {
        let wanted = |name: &str| {
            let rest = name.strip_prefix(self.only.as_str());
            self.only.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        KINDS.into_iter().filter(|kind| wanted(&kind.name())).collect()
    }
}

impl Kind {
    fn name(self) -> String {
        let operation = match self.operation {
            Operation::Tokenize => "tokenize",
            Operation::Detokenize => "detokenize",
            Operation::DetokenizeOld => "detokenize-old",
        };
        format!("{operation}-{}", self.values)
    }
}

impl Bench {
    async fn set_up(settings: &Settings) -> Result<Self, Error> {
        let place = Place::make(&settings.directory)?;
        let (vault, floor) = (place.vault()?, place.floor()?);
        let drivers = Drivers::connect(&place, vault.address, floor.address).await?;
        let (old, hot, hot_since) = (Vec::new(), Vec::new(), Instant::now());
        let mut bench = Self { vault, floor, drivers, place, settings: settings.clone(), old, hot, hot_since };
        bench.old = bench.issue(settings.tokens).await?;
        Ok(bench)
    }

    /// At least one call's worth of tokens.
    async fn issue(&self, count: usize) -> Result<Vec<String>, Error> {
        let load = Load::tokenize(FILLING_VALUES, count.div_ceil(FILLING_VALUES).max(1));
        let mut tokens = Vec::with_capacity(count);
        for reply in self.drivers.collect(&load, 16).await? {
            let failed = || Error::Call { call: load.name(), problem: "a value got no token".to_owned() };
            tokens.append(&mut tokens_of(&reply).ok_or_else(failed)?);
        }
        Ok(tokens)
    }

    async fn freshen(&mut self) -> Result<(), Error> {
        if self.hot.is_empty() || self.hot_since.elapsed() > HOT_FOR {
            self.hot_since = Instant::now();
            self.hot = self.issue(HOT_TOKENS).await?;
        }
        Ok(())
    }

    /// The vault's calls of a kind, and echoes of the same size.
    async fn loads(&self, kind: Kind) -> Result<(Load, Load), Error> {
        let vault = match kind.operation {
            Operation::Tokenize => Load::tokenize(kind.values, DIFFERENT_CALLS),
            Operation::Detokenize => Load::detokenize(kind.values, self.hot.iter().map(String::as_str)),
            Operation::DetokenizeOld => Load::detokenize(kind.values, scattered(&self.old)),
        };
        let mut replies = self.drivers.collect(&vault.first(SAMPLE), 1).await?;
        replies.sort_unstable_by_key(prost::bytes::Bytes::len);
        let reply_bytes = replies.get(replies.len() / 2).map_or(0, prost::bytes::Bytes::len);
        let floor = Load::echo(vault.request_bytes(), reply_bytes);
        Ok((vault, floor))
    }

    /// All once, unmeasured.
    async fn warm_up(&mut self) -> Result<(), Error> {
        for kind in self.settings.kinds() {
            self.freshen().await?;
            let (vault, floor) = self.loads(kind).await?;
            for load in [&vault, &floor] {
                let begin = Instant::now();
                let window = Window { begin, end: begin + Duration::from_secs_f64(self.settings.seconds / 4.0) };
                self.drivers.measure(load, BUSY, window).await?;
            }
        }
        Ok(())
    }

    /// The vault's cell and the floor's.
    async fn pair(&self, vault: &Load, floor: &Load, in_flight: usize, floor_first: bool) -> Result<[Cell; 2], Error> {
        if floor_first {
            let floor = self.cell(floor, in_flight).await?;
            return Ok([self.cell(vault, in_flight).await?, floor]);
        }
        let vault = self.cell(vault, in_flight).await?;
        Ok([vault, self.cell(floor, in_flight).await?])
    }

    async fn cell(&self, load: &Load, in_flight: usize) -> Result<Cell, Error> {
        let seconds = self.settings.seconds;
        let begin = Instant::now() + Duration::from_secs_f64((seconds * WARM_UP_PART).max(WARM_UP_AT_LEAST));
        let window = Window { begin, end: begin + Duration::from_secs_f64(seconds) };
        let (durations, used) = tokio::join!(self.drivers.measure(load, in_flight, window), self.watch(window));
        Ok(Cell { durations: durations?, seconds, used: used? })
    }

    /// What was used from the window's begin to its end, or close to it: what was used is put in relation to its own time.
    async fn watch(&self, window: Window) -> Result<Used, Error> {
        let moment = || Moment::now(self.vault.id(), self.floor.id());
        tokio::time::sleep_until(window.begin.into()).await;
        let before = moment()?;
        tokio::time::sleep_until(window.end.into()).await;
        Ok(moment()?.since(&before))
    }
}

/// All of them, each once, neighbours far apart.
fn scattered(tokens: &[String]) -> impl Iterator<Item = &str> {
    // Prime to every length that is not a multiple of it, so every place comes up once.
    const STRIDE: usize = 7_368_787;
    let length = tokens.len();
    (0..length).map(move |place| tokens[(place * STRIDE) % length].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_loses_nothing() {
        let tokens: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let mut all: Vec<&str> = scattered(&tokens).collect();
        assert!(all != tokens);
        all.sort_by_key(|token| token.parse::<u32>().unwrap());
        assert_eq!(all, tokens);
    }
}
