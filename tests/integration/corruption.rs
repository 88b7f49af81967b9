//! Files of a vault that were damaged, cut, taken away or turned back while it did not run. It never serves with less than
//! what was acknowledged: it opens with all of it, or refuses and names the file, or answers DATA_LOSS for the records of a
//! damaged block and nothing else.
//!
//! Many places are tried in this process, through the function that `serve` opens its data with; some of each kind on the
//! real program.

use crate::disks::{copy, copy_of, data_files};
use crate::faults::good_caller;
use crate::harness::{Home, Server, program, texts};
use crate::invariants::Invariants;
use crate::needs;
use crate::promises::{Dice, Plan, Promises, Stamp, run};
use crate::strace::Traced;
use cloakroom::clock::SystemClock;
use cloakroom::config::Config;
use cloakroom::proto::v1::{self, ItemOutcome};
use cloakroom::server;
use rocksdb::{DB, Options};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;

fn small(home: &Home) -> Command {
    let mut serve = home.serve_command();
    serve.env("CLOAKROOM_STORAGE__CACHE_BYTES", "8MiB");
    serve
}

async fn work(home: &Home, server: &Server, calls: u64) -> Promises {
    let ended = run(home, server, Plan { seed: Dice::seed(), callers: 12, calls, stamp: Box::new(|| 0) }, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    ended.promises
}

/// A vault whose process was killed in the midst of its work, so that all of it stands in the log.
async fn logged(calls: u64) -> (Home, Promises) {
    let home = Home::init();
    let server = home.serve();
    let promises = work(&home, &server, calls).await;
    server.kill();
    (home, promises)
}

/// A vault that was stopped, with its records in table files. What a start finds in the log it writes to some.
async fn in_tables(calls: u64) -> (Home, Promises) {
    let home = Home::init();
    let server = Server::launch(&home, small(&home)).unwrap();
    let promises = work(&home, &server, calls).await;
    server.stop();
    Server::launch(&home, small(&home)).unwrap().stop();
    (home, promises)
}

async fn assert_kept(home: &Home, promises: &Promises, what: &str) {
    let found = Invariants::new().check(home, home.serve_command(), promises, Stamp::MAX).await;
    let (server, findings) = found.unwrap_or_else(|log| panic!("{what}: {log}"));
    assert!(findings.broken.is_empty() && findings.values > 0, "{what}: {findings:#?}");
    good_caller(home, &server).await;
    server.stop();
}

/// What it said when it refused to start.
fn refusal(home: &Home, what: &str) -> String {
    let log = Server::launch(home, home.serve_command()).err().unwrap_or_else(|| panic!("{what}: it starts"));
    log.lines().filter(|line| line.starts_with("cloakroom: ")).collect::<Vec<_>>().join("\n")
}

// === opening in this process ===

fn config(home: &Home) -> Config {
    let none = std::iter::empty::<(String, String)>();
    Config::load(&home.file("cloakroom.toml"), none).unwrap()
}

/// As `serve` opens it: how many events the log has, or why it refuses.
async fn opened(config: &Config) -> Result<u64, String> {
    let opened = server::open(config, &SystemClock::shared()).map_err(|error| error.to_string())?;
    let ledger = opened.vault.ledger().clone();
    let head = tokio::task::spawn_blocking(move || ledger.head()).await.unwrap().expect("it is open");
    opened.stop().await.unwrap();
    Ok(head.size)
}

/// Where each record of a log begins. It must be sound.
fn records(log: &[u8]) -> Vec<usize> {
    let (mut at, mut begins) = (0, Vec::new());
    while at + HEADER <= log.len() {
        if BLOCK - at % BLOCK < HEADER {
            at += BLOCK - at % BLOCK;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        // 1: a whole record, 2: the first piece of one.
        if matches!(log[at + 6], 1 | 2) {
            begins.push(at);
        }
        at += HEADER + length;
    }
    begins
}

/// The newest log and its content.
fn newest_log(home: &Home) -> (PathBuf, Vec<u8>) {
    let log = data_files(home, ".log").pop().unwrap();
    let bytes = std::fs::read(&log).unwrap();
    (log, bytes)
}

// === S-07: the end of the log ===

/// A vault that was killed when it was about to make its last commit durable: nobody was told of that.
async fn torn() -> (Home, Promises) {
    let home = Home::init();
    let inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=SIGKILL:when=40"];
    let vault = Traced::launch(&home, &home.serve_command(), &inject);
    let plan = Plan { seed: Dice::seed(), callers: 6, calls: u64::MAX, stamp: Box::new(|| 0) };
    let ended = run(&home, vault.server(), plan, || {}).await;
    vault.end();
    assert!(!ended.failures.is_empty());
    (home, ended.promises)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_cut_in_its_last_record_opens_with_all_that_was_acknowledged_s_07() {
    cut_the_log(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: many starts"]
async fn a_log_cut_at_any_byte_of_its_last_record_opens_with_all_that_was_acknowledged_s_07() {
    cut_the_log(usize::MAX).await;
}

async fn cut_the_log(step_at_most: usize) {
    if !needs::met(&["strace"]) {
        return;
    }
    let (origin, promises) = torn().await;
    let (log, bytes) = newest_log(&origin);
    let last = *records(&bytes).last().unwrap();
    assert!(bytes.len() - last > HEADER, "the last record is there, whole");
    let (folder, home) = copy_of(&origin);
    let settings = config(&home);
    let data = home.file("data");
    let name = log.file_name().unwrap().to_owned();
    let restore = |content: &[u8]| {
        for name in ["data", "checkpoints"] {
            std::fs::remove_dir_all(home.file(name)).unwrap();
            copy(&origin.file(name), &home.file(name));
        }
        std::fs::write(data.join(&name), content).unwrap();
    };
    restore(&bytes);
    let whole = opened(&settings).await.unwrap();
    restore(&bytes[..last]);
    let acknowledged = opened(&settings).await.unwrap();
    assert!(acknowledged < whole, "the last record has events of its own");
    let mut cuts = 0;
    // Each byte of the headers, and of a long record some in between.
    let step = (bytes.len() - last).div_ceil(step_at_most);
    for cut in (last..last + 9).chain((last + 9..bytes.len()).step_by(step)).chain([bytes.len() - 1]) {
        restore(&bytes[..cut]);
        assert_eq!(opened(&settings).await, Ok(acknowledged), "cut at {cut} of {}", bytes.len());
        cuts += 1;
    }
    for cut in [last, last + 3, last + (bytes.len() - last) / 2, bytes.len() - 1] {
        restore(&bytes[..cut]);
        assert_kept(&home, &promises, &format!("cut at {cut}")).await;
    }
    // Behind it: opens with all, or refuses and says which file.
    let mut dice = Dice(Dice::seed());
    let (mut opens, mut refuses) = (0, 0);
    for (kind, length) in
        [("zeros", 3), ("zeros", 4096), ("zeros", 70_000), ("noise", 5), ("noise", 64), ("noise", 40_000), ("ones", 64)]
    {
        let filling = match kind {
            "zeros" => vec![0; length],
            "ones" => vec![0xff; length],
            _ => (0..length).map(|_| dice.next().to_le_bytes()[0]).collect(),
        };
        restore(&[&bytes[..], &filling].concat());
        match opened(&settings).await {
            Ok(size) => {
                assert_eq!(size, whole, "{length} {kind}");
                opens += 1;
            }
            Err(why) => {
                assert!(why.contains(&*name.to_string_lossy()), "{length} {kind}: {why}");
                // The way on that it names keeps all.
                let command = why.split_once("run `").and_then(|(_, rest)| rest.split_once('`'));
                let (command, _) = command.unwrap_or_else(|| panic!("{length} {kind}: {why}"));
                let done = Command::new("sh").args(["-c", command]).status().unwrap();
                assert!(done.success(), "{command}");
                assert_eq!(opened(&settings).await, Ok(whole), "{length} {kind}: {command}");
                refuses += 1;
            }
        }
    }
    drop(folder);
    println!(
        "cut at {cuts} bytes of the last record of {}: opens with the {acknowledged} events that were acknowledged; with {} tails \
         of garbage it opens {opens} times with all {whole}, and refuses {refuses} times",
        bytes.len() - last,
        opens + refuses
    );
}

// === S-08: the middle of the log ===

/// Damages that are tried, in all: each is one start.
async fn damage_the_log(positions: usize) {
    let (home, promises) = logged(400).await;
    let (log, bytes) = newest_log(&home);
    let begins = records(&bytes);
    let end = *begins.last().unwrap();
    let settings = config(&home);
    let mut dice = Dice(Dice::seed());
    let mut place = |bound: usize| usize::try_from(dice.below(bound as u64)).unwrap();
    let mut damages: Vec<(String, Range<usize>, u8)> = Vec::new();
    for _ in 0..positions {
        let begin = begins[place(begins.len() - 1)];
        let (bit, byte) = (1_u8 << place(8), place(HEADER));
        damages.push(("a bit of a header flipped".into(), begin + byte..begin + byte + 1, bit));
        let at = place(end);
        damages.push(("a bit flipped".into(), at..at + 1, bit));
        for (zeros, name) in [(512, "512 B zeroed"), (4096, "4 KiB zeroed")] {
            let at = place((end - zeros) / zeros) * zeros;
            damages.push((name.into(), at..at + zeros, 0));
        }
        damages.push(("a length raised".into(), begin + 5..begin + 6, 0x40));
    }
    let mut refused = 0;
    for (what, range, bit) in &damages {
        let mut damaged = bytes.clone();
        match bit {
            0 => damaged[range.clone()].fill(0),
            bit => damaged[range.start] ^= bit,
        }
        if damaged == bytes {
            continue;
        }
        std::fs::write(&log, &damaged).unwrap();
        let why = opened(&settings).await.expect_err(&format!("{what} at {range:?} of {}", bytes.len()));
        assert!(why.contains(".log") || why.contains("log"), "{what} at {range:?}: {why}");
        assert!(std::fs::read(&log).unwrap() == damaged, "{what} at {range:?}: a refused start changes nothing");
        refused += 1;
    }
    let mut said = String::new();
    for (what, range, bit) in damages.iter().take(5) {
        let mut damaged = bytes.clone();
        match bit {
            0 => damaged[range.clone()].fill(0),
            bit => damaged[range.start] ^= bit,
        }
        std::fs::write(&log, &damaged).unwrap();
        said = refusal(&home, what);
        assert!(said.contains(&*log.file_name().unwrap().to_string_lossy()), "{what}: {said}");
    }
    std::fs::write(&log, &bytes).unwrap();
    assert_kept(&home, &promises, "put right").await;
    println!(
        "{refused} damages in a log of {} records ({} bytes): all refused, such as: {said}",
        begins.len(),
        bytes.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_damaged_before_its_last_record_is_refused_s_08() {
    damage_the_log(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: many starts"]
async fn a_log_damaged_before_its_last_record_is_refused_wherever_that_is_s_08() {
    damage_the_log(300).await;
}

// === S-09: table files ===

/// The table files that hold rows of `tokens`, by RocksDB's own list.
fn token_tables(home: &Home) -> Vec<PathBuf> {
    let data = home.file("data");
    let families = DB::list_cf(&Options::default(), &data).unwrap();
    let db = DB::open_cf_for_read_only(&Options::default(), &data, families, false).unwrap();
    let files = db.live_files().unwrap();
    let of_tokens = files.into_iter().filter(|file| file.column_family_name == "tokens");
    of_tokens.map(|file| data.join(file.name.trim_start_matches('/'))).collect()
}

/// Where a part of a table file lies, by the name that its index of parts has for it.
fn part(file: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let at = file.windows(name.len()).rposition(|window| window == name)?;
    let mut rest = &file[at + name.len()..];
    // The filter's name has more behind it.
    while rest.first().is_some_and(u8::is_ascii_graphic) && name.ends_with(b"filter.") {
        rest = &rest[1..];
    }
    let (offset, rest) = varint(rest)?;
    let (size, _) = varint(rest)?;
    (offset + size <= file.len()).then_some(offset..offset + size)
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(9) {
        number |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[place + 1..]));
        }
    }
    None
}

#[derive(Debug, Default)]
struct Served {
    right: usize,
    damaged: usize,
}

/// Asks for every value, one token a time and all together: each is right or DATA_LOSS. What was damaged must be in the log,
/// in the metric, and found by `cloakroom verify`.
async fn served_but_for_the_damage(home: &Home, tokens: &[(String, Vec<u8>)], what: &str) -> Result<Served, String> {
    let server = Server::launch(home, small(home))?;
    let payments = server.client(&home.identity("payments")).await;
    let mut served = Served::default();
    for chunk in tokens.chunks(100) {
        let names: Vec<String> = chunk.iter().map(|(token, _)| token.clone()).collect();
        let answers = payments.detokenize("pan", &names).await.unwrap_or_else(|refusal| panic!("{what}: {refusal:?}"));
        for ((_, value), answer) in chunk.iter().zip(answers) {
            match answer {
                Ok(found) => {
                    assert!(found == *value, "{what}: another value");
                    served.right += 1;
                }
                Err(error) => {
                    assert_eq!(
                        (error.code, error.reason.as_str()),
                        (tonic::Code::DataLoss, "RECORD_DAMAGED"),
                        "{what}"
                    );
                    served.damaged += 1;
                }
            }
        }
    }
    let events = server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await;
    let outcomes = events.iter().flat_map(v1::AuditEvent::item_outcomes);
    let corrupt = outcomes.filter(|outcome| *outcome == ItemOutcome::Corrupt).count();
    assert_eq!(corrupt, served.damaged, "{what}: each has its event");
    assert_eq!(server.metric("cloakroom_records_damaged_total"), served.damaged as u64, "{what}");
    good_caller(home, &server).await;
    server.stop();
    Ok(served)
}

/// Whether `cloakroom verify` finds something, and what it says.
fn verify_finds(home: &Home) -> (bool, String) {
    let output = program().arg("verify").arg("--config").arg(home.file("cloakroom.toml")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (!output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_part_of_a_table_costs_no_more_than_its_records_s_09() {
    let origin = Home::init();
    let server = Server::launch(&origin, small(&origin)).unwrap();
    let gateway = server.client(&origin.identity("gateway")).await;
    let mut tokens = Vec::new();
    for batch in 0..12 {
        let values: Vec<Vec<u8>> =
            (0..100).map(|number| format!("value {number} of batch {batch}").into_bytes()).collect();
        let issued = gateway.tokenize("pan", &values.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
        tokens.extend(texts(&issued).into_iter().zip(values));
    }
    server.stop();
    // What a start finds in the log it writes to tables.
    Server::launch(&origin, small(&origin)).unwrap().stop();
    let tables = token_tables(&origin);
    let largest = tables.iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let bytes = std::fs::read(largest).unwrap();
    let (filter, index, properties) = (
        part(&bytes, b"fullfilter.").or_else(|| part(&bytes, b"filter.")),
        part(&bytes, b"rocksdb.index"),
        part(&bytes, b"rocksdb.properties"),
    );
    let first = filter.clone().or(index.clone()).map_or(bytes.len() / 2, |range| range.start);
    let mut places = vec![
        ("the first block", 100),
        ("a block in the middle", first / 2),
        ("the last block", first - 100),
        ("the footer's magic number", bytes.len() - 3),
        ("the footer's checksum", bytes.len() - 46),
        ("the footer's place of the list of parts", bytes.len() - 38),
    ];
    let middle = |range: &Range<usize>| range.start + (range.end - range.start) / 2;
    assert!(index.is_some() && properties.is_some(), "the file says where its parts are");
    places.extend(index.iter().map(|range| ("the index", middle(range))));
    places.extend(properties.iter().map(|range| ("the properties", middle(range))));
    places.extend(filter.iter().map(|range| ("the filter", middle(range))));
    for (what, at) in places {
        let (_folder, home) = copy_of(&origin);
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let name = largest.file_name().unwrap().to_string_lossy().into_owned();
        std::fs::write(home.file("data").join(&name), damaged).unwrap();
        let (found, said) = verify_finds(&home);
        match served_but_for_the_damage(&home, &tokens, what).await {
            Ok(Served { right, damaged }) => {
                assert_eq!(right + damaged, tokens.len(), "{what}");
                assert!(right >= tokens.len() / 2 || what == "the index", "{what}: its neighbours are served: {right}");
                assert!(found, "{what}: {damaged} damaged and verify says: {said}");
                // A filter only spares work: RocksDB does without it and does not say where it was.
                let is_filter = what == "the filter";
                assert_eq!(said.contains("the filter of 1 table file can't be read"), is_filter, "{what}: {said}");
                assert!(if is_filter { damaged == 0 } else { said.contains(&name) }, "{what}: {said}");
                println!(
                    "{what}: {right} values served, {damaged} DATA_LOSS; verify: {}",
                    said.lines().next().unwrap_or_default()
                );
            }
            Err(log) => {
                assert!(log.contains(&name), "{what}: {log}");
                assert!(found && said.contains(&name), "{what}: {said}");
                println!("{what}: refused: {}", log.lines().last().unwrap_or_default());
            }
        }
    }
    // All of it.
    let (_folder, home) = copy_of(&origin);
    let name = largest.file_name().unwrap().to_string_lossy().into_owned();
    std::fs::write(home.file("data").join(&name), vec![0x5a; bytes.len()]).unwrap();
    let said = refusal(&home, "a whole table");
    assert!(said.contains(&name) && said.contains("restore from a backup"), "{said}");
    println!("a whole table of {} overwritten: {said}", bytes.len());
    std::fs::write(home.file("data").join(&name), bytes).unwrap();
    assert_eq!(served_but_for_the_damage(&home, &tokens, "put right").await.unwrap().right, tokens.len());
}

// === S-10: files of the database ===

enum Harm {
    Deleted,
    Emptied,
    Halved,
    Flipped,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_database_that_is_missing_or_damaged_is_named_and_none_is_made_anew_s_10() {
    // Killed: there are tables, and a closed log besides the open one.
    let origin = Home::init();
    let server = Server::launch(&origin, small(&origin)).unwrap();
    let promises = work(&origin, &server, 900).await;
    server.kill();
    let mut refused = 0;
    let list = origin.read("data/CURRENT").trim().to_owned();
    let tables = data_files(&origin, ".sst");
    let table = tables[0].file_name().unwrap().to_string_lossy().into_owned();
    let logs = data_files(&origin, ".log");
    assert!(logs.len() > 1, "there is a log that was closed: {logs:?}");
    let closed = logs[logs.len() - 2].file_name().unwrap().to_string_lossy().into_owned();
    for name in ["CURRENT", list.as_str(), table.as_str(), closed.as_str()] {
        for (harm, word) in [
            (Harm::Deleted, "deleted"),
            (Harm::Emptied, "emptied"),
            (Harm::Halved, "halved"),
            (Harm::Flipped, "damaged"),
        ] {
            if name == table && matches!(harm, Harm::Flipped) {
                // That is for the test above: the vault serves all that is in other blocks.
                continue;
            }
            let (_folder, home) = copy_of(&origin);
            let file = home.file("data").join(name);
            spoil(&file, &harm);
            let before = listing(&home);
            let said = refusal(&home, &format!("{name} {word}"));
            // The number in its name is enough: RocksDB speaks of some files by that.
            let number = name
                .trim_start_matches("MANIFEST-")
                .trim_start_matches('0')
                .trim_end_matches(".log")
                .trim_end_matches(".sst");
            let is_current = name == "CURRENT" && said.contains(name);
            let numbers = said.split(|sign: char| !sign.is_ascii_digit());
            let is_named = numbers.map(|digits| digits.trim_start_matches('0')).any(|digits| digits == number);
            assert!(is_current || is_named, "{name} {word}: {said}");
            assert!(said.to_lowercase().contains("restore from a backup"), "{name} {word}: {said}");
            let after = listing(&home);
            assert!(!matches!(harm, Harm::Deleted) || !file.exists(), "{name} was made anew");
            // That a table is missing shows only when the others are open, behind a new list of files.
            assert!(
                before == after || name == table,
                "{name} {word}: nothing is made or deleted: {before:?} {after:?}"
            );
            println!("{name} {word}: {said}");
            refused += 1;
        }
    }
    // These two have nothing that the data does not say as well.
    for name in ["IDENTITY", "OPTIONS-"] {
        for harm in [Harm::Deleted, Harm::Flipped] {
            let (_folder, home) = copy_of(&origin);
            for file in std::fs::read_dir(home.file("data")).unwrap().flatten() {
                if file.file_name().to_string_lossy().starts_with(name) {
                    spoil(&file.path(), &harm);
                }
            }
            assert_kept(&home, &promises, name).await;
        }
    }
    println!("{refused} damages refused; without IDENTITY and OPTIONS everything is there");
}

/// Names of all files but the engine's own log of what it did.
fn listing(home: &Home) -> Vec<String> {
    let names = std::fs::read_dir(home.file("data")).unwrap().flatten();
    let mut names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with("LOG"));
    names.sort();
    names
}

fn spoil(file: &Path, harm: &Harm) {
    let bytes = std::fs::read(file).unwrap();
    match harm {
        Harm::Deleted => std::fs::remove_file(file).unwrap(),
        Harm::Emptied => std::fs::write(file, b"").unwrap(),
        Harm::Halved => std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap(),
        Harm::Flipped => {
            let mut bytes = bytes;
            // In the first half of it there is always a record, or a block, and not the last.
            let at = bytes.len() / 3;
            bytes[at] ^= 0x10;
            std::fs::write(file, bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_list_of_files_put_back_is_refused_s_10() {
    let (home, _before) = in_tables(300).await;
    let list = home.read("data/CURRENT").trim().to_owned();
    let older = std::fs::read(home.file("data").join(&list)).unwrap();
    let server = Server::launch(&home, small(&home)).unwrap();
    let promises = work(&home, &server, 900).await;
    server.kill();
    let (_folder, swapped) = copy_of(&home);
    let newer = home.read("data/CURRENT").trim().to_owned();
    std::fs::write(swapped.file("data").join(&list), &older).unwrap();
    swapped.write("data/CURRENT", &format!("{list}\n"));
    let said = refusal(&swapped, "the list of the last run");
    println!("the list of the run before: {said}");
    let (_folder, swapped) = copy_of(&home);
    std::fs::write(swapped.file("data").join(&newer), &older).unwrap();
    let said = refusal(&swapped, "the list of the last run under the name of this");
    println!("the same under the new one's name: {said}");
    // The way that the manual names: the whole copy put back.
    let (_folder, restored) = copy_of(&home);
    std::fs::remove_dir_all(restored.file("data")).unwrap();
    copy(&home.file("data"), &restored.file("data"));
    assert_kept(&restored, &promises, "restored").await;
}
