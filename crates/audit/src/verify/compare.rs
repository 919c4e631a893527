//! The tiles that are there, compared with those that the entries make.

use super::Fault;
use crate::read::LogSource;
use crate::tile::{LEVELS, TILE_WIDTH, TileError, TileId, Tiles, width_at};
use envelope::merkle::Hash;

/// What the comparison found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) equal: u64,
    pub(super) missing: u64,
    /// Of each level the tile, and the position in the level, of the first hash that differs.
    differs: [Option<(TileId, u64)>; LEVELS as usize],
}

impl Compared {
    /// A tile that became full. Nobody signed those that reach behind the checkpoint.
    pub(super) fn tile(
        &mut self,
        source: &impl LogSource,
        signed: u64,
        id: TileId,
        hashes: &[Hash],
    ) -> Result<(), Fault> {
        if width_at(signed, id.level, id.index) < TILE_WIDTH {
            return Ok(());
        }
        self.compare(source, id, hashes)?;
        self.outgrown(source, id, hashes)
    }

    /// The partial tiles at the right edge of the tree so far, which reaches up to the checkpoint or ends before it.
    pub(super) fn edge(&mut self, source: &impl LogSource, signed: u64, tiles: &Tiles) -> Result<(), Fault> {
        for (held, hashes) in tiles.partials() {
            let (level, index) = (held.level, held.index);
            self.compare(source, TileId { level, index, width: width_at(signed, level, index) }, &hashes)?;
            self.outgrown(source, held, &hashes)?;
        }
        Ok(())
    }

    /// Partial tiles of earlier checkpoints, which a crash left.
    fn outgrown(&mut self, source: &impl LogSource, id: TileId, hashes: &[Hash]) -> Result<(), Fault> {
        let io = |error| Fault::TileIo(TileError::Io { id, source: error });
        for width in source.partials(id.level, id.index).map_err(io)? {
            if width < id.width {
                self.compare(source, TileId { width, ..id }, hashes)?;
            }
        }
        Ok(())
    }

    /// The lowest level's first.
    pub(super) fn first(&self) -> Option<(TileId, u64)> {
        self.differs.iter().flatten().next().map(|(tile, at)| (*tile, at % u64::from(TILE_WIDTH)))
    }

    /// Position in its level of the first hash that differs.
    pub(super) fn at_level(&self, level: u8) -> Option<u64> {
        self.differs.get(usize::from(level)).copied().flatten().map(|(_, at)| at)
    }

    /// As far as both reach.
    fn compare(&mut self, source: &impl LogSource, id: TileId, hashes: &[Hash]) -> Result<(), Fault> {
        let first = id.index * u64::from(TILE_WIDTH);
        let differs = match source.tile(id.level, id.index, id.width) {
            Ok(there) => there.iter().zip(hashes).position(|(there, made)| there != made),
            // it may lack a hash or have one too many: no place is better than another
            Err(TileError::Malformed(_) | TileError::Range) => Some(0),
            Err(TileError::Missing(_)) => {
                self.missing += 1;
                return Ok(());
            }
            Err(error @ TileError::Io { .. }) => return Err(Fault::TileIo(error)),
        };
        let Some(position) = differs else {
            self.equal += 1;
            return Ok(());
        };
        let found = (id, first + position as u64);
        if let Some(known) = self.differs.get_mut(usize::from(id.level)) {
            let earlier = known.filter(|(_, at)| *at <= found.1);
            *known = Some(earlier.unwrap_or(found));
        }
        Ok(())
    }
}
