//! What it costs to delete what has expired, in parts of what it cost to store it, and what callers feel of it meanwhile.
//!
//! Short-lived tokens are stored while nothing is purged (the grace period is a day). Then the vault starts anew without one:
//! all of them are due at once. Half of them go while nobody calls, which says what a purge costs; the rest while calls come at
//! a steady rate, which says what callers feel.

mod page;

use super::figures::{Quantiles, grouped, readable};
use super::host::Host;
use super::latency;
use super::load::Load;
use super::rounds::{BATCH, BUSY, CROWDED};
use super::stand::Stand;
use super::{Error, io, probe};
use serde::Serialize;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DIFFERENT_CALLS: usize = 256;
const STEP: usize = 100_000;
/// The shortest there is: they have expired when the last one is stored, or a moment later.
const LIFETIME: Duration = Duration::from_secs(1);
/// At the most: an answer costs as much as deleting a thousand tokens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// As long as the purge should take, in looks at the least.
const LOOKS: f64 = 20.0;
/// How often it is looked while there is nothing to do, to know what that costs.
const IDLE_LOOKS: u32 = 3;
const PATIENCE: Duration = Duration::from_mins(2);
const PURGED: &str = "cloakroom_purged_rows_total{table=\"tokens\"}";
const LAG: &str = "cloakroom_purge_lag_seconds";
/// Of what is left when calls begin: the rest should be gone after they end, not before.
const MEANWHILE: f64 = 0.8;
const MEBIBYTE: f64 = 1_048_576.0;

/// How much and where to measure.
#[derive(Clone, Debug, Serialize)]
pub struct PurgeSettings {
    /// Tokens that expire.
    pub tokens: usize,
    /// How many the vault may delete in a second (`purge.rows_per_second`).
    pub rows_per_second: usize,
    /// How long the peak is looked for.
    pub seconds: f64,
    /// Where the vault's directory is made.
    pub directory: PathBuf,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct PurgeReport {
    version: &'static str,
    host: Host,
    settings: PurgeSettings,
    fdatasync: Quantiles,
    tokens: usize,
    /// The server's CPU to store one, in batches of a hundred.
    issue_cpu_us: f64,
    /// The server's CPU to delete one while nobody calls, without what it takes to do nothing for as long.
    purge_cpu_us: f64,
    /// The server's CPU in a second without calls and purge: timers, checkpoints, answers to whoever looks.
    idle_cpu_us: f64,
    /// The second in parts of the first.
    ratio: f64,
    /// Deleted, and in how long, while nobody called.
    alone: Stretch,
    calls: Calls,
    disk: Disk,
    lag: Lag,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Stretch {
    purged: u64,
    seconds: f64,
}

/// Tokenize of one at a fifth of the peak.
#[derive(Debug, Serialize)]
struct Calls {
    peak: f64,
    rate: f64,
    without: latency::Figures,
    meanwhile: latency::Figures,
    /// What was deleted while they came.
    purged: Stretch,
    p99_ratio: f64,
}

#[derive(Debug, Serialize)]
struct Disk {
    /// Before the first token, with all, and when all were gone and the vault had come to rest.
    empty_bytes: u64,
    full_bytes: u64,
    after_bytes: u64,
    freed_bytes_per_token: f64,
}

/// How far the vault was behind.
#[derive(Debug, Serialize)]
struct Lag {
    /// From when all were due until the last was gone.
    seconds_until_all_were_gone: f64,
    /// As the vault says itself, at its worst.
    worst_reported_seconds: f64,
}

/// What the vault says of its purge, asked as any monitoring does.
struct Watch {
    operations: SocketAddr,
    every: Duration,
    worst_lag: f64,
}

struct Purge<'a> {
    stand: Stand,
    settings: &'a PurgeSettings,
}

impl PurgeSettings {
    /// As many in a second as a vault deletes that is told nothing.
    pub fn full(directory: PathBuf) -> Self {
        Self { tokens: 200_000, rows_per_second: 5_000, seconds: 3.0, directory }
    }
}

pub(super) async fn measure(settings: &PurgeSettings, tell: &mut dyn FnMut(&str)) -> Result<PurgeReport, Error> {
    tell(&format!("making a vault in {}", settings.directory.display()));
    let stand = Stand::set_up(&settings.directory).await?;
    let mut purge = Purge { stand, settings };
    let host = Host::look(purge.stand.place.path());
    let fdatasync = Quantiles::of(&probe::fdatasync(purge.stand.place.path())?);
    let data = purge.stand.place.config()?.storage.path;
    let empty_bytes = purge.disk(&data).await?;
    let (tokens, issue_cpu_us) = purge.fill().await?;
    let full_bytes = purge.disk(&data).await?;
    tell(&format!("{} tokens are stored, {issue_cpu_us:.2} µs of CPU each", grouped(tokens as f64)));
    let load = Load::tokenize(1, DIFFERENT_CALLS);
    let peak = purge.stand.cell(&load, CROWDED, settings.seconds).await?.calls_per_second();
    let (rate, seconds) = (peak / 5.0, settings.seconds * latency::LONGER);
    let (paced, used) = purge.stand.paced(&load, rate, seconds).await?;
    let without = latency::Figures::of(&paced, used.vault);
    let mut watch = purge.start_purging().await?;
    let began = Instant::now();
    let (alone, alone_cpu) = purge.alone(&mut watch, tokens as u64 / 2).await?;
    tell(&format!("{} of them are purged in {:.1} s", grouped(alone.purged as f64), alone.seconds));
    let (meanwhile, purged) = purge.meanwhile(&mut watch, &load, rate, tokens as u64).await?;
    watch.until(tokens as u64, purge.patience()).await?;
    let gone = began.elapsed().as_secs_f64();
    tell(&format!("all of them are purged after {gone:.1} s"));
    let after_bytes = purge.disk(&data).await?;
    let idle = purge.idle(&mut watch).await?;
    let purge_cpu_us = (alone_cpu - idle * alone.seconds) * 1e6 / alone.purged as f64;
    let freed_bytes_per_token = (full_bytes as f64 - after_bytes as f64) / tokens as f64;
    let p99_ratio = meanwhile.quantiles().p99_us / without.quantiles().p99_us;
    Ok(PurgeReport {
        version: env!("CARGO_PKG_VERSION"),
        host,
        settings: settings.clone(),
        fdatasync,
        tokens,
        issue_cpu_us,
        purge_cpu_us,
        idle_cpu_us: idle * 1e6,
        ratio: purge_cpu_us / issue_cpu_us,
        alone,
        calls: Calls { peak, rate, without, meanwhile, purged, p99_ratio },
        disk: Disk { empty_bytes, full_bytes, after_bytes, freed_bytes_per_token },
        lag: Lag { seconds_until_all_were_gone: gone, worst_reported_seconds: watch.worst_lag },
    })
}

impl Purge<'_> {
    /// Stores what will expire. How many, and the server's CPU for each.
    async fn fill(&self) -> Result<(usize, f64), Error> {
        let vault = self.stand.vault.id();
        let (mut tokens, before) = (0, probe::cpu_of(vault)?);
        while tokens < self.settings.tokens {
            let values = (self.settings.tokens - tokens).min(STEP);
            let load = Load::tokenize_briefly(BATCH, values.div_ceil(BATCH), LIFETIME);
            tokens += self.stand.drivers.collect(&load, BUSY).await?.len() * BATCH;
        }
        let cpu = probe::cpu_of(vault)?.saturating_sub(before);
        Ok((tokens, cpu.as_secs_f64() * 1e6 / tokens as f64))
    }

    /// When the vault has come to rest.
    async fn disk(&self, data: &Path) -> Result<u64, Error> {
        probe::settled(self.stand.vault.id()).await?;
        probe::disk_bytes(data)
    }

    /// Starts the vault anew, with all of them due.
    async fn start_purging(&mut self) -> Result<Watch, Error> {
        // Freed at once for the vault to take: it does not tell which port it found.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let operations = port.map_err(io("can't find a free port"))?;
        let variables = [
            ("CLOAKROOM_OPERATIONS__LISTEN", operations.to_string()),
            ("CLOAKROOM_PURGE__GRACE", "0s".to_owned()),
            ("CLOAKROOM_PURGE__INTERVAL", "1s".to_owned()),
            ("CLOAKROOM_PURGE__ROWS_PER_SECOND", self.settings.rows_per_second.to_string()),
        ];
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.stand.restart(&variables).await?;
        let every = Duration::from_secs_f64(self.takes() / LOOKS).min(LOOK_EVERY);
        Ok(Watch { operations, every, worst_lag: 0.0 })
    }

    /// Until so many are gone, while nobody calls. What went in that time, and the seconds of the server's CPU in it.
    async fn alone(&self, watch: &mut Watch, enough: u64) -> Result<(Stretch, f64), Error> {
        let vault = self.stand.vault.id();
        let patience = self.patience();
        let first = watch.until(1, patience).await?;
        let (begin, before) = (Instant::now(), probe::cpu_of(vault)?);
        // With few tokens the first look may find that all have gone: then nothing is left to be measured alone.
        let last = watch.until(enough.max(first), patience).await?;
        let cpu = probe::cpu_of(vault)?.saturating_sub(before).as_secs_f64();
        let stretch = Stretch { purged: last - first, seconds: begin.elapsed().as_secs_f64() };
        Ok((stretch, cpu))
    }

    /// The server's CPU in a second, in seconds, while there is nothing to do but to answer who looks.
    async fn idle(&self, watch: &mut Watch) -> Result<f64, Error> {
        let vault = self.stand.vault.id();
        let (begin, before) = (Instant::now(), probe::cpu_of(vault)?);
        for _ in 0..IDLE_LOOKS {
            tokio::time::sleep(watch.every).await;
            watch.look().await?;
        }
        let cpu = probe::cpu_of(vault)?.saturating_sub(before);
        Ok(cpu.as_secs_f64() / begin.elapsed().as_secs_f64())
    }

    /// Calls at a steady rate for nearly as long as the rest will take.
    async fn meanwhile(
        &self,
        watch: &mut Watch,
        load: &Load,
        rate: f64,
        tokens: u64,
    ) -> Result<(latency::Figures, Stretch), Error> {
        let before = watch.look().await?;
        let left = tokens.saturating_sub(before) as f64 / self.settings.rows_per_second as f64;
        let longest = self.settings.seconds * latency::LONGER * 10.0;
        let seconds = (left * MEANWHILE).clamp(self.settings.seconds, longest);
        let begin = Instant::now();
        let (paced, used) = self.stand.paced(load, rate, seconds).await?;
        let purged = watch.look().await?.saturating_sub(before);
        let stretch = Stretch { purged, seconds: begin.elapsed().as_secs_f64() };
        Ok((latency::Figures::of(&paced, used.vault), stretch))
    }

    /// Ten times as long as it should take.
    fn patience(&self) -> Duration {
        PATIENCE + Duration::from_secs_f64(10.0 * self.takes())
    }

    /// In seconds, how long it takes to delete all of them.
    fn takes(&self) -> f64 {
        self.settings.tokens as f64 / self.settings.rows_per_second as f64
    }
}

impl Watch {
    /// How many tokens have gone since the vault started.
    async fn look(&mut self) -> Result<u64, Error> {
        let operations = self.operations;
        let asked = tokio::task::spawn_blocking(move || metrics(operations)).await;
        let text =
            asked.map_err(|error| Error::Connect(error.to_string()))?.map_err(io("can't ask for the metrics"))?;
        self.worst_lag = self.worst_lag.max(metric(&text, LAG).unwrap_or_default());
        Ok(super::figures::whole(metric(&text, PURGED).unwrap_or_default()) as u64)
    }

    /// Looks until at least so many have gone.
    async fn until(&mut self, enough: u64, patience: Duration) -> Result<u64, Error> {
        let began = Instant::now();
        loop {
            let purged = self.look().await?;
            if purged >= enough {
                return Ok(purged);
            }
            if began.elapsed() > patience {
                let problem = format!("{purged} of {enough} tokens are purged after {} s", patience.as_secs());
                return Err(Error::Call { call: "the purge", problem });
            }
            tokio::time::sleep(self.every).await;
        }
    }
}

fn metrics(server: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A figure by its name and labels as Prometheus writes them.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

// === as a table ===

impl fmt::Display for PurgeReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (calls, tokens) = (&self.calls, grouped(self.tokens as f64));
        writeln!(
            out,
            "Cloakroom {}, {} cores; {tokens} expired tokens, at most {} deleted a second",
            self.version,
            self.host.cores,
            grouped(self.settings.rows_per_second as f64)
        )?;
        writeln!(
            out,
            "4 KiB appended and synced (fdatasync) here: p50 {:.0} µs, p99 {:.0} µs",
            self.fdatasync.p50_us, self.fdatasync.p99_us
        )?;
        writeln!(
            out,
            "\nServer CPU a token: to issue it {:.2} µs (batches of {BATCH}), to purge it {:.2} µs: {} of issuing. Idle: {:.1} ms a second.",
            self.issue_cpu_us,
            self.purge_cpu_us,
            readable(self.ratio),
            self.idle_cpu_us / 1000.0
        )?;
        writeln!(out, "Alone: {} purged in {:.1} s.\n", grouped(self.alone.purged as f64), self.alone.seconds)?;
        let rate = grouped(calls.rate);
        writeln!(
            out,
            "Tokenize of one at {rate} calls/s, a fifth of the peak      p50 µs    p99 µs  p99.9 µs    failed"
        )?;
        writeln!(out, "{:<52} {}", "without a purge", calls.without.line())?;
        writeln!(out, "{:<52} {}", "while it purges", calls.meanwhile.line())?;
        writeln!(
            out,
            "p99 while it purges ÷ without: {}; meanwhile {} were purged in {:.1} s.\n",
            readable(calls.p99_ratio),
            grouped(calls.purged.purged as f64),
            calls.purged.seconds
        )?;
        let mebibytes = |bytes: u64| readable(bytes as f64 / MEBIBYTE);
        let Disk { empty_bytes, full_bytes, after_bytes, freed_bytes_per_token } = self.disk;
        writeln!(
            out,
            "Disk, MiB: {} empty, {} with all, {} after: {freed_bytes_per_token:.0} bytes a token came back.",
            mebibytes(empty_bytes),
            mebibytes(full_bytes),
            mebibytes(after_bytes),
        )?;
        writeln!(
            out,
            "All were due at once and gone after {:.1} s; the vault itself said at most {:.0} s of lag.",
            self.lag.seconds_until_all_were_gone, self.lag.worst_reported_seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = format!("# HELP x\n{PURGED}_more 7\n{PURGED} 12\n{LAG} 1.5\n");
        assert_eq!(metric(&text, PURGED), Some(12.0));
        assert_eq!(metric(&text, LAG), Some(1.5));
        assert_eq!(metric(&text, "cloakroom_purge"), None);
    }
}
