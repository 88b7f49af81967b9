//! Assembly of both sides of witnessing: the vault's circle of witnesses, and a witness of its own.

use super::{Error, Signals, announce, until};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::keys::provider::{ProviderError, read_private};
use crate::ledger::Witnesses;
use crate::merkle::note::{KeyError, WitnessKey};
use crate::telemetry;
use crate::tls::{SetupError, web};
use crate::witness::server::Door;
use crate::witness::{Circle, Member, StateError, Witness};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a witness does not start.
#[derive(Debug, thiserror::Error)]
pub enum WitnessSetupError {
    /// No key.
    #[error(transparent)]
    KeyFile(#[from] ProviderError),
    /// Not a witness's key.
    #[error("the witness's key {path}: {error}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// What it remembers can't be read, or is in use.
    #[error(transparent)]
    State(#[from] StateError),
    /// Certificate or key for TLS.
    #[error(transparent)]
    Tls(#[from] SetupError),
}

/// The witnesses that `config` names. `None` if it names none.
pub(super) fn circle(config: &Config, clock: &Arc<dyn Clock>) -> Result<Option<Box<dyn Witnesses>>, Error> {
    let audit = &config.audit;
    if audit.witnesses.is_empty() {
        return Ok(None);
    }
    let members = audit.witnesses.iter().map(member).collect::<Result<Vec<_>, _>>()?;
    let required = audit.witnesses_required.unwrap_or(members.len());
    let circle = Circle::new(members, required, Arc::clone(clock))
        .map_err(|error| Error::Io { what: "can't start the witnesses' thread", error })?;
    Ok(Some(Box::new(circle)))
}

/// One of them, who is not asked anything yet.
pub(super) fn member(config: &config::Witness) -> Result<Member, SetupError> {
    Member::new(config.url.clone(), config.key.clone(), config.ca.as_deref())
}

/// Runs a witness until the process is told to stop.
///
/// # Errors
/// If it can't start.
pub fn witness(config: &config::witness::Config) -> Result<(), Error> {
    telemetry::log_to_stderr(&std::env::var(telemetry::LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned()))?;
    telemetry::silence_panics();
    super::runtime("can't start the runtime")?.block_on(serve(config))
}

async fn serve(config: &config::witness::Config) -> Result<(), Error> {
    let tls = match &config.tls {
        Some((certificate, private_key)) => Some(web::server_config(certificate, private_key)?),
        None => None,
    };
    let witness = open(config)?;
    let door = Door::bind(config.listen, tls)
        .await
        .map_err(|error| Error::Io { what: "can't listen on witness.listen; is another witness running?", error })?;
    let address = door.local_addr().map_err(|error| Error::Io { what: "can't tell the address", error })?;
    let name = witness.name().to_string();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(door.serve(Arc::new(witness), until(stopped)));
    tracing::info!(%address, name, logs = config.logs.len(), tls = config.tls.is_some(), "the witness answers");
    let signals = Signals::listen()?;
    announce(address)?;
    signals.one().await;
    // It listens as long as it serves.
    let _ = stop.send(true);
    let _ = serving.await;
    tracing::info!("stopped");
    Ok(())
}

fn open(config: &config::witness::Config) -> Result<Witness, WitnessSetupError> {
    let text = read_private(&config.key)?;
    let key = WitnessKey::parse(&text).map_err(|error| WitnessSetupError::Key { path: config.key.clone(), error })?;
    Ok(Witness::open(key, &config.logs, &config.state, SystemClock::shared())?)
}
