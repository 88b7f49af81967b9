//! What the log costs: how long questions and proofs take when it is long, how fast a copy of it is verified, and what its
//! tree adds to a call.
//!
//! The log is made by real calls on a real vault. Questions go over gRPC with one in flight; each is itself an event, written
//! and synced before its answer leaves, so a probe of the disk stands beside them.
//!
//! The tree can't be switched off, so what it adds is measured by itself, on events of the same length as the vault's own,
//! and held against the CPU of a whole call in the same run.

use super::chart::{Bars, Chart};
use super::driver::Window;
use super::figures::{Quantiles, grouped, median, readable};
use super::host::Host;
use super::load::{Load, SCOPE, proof_of, tokens_of};
use super::page::{self, Page, Section, Table};
use super::probe;
use super::rounds::CROWDED;
use super::stand::Stand;
use super::{Error, Results, io};
use crate::merkle::{Frontier, leaf_hash};
use crate::proto::v1;
use crate::verify;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The name of the vault's one writing thread.
const WRITER: &str = "ledger";
const GATEWAY: &str = "spiffe://dev.cloakroom.internal/gateway";
const PAYMENTS: &str = "spiffe://dev.cloakroom.internal/payments";
/// Calls that are made at once while the log is filled.
const FILLING_CALLS: usize = 20_000;
/// One of so many tokens is used again: to detokenize it, and to ask about it.
const USED_AGAIN: usize = 100;
/// Different questions of one kind.
const DIFFERENT: usize = 512;
/// Events on a page.
const PAGE: usize = 100;
/// Of the tree, how often and how many events.
const TREE_ROUNDS: usize = 5;
const TREE_EVENTS: u64 = 200_000;
/// What is read of a copy at once.
const COPY_BUFFER_BYTES: usize = 1 << 20;
const WARM_UP: Duration = Duration::from_millis(300);

/// How much and where to measure.
#[derive(Clone, Debug, Serialize)]
pub struct AuditSettings {
    /// Events in the log before the first question, at least.
    pub events: usize,
    /// How long each kind of question is asked.
    pub seconds: f64,
    /// Where the vault's directory is made.
    pub directory: PathBuf,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct AuditReport {
    version: &'static str,
    host: Host,
    settings: AuditSettings,
    /// Events in the log when the questions began.
    events: u64,
    fdatasync: Quantiles,
    questions: Vec<Question>,
    verified: Vec<Verified>,
    tree: Tree,
}

/// A copy of the log, verified offline on one thread.
#[derive(Debug, Serialize)]
struct Verified {
    form: &'static str,
    events: u64,
    /// In a second of one core.
    events_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Question {
    name: &'static str,
    calls: usize,
    #[serde(flatten)]
    took: Quantiles,
}

/// What the tree costs, beside what a call costs.
#[derive(Debug, Serialize)]
struct Tree {
    event_bytes: usize,
    /// Hashing a leaf, appending it, taking up full tiles: CPU of one thread.
    us_per_event: f64,
    /// A Tokenize call of one value, 256 in flight: the server's CPU.
    call_us: f64,
    /// The part of it that the one writing thread used.
    writer_us: f64,
    /// Calls for the same CPU with the tree, in those without it.
    ratio_of_calls: f64,
    /// The same of the writing thread alone.
    ratio_of_writer: f64,
}

/// A vault with a long log. The floor is there only because the client connects to both.
struct Bench {
    stand: Stand,
    /// Some tokens from all over the log.
    tokens: Vec<String>,
    calls: usize,
    call_cpu: Duration,
    writer_cpu: Duration,
}

impl AuditSettings {
    /// A million events.
    pub fn full(directory: PathBuf) -> Self {
        Self { events: 1_000_000, seconds: 4.0, directory }
    }

    /// Enough to see whether something is badly wrong.
    pub fn quick(directory: PathBuf) -> Self {
        Self { events: 100_000, seconds: 0.5, directory }
    }
}

pub(super) async fn measure(settings: &AuditSettings, tell: &mut dyn FnMut(&str)) -> Result<AuditReport, Error> {
    let events = grouped(settings.events as f64);
    tell(&format!("making a vault in {} and giving its log {events} events", settings.directory.display()));
    let mut bench = Bench::set_up(settings).await?;
    bench.fill(settings.events, tell).await?;
    let events = bench.size().await?;
    let fdatasync = Quantiles::of(&probe::fdatasync(bench.stand.place.path())?);
    let mut questions = Vec::new();
    for (name, load) in bench.loads(events) {
        let begin = Instant::now() + WARM_UP;
        let window = Window { begin, end: begin + Duration::from_secs_f64(settings.seconds) };
        let taken = bench.stand.drivers.measure(&load, 1, window).await?.durations;
        let question = Question { name, calls: taken.len(), took: Quantiles::of(&taken) };
        tell(&question.to_string());
        questions.push(question);
    }
    let verified = bench.verify()?;
    let tree = bench.tree().await?;
    Ok(AuditReport {
        version: env!("CARGO_PKG_VERSION"),
        host: Host::look(bench.stand.place.path()),
        settings: settings.clone(),
        events,
        fdatasync,
        questions,
        verified,
        tree,
    })
}

impl Bench {
    async fn set_up(settings: &AuditSettings) -> Result<Self, Error> {
        let stand = Stand::set_up(&settings.directory).await?;
        let (tokens, calls) = (Vec::new(), 0);
        let (call_cpu, writer_cpu) = (Duration::ZERO, Duration::ZERO);
        Ok(Self { stand, tokens, calls, call_cpu, writer_cpu })
    }

    /// An event a call: nearly all of them Tokenize, some Detokenize.
    async fn fill(&mut self, events: usize, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let load = Load::tokenize(1, FILLING_CALLS.min(events));
        let begin = Instant::now();
        while self.calls < events {
            let before = self.cpu()?;
            let replies = self.stand.drivers.collect(&load, CROWDED).await?;
            let after = self.cpu()?;
            self.call_cpu += after.0.saturating_sub(before.0);
            self.writer_cpu += after.1.saturating_sub(before.1);
            self.calls += replies.len();
            let tokens = replies.iter().step_by(USED_AGAIN).filter_map(|reply| tokens_of(reply)).flatten();
            let tokens: Vec<String> = tokens.collect();
            let again = Load::detokenize(1, tokens.iter().map(String::as_str));
            self.stand.drivers.collect(&again, CROWDED).await?;
            self.tokens.extend(tokens);
        }
        let seconds = begin.elapsed().as_secs_f64();
        tell(&format!("{} calls in {seconds:.0} s", grouped(self.calls as f64)));
        Ok(())
    }

    /// Of the whole server, and of its writing thread.
    fn cpu(&self) -> Result<(Duration, Duration), Error> {
        Ok((probe::cpu_of(self.stand.vault.id())?, probe::cpu_of_thread(self.stand.vault.id(), WRITER)?))
    }

    /// How long the log is.
    async fn size(&self) -> Result<u64, Error> {
        use prost::Message;
        let newest = Load::questions(vec![v1::AuditFilter::default()], 1, 1);
        let replies = self.stand.drivers.collect(&newest, 1).await?;
        let page = replies.first().and_then(|reply| v1::QueryEventsResponse::decode(reply.clone()).ok());
        let newest = page.and_then(|page| page.events.into_iter().next());
        let failed = || Error::Call { call: "QueryEvents", problem: "there is no newest event".to_owned() };
        Ok(newest.ok_or_else(failed)?.sequence + 1)
    }

    fn loads(&self, events: u64) -> Vec<(&'static str, Load)> {
        let about = |token: &String| v1::AuditFilter {
            scope: SCOPE.to_owned(),
            token: token.clone(),
            ..v1::AuditFilter::default()
        };
        let of = |caller: &str| vec![v1::AuditFilter { caller: caller.to_owned(), ..v1::AuditFilter::default() }];
        let apart = (self.tokens.len() / DIFFERENT).max(1);
        let tokens = self.tokens.iter().step_by(apart).map(about).collect();
        // Any odd factor goes through all residues of the golden ratio's kind: neighbours lie far apart.
        let sequences = (0..DIFFERENT as u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % events.max(1));
        vec![
            ("GetInclusionProof of any event", Load::proofs(sequences)),
            ("QueryEvents by token, all its events", Load::questions(tokens, PAGE, 2)),
            ("QueryEvents by a caller with nearly all events, newest 100", Load::questions(of(GATEWAY), PAGE, PAGE)),
            ("QueryEvents by a caller with one in a hundred, newest 100", Load::questions(of(PAYMENTS), PAGE, PAGE)),
            ("QueryEvents of all, newest 100", Load::questions(vec![v1::AuditFilter::default()], PAGE, PAGE)),
            ("QueryEvents of all, the newest one", Load::questions(vec![v1::AuditFilter::default()], 1, 1)),
        ]
    }

    /// As an auditor does it: copies the log in both forms, and verifies the copies with the log's public key.
    fn verify(&self) -> Result<Vec<Verified>, Error> {
        let (lines, tiles) = (self.stand.place.path().join("log.jsonl"), self.stand.place.path().join("log-tiles"));
        self.stand.place.export(&self.stand.vault, &[&lines.to_string_lossy()])?;
        self.stand.place.export(&self.stand.vault, &["--tiles", &tiles.to_string_lossy()])?;
        let unread = io("can't read a copy of the log");
        let key = std::fs::read_to_string(self.stand.place.path().join("log.vkey")).map_err(&unread)?;
        let key = key.trim().parse().map_err(|error| unsound(&error))?;
        let settings = verify::Settings { keys: vec![key], ..verify::Settings::default() };
        let before = own_cpu()?;
        let copy = BufReader::with_capacity(COPY_BUFFER_BYTES, File::open(&lines).map_err(&unread)?);
        let of_lines = Verified::new("JSON Lines", &verify::lines(&settings, copy, |_| {}).map_err(&unread)?, before)?;
        let before = own_cpu()?;
        let fetch = |path: &str| match std::fs::read(tiles.join(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            content => content.map(Some),
        };
        let of_tiles = Verified::new("tiles", &verify::tiles(&settings, fetch, |_, _| {}).map_err(&unread)?, before)?;
        Ok(vec![of_lines, of_tiles])
    }

    async fn tree(&self) -> Result<Tree, Error> {
        // In the middle of the log stands a Tokenize call of one value.
        let replies = self.stand.drivers.collect(&Load::proofs(std::iter::once(self.calls as u64 / 2)), 1).await?;
        let proof = replies.first().and_then(|reply| proof_of(reply));
        let failed = || Error::Call { call: "GetInclusionProof", problem: "there is no event in it".to_owned() };
        let event = proof.ok_or_else(failed)?.event;
        let mut rounds = Vec::new();
        for _ in 0..TREE_ROUNDS {
            rounds.push(tree_us_per_event(&event)?);
        }
        let us_per_event = median(rounds.into_iter());
        let per_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.calls as f64;
        let (call_us, writer_us) = (per_call(self.call_cpu), per_call(self.writer_cpu));
        let ratio = |with: f64| (with - us_per_event) / with;
        Ok(Tree {
            event_bytes: event.len(),
            us_per_event,
            call_us,
            writer_us,
            ratio_of_calls: ratio(call_us),
            ratio_of_writer: ratio(writer_us),
        })
    }
}

impl Verified {
    fn new(form: &'static str, report: &verify::Report, before: Duration) -> Result<Self, Error> {
        let seconds = own_cpu()?.saturating_sub(before).as_secs_f64();
        if !report.holds() {
            return Err(unsound(&format!("the copy as {form} does not hold")));
        }
        Ok(Self { form, events: report.entries, events_per_second: report.entries as f64 / seconds })
    }
}

fn unsound(problem: &impl fmt::Display) -> Error {
    Error::Call { call: "audit verify", problem: problem.to_string() }
}

/// The tree of so many events that are as long as `event` and differ.
fn tree_us_per_event(event: &[u8]) -> Result<f64, Error> {
    let mut event = event.to_vec();
    let mut frontier = Frontier::new();
    let mut tile_bytes = 0;
    let before = own_cpu()?;
    for number in 0..TREE_EVENTS {
        // Of a shorter event only its first bytes: then some are equal, which costs the same.
        event.iter_mut().zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
        for tile in frontier.append(leaf_hash(&event)) {
            tile_bytes += black_box(tile.bytes().to_vec()).len();
        }
    }
    black_box((frontier.root(), tile_bytes));
    Ok(own_cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / TREE_EVENTS as f64)
}

/// Of this thread alone: the client's others may be at work.
fn own_cpu() -> Result<Duration, Error> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").map_err(io("can't read /proc"))?;
    Ok(Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default()))
}

// === as a page and as a table ===

const NOTES: &[&str] = &[
    "Each question is itself an event, written and synced before its answer leaves, so the disk's own time is part of every figure.",
    "The tree can't be switched off. What it costs is measured by itself, on events of the same length, and held against a whole call of the same run.",
];

impl Results for AuditReport {
    fn html(&self) -> Result<String, serde_json::Error> {
        page::html(&self.page(), self)
    }
}

impl AuditReport {
    fn page(&self) -> Page {
        let row = |question: &Question| {
            let Quantiles { p50_us, p99_us, p999_us } = question.took;
            [question.calls as f64, p50_us, p99_us, p999_us].map(readable)
        };
        let question = |question: &Question| std::iter::once(question.name.to_owned()).chain(row(question)).collect();
        let bar = |question: &Question| (question.name.to_owned(), vec![question.took.p50_us, question.took.p99_us]);
        let bars = Bars {
            title: "µs, one call in flight, logarithmic".to_owned(),
            series: vec!["p50", "p99"],
            groups: self.questions.iter().map(bar).collect(),
            logarithmic: true,
        };
        let verified =
            |of: &Verified| vec![of.form.to_owned(), readable(of.events as f64), readable(of.events_per_second)];
        let tree = &self.tree;
        let parts = [
            ("the tree, µs of CPU an event", tree.us_per_event),
            ("a Tokenize call of one value, µs of the server's CPU", tree.call_us),
            ("of them in the writing thread", tree.writer_us),
            ("calls with the tree ÷ without it", tree.ratio_of_calls),
            ("the same of the writing thread alone", tree.ratio_of_writer),
        ];
        let part = |(name, figure): (&str, f64)| vec![name.to_owned(), readable(figure)];
        let section = |title, charts, table| Section { title, text: String::new(), charts, tables: vec![table] };
        let head = ["question", "calls", "p50 µs", "p99 µs", "p99.9 µs"];
        Page {
            title: format!("Cloakroom {}: what the log costs", self.version),
            lead: format!("Questions to a log of {} events, over gRPC and mutual TLS.", grouped(self.events as f64)),
            host: self.host.clone(),
            disk: format!("p50 {:.0} µs, p99 {:.0} µs", self.fdatasync.p50_us, self.fdatasync.p99_us),
            sections: vec![
                section("Questions", vec![Chart::Bars(bars)], Table::new(&head, self.questions.iter().map(question))),
                section(
                    "Verified offline",
                    Vec::new(),
                    Table::new(&["form", "events", "events a second of one core"], self.verified.iter().map(verified)),
                ),
                section("The tree", Vec::new(), Table::new(&["what", "figure"], parts.into_iter().map(part))),
            ],
            notes: NOTES.to_vec(),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (grouped(self.took.p50_us), grouped(self.took.p99_us));
        write!(out, "{:<60} {:>8} {p50:>9} {p99:>9}", self.name, grouped(self.calls as f64))
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, tree) = (grouped(self.events as f64), &self.tree);
        writeln!(
            out,
            "Cloakroom {}, {} cores; a log of {events} events; one call in flight. Each question is itself written and synced",
            self.version, self.host.cores
        )?;
        writeln!(
            out,
            "4 KiB appended and synced (fdatasync) here: p50 {:.0} \u{b5}s, p99 {:.0} \u{b5}s",
            self.fdatasync.p50_us, self.fdatasync.p99_us,
        )?;
        writeln!(out, "\n{:<60} {:>8} {:>9} {:>9}", "question", "calls", "p50 \u{b5}s", "p99 \u{b5}s")?;
        for question in &self.questions {
            writeln!(out, "{question}")?;
        }
        writeln!(out)?;
        for Verified { form, events, events_per_second } in &self.verified {
            let (events, speed) = (grouped(*events as f64), grouped(*events_per_second));
            writeln!(out, "Verified offline, {form}: {events} events, {speed} in a second of one core.")?;
        }
        writeln!(
            out,
            "The tree: {:.2} \u{b5}s of CPU an event of {} bytes (leaf hash, appending, full tiles).",
            tree.us_per_event, tree.event_bytes
        )?;
        writeln!(
            out,
            "A Tokenize call of one value, 256 in flight: {:.1} \u{b5}s of the server's CPU, {:.1} of them in its one writing thread.",
            tree.call_us, tree.writer_us
        )?;
        writeln!(
            out,
            "Calls with the tree \u{f7} without it, for the same CPU: {:.3}; of the writing thread alone {:.3}.",
            tree.ratio_of_calls, tree.ratio_of_writer
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_measured_on_events_of_any_length() {
        for length in [1, 7, 8, 300] {
            let micros = tree_us_per_event(&vec![1; length]).unwrap();
            assert!(micros > 0.0, "{length}: {micros}");
        }
    }
}
