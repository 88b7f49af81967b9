//! What a commit costs: `cargo bench --bench commit [-- cache_bytes=… memtable_bytes=… ROUNDS]`.
//!
//! Synced commits of 1, 64 and 1,024 submissions, each shaped like one Tokenize call of one value: a row, its expiry, its
//! event and the event's three index rows. Beside each a probe of the same disk: one append of as many bytes, and fdatasync.
//! Then reads of what was written. It prints and asserts nothing; only ratios within one run mean something.
//!
//! Settings are given as in the configuration file, one `key=value` each. The data lies under `TMPDIR`.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use cloakroom::store::{Batch, Found, RocksConfig, RocksStore, Rows, Store, Table, Tier};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const SHAPES: [(usize, usize); 3] = [(1, 2000), (64, 1500), (1024, 600)];
const READ_BATCH: usize = 100;
const READ_BATCHES: usize = 2000;

/// Submissions in time order, as a busy vault makes them: 10,000 in each second.
struct Submissions {
    sequence: u64,
    content: [u8; 300],
}

struct Cost {
    wall: Vec<Duration>,
    cpu: Duration,
    written: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let (settings, rounds): (Vec<_>, Vec<_>) = arguments.into_iter().partition(|argument| argument.contains('='));
    let config: RocksConfig = toml::from_str(&settings.join("\n")).expect("settings are `key=value`");
    let rounds = rounds.first().map_or(1, |rounds| rounds.parse().expect("a number of rounds"));
    println!("{config:?}");
    let directory = tempfile::tempdir().expect("a directory for the data");
    let store = RocksStore::create(&directory.path().join("store"), &config).expect("an empty directory");
    let mut submissions = Submissions::new();
    for _ in 0..rounds {
        for (size, commits) in SHAPES {
            let commits_cost = measure(commits, |_| {
                let batch = submissions.batch(size);
                let start = Instant::now();
                store.commit(&batch).expect("the disk works");
                start.elapsed()
            });
            let bytes = Submissions::new().batch(size).size();
            report("commit", size, &commits_cost);
            report("fdatasync", size, &probe(directory.path(), bytes, commits));
        }
    }
    for (name, oldest) in
        [("read of the last 100,000", submissions.sequence.saturating_sub(100_000)), ("read of all", 0)]
    {
        report(name, READ_BATCH, &read(&store, oldest, submissions.sequence));
    }
    if let Some(properties) = store.properties() {
        let per_submission = properties.table_file_bytes / submissions.sequence;
        println!("{properties:?}, {per_submission} B of table files a submission of {}", submissions.sequence);
    }
    println!("resident: {} MB", resident_bytes() / 1_000_000);
}

impl Submissions {
    fn new() -> Self {
        Self { sequence: 0, content: [0; 300] }
    }

    fn batch(&mut self, size: usize) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..size {
            self.add(&mut batch);
        }
        batch
    }

    fn add(&mut self, batch: &mut Batch) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.content[..8].copy_from_slice(&scramble(sequence).to_le_bytes());
        let handle = handle(sequence);
        let place = sequence.to_be_bytes();
        let scope = (sequence % 50) as u32;
        let caller = scramble(sequence % 20).to_be_bytes();
        batch.put(Table::Tokens, &handle, &self.content[..170]);
        batch.put(Table::Expiry, &[&[0, 0, 1, scope as u8][..], &handle].concat(), b"");
        batch.put(Table::Events, &place, &self.content);
        batch.put(Table::EventIndex, &[b"c", &caller[..], &caller[..], &place[..]].concat(), b"");
        batch.put(Table::EventIndex, &[b"s", &scope.to_be_bytes()[..], &place[..]].concat(), b"");
        batch.put(Table::EventIndex, &[b"i", &handle[..4], &place[..]].concat(), &handle[4..6]);
    }
}

fn handle(sequence: u64) -> [u8; 20] {
    let mut handle = [0; 20];
    handle[..4].copy_from_slice(&u32::try_from(sequence / 10_000).expect("seconds of one run").to_be_bytes());
    handle[4..12].copy_from_slice(&scramble(sequence).to_be_bytes());
    handle[12..].copy_from_slice(&scramble(!sequence).to_be_bytes());
    handle
}

/// SplitMix64's finish: numbers that look random and can be made again.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn read(store: &RocksStore, oldest: u64, end: u64) -> Cost {
    let mut cold = 0;
    let cost = measure(READ_BATCHES, |number| {
        let pick = |n: usize| oldest + scramble((number * READ_BATCH + n) as u64) % (end - oldest);
        let handles: Vec<[u8; 20]> = (0..READ_BATCH).map(|n| handle(pick(n))).collect();
        let keys: Vec<&[u8]> = handles.iter().map(|handle| &handle[..]).collect();
        let start = Instant::now();
        let found = store.get(Table::Tokens, &keys, Tier::Memory).expect("sound blocks");
        if found.contains(&Found::Cold) {
            cold += 1;
            let found = store.get(Table::Tokens, &keys, Tier::Disk).expect("sound blocks");
            assert!(found.iter().all(|found| matches!(found, Found::Row(_))));
        }
        start.elapsed()
    });
    println!("{cold} of {READ_BATCHES} batches were not wholly in memory");
    cost
}

fn probe(directory: &Path, bytes: usize, times: usize) -> Cost {
    let mut file = File::create(directory.join("probe")).expect("a file beside the store");
    let content = vec![0x5a; bytes];
    measure(times, |_| {
        let start = Instant::now();
        file.write_all(&content).and_then(|()| file.sync_data()).expect("the disk works");
        start.elapsed()
    })
}

fn measure(times: usize, mut work: impl FnMut(usize) -> Duration) -> Cost {
    let (cpu, written) = (cpu_time(), written_bytes());
    let wall = (0..times).map(&mut work).collect();
    Cost { wall, cpu: cpu_time().saturating_sub(cpu), written: written_bytes() - written }
}

fn report(name: &str, size: usize, cost: &Cost) {
    let mut wall = cost.wall.clone();
    wall.sort_unstable();
    let at = |part: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a length is a place")]
        let place = ((wall.len() - 1) as f64 * part) as usize;
        wall[place].as_secs_f64() * 1e6
    };
    let total: Duration = wall.iter().sum();
    let rows = (size * wall.len()) as f64;
    println!(
        "{name} x {size}: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, {:.0} a second, {:.2} µs CPU each, {:.0} B written each",
        at(0.5),
        at(0.99),
        at(0.999),
        rows / total.as_secs_f64(),
        cost.cpu.as_secs_f64() * 1e6 / rows,
        cost.written as f64 / rows,
    );
}

/// Of all threads, those of the engine included: in nanoseconds, where `getrusage` counts in ticks.
fn cpu_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = tasks.flatten().filter_map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

fn resident_bytes() -> u64 {
    field("/proc/self/status", "VmRSS:") * 1024
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the field is there");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
