//! The log: one writer, which makes everything that waits durable with one sync, and a Merkle tree that grows behind it.
//!
//! ```text
//! segment/<N>   the entries, 65,536 a file: the truth, and all that is synced before an answer
//! tile/…        the tree (c2sp.org/tlog-tiles), derived
//! checkpoint    the newest signed one (c2sp.org/tlog-checkpoint); checkpoint.witnessed: one that witnesses cosigned
//! signing       what the boundary was asked to sign last
//! log.vkey      the log's verifier key
//! personal/…    keys of personal fields, sealed to the auditor
//! removed       where the record of the newest removal stands, with a signed checkpoint that covers it
//! lock, closed, reserve, cut-<size>
//! ```
//!
//! Always: whoever hears `Ok` has a whole entry on the disk, in the file that stands at the segment's path; so is all that
//! the boundary is asked to sign. An entry that was refused may stand in the log: nobody was told that it does not.
//! Always: what hinders for a while (no space, read-only, a file moved away) refuses, and passes without a restart.
//! Never: another sync after one that failed, since it may succeed and lie: [`Log::failed`] resolves, the process ends, and
//! the next start writes the last segment anew.

mod asking;
mod form;
mod inbox;
mod lane;
mod proofs;
mod queue;
mod rebuild;
mod receipts;
mod recover;
pub(crate) mod removed;
mod reserve;
mod segment;
mod signing;
mod tree;
mod walk;
mod witnessed;
mod writer;

use crate::AuditSink;
use crate::ack::{Acks, Witnesses};
use crate::checkpoint::Checkpoint;
use crate::lock::Lock;
use crate::note::{Note, VerifierKey};
use crate::receipt::Batch;
use crate::record::AuditorPublic;
use crate::tile::TileError;
use envelope::Clock;
use envelope::merkle::Hash;
use form::{Form, Records};
use futures_util::future::BoxFuture;
use inbox::{Inbox, ProofWanted};
use queue::Queue;
use receipts::Receipts;
use recover::{Recovered, recover};
use reserve::Reserve;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tree::{Tree, TreeThread};
use writer::Writer;

pub use crate::record::ENTRY_BYTES_MAX;
pub use witnessed::WITNESSED;

/// Most entries that wait; beyond it the log is [`crate::AuditError::Busy`].
pub const QUEUE_RECORDS_MAX: usize = 16 << 10;
/// Most bytes that wait.
const QUEUE_BYTES_MAX: usize = 8 << 20;

/// Who signs checkpoints, and batches for receipts: the boundary.
pub trait CheckpointSigner: Send + Sync + std::fmt::Debug {
    /// Its Ed25519 public key.
    fn verifier(&self) -> [u8; 32];

    /// Signs the body of the checkpoint (c2sp.org/tlog-checkpoint) where it extends the last one that was signed for the
    /// origin, and signs the last one again. Polled in a runtime of the log's own, and dropped where it takes too long.
    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        proof: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>>;

    /// Signs [`Batch::body`], whatever it signed before. Called and polled in the runtime of whoever wants a receipt. One that
    /// signs none gives no receipts.
    fn sign_batch(&self, _batch: Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        Box::pin(std::future::ready(Err(SignError::Unavailable)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It does not extend the last one that was signed.
    #[error("the checkpoint does not extend the last one signed")]
    Forked,
    /// Nobody knows whether it was signed.
    #[error("the boundary gave no signature")]
    Unavailable,
    /// It signs no such thing, however often it is asked.
    #[error("the boundary refuses to sign")]
    Refused,
}

/// Which log, and who signs it.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The log's folder; made where it is missing.
    pub dir: PathBuf,
    pub origin: String,
    /// The server node, for what the log itself records.
    pub node: String,
    pub signer: Arc<dyn CheckpointSigner>,
    /// Tells the month, whose key seals personal fields, and when the log was hindered.
    pub clock: Arc<dyn Clock>,
    /// A checkpoint is no further behind, while the boundary answers.
    pub checkpoint_every: Duration,
    /// To whom personal fields are sealed; they stand in the clear where there is none.
    pub personal: Option<AuditorPublic>,
    /// Held so that a full disk can be recorded.
    pub reserve_bytes: u64,
    /// A tree that the log has had, remembered elsewhere: its size and root. The log must extend it.
    pub remembered: Option<(u64, Hash)>,
}

impl LogOptions {
    /// With checkpoints 100 ms behind, personal fields in the clear, and nothing remembered.
    pub fn new(
        dir: PathBuf,
        origin: String,
        node: &str,
        signer: Arc<dyn CheckpointSigner>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (node, checkpoint_every) = (node.to_owned(), Duration::from_millis(100));
        let (personal, reserve_bytes, remembered) = (None, 4 << 20, None);
        Self { dir, origin, node, signer, clock, checkpoint_every, personal, reserve_bytes, remembered }
    }
}

/// How the log stands to what the boundary has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The boundary has not answered since the log was opened.
    Unknown,
    /// All that the boundary has signed is in this log.
    Agreed,
    /// The boundary has signed what is not in this log: the log is older, or another one.
    Behind,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process holds the audit log")]
    Held,
    #[error("the folder holds the audit log of another origin or key")]
    Foreign,
    #[error("{0:?} is no origin of a log")]
    Origin(String),
    /// Of the entries before it none is.
    #[error("entry {index} of the audit log is damaged or missing")]
    Damaged { index: u64 },
    /// Entries were lost that were told to be durable.
    #[error("the audit log has {size} entries, and had {covered}")]
    Shorter { size: u64, covered: u64 },
    /// Whole entries, but not those whose root was signed or is remembered. `index`: the first that contradicts the tiles.
    #[error("the first {covered} entries of the audit log are not those that it had{}", first(*index))]
    Rewritten { covered: u64, index: Option<u64> },
    #[error("the tiles of the audit log cannot be read or written")]
    Tiles(#[from] TileError),
    #[error("the audit log cannot be opened")]
    Io(#[from] io::Error),
}

/// An open log. Dropping it makes durable what was accepted, has a last checkpoint signed where the boundary answers soon,
/// and ends its threads.
pub struct Log {
    place: Arc<Place>,
    queue: Arc<Queue>,
    inbox: Arc<Inbox>,
    signer: Arc<dyn CheckpointSigner>,
    published: Published,
    failed: watch::Receiver<bool>,
    size: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    writer: Option<JoinHandle<Option<u64>>>,
    tree: Option<JoinHandle<bool>>,
    _lock: Lock,
}

/// What does not change while a log is open.
struct Place {
    dir: PathBuf,
    key: VerifierKey,
    form: Arc<dyn Form>,
    /// Entries of a full segment.
    entries_max: u64,
    /// From one checkpoint to the next.
    pace: Duration,
    /// Longest that the boundary is waited for.
    sign_wait: Duration,
    /// Longest that the signature of receipts is waited for.
    receipt_wait: Duration,
    /// From one sync of full tiles to the next.
    sync_every: Duration,
}

/// A checkpoint, and the note that bears its signature.
pub type Signed = Arc<(Checkpoint, Note)>;

#[derive(Clone)]
struct Published {
    checkpoint: watch::Sender<Option<Signed>>,
    standing: watch::Sender<Standing>,
}

impl Log {
    /// Opens the log. What a crash left unfinished at its end is cut, and kept beside it.
    pub fn open(options: LogOptions) -> Result<Arc<Self>, OpenError> {
        let lock = recover::lock(&options.dir)?;
        let records = Records::new(&options.dir, Arc::clone(&options.clock), options.node.clone(), options.personal)?;
        let place = Place::of(&options, Arc::new(records))?;
        let found = recover(&place, lock)?;
        if let Some(remembered) = options.remembered {
            found.tree.extends(&place.dir, remembered)?;
        }
        Self::go_on(place, options.signer, options.reserve_bytes, found)
    }

    /// The sink of the runtime in which this is called: its callers are woken by a task there, once a batch.
    pub fn lane(&self) -> Arc<dyn AuditSink> {
        self.lane_signed_by(Arc::clone(&self.signer))
    }

    /// The same, where `signer`, of the log's key, is at hand in that runtime: it signs batches for its callers' receipts.
    pub fn lane_signed_by(&self, signer: Arc<dyn CheckpointSigner>) -> Arc<dyn AuditSink> {
        lane::Lane::start(Arc::clone(&self.queue), Arc::clone(&self.place.form), signer)
    }

    /// How many entries are durable.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// How many syncs the entries have cost.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Where its files stand.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    pub fn key(&self) -> &VerifierKey {
        &self.place.key
    }

    /// The newest checkpoint; `None` before the first.
    pub fn checkpoint(&self) -> Option<Signed> {
        self.published.checkpoint.borrow().clone()
    }

    /// Tells of each checkpoint, or of the newest of many.
    pub fn checkpoints(&self) -> watch::Receiver<Option<Signed>> {
        self.published.checkpoint.subscribe()
    }

    pub fn standing(&self) -> Standing {
        *self.published.standing.borrow()
    }

    /// Tells how the log stands to the boundary whenever that changes.
    pub fn standings(&self) -> watch::Receiver<Standing> {
        self.published.standing.subscribe()
    }

    /// That the tree of `size` leaves, at most the newest checkpoint's, extends that of `old` (RFC 6962 §2.1.2). `None` where
    /// it cannot be proven now.
    pub async fn consistency(&self, old: u64, size: u64) -> Option<Vec<Hash>> {
        let (reply, proof) = oneshot::channel();
        self.inbox.prove(ProofWanted { old, size, reply });
        proof.await.ok()?.inspect_err(|error| tracing::warn!(%error, old, size, "no proof of the audit log")).ok()
    }

    /// Keeps the newest checkpoint with its cosignatures in the folder. Blocks for the disk.
    pub fn keep_witnessed(&self, note: &Note) -> io::Result<()> {
        witnessed::keep(&self.place.dir, note)
    }

    /// What vouches for records beyond their being durable.
    pub fn acks(&self, witnesses: Witnesses) -> Acks {
        Acks::new(Arc::clone(&self.size), self.checkpoints(), witnesses)
    }

    /// Resolves once the log has failed for good: end the process, the next start recovers.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut failed = self.failed.clone();
        async move {
            // An error means that the log was closed in peace: it will never fail.
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn go_on(
        place: Place,
        signer: Arc<dyn CheckpointSigner>,
        reserve_bytes: u64,
        found: Recovered,
    ) -> Result<Arc<Self>, OpenError> {
        let Recovered { lock, segments, tree } = found;
        let reserve = Reserve::open(&place.dir, reserve_bytes)?;
        let (place, queue, inbox) = (Arc::new(place), Arc::new(Queue::default()), Arc::new(Inbox::of(segments.size())));
        let published = Published::default();
        let (failure, failed) = watch::channel(false);
        let (size, syncs) = (Arc::new(AtomicU64::new(segments.size())), segments.syncs());

        let receipts = Receipts::new(Arc::clone(&place), Arc::clone(&signer), published.standing.subscribe());
        let asked = Arc::clone(&signer);
        let tree = Tree::new(Arc::clone(&place), Arc::clone(&inbox), asked, published.clone(), tree);
        let tree = TreeThread { tree, queue: Arc::clone(&queue), failure: failure.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tree = std::thread::Builder::new().name("audit-tree".into()).spawn(move || tree.run(&runtime))?;
        let (form, from_to) = (Arc::clone(&place.form), (Arc::clone(&queue), Arc::clone(&inbox)));
        let mut writer = Writer::new((segments, reserve), form, from_to, receipts, Arc::clone(&size), failure);
        let writer = std::thread::Builder::new().name("audit-writer".into()).spawn(move || writer.run());
        let writer = writer.inspect_err(|_| inbox.end())?;
        let (writer, tree) = (Some(writer), Some(tree));
        Ok(Arc::new(Self { place, queue, inbox, signer, published, failed, size, syncs, writer, tree, _lock: lock }))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
        let closed = self.writer.take().and_then(|writer| writer.join().ok()?);
        self.inbox.end();
        let sound = self.tree.take().is_some_and(|tree| tree.join().unwrap_or(false));
        if let (Some(size), true) = (closed, sound)
            && let Err(error) = recover::write_closed(&self.place.dir, size)
        {
            tracing::warn!(%error, "the audit log's end could not be told");
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("size", &self.size()).field("standing", &self.standing()).finish_non_exhaustive()
    }
}

impl Place {
    fn of(options: &LogOptions, form: Arc<dyn Form>) -> Result<Self, OpenError> {
        let key = VerifierKey::ed25519(&options.origin, options.signer.verifier());
        Ok(Self {
            dir: options.dir.clone(),
            key: key.map_err(|_| OpenError::Origin(options.origin.clone()))?,
            form,
            entries_max: crate::read::SEGMENT_ENTRIES,
            // what asking and writing take is within the promise
            pace: options.checkpoint_every * 3 / 4,
            sign_wait: SIGN_WAIT,
            receipt_wait: RECEIPT_WAIT,
            sync_every: SYNC_EVERY,
        })
    }

    /// How many of the first `size` entries are whole segments, and whole tiles with all that is below them.
    fn whole(&self, size: u64) -> u64 {
        let unit = self.entries_max.max(u64::from(crate::tile::TILE_WIDTH));
        size / unit * unit
    }
}

impl Default for Published {
    fn default() -> Self {
        Self { checkpoint: watch::Sender::new(None), standing: watch::Sender::new(Standing::Unknown) }
    }
}

fn first(index: Option<u64>) -> String {
    index.map(|index| format!(": the first that differs is {index}")).unwrap_or_default()
}

const SIGN_WAIT: Duration = Duration::from_secs(5);
const RECEIPT_WAIT: Duration = Duration::from_secs(5);
const SYNC_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
