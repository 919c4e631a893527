use super::*;
use envelope::merkle::{leaf_hash, verify_consistency, verify_inclusion};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

const SIZE_MAX: usize = 600;

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

/// "Merkle Tree", word by word: MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l]) from the leaves.
struct Defined<'a> {
    leaves: &'a [Hash],
    read: Cell<usize>,
}

impl<'a> Defined<'a> {
    fn over(leaves: &'a [Hash]) -> Self {
        Self { leaves, read: Cell::new(0) }
    }
}

impl TileReader for Defined<'_> {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        self.read.set(self.read.get() + 1);
        let span = 256usize.pow(level.into());
        let first = usize::try_from(index).unwrap() * 256;
        let hash = |i: usize| self.leaves.get((first + i) * span..(first + i + 1) * span).map(merkle::root);
        let hashes: Option<Vec<Hash>> = (0..usize::from(width)).map(hash).collect();
        hashes.ok_or(TileError::Missing(TileId { level, index, width }))
    }
}

fn grown(leaves: &[Hash]) -> Tiles {
    let mut tiles = Tiles::default();
    leaves.iter().for_each(|leaf| tiles.push(*leaf));
    tiles
}

fn written(dir: &Path, leaves: &[Hash]) -> TileFolder {
    let (folder, mut tiles) = (TileFolder::new(dir), grown(leaves));
    for (id, hashes) in tiles.take_full().into_iter().chain(tiles.partials()) {
        folder.write(id, &hashes).unwrap();
    }
    folder
}

/// Numbers that nobody chose, the same each time (splitmix64).
fn scattered(count: usize, below: u64) -> impl Iterator<Item = u64> {
    (1..=count as u64).map(move |i| {
        let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % below
    })
}

#[test]
fn paths_are_those_of_the_specification() {
    for (level, index, width, path) in [
        (0, 1_234_067, 256, "tile/0/x001/x234/067"),
        (0, 0, 256, "tile/0/000"),
        (1, 999, 17, "tile/1/999.p/17"),
        (7, 1000, 1, "tile/7/x001/000.p/1"),
        (0, u64::MAX, 255, "tile/0/x018/x446/x744/x073/x709/x551/615.p/255"),
    ] {
        assert_eq!(TileId { level, index, width }.path(), path);
    }
    assert_eq!(entries_path(1_234_067, 256), "tile/entries/x001/x234/067");
    assert_eq!(entries_path(273, 112), "tile/entries/273.p/112");
}

#[test]
fn a_tree_of_70_000_has_the_tiles_of_the_specification() {
    let mut tiles = grown(&leaves(70_000));
    let full = tiles.take_full();
    let at = |level| full.iter().filter(|(id, _)| id.level == level).map(|(id, _)| id.index).collect::<Vec<_>>();
    assert_eq!((at(0), at(1), full.len()), ((0..273).collect(), vec![0], 274));
    let partial = |level, index, width| TileId { level, index, width };
    let expected = vec![partial(0, 273, 112), partial(1, 1, 17), partial(2, 0, 1)];
    assert_eq!(partials_at(70_000), expected);
    assert_eq!(tiles.partials().into_iter().map(|(id, _)| id).collect::<Vec<_>>(), expected);
    assert_eq!(partials_at(256), vec![partial(1, 0, 1)], "a full tile and a partial one above");
    assert_eq!(partials_at(0), vec![]);
    assert!(tiles.take_full().is_empty());
}

#[test]
fn every_tile_holds_the_hashes_that_its_definition_names() {
    for size in [1, 255, 256, 257, 600, 65_535, 65_536, 65_793] {
        let leaves = leaves(size);
        let mut tiles = grown(&leaves);
        let mut seen = 0;
        for (id, hashes) in tiles.take_full().into_iter().chain(tiles.partials()) {
            assert_eq!(width_at(size as u64, id.level, id.index), id.width, "{} of {size}", id.path());
            assert_eq!(hashes, Defined::over(&leaves).tile(id.level, id.index, id.width).unwrap(), "{}", id.path());
            seen += hashes.len();
        }
        assert_eq!(seen, size + size / 256 + size / 65_536, "{size}");
    }
}

#[test]
fn roots_proofs_and_resumed_trees_agree_with_those_over_all_leaves_at_every_size() {
    let leaves = leaves(SIZE_MAX);
    let all = grown(&leaves);
    let nothing = Defined::over(&[]);
    let reader = all.over(&nothing);
    let roots: Vec<Hash> = (0..=SIZE_MAX).map(|size| merkle::root(&leaves[..size])).collect();
    let mut tiles = Tiles::default();
    for size in 0..=SIZE_MAX {
        let (slice, count) = (&leaves[..size], size as u64);
        let (expected, step) = (roots[size], if size > 100 { 19 } else { 1 });
        assert_eq!((tiles.size(), tiles.root()), (count, expected));
        assert_eq!(root(&reader, count).unwrap(), expected, "size {size}");
        let resumed = Tiles::resume(&reader, count).unwrap();
        assert_eq!((resumed.size, &resumed.subtrees, &resumed.edge), (count, &tiles.subtrees, &tiles.edge));
        for index in (0..size).step_by(step) {
            let proof = inclusion_proof(&reader, index as u64, count).unwrap();
            assert_eq!(leaf(&reader, index as u64, count).unwrap(), slice[index]);
            verify_inclusion(&slice[index], index as u64, count, &expected, &proof).unwrap();
        }
        for old in (0..=size).step_by(step) {
            let proof = consistency_proof(&reader, old as u64, count).unwrap();
            verify_consistency(old as u64, &roots[old], count, &expected, &proof).unwrap();
        }
        if let Some(leaf) = leaves.get(size) {
            tiles.push(*leaf);
        }
    }
}

#[test]
fn proofs_are_those_of_rfc_6962_hash_by_hash() {
    let leaves = leaves(SIZE_MAX);
    let defined = Defined::over(&leaves);
    for size in (1..=SIZE_MAX).step_by(29).chain([255, 256, 257, 511, 512, 513]) {
        let whole = merkle::Layers::over(leaves[..size].to_vec());
        for at in (0..size).step_by(23) {
            let inclusion = inclusion_proof(&defined, at as u64, size as u64).unwrap();
            assert_eq!(Some(inclusion), whole.path(at), "{at} in {size}");
            let consistency = consistency_proof(&defined, at as u64, size as u64).unwrap();
            assert_eq!(consistency, merkle::consistency_proof(&leaves[..size], at), "{at} to {size}");
        }
    }
}

#[test]
fn bigger_trees_in_files_agree_too() {
    let dir = tempfile::tempdir().unwrap();
    let leaves = leaves(140_000);
    let folder = written(dir.path(), &leaves);
    for size in scattered(12, 140_000) {
        let slice = &leaves[..usize::try_from(size).unwrap()];
        let expected = merkle::root(slice);
        assert_eq!(root(&folder, size).unwrap(), expected, "{size}");
        assert_eq!(Tiles::resume(&folder, size).unwrap().root(), expected);
        for (index, old) in scattered(5, size).zip(scattered(10, size).skip(5)) {
            let proof = inclusion_proof(&folder, index, size).unwrap();
            verify_inclusion(&slice[usize::try_from(index).unwrap()], index, size, &expected, &proof).unwrap();
            let proof = consistency_proof(&folder, old, size).unwrap();
            let old_root = merkle::root(&slice[..usize::try_from(old).unwrap()]);
            verify_consistency(old, &old_root, size, &expected, &proof).unwrap();
        }
    }
}

#[test]
fn a_resumed_tree_grows_like_one_that_never_stopped() {
    let leaves = leaves(66_000);
    for stop in [1, 255, 256, 300, 65_535, 65_536, 65_537] {
        let mut straight = grown(&leaves[..stop]);
        straight.take_full();
        let mut resumed = Tiles::resume(&Defined::over(&leaves), stop as u64).unwrap();
        for leaf in &leaves[stop..] {
            straight.push(*leaf);
            resumed.push(*leaf);
        }
        assert_eq!(resumed.root(), merkle::root(&leaves), "stopped at {stop}");
        assert_eq!((resumed.take_full(), resumed.partials()), (straight.take_full(), straight.partials()), "{stop}");
    }
}

#[test]
fn a_proof_reads_two_tiles_a_level_at_most_and_each_once() {
    let leaves = leaves(66_000);
    for (index, size) in [(0, 66_000), (65_999, 66_000), (1234, 65_536), (70, 300)] {
        let defined = Defined::over(&leaves);
        inclusion_proof(&defined, index, size).unwrap();
        consistency_proof(&defined, index + 1, size).unwrap();
        assert!(defined.read.get() <= 10, "{} tiles for {index} of {size}", defined.read.get());
    }
}

#[test]
fn what_was_taken_is_read_where_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, leaves) = (TileFolder::new(dir.path()), leaves(1000));
    let mut tiles = grown(&leaves[..600]);
    for (id, hashes) in tiles.take_full() {
        folder.write(id, &hashes).unwrap();
    }
    leaves[600..].iter().for_each(|leaf| tiles.push(*leaf));
    let reader = tiles.over(&folder);
    assert_eq!(root(&reader, 1000).unwrap(), merkle::root(&leaves));
    assert_eq!(consistency_proof(&reader, 300, 1000).unwrap(), merkle::consistency_proof(&leaves, 300));
    assert_eq!(root(&reader, 513).unwrap(), merkle::root(&leaves[..513]), "a size before the newest");
}

#[test]
fn a_partial_tile_is_found_in_a_wider_or_the_full_one() {
    let dir = tempfile::tempdir().unwrap();
    let leaves = leaves(256);
    let folder = written(dir.path(), &leaves[..200]);
    for width in [1, 100, 200] {
        assert_eq!(folder.tile(0, 0, width).unwrap(), leaves[..usize::from(width)], "{width} of 200");
    }
    assert!(matches!(folder.tile(0, 0, 201), Err(TileError::Missing(_))));
    assert!(matches!(folder.tile(0, 0, 256), Err(TileError::Missing(_))));
    folder.write(TileId { level: 0, index: 0, width: 256 }, &leaves).unwrap();
    folder.remove_partials(200, 256).unwrap();
    assert!(!dir.path().join("tile/0/000.p").exists(), "the folder goes with its last tile");
    for width in [1, 200, 255, 256] {
        assert_eq!(folder.tile(0, 0, width).unwrap(), leaves[..usize::from(width)], "{width} of the full one");
    }
}

#[test]
fn only_the_partial_tiles_of_the_kept_size_stay() {
    let leaves = leaves(66_000);
    let stands = |dir: &Path, id: TileId| dir.join(id.path()).exists();
    for kept in [0, 200, 256, 65_536, 65_800, 66_000] {
        let dir = tempfile::tempdir().unwrap();
        let folder = written(dir.path(), &leaves[..kept]);
        // those of sizes before and behind, as a crash leaves them
        let strays = [kept.saturating_sub(1), kept.saturating_sub(300), (kept + 299).min(66_000)].map(|s| s as u64);
        let strays: Vec<TileId> = strays.into_iter().flat_map(partials_at).collect();
        for id in &strays {
            folder.write(*id, &vec![[7; 32]; usize::from(id.width)]).unwrap();
        }
        let mut full = grown(&leaves[..kept]).take_full();
        let keep = partials_at(kept as u64);
        folder.remove_partials_but(kept as u64).unwrap();
        full.retain(|(id, _)| !stands(dir.path(), *id));
        assert_eq!(full, vec![], "full tiles stay, size {kept}");
        for id in keep.iter().chain(&strays) {
            assert_eq!(stands(dir.path(), *id), keep.contains(id), "{} at size {kept}", id.path());
        }
        // from step to step, as the writer does it
        folder.remove_partials(kept as u64, 0).unwrap();
        assert!(keep.iter().all(|id| !stands(dir.path(), *id)));
    }
}

#[test]
fn checkpoint_after_checkpoint_partial_tiles_are_right_and_their_files_the_same_few() {
    use std::os::unix::fs::MetadataExt;
    let (dir, leaves) = (tempfile::tempdir().unwrap(), leaves(70_000));
    let (mut folder, mut tiles) = (TileFolder::new(dir.path()), Tiles::default());
    let (mut kept, mut files, mut places, mut standing) = (0, BTreeSet::new(), BTreeSet::new(), Vec::new());
    for size in (65_000..70_000_usize).step_by(97) {
        for leaf in leaves.iter().take(size).skip(usize::try_from(tiles.size()).unwrap()) {
            tiles.push(*leaf);
            tiles.take_full().into_iter().for_each(|(id, hashes)| folder.write(id, &hashes).unwrap());
        }
        // as a writer does it at each checkpoint; one of them was started anew
        if size == 65_000 + 20 * 97 {
            folder = TileFolder::new(dir.path());
            folder.remove_partials_but(kept).unwrap();
            standing.clear();
        }
        for id in partials_at(size as u64).into_iter().filter(|id| !standing.contains(id)) {
            let hashes = tiles.over(&folder).tile(id.level, id.index, id.width).unwrap();
            folder.write(id, &hashes).unwrap();
            let path = dir.path().join(id.path());
            files.insert(path.metadata().unwrap().ino());
            places.insert(path.parent().unwrap().metadata().unwrap().ino());
        }
        folder.remove_partials(kept, size as u64).unwrap();
        kept = size as u64;
        standing = partials_at(kept);
        assert_eq!(root(&folder, kept).unwrap(), tiles.root(), "{size}");
        for index in [0, kept / 2, kept - 1] {
            let reader = tiles.over(&folder);
            assert_eq!(inclusion_proof(&folder, index, kept).unwrap(), inclusion_proof(&reader, index, kept).unwrap());
        }
    }
    // of 52 checkpoints: two sets, and what the start made anew; a folder more where the tree has grown a level
    assert!(files.len() <= 12 && places.len() <= 12, "{} files in {} folders", files.len(), places.len());
    let left = std::fs::read_dir(dir.path().join("tile")).unwrap().count();
    assert!(left <= 4 + SPARES, "{left} names stand beside the levels");
}

/// Files and one folder.
const SPARES: usize = 9;

#[test]
fn what_is_not_there_or_has_another_length_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = written(dir.path(), &leaves(300));
    let id = TileId { level: 0, index: 0, width: 256 };
    for wrong in [vec![], vec![0; 8191], vec![0; 8193], vec![0; 8192 + 32], vec![0; 31]] {
        std::fs::write(dir.path().join(id.path()), &wrong).unwrap();
        assert!(matches!(folder.tile(0, 0, 256), Err(TileError::Malformed(_))), "{} bytes", wrong.len());
    }
    std::fs::remove_file(dir.path().join(id.path())).unwrap();
    assert!(matches!(inclusion_proof(&folder, 3, 300), Err(TileError::Missing(missing)) if missing == id));
    assert!(matches!(inclusion_proof(&folder, 300, 300), Err(TileError::Range)));
    assert!(matches!(inclusion_proof(&folder, 0, 0), Err(TileError::Range)));
    assert!(matches!(leaf(&folder, 300, 300), Err(TileError::Range)));
    assert!(matches!(consistency_proof(&folder, 301, 300), Err(TileError::Range)));
    assert!(matches!(folder.write(id, &[[0; 32]; 255]), Err(TileError::Malformed(_))));
    assert!(matches!(folder.write(TileId { width: 0, ..id }, &[]), Err(TileError::Malformed(_))));
    // sizes at the end of the range neither panic nor pass
    for size in [u64::MAX, u64::MAX - 1, 1 << 63] {
        assert!(root(&folder, size).is_err() && inclusion_proof(&folder, size - 1, size).is_err());
        assert!(Tiles::resume(&folder, size).is_err() && consistency_proof(&folder, 1, size).is_err());
    }
}
