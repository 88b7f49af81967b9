//! `audit verify`: a copy of the log, held against its key and against checkpoints that were kept.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::terminal::{Bar, Colour, Terminal};
use crate::cli::{Exit, Format, Usage};
use crate::clock::Timestamp;
use crate::event::json::rfc3339;
use crate::merkle::note::{VerifierKey, WitnessVerifier};
use crate::verify::proof::{Proof, Proved};
use crate::verify::{self, Kept, Report, Settings, Vouched};

/// What is read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// What the proof of one event begins with.
const PROOF: &str = "c2sp.org/tlog-proof@v1";
/// More than the largest bundle: 256 entries of 64 KiB.
const MAX_FILE_BYTES: u64 = 20 << 20;
/// More than a key, a checkpoint or the proof of one event has: a note of a megabyte, and an event of 64 KiB.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Verify a copy of the audit log, offline: no vault is asked, and none is trusted.
///
/// Takes what `audit export` wrote, checks every entry, the tree over them and the signatures on its checkpoints, and holds
/// checkpoints that were kept from earlier against it. Names the first bad entry. Exit status 0 only if everything holds,
/// 1 if something does not, 2 if it could not be checked. See docs/audit.md.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// An export, - for one on standard input, or a directory of tiles.
    #[arg(value_name = "FILE|DIR", required_unless_present = "proof", conflicts_with = "proof")]
    log: Option<PathBuf>,
    /// The log's public key: log.vkey of the vault, from somebody other than the log's bearer. Several, if the key was
    /// replaced and the older one is not to vouch for the newer.
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// A checkpoint that was kept, or a directory of them. Any number. One that is newer than the copy is a finding: it shows
    /// that something is missing.
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "proof")]
    checkpoint: Vec<PathBuf>,
    /// The public key of a witness: its witness.vkey. Any number. At least one checkpoint that fits the copy, in it or given
    /// with --checkpoint, must be cosigned by each.
    #[arg(long, value_name = "FILE", conflicts_with = "proof")]
    witness: Vec<PathBuf>,
    /// Print this event, once the whole log is verified.
    #[arg(long, value_name = "N", conflicts_with = "proof")]
    sequence: Option<u64>,
    /// Instead of a whole log: one event with its proof, from `audit prove`.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// For people, or one JSON object.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let keys = keys(&options.key)?;
    if let Some(file) = &options.proof {
        return prove(file, &Settings { keys, ..Settings::default() }, options.output, output);
    }
    let mut checkpoints = Vec::new();
    for path in &options.checkpoint {
        let before = checkpoints.len();
        kept(path, &mut checkpoints)?;
        if checkpoints.len() == before {
            // To pass over it in silence would look as if the copy had been held against something.
            return Err(Usage(format!("{}: there is no checkpoint in this folder", path.display())).into());
        }
    }
    let settings = Settings { keys, checkpoints, sequence: options.sequence };
    let log = options.log.as_deref().unwrap_or(Path::new("-"));
    if is_proof(log) {
        let why = format!("this is the proof of one event ({PROOF}) and no copy of the log: give it with --proof");
        return Err(Usage(format!("{}: {why}", log.display())).into());
    }
    // What can't be read was not checked, which is not to be taken for a bad log.
    let witnesses = witnesses(&options.witness)?;
    let mut report =
        verified(&settings, log).map_err(|error| Usage(format!("cannot read {}: {error}", log.display())))?;
    for witness in &witnesses {
        report.hold_against(witness);
    }
    if let Some(sequence) = options.sequence.filter(|_| report.holds() && report.event.is_none()) {
        return Err(absent(sequence, &report).into());
    }
    match options.output {
        Format::Text => text(&report, output),
        Format::Json => writeln!(output, "{}", object(&report)),
    }
    .context("cannot write the output")?;
    Ok(if report.holds() { Exit::Done } else { Exit::SomeFailed })
}

fn absent(sequence: u64, report: &Report) -> Usage {
    let end = report.first + report.entries;
    if (report.first..end).contains(&sequence) {
        return Usage(format!("event {sequence} is there, but its body was dropped because of its age"));
    }
    Usage(match end.checked_sub(1).filter(|_| report.entries > 0) {
        Some(last) => format!("event {sequence} is not in this copy, which has {} to {last}", report.first),
        None => format!("event {sequence} is not in this copy, which has none"),
    })
}

fn keys(files: &[PathBuf]) -> anyhow::Result<Vec<VerifierKey>> {
    let mut keys: Vec<VerifierKey> = Vec::new();
    for file in files {
        let unusable = |problem: String| Usage(format!("{}: {problem}", file.display()));
        let text = text_of(file).map_err(|error| unusable(format!("cannot read the key: {error}")))?;
        let key: VerifierKey = text.parse().map_err(|error| unusable(format!("{error}")))?;
        if keys.first().is_some_and(|first| first.name() != key.name()) {
            return Err(unusable(format!("a key of another log, {}: verify one log at a time", key.name())).into());
        }
        keys.push(key);
    }
    Ok(keys)
}

fn witnesses(files: &[PathBuf]) -> anyhow::Result<Vec<WitnessVerifier>> {
    let read = |file: &PathBuf| {
        let unusable = |problem: String| Usage(format!("{}: {problem}", file.display()));
        let text = text_of(file).map_err(|error| unusable(format!("cannot read the witness's key: {error}")))?;
        Ok(text.parse().map_err(|error| unusable(format!("not a witness's public key, its witness.vkey: {error}")))?)
    };
    files.iter().map(read).collect()
}

/// Adds the checkpoint at `path`, or all that are in that directory and below it.
fn kept(path: &Path, checkpoints: &mut Vec<Kept>) -> anyhow::Result<()> {
    let unusable = |error: io::Error| Usage(format!("{}: cannot read the checkpoint: {error}", path.display()));
    if path.is_dir() {
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<PathBuf> = entries.map_err(unusable)?.into_iter().map(|entry| entry.path()).collect();
        // What a running vault is about to rename is none of them.
        paths.retain(|path| path.extension().is_none_or(|extension| extension != "new"));
        paths.sort();
        return paths.iter().try_for_each(|path| kept(path, checkpoints));
    }
    let note = text_of(path).map_err(unusable)?;
    checkpoints.push(Kept { name: path.display().to_string(), note });
    Ok(())
}

/// A whole file, unless it is far too long. It comes from somebody else, so its length must not be what decides how much
/// memory this takes.
fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 4 MiB"));
    }
    Ok(text)
}

/// Whether a file is what `audit prove` writes. What can't be read is found later.
fn is_proof(log: &Path) -> bool {
    if !log.is_file() {
        return false;
    }
    let mut begin = Vec::new();
    let read = File::open(log).and_then(|file| file.take(PROOF.len() as u64).read_to_end(&mut begin));
    read.is_ok() && begin == PROOF.as_bytes()
}

fn verified(settings: &Settings, log: &Path) -> io::Result<Report> {
    let mut bar = Bar::new();
    if log.is_dir() {
        return verify::tiles(settings, |path| fetch(log, path), |done, of| bar.show(done, Some(of), "entries"));
    }
    if log == Path::new("-") {
        let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin());
        return verify::lines(settings, input, |done| bar.show(done >> 20, None, "MiB"));
    }
    let file = File::open(log)?;
    let length = file.metadata()?.len();
    let input = BufReader::with_capacity(BUFFER_BYTES, file);
    verify::lines(settings, input, |done| bar.show(done >> 20, Some(length >> 20), "MiB"))
}

/// A file of a directory of tiles.
fn fetch(directory: &Path, path: &str) -> io::Result<Option<Vec<u8>>> {
    match File::open(directory.join(path)) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

// === one event ===

fn prove(file: &Path, settings: &Settings, format: Format, output: &mut impl Write) -> anyhow::Result<Exit> {
    let unreadable = |error| Usage(format!("{}: cannot read the proof: {error}", file.display()));
    let text = text_of(file).map_err(unreadable)?;
    let proved = text.parse::<Proof>().and_then(|proof| Ok((proof.sequence, proof.verify(settings)?)));
    match (proved, format) {
        (Ok((sequence, proved)), Format::Text) => print_proved(sequence, &proved, output),
        (Ok((sequence, Proved { event, vouched })), Format::Json) => {
            let event: Value = serde_json::from_str(&event).context("an event is JSON")?;
            let said =
                json!({ "holds": true, "sequence": sequence, "event": event, "checkpoint": vouched_object(&vouched) });
            writeln!(output, "{said}")
        }
        (Err(problem), Format::Text) => {
            let bad = Terminal::of_output().colour(Colour::Red, "NOT VERIFIED");
            writeln!(output, "{bad}: {problem}").context("cannot write the output")?;
            return Ok(Exit::SomeFailed);
        }
        (Err(problem), Format::Json) => {
            writeln!(output, "{}", json!({ "holds": false, "problem": problem.to_string() }))
                .context("cannot write the output")?;
            return Ok(Exit::SomeFailed);
        }
    }
    .context("cannot write the output")?;
    Ok(Exit::Done)
}

fn print_proved(sequence: u64, proved: &Proved, output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "{}", proved.event)?;
    let vouched = &proved.vouched;
    let ok = Terminal::of_output().colour(Colour::Green, "VERIFIED");
    writeln!(
        output,
        "{ok}: event {sequence} is in the log of {} entries that {} signed",
        vouched.size,
        signers(vouched)
    )
}

// === what was found ===

fn text(report: &Report, output: &mut impl Write) -> io::Result<()> {
    let terminal = Terminal::of_output();
    if let Some(event) = report.event.as_ref().filter(|_| report.holds()) {
        writeln!(output, "{event}")?;
    }
    summary(report, output)?;
    for finding in &report.findings {
        writeln!(output, "{} {finding}", terminal.colour(Colour::Red, "BAD"))?;
        for note in finding.fault.evidence() {
            writeln!(output, "\n{note}")?;
        }
    }
    if report.more_findings > 0 {
        writeln!(output, "BAD and {} more", report.more_findings)?;
    }
    match (report.holds(), report.first_bad()) {
        (true, _) => {
            let ok = terminal.colour(Colour::Green, "VERIFIED");
            writeln!(
                output,
                "{ok}: all of it is as it was signed, each entry in its place, and none between is missing"
            )
        }
        (false, Some(entry)) => {
            writeln!(output, "{}: the first bad entry is {entry}", terminal.colour(Colour::Red, "NOT VERIFIED"))
        }
        (false, None) => writeln!(output, "{}: see above", terminal.colour(Colour::Red, "NOT VERIFIED")),
    }
}

fn summary(report: &Report, output: &mut impl Write) -> io::Result<()> {
    if let Some(log) = &report.log {
        writeln!(output, "log          {log}")?;
    }
    if let Some(last) = (report.first + report.entries).checked_sub(1).filter(|_| report.entries > 0) {
        write!(output, "entries      {}, from {} to {last}", report.entries, report.first)?;
        match report.dropped {
            0 => writeln!(output)?,
            dropped => writeln!(output, "; the bodies of {dropped} were dropped, as the log itself says")?,
        }
    }
    if let (Some(first), Some(last)) = (report.first_time, report.last_time) {
        writeln!(output, "time         {} to {}", rfc3339(first), rfc3339(last))?;
    }
    for (old, new, size) in &report.rotations {
        writeln!(output, "keys         {old} was succeeded by {new}: both signed the checkpoint of {size} entries")?;
    }
    for (name, vouched) in &report.kept {
        let same = match vouched.size {
            1 => "the first entry is the same".to_owned(),
            size => format!("the first {size} entries are the same"),
        };
        writeln!(output, "kept         {name}: {same} as then")?;
    }
    if let Some(vouched) = &report.vouched {
        writeln!(
            output,
            "checkpoints  {} fit; the newest is of {} entries, signed by {}",
            report.checkpoints,
            vouched.size,
            signers(vouched)
        )?;
        writeln!(output, "root         {}", vouched.root)?;
    }
    for (witness, size, seconds) in &report.cosigned {
        let time = cosigned_at(*seconds);
        writeln!(output, "witness      {witness} cosigned {size} entries, {time}")?;
    }
    Ok(())
}

/// What a witness says of its clock may be anything; the format ends with the year 9999.
fn cosigned_at(seconds: u64) -> impl std::fmt::Display {
    rfc3339(Timestamp::from_millis(seconds.min(253_402_300_799) * 1000))
}

fn signers(vouched: &Vouched) -> String {
    let keys: Vec<String> = vouched.keys.iter().map(|key| format!("key {key}")).collect();
    keys.join(" and ")
}

fn object(report: &Report) -> Value {
    let findings = report.findings.iter().map(|finding| {
        json!({
            "entry": finding.entry,
            "place": finding.place,
            "problem": finding.fault.to_string(),
            "evidence": finding.fault.evidence(),
        })
    });
    let kept = report.kept.iter().map(|(name, vouched)| json!({ "name": name, "checkpoint": vouched_object(vouched) }));
    let rotations = report
        .rotations
        .iter()
        .map(|(old, new, size)| json!({ "old": old.to_string(), "new": new.to_string(), "size": size }));
    let cosigned = report.cosigned.iter().map(|(witness, size, seconds)| {
        let time = cosigned_at(*seconds).to_string();
        json!({ "witness": witness.to_string(), "size": size, "time": time })
    });
    json!({
        "holds": report.holds(),
        "log": report.log.as_ref().map(ToString::to_string),
        "first": report.first,
        "entries": report.entries,
        "dropped": report.dropped,
        "first_time": report.first_time.map(|time| rfc3339(time).to_string()),
        "last_time": report.last_time.map(|time| rfc3339(time).to_string()),
        "checkpoints": report.checkpoints,
        "checkpoint": report.vouched.as_ref().map(vouched_object),
        "kept": kept.collect::<Vec<_>>(),
        "rotations": rotations.collect::<Vec<_>>(),
        "cosigned": cosigned.collect::<Vec<_>>(),
        "first_bad": report.first_bad(),
        "findings": findings.collect::<Vec<_>>(),
        "more_findings": report.more_findings,
        "event": report.event.as_ref().filter(|_| report.holds()).and_then(|event| serde_json::from_str::<Value>(event).ok()),
    })
}

fn vouched_object(vouched: &Vouched) -> Value {
    json!({
        "size": vouched.size,
        "root": vouched.root.to_string(),
        "keys": vouched.keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "note": vouched.note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_far_too_long_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proof");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_TEXT_BYTES).unwrap();
        assert_eq!(text_of(&path).unwrap().len() as u64, MAX_TEXT_BYTES);
        // Sparse, so it takes no room: more than a machine has memory.
        file.set_len(1 << 42).unwrap();
        let settings = Settings::default();
        for refused in [
            keys(std::slice::from_ref(&path)).err(),
            kept(&path, &mut Vec::new()).err(),
            prove(&path, &settings, Format::Text, &mut Vec::new()).err(),
        ] {
            let said = refused.unwrap().to_string();
            assert!(said.ends_with("it has more than 4 MiB"), "{said}");
        }
    }
}
