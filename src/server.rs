//! Assembly: what a vault is made of, in which order it starts, and how it ends.
//!
//! Start: configuration, rulebook, root key, store, the log held against its checkpoint, keys, the event that says so,
//! then the door. End, on SIGTERM or SIGINT: the door closes, calls in flight finish, what was counted is recorded, the
//! last event and checkpoint are written. A failed write ends the process within a second, without acknowledging anything.

mod backup;
mod check;
mod confine;
mod create;
mod descriptors;
mod direct;
mod door;
mod figures;
mod located;
mod measures;
mod operations;
mod readiness;
mod room;
mod rotation;
mod rulebook;
mod signals;
mod sinks;
mod supervisor;
mod upkeep;
mod verify;
mod watching;
mod witness;
mod workers;

use crate::caller::SpiffeId;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::crypto::RootKey;
use crate::event::Action;
use crate::export;
use crate::grpc::{AuditDoor, Guard, TokenDoor};
use crate::keys::provider::{File, Provider, ProviderError};
use crate::keys::{Keyring, KeyringError};
use crate::ledger::{self, Limits, Running, Signing, Standing};
use crate::limits::bytes;
use crate::merkle::note::{KeyError, LogKey};
use crate::policy::{Policy, RulebookErrors};
use crate::scope;
use crate::secret::SecretBytes;
use crate::store::{self, Batch, RocksConfig, RocksStore};
use crate::telemetry::{self, TelemetryError};
use crate::tls::{self, SetupError};
use crate::vault::{Failure, Handshakes, Parts, Vault, VaultEvent};
use confine::{confine, warn_of_root};
use http::{Request, Response};
use located::{is_passing, located};
use signals::Signals;
use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use supervisor::Supervisor;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;
use workers::Doors;

#[cfg(test)]
pub(crate) use operations::converse_with_probes;

pub use backup::{BackedUp, CopyError, Restored, accept_restored, back_up, look_at_backup, restore};
pub use check::{Finding, InUse, Verdict, bundle_mistakes, certificate_doubts, check, config_mistakes, in_use};
pub use create::create;
use readiness::{Farewell, Readiness, Reason};
use room::Disks;
pub use room::{Full, Room, bytes_in_words};
pub use rotation::{Rotated, rotate_log_key};
use rulebook::RulebookView;
pub use rulebook::{load as load_rulebook, locate};
pub use sinks::SinkError;
pub use verify::{VerifyError, verify_data};
pub use witness::{WitnessSetupError, witness};

/// How often refusals and failed handshakes that were only counted are written to the log.
const SUMMARY_PERIOD: Duration = Duration::from_secs(1);
const CHECKPOINT_PERIOD: Duration = Duration::from_secs(1);
/// A caller does not wait longer than this for its commit.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// After a failed write: so long may answers still go out before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// `EX_IOERR` of sysexits.h, so that a supervisor can tell.
const EXIT_IO_ERROR: i32 = 74;

/// Why the vault did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Scopes, roles or policies have mistakes.
    #[error(transparent)]
    Rulebook(#[from] RulebookErrors),
    /// No root key.
    #[error(transparent)]
    RootKey(#[from] ProviderError),
    /// No log key.
    #[error("the log key {path}: {error}")]
    LogKey {
        /// The file.
        path: PathBuf,
        /// Why.
        error: LogKeyError,
    },
    /// There is too little room on a disk.
    #[error("{0}")]
    Full(Full),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The log can't be opened.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// The keys can't be had.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The door can't be opened.
    #[error(transparent)]
    Door(#[from] SetupError),
    /// Probes and metrics can't be answered.
    #[error(transparent)]
    Operations(SetupError),
    /// A witness can't start.
    #[error(transparent)]
    Witness(#[from] WitnessSetupError),
    /// A sink of audit events can't be followed.
    #[error("{}:{line}: audit.sinks.{name}: {error}", file.display())]
    Sink {
        /// The configuration's file.
        file: PathBuf,
        /// The line of the sink's header.
        line: u32,
        /// The sink's name.
        name: String,
        /// Why.
        error: SinkError,
    },
    /// The first or last event can't be written.
    #[error("the log can't be written: {0:?}")]
    Log(Failure),
    /// The last checkpoint can't be written.
    #[error("stopped: the last event is written; the checkpoint is not: {0}. The next start goes by the one before")]
    Unvouched(#[from] ledger::Unvouched),
    /// The process's own log or metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// One of the others, with the setting that it is about.
    #[error("{mistake}")]
    At {
        /// Place, key and the error's words.
        mistake: config::Mistake,
        /// The error.
        error: Box<Self>,
    },
    /// The operating system refuses.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
}

impl Error {
    /// Whether something that people wrote or put in place is wrong (configuration, rulebook, certificates, revocation
    /// lists, key files), so that starting again changes nothing.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::At { error, .. } => error.is_mistake(),
            Self::RootKey(ProviderError::Unreadable { error, .. })
            | Self::LogKey { error: LogKeyError::File(ProviderError::Unreadable { error, .. }), .. }
            | Self::Door(SetupError::Read { source: error, .. }) => !is_passing(error),
            Self::Rulebook(_) | Self::RootKey(_) | Self::LogKey { .. } => true,
            Self::Door(error) => !matches!(error, SetupError::Listen { .. } | SetupError::Tls(_)),
            Self::Witness(error) => !matches!(error, WitnessSetupError::State(_)),
            Self::Sink { error, .. } => {
                !matches!(error, SinkError::Export(export::SetupError::Cursor(_)) | SinkError::Cursor(_))
            }
            Self::Telemetry(error) => matches!(error, TelemetryError::Levels(_) | TelemetryError::Word(_)),
            Self::Operations(_) | Self::Full(_) | Self::Store(_) | Self::Ledger(_) | Self::Keys(_) => false,
            Self::Log(_) | Self::Unvouched(_) | Self::Io { .. } => false,
        }
    }

    /// Whether starting again helps as soon as somebody has made room on a disk.
    pub fn is_lack_of_room(&self) -> bool {
        if let Self::At { error, .. } = self {
            return error.is_lack_of_room();
        }
        matches!(self, Self::Full(_) | Self::Store(store::OpenError::System { trouble: store::Trouble::Full, .. }))
            || matches!(self, Self::Ledger(ledger::OpenError::Checkpoint(error)) if error.is_lack_of_room())
    }
}

/// Why a log key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// It can't be read, or others can read it.
    #[error(transparent)]
    File(#[from] ProviderError),
    /// It is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A vault that is open, behind no door yet.
pub struct Opened {
    /// Its use cases.
    pub vault: Arc<Vault>,
    running: Running,
    readiness: Arc<Readiness>,
    store: Arc<RocksStore>,
}

// === open ===

/// Opens the vault that `config` describes and checks its log.
///
/// # Errors
/// [`Error`] says what is wrong and what to do; nothing was changed.
pub fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Opened, Error> {
    open_signing(config, clock, Signing::by)
}

/// As [`open`]; `signing` says who signs, given the log key.
fn open_signing(
    config: &Config,
    clock: &Arc<dyn Clock>,
    signing: impl FnOnce(LogKey) -> Signing,
) -> Result<Opened, Error> {
    let rulebook = rulebook::load(config)?;
    for warning in rulebook.warnings() {
        tracing::warn!("{warning}");
    }
    let policy = Arc::new(Policy::new(rulebook));
    let root = root_key(config)?;
    let signing = signing(log_key(config)?);
    let witnesses = witness::circle(config, clock)?;
    let rocks = rocks_config(config);
    if let Some(full) = Disks::of(config).full_at_start(rocks.taken_by_opening()) {
        return Err(Error::Full(full));
    }
    // Found now and not with the first checkpoint: until there is one, what is acknowledged could be cut off unseen.
    verify::checkpoints(config).directory.check_writable().map_err(ledger::OpenError::from)?;
    room::spare_threads().map_err(|error| Error::Io { what: room::NO_THREADS, error })?;
    let store = Arc::new(RocksStore::open(&config.storage.path, &rocks)?);
    let (genesis, meta) = ledger::identify(&*store, &root)?;
    let readiness = Arc::new(Readiness::new());
    let mut settings =
        ledger_settings(config, signing, clock, RulebookView::of(&policy), end_process(Arc::clone(&readiness)));
    settings.witnesses = witnesses;
    let keyring = Keyring::open(root, genesis.vault, Arc::clone(&meta), &*store)?;
    let rows: Arc<dyn store::Rows> = Arc::clone(&store) as _;
    let state = Arc::clone(keyring.state());
    let (ledger, running) = ledger::open(Arc::clone(&store) as _, &genesis, meta, state, settings)?;
    let parts = Parts {
        policy,
        keyring,
        rows,
        ledger,
        identity: identity(config)?,
        node: config.server.node.as_str().into(),
        budget: bytes::Shared::new(config.server.max_bytes_in_flight, config.server.max_bytes_in_flight / 2),
    };
    Ok(Opened { vault: Arc::new(Vault::new(parts)), running, readiness, store })
}

impl Opened {
    /// Gives every scope that the rulebook names its id, and records that the vault has started.
    ///
    /// # Errors
    /// If the log can't be written.
    pub async fn start(&self) -> Result<(), Error> {
        let vault = &self.vault;
        let rulebook = vault.policy().rulebook();
        let named = rulebook.scopes().iter().filter_map(|scope| scope.pattern().exact());
        vault.name_scopes(named.collect::<Vec<scope::Path>>()).await.map_err(Error::Log)?;
        let mut detail = format!("version {}", env!("CARGO_PKG_VERSION"));
        if let Standing::Leapt(_) = vault.keep_time().await.map_err(Error::Log)? {
            detail.push_str(", after a leap of the clock");
        }
        self.own(Action::Start, detail).await
    }

    /// The log, for who sends its events elsewhere.
    fn log(&self, clock: &Arc<dyn Clock>) -> export::Log {
        let ledger = self.vault.ledger();
        export::Log {
            rows: Arc::clone(self.vault.rows()),
            durable: ledger.follow(),
            log_id: Arc::clone(ledger.log_id()),
            clock: Arc::clone(clock),
        }
    }

    fn watched(
        &self,
        config: &Config,
        clock: &Arc<dyn Clock>,
        supervisor: &Supervisor,
    ) -> Result<watching::Subject, Error> {
        let disks = Disks::of(config).with_identity();
        let disks = disks.map_err(|error| Error::Io { what: "can't look at storage.path", error })?;
        Ok(watching::Subject {
            ledger: self.vault.ledger().clone(),
            store: Arc::clone(&self.store),
            readiness: Arc::clone(&self.readiness),
            clock: Arc::clone(clock),
            disks,
            stall_after: config.ledger.stall_after,
            supervisor: supervisor.clone(),
        })
    }

    /// Records that the vault ends, and closes the log with a last checkpoint.
    pub async fn stop(self) -> Result<(), Error> {
        let recorded = self.own(Action::Stop, String::new()).await;
        let closed = self.close().await;
        recorded?;
        closed
    }

    async fn close(self) -> Result<(), Error> {
        let running = self.running;
        // It waits for threads.
        let closed = tokio::task::spawn_blocking(move || running.close()).await;
        closed.map_err(|error| Error::Io { what: "can't close the log", error: error.into() })??;
        Ok(())
    }

    async fn own(&self, action: Action, detail: String) -> Result<(), Error> {
        let event = VaultEvent { action, scope: String::new(), detail, changes: Batch::default() };
        self.vault.record_own(event).await.map(drop).map_err(Error::Log)
    }
}

/// Moves the time mark of a vault that does not run to the clock, with an event that says so. By how much it moved, if
/// there was a leap to accept; and by how much the clock is behind the mark, which nothing moves.
///
/// # Errors
/// If the vault runs, can't be opened, or the log can't be written.
pub fn accept_clock(config: &Config) -> Result<(Option<Duration>, Duration), Error> {
    let opened = open(config, &SystemClock::shared())?;
    runtime("can't start the runtime")?.block_on(async {
        let (leap, behind) = (opened.vault.ledger().clock().leap(), opened.vault.ledger().clock().behind());
        let accepted = match leap {
            Some(ahead) => {
                let why = format!("an operator accepts the clock, {} s ahead of the time mark", ahead.as_secs());
                opened.vault.accept_clock(&why).await
            }
            None => Ok(()),
        };
        opened.close().await?;
        accepted.map(|()| (leap, behind)).map_err(Error::Log)
    })
}

// === run ===

/// Serves until the process is told to stop.
///
/// # Errors
/// If it can't start, or can't go on.
pub fn run(config: Config) -> Result<(), Error> {
    telemetry::log_to_stderr(&std::env::var(telemetry::LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned()))?;
    telemetry::silence_panics();
    confine()?;
    let metrics = telemetry::count()?;
    figures::begin();
    runtime("can't start the runtime: look at the limits (LimitNOFILE, LimitNPROC, TasksMax)")?
        .block_on(serve(&config, metrics))
        .map_err(|error| located(&config, error))
}

async fn serve(config: &Config, metrics: metrics_exporter_prometheus::PrometheusHandle) -> Result<(), Error> {
    let (clock, supervisor) = (SystemClock::shared(), Supervisor::of_environment());
    // Bound first: a wrong certificate or a taken port is found before the data is touched.
    let door = door::bind(config)?;
    let operations = operations::bind(config.operations.listen).await?;
    supervisor.status("opening the data, and holding the log against its checkpoint");
    let opened = open(config, &clock)?;
    let (stop, stopped) = watch::channel(false);
    let sinks = sinks::start(config, &opened.log(&clock), &stopped)?;
    opened.start().await?;
    let vault = Arc::clone(&opened.vault);
    let guard = Guard::new(Arc::clone(&vault), Arc::clone(&clock));
    let health = HealthReporter::new();
    let telling = readiness::tell(&opened.readiness, &health, &supervisor);
    let doors = Doors {
        token: TokenDoor::new(Arc::clone(&vault), Arc::clone(&clock), stopped.clone()),
        audit: AuditDoor::new(Arc::clone(&vault), Arc::clone(&clock), stopped.clone()),
        health: HealthServer::new(HealthService::from_health_reporter(health.clone())),
    };
    let workers = workers::start(&config.server, &doors, &guard, &stopped)?;
    let (readiness, durations) = (Arc::clone(&opened.readiness), Arc::clone(guard.durations()));
    let probes = operations::Probes { readiness, metrics: metrics.clone(), durations, stopped: stopped.clone() };
    operations::start(operations, probes);

    let handshakes = Arc::new(Handshakes::new());
    let summaries = tokio::spawn(summarize(Arc::clone(&vault), Arc::clone(&handshakes), stopped.clone()));
    let upkeep = upkeep::start(&vault, config, &stopped);
    let watched = watching::start(opened.watched(config, &clock, &supervisor)?, &stopped)?;
    let note = door::noting(&handshakes, &clock);
    let address = door.local_addr();
    let connections = door.connections();
    measures::start(config, &clock, &connections, metrics, stopped.clone());
    let stalled = tokio::spawn(door::close_stalled(connections.clone(), config.server.stall_timeout, stopped.clone()));
    let accepting = tokio::spawn(door.run(workers.doors(), note, until(stopped.clone())));
    door::warn_of_certificates(config);
    warn_of_root();
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    let signals = Signals::listen()?;
    announce(address)?;
    supervisor.ready(address);

    signals.one().await;
    tracing::info!("stopping: no new connections, calls in flight may finish");
    telling.abort();
    supervisor.stopping();
    let farewell = Farewell::say(health).await;
    // Nobody may be listening any more; then there is nobody to tell.
    let _ = stop.send(true);
    farewell.leave().await;
    let drained = tokio::time::timeout(config.server.drain_timeout, connections.drained()).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.close_all(), "connections that did not end in time were closed");
    }
    // Each ends because `stop` was sent; a panic in one has been logged by the panic hook.
    let _ = tokio::join!(accepting, stalled, summaries, upkeep.ended(), watched.ended());
    sinks.ended().await;
    tokio::task::spawn_blocking(move || workers.join())
        .await
        .map_err(|error| Error::Io { what: "can't end the network threads", error: error.into() })?;
    // What is left of a disk that is almost full is for this.
    vault.ledger().resume();
    record_summaries(&vault, &handshakes).await;
    drop(vault);
    opened.stop().await?;
    tracing::info!("stopped: the last event and checkpoint are written");
    Ok(())
}

/// Serves `service` behind the vault's own door, on its threads and with its limits, with no vault behind it, until the
/// process is told to stop. A measurement holds the vault against this.
///
/// # Errors
/// If it can't start.
pub fn run_bare<S>(config: &Config, service: &S) -> Result<(), Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    telemetry::log_to_stderr(&std::env::var(telemetry::LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned()))?;
    telemetry::silence_panics();
    runtime("can't start the runtime")?.block_on(async {
        let door = tls::Acceptor::bind(&door::settings(config))?;
        let (stop, stopped) = watch::channel(false);
        let workers = workers::start_bare(&config.server, service, &stopped)?;
        let (address, connections) = (door.local_addr(), door.connections());
        tokio::spawn(door.run(workers.doors(), |_| {}, until(stopped)));
        let signals = Signals::listen()?;
        announce(address)?;
        signals.one().await;
        // Nobody may be listening any more; then there is nobody to tell.
        let _ = stop.send(true);
        connections.close_all();
        Ok(())
    })
}

/// Each second, what was only counted goes into the log.
async fn summarize(vault: Arc<Vault>, handshakes: Arc<Handshakes>, stopped: watch::Receiver<bool>) {
    let mut stop = std::pin::pin!(until(stopped));
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(SUMMARY_PERIOD) => record_summaries(&vault, &handshakes).await,
        }
    }
}

async fn record_summaries(vault: &Vault, handshakes: &Handshakes) {
    let recorded = async {
        vault.record_handshakes(handshakes).await?;
        vault.record_refusals().await
    };
    if let Err(failure) = recorded.await {
        tracing::error!(?failure, "summaries of refusals could not be written to the log");
    }
}

fn announce(address: std::net::SocketAddr) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    let written = writeln!(output, "listening on {address}").and_then(|()| output.flush());
    written.map_err(|error| Error::Io { what: "can't write to standard output", error })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the same news.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// After a failed write nothing may be acknowledged. What waits has been answered; those answers get a moment to leave,
/// and then the process ends, to start again from what is on disk.
fn end_process(readiness: Arc<Readiness>) -> ledger::OnFatal {
    Box::new(move |fatal| {
        readiness.set(Reason::Failed, true);
        tracing::error!(%fatal, "the log can't be written: the process ends");
        std::thread::spawn(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "whether an answer has left the kernel is no event to wait for"
            )]
            std::thread::sleep(LAST_WORDS);
            // Not `std::process::exit`: that runs the store's destructors, which wait for its threads, and those pause for a
            // second after a failed write. Nothing is left to be written, and the memory goes with the process.
            signal_hook::low_level::exit(EXIT_IO_ERROR);
        });
    })
}

// === from configuration ===

fn runtime(what: &'static str) -> Result<tokio::runtime::Runtime, Error> {
    let failed = |error| Error::Io { what, error };
    descriptors::spare().map_err(failed)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)
}

fn root_key(config: &Config) -> Result<RootKey, Error> {
    let config::RootKey::File { path } = &config.root_key;
    Ok(File::new(path).root_key()?)
}

fn log_key(config: &Config) -> Result<LogKey, Error> {
    let path = &config.audit.signing_key;
    let read = || -> Result<LogKey, LogKeyError> {
        let text: SecretBytes = crate::keys::provider::read_private(path)?;
        Ok(LogKey::parse(&text)?)
    };
    read().map_err(|error| Error::LogKey { path: path.clone(), error })
}

fn rocks_config(config: &Config) -> RocksConfig {
    RocksConfig { cache_bytes: config.storage.cache_bytes, ..RocksConfig::default() }
}

/// The vault's own identity: the first trust domain's `vault`.
fn identity(config: &Config) -> Result<Arc<str>, Error> {
    let domain = config.trust_domains.first().map_or("localhost", |domain| domain.name.as_str());
    let id = format!("spiffe://{domain}/vault");
    // The domain's name was checked with the configuration.
    SpiffeId::parse(&id).map(|id| id.as_str().into()).map_err(|_| Error::Io {
        what: "the first trust domain's name makes no SPIFFE ID",
        error: std::io::ErrorKind::InvalidInput.into(),
    })
}

fn ledger_settings(
    config: &Config,
    signing: Signing,
    clock: &Arc<dyn Clock>,
    rulebook: RulebookView,
    on_fatal: ledger::OnFatal,
) -> ledger::Settings {
    ledger::Settings {
        limits: Limits {
            calls: config.ledger.max_queued_calls,
            records: config.ledger.max_queued_records,
            bytes: config.ledger.max_queued_bytes,
            patience: COMMIT_PATIENCE,
        },
        checkpoints: verify::checkpoints(config),
        checkpoint_period: CHECKPOINT_PERIOD,
        signing,
        witnesses: None,
        clock: Arc::clone(clock),
        rulebook_generation: rulebook.generation,
        rulebook_digest: rulebook.digest,
        on_fatal,
    }
}

/// How many file descriptors a vault with this configuration takes at most.
pub fn descriptors_wanted(config: &Config) -> u64 {
    descriptors::wanted(&door::settings(config))
}
