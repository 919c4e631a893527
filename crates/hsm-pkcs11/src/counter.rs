//! Invocations of AES-GCM keys with random IVs (SP 800-38D §8.3): counted in the token, in blocks.
//!
//! Always: a block is durable in the token before its first invocation; what a stopped process had left of its block is
//! forfeited. Never: an encryption under a key whose counter is missing or damaged: that counts as used up.
//!
//! Always: what is remembered of keys is bounded. A key that was not used lately is forgotten as by a stopped process: what it
//! had left of its block is forfeited, and its next invocation takes the block after that.
//!
//! Two processes on one token may take the same block. That doubles a key's true count at most, and the limit is half of
//! the standard's 2^32.

use crate::device::Link;
use crate::error::Fault;
use crate::library::lock;
use crate::store::{self, Stored};
use hsm_api::HsmError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Invocations of one block.
pub const BLOCK: u64 = 1 << 16;
/// From here on the status advises to rotate.
pub const ADVISED_AT: u64 = 1 << 30;
/// From here on the key encrypts no more.
pub const REFUSED_AT: u64 = 1 << 31;

/// The counters of the keys that this process encrypted with lately.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    counters: BTreeMap<[u8; 16], Kept>,
    /// Their keys, each once: whose turn it is to be forgotten unless it was used meanwhile.
    turns: VecDeque<[u8; 16]>,
}

#[derive(Debug)]
struct Kept {
    counter: Arc<Mutex<Counter>>,
    used: bool,
}

#[derive(Debug, Default)]
struct Counter {
    /// `None` until it was read from the token.
    stored: Option<Reserved>,
    left: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reserved {
    sequence: u64,
    upto: u64,
}

impl Counters {
    /// The first counter of a key that is about to be made.
    pub(crate) fn found(link: &mut Link<'_>, cka_id: &[u8; 16]) -> Result<(), Fault> {
        store::write(link, &name(cka_id), 0, &0u64.to_be_bytes()).map(drop)
    }

    /// Takes `n` invocations of a key, from the block at hand or a new one.
    pub(crate) fn take(&self, link: &mut Link<'_>, cka_id: &[u8; 16], n: u64) -> Result<(), Fault> {
        let counter = lock(&self.0).of(cka_id, KEYS_MAX);
        let mut counter = lock(&counter);
        if counter.left < n {
            let last = match counter.stored {
                Some(last) => last,
                None => read(link, cka_id)?,
            };
            let upto = last.upto.saturating_add(BLOCK);
            if upto > REFUSED_AT {
                return Err(HsmError::InvocationsExhausted.into());
            }
            // not known until the write has returned
            counter.stored = None;
            let sequence = store::write(link, &name(cka_id), last.sequence, &upto.to_be_bytes())?;
            counter.stored = Some(Reserved { sequence, upto });
            counter.left = counter.left.saturating_add(BLOCK);
        }
        counter.left -= n;
        Ok(())
    }

    /// Keys that should be rotated, of those that are remembered.
    pub(crate) fn advised(&self) -> usize {
        let remembered = lock(&self.0);
        // one that is at work in the token is not waited for
        let stored = remembered.counters.values().filter_map(|kept| kept.counter.try_lock().ok()?.stored);
        stored.filter(|stored| stored.upto >= ADVISED_AT).count()
    }
}

impl Remembered {
    /// A key's counter, one for all who ask as long as one of them holds it.
    fn of(&mut self, cka_id: &[u8; 16], keys_max: usize) -> Arc<Mutex<Counter>> {
        if let Some(kept) = self.counters.get_mut(cka_id) {
            kept.used = true;
            return Arc::clone(&kept.counter);
        }
        self.make_room(keys_max);
        let counter = Arc::<Mutex<Counter>>::default();
        self.counters.insert(*cka_id, Kept { counter: Arc::clone(&counter), used: false });
        self.turns.push_back(*cka_id);
        counter
    }

    /// Whoever is at work holds its counter, and there are no more of those than sessions: beyond the limit by so many at most.
    fn make_room(&mut self, keys_max: usize) {
        // twice around, and everybody's use was forgotten
        for _ in 0..self.turns.len() * 2 {
            if self.counters.len() < keys_max {
                return;
            }
            let Some(next) = self.turns.pop_front() else { return };
            let Some(kept) = self.counters.get_mut(&next) else { continue };
            if std::mem::take(&mut kept.used) || Arc::strong_count(&kept.counter) > 1 {
                self.turns.push_back(next);
            } else {
                self.counters.remove(&next);
            }
        }
    }
}

fn read(link: &mut Link<'_>, cka_id: &[u8; 16]) -> Result<Reserved, Fault> {
    match store::read(link, &name(cka_id))? {
        Stored::Whole(record) => {
            let upto = record.body.as_slice().try_into().map(u64::from_be_bytes);
            Ok(Reserved { sequence: record.sequence, upto: upto.map_err(|_| HsmError::InvocationsExhausted)? })
        }
        Stored::Missing => {
            link.prove_alive_now()?;
            tracing::error!("a key's counter of invocations is missing: the key encrypts no more");
            Err(HsmError::InvocationsExhausted.into())
        }
        Stored::Damaged => {
            tracing::error!("a key's counter of invocations is damaged: the key encrypts no more");
            Err(HsmError::InvocationsExhausted.into())
        }
    }
}

fn name(cka_id: &[u8; 16]) -> String {
    format!("invocations/{:032x}", u128::from_be_bytes(*cka_id))
}

/// Some 10 MiB. A key that comes and goes loses a block of the 2^15 that it has, so this is far above what is used at a time.
const KEYS_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> [u8; 16] {
        u128::from(number).to_be_bytes()
    }

    fn reserve(counter: &Mutex<Counter>, upto: u64) {
        *lock(counter) = Counter { stored: Some(Reserved { sequence: 1, upto }), left: 9 };
    }

    fn left(remembered: &mut Remembered, number: u32) -> u64 {
        lock(&remembered.of(&id(number), 4)).left
    }

    #[test]
    fn what_is_remembered_of_keys_is_bounded() {
        let mut remembered = Remembered::default();
        for number in 0..1000 {
            reserve(&remembered.of(&id(number), 4), BLOCK);
            assert!(remembered.counters.len() <= 4 && remembered.turns.len() <= 4, "{number}");
        }
        // whose block is known no more reads it from the token, and takes the next
        let counter = remembered.of(&id(0), 4);
        assert!(lock(&counter).stored.is_none() && lock(&counter).left == 0);
    }

    #[test]
    fn a_key_that_is_used_again_and_again_is_remembered() {
        let mut remembered = Remembered::default();
        reserve(&remembered.of(&id(0), 4), BLOCK);
        for number in 1..1000 {
            reserve(&remembered.of(&id(number), 4), BLOCK);
            assert_eq!(left(&mut remembered, 0), 9, "{number}");
        }
    }

    /// Else two would take the same block.
    #[test]
    fn a_counter_that_somebody_holds_is_never_forgotten() {
        let mut remembered = Remembered::default();
        let held: Vec<_> = (0..8).map(|number| remembered.of(&id(number), 4)).collect();
        assert_eq!(remembered.counters.len(), 8, "beyond the limit, as all are at work");
        for number in 100..1000 {
            remembered.of(&id(number), 4);
        }
        for (number, counter) in (0..).zip(&held) {
            assert!(Arc::ptr_eq(counter, &remembered.of(&id(number), 4)), "{number}");
        }
        drop(held);
        remembered.of(&id(2000), 4);
        assert!(remembered.counters.len() <= 4, "{}", remembered.counters.len());
    }

    #[test]
    fn advice_counts_keys_that_are_past_the_mark() {
        let counters = Counters::default();
        for (number, upto) in [(0, ADVISED_AT - 1), (1, ADVISED_AT), (2, REFUSED_AT)] {
            reserve(&lock(&counters.0).of(&id(number), KEYS_MAX), upto);
        }
        assert_eq!(counters.advised(), 2);
    }
}
