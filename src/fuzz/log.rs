//! The log, as it is stored and as it is handed on: events, exports, tiles, proofs, signed notes.

use super::{Input, chosen, frozen, text};
use crate::event::json::Json;
use crate::event::view::{Renderer, View};
use crate::event::{self, ocsf, severity::Severity};
use crate::merkle::note::{Checkpoint, Note, SignedCheckpoint, VerifierKey, WitnessVerifier};
use crate::merkle::{Hash, Peaks, TILE_BYTES, Tile, TileId, verify_consistency, verify_inclusion};
use crate::verify::proof::Proof;
use crate::verify::{Kept, Settings, export as lines_of, lines};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const EVENTS: &str = include_str!("../../tests/vectors/event_v1.json");
const EXPORTS: &str = include_str!("../../tests/vectors/export_v1.json");
const CHECKPOINTS: &str = include_str!("../../tests/vectors/checkpoint_v1.json");
const COSIGNATURES: &str = include_str!("../../tests/vectors/cosignature_v1.json");

fn hex(value: &serde_json::Value, field: &str) -> Vec<u8> {
    hex::decode(text(value, field)).expect("hexadecimal")
}

/// Both decoders take the same bytes, what they take is canonical, and both ways of writing JSON agree.
pub(super) fn event(data: &[u8]) {
    let (decoded, view) = (event::decode(data), View::read(data));
    assert_eq!(decoded.is_ok(), view.is_some(), "the two decoders disagree");
    let (Ok(mut event), Some(view)) = (decoded, view) else { return };
    let time = event.timestamp().expect("a decoded event has a time");
    assert_eq!(event::finish(&event.encode_body(), time), data, "a second spelling of an event was taken");
    "log.example/vault".clone_into(&mut event.log_id);
    event.sequence = 7;
    let written = serde_json::to_vec(&Json(&event)).expect("an event is JSON");
    let mut rendered = Vec::new();
    Renderer::default().event(&view, &event.log_id, 7, &mut rendered);
    assert_eq!(String::from_utf8_lossy(&rendered), String::from_utf8_lossy(&written));
    let _: serde_json::Value = serde_json::from_slice(&rendered).expect("what is written is JSON");
    let _ = (ocsf::api_activity(&event, "1.0").to_string(), Severity::of(&event));
    crate::export::fuzzed::check_forms(&event);
}

pub(super) fn event_seeds() -> Vec<Vec<u8>> {
    let vectors = frozen(EVENTS);
    let good = vectors["events"].as_array().unwrap().iter().map(|event| hex(event, "canonical"));
    good.chain(vectors["refused"].as_array().unwrap().iter().map(|event| hex(event, "bytes"))).collect()
}

type Files = BTreeMap<String, Vec<u8>>;

/// The frozen directory of tiles.
static FILES: LazyLock<Files> = LazyLock::new(|| {
    let files = &frozen(EXPORTS)["files"];
    files.as_object().unwrap().keys().map(|name| (name.clone(), hex(files, name))).collect()
});
/// What an auditor has: the log's key and a checkpoint that was kept.
static SETTINGS: LazyLock<Settings> = LazyLock::new(settings);
static NOTES: LazyLock<Vec<String>> = LazyLock::new(frozen_notes);
static KEYS: LazyLock<(Vec<VerifierKey>, Vec<WitnessVerifier>)> = LazyLock::new(keys);

fn settings() -> Settings {
    let vectors = frozen(EXPORTS);
    let kept = hex(&vectors["files"], "checkpoint");
    Settings {
        keys: vec![text(&vectors, "vkey").parse().expect("a frozen key")],
        checkpoints: vec![Kept { name: "kept".into(), note: String::from_utf8(kept).expect("a note is text") }],
        sequence: Some(1),
    }
}

/// Any lines as an export, with and without what was kept. A log that holds is under a root that the key has signed.
pub(super) fn export(data: &[u8]) {
    let trusted = &*SETTINGS;
    let report = lines(trusted, data, |_| {}).expect("bytes in memory can be read");
    let _ = (report.holds(), report.first_bad());
    let untrusted = lines(&Settings::default(), data, |_| {}).expect("bytes in memory can be read");
    assert!(!untrusted.holds(), "a log holds that nobody vouches for");
    let Ok(all) = str::from_utf8(data) else { return };
    for line in all.lines() {
        if let Some(note) = lines_of::parse_checkpoint(line) {
            let mut again = Vec::new();
            lines_of::checkpoint(&note, &mut again);
            let again = String::from_utf8(again).expect("a line is text");
            assert_eq!(lines_of::parse_checkpoint(again.trim_end()), Some(note));
        }
        if let Some(proof) = lines_of::parse_consistency(line) {
            let mut again = Vec::new();
            lines_of::consistency(&proof, &mut again);
            assert_eq!(String::from_utf8_lossy(&again).trim_end(), line);
        }
        let _ = (lines_of::parse_head(line), lines_of::parse_start(line, "log"), lines_of::parse_hash(line));
    }
}

pub(super) fn export_seeds() -> Vec<Vec<u8>> {
    let vectors = frozen(EXPORTS);
    let whole = |export: &serde_json::Value| {
        let lines = export["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    };
    vectors["exports"].as_array().unwrap().iter().map(whole).collect()
}

/// A directory of tiles: the frozen one, with files replaced. The input is a list of them: which, and its bytes.
pub(super) fn tiles(data: &[u8]) {
    let mut files = FILES.clone();
    let names: Vec<String> = files.keys().cloned().collect();
    let mut input = Input(data);
    while !input.0.is_empty() {
        let (which, how) = (usize::from(input.byte()), input.byte());
        let file = files.get_mut(&names[which % names.len()]).expect("one of them");
        match how % 4 {
            0 => *file = input.piece().to_vec(),
            1 => file.truncate(usize::from(u16::from_le_bytes(input.array()))),
            2 => {
                let at = usize::from(u16::from_le_bytes(input.array()));
                let flip = input.byte();
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= flip;
                }
            }
            _ => file.extend_from_slice(input.piece()),
        }
    }
    let fetch = |path: &str| Ok(files.get(path).cloned());
    let report = crate::verify::tiles(&SETTINGS, fetch, |_, _| {}).expect("files in memory can be read");
    let entries = |files: &Files| {
        let of = files.iter().filter(|(name, _)| name.contains("entries"));
        of.map(|(name, bytes)| (name.clone(), bytes.clone())).collect::<Vec<_>>()
    };
    // With the honest checkpoint kept, nothing but the honest entries holds.
    assert!(!report.holds() || entries(&files) == entries(&FILES), "entries that were changed hold");
    assert!(files != *FILES || report.holds(), "the honest log does not hold");
}

pub(super) fn tile_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    for which in 0..6 {
        seeds.push(vec![which, 2, 40, 0, 1]);
        seeds.push(vec![which, 1, 20, 0]);
        seeds.push(vec![which, 3, 2, 0, 9, 9]);
    }
    // Another number of entries, unsigned.
    let note = "dev.cloakroom.internal/log/0a1b2c3d\n18446744073709551615\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\
                \u{2014} a AAAAAAA=\n";
    seeds.push([&[0, 0][..], &super::piece(note.as_bytes())].concat());
    seeds
}

/// A file with a proof of one event; and paths through trees of any size.
pub(super) fn proof_file(data: &[u8]) {
    let mut input = Input(data);
    if input.byte() & 1 == 0 {
        let Ok(file) = str::from_utf8(input.rest()) else { return };
        if let Ok(proof) = file.parse::<Proof>() {
            assert_eq!(proof.to_string(), file, "a second spelling of a proof was taken");
            let _ = proof.verify(&SETTINGS);
        }
        return;
    }
    let (index, size) = (input.number(), input.number());
    let (leaf, root) = (Hash(input.array()), Hash(input.array()));
    let hashes: Vec<Hash> = input.rest().chunks_exact(32).map(|hash| Hash::try_from(hash).unwrap()).collect();
    let is_included = verify_inclusion(&leaf, index, size, &root, &hashes).is_ok();
    assert_eq!(is_included, index < size && led_to(leaf, index, size, &hashes) == Some(root), "{index} of {size}");
    let _ = verify_consistency(index, &leaf, size, &root, &hashes);
    let _ = Peaks::before(index, size, &hashes);
    if let Some(mut peaks) = Peaks::claimed(size, hashes) {
        peaks.append(leaf);
        assert_eq!(peaks.size(), size + 1);
        let _ = peaks.root();
    }
}

/// The root to which an inclusion proof leads, as RFC 6962 defines the path in section 2.1.1, from the root down.
fn led_to(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if size == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    // The largest power of two that is smaller.
    let left = 1 << (size - 1).ilog2();
    let children = if index < left {
        [led_to(leaf, index, left, below)?, *sibling]
    } else {
        [*sibling, led_to(leaf, index - left, size - left, below)?]
    };
    Some(Hash(Sha256::digest([&[1][..], &children[0].0, &children[1].0].concat()).into()))
}

pub(super) fn proof_file_seeds() -> Vec<Vec<u8>> {
    let vectors = frozen(EXPORTS);
    let note = String::from_utf8(hex(&vectors["files"], "checkpoint")).expect("text");
    let proof = Proof { sequence: 1, leaf: b"event".to_vec(), hashes: vec![Hash([4; 32]), Hash([5; 32])], note };
    let numbers = |index: u64, size: u64, hashes: usize| {
        let head = [&[1], &index.to_le_bytes()[..], &size.to_le_bytes(), &[7; 64]].concat();
        [head, vec![9; 32 * hashes]].concat()
    };
    let root = led_to(Hash([7; 32]), 5, 8, &[Hash([9; 32]); 3]).expect("a path of the right length");
    let mut right = numbers(5, 8, 3);
    right[49..81].copy_from_slice(&root.0);
    vec![
        chosen(0, proof.to_string()),
        numbers(0, 1, 0),
        numbers(1, 3, 1),
        numbers(5, 8, 3),
        numbers(3, 7, 4),
        numbers(u64::MAX - 1, u64::MAX, 63),
        right,
    ]
}

/// Signed notes and what is in them, against a second implementation; paths of tiles.
pub(super) fn note(data: &[u8]) {
    let Ok(all) = str::from_utf8(data) else { return };
    if let Ok(id) = all.parse::<TileId>() {
        assert_eq!(id.path(), all);
        let _ = Tile::from_bytes(id, vec![3; TILE_BYTES]).expect("a full tile").root();
    }
    let ours = Note::parse(all);
    // Theirs is not as strict about what a name may hold, but what we take it takes.
    if let Ok(note) = &ours {
        assert_eq!(note.to_string(), all, "a second spelling of a note was taken");
        assert!(signed_note::Note::from_bytes(data).is_ok(), "a note that another implementation refuses");
    }
    let text = ours.as_ref().map_or(all, |note| note.text());
    let checkpoint = Checkpoint::parse(text);
    if let Ok(checkpoint) = &checkpoint {
        assert_eq!(checkpoint.text(), text, "a second spelling of a checkpoint was taken");
        let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).expect("what another implementation takes");
        assert_eq!((theirs.size(), theirs.hash().0), (checkpoint.size(), checkpoint.root().0));
    }
    let (logs, witnesses) = &*KEYS;
    for key in logs {
        let opened = Checkpoint::open(all, key.name(), std::slice::from_ref(key));
        let signed = SignedCheckpoint::open(all, key.name(), std::slice::from_ref(key));
        assert_eq!(opened.is_ok(), signed.is_ok());
        if opened.is_ok() {
            let text = ours.as_ref().expect("it was opened").text();
            assert!(NOTES.iter().any(|note| note.starts_with(text)), "a signature was forged");
        }
    }
    if let Ok(note) = &ours {
        for key in witnesses {
            let _ = note.cosigned_by(key);
        }
    }
}

fn frozen_notes() -> Vec<String> {
    let of = |vectors: &str, table: &str, field: &str| -> Vec<String> {
        frozen(vectors)[table].as_array().unwrap().iter().map(|row| text(row, field).to_owned()).collect()
    };
    let mut notes = of(CHECKPOINTS, "checkpoints", "note");
    notes.extend(of(COSIGNATURES, "cosignatures", "cosigned"));
    notes.extend(of(COSIGNATURES, "cosignatures", "note"));
    notes
}

fn keys() -> (Vec<VerifierKey>, Vec<WitnessVerifier>) {
    let of = |vectors: &str| -> Vec<String> {
        frozen(vectors)["keys"].as_array().unwrap().iter().map(|key| text(key, "public").to_owned()).collect()
    };
    let logs = of(CHECKPOINTS).iter().filter_map(|key| key.parse().ok()).collect();
    (logs, of(COSIGNATURES).iter().filter_map(|key| key.parse().ok()).collect())
}

pub(super) fn note_seeds() -> Vec<Vec<u8>> {
    let refused = |vectors: &str| -> Vec<Vec<u8>> {
        frozen(vectors)["refused"].as_array().unwrap().iter().map(|row| text(row, "note").into()).collect()
    };
    let mut seeds: Vec<Vec<u8>> = NOTES.iter().map(|note| note.clone().into_bytes()).collect();
    seeds.extend(refused(CHECKPOINTS));
    seeds.extend(refused(COSIGNATURES));
    seeds.retain(|seed| seed.len() < 8 * 1024);
    seeds.extend([b"tile/0/x001/x234/067".to_vec(), b"tile/63/000".to_vec()]);
    seeds
}
