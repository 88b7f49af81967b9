//! What is looked at once a second for `/metrics` alone: connections, certificates, and the histograms, which have to be
//! emptied whether anybody asks for them or not.

use super::until;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::tls::{self, Connections};
use metrics_exporter_prometheus::PrometheusHandle;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const PERIOD: Duration = Duration::from_secs(1);

/// What is measured.
struct Subject {
    connections: Connections,
    clock: Arc<dyn Clock>,
    ends: Ends,
    metrics: PrometheusHandle,
}

/// When the first certificate of each kind ends. By kind and not by name: metrics name no trust domain and no sink.
#[derive(Debug, PartialEq, Eq)]
struct Ends(Vec<(&'static str, Timestamp)>);

impl Ends {
    /// As the files are now, which is when the vault reads them. What can't be read has been found elsewhere.
    fn of(config: &Config) -> Self {
        let domains = config.trust_domains.iter().map(|domain| &domain.bundle);
        let sinks = config.audit.sinks.iter().flat_map(|sink| sink.ca.iter().chain(&sink.certificate));
        let witnesses = config.audit.witnesses.iter().flat_map(|witness| &witness.ca);
        let kinds = [
            ("server", vec![&config.server.certificate]),
            ("trust_domains", domains.collect()),
            ("sinks", sinks.collect()),
            ("witnesses", witnesses.collect()),
        ];
        let first = |files: Vec<&PathBuf>| files.into_iter().filter_map(|file| tls::first_end(file).ok()).min();
        Self(kinds.into_iter().filter_map(|(kind, files)| Some((kind, first(files)?))).collect())
    }

    /// Seconds until then, negative once it has been.
    fn left(&self, now: Timestamp) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(move |(kind, end)| (*kind, end.since(now).as_secs_f64() - now.since(*end).as_secs_f64()))
    }
}

/// Measures until the vault stops. Nothing has to wait for its end.
pub(super) fn start(
    config: &Config,
    clock: &Arc<dyn Clock>,
    connections: &Connections,
    metrics: PrometheusHandle,
    stopped: watch::Receiver<bool>,
) {
    metrics::gauge!("cloakroom_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let (connections, clock) = (connections.clone(), Arc::clone(clock));
    let subject = Subject { connections, clock, ends: Ends::of(config), metrics };
    tokio::spawn(async move {
        let mut stop = std::pin::pin!(until(stopped));
        loop {
            subject.measure();
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    });
}

impl Subject {
    fn measure(&self) {
        metrics::gauge!("cloakroom_connections_open").set(self.connections.open() as f64);
        for (kind, seconds) in self.ends.left(self.clock.wall()) {
            metrics::gauge!("cloakroom_certificate_expiry_seconds", "of" => kind).set(seconds);
        }
        // What is recorded lies in a list until it is summed up. Where nobody asks for `/metrics`, it would grow for ever.
        self.metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_end_counts_and_goes_below_nothing() {
        let seconds = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let ends = Ends(vec![("server", seconds(100)), ("sinks", seconds(40))]);
        let left: Vec<_> = ends.left(seconds(70)).collect();
        assert_eq!(left, [("server", 30.0), ("sinks", -30.0)]);
    }
}
