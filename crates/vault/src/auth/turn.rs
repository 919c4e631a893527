//! Turns: what is counted down or up by many at once is done so one after the other within a process. Other processes are
//! told by the store's revisions; a turn only spares tries.

use tokio::sync::{Mutex, MutexGuard};

/// Locks over which what is counted is spread.
#[derive(Debug)]
pub(crate) struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    /// For what stands under this keyed hash, in hexadecimal.
    pub(crate) async fn of(&self, hash: &str) -> Option<MutexGuard<'_, ()>> {
        let spread = hash.get(..2).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0);
        match self.0.get(spread % TURNS) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }
}

const TURNS: usize = 64;
