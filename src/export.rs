//! Audit events on their way out: to a SIEM over syslog, or to an OpenTelemetry collector.
//!
//! A [`Follower`] reads the log by sequence, behind the commits, and sends each event to one sink, in order and at least
//! once. How far it has come stands in a file of its own, outside the database; the log is untouched by it. A sink that is
//! slow, away or refuses holds up its own follower alone: nothing in the vault waits for one.
//!
//! What stands where: `cursor` keeps the place, `source` reads events and puts them in the form that is sent, `follower`
//! decides what to send, when to try again and what counts as taken; `syslog` (RFC 5424 in the frames of RFC 5425) and
//! `otlp` are the two kinds of sink, over `dial` (TCP and TLS) and `post` (HTTP).
//!
//! This module knows nothing of values, tokens, policy or requests: an event is all that it sees.

mod backoff;
mod cursor;
mod delivery;
mod dial;
mod follower;
mod otlp;
mod post;
mod progress;
mod source;
mod syslog;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod fuzzed;

use crate::clock::Clock;
use crate::store::Rows;
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

pub use cursor::{CursorError, check as check_cursor};
pub use follower::Follower;

/// One place to which events are sent.
pub struct Settings {
    /// What it is called: in metrics, in the process's log, and as the cursor's file.
    pub name: String,
    /// What is spoken there.
    pub target: Target,
    /// Whom to believe there, and who we are. Without it, and only for OTLP, nothing is encrypted.
    pub tls: Option<Arc<ClientConfig>>,
    /// What an event looks like there.
    pub format: Format,
    /// Where to begin if there is no cursor yet.
    pub from: From,
    /// The directory that holds the cursor.
    pub cursors: PathBuf,
}

/// What is spoken, and with whom.
#[derive(Clone, Debug)]
pub enum Target {
    /// Syslog over TLS.
    Syslog {
        /// A DNS name or an IP address, which must stand in the server's certificate.
        host: String,
        /// The port.
        port: u16,
    },
    /// OTLP over HTTP.
    Otlp {
        /// Where logs are posted to, whole: `https://host:port/v1/logs`.
        url: http::Uri,
    },
}

/// What an event looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The canonical JSON of events.
    Json,
    /// OCSF's API Activity.
    Ocsf,
}

/// Where to begin without a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first event that the log still has.
    Beginning,
    /// Behind the last event of now.
    Now,
}

/// The log that is followed.
#[derive(Clone)]
pub struct Log {
    /// Where its events are read.
    pub rows: Arc<dyn Rows>,
    /// The number of its events that are durable. Only those leave.
    pub durable: watch::Receiver<u64>,
    /// Its name.
    pub log_id: Arc<str>,
    /// Tells how long things take and how old events are.
    pub clock: Arc<dyn Clock>,
}

/// Why a sink can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The cursor is of no use.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The host can't be in any certificate.
    #[error("{host:?} is neither a DNS name nor an IP address")]
    Host {
        /// As configured.
        host: String,
    },
}
