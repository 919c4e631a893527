//! What the boundary was asked to sign last, so that after a crash the log knows where the boundary stands.
//!
//! Two places are written in turn, so that a torn write spoils the newer one alone.
//!
//! Always: durable before the boundary is asked.

use super::segment::{Hindrance, create, hindrance, synced};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Its name in the log's folder.
const NAME: &str = "signing";

/// Sizes of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asked {
    /// The last that the boundary is known to have signed.
    pub(super) signed: u64,
    /// What it was asked for then. Nobody knows whether it did.
    pub(super) next: u64,
    /// Full tiles below it are on the disk.
    pub(super) tiles: u64,
}

#[derive(Debug)]
pub(super) struct Signing {
    file: File,
    sequence: u64,
}

impl Signing {
    /// Opens it, with what stands in it.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Option<Asked>)> {
        let file = create(&dir.join(NAME))?;
        let newest = newest(&file)?;
        let signing = Self { file, sequence: newest.map_or(0, |(sequence, _)| sequence) };
        if signing.file.metadata()?.len() != PLACES * PLACE_BYTES as u64 {
            signing.file.set_len(PLACES * PLACE_BYTES as u64)?;
            signing.file.sync_all()?;
        }
        Ok((signing, newest.map(|(_, asked)| asked)))
    }

    /// Makes it durable.
    pub(super) fn put(&mut self, asked: Asked) -> Result<(), Hindrance> {
        let sequence = self.sequence + 1;
        let place = (sequence % PLACES) * PLACE_BYTES as u64;
        self.file.write_all_at(&encode(sequence, asked), place).map_err(|error| hindrance(&error))?;
        synced(self.file.sync_data())?;
        self.sequence = sequence;
        Ok(())
    }
}

fn newest(file: &File) -> io::Result<Option<(u64, Asked)>> {
    let mut found = Vec::new();
    for place in 0..PLACES {
        let mut bytes = [0; PLACE_BYTES];
        let read = file.read_at(&mut bytes, place * PLACE_BYTES as u64)?;
        found.extend(bytes.get(..read).and_then(parse));
    }
    Ok(found.into_iter().max_by_key(|(sequence, _)| *sequence))
}

/// What stands in it, untouched.
#[cfg(test)]
pub(super) fn read(dir: &Path) -> Option<Asked> {
    let file = File::open(dir.join(NAME)).ok()?;
    newest(&file).ok()?.map(|(_, asked)| asked)
}

/// A line each, the last a checksum of those before it.
fn encode(sequence: u64, asked: Asked) -> Vec<u8> {
    let Asked { signed, next, tiles } = asked;
    let mut text = format!("{HEADER}\n{sequence}\n{signed}\n{next}\n{tiles}\n");
    text.push_str(&format!("{:08x}\n", crc32fast::hash(text.as_bytes())));
    let mut bytes = text.into_bytes();
    bytes.resize(PLACE_BYTES, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Option<(u64, Asked)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.split('\n');
    let header = lines.next()?;
    let mut number = || lines.next()?.parse().ok();
    let (sequence, asked) = (number()?, Asked { signed: number()?, next: number()?, tiles: number()? });
    (header == HEADER && encode(sequence, asked) == bytes).then_some((sequence, asked))
}

const HEADER: &str = "strongroom audit signing 1";
const PLACES: u64 = 2;
/// A page: no write of one place touches the other.
const PLACE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_place_is_found_whatever_the_other_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let read = || Signing::open(dir.path()).unwrap().1;
        let asked = |n: u64| Asked { signed: n, next: n + 7, tiles: n / 2 };
        assert_eq!(read(), None);
        let mut signing = Signing::open(dir.path()).unwrap().0;
        for n in 1..6 {
            signing.put(asked(n)).unwrap();
            assert_eq!(read(), Some(asked(n)));
            // and goes on there after a restart
            signing = Signing::open(dir.path()).unwrap().0;
        }
        let whole = std::fs::read(&path).unwrap();
        for at in (0..2 * PLACE_BYTES).step_by(3) {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            // the fifth stands in the second place
            assert_eq!(read(), Some(asked(if at < PLACE_BYTES { 5 } else { 4 })), "{at}");
        }
        for cut in [0, 1, 4095, 4096, 5000] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(), (cut >= 4096).then(|| asked(4)), "{cut}");
        }
    }
}
