//! The removal itself, once its record is signed.

use super::{Removal, RetentionError};
use crate::Log;
use crate::log::removed;
use crate::note::Note;
use crate::proof::Proof;
use crate::read::{LogFolder, LogReader, LogSource as _, SEGMENT_ENTRIES, SEGMENTS};
use crate::verify::open_checkpoint;
use envelope::merkle::leaf_hash;
use std::fs;
use std::path::Path;

/// Removes what the record at `index` of an open log tells, which must be under its signed checkpoint.
pub fn remove(log: &Log, removal: &Removal, index: u64) -> Result<(), RetentionError> {
    let folder = LogFolder::open(log.dir())?;
    let note = folder.checkpoint()?.ok_or(RetentionError::Unrecorded)?;
    let signed = open_checkpoint(&note, log.key()).map_err(|_| RetentionError::Unrecorded)?;
    let reader = LogReader::over(&folder);
    let entry = reader.entry(index)?.ok_or(RetentionError::Unrecorded)?;
    let told = Removal::of_entry(&entry).is_some_and(|told| told == *removal);
    if !told || index >= signed.size || index < removal.end {
        return Err(RetentionError::Unrecorded);
    }
    let parsed = Note::parse(&note).map_err(|_| RetentionError::Unrecorded)?;
    let proof = Proof::prove(&folder, index, signed.size, parsed)?;
    proof.verify(log.key(), &leaf_hash(&entry)).map_err(|_| RetentionError::Unrecorded)?;
    removed::keep(log.dir(), index, &note)?;
    let segments = log.dir().join(SEGMENTS);
    // the oldest first: what a crash leaves has no hole
    for number in removal.first / SEGMENT_ENTRIES..removal.end / SEGMENT_ENTRIES {
        remove_one(&segments, number)?;
    }
    Ok(fs::File::open(&segments)?.sync_all()?)
}

fn remove_one(segments: &Path, number: u64) -> Result<(), RetentionError> {
    match fs::remove_file(segments.join(format!("{number:010}"))) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed?),
    }
}
