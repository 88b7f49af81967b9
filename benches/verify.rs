//! What verifying costs: `cargo bench --bench verify [-- EVENTS [DIRECTORY]]`.
//!
//! Makes a log of so many events (a million), each of one Detokenize of one value, as lines and as tiles, and verifies
//! both on one thread. It prints events and bytes in a second of processor time, and the largest memory that the process
//! has had. It asserts that both hold and nothing else. With a directory the log stays there, for `cloakroom audit verify`.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use cloakroom::clock::Timestamp;
use cloakroom::event::view::{Renderer, View};
use cloakroom::event::{Action, Event, ItemOutcome, Outcome, Reveal, finish, handles};
use cloakroom::merkle::note::{Checkpoint, LogKey, Name};
use cloakroom::merkle::{Frontier, HASH_BYTES, leaf_hash};
use cloakroom::secret::SecretKey;
use cloakroom::verify::{Report, Settings, bundle_path, export, lines, partial_path, tiles};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

const LOG: &str = "bench.example/log";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let events = arguments.first().map_or(1_000_000, |events| events.parse().expect("a number of events"));
    let temporary = tempfile::tempdir().expect("a directory for the log");
    let directory = arguments.get(1).map_or(temporary.path(), Path::new);
    let key = LogKey::from_seed(Name::new(LOG).expect("a name"), &SecretKey::new([7; 32]));
    make(events, &key, directory);
    fs::write(directory.join("log.vkey"), format!("{}\n", key.verifier())).expect("room on the disk");
    let settings = Settings { keys: vec![key.verifier()], ..Settings::default() };
    let path = directory.join("log.jsonl");
    let before = processor_seconds();
    let file = BufReader::with_capacity(1 << 20, File::open(&path).expect("it was just written"));
    let report = lines(&settings, file, |_| {}).expect("a file that can be read");
    say("lines", &report, before, fs::metadata(&path).map_or(0, |metadata| metadata.len()));
    let before = processor_seconds();
    let fetch = |path: &str| Ok(fs::read(directory.join("tiles").join(path)).ok());
    let report = tiles(&settings, fetch, |_, _| {}).expect("files that can be read");
    say("tiles", &report, before, 0);
}

fn say(form: &str, report: &Report, before: f64, bytes: u64) {
    assert!(report.holds(), "{:?}", report.findings);
    let seconds = processor_seconds() - before;
    let (events, mebibytes) = (report.entries as f64 / seconds, bytes as f64 / f64::from(1 << 20) / seconds);
    println!(
        "{form}: {} events in {seconds:.2} s of processor time, {events:.0} events/s, {mebibytes:.0} MiB/s; peak memory {}",
        report.entries,
        peak_memory()
    );
}

/// Writes the log in both forms, without ever holding it.
fn make(events: u64, key: &LogKey, directory: &Path) {
    let mut file = BufWriter::new(File::create(directory.join("log.jsonl")).expect("a directory to write to"));
    let (mut frontier, mut renderer, mut line, mut bundle) =
        (Frontier::new(), Renderer::default(), Vec::new(), Vec::new());
    for sequence in 0..events {
        let leaf = leaf(sequence);
        line.clear();
        let view = View::read(&leaf).expect("canonical");
        export::entry(&mut renderer, &view, LOG, sequence, &leaf, &mut line);
        file.write_all(&line).expect("room on the disk");
        bundle.extend_from_slice(&u16::try_from(leaf.len()).expect("a small event").to_be_bytes());
        bundle.extend_from_slice(&leaf);
        for tile in frontier.append(leaf_hash(&leaf)) {
            if tile.id().level == 0 {
                put(directory, &bundle_path(tile.id().index), &bundle);
                bundle.clear();
            }
            put(directory, &tile.id().path(), tile.bytes());
        }
    }
    for (id, hashes) in frontier.partial_tiles() {
        let width = hashes.len() / HASH_BYTES;
        if id.level == 0 {
            put(directory, &partial_path(&bundle_path(id.index), width), &bundle);
        }
        put(directory, &partial_path(&id.path(), width), hashes);
    }
    let checkpoint = Checkpoint::new(key.name().clone(), events, frontier.root(), vec![]).expect("no extensions");
    let note = checkpoint.sign(&[key]);
    put(directory, "checkpoint", note.as_bytes());
    line.clear();
    export::checkpoint(&note, &mut line);
    file.write_all(&line).and_then(|()| file.flush()).expect("room on the disk");
}

fn put(directory: &Path, path: &str, content: &[u8]) {
    let path = directory.join("tiles").join(path);
    fs::create_dir_all(path.parent().expect("it is below the directory")).expect("a directory to write to");
    fs::write(path, content).expect("room on the disk");
}

fn leaf(sequence: u64) -> Vec<u8> {
    let mut handle = [0x5c; 20];
    handle[..8].copy_from_slice(&sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let event = Event {
        action: Action::Detokenize.into(),
        outcome: Outcome::Allowed.into(),
        caller: "spiffe://dev.cloakroom.internal/payments".to_owned(),
        certificate_sha256: vec![0xa5; 32].into(),
        scope: "pan".to_owned(),
        handles: handles([Some(&handle)].into_iter()),
        requested: 1,
        succeeded: 1,
        purpose: "refund".to_owned(),
        peer_address: "127.0.0.1:40000".to_owned(),
        policies: vec!["payments-reads-pan".to_owned()],
        node: "vault".to_owned(),
        reveal: Reveal::Full.into(),
        rulebook: vec![0x3c; 32].into(),
        item_outcomes: vec![ItemOutcome::Released.into()],
        salt: handle[..16].to_vec().into(),
        ..Event::default()
    };
    finish(&event.encode_body(), Timestamp::from_millis(1_790_000_000_000 + sequence / 10))
}

/// What this process has used of the processor, from the system.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn peak_memory() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap_or("unknown").trim().to_owned()
}
