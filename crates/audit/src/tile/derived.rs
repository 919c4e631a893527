//! Tiles that are made of those below them, where those that stand there are missing or not to be trusted. A level-0 tile alone
//! tells what nothing else does.

use super::{LEVELS, TILE_BITS, TILE_WIDTH, TileError, TileId, TileReader, hashes_at};
use envelope::merkle::{self, Hash};

/// Makes what is missing or cut.
#[derive(Debug)]
pub(crate) struct Derived<'a, R: ?Sized>(pub(crate) &'a R);

/// Makes partial tiles, too, which are never synced. At level 0 there is no other way than to read them.
#[derive(Debug)]
pub(crate) struct FromFull<'a, R: ?Sized>(pub(crate) &'a R);

/// Makes all that is above level 0: for whom it misleads.
#[derive(Debug)]
pub(crate) struct FromLeaves<'a, R: ?Sized>(pub(crate) &'a R);

impl<R: TileReader + ?Sized> TileReader for Derived<'_, R> {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        match self.0.tile(level, index, width) {
            Err(TileError::Missing(_) | TileError::Malformed(_)) if level > 0 => derive(self, level, index, width),
            found => found,
        }
    }
}

impl<R: TileReader + ?Sized> TileReader for FromFull<'_, R> {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        if width < TILE_WIDTH
            && let Ok(derived) = derive(self, level, index, width)
        {
            return Ok(derived);
        }
        Derived(self.0).tile(level, index, width)
    }
}

impl<R: TileReader + ?Sized> TileReader for FromLeaves<'_, R> {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        if level == 0 { self.0.tile(level, index, width) } else { derive(self, level, index, width) }
    }
}

/// A tile from the full ones below it.
pub(crate) fn derive(
    reader: &(impl TileReader + ?Sized),
    level: u8,
    index: u64,
    width: u16,
) -> Result<Vec<Hash>, TileError> {
    let below = level.checked_sub(1).ok_or(TileError::Missing(TileId { level, index, width }))?;
    let first = index.saturating_mul(u64::from(TILE_WIDTH));
    let full = (first..first.saturating_add(u64::from(width)))
        .map(|index| reader.tile(below, index, TILE_WIDTH).map(|hashes| merkle::root(&hashes)));
    full.collect()
}

/// The full tiles of the tree of `size` leaves above level 0.
pub(crate) fn full_above_leaves(size: u64) -> impl Iterator<Item = TileId> {
    let full = move |level| {
        (0..hashes_at(size, level) >> TILE_BITS).map(move |index| TileId { level, index, width: TILE_WIDTH })
    };
    (1..LEVELS).flat_map(full)
}
