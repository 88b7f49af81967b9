//! A copy in the layout of C2SP tlog-tiles.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::super::prove::checkpoint;
use super::Copy;
use crate::merkle::{Frontier, HASH_BYTES, Hash, TILE_WIDTH, TileId, leaf_hash};
use crate::verify::export::Consistency;
use crate::verify::{bundle_path, partial_path};

/// A directory of tiles. The checkpoint is written last, so what a stopped copy leaves behind is continued from the
/// checkpoint before.
pub(super) struct Tiles {
    directory: PathBuf,
    frontier: Frontier,
    /// The entries of the bundle that is not full, each with its length.
    bundle: Vec<u8>,
    /// The partial files that belong to the checkpoint that is there.
    partial: Vec<String>,
}

impl Tiles {
    /// Opens a directory that has a copy, or makes one.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        let mut tiles = Self {
            directory: directory.to_owned(),
            frontier: Frontier::new(),
            bundle: Vec::new(),
            partial: Vec::new(),
        };
        let file = directory.join("checkpoint");
        match std::fs::read_to_string(&file) {
            Ok(note) => tiles.load(&note).with_context(|| format!("{} can't be continued", directory.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
        Ok(tiles)
    }

    /// The tree at the checkpoint that is there.
    fn load(&mut self, note: &str) -> anyhow::Result<()> {
        let checkpoint = checkpoint(note).context("its checkpoint is none")?;
        let size = checkpoint.size();
        let width = usize::try_from(size % TILE_WIDTH as u64).expect("less than 256");
        let mut edge = Vec::new();
        if width > 0 {
            let index = size / TILE_WIDTH as u64;
            edge = self.read(&partial_path(&TileId { level: 0, index }.path(), width))?;
            self.bundle = self.read(&partial_path(&bundle_path(index), width))?;
        }
        let last = edge.chunks_exact(HASH_BYTES).filter_map(|bytes| Hash::try_from(bytes).ok());
        let stored = |id: TileId| std::fs::read(self.directory.join(id.path())).map(Some);
        self.frontier = Frontier::rebuild(size, stored, last)?;
        if self.frontier.root() != *checkpoint.root() {
            return Err(anyhow!("its tiles are not those of its checkpoint; `audit verify` says more"));
        }
        self.partial = self.partial_files().into_iter().map(|(path, _)| path).collect();
        Ok(())
    }

    fn read(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        std::fs::read(self.directory.join(path)).with_context(|| format!("cannot read {path}"))
    }

    /// Replaces a file as a whole.
    fn write(&self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.directory.join(path);
        let new = path.with_added_extension("new");
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let mut file = File::create(&new)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        });
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// What is not full yet, at every level.
    fn partial_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        for (id, hashes) in self.frontier.partial_tiles() {
            let width = hashes.len() / HASH_BYTES;
            if id.level == 0 {
                files.push((partial_path(&bundle_path(id.index), width), self.bundle.clone()));
            }
            files.push((partial_path(&id.path(), width), hashes.to_vec()));
        }
        files
    }
}

impl Copy for Tiles {
    fn next(&self) -> u64 {
        self.frontier.size()
    }

    fn root(&self) -> Hash {
        self.frontier.root()
    }

    fn entry(&mut self, leaf: &[u8]) -> anyhow::Result<()> {
        let length = u16::try_from(leaf.len()).map_err(|_| {
            anyhow!("event {} has more than 65,535 bytes, which tiles have no room for: export as lines", self.next())
        })?;
        self.bundle.extend_from_slice(&length.to_be_bytes());
        self.bundle.extend_from_slice(leaf);
        for tile in self.frontier.append(leaf_hash(leaf)) {
            if tile.id().level == 0 {
                let bundle = std::mem::take(&mut self.bundle);
                self.write(&bundle_path(tile.id().index), &bundle)?;
            }
            self.write(&tile.id().path(), tile.bytes())?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, note: &str, beyond: Option<&Consistency>) -> anyhow::Result<()> {
        if beyond.is_some() {
            return Err(anyhow!("tiles have no place for a checkpoint of a larger log"));
        }
        let files = self.partial_files();
        for (path, content) in &files {
            self.write(path, content)?;
        }
        self.write("checkpoint", note.as_bytes())?;
        let now: Vec<String> = files.into_iter().map(|(path, _)| path).collect();
        for path in std::mem::replace(&mut self.partial, now).iter().filter(|path| !self.partial.contains(path)) {
            let path = self.directory.join(path);
            // Nothing depends on their going, and a reader may have been faster.
            let _ = std::fs::remove_file(&path);
            let _ = path.parent().map(std::fs::remove_dir);
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{Event, finish};
    use crate::merkle::note::{Checkpoint, LogKey, Name};
    use crate::secret::SecretKey;
    use crate::verify::{Report, Settings, tiles};

    fn key() -> LogKey {
        LogKey::from_seed(Name::new("example.org/log").unwrap(), &SecretKey::new([3; 32]))
    }

    fn extend(copy: &mut Tiles, end: u64) {
        while copy.next() < end {
            let event = Event { action: 1, caller: format!("c{}", copy.next()), ..Event::default() };
            copy.entry(&finish(&event.encode_body(), Timestamp::from_millis(1000 * copy.next()))).unwrap();
        }
        let checkpoint = Checkpoint::new(key().name().clone(), end, copy.root(), vec![]).unwrap();
        copy.checkpoint(&checkpoint.sign(&[&key()]), None).unwrap();
    }

    fn verified(directory: &Path) -> Report {
        let settings = Settings { keys: vec![key().verifier()], ..Settings::default() };
        tiles(&settings, |path| Ok(std::fs::read(directory.join(path)).ok()), |_, _| {}).unwrap()
    }

    #[test]
    fn a_directory_is_continued_at_any_size_and_has_no_stale_files() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 1, 255, 256, 257, 512, 700] {
            let mut copy = Tiles::open(folder.path()).unwrap();
            extend(&mut copy, size);
            let report = verified(folder.path());
            assert!(report.holds(), "{size}: {:?}", report.findings);
            assert_eq!(report.entries, size);
        }
        let mut found: Vec<String> = Vec::new();
        let mut folders = vec![folder.path().to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(folder.path()).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        assert_eq!(
            found.join(" "),
            "checkpoint tile/0/000 tile/0/001 tile/0/002.p/188 tile/1/000.p/2 tile/entries/000 tile/entries/001 tile/entries/002.p/188"
        );
    }

    #[test]
    fn a_copy_that_stopped_between_checkpoints_is_continued_from_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = Tiles::open(folder.path()).unwrap();
        extend(&mut copy, 300);
        for sequence in 300..600 {
            let event = Event { action: 1, caller: format!("c{sequence}"), ..Event::default() };
            copy.entry(&finish(&event.encode_body(), Timestamp::from_millis(1000 * sequence))).unwrap();
        }
        drop(copy);
        assert!(verified(folder.path()).holds(), "what the checkpoint is about is there");
        let mut copy = Tiles::open(folder.path()).unwrap();
        assert_eq!(copy.next(), 300);
        extend(&mut copy, 650);
        assert!(verified(folder.path()).holds());
    }

    #[test]
    fn tiles_that_were_altered_are_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        extend(&mut Tiles::open(folder.path()).unwrap(), 300);
        let path = folder.path().join("tile/0/001.p/44");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Tiles::open(folder.path()).is_err());
    }
}
