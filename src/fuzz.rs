//! Targets for coverage-guided fuzzing: every decoder and parser that is fed from outside, and every call from its first
//! byte to its status. `fuzz/README.md` says which target is for which parser, and how to run them.
//!
//! They are part of the unit tests, so that they reach what is private and use the same fixtures; nothing of this is in the
//! program. Each target takes any bytes and must neither panic nor allocate or work without bound; where there is an
//! oracle (a round trip, a second decoder, another implementation, the rules written down once more), it is asked.
//!
//! [`tests::every_input_that_was_kept_passes_i_01`] runs what was kept in `fuzz/corpus` on each `make test`. `fuzz/run`
//! builds the same tests with counters and looks for more.

mod control;
mod door;
mod files;
mod log;
mod names;
mod rows;
mod witness;

#[cfg(test)]
mod tests;

/// One target.
pub(crate) struct Target {
    /// Its name, which is also that of its corpus.
    pub name: &'static str,
    /// Takes one input. A panic is a finding.
    pub run: fn(&[u8]),
    /// Where to begin: made anew on each run, so that it fits the code.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that is tried.
    #[cfg_attr(not(feature = "fuzz"), expect(dead_code, reason = "nobody makes inputs without a fuzzer"))]
    pub bytes_at_most: usize,
}

const KIB: usize = 1024;

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "tokenize", run: door::tokenize, seeds: door::seeds::tokenize, bytes_at_most: 16 * KIB },
    Target { name: "detokenize", run: door::detokenize, seeds: door::seeds::detokenize, bytes_at_most: 16 * KIB },
    Target { name: "inspect", run: door::inspect, seeds: door::seeds::inspect, bytes_at_most: 16 * KIB },
    Target { name: "renew", run: door::renew, seeds: door::seeds::renew, bytes_at_most: 16 * KIB },
    Target { name: "revoke", run: door::revoke, seeds: door::seeds::revoke, bytes_at_most: 16 * KIB },
    Target { name: "query_events", run: door::query_events, seeds: door::seeds::query, bytes_at_most: 4 * KIB },
    Target { name: "tail_events", run: door::tail_events, seeds: door::seeds::tail, bytes_at_most: 4 * KIB },
    Target { name: "proofs", run: door::proofs, seeds: door::seeds::proof, bytes_at_most: KIB },
    Target { name: "streams", run: door::streams, seeds: door::seeds::stream, bytes_at_most: 8 * KIB },
    Target { name: "call_head", run: door::call_head, seeds: door::seeds::head, bytes_at_most: 4 * KIB },
    Target { name: "record", run: rows::record, seeds: rows::record_seeds, bytes_at_most: 2 * KIB },
    Target { name: "row_fields", run: rows::fields, seeds: rows::field_seeds, bytes_at_most: 2 * KIB },
    Target { name: "stored_rows", run: rows::stored, seeds: rows::stored_seeds, bytes_at_most: 2 * KIB },
    Target { name: "store_log", run: rows::store_log, seeds: rows::store_log_seeds, bytes_at_most: 64 * KIB },
    Target { name: "event", run: log::event, seeds: log::event_seeds, bytes_at_most: 8 * KIB },
    Target { name: "export", run: log::export, seeds: log::export_seeds, bytes_at_most: 64 * KIB },
    Target { name: "tiles", run: log::tiles, seeds: log::tile_seeds, bytes_at_most: 64 * KIB },
    Target { name: "proof_file", run: log::proof_file, seeds: log::proof_file_seeds, bytes_at_most: 8 * KIB },
    Target { name: "note", run: log::note, seeds: log::note_seeds, bytes_at_most: 8 * KIB },
    Target { name: "witness_request", run: witness::request, seeds: witness::request_seeds, bytes_at_most: 8 * KIB },
    Target { name: "witness_answer", run: witness::answer, seeds: witness::answer_seeds, bytes_at_most: 8 * KIB },
    Target { name: "sink_answer", run: witness::sink_answer, seeds: witness::sink_seeds, bytes_at_most: 4 * KIB },
    Target { name: "http", run: witness::http, seeds: witness::http_seeds, bytes_at_most: 8 * KIB },
    Target { name: "names", run: names::names, seeds: names::name_seeds, bytes_at_most: 4 * KIB },
    Target { name: "keys", run: names::keys, seeds: names::key_seeds, bytes_at_most: KIB },
    Target { name: "certificate", run: names::certificate, seeds: names::certificate_seeds, bytes_at_most: 8 * KIB },
    Target { name: "policy", run: files::policy, seeds: files::policy_seeds, bytes_at_most: 4 * KIB },
    Target { name: "expectations", run: files::expectations, seeds: files::expectation_seeds, bytes_at_most: 8 * KIB },
    Target { name: "config", run: files::config, seeds: files::config_seeds, bytes_at_most: 8 * KIB },
    Target { name: "command_line", run: files::command_line, seeds: files::command_seeds, bytes_at_most: 8 * KIB },
    Target { name: "pem", run: files::pem, seeds: files::pem_seeds, bytes_at_most: 8 * KIB },
];

/// Takes an input apart. What is not there is zero, so that every input means something.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// As many bytes as the next two say, or are left.
    fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()])).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// What [`Input::piece`] reads as `bytes`.
fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a seed is short");
    [&length.to_le_bytes(), bytes].concat()
}

/// A field of a frozen vector, as text.
fn text<'v>(value: &'v serde_json::Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// One byte, and then `rest`: many targets are several, of which the first byte chooses.
fn chosen(choice: u8, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[choice], rest.as_ref()].concat()
}

fn frozen(vectors: &str) -> serde_json::Value {
    serde_json::from_str(vectors).expect("frozen vectors are JSON")
}
