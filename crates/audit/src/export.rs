//! A log as any tool of the ecosystem reads it: the layout of c2sp.org/tlog-tiles, entry bundles included.
//!
//! Always: made from the entries alone, of exactly the signed size; the checkpoint comes last, when all it speaks of is there.
//! Never: an export of entries that do not lead to the signed root.

use crate::checkpoint::Checkpoint;
use crate::note::VerifierKey;
use crate::read::{CHECKPOINT, LogReader, LogSource, ReadError};
use crate::tile::{TILE_WIDTH, TileId, Tiles, entries_path};
use crate::verify::{Fault, open_checkpoint};
use envelope::merkle::{Hash, leaf_hash};
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(
        "the entries do not lead to the signed root: nothing was exported, and `audit verify` tells where they differ"
    )]
    NotSigned,
    #[error("{path} was not written")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io { .. } => Self::Fault(error.into()),
            // signed entries are not there
            ReadError::Cut { .. } | ReadError::Missing { .. } | ReadError::Surplus { .. } => Self::NotSigned,
        }
    }
}

/// Writes the log's files by their paths under its prefix, each once; of entries that were removed the hashes alone ("Pruning"). `progress` hears how many entries are done.
pub fn tlog<S: LogSource>(
    log: &LogReader<S>,
    key: &VerifierKey,
    write: &mut dyn FnMut(&str, &[u8]) -> io::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<Checkpoint, ExportError> {
    let note = log.source().checkpoint().map_err(Fault::CheckpointIo)?;
    let note = note.ok_or(Fault::NoCheckpoint { entries: 0 })?;
    let checkpoint = open_checkpoint(&note, key)?;
    let mut out = Out { write };
    let mut tiles = Tiles::default();
    // "Log entries": a bundle holds the entries of the level-0 tile of the same number
    let mut bundle = Vec::new();
    let removed = log.first()?.min(checkpoint.size);
    for tile in 0..removed / WIDTH {
        let hashes = log.source().tile(0, tile, TILE_WIDTH).map_err(Fault::TileIo)?;
        hashes.into_iter().for_each(|hash| tiles.push(hash));
        out.tiles(tiles.take_full())?;
    }
    let mut entries = log.iter_from(removed)?;
    while tiles.size() < checkpoint.size {
        let Some((index, entry)) = entries.read()? else { return Err(ExportError::NotSigned) };
        let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        bundle.extend(length.to_be_bytes());
        bundle.extend(entry);
        tiles.push(leaf_hash(entry));
        if tiles.size().is_multiple_of(WIDTH) {
            out.file(&entries_path(index / WIDTH, TILE_WIDTH), &bundle)?;
            bundle.clear();
            out.tiles(tiles.take_full())?;
            progress(tiles.size());
        }
    }
    if tiles.root() != checkpoint.root {
        return Err(ExportError::NotSigned);
    }
    if let Ok(width @ 1..) = u16::try_from(checkpoint.size % WIDTH) {
        out.file(&entries_path(checkpoint.size / WIDTH, width), &bundle)?;
    }
    out.tiles(tiles.partials())?;
    out.file(CHECKPOINT, &note)?;
    Ok(checkpoint)
}

struct Out<'a> {
    write: &'a mut dyn FnMut(&str, &[u8]) -> io::Result<()>,
}

impl Out<'_> {
    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        (self.write)(path, bytes).map_err(|source| ExportError::Write { path: path.to_owned(), source })
    }

    fn tiles(&mut self, tiles: Vec<(TileId, Vec<Hash>)>) -> Result<(), ExportError> {
        tiles.into_iter().try_for_each(|(id, hashes)| self.file(&id.path(), hashes.as_flattened()))
    }
}

const WIDTH: u64 = TILE_WIDTH as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::rig::{Signer, entries, segments, tiles};
    use std::collections::BTreeMap;

    fn exported(log: crate::read::LogMemory) -> (Result<Checkpoint, ExportError>, BTreeMap<String, Vec<u8>>) {
        let mut files = BTreeMap::new();
        let mut write = |path: &str, bytes: &[u8]| {
            assert!(files.insert(path.to_owned(), bytes.to_vec()).is_none(), "{path} was written twice");
            Ok(())
        };
        let outcome = tlog(&LogReader::over(log), &Signer::new().key, &mut write, &mut |_| {});
        (outcome, files)
    }

    #[test]
    fn an_export_is_exactly_the_signed_log() {
        let signer = Signer::new();
        let all = entries(600);
        for signed in [0, 1, 255, 256, 257, 600] {
            let log = signer.log(&all, signed);
            let note = log.checkpoint.clone().unwrap();
            let (checkpoint, files) = exported(log);
            assert_eq!(checkpoint.unwrap(), signer.checkpoint(&all[..signed]));
            let mut expected: BTreeMap<String, Vec<u8>> = tiles(&all[..signed])
                .into_iter()
                .map(|(id, hashes)| (id.path(), hashes.as_flattened().to_vec()))
                .collect();
            for (number, bundle) in (0..).zip(all[..signed].chunks(256)) {
                let width = u16::try_from(bundle.len()).unwrap();
                let bytes = segments(bundle).remove(&0).unwrap();
                expected.insert(entries_path(number, width), bytes[..bytes.len() - 64].to_vec());
            }
            expected.insert("checkpoint".to_owned(), note);
            assert_eq!(files.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{signed}");
            assert!(files == expected, "{signed}");
        }
    }

    #[test]
    fn entries_that_were_not_signed_are_not_exported() {
        let signer = Signer::new();
        let all = entries(300);
        let mut altered = signer.log(&all, 300);
        altered.segments = segments(&[&all[..100], &all[101..]].concat());
        let mut reordered = signer.log(&all, 300);
        reordered.segments = segments(&[&all[1..], &all[..1]].concat());
        for log in [altered, reordered] {
            let (outcome, files) = exported(log);
            assert!(matches!(outcome, Err(ExportError::NotSigned)));
            assert!(!files.contains_key("checkpoint"));
        }
        let mut cut = signer.log(&all, 300);
        cut.segments.insert(0, cut.segments[&0].slice(..2000));
        assert!(matches!(exported(cut).0, Err(ExportError::NotSigned)));
        let mut unsigned = signer.log(&all, 300);
        unsigned.checkpoint = None;
        assert!(matches!(exported(unsigned).0, Err(ExportError::Fault(Fault::NoCheckpoint { .. }))));
    }
}
