//! The tree at start: read from its tiles where they can be trusted, made anew from the entries where not.
//!
//! Always: the tree that goes on leads to the newest checkpoint.
//! Never: one of the first 1,024 tiles that the entries contradict overwritten before the checkpoint has said which of the two
//! is right. Of more, nothing is kept.

use super::segment::{self, SEGMENTS};
use super::walk::{Step, Walk};
use super::{OpenError, Place};
use crate::checkpoint::Checkpoint;
use crate::tile::{Derived, TileFolder, TileId, TileReader, Tiles};
use envelope::merkle::{Hash, leaf_hash};
use std::fs::File;

/// The tree over all `size` entries, of which those before `first` were pruned. Goes on at the segment of the newest
/// checkpoint, or at the first whose tiles may not be on the disk (`marked`); where that does not lead to the checkpoint, at
/// the beginning. Also: below what the tiles are on the disk.
pub(super) fn grow(
    place: &Place,
    first: u64,
    size: u64,
    marked: u64,
    signed: Option<&Checkpoint>,
) -> Result<(Tiles, u64), OpenError> {
    let folder = TileFolder::new(&place.dir);
    let trusted = signed.map_or(0, |signed| signed.size).min(marked);
    let from = (trusted / place.entries_max * place.entries_max).max(first);
    if from > 0 {
        let resumed = Tiles::resume(&Derived(&folder), from).map_err(OpenError::from);
        match resumed.and_then(|tiles| Rebuild::new(place, tiles, signed).run(size)) {
            Err(error @ (OpenError::Tiles(_) | OpenError::Rewritten { .. })) if first == 0 => {
                tracing::warn!(%error, "the audit log's tiles are made anew from its entries");
            }
            outcome => return Ok((outcome?, marked.min(from))),
        }
    }
    Ok((Rebuild::new(place, Tiles::default(), signed).run(size)?, 0))
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
        while self.tiles.size() < size {
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
        Ok(self.tiles)
    }

    fn keep(&mut self, id: TileId, hashes: Vec<Hash>) -> Result<(), OpenError> {
        match self.folder.tile(id.level, id.index, id.width) {
            Ok(found) if found == hashes => return Ok(()),
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

/// More are damage beyond what is worth keeping.
const CONTRADICTING_MAX: usize = 1024;
