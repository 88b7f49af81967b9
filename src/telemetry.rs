//! Set-up of the process's own log and of metrics. It knows nothing of the domain.
//!
//! The process's log is for operators and is not the audit log. Whatever level is asked for, also for a module of theirs by
//! name, the libraries that see requests in clear (HTTP/2, gRPC, TLS) are held at `warn`: at lower levels they would print
//! frames.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Names the level, and levels of modules: `info`, `debug,cloakroom::ledger=trace`.
pub const LOG_VARIABLE: &str = "CLOAKROOM_LOG";

/// Libraries that handle bytes of requests.
const HELD_AT_WARN: [&str; 9] =
    ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls", "tokio_rustls", "tokio_util", "mio"];

/// Upper bounds of the buckets of what counts calls.
const CALLS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Upper bounds of histogram buckets, in seconds.
pub(crate) const SECONDS: [f64; 12] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// Why the process can't log or count.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variable does not say levels.
    #[error("{LOG_VARIABLE} is not a list of levels such as `info` or `warn,cloakroom=debug`: {0}")]
    Levels(#[from] tracing_subscriber::filter::ParseError),
    /// A word that is no level. The filter would take it for a module, and say nothing.
    #[error("{LOG_VARIABLE}: `{0}` is no level; write one of off, error, warn, info, debug, trace, or `module=level`")]
    Word(String),
    /// Metrics were set up before, or can't be.
    #[error("metrics can't be set up: {0}")]
    Metrics(#[from] BuildError),
}

/// Starts logging to standard error.
///
/// # Errors
/// If `levels` can't be understood.
pub fn log_to_stderr(levels: &str) -> Result<(), TelemetryError> {
    check_words(levels)?;
    let filter = EnvFilter::builder().parse(levels)?;
    let most = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    // Beside the levels that were asked for, not among them: of those the one that names a module more exactly wins.
    let harmless = filter_fn(|event| *event.level() <= Level::WARN || !is_held(event.target()));
    let filter = filter.and(harmless.with_max_level_hint(most));
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    // Already set: a test started two servers in one process, which then share it.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    Ok(())
}

fn check_words(levels: &str) -> Result<(), TelemetryError> {
    let bare = levels.split(',').map(str::trim).filter(|part| !part.contains(['=', '[']) && !part.is_empty());
    match bare.into_iter().find(|word| word.parse::<LevelFilter>().is_err()) {
        Some(word) => Err(TelemetryError::Word(word.escape_default().to_string())),
        None => Ok(()),
    }
}

/// Whether a module, by its path, belongs to a library that handles bytes of requests.
fn is_held(module: &str) -> bool {
    HELD_AT_WARN.contains(&module.split("::").next().unwrap_or(module))
}

/// Starts counting. The handle renders what was counted.
///
/// # Errors
/// If the recorder can't be made.
pub fn count() -> Result<PrometheusHandle, TelemetryError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_calls".to_owned()), &CALLS)?
        .build_recorder();
    let handle = recorder.handle();
    // As above: the first one stays.
    let _ = metrics::set_global_recorder(recorder);
    Ok(handle)
}

/// Makes panics say where they happened and nothing else: their messages can hold what they choked on.
pub fn silence_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a fault in Cloakroom: a thread panicked. Please report it with this place");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_named() {
        for good in
            ["info", "TRACE", "off", "warn,cloakroom=debug", "cloakroom::ledger=trace", "info,", "warn,[call]=info"]
        {
            assert!(check_words(good).is_ok(), "{good}");
        }
        for (bad, word) in [("dbug", "dbug"), ("info,ledger", "ledger"), ("cloakroom:debug", "cloakroom:debug")] {
            let said = check_words(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("`{word}` is no level")), "{said}");
        }
    }
}
