//! A log as lines of JSON.

use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Settings;
use super::export::{self, Consistency};
use super::log::{Place, Verifier};
use super::report::{Fault, Report};
use crate::event::view::Renderer;
use crate::merkle::leaf_hash;

/// More than the largest event becomes: a thousand items, and a checkpoint of a megabyte with every byte escaped.
const MAX_LINE_BYTES: u64 = 8 << 20;

/// So many lines are between two calls of `progress`.
const PROGRESS_LINES: u64 = 4_096;

/// Verifies an export. `progress` hears now and then how many bytes were read.
pub fn lines(settings: &Settings, mut log: impl BufRead, mut progress: impl FnMut(u64)) -> io::Result<Report> {
    let mut reader = Reader::new(settings);
    let mut line = Vec::new();
    let mut bytes = 0;
    while !reader.verifier.stopped() {
        line.clear();
        let length = log.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        reader.line(&line);
        bytes += length as u64;
        if reader.number.is_multiple_of(PROGRESS_LINES) {
            progress(bytes);
        }
    }
    Ok(reader.finish())
}

/// Reads line after line.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) verifier: Verifier,
    /// How many lines there were.
    number: u64,
    consistency: Option<Consistency>,
    /// Behind a checkpoint of a larger log nothing follows.
    ended: bool,
    renderer: Renderer,
    /// Used again for each line.
    leaf: Vec<u8>,
    tail: Vec<u8>,
}

impl Reader {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut reader = Self {
            verifier: Verifier::new(settings),
            number: 0,
            consistency: None,
            ended: false,
            renderer: Renderer::default(),
            leaf: Vec::new(),
            tail: Vec::new(),
        };
        reader.tail.reserve(1024);
        reader
    }

    pub(super) fn finish(self) -> Report {
        self.verifier.finish()
    }

    /// A line with its line feed.
    pub(super) fn line(&mut self, line: &[u8]) {
        self.number += 1;
        let place = Place::Line(self.number);
        let Some(text) = line.strip_suffix(b"\n") else {
            return self
                .verifier
                .stop(&place, Fault::Form("the line has no end: the export was cut, or is being written"));
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return self.verifier.stop(&place, Fault::Form("the line is not UTF-8"));
        };
        if self.ended {
            return self
                .verifier
                .stop(&place, Fault::Form("nothing follows the checkpoint that a part of a log ends with"));
        }
        if text.starts_with(export::SEQUENCE) {
            self.entry(&place, text);
        } else if text.starts_with(export::CHECKPOINT) {
            self.checkpoint(&place, text);
        } else if text.starts_with(export::START) {
            self.start(&place, text);
        } else if text.starts_with(export::CONSISTENCY) {
            self.consistency(&place, text);
        } else {
            self.verifier.stop(&place, Fault::Form("the line is neither an entry nor a checkpoint"));
        }
    }

    fn entry(&mut self, place: &Place, text: &str) {
        let Some((sequence, hash, rest)) = export::parse_head(text) else {
            return self.verifier.stop(place, Fault::Form("the line does not begin with a sequence and a hash"));
        };
        let expected = self.verifier.next();
        if sequence != expected {
            return self.verifier.stop(place, Fault::Sequence { expected, found: sequence });
        }
        if self.consistency.is_some() {
            return self.verifier.stop(place, Fault::Form("an entry follows a proof that leads to a checkpoint"));
        }
        if rest == export::DROPPED {
            return match export::parse_hash(hash) {
                Some(hash) => self.verifier.dropped(place, hash),
                None => self.verifier.stop(place, Fault::Form("the hash is not 64 lower-case hexadecimal digits")),
            };
        }
        let Some((leaf, tail)) = rest.strip_prefix(export::LEAF).and_then(|rest| rest.split_once('"')) else {
            return self.verifier.stop(place, Fault::Form("behind the hash there is no leaf"));
        };
        self.body(place, hash, leaf, tail);
    }

    fn body(&mut self, place: &Place, hash: &str, leaf: &str, tail: &str) {
        self.leaf.clear();
        if BASE64.decode_vec(leaf, &mut self.leaf).is_err() {
            // The tree can go on with the hash.
            return match export::parse_hash(hash) {
                Some(hash) => {
                    self.verifier.fault(place, Fault::Form("the leaf is not base64"));
                    self.verifier.lost(hash);
                }
                None => self.verifier.stop(place, Fault::Form("the leaf is not base64")),
            };
        }
        let computed = leaf_hash(&self.leaf);
        let written = if hash.as_bytes() == export::hex_digits(&computed) {
            computed
        } else {
            export::parse_hash(hash).unwrap_or_else(|| {
                self.verifier.fault(place, Fault::Form("the hash is not 64 lower-case hexadecimal digits"));
                computed
            })
        };
        let sequence = self.verifier.next();
        let Some(view) = self.verifier.body(place, &self.leaf, computed, written) else { return };
        if written != computed {
            return;
        }
        self.tail.clear();
        export::tail(&mut self.renderer, &view, self.verifier.log(), &mut self.tail);
        if self.tail != tail.as_bytes() {
            self.verifier.fault_at(Some(sequence), place, Fault::Fields);
        }
        self.verifier.keep_if_wanted(sequence, &view, &mut self.renderer);
    }

    fn checkpoint(&mut self, place: &Place, text: &str) {
        let note = export::parse_checkpoint(text);
        match (note, self.consistency.take()) {
            (None, _) => self.verifier.refuse_checkpoint(place),
            (Some(note), None) => self.verifier.checkpoint(place, &note),
            (Some(note), Some(proof)) => {
                self.ended = true;
                self.verifier.checkpoint_beyond(place, &note, &proof);
            }
        }
    }

    fn start(&mut self, place: &Place, text: &str) {
        if self.number != 1 {
            return self.verifier.stop(place, Fault::Form("a part's first line stands in the middle"));
        }
        match export::parse_start(text, self.verifier.log()) {
            Some(peaks) => self.verifier.start(peaks),
            None => self.verifier.stop(place, Fault::Form("not the first line of a part of this log")),
        }
    }

    fn consistency(&mut self, place: &Place, text: &str) {
        match export::parse_consistency(text) {
            Some(proof) if self.consistency.is_none() => self.consistency = Some(proof),
            _ => self.verifier.stop(place, Fault::Form("not a proof that leads from a part's end to a checkpoint")),
        }
    }
}
