//! What a sink is handed, and what it says to that.

use crate::clock::{Timestamp, in_one_unit};
use crate::event::Event;
use std::io;
use std::time::Duration;

/// An event in the form in which it is sent.
pub(super) struct Prepared {
    pub sequence: u64,
    pub time: Timestamp,
    pub event: Event,
    /// In the sink's format.
    pub body: String,
}

/// What became of a batch that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// The receiver says that it has it.
    Acknowledged,
    /// The receiver has it, but for so many events that it refuses for good; it does not say which.
    Partly { refused: u64, said: String },
    /// It was written and flushed, and that is all that can be known.
    Written,
}

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("nobody can be reached there: {0}")]
    Unreachable(io::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("nothing came back within {}", in_one_unit(*.0))]
    Timeout(Duration),
    /// It may take the same later.
    #[error("it answered {said}")]
    Unwilling { said: String, retry_after: Option<Duration> },
    /// It will never take this.
    #[error("it refuses the content: HTTP {0}")]
    Content(u16),
    #[error("the log can't be read: {0}")]
    Log(String),
}

impl Failed {
    /// What [`Failed::reason`] can say.
    pub const REASONS: [&str; 7] = ["unreachable", "handshake", "broken", "timeout", "unwilling", "content", "log"];

    /// One word for the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Handshake(_) => "handshake",
            Self::Broken(_) => "broken",
            Self::Timeout(_) => "timeout",
            Self::Unwilling { .. } => "unwilling",
            Self::Content(_) => "content",
            Self::Log(_) => "log",
        }
    }

    /// How long the receiver wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unwilling { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What somebody else said, made harmless for the process's log: one line of bounded length.
pub(super) fn quoted(said: &str) -> String {
    const CHARACTERS_AT_MOST: usize = 200;
    said.chars().take(CHARACTERS_AT_MOST).flat_map(char::escape_default).collect()
}
