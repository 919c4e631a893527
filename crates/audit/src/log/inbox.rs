//! What the tree's thread is told: how many entries are durable, and who wants a proof.

use crate::tile::TileError;
use envelope::merkle::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Somebody waits for the proof that the tree of `size` leaves extends that of `old`.
pub(super) struct ProofWanted {
    pub(super) old: u64,
    pub(super) size: u64,
    pub(super) reply: oneshot::Sender<Result<Vec<Hash>, TileError>>,
}

pub(super) struct Inbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    size: u64,
    proofs: Vec<ProofWanted>,
    /// The tree's thread has nothing to do until it is woken.
    resting: bool,
    ended: bool,
    /// Nobody looks any more.
    gone: bool,
}

/// What is new.
pub(super) struct News {
    pub(super) size: u64,
    pub(super) ended: bool,
    pub(super) proofs: Vec<ProofWanted>,
}

impl Inbox {
    pub(super) fn of(size: u64) -> Self {
        Self { state: Mutex::new(State { size, ..State::default() }), wake: Notify::new() }
    }

    /// From the writer: so many entries are durable.
    pub(super) fn durable(&self, size: u64) {
        let mut state = self.state();
        state.size = size;
        let wake = std::mem::take(&mut state.resting);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Whoever is one too many hears nothing, and his sender is gone.
    pub(super) fn prove(&self, wanted: ProofWanted) {
        let mut state = self.state();
        if !state.gone && state.proofs.len() < PROOFS_MAX {
            state.proofs.push(wanted);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The writer has ended.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.wake.notify_one();
    }

    /// To the tree: what is new.
    pub(super) fn look(&self) -> News {
        let mut state = self.state();
        state.resting = false;
        News { size: state.size, ended: state.ended, proofs: std::mem::take(&mut state.proofs) }
    }

    /// The tree looks for the last time.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.gone = true;
        state.proofs.clear();
    }

    /// Waits until something is new, for a tree that last looked at size `seen`, and that is woken for more entries only where
    /// it has followed those.
    pub(super) async fn news(&self, seen: u64, followed: bool) {
        if !self.rest(seen, followed) {
            self.wake.notified().await;
        }
    }

    /// Tells whether something is new already.
    fn rest(&self, seen: u64, followed: bool) -> bool {
        let mut state = self.state();
        let more = followed && state.size != seen;
        state.resting = followed && !more;
        more
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most proofs that wait.
const PROOFS_MAX: usize = 64;
