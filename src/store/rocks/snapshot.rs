//! The store as it was at one moment, to read, whether or not a vault has it open meanwhile.
//!
//! RocksDB reads the list of its files, opens them, reads its logs, and keeps what it found; it takes no lock and writes
//! nothing. What could go wrong is that the vault finishes with a file in between. If it deletes a log that was not read yet,
//! rows would be missing, silently; if it deletes a table file that was not opened yet, opening fails. So the names of all
//! files are looked at before and after, and if they are not the same it is opened again. A commit is one record of one log,
//! so none is seen by half.
//!
//! A power cut may leave a torn end of the log, which a start would cut off and RocksDB refuses. Here nothing is changed: what
//! nobody was told of is passed over.

use super::super::{Found, OpenError, Order, ReadError, Row, Rows, Table, Tier};
use super::fresh::Fresh;
use super::log::TornEnd;
use super::options::Parts;
use super::{
    CURRENT, Creation, RocksConfig, RocksStore, has_all_families, has_files_only, has_list, is_empty, log, open_error,
    options,
};
use rocksdb::{Cache, DB, DBRecoveryMode};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::{fs, io};

/// A busy vault begins or deletes a file each few seconds; opening takes some hundredths of one.
pub(super) const ATTEMPTS: usize = 20;
/// Why it is given up then.
pub(super) const BUSY: &str =
    "the vault that runs on it changed its files each time; stop it, or try again when there is less to do";

/// RocksDB's count of blocks whose checksum was wrong, as its statistics name it.
const WRONG_CHECKSUMS: &str = "rocksdb.block.checksum.mismatch.count COUNT : ";

/// Rows in RocksDB as they were at one moment.
pub struct RocksSnapshot {
    rows: RocksStore,
    damaged_filters: u64,
}

impl RocksSnapshot {
    /// The store in `path` as it is now.
    ///
    /// # Errors
    /// If there is none, it can't be opened, or it changed each time that it was.
    pub fn open(path: &Path, config: &RocksConfig) -> Result<Self, OpenError> {
        if is_empty(path).map_err(|error| OpenError::refused(path, &error))? {
            return Err(OpenError::Missing(path.to_owned()));
        }
        has_files_only(path)?;
        for _ in 0..ATTEMPTS {
            has_list(path)?;
            let before = files(path).map_err(|error| OpenError::refused(path, &error))?;
            let opened = open_sound(path, config);
            let after = files(path).map_err(|error| OpenError::refused(path, &error))?;
            match opened {
                // All table files were open before any log was read, and stay readable.
                Ok(snapshot) if after.logs == before.logs && after.list == before.list => return Ok(snapshot),
                Err(error) if after == before => return Err(error),
                _ => {}
            }
        }
        Err(OpenError::Refused { path: path.to_owned(), detail: BUSY.to_owned() })
    }

    /// How many table files have a filter that can't be read. A filter only spares reads of what is not in the file, and
    /// RocksDB does without it and says nothing. Without the other parts that it reads when it opens a file, it opens none.
    pub fn damaged_filters(&self) -> u64 {
        self.damaged_filters
    }
}

/// Where the newest log of the store in `path` ends with something that is not whole and that a snapshot passes over: a
/// crash tore it, or it is being written at this moment.
///
/// # Errors
/// If there is other damage, or it can't be read.
pub fn torn_end(path: &Path) -> Result<Option<TornEnd>, OpenError> {
    let unreadable = |error: io::Error| OpenError::refused(path, &error);
    let mut attempt = 1;
    loop {
        let before = files(path).map_err(unreadable)?;
        match log::torn_end(path) {
            // The vault may have deleted a log under the look.
            Err(_) if attempt < ATTEMPTS && files(path).map_err(unreadable)? != before => attempt += 1,
            found => return found,
        }
    }
}

/// Only if nothing is wrong with the logs but a torn end, by the same look as at a start.
fn open_sound(path: &Path, config: &RocksConfig) -> Result<RocksSnapshot, OpenError> {
    has_all_families(path)?;
    let torn = log::torn_end(path)?;
    let opened = open_once(path, config, LogEnd::Whole).or_else(|error| match torn {
        Some(_) => open_once(path, config, LogEnd::Torn),
        None => Err(error),
    });
    opened.map_err(|error| log::name_damage(path, error))
}

/// How the newest log ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogEnd {
    Whole,
    /// As a power cut may leave it, and with nothing behind it: this was looked at.
    Torn,
}

fn open_once(path: &Path, config: &RocksConfig, end: LogEnd) -> Result<RocksSnapshot, OpenError> {
    let cache = Cache::new_lru_cache(config.cache_bytes);
    let mut options = options::database(config, &cache, Creation::Never);
    // All at once, and kept: the vault may delete a file that it has compacted, but not take it from who has it open.
    options.set_max_open_files(-1);
    if end == LogEnd::Torn {
        // Whatever is in front of the torn record, and no more.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    }
    // Of a file that was merged, the engine would read the filter when a row is looked for, and here rows are read one by one.
    let families = options::families(config, Parts::Loaded(&cache));
    // Statistics are the one place where it tells of a filter that it did without.
    options.enable_statistics();
    let db = DB::open_cf_descriptors_read_only(&options, path, families, false);
    let rows = RocksStore::over(db.map_err(|error| open_error(path, &error))?, cache, Fresh::new(0));
    let statistics = options.get_statistics().unwrap_or_default();
    let wrong = statistics.lines().find_map(|line| line.strip_prefix(WRONG_CHECKSUMS)?.trim().parse().ok());
    Ok(RocksSnapshot { rows, damaged_filters: wrong.unwrap_or(0) })
}

/// What the vault may make and delete.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    pub(super) logs: BTreeSet<OsString>,
    pub(super) tables: BTreeSet<OsString>,
    /// Which list of files is in force.
    pub(super) list: String,
}

pub(super) fn files(path: &Path) -> io::Result<Files> {
    let (mut logs, mut tables) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        match Path::new(&name).extension().and_then(|extension| extension.to_str()) {
            Some("log") => _ = logs.insert(name),
            Some("sst") => _ = tables.insert(name),
            _ => {}
        }
    }
    Ok(Files { logs, tables, list: fs::read_to_string(path.join(CURRENT))? })
}

impl Rows for RocksSnapshot {
    fn get(&self, table: Table, keys: &[&[u8]], tier: Tier) -> Result<Vec<Found>, ReadError> {
        self.rows.get(table, keys, tier)
    }

    fn scan(&self, table: Table, start: &[u8], end: &[u8], order: Order, limit: usize) -> Result<Vec<Row>, ReadError> {
        self.rows.scan(table, start, end, order, limit)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::{Batch, Store};
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// So small that files come and go all the time.
    pub(in super::super) fn config() -> RocksConfig {
        RocksConfig { cache_bytes: 8 << 20, memtable_bytes: 128 << 10, wal_bytes: 256 << 10, ..RocksConfig::default() }
    }

    /// So many rows are in each table, and are written over and over.
    const ROWS: u64 = 256;

    /// Commit `number`: a row in each of three tables, and in one the number itself.
    pub(in super::super) fn commit(store: &RocksStore, number: u64) {
        let mut batch = Batch::default();
        let row = number.to_be_bytes().repeat(200);
        for table in [Table::Tokens, Table::Events, Table::Expiry] {
            batch.put(table, &(number % ROWS).to_be_bytes(), &row);
        }
        batch.put(Table::Meta, b"number", &number.to_be_bytes());
        store.commit(&batch).unwrap();
    }

    fn number(bytes: &[u8]) -> u64 {
        u64::from_be_bytes(*bytes.first_chunk().unwrap())
    }

    /// The last commit, in which all tables must agree.
    pub(in super::super) fn check(snapshot: &RocksSnapshot, at_least: u64) -> u64 {
        let Found::Row(row) = snapshot.get(Table::Meta, &[b"number"], Tier::Disk).unwrap().remove(0) else {
            panic!("the number is there from the beginning");
        };
        let last = number(&row);
        assert!(last >= at_least, "what was committed before is there: {last} and not {at_least}");
        for table in [Table::Tokens, Table::Events, Table::Expiry] {
            let rows = snapshot.scan(table, &[], &[0xff; 9], Order::Ascending, usize::MAX).unwrap();
            let mut found: Vec<u64> = rows.iter().map(|(_, row)| number(row)).collect();
            found.sort_unstable();
            assert!(found.into_iter().eq((last + 1).saturating_sub(ROWS)..=last), "{} up to {last}", table.name());
        }
        last
    }

    #[test]
    fn a_snapshot_is_whole_while_the_store_is_written_s_08() {
        const SNAPSHOTS: usize = 40;
        const COMMITS_MEANWHILE: u64 = 150;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        let store = RocksStore::create(&path, &config()).unwrap();
        commit(&store, 0);
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let allowed = Arc::new(AtomicU64::new(0));
        let writer = {
            let (stop, done, allowed) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&allowed));
            std::thread::spawn(move || {
                for number in 1.. {
                    while number > allowed.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    commit(&store, number);
                    done.store(number, Ordering::SeqCst);
                }
            })
        };
        let (mut taken, mut last, mut busy) = (0, 0, 0);
        while taken < SNAPSHOTS {
            let at_least = done.load(Ordering::SeqCst);
            // Enough for some files to come and go while it opens, and not so many that they never cease: how fast a disk
            // is must not decide whether this ends.
            allowed.store(at_least + COMMITS_MEANWHILE, Ordering::SeqCst);
            match RocksSnapshot::open(&path, &config()) {
                Ok(snapshot) => {
                    last = check(&snapshot, at_least);
                    taken += 1;
                }
                Err(OpenError::Refused { detail, .. }) if detail.contains("changed its files") => busy += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(busy < 10 * SNAPSHOTS, "{taken} snapshots, and busy {busy} times");
        }
        stop.store(true, Ordering::SeqCst);
        writer.join().unwrap();
        let end = done.load(Ordering::SeqCst);
        assert_eq!(check(&RocksSnapshot::open(&path, &config()).unwrap(), end), end);
        println!("{SNAPSHOTS} snapshots while {last} commits were made, {busy} times too busy");
    }

    #[test]
    fn a_torn_end_of_the_log_is_passed_over_and_other_damage_is_not_s_03_s_07() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        let store = RocksStore::create(&path, &config()).unwrap();
        let log = || {
            let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            names.filter(|name| name.extension().is_some_and(|extension| extension == "log")).max().unwrap()
        };
        commit(&store, 0);
        let whole = usize::try_from(fs::metadata(log()).unwrap().len()).unwrap();
        commit(&store, 1);
        drop(store);
        let sound = fs::read(log()).unwrap();
        assert!(sound.len() > whole + 2048, "the last commit takes several sectors");

        // The length was on the disk, and of the content only the beginning.
        let mut torn = sound.clone();
        torn[whole + 1024..].fill(0);
        fs::write(log(), &torn).unwrap();
        assert_eq!(check(&RocksSnapshot::open(&path, &config()).unwrap(), 0), 0);
        assert!(fs::read(log()).unwrap() == torn, "and nothing is changed");

        assert_eq!(torn_end(&path).unwrap().map(|end| end.offset), Some(whole as u64));

        // In front of a torn end RocksDB would stop at the first record that is not right, and say nothing.
        torn[whole / 2] ^= 1;
        fs::write(log(), &torn).unwrap();
        let why = RocksSnapshot::open(&path, &config()).err().expect("a record is missing").to_string();
        assert!(why.contains(".log is damaged at byte ") && why.contains("checksum"), "{why}");
        assert!(torn_end(&path).is_err());
        let started = RocksStore::open(&path, &config()).err().expect("nor does it start").to_string();
        assert_eq!(why, started);
        assert!(fs::read(log()).unwrap() == torn, "and nothing is cut off");

        let mut damaged = sound.clone();
        damaged[whole / 2] ^= 1;
        fs::write(log(), &damaged).unwrap();
        let why = RocksSnapshot::open(&path, &config()).err().expect("its sum is wrong").to_string();
        assert!(why.contains(&*log().file_name().unwrap().to_string_lossy()) && why.contains("at byte"), "{why}");
        fs::write(log(), &sound).unwrap();
        assert_eq!(torn_end(&path).unwrap(), None);
        assert_eq!(check(&RocksSnapshot::open(&path, &config()).unwrap(), 1), 1);
    }

    /// As they were written out, and once they were merged: the engine looks at filters of the first kind by itself.
    #[test]
    fn a_filter_that_is_damaged_is_counted_wherever_its_file_lies_s_09() {
        for is_merged in [false, true] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("store");
            let store = RocksStore::create(&path, &config()).unwrap();
            (0..3).for_each(|number| commit(&store, number));
            let family = store.family(Table::Tokens);
            store.db.flush_cf(family).unwrap();
            if is_merged {
                store.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
            }
            let file =
                store.db.live_files().unwrap().into_iter().find(|file| file.column_family_name == "tokens").unwrap();
            assert_eq!(file.level > 0, is_merged);
            let file = path.join(file.name.trim_start_matches('/'));
            drop(store);
            let sound = fs::read(&file).unwrap();
            // From the end, where the filter lies in front of the other parts.
            let mut places = (0..sound.len()).rev().step_by(40);
            let found = places.any(|at| {
                let mut damaged = sound.clone();
                damaged[at] ^= 0x10;
                fs::write(&file, damaged).unwrap();
                RocksSnapshot::open(&path, &config()).is_ok_and(|snapshot| snapshot.damaged_filters() == 1)
            });
            assert!(found, "no byte of it was in the filter, merged: {is_merged}");
            fs::write(&file, sound).unwrap();
            assert_eq!(RocksSnapshot::open(&path, &config()).unwrap().damaged_filters(), 0);
        }
    }

    #[test]
    fn a_snapshot_changes_nothing_and_keeps_nobody_out() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        assert!(matches!(RocksSnapshot::open(&path, &config()), Err(OpenError::Missing(_))));
        let store = RocksStore::create(&path, &config()).unwrap();
        commit(&store, 0);
        drop(store);
        let files = || {
            let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
            let mut files: Vec<_> = names.map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect();
            files.sort();
            files
        };
        let before = files();
        let snapshot = RocksSnapshot::open(&path, &config()).unwrap();
        assert!(files() == before, "nothing is written");
        let store = RocksStore::open(&path, &config()).unwrap();
        commit(&store, 1);
        assert_eq!(check(&snapshot, 0), 0, "it stays what it was");
        assert_eq!(check(&RocksSnapshot::open(&path, &config()).unwrap(), 1), 1);
        drop(store);
        fs::remove_file(path.join(CURRENT)).unwrap();
        let why = RocksSnapshot::open(&path, &config()).err().expect("the list is missing").to_string();
        assert!(why.contains("its file CURRENT is missing, though others are there"), "{why}");
    }
}
