//! The tree at start: read from its tiles where they can be trusted, made anew from the entries where not.
//!
//! Always: the tree that goes on leads to the newest checkpoint.
//! Never: one of the first 1,024 tiles that the entries contradict overwritten before the checkpoint has said which of the two
//! is right. Of more, nothing is kept.

use super::segment::{self, SEGMENTS};
use super::signing::{Asked, Signing};
use super::walk::{Step, Walk};
use super::{OpenError, Place};
use crate::checkpoint::Checkpoint;
use crate::tile::{self, FromFull, FromLeaves, TileFolder, TileId, TileReader, Tiles};
use envelope::merkle::{Hash, leaf_hash};
use std::fs::File;
use std::time::{Duration, Instant};

/// What there is of a log, beside its tiles.
pub(super) struct There<'a> {
    /// Entries before it were pruned: tiles of level 0 stand for them.
    pub(super) first: u64,
    pub(super) size: u64,
    /// The newest that was signed, and covers what was pruned.
    pub(super) signed: Option<&'a Checkpoint>,
    /// The log's folder, opened before a tile was written.
    pub(super) disk: &'a File,
}

/// Which tiles are on the disk, as `signing` tells.
pub(super) struct Mark<'a> {
    pub(super) signing: &'a mut Signing,
    pub(super) asked: &'a mut Option<Asked>,
}

impl Mark<'_> {
    fn at(&self) -> u64 {
        self.asked.map_or(0, |asked| asked.tiles)
    }

    /// Before a tile from there on is written in another's place.
    fn lower(&mut self, to: u64) -> Result<(), OpenError> {
        if self.at() > to { self.put(to) } else { Ok(()) }
    }

    /// Whatever was read: it may be in memory alone.
    fn put(&mut self, to: u64) -> Result<(), OpenError> {
        let Some(asked) = self.asked.as_mut() else { return Ok(()) };
        asked.tiles = to;
        let written = self.signing.put(*asked);
        Ok(written.map_err(|_| std::io::Error::other("`signing` cannot be written"))?)
    }
}

/// The tree over all entries. Goes on at the segment of the newest checkpoint, or at the first whose tiles may not be on the
/// disk; where that does not lead to the checkpoint, at the first entry that is there.
pub(super) fn grow(place: &Place, there: &There<'_>, mut mark: Mark<'_>) -> Result<Tiles, OpenError> {
    let (folder, first) = (TileFolder::new(&place.dir), there.first);
    let trusted = there.signed.map_or(0, |signed| signed.size).min(mark.at());
    let from = place.whole(trusted).max(first);
    // the second time at the first entry that is there
    for from in [from, first].into_iter().skip(usize::from(from == first)).filter(|from| *from > 0) {
        let error = match Tiles::resume(&FromFull(&folder), from) {
            Err(error) => error.into(),
            Ok(tiles) => {
                mark.lower(from)?;
                match Rebuild::new(place, tiles, there.signed).run(there.size) {
                    Err(error @ OpenError::Rewritten { .. }) => error,
                    outcome => return outcome,
                }
            }
        };
        tracing::warn!(%error, from, "the audit log's tiles are made anew from its entries");
        mark.put(0)?;
    }
    mark.lower(0)?;
    if first == 0 {
        return Rebuild::new(place, Tiles::default(), there.signed).run(there.size);
    }
    let tiles = first >> tile::TILE_BITS;
    tracing::warn!(tiles, "the audit log's tree is made of all tiles of level 0: this may take a while");
    let tiles = Tiles::resume(&FromLeaves(&folder), first)?;
    let tiles = Rebuild::new(place, tiles, there.signed).run(there.size)?;
    mend(&folder, first)?;
    rustix::fs::syncfs(there.disk).map_err(std::io::Error::from)?;
    Ok(tiles)
}

/// Makes those tiles anew that are wrong above level 0, of what was pruned. Those of level 0 lead to what was signed.
fn mend(folder: &TileFolder, first: u64) -> Result<(), OpenError> {
    // each level from the one below, which is right by then
    for id in tile::full_above_leaves(first) {
        let hashes = tile::derive(folder, id.level, id.index, id.width)?;
        if !folder.tile(id.level, id.index, id.width).is_ok_and(|found| found == hashes) {
            tracing::warn!(tile = id.path(), "a tile of the audit log is missing or wrong, and is made anew");
            folder.write(id, &hashes)?;
        }
    }
    Ok(())
}

struct Rebuild<'a> {
    place: &'a Place,
    folder: TileFolder,
    tiles: Tiles,
    /// What the tree must come by, until it has.
    signed: Option<&'a Checkpoint>,
    /// Contradict what stands on the disk: written once the tree has come by the checkpoint.
    contradicting: Vec<(TileId, Vec<Hash>)>,
    told: bool,
}

impl<'a> Rebuild<'a> {
    fn new(place: &'a Place, tiles: Tiles, signed: Option<&'a Checkpoint>) -> Self {
        let folder = TileFolder::new(&place.dir);
        Self { place, folder, tiles, signed, contradicting: Vec::new(), told: false }
    }

    /// Adds the entries from the tree's size on.
    fn run(mut self, size: u64) -> Result<Tiles, OpenError> {
        self.come_by()?;
        let mut since = Instant::now();
        while self.tiles.size() < size {
            if since.elapsed() > TOLD_EVERY {
                tracing::info!(entries = self.tiles.size(), of = size, "the audit log is read");
                since = Instant::now();
            }
            let number = self.tiles.size() / self.place.entries_max;
            let end = size.min((number + 1) * self.place.entries_max);
            let file = File::open(segment::path(&self.place.dir.join(SEGMENTS), number))?;
            let mut walk = Walk::from(file, 0);
            while self.tiles.size() < end {
                let Step::Entry(entry) = walk.step(&*self.place.form)? else {
                    return Err(OpenError::Damaged { index: self.tiles.size() });
                };
                self.tiles.push(leaf_hash(entry));
                for (id, hashes) in self.tiles.take_full() {
                    self.keep(id, hashes)?;
                }
                self.come_by()?;
            }
        }
        match self.signed {
            Some(signed) => Err(OpenError::Shorter { size, covered: signed.size }),
            None => Ok(self.tiles),
        }
    }

    fn keep(&mut self, id: TileId, hashes: Vec<Hash>) -> Result<(), OpenError> {
        match self.folder.tile(id.level, id.index, id.width) {
            Ok(found) if found == hashes && self.folder.write_again(id, &hashes).is_ok() => return Ok(()),
            // it may be read-only
            Ok(found) if found == hashes => return Ok(self.folder.write(id, &hashes)?),
            Ok(_) if self.signed.is_some() && self.contradicting.len() < CONTRADICTING_MAX => {
                self.contradicting.push((id, hashes));
                return Ok(());
            }
            Ok(_) | Err(_) => {}
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(tile = id.path(), "a tile of the audit log is missing or wrong, and is made anew");
        }
        Ok(self.folder.write(id, &hashes)?)
    }

    /// At the checkpoint's size: the tree must be the one that was signed. Then what it says is right.
    fn come_by(&mut self) -> Result<(), OpenError> {
        let Some(signed) = self.signed.filter(|signed| signed.size == self.tiles.size()) else { return Ok(()) };
        if self.tiles.root() != signed.root {
            return Err(OpenError::Rewritten { covered: signed.size, index: self.first_contradicted() });
        }
        self.signed = None;
        for (id, hashes) in std::mem::take(&mut self.contradicting) {
            self.keep(id, hashes)?;
        }
        for (id, hashes) in self.tiles.partials() {
            self.folder.write(id, &hashes)?;
        }
        Ok(())
    }

    /// The first entry that is not the one whose hash stands in the tiles.
    fn first_contradicted(&self) -> Option<u64> {
        let partial = self.tiles.partials();
        let leaves = self.contradicting.iter().chain(&partial).filter(|(id, _)| id.level == 0);
        let differs = |(id, ours): &(TileId, Vec<Hash>)| {
            let theirs = self.folder.tile(id.level, id.index, id.width).ok()?;
            let at = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs)?;
            Some(id.index * u64::from(crate::tile::TILE_WIDTH) + at as u64)
        };
        leaves.filter_map(differs).min()
    }
}

const TOLD_EVERY: Duration = Duration::from_secs(5);
/// More are damage beyond what is worth keeping.
const CONTRADICTING_MAX: usize = 1024;
