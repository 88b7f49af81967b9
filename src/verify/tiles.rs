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
        if width == TILE_WIDTH {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::TILE_BYTES;
    use std::collections::BTreeMap;

    const LEAVES: [u8; TILE_BYTES] = [7; TILE_BYTES];

    /// A reader as it is behind 257 full tiles of [`LEAVES`], which fill one tile of the level above and begin another, and
    /// the files that belong there.
    fn three_levels() -> (Reader, BTreeMap<String, Vec<u8>>) {
        let root_of = |bytes: &[u8]| {
            let id = TileId { level: 0, index: 0 };
            Tile::from_bytes(id, bytes.to_vec()).expect("it is full").root().as_bytes().to_vec()
        };
        let below = root_of(&LEAVES);
        let full = below.repeat(TILE_WIDTH);
        let above = root_of(&full);
        let mut reader = Reader::new(&Settings::default());
        reader.rows = vec![Row { full: 1, bytes: below.clone() }, Row { full: 0, bytes: above.clone() }];
        let files = [("tile/1/000", full), ("tile/1/001.p/1", below), ("tile/2/000.p/1", above)];
        (reader, files.map(|(path, bytes)| (path.to_owned(), bytes)).into())
    }

    /// What is said about these files in the place of the right ones.
    fn compared(mut reader: Reader, files: &BTreeMap<String, Vec<u8>>) -> Report {
        let mut fetch = |path: &str| Ok(files.get(path).cloned());
        let full = reader.rows[0].bytes.repeat(TILE_WIDTH);
        reader.compare(TileId { level: 1, index: 0 }, &full, &mut fetch).unwrap();
        reader.last_rows(&mut fetch).unwrap();
        reader.verifier.found().clone()
    }

    #[test]
    fn each_level_is_held_against_the_one_below_it_a_02() {
        let (reader, files) = three_levels();
        let mut asked = Vec::new();
        let mut fetch = |path: &str| {
            asked.push(path.to_owned());
            Ok(files.get(path).cloned())
        };
        let mut real = Reader::new(&Settings::default());
        for index in 0..=TILE_WIDTH as u64 {
            real.complete(TileId { level: 0, index }, LEAVES.to_vec(), &mut fetch).unwrap();
        }
        real.last_rows(&mut fetch).unwrap();
        assert_eq!(asked, ["tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"]);
        assert!(real.verifier.found().holds());
        let rows = |reader: &Reader| reader.rows.iter().map(|row| (row.full, row.bytes.clone())).collect::<Vec<_>>();
        assert_eq!(rows(&real), rows(&reader), "the other tests begin with the same");
        assert!(compared(reader, &files).holds());
    }

    #[test]
    fn a_wrong_hash_is_named_with_the_entries_under_it_a_01() {
        let (reader, files) = three_levels();
        for (path, position, first, last) in [
            ("tile/1/000", 0, 0, 255),
            ("tile/1/000", 3, 768, 1023),
            ("tile/1/000", 255, 65_280, 65_535),
            ("tile/1/001.p/1", 0, 65_536, 65_791),
            ("tile/2/000.p/1", 0, 0, 65_535),
        ] {
            let mut files = files.clone();
            files.get_mut(path).unwrap()[HASH_BYTES * position] ^= 1;
            let report = compared(reader.clone(), &files);
            let found: Vec<_> = report.findings.iter().map(|finding| (finding.entry, &finding.fault)).collect();
            assert_eq!(found, [(Some(first), &Fault::Tile { first, last })], "{path}");
        }
    }

    #[test]
    fn a_tile_says_nothing_new_of_entries_that_are_known_to_be_bad() {
        let (reader, mut files) = three_levels();
        files.get_mut("tile/1/001.p/1").unwrap()[0] ^= 1;
        for (known, findings) in [(65_535, 2), (65_536, 1), (65_791, 1), (65_792, 2)] {
            let mut reader = reader.clone();
            reader.verifier.fault_at(Some(known), &Place::End, Fault::Fields);
            assert_eq!(compared(reader, &files).findings.len(), findings, "entry {known}");
        }
    }

    #[test]
    fn a_full_tile_may_have_taken_the_place_of_one_that_was_not() {
        let (reader, mut files) = three_levels();
        let begun = files.remove("tile/1/001.p/1").unwrap();
        files.insert("tile/1/001".to_owned(), begun.repeat(TILE_WIDTH));
        assert!(compared(reader.clone(), &files).holds());
        for length in [HASH_BYTES * 2, TILE_BYTES - HASH_BYTES, TILE_WIDTH + HASH_BYTES, TILE_WIDTH / HASH_BYTES] {
            files.insert("tile/1/001".to_owned(), begun.repeat(TILE_WIDTH)[..length].to_vec());
            let report = compared(reader.clone(), &files);
            let fault = Fault::File(Gone::Length { expected: HASH_BYTES, found: length });
            assert_eq!(report.findings.iter().map(|finding| &finding.fault).collect::<Vec<_>>(), [&fault]);
        }
    }
}
