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
mod driver;
mod figures;
mod floor;
mod host;
mod latency;
mod load;
mod pace;
mod place;
mod probe;
mod report;
mod rounds;
mod stand;

use std::path::PathBuf;

pub use audit::{AuditReport, AuditSettings};
pub use floor::serve as serve_floor;
pub use report::Report;

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
