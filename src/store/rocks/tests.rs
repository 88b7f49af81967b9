//! What is RocksDB's alone: opening, durability as set up, damage on disk, failing writes.

use super::*;
use crate::store::suite;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use tempfile::TempDir;

suite::run_on!({
    let place = Place::new();
    drop(place.create());
    suite::reopen(move || place.open().unwrap())
});

/// A directory of its own, with a store in `store`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn create(&self) -> RocksStore {
        RocksStore::create(&self.path(), &config()).unwrap()
    }

    fn open(&self) -> Result<RocksStore, OpenError> {
        RocksStore::open(&self.path(), &config())
    }

    fn refusal(&self) -> OpenError {
        self.open().err().expect("it must be refused")
    }

    /// A copy as it lies on disk, to be damaged.
    fn copy(&self) -> Self {
        let copy = Self::new();
        fs::create_dir(copy.path()).unwrap();
        for (name, content) in self.files() {
            fs::write(copy.path().join(name), content).unwrap();
        }
        copy
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.names().into_iter().map(|name| (name.clone(), fs::read(self.path().join(name)).unwrap())).collect()
    }

    /// All but RocksDB's own words and its lock.
    fn data(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files();
        files.retain(|name, _| !name.starts_with("LOG") && name != "LOCK");
        files
    }

    /// The names of the files that end, or begin, like this; in order.
    fn named(&self, part: &str) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| name.ends_with(part) || name.starts_with(part));
        names
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path().join(name);
        let mut content = fs::read(&path).unwrap();
        edit(&mut content);
        fs::write(path, content).unwrap();
    }
}

/// As in production, except that temporary directories may lie on file systems without direct I/O.
fn config() -> RocksConfig {
    RocksConfig { direct_io: false, ..RocksConfig::default() }
}

/// Bytes that look random and are the same each time.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn commit(store: &RocksStore, table: Table, number: u32, content: &[u8]) -> Result<(), CommitError> {
    let mut batch = Batch::default();
    batch.put(table, &number.to_be_bytes(), content);
    store.commit(&batch)
}

#[test]
fn what_is_there_is_never_overwritten() {
    let place = Place::new();
    commit(&place.create(), Table::Meta, 1, b"kept").unwrap();
    assert!(matches!(RocksStore::create(&place.path(), &config()), Err(OpenError::Exists(_))));
    assert!(
        place.open().unwrap().get(Table::Meta, &[&1u32.to_be_bytes()], Tier::Disk).unwrap() == [found_row(b"kept")]
    );

    let other = Place::new();
    fs::create_dir(other.path()).unwrap();
    fs::write(other.path().join("somebody's file"), b"").unwrap();
    assert!(matches!(RocksStore::create(&other.path(), &config()), Err(OpenError::Exists(_))));
    assert_eq!(other.files().len(), 1);
}

fn found_row(content: &[u8]) -> Found {
    Found::Row(content.to_vec())
}

#[test]
fn what_is_missing_is_refused_and_not_made() {
    let place = Place::new();
    assert!(matches!(place.refusal(), OpenError::Missing(_)));
    assert!(!place.path().exists());
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(place.refusal(), OpenError::Missing(_)));
    assert!(place.files().is_empty());
    drop(place.create());
    place.open().unwrap();
}

#[test]
fn a_new_directory_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    drop(place.create());
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_opener_is_refused_s_06() {
    let place = Place::new();
    let store = place.create();
    assert!(matches!(place.refusal(), OpenError::Locked { .. }));
    commit(&store, Table::Meta, 1, b"the first goes on").unwrap();
    drop(store);
    place.open().unwrap();
}

/// The same across processes: this test starts itself once more, as the second process.
#[test]
fn a_second_process_is_refused_s_06() {
    const PATH: &str = "CLOAKROOM_TEST_SECOND_PROCESS";
    if let Some(path) = std::env::var_os(PATH) {
        assert!(matches!(RocksStore::open(path.as_ref(), &config()), Err(OpenError::Locked { .. })));
        return;
    }
    let place = Place::new();
    let store = place.create();
    let status = itself("a_second_process_is_refused_s_06").env(PATH, place.path()).status().unwrap();
    assert!(status.success());
    commit(&store, Table::Meta, 1, b"the first goes on").unwrap();
}

/// What a vault is writing at this moment looks torn to a second one.
#[test]
fn a_second_process_does_not_cut_the_log_of_one_that_runs_s_06() {
    const PATH: &str = "CLOAKROOM_TEST_CUTS_THE_LOG";
    if let Some(path) = std::env::var_os(PATH) {
        let path: &Path = path.as_ref();
        assert!(log::torn_end(path).unwrap().is_some());
        assert!(matches!(RocksStore::open(path, &config()), Err(OpenError::Locked { .. })));
        return;
    }
    let place = Place::new();
    let store = place.create();
    commit(&store, Table::Events, 0, &noise(40, 0)).unwrap();
    let log = place.named(".log").remove(0);
    place.edit(&log, |bytes| bytes.extend([0; 3]));
    // That file alone: whoever reads LOCK in this process and closes it gives up RocksDB's lock.
    let content = || fs::read(place.path().join(&log)).unwrap();
    let before = content();
    let test = "a_second_process_does_not_cut_the_log_of_one_that_runs_s_06";
    assert!(itself(test).env(PATH, place.path()).status().unwrap().success());
    assert!(content() == before);
    drop(store);
    assert_eq!(opened(&place), Opened::WithFirst(1), "and when it has ended, it is cut");
}

fn itself(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1;
    command.arg(format!("{module}::{test}")).arg("--exact").arg("--nocapture").stdout(Stdio::null());
    command
}

/// Not what we asked for but what runs: RocksDB writes it down at open, and mends settings that it finds at odds.
#[test]
fn the_running_engine_has_the_settings_that_durability_rests_on() {
    let place = Place::new();
    drop(RocksStore::create(&place.path(), &RocksConfig::default()).unwrap());
    let _store = RocksStore::open(&place.path(), &RocksConfig::default()).unwrap();
    let newest = place.named("OPTIONS-").pop().unwrap();
    let text = fs::read_to_string(place.path().join(newest)).unwrap();
    let (database, families) = text.split_once("[CFOptions").unwrap();
    let has = |text: &str, setting: &str| assert!(text.lines().any(|line| line.trim() == setting), "{setting}");

    for setting in [
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
        "track_and_verify_wals_in_manifest=true",
        "paranoid_checks=true",
        "verify_sst_unique_id_in_manifest=true",
        "flush_verify_memtable_count=true",
        "compaction_verify_record_count=true",
        "recycle_log_file_num=0",
        "enable_pipelined_write=false",
        "unordered_write=false",
        "two_write_queues=false",
        "manual_wal_flush=false",
        "best_efforts_recovery=false",
        "allow_2pc=false",
        "wal_compression=kNoCompression",
        "max_total_wal_size=134217728",
        "use_direct_io_for_flush_and_compaction=true",
        "use_direct_reads=false",
        "max_open_files=1000",
        "stats_dump_period_sec=0",
        "create_if_missing=false",
    ] {
        has(database, setting);
    }
    let families: Vec<&str> = families.split("[CFOptions").collect();
    assert_eq!(families.len(), Table::ALL.len() + 1);
    for family in families {
        for setting in
            ["compression=kNoCompression", "force_consistency_checks=true", "checksum=kXXH3", "format_version=6"]
        {
            has(family, setting);
        }
    }
}

#[test]
fn the_engine_tells_how_it_is() {
    let place = Place::new();
    let store = place.create();
    for number in 0..1000 {
        commit(&store, Table::Tokens, number, &[7; 170]).unwrap();
    }
    let properties = store.properties().unwrap();
    assert_eq!((properties.background_errors, properties.writes_stopped, properties.writes_delayed), (0, false, false));
    assert_eq!(properties.estimated_tokens, 1000);
    assert!(properties.memtable_bytes > 170_000 && properties.cache_bytes > 170_000, "memtables count as cache");
}

/// A store whose rows lie in table files: 400 tokens of 170 bytes.
fn in_table_files() -> Place {
    let place = Place::new();
    let store = place.create();
    let mut batch = Batch::default();
    for number in 0..400u32 {
        batch.put(Table::Tokens, &number.to_be_bytes(), &noise(170, u64::from(number)));
    }
    store.commit(&batch).unwrap();
    drop(store);
    // Recovery writes what it finds in the log to table files.
    drop(place.open().unwrap());
    assert_eq!(place.named(".sst").len(), 1);
    place
}

#[test]
fn rows_that_are_not_in_memory_are_cold() {
    let place = in_table_files();
    let store = place.open().unwrap();
    let keys = [&5u32.to_be_bytes()[..], &6u32.to_be_bytes(), b"none"];
    assert!(store.get(Table::Tokens, &keys, Tier::Memory).unwrap().contains(&Found::Cold));
    assert!(store.get(Table::Tokens, &keys[..1], Tier::Memory).unwrap() == [Found::Cold]);

    let rows = [found_row(&noise(170, 5)), found_row(&noise(170, 6)), Found::Absent];
    assert!(store.get(Table::Tokens, &keys, Tier::Disk).unwrap() == rows);
    assert!(store.get(Table::Tokens, &keys, Tier::Memory).unwrap() == rows, "and warm from then on");
    assert!(store.get(Table::Tokens, &keys[1..2], Tier::Memory).unwrap() == rows[1..2]);
}

#[test]
fn a_damaged_row_is_corrupt_and_its_neighbours_are_not_s_09() {
    let place = in_table_files();
    let row = noise(170, 123);
    place.edit(&place.named(".sst")[0], |file| {
        let at = file.windows(row.len()).position(|bytes| bytes == row).unwrap();
        file[at + 50] ^= 1;
    });
    let store = place.open().unwrap();
    let get = |number: u32| store.get(Table::Tokens, &[&number.to_be_bytes()], Tier::Disk);

    assert!(matches!(get(123), Err(ReadError::Corrupt { table: "tokens", .. })));
    assert!(get(0).unwrap() == [found_row(&noise(170, 0))]);
    assert!(get(399).unwrap() == [found_row(&noise(170, 399))]);
    let together = store.get(Table::Tokens, &[&0u32.to_be_bytes(), &123u32.to_be_bytes()], Tier::Disk);
    assert!(matches!(together, Err(ReadError::Corrupt { .. })));

    for order in [Order::Ascending, Order::Descending] {
        let scan = store.scan(Table::Tokens, b"", &[0xff; 5], order, usize::MAX);
        assert!(matches!(scan, Err(ReadError::Corrupt { .. })), "a scan never ends early as if that were all");
        assert_eq!(store.scan(Table::Tokens, b"", &[0xff; 5], order, 50).unwrap().len(), 50);
    }
    commit(&store, Table::Events, 1, b"commits go on").unwrap();
}

/// Wherever a table file is damaged (rows, filter, index, properties, footer): no read tells anything but the truth.
#[test]
fn no_damage_to_a_table_file_makes_a_read_lie_s_09() {
    let place = in_table_files();
    let name = &place.named(".sst")[0];
    let length = place.files()[name].len();
    let ends = [1, 9, 20, 45, 53];
    let (mut refused, mut seen) = (0, 0);
    for at in (0..length).step_by(1009).chain(ends.map(|end| length - end)) {
        let damaged = place.copy();
        damaged.edit(name, |file| file[at] ^= 1 << (at % 8));
        let Ok(store) = damaged.open() else {
            refused += 1;
            continue;
        };
        let mut errors = 0;
        for number in 0..401u32 {
            let expected = if number < 400 { found_row(&noise(170, u64::from(number))) } else { Found::Absent };
            match store.get(Table::Tokens, &[&number.to_be_bytes()], Tier::Disk) {
                Ok(found) => assert!(found == [expected], "a lie about row {number} with byte {at} flipped"),
                Err(_) => errors += 1,
            }
        }
        seen += usize::from(errors > 0);
    }
    assert!(refused + seen > 60, "the test damages what is read: {refused} refused, {seen} seen");
}

/// Commits of one row each, all in one log, and where each ends in it.
struct Log {
    place: Place,
    file: String,
    ends: Vec<usize>,
}

/// What opening a damaged store came to.
#[derive(Debug, PartialEq)]
enum Opened {
    /// Refused, with nothing changed.
    Refused,
    /// With the first so many commits, whole.
    WithFirst(usize),
    WithHole,
}

impl Log {
    fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let place = Place::new();
        let store = place.create();
        let file = place.named(".log").pop().unwrap();
        let path = place.path().join(&file);
        let commits = (0..).zip(lengths).map(|(number, length)| {
            commit(&store, Table::Events, number, &noise(length, u64::from(number))).unwrap();
            usize::try_from(fs::metadata(&path).unwrap().len()).unwrap()
        });
        let ends = commits.collect();
        drop(store);
        Self { place, file, ends }
    }

    /// Where the commit lies in the log.
    fn range(&self, commit: usize) -> std::ops::Range<usize> {
        commit.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[commit]
    }

    fn opened(&self, damage: impl FnOnce(&mut Vec<u8>)) -> Opened {
        let copy = self.place.copy();
        copy.edit(&self.file, damage);
        opened(&copy)
    }
}

fn opened(place: &Place) -> Opened {
    let before = place.data();
    let store = match place.open() {
        Ok(store) => store,
        Err(OpenError::Refused { .. } | OpenError::LogEnd { .. } | OpenError::Table { .. }) => {
            assert!(place.data() == before, "a refused store must not be changed");
            return Opened::Refused;
        }
        Err(other) => panic!("{other}"),
    };
    let rows = store.scan(Table::Events, b"", &[0xff; 5], Order::Ascending, usize::MAX).unwrap();
    let whole =
        |(number, row): (u32, &Row)| row.0 == number.to_be_bytes() && row.1 == noise(row.1.len(), number.into());
    if (0..).zip(&rows).all(whole) { Opened::WithFirst(rows.len()) } else { Opened::WithHole }
}

#[test]
fn a_log_cut_anywhere_in_the_last_record_opens_with_all_the_others_s_07() {
    let log = Log::of([40; 5]);
    for cut in log.range(4) {
        assert_eq!(log.opened(|bytes| bytes.truncate(cut)), Opened::WithFirst(4), "cut at {cut}");
    }
    // A record over several blocks of the log: within the pieces and around their ends.
    let log = Log::of([40, 40, 70_000]);
    let near_a_block = |cut: &usize| cut % 32_768 < 9 || cut % 32_768 > 32_764;
    for cut in log.range(2).filter(|cut| near_a_block(cut) || cut % 9973 == 0) {
        assert_eq!(log.opened(|bytes| bytes.truncate(cut)), Opened::WithFirst(2), "cut at {cut}");
    }
}

#[test]
fn a_torn_or_garbage_tail_costs_no_acknowledged_commit_s_07() {
    let log = Log::of([40; 5]);
    let last = log.range(4);
    for at in last.clone().step_by(6) {
        for filling in [0, 0xa5] {
            let opened = log.opened(|bytes| bytes[at..].fill(filling));
            assert!(matches!(opened, Opened::WithFirst(4) | Opened::Refused), "{opened:?} with {filling} from {at}");
        }
    }
    let record = fs::read(log.place.path().join(&log.file)).unwrap()[last].to_vec();
    let tails = [
        vec![0; 3],
        vec![0; 4096],
        vec![0; 70_000],
        vec![0xff; 64],
        noise(3, 1),
        noise(64, 1),
        noise(70_000, 1),
        record,
    ];
    for tail in tails {
        let opened = log.opened(|bytes| bytes.extend(&tail));
        assert!(matches!(opened, Opened::WithFirst(5) | Opened::Refused), "{opened:?} with {} bytes", tail.len());
    }
}

/// The length of a file may reach the disk before the last of its pages do: those are zeros then.
#[test]
fn pages_that_never_reached_the_disk_cost_no_acknowledged_commit_s_03_s_07() {
    let log = Log::of([2000, 300, 5000, 70_000]);
    let last = log.range(3);
    for (part, step) in [(512, 512 * 7), (4096, 4096), (32_768, 8192)] {
        for page in (0..last.end).step_by(step).filter(|page| page + part > last.start) {
            let missing = page.max(last.start)..(page + part).min(last.end);
            let opened = log.opened(|bytes| bytes[missing.clone()].fill(0));
            assert_eq!(opened, Opened::WithFirst(3), "{part} zeros from {page}");
        }
    }
    // What was cut off is gone for good, and the next commits stand where it stood.
    let copy = log.place.copy();
    copy.edit(&log.file, |bytes| bytes[last.end - 1000..].fill(0));
    let store = copy.open().unwrap();
    for number in 3..6 {
        commit(&store, Table::Events, number, &noise(200, number.into())).unwrap();
    }
    drop(store);
    assert_eq!(opened(&copy), Opened::WithFirst(6));
}

#[test]
fn any_flipped_bit_before_the_last_record_is_refused_s_08() {
    let log = Log::of([20; 4]);
    for at in log.range(1) {
        for bit in [0, 2, 5, 7] {
            assert_eq!(log.opened(|bytes| bytes[at] ^= 1 << bit), Opened::Refused, "byte {at}, bit {bit}");
        }
    }
    // The same for headers in a log of several blocks, whose pieces are of every kind.
    let log = Log::of([2000, 40_000, 70_000, 100]);
    for header in [0, 2, log.ends[0], log.ends[1], 32_768, 65_536, 98_304] {
        for byte in 0..7 {
            let opened = log.opened(|bytes| bytes[header + byte] ^= 0x80);
            assert_eq!(opened, Opened::Refused, "byte {byte} of the header at {header}");
        }
    }
}

#[test]
fn any_zeroed_part_before_the_last_record_is_refused_s_08() {
    let log = Log::of([2000, 300, 40_000, 300, 500, 70_000, 300, 100]);
    let end = log.range(7).start;
    for (part, step) in [(7, 1499), (512, 512 * 11), (4096, 4096), (32_768, 32_768)] {
        for at in (0..end - part).step_by(step) {
            let opened = log.opened(|bytes| bytes[at..at + part].fill(0));
            assert_eq!(opened, Opened::Refused, "{part} zeros from {at}");
        }
    }
    for record in 0..7 {
        let at = log.range(record).start;
        assert_eq!(log.opened(|bytes| bytes[at..at + 7].fill(0)), Opened::Refused, "the header of record {record}");
    }
}

/// Records that fill a block each: RocksDB alone opens these with holes in the middle.
#[test]
fn a_lost_or_doubled_block_of_the_log_is_refused_s_08() {
    const FILLS_A_BLOCK: usize = 32_768 - 29;
    let log = Log::of([FILLS_A_BLOCK, FILLS_A_BLOCK, FILLS_A_BLOCK, 40, 40]);
    assert_eq!(log.ends[..3], [32_768, 65_536, 98_304]);
    for block in 0..3 {
        let at = block * 32_768;
        assert_eq!(log.opened(|bytes| bytes[at..at + 7].fill(0)), Opened::Refused, "a zeroed header of block {block}");
        let opened = log.opened(|bytes| {
            let whole = bytes.clone();
            bytes.splice(at..at, whole[at..at + 32_768].iter().copied());
        });
        assert_eq!(opened, Opened::Refused, "block {block} twice");
    }
    let opened = log.opened(|bytes| drop(bytes.drain(32_768..65_536)));
    assert_eq!(opened, Opened::Refused, "the block in the middle lost");
}

/// What follows is not refused, and can't be from what is on the disk: the ledger must find it, by what it remembers.
#[test]
fn known_gap_a_log_that_was_cut_off_opens_with_fewer_commits_s_08() {
    let log = Log::of([40; 6]);
    for kept in 0..6 {
        let end = log.range(kept).start;
        assert_eq!(log.opened(|bytes| bytes.truncate(end)), Opened::WithFirst(kept));
        assert_eq!(log.opened(|bytes| bytes[end..].fill(0)), Opened::WithFirst(kept), "the same with zeros");
    }
}

#[test]
fn known_gap_damage_to_the_last_record_may_look_like_a_torn_write_s_08() {
    let log = Log::of([40; 4]);
    let header = log.range(3).start;
    assert_eq!(log.opened(|bytes| bytes[header + 5] ^= 0x10), Opened::WithFirst(3), "a length past the end");
    assert_eq!(log.opened(|bytes| bytes[header..header + 7].fill(0)), Opened::WithFirst(3), "a zeroed header");
    assert_eq!(log.opened(|bytes| bytes[header + 20] ^= 1), Opened::Refused, "but its content has a checksum");
}

/// A store with several logs, copied while it runs, as a kill leaves it; and how many commits it has.
fn with_several_logs() -> (Place, usize) {
    let place = Place::new();
    let small = RocksConfig { memtable_bytes: 256 << 10, ..config() };
    let store = RocksStore::create(&place.path(), &small).unwrap();
    // A row of another table keeps each log alive when its events have been written to a table file.
    commit(&store, Table::Scopes, 0, b"row").unwrap();
    let mut commits = 0;
    while place.named(".log").len() < 3 || commits % 10 != 0 {
        commit(&store, Table::Events, commits, &noise(2000, u64::from(commits))).unwrap();
        commits += 1;
    }
    drop(store);
    (place, commits as usize)
}

#[test]
fn a_closed_log_that_is_missing_or_cut_is_refused_s_10() {
    let (place, commits) = with_several_logs();
    assert_eq!(opened(&place.copy()), Opened::WithFirst(commits));
    let logs = place.named(".log");
    for log in &logs[..logs.len() - 1] {
        let copy = place.copy();
        fs::remove_file(copy.path().join(log)).unwrap();
        assert_eq!(opened(&copy), Opened::Refused, "without {log}");
        let copy = place.copy();
        copy.edit(log, |bytes| bytes.truncate(bytes.len() - 1));
        assert_eq!(opened(&copy), Opened::Refused, "with {log} cut");
    }
}

/// RocksDB looks at the lengths of closed logs. A crash tears only the newest: the others were whole when it was begun.
#[test]
fn a_closed_log_whose_end_is_damaged_is_refused_s_10() {
    let (place, _commits) = with_several_logs();
    let logs = place.named(".log");
    for log in &logs[..logs.len() - 1] {
        for damage in ["zeros", "noise", "a bit"] {
            let copy = place.copy();
            copy.edit(log, |bytes| {
                let from = bytes.len() - 1024;
                match damage {
                    "zeros" => bytes[from..].fill(0),
                    "noise" => bytes[from..].copy_from_slice(&noise(1024, 7)),
                    _ => bytes[from] ^= 1,
                }
            });
            let (before, why) = (copy.data(), copy.refusal().to_string());
            assert!(why.contains(&format!("the log {log} is damaged at byte ")), "{damage} in {log}: {why}");
            assert!(why.contains("later ones are there") && !why.contains("truncate"), "{damage} in {log}: {why}");
            assert!(copy.data() == before);
            let seen = RocksSnapshot::open(&copy.path(), &config()).err().map(|error| error.to_string());
            assert_eq!(seen, Some(why), "it is verified as it is started");
        }
    }
}

#[test]
fn a_piece_that_is_missing_between_two_logs_is_found_s_10() {
    let (place, _commits) = with_several_logs();
    let logs = place.named(".log");
    for (log, next) in logs.iter().zip(&logs[1..]) {
        let copy = place.copy();
        let last = copy.files()[log].len() - 2000;
        copy.edit(log, |bytes| {
            // The last record, to its first byte: what is left is sound.
            let header = (0..64).map(|back| last - back).find(|at| log::begins(&bytes[*at..]));
            bytes.truncate(header.expect("a record of one row of 2000 bytes"));
        });
        let why = copy.refusal().to_string();
        let missing =
            format!("the log {next} is damaged at byte 0: the log {log}, which comes before it, does not lead up");
        assert!(why.contains(&missing), "{log}: {why}");
        copy.edit(log, Vec::clear);
        let (why, number) = (copy.refusal().to_string(), log_number(log));
        assert!(why.contains(&format!("{number}.log")) || why.contains(&format!(" {number}")), "emptied: {why}");
    }
    let without = place.copy();
    fs::remove_file(without.path().join(&logs[1])).unwrap();
    let missing = format!("the log {}, which comes before it, is missing", logs[1]);
    assert!(without.refusal().to_string().contains(&missing), "{}", without.refusal());
}

/// A crash may leave some of the logs that are needed no more, in any order.
#[test]
fn an_old_log_that_is_needed_no_more_is_no_damage_s_10() {
    let (place, commits) = with_several_logs();
    let logs = place.named(".log");
    let oldest = fs::read(place.path().join(&logs[0])).unwrap();
    assert!(list::Logs::read(&place.path()).unwrap().unwrap().needed_from <= log_number(&logs[0]));
    let store = place.open().unwrap();
    assert!(list::Logs::read(&place.path()).unwrap().unwrap().needed_from > log_number(&logs[1]), "all is in tables");
    let commits = u32::try_from(commits).unwrap();
    commit(&store, Table::Events, commits, &noise(2000, commits.into())).unwrap();
    drop(store);
    assert!(!place.named(".log").contains(&logs[0]));
    fs::write(place.path().join(&logs[0]), oldest).unwrap();
    assert_eq!(opened(&place), Opened::WithFirst(commits as usize + 1));
}

fn log_number(name: &str) -> u64 {
    name.trim_end_matches(".log").parse().unwrap()
}

#[test]
fn what_was_cut_off_a_log_is_kept_beside_it_and_there_is_a_bound_s_03_s_07() {
    let place = Place::new();
    let mut kept = BTreeMap::new();
    drop(place.create());
    for round in 0..18_u32 {
        let store = place.open().unwrap();
        let log = place.named(".log").pop().unwrap();
        commit(&store, Table::Events, round, &noise(300, round.into())).unwrap();
        let whole = fs::read(place.path().join(&log)).unwrap().len();
        commit(&store, Table::Meta, 0, &noise(3000, round.into())).unwrap();
        drop(store);
        place.edit(&log, |bytes| bytes[whole + 1024..].fill(0));
        let torn = place.files()[&log][whole..].to_vec();
        assert_eq!(opened(&place), Opened::WithFirst(round as usize + 1), "round {round}");
        if round < 16 {
            kept.insert(format!("{log}.torn-{whole}"), torn);
        }
        let mut there = place.files();
        there.retain(|name, _| name.contains("torn"));
        assert!(there == kept, "round {round}: {:?}", there.keys());
    }
    // None is written over: one of the same name may be of a start that was killed, or of a backup put back.
    let names: Vec<_> = kept.keys().cloned().collect();
    for name in &names[1..] {
        fs::remove_file(place.path().join(name)).unwrap();
    }
    let (log, offset) = names[0].split_once(".torn-").unwrap();
    fs::write(place.path().join(log), [&vec![1; offset.parse().unwrap()][..], b"torn"].concat()).unwrap();
    let again = log::keep(&place.path().join(log), offset.parse().unwrap()).unwrap().unwrap();
    assert_eq!(fs::read(again).unwrap(), b"torn");
    assert!(place.files()[&names[0]] == kept[&names[0]]);
}

/// The way on that the message names is one that works.
#[test]
fn garbage_behind_the_end_of_the_log_is_refused_with_a_way_on_s_07() {
    let log = Log::of([40; 5]);
    let end = log.ends[4];
    let copy = log.place.copy();
    copy.edit(&log.file, |bytes| bytes.extend(noise(64, 1)));
    let (before, why) = (copy.data(), copy.refusal().to_string());
    let (path, file) = (copy.path(), &log.file);
    let command = format!("truncate --size={end} {}", path.join(file).display());
    let way = format!("Keep a copy of {}, then run `{command}` and start again", path.display());
    assert!(why.contains(&format!("the log {file} is damaged at byte {end}")) && why.contains(&way), "{why}");
    assert!(copy.data() == before);
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    assert_eq!(opened(&copy), Opened::WithFirst(5));
    // With a record in front of it that is not whole either there is no such way.
    let copy = log.place.copy();
    copy.edit(&log.file, |bytes| bytes.extend(noise(64, 1)));
    copy.edit(&log.file, |bytes| bytes[log.ends[1] + 30] ^= 1);
    let why = copy.refusal().to_string();
    assert!(why.contains(&format!("at byte {}: a record's checksum is wrong", log.ends[1])), "{why}");
}

#[test]
fn a_missing_table_is_named_and_nothing_else_is_blamed_s_10() {
    let place = in_table_files();
    let name = place.named(".sst").pop().unwrap();
    fs::remove_file(place.path().join(&name)).unwrap();
    let seen = RocksSnapshot::open(&place.path(), &config()).err().map(|error| error.to_string()).unwrap();
    for why in [place.refusal().to_string(), seen] {
        assert!(why.contains(&format!("its table file {name} is missing, though others are there")), "{why}");
        assert!(!why.contains("Corruption") && !why.contains("may be corrupted"), "{why}");
    }
}

#[test]
fn known_gap_a_store_without_its_newest_log_opens_with_fewer_commits_s_10() {
    let (place, commits) = with_several_logs();
    fs::remove_file(place.path().join(place.named(".log").pop().unwrap())).unwrap();
    let Opened::WithFirst(left) = opened(&place) else { panic!("it opens") };
    assert!(left < commits);
}

#[test]
fn a_missing_or_damaged_file_of_the_engine_is_refused_s_10() {
    let place = in_table_files();
    for part in ["CURRENT", "MANIFEST-", ".sst"] {
        let name = place.named(part).pop().unwrap();
        let missing = place.copy();
        fs::remove_file(missing.path().join(&name)).unwrap();
        assert_eq!(opened(&missing), Opened::Refused, "{name} missing");
        let cut = place.copy();
        cut.edit(&name, |bytes| bytes.truncate(bytes.len() / 2));
        assert_eq!(opened(&cut), Opened::Refused, "{name} cut");
    }
    let damaged = place.copy();
    damaged.edit(&place.named("MANIFEST-")[0], |bytes| bytes[100] ^= 1);
    assert_eq!(opened(&damaged), Opened::Refused);
    let without = place.copy();
    for options in place.named("OPTIONS-") {
        fs::remove_file(without.path().join(options)).unwrap();
    }
    assert_eq!(opened(&without), Opened::WithFirst(0), "options are set anew at each open");
}

/// Writes fail for real, by a limit on the size of files in a process of its own. Then no commit is taken any more, and
/// what had been acknowledged is there.
#[test]
fn after_a_failed_write_no_commit_is_taken_and_the_acknowledged_are_kept_s_04() {
    const PATH: &str = "CLOAKROOM_TEST_FAILED_WRITE";
    const ACKNOWLEDGED: &str = "acknowledged";
    if let Some(path) = std::env::var_os(PATH) {
        let path: &Path = path.as_ref();
        let acknowledged = commit_until_it_fails(&RocksStore::open(&path.join("store"), &config()).unwrap());
        fs::write(path.join(ACKNOWLEDGED), acknowledged.to_string()).unwrap();
        return;
    }
    let place = Place::new();
    drop(place.create());
    let test = itself("after_a_failed_write_no_commit_is_taken_and_the_acknowledged_are_kept_s_04");
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh"])
        .arg(test.get_program())
        .args(test.get_args());
    let status = limited.env(PATH, place.0.path()).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());

    let acknowledged: usize = fs::read_to_string(place.0.path().join(ACKNOWLEDGED)).unwrap().parse().unwrap();
    assert!(acknowledged > 0);
    let store = place.open().unwrap();
    let rows = store.scan(Table::Events, b"", &[0xff; 5], Order::Ascending, usize::MAX).unwrap();
    assert!(rows.len() == acknowledged || rows.len() == acknowledged + 1, "the failed one is unknown, no other");
    commit(&store, Table::Events, u32::MAX, b"after a restart").unwrap();
}

fn commit_until_it_fails(store: &RocksStore) -> usize {
    let content = noise(100_000, 1);
    let acknowledged = (0..1000).take_while(|number| commit(store, Table::Events, *number, &content).is_ok()).count();
    assert!(acknowledged < 1000, "the limit was not felt");
    let refusal = commit(store, Table::Meta, 1, b"small enough").unwrap_err();
    assert!(refusal.0.contains("an earlier commit had failed"), "{refusal}");
    assert!(store.commit(&Batch::default()).is_err());
    let first = store.get(Table::Events, &[&0u32.to_be_bytes()], Tier::Disk).unwrap();
    assert!(first == [found_row(&content)], "reads go on");
    acknowledged
}

#[test]
fn a_table_that_could_not_be_written_is_not_taken_for_a_missing_one_s_04_s_05() {
    let path = tempfile::tempdir().unwrap();
    let named =
        |text: &str| super::missing_table(path.path(), &text.replace("DIR", &path.path().display().to_string()));
    for text in [
        "IO error: No space left on device: While appending to file: DIR/000022.sst: No space left on device",
        "IO error: While fsync: DIR/000184.sst: Input/output error",
        "IO error: While open a file for appending: DIR/000010.sst: Too many open files",
    ] {
        assert_eq!(named(text), None, "{text}");
    }
    let missing = "Corruption: IO error: No such file or directory: While open a file for random read: DIR/000012.sst: No \
                   such file or directory  The file DIR/MANIFEST-000014 may be corrupted.";
    assert_eq!(named(missing).as_deref(), Some("000012.sst"));
    std::fs::write(path.path().join("000012.sst"), "").unwrap();
    assert_eq!(named(missing), None, "it is there");
}
