//! Where a log stopped being what was signed, if its tiles still know.

use super::{Fault, Stop, Walk};
use crate::read::{LogReader, LogSource, ReadError};
use crate::tile::{self, LEVELS, TILE_WIDTH, TileError, TileReader, width_at};
use envelope::merkle::{self, Hash, leaf_hash};

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Another stands in its place.
    Altered,
    /// This one, and as many as told, stand nowhere.
    Missing { entries: u64 },
    /// This one, and as many as told, were never signed and stand before the one that was.
    Inserted { entries: u64 },
    /// Signed entries stand in another order from here on.
    Reordered,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Altered => f.write_str("is not the one that was signed: it was altered"),
            Self::Missing { entries: 1 } => f.write_str("is missing"),
            Self::Missing { entries } => write!(f, "is missing, and {} behind it", entries - 1),
            Self::Inserted { entries: 1 } => f.write_str("was inserted: it was never signed"),
            Self::Inserted { entries } => {
                write!(f, "and {} behind it were inserted: they were never signed", entries - 1)
            }
            Self::Reordered => f.write_str("stands in the place of another: they were reordered"),
        }
    }
}

impl<S: LogSource> Walk<'_, S> {
    /// The fault behind a root that does not come out, or a signed entry that is not there.
    pub(super) fn place(&self, stop: Stop) -> Fault {
        let size = self.signed.size;
        let stopped = match &stop {
            Stop::Root => None,
            Stop::End => Some(self.tiles.size()),
            Stop::Malformed { index, .. } => Some(*index),
            Stop::Broken(ReadError::Cut { index } | ReadError::Missing { index }) => Some(*index),
            Stop::Broken(ReadError::Surplus { index }) => Some(index + 1),
            Stop::Broken(ReadError::Io { .. }) => None,
        };
        let leaf = self.compared.at_level(0).or(stopped).filter(|index| *index < size);
        if let Some(index) = leaf.filter(|_| self.leads_to_the_root(0)) {
            match (change(self.log, index, size), stop) {
                (Ok(Some(change)), _) => return Fault::Entry { index, change },
                // it was signed as it is, or what is wrong lies between segments
                (Ok(None), stop) => return self.without_tiles(stop),
                (Err(fault), _) => return fault,
            }
        }
        for level in 1..LEVELS {
            let Some(at) = self.compared.at_level(level).filter(|_| self.leads_to_the_root(level)) else { continue };
            let first = at << (8 * u32::from(level));
            let last = first.saturating_add(1 << (8 * u32::from(level))).min(size) - 1;
            return Fault::Among { first, last };
        }
        self.without_tiles(stop)
    }

    fn without_tiles(&self, stop: Stop) -> Fault {
        let (entries, signed) = (self.tiles.size(), self.signed.size);
        match stop {
            Stop::Malformed { index, cause, .. } => Fault::Malformed { index, signed: true, cause },
            Stop::End | Stop::Broken(ReadError::Cut { .. }) => Fault::Truncated { entries, signed },
            Stop::Broken(error) => Fault::Read(error),
            Stop::Root => Fault::Root { signed, good: self.good, tile: self.compared.first().map(|(tile, _)| tile) },
        }
    }

    /// Whether the tiles of this level, as they stand there, have the signed root above them.
    fn leads_to_the_root(&self, level: u8) -> bool {
        let below = Below { source: self.log.source(), level, size: self.signed.size };
        tile::root(&below, self.signed.size).is_ok_and(|root| root == self.signed.root)
    }
}

/// The tree over the tiles of one level, and those of lower ones at the right edge: what lies above is computed from them.
struct Below<'a, S> {
    source: &'a S,
    level: u8,
    size: u64,
}

impl<S: LogSource> TileReader for Below<'_, S> {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        if level <= self.level {
            return self.source.tile(level, index, width);
        }
        let first = index * u64::from(TILE_WIDTH);
        let full = |below: u64| width_at(self.size, level - 1, below) == TILE_WIDTH;
        (first..first + u64::from(width))
            .map(|below| if full(below) { Ok(below) } else { Err(TileError::Range) })
            .map(|below| self.tile(level - 1, below?, TILE_WIDTH).map(|hashes| merkle::root(&hashes)))
            .collect()
    }
}

/// How the entries from `index` on differ from what the tiles, which are believed here, have there. `None`: not at all.
fn change<S: LogSource>(log: &LogReader<S>, index: u64, size: u64) -> Result<Option<Change>, Fault> {
    let signed = signed_leaves(log.source(), index, size)?;
    let found = found_leaves(log, index);
    let Some(first_signed) = signed.first() else { return Ok(None) };
    let Some(first_found) = found.first() else { return Ok(Some(Change::Missing { entries: size - index })) };
    let signed_later = signed.iter().position(|leaf| leaf == first_found);
    let found_later = found.iter().position(|leaf| leaf == first_signed);
    Ok(match (signed_later, found_later) {
        (Some(0), _) => None,
        (None, None) => Some(Change::Altered),
        (Some(entries), None) => Some(Change::Missing { entries: entries as u64 }),
        (None, Some(entries)) => Some(Change::Inserted { entries: entries as u64 }),
        (Some(_), Some(_)) => Some(Change::Reordered),
    })
}

fn signed_leaves(source: &impl LogSource, index: u64, size: u64) -> Result<Vec<Hash>, Fault> {
    let width = u64::from(TILE_WIDTH);
    let end = index.saturating_add(WINDOW).min(size);
    let mut leaves = Vec::new();
    for tile in index / width..end.div_ceil(width) {
        let hashes = source.tile(0, tile, width_at(size, 0, tile)).map_err(Fault::TileIo)?;
        let skipped = index.saturating_sub(tile * width);
        leaves.extend(hashes.into_iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)));
    }
    Ok(leaves)
}

/// As far as there are entries: behind an altered length nothing is one.
fn found_leaves<S: LogSource>(log: &LogReader<S>, index: u64) -> Vec<Hash> {
    let mut leaves = Vec::new();
    let Ok(mut entries) = log.iter_from(index) else { return leaves };
    while let Ok(Some((found, bytes))) = entries.read() {
        if found < index || found - index >= WINDOW {
            break;
        }
        leaves.push(leaf_hash(bytes));
    }
    leaves
}

/// How many entries are looked through for one that was moved.
const WINDOW: u64 = 4096;
