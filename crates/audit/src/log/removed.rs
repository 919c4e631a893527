//! What was removed from the log's beginning, as a record in it says, and where that record stands.
//!
//! Always: kept with a signed checkpoint that covers the record, so that no record that somebody adds to a stopped log's end
//! excuses what is missing.

use super::recover::{read_small, replace_durably};
use super::segment::{self, SEGMENTS};
use super::walk::{Step, Walk};
use super::{OpenError, Place};
use crate::checkpoint::{Checkpoint, decimal};
use crate::note::{Note, VerifierKey};
use std::fs::File;
use std::io;
use std::path::Path;

/// Makes durable where the record of the newest removal stands, and the note that covers it.
pub(crate) fn keep(dir: &Path, index: u64, note: &[u8]) -> io::Result<()> {
    replace_durably(dir, NAME, &[format!("{index}\n").as_bytes(), note].concat())
}

/// The signed checkpoint that covers the record of a removal of all entries before `first`. `segments`: those that there are.
pub(super) fn told(
    place: &Place,
    segments: &[u64],
    first: u64,
    newest: Option<&Checkpoint>,
) -> Result<Checkpoint, OpenError> {
    let kept = read_small(&place.dir.join(NAME))?.and_then(|bytes| parse(&bytes, &place.key));
    if let Some((index, signed)) = kept
        && record_at(place, index)?.is_some_and(|end| end >= first)
    {
        return Ok(signed);
    }
    // what tells where it stands was lost: it is looked for, the newest first
    let signed = newest.ok_or(OpenError::Damaged { index: 0 })?;
    for number in segments.iter().rev().copied() {
        if newest_in(place, number, signed.size)?.is_some_and(|end| end >= first) {
            return Ok(signed.clone());
        }
    }
    Err(OpenError::Damaged { index: 0 })
}

fn parse(bytes: &[u8], key: &VerifierKey) -> Option<(u64, Checkpoint)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (index, note) = bytes.split_at_checked(end + 1)?;
    let index = decimal(std::str::from_utf8(index).ok()?.trim_end_matches('\n'))?;
    let checkpoint = Checkpoint::open(&Note::parse(note).ok()?, key).ok()?;
    (index < checkpoint.size).then_some((index, checkpoint))
}

fn record_at(place: &Place, index: u64) -> io::Result<Option<u64>> {
    let (number, within) = (index / place.entries_max, index % place.entries_max);
    let Some(mut walk) = open(place, number)? else { return Ok(None) };
    for _ in 0..within {
        if !matches!(walk.step(&*place.form)?, Step::Entry(_)) {
            return Ok(None);
        }
    }
    Ok(match walk.step(&*place.form)? {
        Step::Entry(entry) => place.form.removed(entry),
        Step::End | Step::Cut => None,
    })
}

/// Of those that are signed.
fn newest_in(place: &Place, number: u64, signed: u64) -> io::Result<Option<u64>> {
    let Some(mut walk) = open(place, number)? else { return Ok(None) };
    let mut newest = None;
    let first = number * place.entries_max;
    for _ in first..signed.min(first + place.entries_max) {
        let Step::Entry(entry) = walk.step(&*place.form)? else { break };
        newest = place.form.removed(entry).or(newest);
    }
    Ok(newest)
}

fn open(place: &Place, number: u64) -> io::Result<Option<Walk>> {
    match File::open(segment::path(&place.dir.join(SEGMENTS), number)) {
        Ok(file) => Ok(Some(Walk::from(file, 0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Its name in the log's folder.
const NAME: &str = "removed";
