//! Proofs of consistency: nodes near the tree's right edge are hashed once, and remembered while the tree grows.
//!
//! Always: what [`crate::tile::consistency_proof`] gives.

use crate::tile::{self, NodeSource, TILE_BITS, TILE_WIDTH, TileError, TileReader, split_point};
use envelope::merkle::{Hash, node_hash};
use std::collections::{BTreeMap, HashMap};

/// Nodes by their tile. A tile only ever grows.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    tiles: BTreeMap<(u8, u64), Layers>,
}

/// A tile's hashes, above them the nodes over two of them each, and so on.
type Layers = Vec<Vec<Hash>>;

/// Proofs in the tree of one size.
pub(super) struct Proofs<'a> {
    nodes: &'a mut Nodes,
    reader: &'a dyn TileReader,
    size: u64,
    /// Roots over ranges that end within a subtree.
    ranges: HashMap<(u64, u64), Hash>,
}

impl Nodes {
    pub(super) fn proofs<'a>(&'a mut self, reader: &'a dyn TileReader, size: u64) -> Proofs<'a> {
        if self.tiles.len() > TILES_MAX {
            self.tiles.clear();
        }
        Proofs { nodes: self, reader, size, ranges: HashMap::new() }
    }
}

impl Proofs<'_> {
    /// From the tree of `old` leaves to this one (RFC 6962 §2.1.2).
    pub(super) fn consistency(&mut self, old: u64) -> Result<Vec<Hash>, TileError> {
        let size = self.size;
        tile::consistency_path(self, old, size)
    }

    /// A complete subtree's root.
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, TileError> {
        let level = u8::try_from(height / TILE_BITS).map_err(|_| TileError::Range)?;
        let inner = height % TILE_BITS;
        let first = index.checked_shl(inner).ok_or(TileError::Range)?;
        let (tile, at) = (first >> TILE_BITS, (first % u64::from(TILE_WIDTH)) >> inner);
        let layers = self.nodes.tiles.entry((level, tile)).or_default();
        let (inner, at) = (inner as usize, usize::try_from(at).map_err(|_| TileError::Range)?);
        if layers.get(inner).is_none_or(|layer| layer.len() <= at) {
            let width = tile::width_at(self.size, level, tile);
            if width == 0 {
                return Err(TileError::Range);
            }
            extend(layers, &self.reader.tile(level, tile, width)?);
        }
        layers.get(inner).and_then(|layer| layer.get(at)).copied().ok_or(TileError::Range)
    }
}

impl NodeSource for Proofs<'_> {
    fn root_of(&mut self, start: u64, end: u64) -> Result<Hash, TileError> {
        let length = end - start;
        if length.is_power_of_two() {
            return self.node(length.ilog2(), start >> length.ilog2());
        }
        if let Some(known) = self.ranges.get(&(start, end)) {
            return Ok(*known);
        }
        let middle = start + split_point(length);
        let hash = node_hash(&self.root_of(start, middle)?, &self.root_of(middle, end)?);
        self.ranges.insert((start, end), hash);
        Ok(hash)
    }
}

/// Adds what a tile has become longer by.
fn extend(layers: &mut Layers, hashes: &[Hash]) {
    if layers.is_empty() {
        layers.resize(TILE_BITS as usize, Vec::new());
    }
    let known = layers.first().map_or(0, Vec::len);
    for hash in hashes.iter().skip(known) {
        let mut hash = *hash;
        for layer in layers.iter_mut() {
            layer.push(hash);
            // the second of two has a node above both
            let [.., left, right] = layer.as_slice() else { break };
            if layer.len() % 2 == 1 {
                break;
            }
            hash = node_hash(left, right);
        }
    }
}

/// Some 16 KiB each.
const TILES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileFolder, Tiles, consistency_proof};
    use envelope::merkle::leaf_hash;

    #[test]
    fn they_are_those_of_the_tiles_whatever_was_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let folder = TileFolder::new(dir.path());
        let (mut tiles, mut nodes) = (Tiles::default(), Nodes::default());
        let mut checked = 0;
        for size in 1..70_000_u64 {
            tiles.push(leaf_hash(&size.to_be_bytes()));
            for (id, hashes) in tiles.take_full() {
                folder.write(id, &hashes).unwrap();
            }
            // now and then, and at the ends of tiles of every level
            let edge = [0, 1, 255].contains(&(size % 256)) && !(1000..=65_000).contains(&size);
            if !edge && size % 1777 != 3 && size > 40 {
                continue;
            }
            let reader = tiles.over(&folder);
            let mut proofs = nodes.proofs(&reader, size);
            for index in [0, 1, size / 3, size / 2, size.saturating_sub(300), size - 1].map(|at| at.min(size - 1)) {
                let consistency = proofs.consistency(index).unwrap();
                assert_eq!(consistency, consistency_proof(&reader, index, size).unwrap(), "{index} to {size}");
                checked += 1;
            }
            assert!(proofs.consistency(size + 1).is_err());
            assert_eq!(proofs.consistency(size).unwrap().len(), 0);
        }
        assert!(checked > 500, "{checked}");
        assert!(nodes.tiles.len() <= 2 * TILES_MAX);
    }
}
