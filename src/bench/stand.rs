//! What a measurement stands on: a vault, the floor beside it, and a client of both.

use super::Error;
use super::driver::{Door, Drivers, Measured, Turns, Window};
use super::load::{Load, Target, tokens_of};
use super::pace::{Paced, Schedule};
use super::place::{Place, Server};
use super::probe::{Moment, Used};
use prost::bytes::Bytes;
use std::path::Path;
use std::time::{Duration, Instant};

/// The servers go before the place that they run on.
pub(super) struct Stand {
    pub vault: Server,
    /// Or what stands in its place: another product.
    pub floor: Server,
    pub drivers: Drivers,
    pub place: Place,
}

/// One server at one setting, in one round.
pub(super) struct Cell {
    pub durations: Vec<Duration>,
    /// Calls for which the server had too much to do, or went wrong. They count for nothing else.
    pub failed: usize,
    pub seconds: f64,
    pub used: Used,
}

/// To each target.
pub(super) const CONNECTIONS: usize = 8;
/// Before calls are counted, in parts of the time in which they are.
const WARM_UP_PART: f64 = 0.15;
const WARM_UP_AT_LEAST: f64 = 0.1;
/// A window may double so often: from a second to a good minute.
pub(super) const LONGER_AT_MOST: usize = 7;
/// Values in one call of those that fill the vault.
const FILLING_VALUES: usize = 1000;
/// Replies from which the floor learns how long its own are to be.
const SAMPLE: usize = 9;

impl Stand {
    /// A vault in a directory inside `parent`, as `init` makes it.
    pub(super) async fn set_up(parent: &Path) -> Result<Self, Error> {
        let place = Place::make(parent)?;
        let (vault, floor) = (place.vault()?, place.floor()?);
        let drivers = Self::connect(&place, &vault, &floor).await?;
        Ok(Self { vault, floor, drivers, place })
    }

    /// A client of both, with eight connections for each identity.
    pub(super) async fn connect(place: &Place, vault: &Server, floor: &Server) -> Result<Drivers, Error> {
        let door = |target: Target| {
            let (name, server) = match target {
                Target::Gateway => ("gateway", vault),
                Target::Payments => ("payments", vault),
                Target::Auditor => ("auditor", vault),
                Target::Floor | Target::Peer => ("gateway", floor),
            };
            let connector = place.connector(name)?;
            Ok(Door { target, address: server.address, connectors: vec![connector; CONNECTIONS] })
        };
        let doors = Target::OWN.into_iter().map(door).collect::<Result<Vec<_>, Error>>()?;
        Drivers::connect(&doors, Turns::Kept).await
    }

    /// Kills the vault and starts it again. How long it took until it said that it listens.
    pub(super) async fn restart(&mut self, variables: &[(&str, &str)]) -> Result<Duration, Error> {
        self.vault.kill();
        let begin = Instant::now();
        self.vault = self.place.vault_with(variables)?;
        let took = begin.elapsed();
        self.drivers = Self::connect(&self.place, &self.vault, &self.floor).await?;
        Ok(took)
    }

    /// At least one call's worth of tokens.
    pub(super) async fn issue(&self, count: usize) -> Result<Vec<String>, Error> {
        let load = Load::tokenize(FILLING_VALUES, count.div_ceil(FILLING_VALUES).max(1));
        tokens_in(&self.drivers.collect(&load, 16).await?)
    }

    /// Echoes of the same size as these calls of the vault, which are made a few times to see their replies.
    pub(super) async fn echoes_of(&self, load: &Load) -> Result<Load, Error> {
        let mut replies = self.drivers.collect(&load.first(SAMPLE), 1).await?;
        replies.sort_unstable_by_key(Bytes::len);
        let reply_bytes = replies.get(replies.len() / 2).map_or(0, Bytes::len);
        Ok(Load::echo(load.request_bytes(), reply_bytes))
    }

    /// The vault's cell and the floor's, directly after one another.
    pub(super) async fn pair(
        &self,
        (vault, floor): (&Load, &Load),
        in_flight: usize,
        seconds: f64,
        floor_first: bool,
    ) -> Result<[Cell; 2], Error> {
        if floor_first {
            let floor = self.cell(floor, in_flight, seconds).await?;
            return Ok([self.cell(vault, in_flight, seconds).await?, floor]);
        }
        let vault = self.cell(vault, in_flight, seconds).await?;
        Ok([vault, self.cell(floor, in_flight, seconds).await?])
    }

    /// A server with so many calls in flight. Where not one of them ends in that time, in twice the time, and so on.
    pub(super) async fn cell(&self, load: &Load, in_flight: usize, seconds: f64) -> Result<Cell, Error> {
        let mut seconds = seconds;
        for _ in 0..LONGER_AT_MOST {
            let cell = self.cell_once(load, in_flight, seconds).await?;
            // On a machine that is too busy to look in time, what was seen is no measure of the window.
            if !cell.durations.is_empty() && cell.used.seconds > seconds / 2.0 {
                return Ok(cell);
            }
            seconds *= 2.0;
        }
        Err(Error::Call { call: load.name(), problem: format!("not one ended in {:.0} s", seconds / 2.0) })
    }

    async fn cell_once(&self, load: &Load, in_flight: usize, seconds: f64) -> Result<Cell, Error> {
        let window = Window::after_warm_up(seconds);
        let watching = self.watch(window.begin, window.end);
        let (measured, used) = tokio::join!(self.drivers.measure(load, in_flight, window), watching);
        let Measured { durations, failed } = measured?;
        Ok(Cell { durations, failed, seconds, used: used? })
    }

    /// A server with so many calls a second, however long they take.
    pub(super) async fn paced(&self, load: &Load, rate: f64, seconds: f64) -> Result<(Paced, Used), Error> {
        let [warm_up, counted] = [warm_up(seconds), seconds].map(Duration::from_secs_f64);
        let schedule = Schedule::new(Instant::now(), rate, warm_up, counted);
        let (begin, end) = schedule.counted();
        let (paced, used) = tokio::join!(self.drivers.keep_pace(load, schedule), self.watch(begin, end));
        Ok((paced?, used?))
    }

    /// What was used from begin to end, or close to it: what was used is put in relation to its own time.
    async fn watch(&self, begin: Instant, end: Instant) -> Result<Used, Error> {
        tokio::time::sleep_until(begin.into()).await;
        let before = self.now()?;
        tokio::time::sleep_until(end.into()).await;
        Ok(self.now()?.since(&before))
    }

    pub(super) fn now(&self) -> Result<Moment, Error> {
        Moment::now(self.vault.id(), self.floor.id())
    }
}

impl Cell {
    pub(super) fn calls_per_second(&self) -> f64 {
        self.durations.len() as f64 / self.seconds
    }

    /// Of CPU that was used in the same time, the part of one call, in microseconds.
    pub(super) fn per_call(&self, cpu: f64) -> f64 {
        cpu / self.used.seconds * 1e6 / self.calls_per_second()
    }
}

/// The tokens of Tokenize replies, in which all must have succeeded.
pub(super) fn tokens_in(replies: &[Bytes]) -> Result<Vec<String>, Error> {
    let failed = || Error::Call { call: "Tokenize", problem: "a value got no token".to_owned() };
    let mut tokens = Vec::new();
    for reply in replies {
        tokens.append(&mut tokens_of(reply).ok_or_else(failed)?);
    }
    Ok(tokens)
}

/// All of them, each once, neighbours far apart.
pub(super) fn scattered<T>(all: &[T]) -> impl Iterator<Item = &T> {
    // Prime to every length that is not a multiple of it, so every place comes up once.
    const STRIDE: usize = 7_368_787;
    let length = all.len();
    (0..length).map(move |place| &all[(place * STRIDE) % length])
}

impl Window {
    /// So long, after calls that don't count yet.
    pub(super) fn after_warm_up(seconds: f64) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(warm_up(seconds));
        Self { begin, end: begin + Duration::from_secs_f64(seconds) }
    }
}

/// How long calls are made before they count.
fn warm_up(seconds: f64) -> f64 {
    (seconds * WARM_UP_PART).max(WARM_UP_AT_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_loses_nothing() {
        let tokens: Vec<u32> = (0..1000).collect();
        let mut all: Vec<u32> = scattered(&tokens).copied().collect();
        assert!(all != tokens);
        all.sort_unstable();
        assert_eq!(all, tokens);
    }
}
