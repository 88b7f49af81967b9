//! A log as files in the layout of C2SP tlog-tiles.

use std::io;

use super::Settings;
use super::log::{Place, Verifier};
use super::report::{Fault, Gone, Report};
use crate::event::view::Renderer;
use crate::merkle::note::{Checkpoint, Note};
use crate::merkle::{HASH_BYTES, Hash, TILE_WIDTH, Tile, TileId, leaf_hash};

/// Hands over a file by its path below the log's directory; `None`: it is not there.
pub trait Fetch: FnMut(&str) -> io::Result<Option<Vec<u8>>> {}

impl<F: FnMut(&str) -> io::Result<Option<Vec<u8>>>> Fetch for F {}

const CHECKPOINT: &str = "checkpoint";

/// Verifies a directory of tiles. `progress` hears now and then how many entries of how many were read.
pub fn tiles(settings: &Settings, mut fetch: impl Fetch, mut progress: impl FnMut(u64, u64)) -> io::Result<Report> {
    let mut reader = Reader::new(settings);
    let place = Place::File(CHECKPOINT.to_owned());
    let Some(note) = fetch(CHECKPOINT)? else {
        reader.verifier.stop(&place, Fault::File(Gone::Missing));
        return Ok(reader.verifier.finish());
    };
    let note = String::from_utf8_lossy(&note).into_owned();
    // Not checked yet: it only says how far to read, and what is not there ends that.
    let size = Note::parse(&note).ok().and_then(|note| Checkpoint::parse(note.text()).ok());
    let size = size.map_or(0, |checkpoint| checkpoint.size());
    while reader.verifier.next() < size && !reader.verifier.stopped() {
        reader.bundle(size, &mut fetch)?;
        progress(reader.verifier.next(), size);
    }
    if !reader.verifier.stopped() {
        reader.last_rows(&mut fetch)?;
        reader.verifier.checkpoint(&place, &note);
    }
    Ok(reader.verifier.finish())
}

/// The path of entry bundle `index`, if it is full.
pub fn bundle_path(index: u64) -> String {
    let tile = TileId { level: 0, index }.path();
    format!("tile/entries/{}", tile.strip_prefix("tile/0/").expect("a path of level 0 begins so"))
}

/// The path of a tile or bundle of which only `width` entries are there yet.
pub fn partial_path(full: &str, width: usize) -> String {
    if width == TILE_WIDTH { full.to_owned() } else { format!("{full}.p/{width}") }
}

/// Reads bundle after bundle.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) verifier: Verifier,
    /// For each level from 1 on, the hashes that follow from the tiles below, as far as they fill no tile yet.
    rows: Vec<Row>,
    renderer: Renderer,
}

#[derive(Clone, Default)]
struct Row {
    /// How many tiles of this level are full.
    full: u64,
    bytes: Vec<u8>,
}

impl Reader {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { verifier: Verifier::new(settings), rows: Vec::new(), renderer: Renderer::default() }
    }

    /// The next bundle of a log of `size` entries, and every tile that ends with it.
    fn bundle(&mut self, size: u64, fetch: &mut impl Fetch) -> io::Result<()> {
        let first = self.verifier.next();
        let id = TileId { level: 0, index: first / TILE_WIDTH as u64 };
        let width = usize::try_from(size - first).map_or(TILE_WIDTH, |left| left.min(TILE_WIDTH));
        let hashes = match read(&id.path(), width, fetch)? {
            Ok((_, bytes)) => bytes,
            Err(path) => {
                self.verifier.stop(&Place::File(path), Fault::File(Gone::Missing));
                return Ok(());
            }
        };
        let expected = width * HASH_BYTES;
        if hashes.len() != expected && hashes.len() != TILE_WIDTH * HASH_BYTES {
            let fault = Fault::File(Gone::Length { expected, found: hashes.len() });
            self.verifier.stop(&Place::Tile(id, None), fault);
            return Ok(());
        }
        let hashes = &hashes[..expected];
        match read(&bundle_path(id.index), width, fetch)? {
            Ok((path, bytes)) => {
                let whole = path.ends_with(&partial_path("", width)) || width == TILE_WIDTH;
                self.entries(&Place::File(path), &bytes, hashes, whole);
            }
            Err(_) if width == TILE_WIDTH => {
                let place = Place::Tile(id, None);
                row(hashes).for_each(|hash| self.verifier.dropped(&place, hash));
            }
            Err(path) => self.verifier.stop(&Place::File(path), Fault::File(Gone::Missing)),
        }
        if width == TILE_WIDTH && !self.verifier.stopped() {
            self.complete(id, hashes.to_vec(), fetch)?;
        }
        Ok(())
    }

    /// The entries of one bundle. `whole`: nothing belongs behind the last of them.
    pub(super) fn entries(&mut self, place: &Place, mut bundle: &[u8], hashes: &[u8], whole: bool) {
        let mut torn = false;
        for hash in row(hashes) {
            if let Some((entry, rest)) = split(bundle).filter(|_| !torn) {
                self.entry(place, entry, hash);
                bundle = rest;
                continue;
            }
            if !torn {
                self.verifier.fault(place, Fault::File(Gone::Torn));
            }
            torn = true;
            self.verifier.lost(hash);
        }
        if whole && !torn && !bundle.is_empty() {
            self.verifier.fault_at(Some(self.verifier.next() - 1), place, Fault::File(Gone::Torn));
        }
    }

    fn entry(&mut self, place: &Place, entry: &[u8], written: Hash) {
        let sequence = self.verifier.next();
        if let Some(view) = self.verifier.body(place, entry, leaf_hash(entry), written) {
            self.verifier.keep_if_wanted(sequence, &view, &mut self.renderer);
        }
    }

    /// A full tile: its root is the next hash of the level above, which may be full with it.
    fn complete(&mut self, id: TileId, bytes: Vec<u8>, fetch: &mut impl Fetch) -> io::Result<()> {
        let Some(tile) = Tile::from_bytes(id, bytes) else { return Ok(()) };
        let level = id.level + 1;
        let at = usize::from(id.level);
        if self.rows.len() == at {
            self.rows.push(Row::default());
        }
        self.rows[at].bytes.extend_from_slice(tile.root().as_bytes());
        if self.rows[at].bytes.len() == TILE_WIDTH * HASH_BYTES {
            let row = std::mem::take(&mut self.rows[at].bytes);
            let id = TileId { level, index: self.rows[at].full };
            self.rows[at].full += 1;
            self.compare(id, &row, fetch)?;
            self.complete(id, row, fetch)?;
        }
        Ok(())
    }

    /// The tiles of the levels above that are not full.
    fn last_rows(&mut self, fetch: &mut impl Fetch) -> io::Result<()> {
        for (level, row) in (1..).zip(self.rows.clone()) {
            if !row.bytes.is_empty() {
                self.compare(TileId { level, index: row.full }, &row.bytes, fetch)?;
            }
        }
        Ok(())
    }

    /// Holds a stored tile against what follows from the tiles below it.
    fn compare(&mut self, id: TileId, follows: &[u8], fetch: &mut impl Fetch) -> io::Result<()> {
        let stored = match read(&id.path(), follows.len() / HASH_BYTES, fetch)? {
            Ok((_, stored)) => stored,
            Err(path) => {
                self.verifier.fault_at(None, &Place::File(path), Fault::File(Gone::Missing));
                return Ok(());
            }
        };
        if stored.len() != follows.len() && stored.len() != TILE_WIDTH * HASH_BYTES {
            let fault = Fault::File(Gone::Length { expected: follows.len(), found: stored.len() });
            self.verifier.fault_at(None, &Place::Tile(id, None), fault);
            return Ok(());
        }
        let under = (TILE_WIDTH as u64).pow(u32::from(id.level));
        let begin = id.index * TILE_WIDTH as u64 * under;
        for (position, (stored, follows)) in (0u8..=255).zip(row(&stored).zip(row(follows))) {
            if stored != follows {
                let first = begin + u64::from(position) * under;
                let place = Place::Tile(id, Some(position));
                self.verifier.fault_within(
                    first,
                    first + under,
                    &place,
                    Fault::Tile { first, last: first + under - 1 },
                );
            }
        }
        Ok(())
    }
}

/// A file with `width` entries, and its path: the partial one, or the full one that has replaced it. `Err`: the path at
/// which there is nothing.
fn read(full: &str, width: usize, fetch: &mut impl Fetch) -> io::Result<Result<(String, Vec<u8>), String>> {
    let path = partial_path(full, width);
    if let Some(bytes) = fetch(&path)? {
        return Ok(Ok((path, bytes)));
    }
    match fetch(full)?.filter(|_| path != full) {
        Some(bytes) => Ok(Ok((full.to_owned(), bytes))),
        None => Ok(Err(path)),
    }
}

fn row(bytes: &[u8]) -> impl Iterator<Item = Hash> {
    bytes.chunks_exact(HASH_BYTES).filter_map(|bytes| Hash::try_from(bytes).ok())
}

/// One entry off the front of a bundle: `u16(length) ‖ entry`.
fn split(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bundle.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}
