//! Whatever is done to the bytes of a log is found, with its place.
//!
//! `STRONGROOM_MUTATIONS` of them, 2,200 if not set; `cargo xtask audit` runs the long form.

use super::*;

/// xorshift64* (Vigna 2014): the same mutations every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// A log, and what must be found of what was done to it.
struct Mutated {
    log: LogMemory,
    expected: Expected,
}

#[derive(Debug)]
enum Expected {
    /// This entry; where told, this is what happened to it.
    Entry(usize, Option<Change>),
    Tile(TileId, usize),
    Checkpoint,
}

struct Mutator<'a> {
    signer: &'a Signer,
    random: Random,
    entries: &'a [Vec<u8>],
    signed: usize,
}

const KINDS: usize = 11;

impl Mutator<'_> {
    fn mutate(&mut self, kind: usize) -> Mutated {
        let mut log = self.signer.log(self.entries, self.signed);
        let mut entries = self.entries.to_vec();
        let index = self.random.below(self.signed);
        let expected = match kind {
            0 => return self.flip(log, index),
            1 => return self.flip_length(log, index),
            2 => {
                entries.remove(index);
                let told = Change::Missing { entries: 1 };
                // the entry that took the last one's place was not signed, or there is none
                let last = index + 1 == self.signed;
                Expected::Entry(index, Some(told).filter(|_| !last))
            }
            3 => {
                let index = self.random.below(self.signed - 1);
                entries.insert(index, entries[index].clone());
                Expected::Entry(index + 1, Some(Change::Inserted { entries: 1 }))
            }
            4 => {
                entries.insert(index, entry(1_000_000));
                Expected::Entry(index, Some(Change::Inserted { entries: 1 }))
            }
            5 => {
                let other = (index + 1 + self.random.below(self.signed - 1)) % self.signed;
                entries.swap(index, other);
                Expected::Entry(index.min(other), Some(Change::Reordered))
            }
            6 => {
                entries.truncate(index);
                Expected::Entry(index, Some(Change::Missing { entries: (self.signed - index) as u64 }))
            }
            7 => {
                entries[index] = entry(1_000_000);
                Expected::Entry(index, Some(Change::Altered))
            }
            8 => {
                let from = self.offset(index);
                let keep = from + 1 + self.random.below(entries[index].len() + 1);
                log.segments.insert(0, log.segments[&0].slice(..keep));
                return Mutated { log, expected: Expected::Entry(index, None) };
            }
            9 => return self.alter_tile(log),
            _ => return self.alter_checkpoint(log),
        };
        log.segments = segments(&entries);
        Mutated { log, expected }
    }

    /// Where the entry's length stands.
    fn offset(&self, index: usize) -> usize {
        self.entries[..index].iter().map(|entry| entry.len() + 2).sum()
    }

    fn flip_at(&mut self, log: &mut LogMemory, at: usize) {
        let mut bytes = log.segments[&0].to_vec();
        bytes[at] ^= 1 << self.random.below(8);
        log.segments.insert(0, bytes.into());
    }

    fn flip(&mut self, mut log: LogMemory, index: usize) -> Mutated {
        let at = self.offset(index) + 2 + self.random.below(self.entries[index].len());
        self.flip_at(&mut log, at);
        Mutated { log, expected: Expected::Entry(index, Some(Change::Altered)) }
    }

    fn flip_length(&mut self, mut log: LogMemory, index: usize) -> Mutated {
        let at = self.offset(index) + self.random.below(2);
        self.flip_at(&mut log, at);
        Mutated { log, expected: Expected::Entry(index, None) }
    }

    fn alter_tile(&mut self, mut log: LogMemory) -> Mutated {
        let ids: Vec<_> = log.tiles.keys().copied().collect();
        let id = ids[self.random.below(ids.len())];
        let position = self.random.below(usize::from(id.width));
        let at = self.random.below(32);
        log.tiles.get_mut(&id).unwrap()[position][at] ^= 1 << self.random.below(8);
        Mutated { log, expected: Expected::Tile(id, position) }
    }

    fn alter_checkpoint(&mut self, mut log: LogMemory) -> Mutated {
        let note = log.checkpoint.as_mut().unwrap();
        let at = self.random.below(note.len());
        note[at] ^= 1 << self.random.below(8);
        Mutated { log, expected: Expected::Checkpoint }
    }
}

#[expect(clippy::print_stdout, reason = "the long form's result")]
fn run(seed: u64, count: usize) {
    let signer = Signer::new();
    let mut random = Random(seed);
    for round in 0..count.div_ceil(KINDS) {
        let there = 2 + random.below(if round % 8 == 0 { 600 } else { 60 });
        let signed = 2.max(there - random.below(3).min(there));
        let entries = entries(there as u64);
        signer.verify(signer.log(&entries, signed)).unwrap();
        let random = Random(seed.wrapping_add(round as u64 * 0x9e37_79b9));
        let mut mutator = Mutator { signer: &signer, random, entries: &entries, signed };
        for kind in 0..KINDS {
            let Mutated { log, expected } = mutator.mutate(kind);
            let place = format!("seed {seed}, round {round}, kind {kind}, {signed} of {there}: {expected:?}");
            let fault = signer.verify(log).expect_err(&place);
            assert!(!fault.to_string().is_empty());
            match expected {
                Expected::Entry(index, change) => {
                    let Fault::Entry { index: found, change: told } = fault else { panic!("{place}: {fault}") };
                    assert_eq!((found, change.unwrap_or(told)), (index as u64, told), "{place}");
                }
                Expected::Tile(id, position) => {
                    let Fault::Tile { tile, position: found } = fault else { panic!("{place}: {fault}") };
                    assert_eq!((tile, found), (id, position as u64), "{place}");
                }
                Expected::Checkpoint => assert!(matches!(fault, Fault::Checkpoint(_)), "{place}: {fault}"),
            }
        }
    }
    let rounds = count.div_ceil(KINDS);
    println!("seed {seed}: {rounds} logs, untouched sound; {} mutations, each found with its place", rounds * KINDS);
}

/// How many mutations each of the two makes.
fn count() -> usize {
    let Some(count) = std::env::var_os("STRONGROOM_MUTATIONS") else { return 1_100 };
    let count: usize = count.to_str().and_then(|count| count.parse().ok()).expect("STRONGROOM_MUTATIONS is a number");
    count.div_ceil(2)
}

#[test]
fn every_mutation_is_found_with_its_place() {
    run(0x5eed, count());
}

#[test]
fn every_other_mutation_is_found_with_its_place() {
    run(0xfeed, count());
}
