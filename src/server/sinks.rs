//! The sinks of audit events: made from the configuration, and followed on a thread of their own.
//!
//! One thread with a runtime for all of them, so that nothing that a sink does (encrypting a megabyte, a flood of
//! connections that fail) takes time from a caller.

use super::{Error, until};
use crate::config::{self, Config, SinkFormat, SinkStart, SinkTarget};
use crate::export::{self, CursorError, Follower, Format, From, Log, Settings, Target};
use crate::tls::{self, SetupError};
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// OTLP is posted over HTTP/1.1.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Why a sink of the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Half of the vault's identity.
    #[error("`certificate` and `private_key` belong together: give both or none")]
    HalfAnIdentity,
    /// A name that nothing can be called.
    #[error(transparent)]
    Export(#[from] export::SetupError),
    /// A file for TLS is of no use.
    #[error(transparent)]
    Tls(#[from] SetupError),
    /// The cursor is of no use.
    #[error(transparent)]
    Cursor(#[from] CursorError),
}

/// The thread that follows.
pub(super) struct Sinks {
    thread: Option<JoinHandle<()>>,
}

/// Starts a follower for each sink of `config`. They end when `stopped` says so.
///
/// # Errors
/// If a sink's files or its cursor are of no use: then none is started.
pub(super) fn start(config: &Config, log: &Log, stopped: &watch::Receiver<bool>) -> Result<Sinks, Error> {
    let mut followers = Vec::new();
    for sink in &config.audit.sinks {
        let opened = settings(config, sink).and_then(|settings| Ok(Follower::open(settings, log.clone())?));
        followers.push(opened.map_err(|error| placed(config, sink, error))?);
    }
    if followers.is_empty() {
        return Ok(Sinks { thread: None });
    }
    let runtime =
        super::runtime("can't start the sinks' runtime: look at the limits (LimitNOFILE, LimitNPROC, TasksMax)")?;
    let stopped = stopped.clone();
    let body = move || runtime.block_on(follow(followers, &stopped));
    let thread = std::thread::Builder::new().name("sinks".to_owned()).spawn(body);
    let thread = thread.map_err(|error| Error::Io { what: "can't start the sinks' thread", error })?;
    Ok(Sinks { thread: Some(thread) })
}

async fn follow(followers: Vec<Follower>, stopped: &watch::Receiver<bool>) {
    let mut running = JoinSet::new();
    let mut names = std::collections::HashMap::new();
    for follower in followers {
        let name = follower.name().to_owned();
        let task = running.spawn(follower.run(until(stopped.clone())));
        names.insert(task.id(), name);
    }
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(error) = ended
            && let Some(sink) = names.get(&error.id())
        {
            // The panic itself has been logged by the panic hook.
            metrics::gauge!("cloakroom_sink_stuck", "sink" => sink.clone()).set(1.0);
            tracing::error!(sink, "a fault in Cloakroom ended this sink's follower: restart the vault to go on");
        }
    }
}

impl Sinks {
    /// Waits for the followers' end.
    pub async fn ended(self) {
        if let Some(thread) = self.thread {
            // It waits for a thread. A panic has been logged by the panic hook.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// What is seen of a sink without connecting to it, or why it can't be used.
///
/// # Errors
/// As the start would have, as far as it can be told without the log's length.
pub(super) fn look(config: &Config, sink: &config::Sink, log_id: Option<&str>) -> Result<String, Error> {
    let seen = || {
        settings(config, sink)?;
        let next = export::check_cursor(&config.audit.sink_cursors, &sink.name, log_id)?;
        let (kind, address) = match &sink.target {
            SinkTarget::Syslog { host, port } => ("syslog", format!("{host}:{port}")),
            SinkTarget::Otlp { url } => ("otlp", url.to_string()),
        };
        let place = match (next, sink.from) {
            (Some(next), _) => format!("goes on at event {next}"),
            (None, SinkStart::Beginning) => "no cursor yet: begins at the first event".to_owned(),
            (None, SinkStart::Now) => "no cursor yet: begins with the next event".to_owned(),
        };
        Ok(format!("{}, {kind} to {address}, {place}", sink.name))
    };
    seen().map_err(|error| placed(config, sink, error))
}

/// Whether events leave the machine for this sink without encryption.
pub(super) fn is_open(sink: &config::Sink) -> bool {
    let SinkTarget::Otlp { url } = &sink.target else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    url.scheme_str() == Some("http") && !loopback
}

fn settings(config: &Config, sink: &config::Sink) -> Result<Settings, SinkError> {
    let (target, alpn) = match &sink.target {
        SinkTarget::Syslog { host, port } => (Target::Syslog { host: host.clone(), port: *port }, None),
        SinkTarget::Otlp { url } => (Target::Otlp { url: url.clone() }, Some(ALPN_HTTP)),
    };
    let plain = matches!(&target, Target::Otlp { url } if url.scheme_str() == Some("http"));
    let tls = outgoing(sink, alpn)?.filter(|_| !plain);
    Ok(Settings {
        name: sink.name.clone(),
        target,
        tls,
        format: match sink.format {
            SinkFormat::Json => Format::Json,
            SinkFormat::Ocsf => Format::Ocsf,
        },
        from: match sink.from {
            SinkStart::Beginning => From::Beginning,
            SinkStart::Now => From::Now,
        },
        cursors: config.audit.sink_cursors.clone(),
    })
}

fn outgoing(sink: &config::Sink, alpn: Option<&[u8]>) -> Result<Option<Arc<ClientConfig>>, SinkError> {
    let identity = match (&sink.certificate, &sink.private_key) {
        (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
        (None, None) => None,
        _ => return Err(SinkError::HalfAnIdentity),
    };
    let Some(ca) = &sink.ca else { return Ok(None) };
    Ok(Some(tls::build_outgoing_config(ca, identity, alpn)?))
}

fn placed(config: &Config, sink: &config::Sink, error: SinkError) -> Error {
    Error::Sink { file: PathBuf::from(&config.file), line: sink.line, name: sink.name.clone(), error }
}
