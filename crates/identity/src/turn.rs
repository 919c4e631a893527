//! Turns: what is counted or rewritten by many at once is done so one after the other within a process. Other processes are
//! told by the store's revisions; a turn only spares tries.

use std::hash::{BuildHasher, RandomState};
use tokio::sync::{Mutex, MutexGuard};

/// Locks over which keys are spread: who has one waits for all whose keys share it, so nobody holds two.
#[derive(Debug)]
pub struct Turns {
    locks: [Mutex<()>; TURNS],
    spread: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { locks: std::array::from_fn(|_| Mutex::new(())), spread: RandomState::new() }
    }
}

impl Turns {
    /// For what stands under `key`, until the guard drops.
    pub async fn of(&self, key: impl AsRef<[u8]>) -> Option<MutexGuard<'_, ()>> {
        let spread = self.spread.hash_one(key.as_ref()) % TURNS as u64;
        match usize::try_from(spread).ok().and_then(|spread| self.locks.get(spread)) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }
}

const TURNS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_key_waits_for_itself_and_keys_are_spread() {
        let turns = Turns::default();
        let held = turns.of("a").await;
        assert!(held.is_some());
        let again = async || tokio::time::timeout(Duration::from_millis(20), turns.of("a")).await.is_ok();
        assert!(!again().await);
        drop(held);
        assert!(again().await);
        let mut held = Vec::new();
        for n in 0..1000u32 {
            // who shares a lock that is held is passed over
            held.extend(tokio::time::timeout(Duration::ZERO, turns.of(n.to_be_bytes())).await.ok().flatten());
        }
        assert!(held.len() > TURNS / 2, "{}", held.len());
    }
}
