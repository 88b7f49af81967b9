//! How RocksDB is set up, each setting with its reason. `tests.rs` reads back what the running engine really uses.

use super::Creation;
use crate::store::Table;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel, LruCacheOptions,
    MemtableFactory, Options, WriteBufferManager,
};

const MIB: usize = 1 << 20;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RocksConfig {
    /// Memory for blocks, filters, indexes, memtables and rows that were written lately, together. The process needs about 100 MB more.
    pub cache_bytes: usize,
    /// When one table's rows in memory are written to a file.
    pub memtable_bytes: usize,
    /// How long the log may grow. It decides how long a restart after a crash takes.
    pub wal_bytes: u64,
    /// How many table files are kept open.
    pub open_files: i32,
    /// Whether flush and compaction go past the page cache. Off only for file systems that can't do it.
    pub direct_io: bool,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 256 * MIB,
            memtable_bytes: 64 * MIB,
            wal_bytes: 128 << 20,
            open_files: 1000,
            direct_io: true,
        }
    }
}

impl RocksConfig {
    /// How much room a database takes from the disk when it is opened: its new log has its blocks at once. RocksDB takes a
    /// tenth more than the largest table may have in memory, unless the log or all memtables together are to be smaller.
    pub fn taken_by_opening(&self) -> u64 {
        let memtables = self.memtable_bytes.saturating_add(self.memtable_bytes / 10).min(self.cache_bytes / 2);
        (memtables as u64).min(self.wal_bytes)
    }
}

/// A cache in as many parts as RocksDB has by default, or fewer: the index of a file has half a megabyte, memtables are accounted
/// for in pieces of a quarter, and in a part of three of them pushed one another out. Then a cold read reads an index first.
pub(super) fn cache(bytes: usize) -> Cache {
    const PART_BYTES: usize = 32 * MIB;
    const MOST_PARTS_BITS: u32 = 6;
    let bits = (bytes / PART_BYTES).max(1).ilog2().min(MOST_PARTS_BITS);
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(bits.cast_signed());
    Cache::new_lru_cache_opts(&options)
}

/// The settings of the database as a whole.
pub(super) fn database(config: &RocksConfig, cache: &Cache, creation: Creation) -> Options {
    let mut options = Options::default();
    let new = matches!(creation, Creation::New);
    options.create_if_missing(new);
    options.create_missing_column_families(new);
    options.set_error_if_exists(new);
    durable(&mut options);
    bounded(&mut options, config, cache);
    quiet(&mut options);
    options
}

/// Where the parts of a table file lie that say what is in it: its index and its filter.
#[derive(Clone, Copy)]
pub(super) enum Parts<'a> {
    /// In the cache, from when they are first asked for.
    Cached(&'a Cache),
    /// In memory from when the file is opened: whoever looks for damage has seen them all then. Other blocks are in the cache.
    Loaded(&'a Cache),
}

/// A family for each table, and the default one that RocksDB insists on.
pub(super) fn families(config: &RocksConfig, parts: Parts<'_>) -> Vec<ColumnFamilyDescriptor> {
    let tables =
        Table::ALL.iter().map(|table| ColumnFamilyDescriptor::new(table.name(), family(*table, config, parts)));
    let mut default = small(config);
    default.set_block_based_table_factory(&plain_blocks(parts));
    tables.chain([ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, default)]).collect()
}

/// What "acknowledged is kept" rests on.
fn durable(options: &mut Options) {
    // The only mode that tolerates a torn last record (which nobody was told of) and refuses all other damage. RocksDB's
    // default opens with whatever stands before the damage. Log files can't be recycled under it; recycling stays off.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_recycle_log_file_num(0);
    // A log that was closed and is then missing or shorter is noticed at open.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // These would trade order or durability for speed. They are off by default and stay so.
    options.set_enable_pipelined_write(false);
    options.set_unordered_write(false);
    options.set_manual_wal_flush(false);
}

/// What keeps memory, files and pauses within bounds.
fn bounded(options: &mut Options, config: &RocksConfig, cache: &Cache) {
    // Memtables are paid for by the cache, so that one number bounds both. Writers never wait for it: flushes do the work.
    let memtables =
        WriteBufferManager::new_write_buffer_manager_with_cache(config.cache_bytes / 2, false, cache.clone());
    options.set_write_buffer_manager(&memtables);
    options.set_max_total_wal_size(config.wal_bytes);
    options.set_max_open_files(config.open_files);
    options.set_use_direct_io_for_flush_and_compaction(config.direct_io);
    // Big files are deleted in the background, not by the writer that happens to drop the last reference.
    options.set_avoid_unnecessary_blocking_io(true);
    // There is one writer; a memtable for one is cheaper than one for many.
    options.set_allow_concurrent_memtable_write(false);
    options.set_skip_stats_update_on_db_open(true);
}

/// What RocksDB writes about itself.
fn quiet(options: &mut Options) {
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(4 * MIB);
    options.set_keep_log_file_num(4);
}

fn family(table: Table, config: &RocksConfig, parts: Parts<'_>) -> Options {
    let mut options = match table {
        Table::Tokens | Table::Expiry | Table::Fingerprints | Table::Requests | Table::Events | Table::EventIndex => {
            large(config)
        }
        Table::Tree | Table::Scopes | Table::Keys | Table::Meta | Table::State => small(config),
    };
    if table == Table::Expiry {
        // Nobody asks for one of its rows; only the purge scans it, once in a while. So what is in memory need not be
        // sorted before it is written out, which takes a fifth of the CPU of a large commit off the writer. A scan sorts
        // what is in memory, hence little of it.
        options.set_memtable_factory(MemtableFactory::Vector);
        options.set_write_buffer_size(config.memtable_bytes / 8);
    }
    if table == Table::EventIndex {
        // Only questions of auditors scan it, and each event has several rows in it, those of tokens in no order: finding their
        // places was a quarter of the CPU of a large Detokenize. What is in memory is sorted when it is scanned or written out,
        // so there is little of it, and what was written out is merged in large steps.
        options.set_memtable_factory(MemtableFactory::Vector);
        options.set_write_buffer_size(config.memtable_bytes / 8);
        options.set_level_zero_file_num_compaction_trigger(32);
        options.set_level_zero_slowdown_writes_trigger(64);
        options.set_level_zero_stop_writes_trigger(128);
    }
    if matches!(table, Table::Tokens | Table::Expiry) {
        // Purging deletes whole ranges, of `expiry` from the front, where the next purge scans; of `tokens` those that were
        // issued together. What it deleted is compacted away once it makes up a good part of a file, or it would lie there
        // until by chance something is written between.
        options.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    }
    options.set_block_based_table_factory(&blocks(table, parts));
    options
}

/// For tables that grow with each request.
fn large(config: &RocksConfig) -> Options {
    let mut options = beside_the_last_one(plain());
    options.set_write_buffer_size(config.memtable_bytes);
    // The next memtable fills while the last ones are written out.
    options.set_max_write_buffer_number(4);
    options
}

/// A memtable then finds the place of a row from that of the row before it, and not from the beginning: a commit's rows come in the
/// order of their keys, and keys lie in the order of time. By their first byte, which parts the kinds of rows in the index of
/// events: those of each kind come in an order of their own. There is no setter for it.
fn beside_the_last_one(mut options: Options) -> Options {
    let set = options.get_options_from_string("memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.1");
    set.expect("the engine knows an option that it has had since 2016")
}

/// For tables that are written rarely, or whose rows are overwritten: little memory, taken in small steps.
fn small(config: &RocksConfig) -> Options {
    let mut options = plain();
    options.set_write_buffer_size(config.memtable_bytes / 8);
    options.set_arena_block_size(64 << 10);
    options
}

fn plain() -> Options {
    let mut options = Options::default();
    // What is stored is ciphertext and hashes.
    options.set_compression_type(DBCompressionType::None);
    options
}

fn blocks(table: Table, parts: Parts<'_>) -> BlockBasedOptions {
    let mut blocks = plain_blocks(parts);
    if matches!(table, Table::Tokens | Table::Fingerprints | Table::Requests) {
        // Asked by whole keys, often for one that is not there: about one wrong answer in a hundred.
        blocks.set_bloom_filter(10.0, false);
        blocks.set_whole_key_filtering(true);
    }
    blocks
}

fn plain_blocks(parts: Parts<'_>) -> BlockBasedOptions {
    let (cache, are_cached) = match parts {
        Parts::Cached(cache) => (cache, true),
        Parts::Loaded(cache) => (cache, false),
    };
    let mut blocks = BlockBasedOptions::default();
    // Pinned, so that what lies on disk does not change with RocksDB's default. 6 binds a block's checksum to its file and
    // place, and every RocksDB since 8.6 reads it; what 7 adds is for compression, and nothing here is compressed.
    blocks.set_format_version(6);
    blocks.set_block_cache(cache);
    // Indexes and filters count against the cache like all else, and go last.
    blocks.set_cache_index_and_filter_blocks(are_cached);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(are_cached);
    blocks
}
