//! Before anything is removed: what stands there, or its copy, is what was signed, and the tree does without it.

use super::{Fate, Removal, RetentionError};
use crate::checkpoint::Checkpoint;
use crate::read::{LogFolder, LogReader, SEGMENT_ENTRIES};
use crate::record;
use crate::tile::{self, FromFull, TileError, TileReader as _, Tiles};
use aws_lc_rs::digest;
use envelope::merkle::{Hash, leaf_hash, verify_consistency};
use std::fs::File;
use std::ops::{ControlFlow, Range};

/// Verifies the entries of `segments`, as they stand in `from` (the log itself, or its archive), against the log's tiles, and
/// those against the signed root; makes the tiles durable, written again: what stands in memory may be marked as written though
/// a sync of it failed. `each` hears every entry, and may end it.
pub fn prepare(
    log: &LogFolder,
    signed: &Checkpoint,
    segments: Range<u64>,
    (from, fate): (&LogFolder, Fate),
    each: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Removal, RetentionError> {
    let (first, end) = (segments.start * SEGMENT_ENTRIES, segments.end * SEGMENT_ENTRIES);
    let not_signed = || RetentionError::NotSigned { first, last: end.saturating_sub(1) };
    if first >= end || end > signed.size {
        return Err(not_signed());
    }
    // before they are written: its sync tells of each write that failed since
    let disk = File::open(log.dir())?;
    let mut tiles = Tiles::resume(&FromFull(log), first)?;
    let mut digest = digest::Context::new(&digest::SHA256);
    let reader = LogReader::over(from);
    let mut entries = reader.iter_from(first)?;
    while tiles.size() < end {
        if each().is_break() {
            return Err(RetentionError::CalledOff);
        }
        let Some((index, entry)) = entries.read()?.filter(|(index, _)| *index == tiles.size()) else {
            return Err(not_signed());
        };
        if !record::is_entry(entry) {
            return Err(RetentionError::Malformed { index });
        }
        digest.update(&u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
        digest.update(entry);
        tiles.push(leaf_hash(entry));
        for (id, hashes) in tiles.take_full() {
            match log.tile(id.level, id.index, id.width) {
                Ok(there) if there == hashes => log.write_again(id, &hashes)?,
                Err(error @ TileError::Io { .. }) => return Err(error.into()),
                Ok(_) | Err(_) => return Err(RetentionError::Tile(id)),
            }
        }
    }
    let proof = tile::consistency_proof(&FromFull(log), end, signed.size)?;
    verify_consistency(end, &tiles.root(), signed.size, &signed.root, &proof).map_err(|_| not_signed())?;
    // from now on nobody could make them anew
    rustix::fs::syncfs(disk).map_err(std::io::Error::from)?;
    let mut sum = Hash::default();
    sum.iter_mut().zip(digest.finish().as_ref()).for_each(|(to, from)| *to = *from);
    Ok(Removal { fate, first, end, size: signed.size, root: signed.root, digest: sum })
}
