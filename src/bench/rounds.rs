//! What is measured, in which order.
//!
//! A round measures every row once, the vault and the floor directly after one another, in an order that alternates.

use super::latency::{LatencyRow, Pace};
use super::load::Load;
use super::probe;
use super::report::Report;
use super::stand::{Stand, scattered};
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

/// Tokens that are "hot": fewer than are issued in a second of a busy vault.
const HOT_TOKENS: usize = 32_768;
/// They are issued anew when they are older than this, so that they are always younger than a minute.
const HOT_FOR: Duration = Duration::from_secs(30);
/// Different requests of one kind.
const DIFFERENT_CALLS: usize = 256;

/// Everything that a measurement needs.
struct Bench {
    stand: Stand,
    settings: Settings,
    old: Vec<String>,
    hot: Vec<String>,
    hot_since: Instant,
}

pub(super) async fn measure(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    tell(&format!("making a vault in {} and giving it {} tokens", settings.directory.display(), settings.tokens));
    let mut bench = Bench::set_up(settings).await?;
    let mut report = Report::new(settings, bench.stand.place.path());
    bench.warm_up().await?;
    let mut paces = bench.paces().await?;
    for round in 0..settings.rounds {
        report.add_probe(&probe::fdatasync(bench.stand.place.path())?);
        for kind in settings.kinds() {
            bench.freshen().await?;
            let (vault, floor) = bench.loads(kind).await?;
            let mut line = String::new();
            for (place, &in_flight) in kind.in_flight.iter().enumerate() {
                let floor_first = (round + place) % 2 == 1;
                let cells = bench.stand.pair((&vault, &floor), in_flight, settings.seconds, floor_first).await?;
                line = report.add(kind, in_flight, (&vault, &floor), cells);
            }
            tell(&format!("round {} of {}: {}", round + 1, settings.rounds, line));
        }
        for pace in &mut paces {
            let line = bench.keep_pace(pace, round % 2 == 1).await?;
            tell(&format!("round {} of {}: {}", round + 1, settings.rounds, line));
        }
    }
    report.conclude(paces);
    Ok(report)
}

impl Settings {
    fn kinds(&self) -> Vec<Kind> {
        KINDS.into_iter().filter(|kind| self.wants(&kind.name())).collect()
    }

    fn paces(&self) -> Vec<Pace> {
        Pace::ALL.into_iter().filter(|pace| self.wants(&format!("latency-{}", pace.values))).collect()
    }

    fn wants(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.only.as_str());
        self.only.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
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
        let stand = Stand::set_up(&settings.directory).await?;
        let old = stand.issue(settings.tokens).await?;
        Ok(Self { stand, settings: settings.clone(), old, hot: Vec::new(), hot_since: Instant::now() })
    }

    async fn freshen(&mut self) -> Result<(), Error> {
        if self.hot.is_empty() || self.hot_since.elapsed() > HOT_FOR {
            self.hot_since = Instant::now();
            self.hot = self.stand.issue(HOT_TOKENS).await?;
        }
        Ok(())
    }

    /// The vault's calls of a kind, and echoes of the same size.
    async fn loads(&self, kind: Kind) -> Result<(Load, Load), Error> {
        let vault = match kind.operation {
            Operation::Tokenize => Load::tokenize(kind.values, DIFFERENT_CALLS),
            Operation::Detokenize => Load::detokenize(kind.values, self.hot.iter().map(String::as_str)),
            Operation::DetokenizeOld => Load::detokenize(kind.values, scattered(&self.old).map(String::as_str)),
        };
        let floor = self.stand.echoes_of(&vault).await?;
        Ok((vault, floor))
    }

    /// All once, unmeasured.
    async fn warm_up(&mut self) -> Result<(), Error> {
        for kind in self.settings.kinds() {
            self.freshen().await?;
            let (vault, floor) = self.loads(kind).await?;
            for load in [&vault, &floor] {
                self.stand.cell(load, BUSY, self.settings.seconds / 4.0).await?;
            }
        }
        Ok(())
    }

    /// What is measured at a steady rate, and the rate: it depends on the most that the vault does here.
    async fn paces(&self) -> Result<Vec<LatencyRow>, Error> {
        let mut rows = Vec::new();
        for pace in self.settings.paces() {
            let vault = Load::tokenize(pace.values, DIFFERENT_CALLS);
            let floor = self.stand.echoes_of(&vault).await?;
            // The first one warms up.
            self.stand.cell(&vault, pace.crowd, self.settings.seconds / 4.0).await?;
            let peak = self.stand.cell(&vault, pace.crowd, self.settings.seconds).await?;
            rows.push(LatencyRow::new(pace, peak.durations.len() as f64 / peak.seconds, vault, floor));
        }
        Ok(rows)
    }

    /// One round of the vault and of the floor at the same rate.
    async fn keep_pace(&self, row: &mut LatencyRow, floor_first: bool) -> Result<String, Error> {
        let seconds = self.settings.seconds * super::latency::LONGER;
        let (vault, floor) = if floor_first {
            let floor = self.stand.paced(&row.floor_load, row.rate, seconds).await?;
            (self.stand.paced(&row.vault_load, row.rate, seconds).await?, floor)
        } else {
            let vault = self.stand.paced(&row.vault_load, row.rate, seconds).await?;
            (vault, self.stand.paced(&row.floor_load, row.rate, seconds).await?)
        };
        Ok(row.add(&vault, &floor))
    }
}
