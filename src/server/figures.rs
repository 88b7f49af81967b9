//! What `/metrics` says of each figure, and which stand at 0 from the start: a rule that waits for a rise never sees the
//! first one of a figure that was not there before.

use super::readiness::Reason;

/// What a figure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts how often something took how long.
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// The one that is not counted by the library: each call adds to it (`grpc::Durations`).
pub(super) const CALL_SECONDS: (Kind, &str, &str) = (
    Histogram,
    "cloakroom_call_seconds",
    "How long calls took, from their headers to their answer. Streams have none.",
);

/// Each figure of the vault, with what it says.
const FIGURES: [(Kind, &str, &str); 36] = [
    CALL_SECONDS,
    (
        Counter,
        "cloakroom_calls_total",
        "Answered calls by gRPC status. Each batch of a stream is one; so is what ends a stream, if it is no batch.",
    ),
    (Counter, "cloakroom_handshakes_refused_total", "Refused handshakes, by reason (docs/errors.md)."),
    (Counter, "cloakroom_connections_closed_total", "Connections that were closed because of their peer, by reason."),
    (
        Counter,
        "cloakroom_records_damaged_total",
        "Items whose record is there and does not open. The same record counts each time that it is asked for.",
    ),
    (Counter, "cloakroom_purged_rows_total", "Rows deleted by purging, by table."),
    (Counter, "cloakroom_purge_left_total", "Expired records that stay, by reason. Counted once for each start."),
    (
        Counter,
        "cloakroom_checkpoint_events_total",
        "Events that were read and hashed again before a checkpoint was signed.",
    ),
    (
        Histogram,
        "cloakroom_checkpoint_verify_seconds",
        "How long it took to read and hash events again before a checkpoint was signed.",
    ),
    (
        Counter,
        "cloakroom_checkpoint_failures_total",
        "Checkpoints that could not be signed or written, in either directory.",
    ),
    (
        Gauge,
        "cloakroom_checkpoint_wait_seconds",
        "For how long the newest events have waited for a checkpoint. Usually below 2.",
    ),
    (Counter, "cloakroom_events_dropped_total", "Events whose bodies were dropped because of their age."),
    (Gauge, "cloakroom_clock_behind_seconds", "By how much the machine's clock is behind the vault's time."),
    (
        Gauge,
        "cloakroom_clock_leap_seconds",
        "By how much the clock is ahead of the time mark, if that is a leap; else 0.",
    ),
    (
        Gauge,
        "cloakroom_purge_lag_seconds",
        "For how long the oldest hour that should be purged has been waiting; 0 if there is none.",
    ),
    (Counter, "cloakroom_witness_cosignatures_total", "Cosignatures under our checkpoints, by witness."),
    (
        Counter,
        "cloakroom_witness_failures_total",
        "Questions to a witness that brought no cosignature, by reason. At ahead and fork it contradicts the log.",
    ),
    (Gauge, "cloakroom_witness_size", "The size of the log that the witness cosigned last."),
    (Gauge, "cloakroom_not_ready", "1 while the vault is not ready because of the reason, else 0."),
    (Gauge, "cloakroom_commit_wait_seconds", "For how long the writer has been at the same commit. Usually 0."),
    (Gauge, "cloakroom_disk_free_bytes", "Room on the disks of data and checkpoints."),
    (Gauge, "cloakroom_sink_lag_events", "Durable events that the sink does not have yet."),
    (Gauge, "cloakroom_sink_lag_seconds", "The age of the oldest of them that was read; 0 if there is none."),
    (Gauge, "cloakroom_sink_stuck", "1 from a failed attempt until something is taken again, else 0."),
    (Counter, "cloakroom_sink_sent_events_total", "Events sent to the sink, repetitions included."),
    (Counter, "cloakroom_sink_failures_total", "Attempts to send to the sink that failed, by reason."),
    (Counter, "cloakroom_sink_refused_events_total", "Events that the sink refused for good."),
    (Counter, "cloakroom_sink_dropped_events_total", "Events that the log no longer had when they were due."),
    (Gauge, "cloakroom_build_info", "1, with the version that runs."),
    (
        Gauge,
        "cloakroom_certificate_expiry_seconds",
        "Until the first certificate of the kind ends that was there at the start. Negative once it has ended.",
    ),
    (Gauge, "cloakroom_connections_open", "Connections that are open, after their handshake."),
    (Gauge, "cloakroom_tokens", "About how many records there are, those that await purging included."),
    (Gauge, "cloakroom_queued_calls", "Calls and other changes that wait for the writer."),
    (Histogram, "cloakroom_commit_calls", "How many calls and other changes one commit wrote."),
    (Histogram, "cloakroom_commit_seconds", "How long a commit took, until it was on the disk."),
    (Histogram, "cloakroom_handshake_seconds", "How long handshakes took that let somebody in."),
];

/// Why a handshake can be refused, as docs/errors.md has it.
const REFUSED_HANDSHAKES: [&str; 56] = [
    "protocol_version",
    "no_alpn_h2",
    "no_common_parameters",
    "no_client_certificate",
    "unknown_trust_domain",
    "trust_domain_mismatch",
    "certificate_unknown_issuer",
    "certificate_bad_signature",
    "certificate_chain_invalid",
    "certificate_chain_too_long",
    "certificate_intermediate_not_issuer",
    "certificate_expired",
    "certificate_not_yet_valid",
    "certificate_revoked",
    "certificate_malformed",
    "certificate_version",
    "certificate_serial_number",
    "certificate_signature_algorithm",
    "certificate_public_key",
    "certificate_rsa_key_too_small",
    "certificate_unknown_critical_extension",
    "certificate_is_authority",
    "certificate_key_usage_missing",
    "certificate_key_usage_not_critical",
    "certificate_no_digital_signature",
    "certificate_key_cert_sign",
    "certificate_crl_sign",
    "certificate_extended_key_usage_missing",
    "certificate_no_client_auth",
    "certificate_no_spiffe_id",
    "certificate_several_uris",
    "spiffe_id_scheme",
    "spiffe_id_too_long",
    "spiffe_trust_domain_empty",
    "spiffe_trust_domain_too_long",
    "spiffe_trust_domain_character",
    "spiffe_path_missing",
    "spiffe_path_trailing_slash",
    "spiffe_path_empty_segment",
    "spiffe_path_dot_segment",
    "spiffe_path_character",
    "key_possession_not_proven",
    "certificate_not_verified",
    "refused_by_peer",
    "handshake_timeout",
    "closed_early",
    "handshake_limit",
    "handshake_limit_of_peer",
    "connection_limit",
    "connection_limit_of_caller",
    "workers_busy",
    "malformed_message",
    "peer_misbehaved",
    "decrypt_error",
    "tls_error",
    "io_error",
];

/// Tells the recorder what each figure says, and begins those at 0 that somebody may wait for.
pub(super) fn begin() {
    for (kind, name, help) in FIGURES {
        match kind {
            Counter => metrics::describe_counter!(name, help),
            Gauge => metrics::describe_gauge!(name, help),
            Histogram => metrics::describe_histogram!(name, help),
        }
    }
    metrics::counter!("cloakroom_records_damaged_total").increment(0);
    metrics::counter!("cloakroom_checkpoint_failures_total").increment(0);
    for reason in REFUSED_HANDSHAKES {
        metrics::counter!("cloakroom_handshakes_refused_total", "reason" => reason).increment(0);
    }
    for reason in ["flood", "stalled"] {
        metrics::counter!("cloakroom_connections_closed_total", "reason" => reason).increment(0);
    }
    for reason in ["damaged", "no_key"] {
        metrics::counter!("cloakroom_purge_left_total", "reason" => reason).increment(0);
    }
    for reason in Reason::ALL {
        metrics::gauge!("cloakroom_not_ready", "reason" => reason.word()).set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn page(name: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    /// The words in backquotes in the first column of a page's tables.
    fn named(page: &str) -> BTreeSet<String> {
        let cells = page.lines().filter_map(|line| line.strip_prefix("| ")).filter_map(|line| line.split(" | ").next());
        let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn the_figures_are_those_that_the_pages_name() {
        let pages = ["docs/operations.md", "docs/witness.md", "docs/siem.md"].map(page).concat();
        let figures: BTreeSet<String> = FIGURES.iter().map(|(_, name, _)| (*name).to_owned()).collect();
        let in_pages = named(&pages).into_iter().filter(|word| word.starts_with("cloakroom_") && !word.ends_with('…'));
        assert_eq!(figures, in_pages.collect());
        assert_eq!(figures.len(), FIGURES.len(), "none twice");
    }

    #[test]
    fn each_figure_that_the_program_counts_is_described_with_its_kind() {
        let mut counted = BTreeSet::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let text = std::fs::read_to_string(&entry).unwrap();
                for (kind, word) in
                    [(Counter, "metrics::counter!("), (Gauge, "metrics::gauge!("), (Histogram, "metrics::histogram!(")]
                {
                    let names = text.split(word).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
                    counted.extend(
                        names.filter_map(|rest| rest.split('"').next()).map(|name| (kind as u8, name.to_owned())),
                    );
                }
            }
        }
        // The words above are among the files.
        counted.retain(|(_, name)| name.starts_with("cloakroom_"));
        counted.insert((CALL_SECONDS.0 as u8, CALL_SECONDS.1.to_owned()));
        let described = FIGURES.iter().map(|(kind, name, _)| (*kind as u8, (*name).to_owned())).collect();
        assert_eq!(counted, described);
    }

    #[test]
    fn the_reasons_of_refused_handshakes_are_those_that_the_page_names() {
        let page = page("docs/errors.md");
        let section = page.split("\n## ").find(|section| section.starts_with("Before any call")).unwrap();
        assert_eq!(named(section), REFUSED_HANDSHAKES.iter().map(|reason| (*reason).to_owned()).collect());
    }

    #[test]
    fn what_somebody_may_wait_for_is_there_from_the_start() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, begin);
        let shown = handle.render();
        for line in [
            "# HELP cloakroom_not_ready 1 while the vault is not ready",
            "cloakroom_not_ready{reason=\"full\"} 0\n",
            "cloakroom_not_ready{reason=\"stalled\"} 0\n",
            "cloakroom_not_ready{reason=\"failed\"} 0\n",
            "cloakroom_checkpoint_failures_total 0\n",
            "cloakroom_records_damaged_total 0\n",
            "cloakroom_handshakes_refused_total{reason=\"certificate_expired\"} 0\n",
            "cloakroom_purge_left_total{reason=\"damaged\"} 0\n",
        ] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
    }
}
