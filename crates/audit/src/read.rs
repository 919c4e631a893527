//! Reads a log's entries, also beside a writer that is at work.
//!
//! On disk an entry is its length (16 bits, big endian) and its bytes, as in an entry bundle (c2sp.org/tlog-tiles, "Log
//! entries"); a segment holds 65,536 of them, and a length of zero, or the file's end, is where it ends for now.
//!
//! Always: an entry is told with its index; memory holds one buffer, never a segment.
//! Never: a file made, written or locked; an entry believed, which is [`crate::verify`]'s.

mod archive;
mod folder;
mod memory;
#[cfg(test)]
pub(crate) mod rig;

pub use archive::WithArchive;
pub(crate) use folder::SEGMENTS;
pub use folder::{CHECKPOINT, LogFolder, PERSONAL, VERIFIER_KEY, verifier_key};
pub use memory::LogMemory;

use crate::tile::TileReader;
use std::io;

/// Entries of a full segment: a whole number of entry bundles, and of level-0 tiles.
pub const SEGMENT_ENTRIES: u64 = 1 << 16;

/// More is no checkpoint: a body of three lines, and a signature line for the log and for each witness.
pub const CHECKPOINT_BYTES_MAX: u64 = 1 << 20;

/// The files of one log: a folder, or bytes that stand for one.
pub trait LogSource: TileReader {
    /// A segment for reading; `None` where there is none.
    fn segment(&self, number: u64) -> io::Result<Option<Box<dyn ReadAt>>>;

    /// The segments that there are, in order.
    fn segments(&self) -> io::Result<Vec<u64>>;

    /// The first segment that the log itself has: what stood before it was removed.
    fn first(&self) -> io::Result<u64> {
        Ok(self.segments()?.first().copied().unwrap_or(0))
    }

    /// The newest checkpoint, a signed note of at most [`CHECKPOINT_BYTES_MAX`]; `None` where none was signed yet.
    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>>;

    /// The partial tiles that stand beside tile `index` of `level`, by their widths.
    fn partials(&self, level: u8, index: u64) -> io::Result<Vec<u16>>;
}

impl<S: LogSource + ?Sized> LogSource for &S {
    fn segment(&self, number: u64) -> io::Result<Option<Box<dyn ReadAt>>> {
        (**self).segment(number)
    }

    fn segments(&self) -> io::Result<Vec<u64>> {
        (**self).segments()
    }

    fn first(&self) -> io::Result<u64> {
        (**self).first()
    }

    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        (**self).checkpoint()
    }

    fn partials(&self, level: u8, index: u64) -> io::Result<Vec<u16>> {
        (**self).partials(level, index)
    }
}

/// A segment's bytes. As with a file's, reading behind the end gives none.
pub trait ReadAt: std::fmt::Debug {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("segment {segment} cannot be read")]
    Io {
        segment: u64,
        #[source]
        source: io::Error,
    },
    /// A writer may be about to add the rest.
    #[error("entry {index} is cut off: its segment ends within it")]
    Cut { index: u64 },
    #[error("entry {index} is missing: its segment ends before or within it, and a later one goes on")]
    Missing { index: u64 },
    #[error("behind entry {index}, the last of its segment, stands more")]
    Surplus { index: u64 },
}

/// A log that is read.
#[derive(Debug)]
pub struct LogReader<S> {
    source: S,
}

impl<S: LogSource> LogReader<S> {
    pub fn over(source: S) -> Self {
        Self { source }
    }

    pub fn source(&self) -> &S {
        &self.source
    }

    /// How many entries there are. Walks the last segment that has any.
    pub fn size(&self) -> Result<u64, ReadError> {
        let segments = self.source.segments().map_err(|source| ReadError::Io { segment: 0, source })?;
        for number in segments.into_iter().rev() {
            let first = number.saturating_mul(SEGMENT_ENTRIES);
            if starts(&self.source, number)? {
                let mut entries = Entries::at_segment(&self.source, first);
                loop {
                    match entries.read() {
                        Ok(Some((index, _))) if index + 1 == first + SEGMENT_ENTRIES => return Ok(index + 1),
                        Ok(Some(_)) => {}
                        Ok(None) | Err(ReadError::Cut { .. }) => return Ok(entries.index()),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(0)
    }

    /// The first entry that the log itself has: those before it were removed.
    pub fn first(&self) -> Result<u64, ReadError> {
        let first = self.source.first().map_err(|source| ReadError::Io { segment: 0, source })?;
        Ok(first.saturating_mul(SEGMENT_ENTRIES))
    }

    /// One entry. Walks its segment.
    pub fn entry(&self, index: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let mut entries = self.iter_from(index)?;
        let found = entries.read()?;
        Ok(found.filter(|(found, _)| *found == index).map(|(_, entry)| entry.to_vec()))
    }

    /// The entries from `index` on; where there are fewer, those that come behind the last.
    pub fn iter_from(&self, index: u64) -> Result<Entries<'_, S>, ReadError> {
        let mut entries = Entries::at_segment(&self.source, index);
        while entries.index() < index && entries.read()?.is_some() {}
        Ok(entries)
    }

    /// The entries from a place on that was found before. Walks nothing.
    pub fn iter_at(&self, place: Place) -> Result<Entries<'_, S>, ReadError> {
        let mut entries = Entries::at_segment(&self.source, place.index);
        // where a segment begins, the one before it may have been removed meanwhile
        if !place.index.is_multiple_of(SEGMENT_ENTRIES) {
            entries.go_to(place)?;
        }
        Ok(entries)
    }
}

/// Entries one after the other. At the end it may be asked again: a writer adds more.
#[derive(Debug)]
pub struct Entries<'a, S> {
    source: &'a S,
    segment: Option<(u64, Box<dyn ReadAt>)>,
    /// Of the entry that is next, which begins at `start` of the buffer.
    index: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in its segment the buffer begins.
    offset: u64,
}

/// Where an entry begins.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    index: u64,
    segment: Option<u64>,
    offset: u64,
}

impl Place {
    pub fn index(&self) -> u64 {
        self.index
    }
}

impl<'a, S: LogSource> Entries<'a, S> {
    /// From the start of the segment that holds `index`.
    fn at_segment(source: &'a S, index: u64) -> Self {
        let index = index - index % SEGMENT_ENTRIES;
        let buffer = vec![0; BUFFER_BYTES];
        Self { source, segment: None, index, buffer, start: 0, end: 0, offset: 0 }
    }

    /// Of the entry that comes next.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The next entry with its index; `None` at the end, for now. After an error it may be asked again.
    pub fn read(&mut self) -> Result<Option<(u64, &[u8])>, ReadError> {
        if !self.enter_segment()? {
            return Ok(None);
        }
        let mut length = self.length()?;
        if length == 0 {
            // the buffer may be older than what was written since
            self.forget();
            length = self.length()?;
        }
        if length == 0 {
            return self.end().map(|()| None);
        }
        let whole = LENGTH_BYTES + length;
        if self.available(whole)?.len() < whole {
            return self.cut();
        }
        let index = self.index;
        let from = self.start + LENGTH_BYTES;
        self.start += whole;
        self.index += 1;
        Ok(self.buffer.get(from..from + length).map(|entry| (index, entry)))
    }

    /// Of the next entry: from there it can be read anew, for a writer may have been in the middle of it.
    pub fn place(&self) -> Place {
        let segment = self.segment.as_ref().map(|(number, _)| *number);
        Place { index: self.index, segment, offset: self.offset + self.start as u64 }
    }

    /// The next entry is the one that was next there.
    pub fn go_to(&mut self, place: Place) -> Result<(), ReadError> {
        if self.segment.as_ref().map(|(number, _)| *number) != place.segment {
            self.segment = match place.segment {
                None => None,
                Some(segment) => {
                    let opened = self.source.segment(segment).map_err(|source| ReadError::Io { segment, source })?;
                    Some((segment, opened.ok_or(ReadError::Missing { index: place.index })?))
                }
            };
        }
        (self.index, self.offset, self.start, self.end) = (place.index, place.offset, 0, 0);
        Ok(())
    }

    /// Of the next entry; zero where there is none.
    fn length(&mut self) -> Result<usize, ReadError> {
        match *self.available(LENGTH_BYTES)? {
            [high, low, ..] => Ok(usize::from(u16::from_be_bytes([high, low]))),
            [] | [0] => Ok(0),
            [_] => self.cut(),
        }
    }

    /// Opens the segment that the next entry is in. False where there is none yet.
    fn enter_segment(&mut self) -> Result<bool, ReadError> {
        let wanted = self.index / SEGMENT_ENTRIES;
        if self.segment.as_ref().is_some_and(|(number, _)| *number == wanted) {
            return Ok(true);
        }
        if self.segment.is_some() && self.available(LENGTH_BYTES)?.iter().any(|byte| *byte != 0) {
            return Err(ReadError::Surplus { index: self.index - 1 });
        }
        let opened = self.source.segment(wanted).map_err(|source| ReadError::Io { segment: wanted, source })?;
        let Some(opened) = opened else {
            self.forget();
            return if self.goes_on_behind(wanted)? {
                Err(ReadError::Missing { index: self.index })
            } else {
                Ok(false)
            };
        };
        self.segment = Some((wanted, opened));
        (self.start, self.end, self.offset) = (0, 0, 0);
        Ok(true)
    }

    /// The segment has no more entries: the log's end, unless a later one has some.
    fn end(&mut self) -> Result<(), ReadError> {
        self.forget();
        if !self.goes_on_behind(self.index / SEGMENT_ENTRIES)? {
            return Ok(());
        }
        // a writer that began the next one meanwhile has filled this one before
        let filled = self.available(LENGTH_BYTES)?.iter().take(LENGTH_BYTES).any(|byte| *byte != 0);
        self.forget();
        if filled { Ok(()) } else { Err(ReadError::Missing { index: self.index }) }
    }

    fn goes_on_behind(&self, number: u64) -> Result<bool, ReadError> {
        let there = self.source.segments().map_err(|source| ReadError::Io { segment: number, source })?;
        for later in there.into_iter().filter(|later| *later > number) {
            if starts(self.source, later)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segment ends within the entry: the log's end, unless a later one has some.
    fn cut<T>(&mut self) -> Result<T, ReadError> {
        self.forget();
        let index = self.index;
        let over = self.goes_on_behind(index / SEGMENT_ENTRIES)?;
        // as at the end: what was written meanwhile is whole
        let missing = over && !self.is_whole()?;
        self.forget();
        Err(if missing { ReadError::Missing { index } } else { ReadError::Cut { index } })
    }

    /// All of the next entry is there.
    fn is_whole(&mut self) -> Result<bool, ReadError> {
        let [high, low, ..] = *self.available(LENGTH_BYTES)? else { return Ok(false) };
        let whole = LENGTH_BYTES + usize::from(u16::from_be_bytes([high, low]));
        Ok(self.available(whole)?.len() >= whole)
    }

    /// What is read next is read from the segment, not from the buffer.
    fn forget(&mut self) {
        self.offset += self.start as u64;
        (self.start, self.end) = (0, 0);
    }

    /// The bytes at hand from the next entry on: `wanted` of them, or as many as there are.
    fn available(&mut self, wanted: usize) -> Result<&[u8], ReadError> {
        if self.end - self.start < wanted
            && let Some((number, segment)) = &self.segment
        {
            self.buffer.copy_within(self.start..self.end, 0);
            self.offset += self.start as u64;
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < wanted {
                let room = self.buffer.get_mut(self.end..).unwrap_or_default();
                let read = segment.read_at(room, self.offset + self.end as u64);
                match read.map_err(|source| ReadError::Io { segment: *number, source })? {
                    0 => break,
                    read => self.end += read,
                }
            }
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }
}

/// Does the segment have an entry at all? One that is made ahead has none.
fn starts(source: &impl LogSource, number: u64) -> Result<bool, ReadError> {
    let io = |source| ReadError::Io { segment: number, source };
    let Some(segment) = source.segment(number).map_err(io)? else { return Ok(false) };
    let mut first = [0; LENGTH_BYTES];
    let read = segment.read_at(&mut first, 0).map_err(io)?;
    Ok(first.iter().take(read).any(|byte| *byte != 0))
}

const LENGTH_BYTES: usize = 2;

/// Holds the longest entry, 65,535 bytes; large enough that a read costs little beside what is read.
const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
