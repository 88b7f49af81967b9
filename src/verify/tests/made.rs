//! Logs to tamper with.

use std::collections::BTreeMap;
use std::io;

use crate::clock::Timestamp;
use crate::event::view::{Renderer, View};
use crate::event::{Action, Event, HANDLE_BYTES, ItemOutcome, Outcome, Reveal, finish, handles};
use crate::merkle::note::{Checkpoint, LogKey, Name};
use crate::merkle::{Frontier, HASH_BYTES, Hash, Peaks, TILE_WIDTH, TileId, leaf_hash};
use crate::secret::SecretKey;
use crate::verify::{Fault, Kept, Report, Settings, bundle_path, export, lines, partial_path, tiles};

pub(super) const LOG: &str = "example.org/log/1";

pub(super) fn key(seed: u8) -> LogKey {
    LogKey::from_seed(Name::new(LOG).unwrap(), &SecretKey::new([seed; 32]))
}

/// A log in memory, and the key that signs it.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) leaves: Vec<Vec<u8>>,
    /// From how many entries on which keys sign.
    pub(super) keys: Vec<(u64, Vec<u8>)>,
}

pub(super) fn at(place: u64) -> usize {
    usize::try_from(place).unwrap()
}

/// An event that differs from its neighbours in most fields. `world` makes another history of the same shape.
pub(super) fn event(sequence: u64, world: u8) -> Event {
    let number = u8::try_from(sequence % 251).unwrap();
    let (one, two) = ([number; HANDLE_BYTES], [world; HANDLE_BYTES]);
    let denied = sequence % 7 == 3;
    Event {
        action: if sequence.is_multiple_of(2) { Action::Tokenize } else { Action::Detokenize }.into(),
        outcome: if denied { Outcome::Denied } else { Outcome::Allowed }.into(),
        reason: if denied { "POLICY_DENIED".to_owned() } else { String::new() },
        caller: format!("spiffe://example.org/caller-{}", sequence % 5),
        certificate_sha256: vec![number; 32].into(),
        scope: "pan".to_owned(),
        handles: handles([Some(&one), None, Some(&two)].into_iter().take(at(sequence % 4))),
        requested: 3,
        succeeded: u32::from(!denied),
        purpose: if sequence.is_multiple_of(3) { "a \"refund\"\\".to_owned() } else { String::new() },
        policies: vec!["gateway-pan".to_owned()],
        node: "vault".to_owned(),
        reveal: if sequence.is_multiple_of(2) { Reveal::Unspecified } else { Reveal::Full }.into(),
        rulebook: vec![9; 32].into(),
        item_outcomes: vec![ItemOutcome::Issued.into(); at(sequence % 4)],
        salt: vec![number, world, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16].into(),
        ..Event::default()
    }
}

pub(super) fn leaf(sequence: u64, event: &Event) -> Vec<u8> {
    finish(&event.encode_body(), Timestamp::from_millis(1_790_000_000_000 + 137 * sequence))
}

impl Log {
    pub(super) fn of_size(size: u64) -> Self {
        Self { leaves: (0..size).map(|n| leaf(n, &event(n, 0))).collect(), keys: vec![(0, vec![1])] }
    }

    pub(super) fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Another event in the place of one that is there.
    pub(super) fn put(&mut self, sequence: u64, event: &Event) {
        self.leaves[at(sequence)] = leaf(sequence, event);
    }

    pub(super) fn peaks(&self, size: u64) -> Peaks {
        let mut peaks = Peaks::new();
        self.leaves[..at(size)].iter().for_each(|leaf| peaks.append(leaf_hash(leaf)));
        peaks
    }

    pub(super) fn note(&self, size: u64) -> String {
        let (_, seeds) = self.keys.iter().rev().find(|(from, _)| *from <= size).unwrap();
        let keys: Vec<LogKey> = seeds.iter().map(|seed| key(*seed)).collect();
        let extensions = vec!["time 2026-11-22T10:00:00.000Z".to_owned()];
        let checkpoint = Checkpoint::new(Name::new(LOG).unwrap(), size, self.peaks(size).root(), extensions).unwrap();
        checkpoint.sign(&keys.iter().collect::<Vec<_>>())
    }

    pub(super) fn kept(&self, size: u64) -> Kept {
        Kept { name: format!("kept-{size}"), note: self.note(size) }
    }

    pub(super) fn line(&self, sequence: u64) -> Vec<u8> {
        let leaf = &self.leaves[at(sequence)];
        let mut line = Vec::new();
        export::entry(&mut Renderer::default(), &View::read(leaf).unwrap(), LOG, sequence, leaf, &mut line);
        line
    }

    /// The lines of the entries, and a checkpoint behind each size that `checkpoints` names.
    pub(super) fn lines(&self, checkpoints: &[u64]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for sequence in 0..self.size() {
            lines.push(self.line(sequence));
            if checkpoints.contains(&(sequence + 1)) {
                lines.push(checkpoint(&self.note(sequence + 1)));
            }
        }
        lines
    }

    pub(super) fn export(&self) -> Vec<u8> {
        self.lines(&[self.size()]).concat()
    }

    /// The files of a directory of tiles.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::from([("checkpoint".to_owned(), self.note(self.size()).into_bytes())]);
        for (index, bundle) in (0..).zip(self.leaves.chunks(TILE_WIDTH)) {
            let bytes = bundle.iter().flat_map(|leaf| in_bundle(leaf)).collect();
            files.insert(partial_path(&bundle_path(index), bundle.len()), bytes);
        }
        let mut row: Vec<Hash> = self.leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        let mut level = 0;
        while !row.is_empty() {
            let mut above = Vec::new();
            for (index, hashes) in (0..).zip(row.chunks(TILE_WIDTH)) {
                let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
                files.insert(partial_path(&TileId { level, index }.path(), bytes.len() / HASH_BYTES), bytes);
                if hashes.len() == TILE_WIDTH {
                    let mut tree = Frontier::new();
                    for hash in hashes {
                        drop(tree.append(*hash));
                    }
                    above.push(tree.root());
                }
            }
            (row, level) = (above, level + 1);
        }
        files
    }
}

pub(super) fn in_bundle(leaf: &[u8]) -> Vec<u8> {
    [&u16::try_from(leaf.len()).unwrap().to_be_bytes(), leaf].concat()
}

pub(super) fn checkpoint(note: &str) -> Vec<u8> {
    let mut line = Vec::new();
    export::checkpoint(note, &mut line);
    line
}

pub(super) fn trusting(seeds: &[u8]) -> Settings {
    Settings { keys: seeds.iter().map(|seed| key(*seed).verifier()).collect(), ..Settings::default() }
}

pub(super) fn with_kept(kept: Vec<Kept>) -> Settings {
    Settings { checkpoints: kept, ..trusting(&[1]) }
}

pub(super) fn verified(settings: &Settings, export: &[u8]) -> Report {
    lines(settings, export, |_| {}).unwrap()
}

pub(super) fn verified_files(settings: &Settings, files: &BTreeMap<String, Vec<u8>>) -> Report {
    tiles(settings, |path| io::Result::Ok(files.get(path).cloned()), |_, _| {}).unwrap()
}

/// The only finding.
pub(super) fn only(report: &Report) -> &Fault {
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    &report.findings[0].fault
}

pub(super) fn holds(report: &Report) {
    assert!(report.holds(), "{:?}", report.findings);
}
