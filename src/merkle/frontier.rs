//! The growing end of the tree.

use std::error::Error;

use super::tile::{TILE_BYTES, TILE_HEIGHT, TILE_WIDTH, TOP_LEVEL, Tile, TileId};
use super::tree::TreeError;
use super::{Hash, empty_root, node_hash};

/// All that a writer must remember of a tree to append to it and to know its root.
///
/// A clone is a snapshot: two small allocations a level and at most 8 KiB for each. A writer clones, appends a batch,
/// stores it, and keeps the clone only if that succeeded.
#[derive(Default)]
pub struct Frontier {
    size: u64,
    /// The roots of the perfect subtrees that the size is the sum of, largest first: one for each set bit of `size`.
    peaks: Vec<Hash>,
    /// The tile that is being filled at each level, as bytes: `size / 256^level mod 256` hashes.
    edge: Vec<Vec<u8>>,
}

impl Frontier {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The frontier of a tree of `size` leaves whose full tiles are stored, as a start needs it.
    ///
    /// `read_tile` hands over a stored tile's bytes. `last_leaves` are the hashes of the last `size mod 256` leaves, in
    /// order: those that are in no full tile yet. Everything goes through the same step as [`Frontier::append`].
    ///
    /// The result is a claim until its root has been compared with one that is signed: see [`super::Tree::root_at`].
    pub fn rebuild<E: Error + 'static>(
        size: u64,
        mut read_tile: impl FnMut(TileId) -> Result<Option<Vec<u8>>, E>,
        last_leaves: impl IntoIterator<Item = Hash>,
    ) -> Result<Self, TreeError<E>> {
        if i64::try_from(size).is_err() {
            return Err(TreeError::TooLarge { size });
        }
        let mut frontier = Self::new();
        for level in (1..=TOP_LEVEL).rev() {
            let complete = size >> (TILE_HEIGHT * level);
            for index in complete - complete % TILE_WIDTH as u64..complete {
                let tile = super::tree::read(&mut read_tile, TileId { level: level - 1, index })?;
                frontier.grow(level, tile.root());
            }
        }
        for leaf in last_leaves {
            if frontier.size == size {
                return Err(TreeError::WrongEdge { wanted: size % TILE_WIDTH as u64 });
            }
            let completed = frontier.append(leaf);
            debug_assert!(completed.is_empty(), "fewer leaves than fill a tile");
        }
        if frontier.size < size {
            return Err(TreeError::WrongEdge { wanted: size % TILE_WIDTH as u64 });
        }
        Ok(frontier)
    }

    /// Appends one leaf and returns the tiles that it completed, lowest level first: none for 255 leaves out of 256. They
    /// must be stored together with the leaf.
    #[must_use = "a completed tile must be stored: the frontier forgets it"]
    pub fn append(&mut self, leaf: Hash) -> Vec<Tile> {
        self.grow(0, leaf)
    }

    /// The number of leaves, which is also the index of the next.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree as it stands. A checkpoint vouches for this.
    pub fn root(&self) -> Hash {
        let smallest_first = self.peaks.iter().rev().copied();
        smallest_first.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }

    /// How many tiles of `level` are full.
    pub(super) fn full_tiles(&self, level: u8) -> u64 {
        self.size.checked_shr(u32::from(TILE_HEIGHT) * (u32::from(level) + 1)).unwrap_or(0)
    }

    /// The hashes of the tile at `level` that is not full yet.
    pub(super) fn partial_tile(&self, level: u8) -> &[u8] {
        self.edge.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// The tiles that are begun and not full, lowest level first, each with its hashes one after the other. They are derived
    /// and never stored beside a log; a copy for others has them.
    pub fn partial_tiles(&self) -> impl Iterator<Item = (TileId, &[u8])> {
        let levels = (0u8..).zip(&self.edge).filter(|(_, hashes)| !hashes.is_empty());
        levels.map(|(level, hashes)| (TileId { level, index: self.full_tiles(level) }, hashes.as_slice()))
    }

    /// Appends a perfect subtree of 256^`level` leaves, given its root. The size must be a multiple of that.
    ///
    /// Adding one to a binary number carries over the trailing ones; each carry here joins two peaks of equal height.
    /// Where the height reaches a multiple of eight, a tile is full and its root belongs into the level above.
    fn grow(&mut self, level: u8, root: Hash) -> Vec<Tile> {
        let mut completed = Vec::new();
        let mut node = root;
        let mut height = level * TILE_HEIGHT;
        let added = 1u64 << height;
        self.extend_edge(level, &node);
        while self.size >> height & 1 == 1 {
            let left = self.peaks.pop().expect("there is a peak for each set bit of the size");
            node = node_hash(&left, &node);
            height += 1;
            if height.is_multiple_of(TILE_HEIGHT) {
                completed.push(self.complete_tile(height / TILE_HEIGHT - 1));
                self.extend_edge(height / TILE_HEIGHT, &node);
            }
        }
        self.peaks.push(node);
        self.size += added;
        completed
    }

    fn extend_edge(&mut self, level: u8, hash: &Hash) {
        let level = usize::from(level);
        while self.edge.len() <= level {
            self.edge.push(Vec::with_capacity(TILE_BYTES));
        }
        self.edge[level].extend_from_slice(&hash.0);
    }

    fn complete_tile(&mut self, level: u8) -> Tile {
        let id = TileId { level, index: self.full_tiles(level) };
        let bytes = std::mem::replace(&mut self.edge[usize::from(level)], Vec::with_capacity(TILE_BYTES));
        Tile::from_bytes(id, bytes).expect("a carry into the next level means that 256 hashes are in")
    }
}

impl Clone for Frontier {
    /// Not derived, so that the copies have room to grow: the next append would move them otherwise.
    fn clone(&self) -> Self {
        let with_room = |row: &Vec<u8>| {
            let mut copy = Vec::with_capacity(TILE_BYTES);
            copy.extend_from_slice(row);
            copy
        };
        Self { size: self.size, peaks: self.peaks.clone(), edge: self.edge.iter().map(with_room).collect() }
    }
}

impl std::fmt::Debug for Frontier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontier").field("size", &self.size).field("root", &self.root()).finish_non_exhaustive()
    }
}
