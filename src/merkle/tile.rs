//! Full tiles and their names, in the layout of C2SP tlog-tiles.
//!
//! A tile holds 256 hashes that lie side by side at one height. At level 0 they are leaf hashes; at level 1 and above each
//! is the root of one full tile of the level below. Only full tiles are ever stored, so a tile never changes.

use super::{HASH_BYTES, Hash, node_hash};

/// How many hashes a full tile holds.
pub const TILE_WIDTH: usize = 256;

/// The length of a full tile in bytes.
pub const TILE_BYTES: usize = TILE_WIDTH * HASH_BYTES;

/// The number of tree heights that one level of tiles spans: 2^8 = 256.
pub(super) const TILE_HEIGHT: u8 = 8;

/// The highest level that a tree of less than 2^63 leaves reaches.
pub(super) const TOP_LEVEL: u8 = 7;

/// Which tile: its level and its place within the level, both from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 for leaf hashes.
    pub level: u8,
    /// The place within the level.
    pub index: u64,
}

/// A full tile.
#[derive(Clone, PartialEq, Eq)]
pub struct Tile {
    id: TileId,
    bytes: Vec<u8>,
}

/// A text is not the path of a full tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a full tile; it should look like tile/0/x001/x234/067, without leading zeroes in the level")]
pub struct TilePathError;

impl TileId {
    /// The tile's path as tlog-tiles writes it, which is also its key in the store: `tile/0/x001/x234/067` is tile 1234067
    /// of level 0.
    pub fn path(self) -> String {
        self.to_string()
    }
}

impl std::fmt::Display for TileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        // Groups of three decimal digits, highest first; u64::MAX has seven of them.
        let mut divisor = 1_000_000_000_000_000_000u64;
        while divisor > 1 {
            if self.index >= divisor {
                write!(f, "x{:03}/", self.index / divisor % 1000)?;
            }
            divisor /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)
    }
}

impl std::str::FromStr for TileId {
    type Err = TilePathError;

    fn from_str(path: &str) -> Result<Self, TilePathError> {
        let (level, groups) = path.strip_prefix("tile/").and_then(|rest| rest.split_once('/')).ok_or(TilePathError)?;
        let level = level.parse().map_err(|_| TilePathError)?;
        let mut index = 0u64;
        for group in groups.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let number: u64 = digits.parse().map_err(|_| TilePathError)?;
            index = index.checked_mul(1000).and_then(|index| index.checked_add(number)).ok_or(TilePathError)?;
        }
        // What was accepted above too generously (signs, widths, a missing or needless `x`) is not written the same way.
        let id = Self { level, index };
        if level < 64 && id.to_string() == path { Ok(id) } else { Err(TilePathError) }
    }
}

impl Tile {
    /// The tile `id` as it was stored, or `None` if it does not have the length of a full tile.
    pub fn from_bytes(id: TileId, bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == TILE_BYTES).then_some(Self { id, bytes })
    }

    /// Which tile this is.
    pub fn id(&self) -> TileId {
        self.id
    }

    /// Its 256 hashes, one after the other: what is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash at `position`.
    pub fn hash(&self, position: u8) -> Hash {
        hash_at(&self.bytes, position.into())
    }

    /// The root of the subtree that has the tile's hashes as leaves: this tile's entry in the level above.
    pub fn root(&self) -> Hash {
        fold(&self.bytes)
    }
}

/// The hash at `position` of a row of hashes.
pub(super) fn hash_at(row: &[u8], position: usize) -> Hash {
    let bytes = &row[position * HASH_BYTES..][..HASH_BYTES];
    Hash(bytes.try_into().expect("the slice has 32 bytes"))
}

/// The root over a row of hashes whose number is a power of two.
pub(super) fn fold(row: &[u8]) -> Hash {
    let mut hashes: Vec<Hash> = (0..row.len() / HASH_BYTES).map(|position| hash_at(row, position)).collect();
    debug_assert!(hashes.len().is_power_of_two());
    while hashes.len() > 1 {
        let half = hashes.len() / 2;
        for i in 0..half {
            hashes[i] = node_hash(&hashes[2 * i], &hashes[2 * i + 1]);
        }
        hashes.truncate(half);
    }
    hashes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Paths are the keys of tiles in the store, where other rows stand too, under names of one word.
        #[test]
        fn paths_are_injective_and_none_is_the_start_of_another_i_07(
            one in (0..TOP_LEVEL, prop_oneof![0..2_000_000u64, any::<u64>()]),
            other in (0..TOP_LEVEL, prop_oneof![0..2_000_000u64, any::<u64>()]),
        ) {
            let [one, other] = [one, other].map(|(level, index)| TileId { level, index });
            let (first, second) = (one.path(), other.path());
            prop_assert_eq!(first == second, one == other);
            prop_assert!(one == other || !second.starts_with(&first));
            prop_assert!(first.starts_with("tile/"));
            prop_assert_eq!(first.parse::<TileId>(), Ok(one));
        }
    }
}
