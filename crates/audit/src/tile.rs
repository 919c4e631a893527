//! The log's Merkle tree as tiles of 256 hashes (c2sp.org/tlog-tiles): how they grow, and what is read out of them.
//!
//! Always: a tile of a higher level holds roots of full tiles only ("Partial Tiles").
//! Never: more in memory than the tree's right edge, and what was not taken yet.

mod derived;
mod folder;
#[cfg(test)]
mod tests;

pub(crate) use derived::{Derived, FromFull, FromLeaves, derive, full_above_leaves};
pub use folder::TileFolder;

use envelope::merkle::{self, Hash, node_hash};
use std::collections::BTreeMap;

/// Hashes in a full tile.
pub const TILE_WIDTH: u16 = 256;

/// Levels of the largest tree that 64 bits count. The format would allow 64.
pub const LEVELS: u8 = 8;

/// Which tile, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    pub level: u8,
    pub index: u64,
    /// 1 to 256 hashes.
    pub width: u16,
}

impl TileId {
    /// Where it stands under the log's prefix ("Merkle Tree"): `tile/0/x001/234`, and `.p/17` behind a partial one.
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, numbered(self.index, self.width))
    }
}

/// Where a bundle of entries stands under the log's prefix ("Log entries").
pub fn entries_path(index: u64, width: u16) -> String {
    format!("tile/entries/{}", numbered(index, width))
}

#[derive(Debug, thiserror::Error)]
pub enum TileError {
    #[error("the tree has no such leaf or size")]
    Range,
    #[error("{} is missing", .0.path())]
    Missing(TileId),
    #[error("{} has not the length of its width", .0.path())]
    Malformed(TileId),
    #[error("{} cannot be read or written", .id.path())]
    Io {
        id: TileId,
        #[source]
        source: std::io::Error,
    },
}

/// Where tiles are read.
pub trait TileReader {
    /// The first `width` hashes of a tile. They are whatever stands there: who needs truth compares roots.
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError>;
}

/// How many hashes tile `index` of `level` has in the tree of `size` leaves; 0 where there is no such tile.
pub fn width_at(size: u64, level: u8, index: u64) -> u16 {
    let hashes = hashes_at(size, level);
    match index.cmp(&(hashes >> TILE_BITS)) {
        std::cmp::Ordering::Less => TILE_WIDTH,
        std::cmp::Ordering::Equal => (hashes & TILE_MASK) as u16,
        std::cmp::Ordering::Greater => 0,
    }
}

/// The partial tiles of the tree of `size` leaves, at most one a level ("Partial Tiles").
pub fn partials_at(size: u64) -> Vec<TileId> {
    let edge = (0..LEVELS).map(|level| {
        let index = hashes_at(size, level) >> TILE_BITS;
        TileId { level, index, width: width_at(size, level, index) }
    });
    edge.filter(|id| id.width > 0).collect()
}

impl<R: TileReader + ?Sized> TileReader for &R {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        (**self).tile(level, index, width)
    }
}

/// The root of the tree of the first `size` leaves (RFC 6962 §2.1).
pub fn root(reader: &dyn TileReader, size: u64) -> Result<Hash, TileError> {
    Nodes::new(reader, size).root_of(0, size)
}

/// The hash of leaf `index` in the tree of `size` leaves.
pub fn leaf(reader: &dyn TileReader, index: u64, size: u64) -> Result<Hash, TileError> {
    if index >= size {
        return Err(TileError::Range);
    }
    Nodes::new(reader, size).node(0, index)
}

/// The audit path of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1), from the leaf up.
pub fn inclusion_proof(reader: &dyn TileReader, index: u64, size: u64) -> Result<Vec<Hash>, TileError> {
    if index >= size {
        return Err(TileError::Range);
    }
    inclusion_path(&mut Nodes::new(reader, size), index, size)
}

/// The proof that the tree of `new_size` leaves extends the one of `old_size` (RFC 6962 §2.1.2).
/// Empty from no leaves and between equal sizes.
pub fn consistency_proof(reader: &dyn TileReader, old_size: u64, new_size: u64) -> Result<Vec<Hash>, TileError> {
    consistency_path(&mut Nodes::new(reader, new_size), old_size, new_size)
}

/// Where a proof's nodes come from.
pub(crate) trait NodeSource {
    /// MTH(D[start : end]) where `start` is a multiple of a power of two that is not below `end - start`: every range is such
    /// that RFC 6962's recursion meets.
    fn root_of(&mut self, start: u64, end: u64) -> Result<Hash, TileError>;
}

/// RFC 6962 §2.1.1, from the leaf up. `index` is below `size`.
fn inclusion_path(nodes: &mut dyn NodeSource, index: u64, size: u64) -> Result<Vec<Hash>, TileError> {
    let (mut start, mut end, mut proof) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split_point(end - start);
        if index < middle {
            proof.push(nodes.root_of(middle, end)?);
            end = middle;
        } else {
            proof.push(nodes.root_of(start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// RFC 6962 §2.1.2, from the right end of the old tree up.
pub(crate) fn consistency_path(
    nodes: &mut dyn NodeSource,
    old_size: u64,
    new_size: u64,
) -> Result<Vec<Hash>, TileError> {
    if old_size > new_size {
        return Err(TileError::Range);
    }
    let (mut start, mut end, mut proof) = (0, new_size, Vec::new());
    if old_size == 0 || old_size == new_size {
        return Ok(proof);
    }
    while old_size != end {
        let middle = start + split_point(end - start);
        if old_size <= middle {
            proof.push(nodes.root_of(middle, end)?);
            end = middle;
        } else {
            proof.push(nodes.root_of(start, middle)?);
            start = middle;
        }
    }
    // a complete old tree is its own root, which the verifier has
    if start != 0 {
        proof.push(nodes.root_of(start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// A tree that grows leaf by leaf. A leaf costs one node's hash.
#[derive(Debug, Clone, Default)]
pub struct Tiles {
    size: u64,
    /// Roots of the complete subtrees along the right edge, the largest first: one for each bit set in `size`.
    subtrees: Vec<Hash>,
    /// The unfinished tile of each level that was begun.
    edge: Vec<Vec<Hash>>,
    /// Full ones that nobody took yet.
    full: Vec<(TileId, Vec<Hash>)>,
}

impl Tiles {
    /// Goes on behind the first `size` leaves. Reads the partial tiles of that size alone: compare [`Tiles::root`]
    /// with a root that was signed before anything is built on it.
    pub fn resume(reader: &dyn TileReader, size: u64) -> Result<Self, TileError> {
        let begun = (0..LEVELS).take_while(|level| hashes_at(size, *level) > 0).count();
        let mut tiles = Self { size, edge: vec![Vec::new(); begun], ..Self::default() };
        let mut nodes = Nodes::new(reader, size);
        let mut start = 0;
        while start < size {
            let height = (size - start).ilog2();
            tiles.subtrees.push(nodes.node(height, start >> height)?);
            start += 1 << height;
        }
        for id in partials_at(size) {
            tiles.edge[usize::from(id.level)] = nodes.tile(id.level, id.index)?.to_vec();
        }
        Ok(tiles)
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.append(0, leaf);
        let mut hash = leaf;
        // as in binary addition: each trailing one carries
        for height in 1..=self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                hash = node_hash(&left, &hash);
            }
            if height % TILE_BITS == 0 {
                self.append(level_of(height), hash);
            }
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        fold(&self.subtrees)
    }

    /// The tiles that became full since the last call, in the order in which they did.
    pub fn take_full(&mut self) -> Vec<(TileId, Vec<Hash>)> {
        std::mem::take(&mut self.full)
    }

    /// The partial tiles of this size.
    pub fn partials(&self) -> Vec<(TileId, Vec<Hash>)> {
        let held = |id: TileId| (id, self.edge[usize::from(id.level)].clone());
        partials_at(self.size).into_iter().map(held).collect()
    }

    /// Reads these tiles, and in `written` those that were taken.
    pub fn over<'a>(&'a self, written: &'a dyn TileReader) -> impl TileReader + 'a {
        Over { tiles: self, written }
    }

    fn append(&mut self, level: u8, hash: Hash) {
        let at = usize::from(level);
        if self.edge.len() == at {
            self.edge.push(Vec::with_capacity(usize::from(TILE_WIDTH)));
        }
        let tile = &mut self.edge[at];
        tile.push(hash);
        if tile.len() == usize::from(TILE_WIDTH) {
            // of the leaf that is being pushed, which `size` does not count yet
            let id = TileId { level, index: hashes_at(self.size, level + 1), width: TILE_WIDTH };
            let hashes = std::mem::replace(tile, Vec::with_capacity(usize::from(TILE_WIDTH)));
            self.full.push((id, hashes));
        }
    }

    fn held(&self, level: u8, index: u64) -> Option<&[Hash]> {
        if index == hashes_at(self.size, level) >> TILE_BITS {
            return self.edge.get(usize::from(level)).map(Vec::as_slice);
        }
        let found = self.full.iter().rev().find(|(id, _)| (id.level, id.index) == (level, index));
        found.map(|(_, hashes)| hashes.as_slice())
    }
}

struct Over<'a> {
    tiles: &'a Tiles,
    written: &'a dyn TileReader,
}

impl TileReader for Over<'_> {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        match self.tiles.held(level, index).and_then(|hashes| hashes.get(..usize::from(width))) {
            Some(hashes) => Ok(hashes.to_vec()),
            None => self.written.tile(level, index, width),
        }
    }
}

/// The nodes of one tree. Remembers the tiles of one proof, at most two a level.
struct Nodes<'a> {
    reader: &'a dyn TileReader,
    size: u64,
    read: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<'a> Nodes<'a> {
    fn new(reader: &'a dyn TileReader, size: u64) -> Self {
        Self { reader, size, read: BTreeMap::new() }
    }

    fn tile(&mut self, level: u8, index: u64) -> Result<&[Hash], TileError> {
        let width = width_at(self.size, level, index);
        if width == 0 {
            return Err(TileError::Range);
        }
        match self.read.entry((level, index)) {
            std::collections::btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let hashes = self.reader.tile(level, index, width)?;
                if hashes.len() != usize::from(width) {
                    return Err(TileError::Malformed(TileId { level, index, width }));
                }
                Ok(place.insert(hashes))
            }
        }
    }

    /// MTH(D[index · 2^height : (index + 1) · 2^height]), a complete subtree.
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, TileError> {
        let (level, inner) = (level_of(height), height % TILE_BITS);
        let first = index << inner;
        let at = (first & TILE_MASK) as usize;
        let hashes = self.tile(level, first >> TILE_BITS)?;
        hashes.get(at..at + (1 << inner)).map(merkle::root).ok_or(TileError::Range)
    }
}

impl NodeSource for Nodes<'_> {
    fn root_of(&mut self, mut start: u64, end: u64) -> Result<Hash, TileError> {
        let mut subtrees = Vec::new();
        while start < end {
            let height = (end - start).ilog2();
            subtrees.push(self.node(height, start >> height)?);
            start += 1 << height;
        }
        Ok(fold(&subtrees))
    }
}

/// The root over complete subtrees, the largest first.
fn fold(subtrees: &[Hash]) -> Hash {
    let mut from_right = subtrees.iter().rev().copied();
    let Some(last) = from_right.next() else { return merkle::empty_root() };
    from_right.fold(last, |right, left| node_hash(&left, &right))
}

/// Roots of complete subtrees of 256^level leaves.
fn hashes_at(size: u64, level: u8) -> u64 {
    size.checked_shr(TILE_BITS * u32::from(level)).unwrap_or(0)
}

/// The level whose tiles hold, or lead to, the nodes of `height`.
fn level_of(height: u32) -> u8 {
    u8::try_from(height / TILE_BITS).unwrap_or(LEVELS)
}

/// The largest power of two below `len`, which is at least 2.
pub(crate) fn split_point(len: u64) -> u64 {
    1 << (len - 1).ilog2()
}

/// "Merkle Tree": three digits a path element, all but the last marked by an `x`.
fn numbered(index: u64, width: u16) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH {
        path = format!("{path}.p/{width}");
    }
    path
}

/// A tile is a subtree of this height.
pub(crate) const TILE_BITS: u32 = 8;
const TILE_MASK: u64 = 0xff;
