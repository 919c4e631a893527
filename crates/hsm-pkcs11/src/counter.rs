//! Invocations of AES-GCM keys with random IVs (SP 800-38D §8.3): counted in the token, in blocks.
//!
//! Always: a block is durable in the token before its first invocation; what a stopped process had left of its block is
//! forfeited. Never: an encryption under a key whose counter is missing or damaged: that counts as used up.
//!
//! Two processes on one token may take the same block. That doubles a key's true count at most, and the limit is half of
//! the standard's 2^32.

use crate::device::Link;
use crate::error::Fault;
use crate::library::lock;
use crate::store::{self, Stored};
use hsm_api::HsmError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Invocations of one block.
pub const BLOCK: u64 = 1 << 16;
/// From here on the status advises to rotate.
pub const ADVISED_AT: u64 = 1 << 30;
/// From here on the key encrypts no more.
pub const REFUSED_AT: u64 = 1 << 31;

/// The counters of all keys that this process encrypted with.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<[u8; 16], Arc<Mutex<Counter>>>>);

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
        let counter = Arc::clone(lock(&self.0).entry(*cka_id).or_default());
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

    /// Keys of this process that should be rotated.
    pub(crate) fn advised(&self) -> usize {
        let all: Vec<_> = lock(&self.0).values().cloned().collect();
        // one that is at work in the token is not waited for
        let stored = all.iter().filter_map(|counter| counter.try_lock().ok().and_then(|counter| counter.stored));
        stored.filter(|stored| stored.upto >= ADVISED_AT).count()
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
