//! Receipts: while a batch is made durable, the boundary signs its root, where somebody wants a receipt of one of its entries.
//!
//! The writer asks before it writes and goes on; the boundary's answer is waited for by a task of the runtime whose caller wants
//! it. Whichever comes last, the sync or the signature, gives the receipts out.
//!
//! Always: no receipt leaves before its entry is durable. Everybody who waits is answered, a runtime that ends included.
//! Never: a batch nobody wants a receipt of costs a hash or a signature.

use super::lane::{Answer, Lane, Signatures, deliver};
use super::queue::Item;
use super::{CheckpointSigner, Place, SignError, Standing};
use crate::AuditError;
use crate::receipt::{Batch, SignedBatch};
use envelope::merkle::{Layers, leaf_hash};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

pub(super) struct Receipts {
    place: Arc<Place>,
    /// Asked where the signer at hand gives nothing.
    signer: Arc<dyn CheckpointSigner>,
    standing: watch::Receiver<Standing>,
    /// How many wait for a signature.
    out: Arc<AtomicUsize>,
}

/// Somebody waits for the receipt of a durable entry.
pub(super) struct Wanted {
    /// Its place in the batch.
    pub(super) at: usize,
    pub(super) lane: Arc<Lane>,
    pub(super) slot: u32,
}

/// A batch on its way to the disk, of which receipts are wanted.
pub(super) struct Pending {
    place: Arc<Place>,
    batch: Batch,
    tree: Layers,
    stage: Mutex<Stage>,
    out: Arc<AtomicUsize>,
}

enum Stage {
    /// Neither durable nor signed.
    Neither,
    /// `None` where the boundary gave none.
    Signed(Option<[u8; 64]>),
    /// These wait for the signature.
    Durable(Vec<Wanted>),
    Over,
}

type Answers = Vec<(Arc<Lane>, u32, Answer)>;

impl Receipts {
    pub(super) fn new(
        place: Arc<Place>,
        signer: Arc<dyn CheckpointSigner>,
        standing: watch::Receiver<Standing>,
    ) -> Self {
        Self { place, signer, standing, out: Arc::default() }
    }

    /// Before these are written as the entries from `first` on: asks the boundary where a receipt is wanted, and could be given.
    pub(super) fn ask(&self, first: u64, items: &[Item]) -> Option<Arc<Pending>> {
        let lane = &items.iter().find(|item| item.receipt.is_some())?.lane;
        let asks = self.may_ask();
        let leaf = |item: &Item| item.receipt.as_ref().map_or_else(|| leaf_hash(&item.entry), |wanted| wanted.leaf);
        let tree = Layers::over(items.iter().filter(|_| asks).map(leaf).collect());
        let origin = self.place.key.name().to_owned();
        // a segment is no longer
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let batch = Batch { origin, first, count, root: tree.root() };
        let stage = Mutex::new(if asks { Stage::Neither } else { Stage::Signed(None) });
        let (place, out) = (Arc::clone(&self.place), Arc::clone(&self.out));
        let pending = Arc::new(Pending { place, batch, tree, stage, out });
        if asks {
            let waits = End(Arc::clone(&pending));
            let (lane, place) = (Arc::clone(lane), Arc::clone(&self.place));
            let (own, standing) = (Arc::clone(&self.signer), self.standing.clone());
            let question = Question { place, lane: Arc::clone(&lane), own, standing };
            lane.runtime().spawn(async move {
                let signature = question.answered(&waits.0.batch).await;
                waits.0.is_signed(signature);
            });
        }
        Some(pending)
    }

    /// Whether anybody would get a receipt.
    fn may_ask(&self) -> bool {
        *self.standing.borrow() != Standing::Behind && self.out.load(Ordering::Relaxed) < RECEIPTS_MAX
    }
}

/// What a task asks the boundary.
struct Question {
    place: Arc<Place>,
    lane: Arc<Lane>,
    own: Arc<dyn CheckpointSigner>,
    standing: watch::Receiver<Standing>,
}

impl Question {
    /// Until it is signed, or for so long. Of a log that does not hold what the boundary has signed, nothing is.
    async fn answered(&self, batch: &Batch) -> Option<[u8; 64]> {
        let deadline = Instant::now() + self.place.receipt_wait;
        let mut standing = self.standing.clone();
        timeout_at(deadline, standing.wait_for(|standing| *standing != Standing::Unknown)).await.ok()?.ok()?;
        for signer in [self.lane.signer(), &self.own].into_iter().cycle() {
            match timeout_at(deadline, signer.sign_batch(batch.clone())).await.ok()? {
                Ok(signature) if self.believes(batch, &signature) => return self.agrees().then_some(signature),
                Ok(_) => return None,
                Err(SignError::Forked | SignError::Refused) => {
                    self.lane.signatures().are_wrong("the boundary refuses to sign batches: is it an older one?");
                    return None;
                }
                Err(SignError::Unavailable) => {}
            }
            timeout_at(deadline, sleep(AGAIN)).await.ok()?;
        }
        None
    }

    fn agrees(&self) -> bool {
        *self.standing.borrow() == Standing::Agreed
    }

    /// Of each lane the first signature is verified, and one a second: it finds a wrong key, and a channel that is not sound.
    fn believes(&self, batch: &Batch, signature: &[u8; 64]) -> bool {
        let mut seen = self.lane.signatures();
        if seen.verified.is_some_and(|at| at.elapsed() < VERIFIED_EVERY) {
            return true;
        }
        let is_signed = batch.is_signed(&self.place.key, signature);
        if is_signed {
            *seen = Signatures { verified: Some(Instant::now()), told: false };
        } else {
            seen.are_wrong("the boundary's signature of a batch was rejected");
        }
        is_signed
    }
}

impl Pending {
    /// It is not durable: nobody gets a receipt.
    pub(super) fn is_lost(&self) {
        *self.stage() = Stage::Over;
    }

    /// It is durable. What is to be answered now.
    pub(super) fn is_durable(&self, mut wanted: Vec<Wanted>) -> Answers {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Over) {
            Stage::Neither => {
                let room = RECEIPTS_MAX.saturating_sub(self.out.load(Ordering::Relaxed)).min(wanted.len());
                let refused = wanted.split_off(room);
                self.out.fetch_add(wanted.len(), Ordering::Relaxed);
                *stage = Stage::Durable(wanted);
                self.answers(refused, None)
            }
            Stage::Signed(signature) => self.answers(wanted, signature),
            Stage::Durable(_) | Stage::Over => Vec::new(),
        }
    }

    fn is_signed(&self, signature: Option<[u8; 64]>) {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Over) {
            Stage::Neither => *stage = Stage::Signed(signature),
            Stage::Durable(wanted) => {
                drop(stage);
                self.out.fetch_sub(wanted.len(), Ordering::Relaxed);
                deliver(self.answers(wanted, signature).into_iter());
            }
            was @ Stage::Signed(_) => *stage = was,
            Stage::Over => {}
        }
    }

    fn answers(&self, wanted: Vec<Wanted>, signature: Option<[u8; 64]>) -> Answers {
        let signed = signature.map(|signature| SignedBatch::of(&self.batch, &self.tree, &self.place.key, signature));
        let answer = |Wanted { at, lane, slot }| {
            let receipt = signed.as_ref().and_then(|batch| batch.receipt(at));
            (lane, slot, receipt.map(|receipt| Some(Box::new(receipt))).ok_or(AuditError::Unsigned))
        };
        wanted.into_iter().map(answer).collect()
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's end, by whatever cause: nobody waits for it in vain.
struct End(Arc<Pending>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.is_signed(None);
    }
}

/// Most receipts that wait.
const RECEIPTS_MAX: usize = 16 << 10;
const VERIFIED_EVERY: Duration = Duration::from_secs(1);
/// A boundary that gave no signature is asked again.
const AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::queue::Queue;
    use crate::log::tests::{Mode, Rig, TestForm, draft};
    use futures_util::future::FutureExt;

    /// Entries that were handed over, each for a receipt, and those who wait for it.
    struct Waiting {
        items: Vec<Item>,
        receipts: Vec<futures_util::future::BoxFuture<'static, Result<crate::receipt::Receipt, AuditError>>>,
    }

    fn asking(rig: &Rig) -> Receipts {
        Receipts::new(Arc::new(rig.place()), rig.signer(), watch::channel(Standing::Agreed).1)
    }

    fn waiting(rig: &Rig, count: usize) -> Waiting {
        let queue = Arc::new(Queue::default());
        let lane = Lane::start(Arc::clone(&queue), Arc::new(TestForm), rig.signer());
        let receipts = (0..count).map(|number| lane.append_for_receipt(draft(number)).receipt).collect();
        let mut items = Vec::new();
        assert!(queue.take(&mut items, None, Duration::ZERO));
        Waiting { items, receipts }
    }

    fn wanted(items: &[Item]) -> Vec<Wanted> {
        let wanted = |(at, item): (usize, &Item)| {
            let (lane, slot) = (Arc::clone(&item.lane), item.receipt.as_ref().unwrap().slot);
            Wanted { at, lane, slot }
        };
        items.iter().enumerate().map(wanted).collect()
    }

    async fn settled() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn whichever_comes_last_gives_the_receipts_and_neither_alone() {
        let rig = Rig::of(64);
        let asking = asking(&rig);
        for signed_first in [true, false] {
            let Waiting { items, mut receipts } = waiting(&rig, 3);
            rig.set(if signed_first { Mode::Answers } else { Mode::Silent });
            let asked = asking.ask(100, &items).unwrap();
            settled().await;
            assert!(receipts.iter_mut().all(|receipt| receipt.now_or_never().is_none()), "nothing is durable");
            let now = asked.is_durable(wanted(&items));
            assert_eq!(now.len(), if signed_first { 3 } else { 0 }, "with the same wake");
            deliver(now.into_iter());
            if !signed_first {
                settled().await;
                assert!(receipts.iter_mut().all(|receipt| receipt.now_or_never().is_none()), "nothing is signed");
                asked.is_signed(None);
            }
            for (number, receipt) in (100..).zip(receipts) {
                let receipt = receipt.await;
                assert_eq!(receipt.map(|receipt| receipt.index()).ok(), signed_first.then_some(number));
            }
            assert_eq!(asking.out.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn a_boundary_that_refuses_or_lies_is_asked_once() {
        for mode in [Mode::Refuses, Mode::Lies] {
            let rig = Rig::of(64);
            rig.set(mode);
            let asking = asking(&rig);
            let Waiting { items, receipts } = waiting(&rig, 2);
            deliver(asking.ask(0, &items).unwrap().is_durable(wanted(&items)).into_iter());
            settled().await;
            let answers = receipts.into_iter().map(|receipt| receipt.now_or_never().map(Result::err));
            let told = Some(Some(AuditError::Unsigned));
            assert_eq!(answers.collect::<Vec<_>>(), [told, told], "{mode:?}");
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_lost_has_no_receipts_though_it_was_signed() {
        let rig = Rig::of(64);
        let asking = asking(&rig);
        let Waiting { items, mut receipts } = waiting(&rig, 2);
        let asked = asking.ask(0, &items).unwrap();
        asked.is_lost();
        settled().await;
        assert!(asked.is_durable(wanted(&items)).is_empty());
        assert!(receipts.iter_mut().all(|receipt| receipt.now_or_never().is_none()));
    }

    #[tokio::test]
    async fn who_is_one_too_many_is_told_at_once_and_who_asks_nothing_costs_nothing() {
        let rig = Rig::of(64);
        rig.set(Mode::Silent);
        let asking = asking(&rig);
        asking.out.store(RECEIPTS_MAX - 1, Ordering::Relaxed);
        let Waiting { mut items, receipts } = waiting(&rig, 3);
        let asked = asking.ask(0, &items).unwrap();
        deliver(asked.is_durable(wanted(&items)).into_iter());
        settled().await;
        let answers = receipts.into_iter().map(|receipt| receipt.now_or_never().map(Result::err));
        let told = Some(Some(AuditError::Unsigned));
        assert_eq!(answers.collect::<Vec<_>>(), [None, told, told]);
        assert_eq!(asking.out.load(Ordering::Relaxed), RECEIPTS_MAX);
        // while that many wait nobody is asked
        let Waiting { items: more, mut receipts } = waiting(&rig, 1);
        deliver(asking.ask(3, &more).unwrap().is_durable(wanted(&more)).into_iter());
        settled().await;
        assert_eq!(receipts.remove(0).now_or_never().map(Result::err), Some(told.flatten()));
        for item in &mut items {
            item.receipt = None;
        }
        assert!(asking.ask(3, &items).is_none());
    }

    #[tokio::test]
    async fn a_log_that_is_not_known_to_agree_gives_none_until_it_does_and_one_that_does_not_never() {
        for (standing, given) in [(Standing::Agreed, true), (Standing::Behind, false)] {
            let rig = Rig::of(64);
            let (told, known) = watch::channel(Standing::Unknown);
            let asking = Receipts::new(Arc::new(rig.place()), rig.signer(), known);
            let Waiting { items, mut receipts } = waiting(&rig, 2);
            deliver(asking.ask(0, &items).unwrap().is_durable(wanted(&items)).into_iter());
            settled().await;
            assert!(receipts.iter_mut().all(|receipt| receipt.now_or_never().is_none()), "nobody knows");
            told.send_replace(standing);
            for receipt in receipts {
                assert_eq!(receipt.await.is_ok(), given, "{standing:?}");
            }
            assert_eq!(asking.may_ask(), given);
        }
    }
}
