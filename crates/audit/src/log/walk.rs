//! One segment's entries, one after the other.

use super::form::Form;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// What stands where the next entry is looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Entry(&'a [u8]),
    /// A length of zero, or the file's end.
    End,
    /// Something that is no whole entry.
    Cut,
}

#[derive(Debug)]
pub(super) struct Walk {
    file: File,
    /// Of the next entry.
    offset: u64,
    /// Holds `buffer[start..end]`, which stands at `offset`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Walk {
    pub(super) fn from(file: File, offset: u64) -> Self {
        Self { file, offset, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// Behind the last whole entry.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Forgets what was read ahead: more was written since.
    pub(super) fn refresh(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    pub(super) fn step(&mut self, form: &dyn Form) -> io::Result<Step<'_>> {
        self.ahead(LENGTH_BYTES)?;
        let length = match self.buffer.get(self.start..self.end).unwrap_or_default() {
            [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            [] | [0] => 0,
            [_] => return Ok(Step::Cut),
        };
        if length == 0 {
            return Ok(Step::End);
        }
        let whole = LENGTH_BYTES + length;
        self.ahead(whole)?;
        let entry = self.buffer.get(self.start..self.end).and_then(|bytes| bytes.get(LENGTH_BYTES..whole));
        match entry {
            Some(entry) if form.is_entry(entry) => {
                self.start += whole;
                self.offset += whole as u64;
                Ok(Step::Entry(entry))
            }
            Some(_) | None => Ok(Step::Cut),
        }
    }

    /// Reads until so many bytes are there, or the file ends.
    fn ahead(&mut self, wanted: usize) -> io::Result<()> {
        if self.end - self.start >= wanted {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < wanted {
            let space = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.file.read_at(space, self.offset + self.end as u64) {
                Ok(0) => return Ok(()),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Of an entry's length, which stands before it.
pub(super) const LENGTH_BYTES: usize = 2;
/// More than the longest entry.
const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::{TestForm, entry};

    fn walked(bytes: &[u8]) -> (usize, u64, bool) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let mut walk = Walk::from(file, 0);
        let mut count = 0;
        loop {
            match walk.step(&TestForm).unwrap() {
                Step::Entry(found) => assert_eq!(found, entry(count)),
                Step::End => return (count, walk.offset(), true),
                Step::Cut => return (count, walk.offset(), false),
            }
            count += 1;
        }
    }

    #[test]
    fn every_whole_entry_is_found_and_nothing_else_wherever_the_file_ends() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for number in 0..4 {
            let entry = entry(number);
            bytes.extend(u16::try_from(entry.len()).unwrap().to_be_bytes());
            bytes.extend(entry);
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let rest = &bytes[ends[whole]..cut];
            for zeros in [0, 1, 100_000] {
                let mut torn = bytes[..cut].to_vec();
                torn.extend(std::iter::repeat_n(0, zeros));
                let ended = rest.iter().all(|byte| *byte == 0);
                assert_eq!(walked(&torn), (whole, ends[whole] as u64, ended), "{cut} {zeros}");
            }
        }
        // one bit, wherever it stands
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(walked(&flipped).0, ends.iter().filter(|end| **end <= at).count() - 1, "{at}");
        }
    }

    #[test]
    fn more_entries_than_the_buffer_holds_are_found() {
        let mut bytes = Vec::new();
        for number in 0..20_000 {
            let entry = entry(number);
            bytes.extend(u16::try_from(entry.len()).unwrap().to_be_bytes());
            bytes.extend(entry);
        }
        assert!(bytes.len() > BUFFER_BYTES);
        assert_eq!(walked(&bytes), (20_000, bytes.len() as u64, true));
    }
}
