//! The configuration file: every setting of a vault, as plain data.
//!
//! Invariant: a file with a mistake gives no [`Config`]. All mistakes are found in one go, and each names the file, the
//! line, the key and what would be right; an unknown key is a mistake, and so is an unknown `CLOAKROOM_…` variable.
//!
//! This module knows what a setting looks like and not what it does: whether a scope's mask makes sense is for `scope` to
//! say, whether a key file is too open for `keys`. What they find wrong later can still be placed, since scopes and roles
//! keep the line that each setting came from ([`Located`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod given;
mod reader;
pub mod reference;
mod sections;
mod show;
pub mod witness;

use crate::https::Base;
use crate::merkle::note::WitnessVerifier;

pub use self::reader::Located;

/// Variables that mean something to the program without being settings of the file.
pub const OTHER_VARIABLES: [&str; 4] = ["CLOAKROOM_PROFILE", "CLOAKROOM_ADDRESS", "CLOAKROOM_CONFIG", "CLOAKROOM_LOG"];

/// No configuration is as long.
const BYTES_AT_MOST: u64 = 4 << 20;

/// All settings of one vault.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that they were read from.
    pub file: PathBuf,
    /// `[server]`: the gRPC listener.
    pub server: Server,
    /// `[operations]`: the listener for probes and metrics.
    pub operations: Operations,
    /// `[[trust_domains]]`: whose certificates are believed. At least one.
    pub trust_domains: Vec<TrustDomain>,
    /// `[root_key]`: where the key that wraps all others comes from.
    pub root_key: RootKey,
    /// `[storage]`: where rows are kept.
    pub storage: Storage,
    /// `[audit]`: the log's outside.
    pub audit: Audit,
    /// `[ledger]`: how much may wait for the writer.
    pub ledger: Ledger,
    /// `[purge]`: how what has expired is deleted.
    pub purge: Purge,
    /// `[policies]`: where the Cedar policies are.
    pub policies: Policies,
    /// `[roles]`: SPIFFE IDs and patterns by role.
    pub roles: BTreeMap<String, Located<Vec<String>>>,
    /// `[scopes.…]`: rule sets by scope path or pattern.
    pub scopes: BTreeMap<String, Scope>,
    /// Where each setting of a plain table came from, for what only its use finds wrong.
    pub places: Places,
}

/// Where settings came from, by key.
#[derive(Clone, Default)]
pub struct Places(BTreeMap<String, Place>);

/// The gRPC listener.
#[derive(Debug, Clone)]
pub struct Server {
    /// `listen`: address and port. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `certificate`: the vault's certificate chain, PEM.
    pub certificate: PathBuf,
    /// `private_key`: its key, PEM.
    pub private_key: PathBuf,
    /// `node`: how this process is called in events. By default `vault`.
    pub node: String,
    /// `workers`: network threads. 0, the default: one for each core.
    pub workers: usize,
    /// `max_connections`, those in a handshake included. By default 1,024.
    pub max_connections: usize,
    /// `max_connections_per_caller`: open connections with one SPIFFE ID. 0, the default: half of `max_connections`.
    pub max_connections_per_caller: usize,
    /// `max_concurrent_streams`: calls in flight on one connection. By default 256.
    pub max_concurrent_streams: u32,
    /// `max_bytes_in_flight`: what calls may hold together. By default 256 MiB.
    pub max_bytes_in_flight: usize,
    /// `handshake_timeout`: by default 5 s.
    pub handshake_timeout: Duration,
    /// `keepalive_interval`: how long a connection may be silent before it is asked. By default 30 s.
    pub keepalive_interval: Duration,
    /// `keepalive_timeout`: how long it has to answer. By default 10 s.
    pub keepalive_timeout: Duration,
    /// `stall_timeout`: how long a peer may leave a reply lying, or take to send a message. By default 1 min.
    pub stall_timeout: Duration,
    /// `max_connection_age`: after this a client is told to connect anew, so that it shows a fresh certificate. By
    /// default 1 h; `0s` means never, and is `None` here.
    pub max_connection_age: Option<Duration>,
    /// `drain_timeout`: how long calls in flight may take to end at a stop. By default 10 s.
    pub drain_timeout: Duration,
}

/// The listener for `/livez`, `/readyz` and `/metrics`: no data, no client certificate.
#[derive(Debug, Clone)]
pub struct Operations {
    /// `listen`: address and port.
    pub listen: SocketAddr,
}

/// One SPIFFE trust domain. Its bundle vouches for no other domain.
#[derive(Debug, Clone)]
pub struct TrustDomain {
    /// `name`, such as `example.org`.
    pub name: String,
    /// `bundle`: its root certificates, PEM.
    pub bundle: PathBuf,
    /// `crls`: revocation lists, PEM. Empty: nothing is checked for revocation, and the start says so.
    pub crls: Vec<PathBuf>,
    /// The line of its header.
    pub line: u32,
}

/// Where the root key comes from.
#[derive(Debug, Clone)]
pub enum RootKey {
    /// `provider = "file"`: from a file that only its owner may read.
    File {
        /// `path` of the file.
        path: PathBuf,
    },
}

/// Where rows are kept.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `engine`: what keeps them.
    pub engine: Engine,
    /// `path`: the data directory.
    pub path: PathBuf,
    /// `cache_bytes`: the block cache, memtables included. By default 256 MiB.
    pub cache_bytes: usize,
    /// `min_free_bytes`: with less room than this on its disk the vault answers no calls. By default 128 MiB.
    pub min_free_bytes: usize,
}

/// What keeps the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// `rocksdb`, in the vault's own process.
    RocksDb,
}

/// The log's outside.
#[derive(Debug, Clone)]
pub struct Audit {
    /// `checkpoints`: the directory for signed checkpoints, outside the database. Better on another disk.
    pub checkpoints: PathBuf,
    /// `checkpoints_copy`: a second directory for the same, on another machine's disk if possible. None by default.
    pub checkpoints_copy: Option<PathBuf>,
    /// `retention`: how long the bodies of events are kept at least. Their hashes stay for ever. By default 397 days, which
    /// is 13 months.
    pub retention: Duration,
    /// `signing_key`: the log's private key. By default `log.key`.
    pub signing_key: PathBuf,
    /// `witnesses_required`: how many must cosign the log as it is found at a start. By default all.
    pub witnesses_required: Option<usize>,
    /// `[[audit.witnesses]]`: who is asked to cosign checkpoints.
    pub witnesses: Vec<Witness>,
    /// `sink_cursors`: the directory that says how far each sink has come. By default `sinks`.
    pub sink_cursors: PathBuf,
    /// `[[audit.sinks]]`: where events are sent. By default nowhere.
    pub sinks: Vec<Sink>,
}

/// One witness, as the vault reaches it.
#[derive(Debug, Clone)]
pub struct Witness {
    /// `url`: where it is.
    pub url: Base,
    /// `key`: its public key.
    pub key: WitnessVerifier,
    /// `ca`: who may vouch for it, PEM. Only with `https://`.
    pub ca: Option<PathBuf>,
}

/// One place to which events are sent.
#[derive(Debug, Clone)]
pub struct Sink {
    /// The line of its header.
    pub line: u32,
    /// `name`: in metrics, in the log, and of the cursor's file.
    pub name: String,
    /// `type` and `address`: what is spoken there, and where that is.
    pub target: SinkTarget,
    /// `ca`: the authorities that may vouch for the receiver, PEM. Always there for syslog and `https`.
    pub ca: Option<PathBuf>,
    /// `certificate`: what the vault shows to the receiver, PEM.
    pub certificate: Option<PathBuf>,
    /// `private_key`: its key, PEM.
    pub private_key: Option<PathBuf>,
    /// `format` of an event there. By default JSON.
    pub format: SinkFormat,
    /// `from`: where to begin without a cursor. By default at the beginning.
    pub from: SinkStart,
}

/// What is spoken with a sink, and where it is.
#[derive(Debug, Clone)]
pub enum SinkTarget {
    /// `type = "syslog"`, over TLS.
    Syslog {
        /// A DNS name or IP address.
        host: String,
        /// The port.
        port: u16,
    },
    /// `type = "otlp"`, over HTTP.
    Otlp {
        /// The whole address that logs are posted to.
        url: http::Uri,
    },
}

/// What an event looks like at a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkFormat {
    /// `json`: as `audit query --output json` prints it.
    Json,
    /// `ocsf`: OCSF's API Activity.
    Ocsf,
}

/// Where a sink begins for which there is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkStart {
    /// `beginning`: at the first event.
    Beginning,
    /// `now`: behind the last one.
    Now,
}

/// How much may wait for the one writer before callers are told to come back later.
#[derive(Debug, Clone, Copy)]
pub struct Ledger {
    /// `max_queued_calls`: by default 8,192.
    pub max_queued_calls: usize,
    /// `max_queued_records`: rows that wait, over all calls. By default 200,000.
    pub max_queued_records: usize,
    /// `max_queued_bytes`: by default 64 MiB.
    pub max_queued_bytes: usize,
    /// `stall_after`: a commit that takes longer than this means that the disk stands still. By default 2 s.
    pub stall_after: Duration,
}

/// How what has expired is deleted. All of it has defaults.
#[derive(Debug, Clone, Copy)]
pub struct Purge {
    /// `rows_per_second`: records that are looked at and deleted, at the most. By default 5,000.
    pub rows_per_second: u32,
    /// `grace`: how long after its expiry a record is kept. By default 24 h.
    pub grace: Duration,
    /// `interval`: how often it is looked whether there is anything to do. By default 1 min.
    pub interval: Duration,
}

/// Where the Cedar policies are.
#[derive(Debug, Clone)]
pub struct Policies {
    /// `directory`: every `*.cedar` in it is read.
    pub directory: PathBuf,
}

/// One scope's rule set, as written.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The line of its header.
    pub line: u32,
    /// `format` of the tokens, `opaque` or `uuid`. By default `opaque`.
    pub format: Located<String>,
    /// `prefix` of the tokens, where the format has one.
    pub prefix: Option<Located<String>>,
    /// `ttl`: the lifetime of tokens for which none is asked. By default 30 days.
    pub ttl: Located<Duration>,
    /// `max_ttl`: the longest lifetime. By default 400 days.
    pub max_ttl: Located<Duration>,
    /// `max_value_bytes`: the largest value. By default 65,536.
    pub max_value_bytes: Located<usize>,
    /// `mask`: what stays visible of a masked value. By default nothing.
    pub mask: Located<Mask>,
    /// `purpose_required`: whether Detokenize must state a purpose. By default it must.
    pub purpose_required: Located<bool>,
}

/// What stays visible of a masked value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mask {
    /// `keep_first`: so many characters at the start.
    pub keep_first: usize,
    /// `keep_last`: so many at the end.
    pub keep_last: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where: a line of the file, or a variable of the environment.
    pub place: Place,
    /// The key with its table, such as `server.listen`. Empty where the mistake is not about one key.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from 1.
    Line(PathBuf, u32),
    /// A variable of the environment.
    Variable(String),
}

/// A length of time as the configuration has it: a whole number and one of ms, s, m, h, d, w. `None` if it is not one.
pub fn duration(text: &str) -> Option<Duration> {
    given::length_of_time(text)
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{}: cannot read the configuration: {source}. {}", file.display(), how_to_name(file))]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file or the environment has mistakes.
    #[error("{}", one_per_line(.0))]
    Mistakes(Vec<Mistake>),
}

/// What to do about a file that is none.
fn how_to_name(file: &Path) -> String {
    let inside = file.join("cloakroom.toml");
    if inside.is_file() {
        return format!("Did you mean {}?", inside.display());
    }
    "`cloakroom init DIR` writes one, and `serve --config` names it".to_owned()
}

impl Config {
    /// Bytes of memory that a vault with these settings takes at the most. docs/operations.md says why each is in it.
    pub fn memory_at_most(&self) -> u64 {
        const PROGRAM: usize = 300 << 20;
        const CONNECTION: usize = 64 << 10;
        let settings = [
            self.storage.cache_bytes,
            self.server.max_bytes_in_flight.saturating_mul(3),
            self.ledger.max_queued_bytes.saturating_mul(4),
            self.server.max_connections.saturating_mul(CONNECTION),
        ];
        settings.into_iter().fold(PROGRAM, usize::saturating_add) as u64
    }

    /// Reads `file`, with `variables` (the environment, of which only names that begin with `CLOAKROOM_` matter) laid
    /// over it.
    ///
    /// # Errors
    /// With every mistake that was found, in the order of the lines.
    pub fn load(file: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        Self::parse(file, &read(file)?, variables)
    }

    /// What holds: `file` with `variables` laid over it and defaults filled in, as TOML that gives the same configuration,
    /// with the origin of each value as a comment. Settings hold paths of secrets and no secrets, so nothing is hidden.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn show(file: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<String, Error> {
        show::show(file, &read(file)?, variables)
    }

    /// As [`Config::load`], with the text of the file given.
    ///
    /// # Errors
    /// With every mistake that was found, in the order of the lines.
    pub fn parse(
        file: &Path,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let document = reader::Document::new(file, text, variables);
        let config = sections::config(&document);
        let places = Places::of(file, &document);
        let mistakes = document.into_mistakes(&OTHER_VARIABLES);
        match config {
            Some(config) if mistakes.is_empty() => Ok(Self { places, ..config }),
            _ => Err(Error::Mistakes(mistakes)),
        }
    }
}

impl Places {
    fn of(file: &Path, document: &reader::Document<'_>) -> Self {
        let mut places = BTreeMap::new();
        for reading in document.readings() {
            let place = match reading.origin {
                reader::Origin::Line(line, _) => Place::Line(file.to_owned(), line),
                reader::Origin::Variable(name, _) => Place::Variable(name),
                // What is written nowhere belongs to its table.
                reader::Origin::Default => Place::Line(file.to_owned(), reading.header.1),
            };
            // Of tables that repeat, the first: what is wrong with another says its file.
            places.entry(reading.reference).or_insert(place);
        }
        Self(places)
    }

    /// What is wrong with the setting `key`, with its place.
    pub fn mistake(&self, key: &str, problem: String) -> Option<Mistake> {
        let place = self.0.get(key)?.clone();
        Some(Mistake { place, key: key.to_owned(), problem })
    }
}

/// The configuration is compared by what it says, not by where it says it.
impl fmt::Debug for Places {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Places")
    }
}

/// Finds variables that mean nothing to any command, so that `CLOAKROOM_ADRESS` is not silently without effect.
pub fn unknown_variables(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Mistake> {
    // An empty file is read for the names that are asked for on the way; what it lacks does not matter here.
    let document = reader::Document::new(Path::new(""), "", variables);
    let _incomplete = (sections::config(&document), witness::settings(&document));
    let mut mistakes = document.into_mistakes(&OTHER_VARIABLES);
    mistakes.retain(|mistake| matches!(&mistake.place, Place::Variable(_)) && mistake.key.is_empty());
    mistakes
}

/// For `src/fuzz`: as [`Config::show`], with the text of the file given.
#[cfg(test)]
pub(crate) fn check_shown(file: &Path, text: &str) -> Option<String> {
    show::show(file, text, []).ok()
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line(file, line) => write!(formatter, "{}:{line}: ", harmless(&file.to_string_lossy()))?,
            Place::Variable(name) => write!(formatter, "environment variable {}: ", harmless(name))?,
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", harmless(&self.key))?;
        }
        formatter.write_str(&harmless(&self.problem))
    }
}

/// `text` without what would move a cursor, turn the direction of writing or be invisible: that is shown as its escape.
/// Callers, and whoever wrote a file, choose some of the texts that people read.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

fn read(file: &Path) -> Result<String, Error> {
    let bytes =
        crate::file::read(file, BYTES_AT_MOST).map_err(|source| Error::Unreadable { file: file.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count();
        let place = Place::Line(file.to_owned(), u32::try_from(line).unwrap_or(u32::MAX));
        let problem = "has a byte that is not UTF-8. Save the file as UTF-8".to_owned();
        Error::Mistakes(vec![Mistake { place, key: String::new(), problem }])
    })
}

fn one_per_line(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
