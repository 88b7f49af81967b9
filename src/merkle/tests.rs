//! The tree against published vectors, frozen ones, a naive second implementation and a library.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn at(place: u64) -> usize {
    usize::try_from(place).unwrap()
}

/// A log in memory: what a store would hold, and the leaves for the naive implementation.
#[derive(Default)]
struct Log {
    frontier: Frontier,
    leaves: Vec<Hash>,
    tiles: BTreeMap<TileId, Vec<u8>>,
}

impl Log {
    /// Leaf n is the number n as eight bytes, as in the frozen vectors.
    fn of_size(size: u64) -> Self {
        let mut log = Self::default();
        log.extend_to(size);
        log
    }

    fn extend_to(&mut self, size: u64) {
        for n in self.frontier.size()..size {
            let leaf = leaf_hash(&n.to_be_bytes());
            self.leaves.push(leaf);
            for tile in self.frontier.append(leaf) {
                assert_eq!(self.tiles.insert(tile.id(), tile.bytes().to_vec()), None, "{} came twice", tile.id());
            }
        }
    }

    fn tree(&self) -> Tree<'_, impl FnMut(TileId) -> Result<Option<Vec<u8>>, Infallible>> {
        Tree::new(&self.frontier, |id| Ok(self.tiles.get(&id).cloned()))
    }

    fn rebuilt(&self, size: u64) -> Result<Frontier, TreeError<Infallible>> {
        let edge = self.leaves[at(size - size % 256)..at(size)].iter().copied();
        Frontier::rebuild(size, |id| Ok(self.tiles.get(&id).cloned()), edge)
    }
}

/// RFC 6962, 2.1 to 2.1.2, word for word and slowly.
mod naive {
    use super::*;

    fn k(n: usize) -> usize {
        let mut k = 1;
        while 2 * k < n {
            k *= 2;
        }
        k
    }

    pub fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => node_hash(&mth(&leaves[..k(leaves.len())]), &mth(&leaves[k(leaves.len())..])),
        }
    }

    pub fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(k(leaves.len()));
        let (mut path, other) =
            if m < left.len() { (path(m, left), mth(right)) } else { (path(m - left.len(), right), mth(left)) };
        path.push(other);
        path
    }

    pub fn proof(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        subproof(m, leaves, true)
    }

    fn subproof(m: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if known { Vec::new() } else { vec![mth(leaves)] };
        }
        let (left, right) = leaves.split_at(k(leaves.len()));
        let (mut proof, other) = if m <= left.len() {
            (subproof(m, left, known), mth(right))
        } else {
            (subproof(m - left.len(), right, false), mth(left))
        };
        proof.push(other);
        proof
    }
}

fn unhex(text: &str) -> Hash {
    Hash::try_from(hex::decode(text).unwrap().as_slice()).unwrap()
}

fn unhex_all(texts: &serde_json::Value) -> Vec<Hash> {
    texts.as_array().unwrap().iter().map(|text| unhex(text.as_str().unwrap())).collect()
}

/// The vectors of the certificate-transparency project's Merkle tree tests, which every implementation since has used; read
/// from `testonly/constants.go` and `proof/verify_test.go` of transparency-dev/merkle.
mod published {
    pub const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    pub const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    pub const INCLUSION: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    pub const CONSISTENCY: [(u64, u64, &[&str]); 5] = [
        (1, 1, &[]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
        (
            6,
            7,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
    ];
}

#[test]
fn published_vectors_of_rfc_6962_hold() {
    let mut log = Log::default();
    assert_eq!(log.frontier.root(), unhex(published::ROOTS[0]));
    for (n, leaf) in published::LEAVES.iter().enumerate() {
        log.leaves.push(leaf_hash(&hex::decode(leaf).unwrap()));
        assert!(log.frontier.append(log.leaves[n]).is_empty());
        assert_eq!(log.frontier.root(), unhex(published::ROOTS[n + 1]), "root of {}", n + 1);
    }
    let root = |size: u64| unhex(published::ROOTS[at(size)]);
    for (index, size, hashes) in published::INCLUSION {
        let proof: Vec<_> = hashes.iter().copied().map(unhex).collect();
        assert_eq!(log.tree().inclusion(index, size).unwrap(), proof, "leaf {index} in {size}");
        verify_inclusion(&log.leaves[at(index)], index, size, &root(size), &proof).unwrap();
    }
    for (from, to, hashes) in published::CONSISTENCY {
        let proof: Vec<_> = hashes.iter().copied().map(unhex).collect();
        assert_eq!(log.tree().consistency(from, to).unwrap(), proof, "{from} to {to}");
        verify_consistency(from, &root(from), to, &root(to), &proof).unwrap();
    }
}

#[test]
fn frozen_vectors_hold() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors/tree_v1.json")).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let list = |name: &str| vectors[name].as_array().unwrap().clone();
    let log = Log::of_size(70_000);
    let mut tree = log.tree();
    assert_eq!(log.leaves[..4], unhex_all(&vectors["leaf_hashes"]));
    for root in list("roots") {
        let (size, root) = (number(&root["size"]), unhex(root["root"].as_str().unwrap()));
        assert_eq!(tree.root_at(size).unwrap(), root, "root of {size}");
    }
    for tile in list("tiles") {
        let id: TileId = tile["path"].as_str().unwrap().parse().unwrap();
        assert_eq!(hex::encode(&log.tiles[&id]), tile["bytes"].as_str().unwrap(), "{id}");
    }
    for tile in list("tile_digests") {
        let id: TileId = tile["path"].as_str().unwrap().parse().unwrap();
        assert_eq!(hex::encode(Sha256::digest(&log.tiles[&id])), tile["sha256"].as_str().unwrap(), "{id}");
    }
    assert_eq!(log.tiles.len(), 273 + 1, "a tree of 70,000 has 273 full tiles at level 0 and one above");
    for proof in list("inclusion") {
        let (index, size, hashes) = (number(&proof["index"]), number(&proof["size"]), unhex_all(&proof["hashes"]));
        assert_eq!(tree.inclusion(index, size).unwrap(), hashes, "leaf {index} in {size}");
        verify_inclusion(&log.leaves[at(index)], index, size, &tree.root_at(size).unwrap(), &hashes).unwrap();
    }
    for proof in list("consistency") {
        let (from, to, hashes) = (number(&proof["from"]), number(&proof["to"]), unhex_all(&proof["hashes"]));
        assert_eq!(tree.consistency(from, to).unwrap(), hashes, "{from} to {to}");
        let (old, new) = (tree.root_at(from).unwrap(), tree.root_at(to).unwrap());
        verify_consistency(from, &old, to, &new, &hashes).unwrap();
    }
}

#[test]
fn every_tree_and_every_proof_to_300_agrees_with_the_naive_implementation() {
    let log = Log::of_size(300);
    let mut tree = log.tree();
    let roots: Vec<Hash> = (0..=300).map(|size| naive::mth(&log.leaves[..size])).collect();
    let mut growing = Log::default();
    for size in 0..=300usize {
        growing.extend_to(size as u64);
        assert_eq!(growing.frontier.root(), roots[size], "the frontier's root at {size}");
        assert_eq!(tree.root_at(size as u64).unwrap(), roots[size], "root at {size}");
        assert_eq!(log.rebuilt(size as u64).unwrap().root(), roots[size], "rebuilt at {size}");
        let leaves = &log.leaves[..size];
        for m in 0..size {
            let (index, to) = (m as u64, size as u64);
            let inclusion = tree.inclusion(index, to).unwrap();
            verify_inclusion(&leaves[m], index, to, &roots[size], &inclusion).unwrap();
            let consistency = tree.consistency(index, to).unwrap();
            verify_consistency(index, &roots[m], to, &roots[size], &consistency).unwrap();
            // The naive proofs cost a whole tree each: every third is enough, together with the checks above.
            if (m + size) % 3 == 0 {
                assert_eq!(inclusion, naive::path(m, leaves), "leaf {m} in {size}");
                assert!(m == 0 || consistency == naive::proof(m, leaves), "{m} to {size}");
            }
        }
    }
}

#[test]
fn questions_past_the_end_are_refused() {
    let log = Log::of_size(10);
    let mut tree = log.tree();
    assert!(matches!(tree.root_at(11), Err(TreeError::Beyond { asked: 11, size: 10 })));
    assert!(matches!(tree.inclusion(4, 11), Err(TreeError::Beyond { .. })));
    assert!(matches!(tree.inclusion(4, 4), Err(TreeError::NoSuchLeaf { index: 4, size: 4 })));
    assert!(matches!(tree.consistency(5, 4), Err(TreeError::Backwards { from: 5, to: 4 })));
    assert!(matches!(tree.consistency(5, u64::MAX), Err(TreeError::Beyond { .. })));
    assert_eq!(tree.consistency(0, 10).unwrap(), []);
    assert_eq!(tree.consistency(10, 10).unwrap(), []);
}

#[test]
fn rebuilding_refuses_what_does_not_fit() {
    let mut log = Log::of_size(1000);
    let level_0 = |index| TileId { level: 0, index };
    let edge = log.leaves[768..].to_vec();
    let rebuild = |log: &Log, edge: &[Hash]| {
        Frontier::rebuild(1000, |id| Ok::<_, Infallible>(log.tiles.get(&id).cloned()), edge.iter().copied())
    };
    assert_eq!(rebuild(&log, &edge).unwrap().root(), log.frontier.root());
    assert!(matches!(rebuild(&log, &edge[1..]), Err(TreeError::WrongEdge { wanted: 232 })));
    assert!(matches!(rebuild(&log, &log.leaves[767..]), Err(TreeError::WrongEdge { wanted: 232 })));
    assert!(matches!(log.rebuilt(1000).map(|f| f.size()), Ok(1000)));
    let whole = log.tiles.insert(level_0(1), vec![0; 8191]).unwrap();
    assert!(matches!(rebuild(&log, &edge), Err(TreeError::DamagedTile { length: 8191, .. })));
    log.tiles.remove(&level_0(1));
    assert!(matches!(rebuild(&log, &edge), Err(TreeError::MissingTile(id)) if id == level_0(1)));
    let mut altered = whole;
    altered[100] ^= 1;
    log.tiles.insert(level_0(1), altered);
    assert_ne!(rebuild(&log, &edge).unwrap().root(), log.frontier.root(), "the root tells");
    let too_large = Frontier::rebuild(1 << 63, |_| Ok::<_, Infallible>(Some(vec![0; 8192])), []);
    assert!(matches!(too_large, Err(TreeError::TooLarge { .. })));
}

/// Each hash here is one of the tree's, only not the one that the proof should have climbed to.
#[test]
fn a_proof_that_ends_below_the_root_proves_nothing_even_of_what_it_reached() {
    let log = Log::of_size(8);
    let (mut tree, leaves) = (log.tree(), &log.leaves);
    let path = tree.inclusion(5, 8).unwrap();
    let reached = [leaves[5], naive::mth(&leaves[4..6]), naive::mth(&leaves[4..8])];
    for (length, node) in reached.iter().enumerate() {
        let short = &path[..length];
        assert_eq!(verify_inclusion(&leaves[5], 5, 8, node, short), Err(ProofError::WrongLength), "{length}");
    }
    // From four leaves on, whose root is a node of the tree: without the right half nothing was added.
    let old = naive::mth(&leaves[..4]);
    assert_eq!(verify_consistency(4, &old, 8, &old, &[]), Err(ProofError::WrongLength));
    // As many hashes stand to the left of leaf 4 as its index has peaks, and the proof goes on behind them.
    let path = tree.inclusion(4, 7).unwrap();
    assert_eq!(Peaks::before(4, 7, &path).unwrap().hashes(), [old]);
    let path = tree.inclusion(1, 8).unwrap();
    assert_eq!(Peaks::before(1, 8, &path).unwrap().hashes(), [leaves[0]]);
    for length in 1..path.len() {
        assert_eq!(Peaks::before(1, 8, &path[..length]), Err(ProofError::WrongLength), "{length}");
    }
}

#[test]
fn what_is_shown_of_a_tree_says_which_it_is() {
    let log = Log::of_size(3);
    let root = hex::encode(log.frontier.root().as_bytes());
    assert_eq!(format!("{:?}", log.frontier.root()), root);
    let shown = format!("{:?}", log.frontier);
    assert!(shown.starts_with("Frontier { size: 3, root: ") && shown.contains(&root), "{shown}");
}

#[test]
fn a_rebuilt_frontier_goes_on_like_the_one_that_was_lost() {
    for size in [0, 1, 255, 256, 511, 512, 65_279, 65_280, 65_535, 65_536, 65_537, 66_000] {
        let log = Log::of_size(size);
        let mut grown = Log::of_size(size);
        let mut rebuilt = log.rebuilt(size).unwrap();
        assert_eq!(rebuilt.root(), log.frontier.root(), "{size}");
        for n in size..size + 600 {
            let leaf = leaf_hash(&n.to_be_bytes());
            for tile in rebuilt.append(leaf) {
                grown.extend_to(n + 1);
                assert_eq!(grown.tiles[&tile.id()], tile.bytes(), "{} after {size}", tile.id());
            }
        }
        grown.extend_to(size + 600);
        assert_eq!(rebuilt.root(), grown.frontier.root());
    }
}

#[test]
fn a_clone_is_a_snapshot() {
    let mut log = Log::of_size(700);
    let snapshot = log.frontier.clone();
    let root = snapshot.root();
    log.extend_to(1500);
    assert_eq!((snapshot.size(), snapshot.root()), (700, root));
    // The store knows tiles that the snapshot does not: they must not be mistaken for its own.
    let mut tree = Tree::new(&snapshot, |id| Ok::<_, Infallible>(log.tiles.get(&id).cloned()));
    for size in 0..=700 {
        assert_eq!(tree.root_at(size).unwrap(), log.tree().root_at(size).unwrap(), "{size}");
    }
}

#[test]
fn tiles_fold_to_their_entry_in_the_level_above() {
    let log = Log::of_size(65_536);
    let tile = |level, index| {
        let id = TileId { level, index };
        Tile::from_bytes(id, log.tiles[&id].clone()).unwrap()
    };
    let above = tile(1, 0);
    assert_eq!(above.root(), log.frontier.root());
    for n in 0..=255u8 {
        assert_eq!(tile(0, n.into()).root(), above.hash(n));
        assert_eq!(tile(0, 7).hash(n), log.leaves[7 * 256 + usize::from(n)]);
    }
    assert!(Tile::from_bytes(TileId { level: 0, index: 0 }, vec![0; 8193]).is_none());
}

#[test]
fn tile_paths_have_one_spelling() {
    let path = |level, index| TileId { level, index }.path();
    assert_eq!(path(0, 0), "tile/0/000");
    assert_eq!(path(3, 999), "tile/3/999");
    assert_eq!(path(0, 1000), "tile/0/x001/000");
    assert_eq!(path(0, 1_234_067), "tile/0/x001/x234/067");
    assert_eq!(path(63, u64::MAX), "tile/63/x018/x446/x744/x073/x709/x551/615");
    for refused in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/+1/000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/-01",
        "tile/0/+01",
        "tile/0/000/",
        "tile/0/000.p/1",
        "/tile/0/000",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/000",
    ] {
        assert_eq!(refused.parse::<TileId>(), Err(TilePathError), "{refused}");
    }
}

#[test]
fn trivial_consistency_still_compares_roots() {
    let (root, other) = (leaf_hash(b"root"), leaf_hash(b"other"));
    assert_eq!(verify_consistency(0, &empty_root(), 5, &root, &[]), Ok(()));
    assert_eq!(verify_consistency(0, &empty_root(), 0, &empty_root(), &[]), Ok(()));
    assert_eq!(verify_consistency(5, &root, 5, &root, &[]), Ok(()));
    for (from, old, to, new, proof) in [
        (0, root, 5, root, vec![]),
        (0, empty_root(), 0, root, vec![]),
        (5, root, 5, other, vec![]),
        (5, root, 5, root, vec![other]),
        (0, empty_root(), 5, root, vec![other]),
        (5, root, 4, root, vec![]),
        (1, root, 2, other, vec![]),
        (3, root, 4, other, vec![]),
    ] {
        assert!(verify_consistency(from, &old, to, &new, &proof).is_err(), "{from} to {to}");
    }
    assert!(verify_inclusion(&root, 0, 0, &root, &[]).is_err());
    assert!(verify_inclusion(&root, 1, 1, &root, &[]).is_err());
    assert!(verify_inclusion(&root, u64::MAX - 1, u64::MAX, &root, &[root; 64]).is_err());
}

/// The library's view of the same leaves: all hashes in its storage order.
struct Oracle(Vec<tlog_tiles::Hash>);

impl Oracle {
    fn new(leaves: &[Hash]) -> Self {
        let mut oracle = Self(Vec::new());
        for (n, leaf) in leaves.iter().enumerate() {
            let stored =
                tlog_tiles::stored_hashes_for_record_hash(n as u64, tlog_tiles::Hash(leaf.0), &oracle).unwrap();
            oracle.0.extend(stored);
        }
        oracle
    }
}

impl tlog_tiles::HashReader for Oracle {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|index| self.0[at(*index)]).collect())
    }
}

fn theirs(hashes: &[Hash]) -> Vec<tlog_tiles::Hash> {
    hashes.iter().map(|hash| tlog_tiles::Hash(hash.0)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn roots_and_proofs_agree_with_the_naive_implementation_and_the_library(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..=5000),
        index: prop::sample::Index,
        to: prop::sample::Index,
    ) {
        let mut log = Log::default();
        for content in &contents {
            log.leaves.push(leaf_hash(content));
            for tile in log.frontier.append(leaf_hash(content)) {
                log.tiles.insert(tile.id(), tile.bytes().to_vec());
            }
        }
        let to = 1 + to.index(contents.len());
        let m = index.index(to);
        let (leaves, oracle) = (&log.leaves[..to], Oracle::new(&log.leaves));
        let mut tree = log.tree();
        let root = tree.root_at(to as u64).unwrap();
        prop_assert_eq!(root, naive::mth(leaves));
        prop_assert_eq!(root.0, tlog_tiles::tree_hash(to as u64, &oracle).unwrap().0);
        prop_assert_eq!(log.frontier.root(), naive::mth(&log.leaves));

        let inclusion = tree.inclusion(m as u64, to as u64).unwrap();
        prop_assert_eq!(&inclusion, &naive::path(m, leaves));
        prop_assert_eq!(theirs(&inclusion), tlog_tiles::prove_record(to as u64, m as u64, &oracle).unwrap());
        verify_inclusion(&leaves[m], m as u64, to as u64, &root, &inclusion).unwrap();

        let from = m + 1;
        let consistency = tree.consistency(from as u64, to as u64).unwrap();
        prop_assert_eq!(&consistency, &naive::proof(from, leaves));
        prop_assert_eq!(theirs(&consistency), tlog_tiles::prove_tree(to as u64, from as u64, &oracle).unwrap());
        verify_consistency(from as u64, &naive::mth(&leaves[..from]), to as u64, &root, &consistency).unwrap();
    }

    #[test]
    fn an_altered_proof_proves_nothing_a_02(
        size in 2u64..=5000,
        index: prop::sample::Index,
        bit in 0usize..256,
        place: prop::sample::Index,
    ) {
        let log = Log::of_size(size);
        let mut tree = log.tree();
        let index = index.index(at(size)) as u64;
        let (leaf, root) = (log.leaves[at(index)], log.frontier.root());
        let proof = tree.inclusion(index, size).unwrap();
        let flipped = |hash: &Hash| {
            let mut hash = *hash;
            hash.0[bit / 8] ^= 1 << (bit % 8);
            hash
        };
        let alterations = |proof: &[Hash]| {
            let mut altered = vec![[proof, &[root]].concat(), [&[root], proof].concat()];
            if !proof.is_empty() {
                let place = place.index(proof.len());
                altered.extend([proof.to_vec(), proof.to_vec(), proof[1..].to_vec(), proof[..proof.len() - 1].to_vec()]);
                altered[2][place] = flipped(&proof[place]);
                altered[3].swap(0, proof.len() - 1);
            }
            altered.retain(|altered| altered != proof);
            altered
        };
        for altered in alterations(&proof) {
            prop_assert!(verify_inclusion(&leaf, index, size, &root, &altered).is_err());
        }
        prop_assert!(verify_inclusion(&flipped(&leaf), index, size, &root, &proof).is_err());
        prop_assert!(verify_inclusion(&leaf, index, size, &flipped(&root), &proof).is_err());
        prop_assert!(verify_inclusion(&leaf, index ^ 1, size, &root, &proof).is_err());

        let old = tree.root_at(index).unwrap();
        let proof = tree.consistency(index, size).unwrap();
        verify_consistency(index, &old, size, &root, &proof).unwrap();
        for altered in alterations(&proof) {
            prop_assert!(verify_consistency(index, &old, size, &root, &altered).is_err());
        }
        prop_assert!(verify_consistency(index, &flipped(&old), size, &root, &proof).is_err());
        prop_assert!(index == 0 || verify_consistency(index, &old, size, &flipped(&root), &proof).is_err());
    }

    #[test]
    fn a_forked_history_has_no_consistency_proof_a_03(size in 2u64..=4700, more in 1u64..=300, fork: prop::sample::Index) {
        let fork = fork.index(at(size)) as u64;
        let honest = Log::of_size(size);
        let mut forked = Log::of_size(fork);
        for n in fork..size + more {
            let leaf = leaf_hash(&(n + 1_000_000).to_be_bytes());
            forked.leaves.push(leaf);
            for tile in forked.frontier.append(leaf) {
                forked.tiles.insert(tile.id(), tile.bytes().to_vec());
            }
        }
        let (old, new) = (honest.frontier.root(), forked.frontier.root());
        let proof = forked.tree().consistency(size, size + more).unwrap();
        prop_assert!(verify_consistency(size, &old, size + more, &new, &proof).is_err());
    }

    #[test]
    fn tile_paths_go_there_and_back(level in 0u8..64, index: u64, shift in 0u32..64) {
        let id = TileId { level, index: index >> shift };
        prop_assert_eq!(id.path().parse::<TileId>(), Ok(id));
        // The library has Go's older layout with the tile height in the path, and panics on levels that can't be.
        let library = tlog_tiles::Tile::new(8, level.min(7), index >> shift, 256, false).path();
        let ours = TileId { level: level.min(7), ..id }.path();
        prop_assert_eq!(library.replacen("tile/8/", "tile/", 1), ours);
    }

    #[test]
    fn parsing_a_tile_path_never_panics(text in "(tile/)?[0-9x/+.-]{0,40}") {
        if let Ok(id) = text.parse::<TileId>() {
            prop_assert_eq!(id.path(), text);
        }
    }
}

#[test]
fn peaks_have_the_frontiers_root_at_every_size_and_come_back_from_a_proof() {
    let mut peaks = Peaks::new();
    assert_eq!(peaks.root(), empty_root());
    let log = Log::of_size(600);
    let mut tree = log.tree();
    for index in 0..600u64 {
        let content = index.to_be_bytes();
        assert_eq!(leaf_hash(&content), log.leaves[at(index)]);
        peaks.append(log.leaves[at(index)]);
        assert_eq!(peaks.size(), index + 1);
        assert_eq!(peaks.root(), tree.root_at(index + 1).unwrap());
        for size in [index + 2, index + 3, 600, 512].into_iter().filter(|size| (index + 2..=600).contains(size)) {
            let proof = tree.inclusion(index + 1, size).unwrap();
            assert_eq!(Peaks::before(index + 1, size, &proof).as_ref(), Ok(&peaks));
        }
        assert_eq!(Peaks::claimed(index + 1, peaks.hashes().to_vec()).as_ref(), Some(&peaks));
    }
}

#[test]
fn peaks_that_can_not_be_are_refused() {
    assert_eq!(Peaks::claimed(3, vec![empty_root()]), None);
    assert_eq!(Peaks::claimed(0, vec![empty_root()]), None);
    assert_eq!(Peaks::claimed(1 << 63, vec![empty_root()]), None);
    assert_eq!(Peaks::before(4, 4, &[]), Err(ProofError::NoSuchLeaf { index: 4, size: 4 }));
    assert_eq!(Peaks::before(3, 4, &[empty_root()]), Err(ProofError::WrongLength));
    assert_eq!(Peaks::before(3, 4, &[empty_root(); 3]), Err(ProofError::WrongLength));
    assert_eq!(Peaks::before(0, 1, &[]), Ok(Peaks::new()));
}
