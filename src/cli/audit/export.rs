//! `audit export`: a copy of the log that verifies without the vault.

mod file;
mod source;
mod stored;
mod tiles;

use crate::cli::moment::duration;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use self::file::Lines;
use self::source::Source;
pub(in crate::cli) use self::stored::export_rows;
use self::tiles::Tiles;
use super::prove::{checkpoint, hashes, inclusion};
use crate::cli::terminal::Bar;
use crate::cli::{Connection, Exit, Usage, note};
use crate::client::Client;
use crate::event::finish;
use crate::merkle::note::Checkpoint;
use crate::merkle::{Hash, Peaks, verify_consistency};
use crate::proto::v1;
use crate::verify::export::Consistency;

/// Copy the audit log, so that it can be verified offline with `audit verify`.
///
/// One JSON object a line for each event, with the bytes that were hashed, and a fresh checkpoint at the end. The root of
/// what was written is compared with the checkpoint's. With --tiles: the layout of C2SP tlog-tiles, which other logs' tools
/// read; a directory that has some already is continued.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Where to. By default, or for -, standard output. A file that is there is not overwritten.
    #[arg(value_name = "FILE", conflicts_with = "tiles")]
    file: Option<PathBuf>,
    /// Into this directory, as tiles.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "to", "resume"])]
    tiles: Option<PathBuf>,
    /// The first event. A part that begins later than 0 says what it continues.
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// The last event. By default the newest.
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    to: Option<u64>,
    /// Continue FILE behind its last whole line.
    #[arg(long, requires = "file", conflicts_with = "from")]
    resume: bool,
    /// Go on with each new event until interrupted.
    #[arg(long)]
    follow: bool,
    /// With --follow: how often to add a checkpoint. Each is asked of the vault, which records the question.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    checkpoint_every: Duration,
}

/// Where a copy is written.
trait Copy {
    /// The sequence of the next entry.
    fn next(&self) -> u64;
    /// The root over everything before it.
    fn root(&self) -> Hash;
    /// Writes the next entry, given its canonical bytes.
    fn entry(&mut self, leaf: &[u8]) -> anyhow::Result<()>;
    /// Writes a checkpoint of what is there, or one of a larger log and what leads there, and makes all of it durable.
    fn checkpoint(&mut self, note: &str, beyond: Option<&Consistency>) -> anyhow::Result<()>;
    /// Hands what was written to the system, for whoever reads along.
    fn flush(&mut self) -> anyhow::Result<()>;
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    if options.to.is_some_and(|to| to < options.from) {
        return Err(Usage("--to is before --from: there is nothing between them".to_owned()).into());
    }
    options.connection.run(async |client| export(&client, options, output).await)
}

async fn export(client: &Client, options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let newest = client.checkpoint().await?;
    let claimed = checkpoint(&newest)?;
    if options.from >= claimed.size() {
        return Err(Usage(format!("the log has {} entries, so none from {} on", claimed.size(), options.from)).into());
    }
    if let Some(directory) = &options.tiles {
        return copy(client, options, Tiles::open(directory)?, newest).await;
    }
    let log = claimed.origin().as_str();
    match options.file.as_deref().filter(|file| *file != Path::new("-")) {
        Some(file) if options.resume => copy(client, options, Lines::resume(file, log)?, newest).await,
        Some(file) => {
            let before = before(client, options.from, claimed.size()).await?;
            copy(client, options, Lines::create(file, log, before)?, newest).await
        }
        None => {
            let before = before(client, options.from, claimed.size()).await?;
            copy(client, options, Lines::begin(&mut *output, log, before)?, newest).await
        }
    }
}

/// What a part that begins with entry `from` continues.
async fn before(client: &Client, from: u64, size: u64) -> anyhow::Result<Peaks> {
    if from == 0 {
        return Ok(Peaks::new());
    }
    let (proof, _) = inclusion(client, from, size).await?;
    Peaks::before(from, size, &proof).map_err(|problem| anyhow!("the vault's proof of event {from} is none: {problem}"))
}

async fn copy(client: &Client, options: &Options, mut copy: impl Copy, newest: String) -> anyhow::Result<Exit> {
    let begin = copy.next();
    let mut source = Source::new(client, options.follow);
    let mut newest = newest;
    let mut interrupted = false;
    // From here on, so that none is lost between two waits: whenever it comes, the copy ends with a checkpoint.
    let interrupts = options.follow.then(|| signal(SignalKind::interrupt())).transpose();
    let mut interrupts = interrupts.context("cannot wait for signals")?;
    loop {
        let claimed = checkpoint(&newest)?;
        let end = options.to.map_or(claimed.size(), |last| claimed.size().min(last.saturating_add(1)));
        if copy.next() > end {
            return Err(behind(copy.next(), end, options));
        }
        fill(&mut source, &mut copy, end).await?;
        if !options.follow {
            source.close();
        }
        close(client, &mut copy, &claimed, &newest).await?;
        let Some(interrupts) = interrupts.as_mut().filter(|_| !interrupted) else { break };
        interrupted = wait(&mut source, &mut copy, options.checkpoint_every, interrupts).await?;
        newest = source.during(copy.next(), client.checkpoint()).await?;
    }
    match copy.next().checked_sub(1) {
        Some(last) if last >= begin => {
            note(&format!("cloakroom: events {begin} to {last} written; `cloakroom audit verify` checks them"));
        }
        _ => note("cloakroom: there was nothing new"),
    }
    Ok(Exit::Done)
}

fn behind(next: u64, end: u64, options: &Options) -> anyhow::Error {
    if options.to.is_some() {
        return Usage(format!("--to is before {next}, where this copy begins or goes on: there is nothing between"))
            .into();
    }
    anyhow!(
        "the copy has {next} entries and the vault's log only {end}: it is another log, or the vault's was cut. Keep the copy"
    )
}

/// Copies entries until `end` is the next.
async fn fill(source: &mut Source<'_>, copy: &mut impl Copy, end: u64) -> anyhow::Result<()> {
    let mut bar = Bar::new();
    while copy.next() < end {
        let event = source.next(copy.next()).await?;
        write(copy, &event)?;
        if copy.next().is_multiple_of(1024) {
            bar.show(copy.next(), Some(end), "events");
        }
    }
    Ok(())
}

fn write(copy: &mut impl Copy, event: &v1::AuditEvent) -> anyhow::Result<()> {
    let next = copy.next();
    if event.sequence != next {
        return Err(anyhow!("the vault sent event {} where {next} belongs", event.sequence));
    }
    let event = super::domain(event);
    let time = event.timestamp().ok_or_else(|| anyhow!("the vault sent event {next} without a time"))?;
    copy.entry(&finish(&event.encode_body(), time))
}

/// Compares roots and writes the checkpoint.
async fn close(client: &Client, copy: &mut impl Copy, claimed: &Checkpoint, note: &str) -> anyhow::Result<()> {
    let (end, root) = (copy.next(), copy.root());
    let wrong = |problem: String| {
        anyhow!(
            "the vault's checkpoint of {} entries is not of the events that it sent ({problem}). Keep both: {note}",
            claimed.size()
        )
    };
    if end == claimed.size() {
        if root != *claimed.root() {
            return Err(wrong(format!("their root is {root}")));
        }
        return copy.checkpoint(note, None);
    }
    let proof = client.consistency_proof(end, claimed.size()).await?;
    let proof = Consistency { from: end, to: claimed.size(), hashes: hashes(&proof.hashes)? };
    verify_consistency(end, &root, proof.to, claimed.root(), &proof.hashes)
        .map_err(|error| wrong(error.to_string()))?;
    copy.checkpoint(note, Some(&proof))
}

/// Copies what comes until it is time for a checkpoint, or until the person has had enough.
async fn wait(
    source: &mut Source<'_>,
    copy: &mut impl Copy,
    every: Duration,
    interrupts: &mut Signal,
) -> anyhow::Result<bool> {
    let deadline = Instant::now() + every;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Ok(false),
            _ = interrupts.recv() => return Ok(true),
            event = source.next(copy.next()) => {
                write(copy, &event?)?;
                copy.flush()?;
            }
        }
    }
}
