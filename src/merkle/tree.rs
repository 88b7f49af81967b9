//! Reading the tree: roots of earlier sizes and proofs, from stored tiles and the frontier.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;

use super::tile::{TILE_HEIGHT, TILE_WIDTH, Tile, TileId, fold};
use super::{Frontier, HASH_BYTES, Hash, empty_root, node_hash};

/// A tree that can be asked. It reads at most two tiles a level for a proof, and forgets them afterwards.
pub struct Tree<'a, R> {
    frontier: &'a Frontier,
    read_tile: R,
    /// The tiles read for the question at hand.
    at_hand: BTreeMap<TileId, Tile>,
}

/// Why a tree could not be rebuilt or asked. `E` is what the store says when a read fails.
#[derive(Debug, thiserror::Error)]
pub enum TreeError<E: Error + 'static> {
    /// The question goes past the end.
    #[error("the tree has {size} leaves; {asked} were asked for")]
    Beyond {
        /// The size in the question.
        asked: u64,
        /// The size there is.
        size: u64,
    },
    /// There is no such leaf in the tree of that size.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf in the question.
        index: u64,
        /// The size in the question.
        size: u64,
    },
    /// A consistency proof goes from the smaller tree to the larger.
    #[error("a consistency proof leads from a smaller tree to a larger one, not from {from} to {to} leaves")]
    Backwards {
        /// The size that should be smaller.
        from: u64,
        /// The size that should be larger.
        to: u64,
    },
    /// A tile that the size promises is not in the store.
    #[error("{0} is missing from the store, though the log is long enough to have filled it: restore from a backup")]
    MissingTile(TileId),
    /// A stored tile is not 256 hashes.
    #[error("{tile} has {length} bytes in the store where 8192 belong: restore from a backup")]
    DamagedTile {
        /// Which tile.
        tile: TileId,
        /// How long it is.
        length: usize,
    },
    /// The store could not read a tile.
    #[error("{tile} could not be read")]
    Read {
        /// Which tile.
        tile: TileId,
        /// What the store said.
        source: E,
    },
    /// To rebuild, exactly the leaves behind the last full tile are needed.
    #[error("the last {wanted} leaves are needed to rebuild the tree's edge; another number was given")]
    WrongEdge {
        /// How many belong there.
        wanted: u64,
    },
    /// No log is that long; the size comes from damaged data.
    #[error("a tree of {size} leaves can't be: sizes end at 2^63 - 1")]
    TooLarge {
        /// The size in the question.
        size: u64,
    },
}

impl<'a, R, E> Tree<'a, R>
where
    R: FnMut(TileId) -> Result<Option<Vec<u8>>, E>,
    E: Error + 'static,
{
    /// The tree that ends with `frontier`; `read_tile` hands over a stored tile's bytes. The store may know more tiles than
    /// the frontier: what came later is not looked at.
    pub fn new(frontier: &'a Frontier, read_tile: R) -> Self {
        Self { frontier, read_tile, at_hand: BTreeMap::new() }
    }

    /// The root of the tree when it had `size` leaves.
    pub fn root_at(&mut self, size: u64) -> Result<Hash, TreeError<E>> {
        self.begin(size)?;
        if size == 0 { Ok(empty_root()) } else { self.range(0..size) }
    }

    /// The proof that leaf `index` is in the tree of `size` leaves: RFC 6962, 2.1.1.
    pub fn inclusion(&mut self, index: u64, size: u64) -> Result<Vec<Hash>, TreeError<E>> {
        if index >= size {
            return Err(TreeError::NoSuchLeaf { index, size });
        }
        self.begin(size)?;
        let mut beside = Vec::new();
        let mut within = 0..size;
        while within.end - within.start > 1 {
            let middle = split(&within);
            let (left, right) = (within.start..middle, middle..within.end);
            let (with_leaf, other) = if index < middle { (left, right) } else { (right, left) };
            beside.push(other);
            within = with_leaf;
        }
        beside.into_iter().rev().map(|range| self.range(range)).collect()
    }

    /// The proof that the tree of `from` leaves is the beginning of the tree of `to` leaves: RFC 6962, 2.1.2. Empty if
    /// either tree says it all: from nothing, or between equals.
    pub fn consistency(&mut self, from: u64, to: u64) -> Result<Vec<Hash>, TreeError<E>> {
        if from > to {
            return Err(TreeError::Backwards { from, to });
        }
        self.begin(to)?;
        if from == 0 || from == to {
            return Ok(Vec::new());
        }
        let mut parts = Vec::new();
        let mut within = 0..to;
        while within.end != from {
            let middle = split(&within);
            let (left, right) = (within.start..middle, middle..within.end);
            let (ends_with_from, other) = if from <= middle { (left, right) } else { (right, left) };
            parts.push(other);
            within = ends_with_from;
        }
        // The verifier knows the old root itself, so where the old tree is one whole subtree its hash is left out.
        if within.start != 0 {
            parts.push(within);
        }
        parts.into_iter().rev().map(|range| self.range(range)).collect()
    }

    fn begin(&mut self, size: u64) -> Result<(), TreeError<E>> {
        self.at_hand.clear();
        if size > self.frontier.size() {
            return Err(TreeError::Beyond { asked: size, size: self.frontier.size() });
        }
        Ok(())
    }

    /// The root over the leaves in `range`, which must not be empty and must come from splitting `0..size`.
    fn range(&mut self, range: Range<u64>) -> Result<Hash, TreeError<E>> {
        let width = range.end - range.start;
        if width.is_power_of_two() {
            let height = u8::try_from(width.trailing_zeros()).expect("64 bits have at most 64 zeros");
            return self.subtree(height, range.start >> height);
        }
        let middle = split(&range);
        let left = self.range(range.start..middle)?;
        let right = self.range(middle..range.end)?;
        Ok(node_hash(&left, &right))
    }

    /// The root of the perfect subtree `index` among those of 2^`height` leaves.
    fn subtree(&mut self, height: u8, index: u64) -> Result<Hash, TreeError<E>> {
        let level = height / TILE_HEIGHT;
        let width = 1usize << (height % TILE_HEIGHT);
        let first = index << (height % TILE_HEIGHT);
        let id = TileId { level, index: first / TILE_WIDTH as u64 };
        let start = usize::try_from(first % TILE_WIDTH as u64).expect("smaller than a tile's width");
        let row = if id.index < self.frontier.full_tiles(level) {
            self.tile(id)?.bytes()
        } else {
            self.frontier.partial_tile(level)
        };
        Ok(fold(&row[start * HASH_BYTES..(start + width) * HASH_BYTES]))
    }

    fn tile(&mut self, id: TileId) -> Result<&Tile, TreeError<E>> {
        use std::collections::btree_map::Entry;
        match self.at_hand.entry(id) {
            Entry::Occupied(tile) => Ok(tile.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(read(&mut self.read_tile, id)?)),
        }
    }
}

/// Reads one full tile from the store.
pub(super) fn read<E: Error + 'static>(
    read_tile: &mut impl FnMut(TileId) -> Result<Option<Vec<u8>>, E>,
    id: TileId,
) -> Result<Tile, TreeError<E>> {
    let bytes = read_tile(id).map_err(|source| TreeError::Read { tile: id, source })?;
    let bytes = bytes.ok_or(TreeError::MissingTile(id))?;
    let length = bytes.len();
    Tile::from_bytes(id, bytes).ok_or(TreeError::DamagedTile { tile: id, length })
}

/// Where RFC 6962 splits more than one leaf: after the largest power of two that is smaller than their number.
fn split(range: &Range<u64>) -> u64 {
    let width = range.end - range.start;
    range.start + (1 << (width - 1).ilog2())
}
