//! Entries that are no longer there: their hashes stand for them, and a record that is signed must say so.

use super::{Fault, Stop, Walk};
use crate::read::{LogSource, ReadError, SEGMENT_ENTRIES};
use crate::record::Record;
use crate::retention::Removal;
use crate::tile::{self, TILE_WIDTH, TileError, width_at};

/// Entries that the log no longer has, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// How many, all at the log's beginning.
    pub entries: u64,
    /// Of those, how many were not read in an archive either: their hashes alone were.
    pub unread: u64,
    /// The entry that tells of it, and its time in Unix milliseconds.
    pub index: u64,
    pub time: u64,
    pub removal: Removal,
}

/// What a pass has met of removals.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// The log's first segment when the pass began.
    first: u64,
    /// Entries whose hashes alone were read.
    unread: u64,
    newest: Option<(u64, u64, Removal)>,
}

impl Gaps {
    pub(super) fn begin(source: &impl LogSource) -> Result<Self, Fault> {
        Ok(Self { first: first(source)?, ..Self::default() })
    }
}

impl<S: LogSource> Walk<'_, S> {
    /// Where the log goes on, if the pass stopped at entries that are gone from its beginning.
    pub(super) fn gap(&self, stop: &Stop) -> Result<Option<u64>, Fault> {
        let Stop::Broken(ReadError::Missing { index }) = *stop else { return Ok(None) };
        let (number, source) = (index / SEGMENT_ENTRIES, self.log.source());
        if !index.is_multiple_of(SEGMENT_ENTRIES) || index != self.tiles.size() || number >= first(source)? {
            return Ok(None);
        }
        let next = source.segments().map_err(io)?.into_iter().find(|there| *there > number);
        let end = next.map(|next| next.saturating_mul(SEGMENT_ENTRIES));
        Ok(end.filter(|end| *end <= self.signed.size))
    }

    /// Adds the hashes of entries that are gone. All of them are read: proofs need them.
    pub(super) fn over_gap(&mut self, end: u64) -> Result<Option<Stop>, Fault> {
        let width = u64::from(TILE_WIDTH);
        while self.tiles.size() < end {
            let index = self.tiles.size();
            let tile = index / width;
            let hashes = match self.log.source().tile(0, tile, width_at(self.signed.size, 0, tile)) {
                Ok(hashes) => hashes,
                Err(error @ TileError::Io { .. }) => return Err(Fault::TileIo(error)),
                // neither the entry nor its hash
                Err(TileError::Missing(_) | TileError::Malformed(_) | TileError::Range) => {
                    return Ok(Some(Stop::Broken(ReadError::Missing { index })));
                }
            };
            std::thread::sleep(self.options.rest);
            for hash in hashes {
                self.gaps.unread += 1;
                self.kept.leaf(self.tiles.size(), &hash);
                self.tiles.push(hash);
                if !self.after_leaf()? {
                    return Ok(Some(Stop::Root));
                }
            }
        }
        Ok(None)
    }

    /// What an entry tells of removals, if it is signed. Its tree must have been this log's.
    pub(super) fn hear(&mut self, index: u64, record: &Record<'_>) -> Result<(), Fault> {
        let Some(removal) = Removal::of(record).filter(|removal| removal.size <= index) else { return Ok(()) };
        if index >= self.signed.size {
            return Ok(());
        }
        let known = match tile::root(&self.tiles.over(self.log.source()), removal.size) {
            Ok(root) => root == removal.root,
            Err(error @ TileError::Io { .. }) => return Err(Fault::TileIo(error)),
            // a crash took a tile; the record itself is signed
            Err(TileError::Missing(_) | TileError::Malformed(_) | TileError::Range) => true,
        };
        let further = self.gaps.newest.as_ref().is_none_or(|(_, _, known)| known.end <= removal.end);
        if known && further {
            self.gaps.newest = Some((index, record.time, removal));
        }
        Ok(())
    }

    /// After the pass: what is gone, or that nothing says why.
    pub(super) fn removed(&self) -> Result<Option<Removed>, Fault> {
        let now = first(self.log.source())?;
        let entries = now.saturating_mul(SEGMENT_ENTRIES);
        if entries == 0 && self.gaps.unread == 0 {
            return Ok(None);
        }
        match &self.gaps.newest {
            Some((index, time, removal)) if removal.end >= entries => {
                let (unread, removal) = (self.gaps.unread, removal.clone());
                Ok(Some(Removed { entries, unread, index: *index, time: *time, removal }))
            }
            // its record lies behind the checkpoint of this pass
            _ if now != self.gaps.first => Err(Fault::Changing),
            known => {
                let index = known.as_ref().map_or(0, |(_, _, removal)| removal.end);
                Err(Fault::Entry { index, change: super::Change::Missing { entries: entries - index } })
            }
        }
    }
}

fn first(source: &impl LogSource) -> Result<u64, Fault> {
    source.first().map_err(io)
}

fn io(source: std::io::Error) -> Fault {
    Fault::Read(ReadError::Io { segment: 0, source })
}
