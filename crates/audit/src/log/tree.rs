//! The log's tree: follows the writer through the segments, writes full tiles, has checkpoints signed.
//!
//! It has a thread of its own, and that a runtime of its own, in which the signer's futures are polled.
//!
//! Always: what is signed is durable; the boundary's last is one of the two sizes in `signing`.
//! Never: a reason not to serve. A boundary or a tile that fails delays checkpoints. What ends the log is a write of
//! `signing` after which nobody knows what is on the disk, and a panic.

use super::asking::{Asking, Next};
use super::inbox::{Inbox, ProofWanted};
use super::proofs::Nodes;
use super::queue::Queue;
use super::recover::{CHECKPOINT, replace};
use super::segment::{self, Hindrance, SEGMENTS};
use super::signing::{Asked, Signing};
use super::walk::{Step, Walk};
use super::{CheckpointSigner, OpenError, Place, Published, SignError, Standing};
use crate::checkpoint::Checkpoint;
use crate::note::Note;
use crate::tile::{self, Derived, TileError, TileFolder, TileId, TileReader, Tiles};
use envelope::merkle::{Hash, leaf_hash};
use futures_util::future::BoxFuture;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

pub(super) struct Tree {
    place: Arc<Place>,
    inbox: Arc<Inbox>,
    signer: Arc<dyn CheckpointSigner>,
    published: Published,
    tiles: Tiles,
    folder: TileFolder,
    /// Full tiles that could not be written yet.
    unwritten: Vec<(TileId, Vec<Hash>)>,
    /// The segment that is followed, and its number.
    walk: Option<(u64, Walk)>,
    /// Not before.
    follow_at: Instant,
    signing: Signing,
    asking: Asking,
    nodes: Nodes,
    /// The newest checkpoint with its partial tiles, until it stands in the folder.
    unpublished: Option<(Checkpoint, Note, Partials)>,
    publish_at: Instant,
    /// Whose partial tiles stand in the folder.
    partials: u64,
    /// Those of them that this process has written.
    standing: Vec<TileId>,
    syncing: Syncing,
    /// After trouble, not before.
    retry_at: Instant,
    told_at: Option<Instant>,
}

/// What recovery found.
pub(super) struct Found {
    /// Over all entries.
    pub(super) tiles: Tiles,
    /// The log's folder, opened before a tile was written: its sync tells of each write that failed since.
    pub(super) disk: File,
    pub(super) signing: Signing,
    pub(super) asked: Option<Asked>,
    pub(super) checkpoint: Option<(Checkpoint, Note)>,
    /// Behind the last entry.
    pub(super) walk: Option<(u64, Walk)>,
}

impl Found {
    /// Whether the tree extends the one of `size` leaves under `root`. The right edge is not on the disk: it is held here.
    pub(super) fn extends(&self, dir: &Path, (size, root): (u64, Hash)) -> Result<(), OpenError> {
        if self.tiles.size() < size {
            return Err(OpenError::Shorter { size: self.tiles.size(), covered: size });
        }
        let folder = TileFolder::new(dir);
        let found = tile::root(&self.tiles.over(&Derived(&folder)), size)?;
        if found == root { Ok(()) } else { Err(OpenError::Rewritten { covered: size, index: None }) }
    }
}

type Partials = Vec<(TileId, Vec<Hash>)>;

/// A boundary that was asked.
type Request = BoxFuture<'static, Result<[u8; 64], SignError>>;

impl Tree {
    pub(super) fn new(
        place: Arc<Place>,
        inbox: Arc<Inbox>,
        signer: Arc<dyn CheckpointSigner>,
        published: Published,
        found: Found,
    ) -> Self {
        let now = Instant::now();
        let Found { tiles, disk, signing, asked, checkpoint, walk } = found;
        let known = checkpoint.as_ref().map(|(it, _)| it.size);
        let asking = Asking::at_start(asked, known, tiles.size(), place.pace, now);
        let folder = TileFolder::new(&place.dir);
        if let Some((checkpoint, note)) = checkpoint {
            published.checkpoint.send_replace(Some(Arc::new((checkpoint, note))));
        }
        let syncing = Syncing::of(disk, asked.map_or(0, |asked| asked.tiles), now + place.sync_every);
        Self {
            place,
            inbox,
            signer,
            published,
            tiles,
            folder,
            unwritten: Vec::new(),
            walk,
            follow_at: now,
            signing,
            asking,
            nodes: Nodes::default(),
            unpublished: None,
            publish_at: now,
            partials: known.unwrap_or(0),
            standing: Vec::new(),
            syncing,
            retry_at: now,
            told_at: None,
        }
    }

    /// Until the inbox has ended. An error is final.
    async fn run(&mut self, failure: &watch::Sender<bool>) -> Result<(), Hindrance> {
        let inbox = Arc::clone(&self.inbox);
        let mut request: Option<Request> = None;
        let mut end: Option<Instant> = None;
        loop {
            let news = inbox.look();
            if *failure.borrow() {
                return Err(Hindrance::Final);
            }
            if news.ended && end.is_none() {
                end = Some(Instant::now() + CLOSE_WAIT);
                self.asking.hurry(Instant::now());
            }
            self.passing(|tree| tree.follow(news.size, news.ended))?;
            self.prove(news.proofs);
            if request.is_none() {
                request = self.ask(news.ended)?;
            }
            self.passing(|tree| tree.publish(news.ended))?;
            self.syncing.look(&self.place, self.tiles.size(), self.unwritten.is_empty());
            let now = Instant::now();
            if end.is_some_and(|end| now >= end || request.is_none() && self.is_done(news.size, now)) {
                return Ok(());
            }
            let next = self.next_event(news.size, request.is_some()).into_iter().chain(end).min();
            let mut answer = None;
            tokio::select! {
                () = inbox.news(news.size, self.tiles.size() == news.size) => {}
                signed = answered(&mut request), if request.is_some() => answer = Some(signed),
                () = sleep_until(next.unwrap_or(now + IDLE).into()) => {}
            }
            if let Some(answer) = answer {
                request = None;
                self.take_answer(answer);
            }
        }
    }

    /// What may pass is told once and tried again.
    fn passing(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Trouble>) -> Result<(), Hindrance> {
        let Err(trouble) = work(self) else { return Ok(()) };
        if let Trouble::Hindered(Hindrance::Final) = trouble {
            return Err(Hindrance::Final);
        }
        let now = Instant::now();
        if self.may_tell(now) {
            tracing::error!(error = %trouble, "the audit log's tree is held up; entries are written all the same");
        }
        self.retry_at = now + RETRY;
        Ok(())
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        let may = self.told_at.is_none_or(|told| now >= told + TELL_EVERY);
        if may {
            self.told_at = Some(now);
        }
        may
    }

    /// Whether a log that is being closed has no more to do, or cannot.
    fn is_done(&self, size: u64, now: Instant) -> bool {
        let stands = self.tiles.size() == size && self.unpublished.is_none();
        (stands || now < self.retry_at) && !self.asking.hopes(self.tiles.size())
    }

    /// Adds what is durable to the tree, now and then, or at once.
    fn follow(&mut self, size: u64, at_once: bool) -> Result<(), Trouble> {
        let now = Instant::now();
        if self.tiles.size() == size || now < self.retry_at || !at_once && now < self.follow_at {
            return Ok(());
        }
        self.write_tiles()?;
        if let Some((_, walk)) = &mut self.walk {
            walk.refresh();
        }
        let until = size.min(self.tiles.size() + FOLLOWED_AT_ONCE);
        while self.tiles.size() < until {
            let leaf = self.next_leaf()?;
            self.tiles.push(leaf);
            if self.tiles.size().is_multiple_of(u64::from(tile::TILE_WIDTH)) {
                self.write_tiles()?;
            }
        }
        if self.tiles.size() == size {
            self.follow_at = now + FOLLOW_EVERY;
        }
        Ok(())
    }

    fn next_leaf(&mut self) -> Result<Hash, Trouble> {
        let index = self.tiles.size();
        let number = index / self.place.entries_max;
        let (at, walk) = match self.walk.take() {
            Some((at, walk)) if at == number => (at, walk),
            Some(_) | None => {
                let path = segment::path(&self.place.dir.join(SEGMENTS), number);
                (number, Walk::from(File::open(path)?, 0))
            }
        };
        let (_, walk) = self.walk.insert((at, walk));
        let leaf = match walk.step(&*self.place.form)? {
            Step::Entry(entry) => leaf_hash(entry),
            Step::End | Step::Cut => {
                walk.refresh();
                return Err(Trouble::Gone(index));
            }
        };
        Ok(leaf)
    }

    fn write_tiles(&mut self) -> Result<(), Trouble> {
        self.unwritten.append(&mut self.tiles.take_full());
        while let Some((id, hashes)) = self.unwritten.first() {
            self.folder.write(*id, hashes)?;
            self.unwritten.remove(0);
        }
        Ok(())
    }

    /// Asks the boundary where something is due. `signing` tells of it first.
    fn ask(&mut self, ended: bool) -> Result<Option<Request>, Hindrance> {
        let Some(next) = self.asking.next(Instant::now(), self.tiles.size(), ended) else { return Ok(None) };
        let mut request = None;
        self.passing(|tree| {
            request = Some(tree.begin(next)?);
            Ok(())
        })?;
        if request.is_none() {
            self.asking.unavailable(Instant::now());
        }
        Ok(request)
    }

    fn begin(&mut self, next: Next) -> Result<Request, Trouble> {
        let Next { from, size } = next;
        let written = Derived(&self.folder);
        let reader = self.tiles.over(&written);
        let root = if size == self.tiles.size() { self.tiles.root() } else { tile::root(&reader, size)? };
        let proof = self.nodes.proofs(&reader, size).consistency(from)?;
        if let Some(asked) = self.asking.unrecorded(self.syncing.mark) {
            self.signing.put(asked).map_err(Trouble::Hindered)?;
            self.asking.recorded(asked);
        }
        self.asking.asked(root, Instant::now());
        let wait = self.place.sign_wait;
        let signed = self.signer.sign(self.place.key.name().to_owned(), size, root, proof);
        Ok(Box::pin(async move { timeout(wait, signed).await.unwrap_or(Err(SignError::Unavailable)) }))
    }

    fn take_answer(&mut self, answer: Result<[u8; 64], SignError>) {
        let now = Instant::now();
        match answer {
            Ok(signature) => self.take_signature(signature, now),
            Err(SignError::Unavailable | SignError::Refused) => self.asking.unavailable(now),
            Err(SignError::Forked) => {
                if self.asking.forked(now) {
                    tracing::error!(
                        size = self.asking.in_question().0,
                        "the boundary has signed what this audit log does not hold: the log is older, or another one"
                    );
                    self.published.standing.send_replace(Standing::Behind);
                }
            }
        }
    }

    fn take_signature(&mut self, signature: [u8; 64], now: Instant) {
        let (size, root) = self.asking.in_question();
        let checkpoint = Checkpoint { origin: self.place.key.name().to_owned(), size, root };
        let Ok(note) = checkpoint.sign(&self.place.key, signature) else {
            tracing::error!(size, "the boundary's signature of a checkpoint was rejected");
            return self.asking.unavailable(now);
        };
        self.asking.signed();
        self.published.standing.send_replace(Standing::Agreed);
        self.published.checkpoint.send_replace(Some(Arc::new((checkpoint.clone(), note.clone()))));
        let written = Derived(&self.folder);
        let reader = self.tiles.over(&written);
        let partials = tile::partials_at(size).into_iter();
        let partials = partials.map(|id| Ok((id, reader.tile(id.level, id.index, id.width)?))).collect();
        match partials {
            Ok(partials) => self.unpublished = Some((checkpoint, note, partials)),
            Err::<_, TileError>(error) => {
                tracing::error!(%error, size, "a checkpoint has no tiles, and is not published")
            }
        }
    }

    /// Whoever wanted a proof may have gone.
    fn prove(&mut self, wanted: Vec<ProofWanted>) {
        let written = Derived(&self.folder);
        let reader = self.tiles.over(&written);
        for ProofWanted { old, size, reply } in wanted {
            let known = old <= size && size <= self.tiles.size();
            let proof = if known { self.nodes.proofs(&reader, size).consistency(old) } else { Err(TileError::Range) };
            let _ = reply.send(proof);
        }
    }

    /// Puts the newest checkpoint into the folder, now and then, or at once. Its tiles go before it.
    fn publish(&mut self, at_once: bool) -> Result<(), Trouble> {
        let now = Instant::now();
        if self.unpublished.is_none() || now < self.retry_at || !at_once && now < self.publish_at {
            return Ok(());
        }
        self.write_tiles()?;
        let Some((checkpoint, note, partials)) = &self.unpublished else { return Ok(()) };
        for (id, hashes) in partials.iter().filter(|(id, _)| !self.standing.contains(id)) {
            self.folder.write(*id, hashes)?;
        }
        self.standing = partials.iter().map(|(id, _)| *id).collect();
        replace(&self.place.dir, CHECKPOINT, note.encode().as_bytes())?;
        self.folder.remove_partials(self.partials, checkpoint.size)?;
        self.partials = checkpoint.size;
        self.unpublished = None;
        self.publish_at = now + self.place.pace;
        Ok(())
    }

    fn next_event(&self, durable: u64, asked: bool) -> Option<Instant> {
        let follow = (self.tiles.size() < durable).then(|| self.follow_at.max(self.retry_at));
        let ask = if asked { None } else { self.asking.due(self.tiles.size(), false) };
        let publish = self.unpublished.as_ref().map(|_| self.publish_at.max(self.retry_at));
        [follow, ask, publish].into_iter().flatten().min()
    }
}

/// The tree's thread.
pub(super) struct TreeThread {
    pub(super) tree: Tree,
    pub(super) queue: Arc<Queue>,
    pub(super) failure: watch::Sender<bool>,
}

impl TreeThread {
    /// Until the log is closed. Tells whether it ended in peace.
    pub(super) fn run(mut self, runtime: &Runtime) -> bool {
        let sound = runtime.block_on(self.tree.run(&self.failure)).is_ok();
        if !sound {
            self.fail();
        }
        sound
    }

    fn fail(&self) {
        tracing::error!("the audit log's tree has failed for good");
        self.failure.send_replace(true);
        self.queue.close();
    }
}

impl Drop for TreeThread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail();
        }
        self.tree.inbox.leave();
    }
}

async fn answered(request: &mut Option<Request>) -> Result<[u8; 64], SignError> {
    match request {
        Some(request) => request.await,
        None => std::future::pending().await,
    }
}

/// What holds the tree up.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("what the boundary is asked for cannot be made durable: {0:?}")]
    Hindered(Hindrance),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tile(#[from] TileError),
    /// Somebody writes in our files, or cut them.
    #[error("entry {0} was durable, and is not there")]
    Gone(u64),
}

/// Full tiles are made durable behind everybody's back, many at once: it bounds what the next start makes anew.
struct Syncing {
    disk: Arc<File>,
    /// Tiles of the entries below are on the disk.
    mark: u64,
    at: Instant,
    running: Option<JoinHandle<Option<u64>>>,
    /// A sync has failed: the next may succeed and lie, so the mark stays where it is.
    failed: bool,
}

impl Syncing {
    fn of(disk: File, mark: u64, at: Instant) -> Self {
        Self { disk: Arc::new(disk), mark, at, running: None, failed: false }
    }

    fn look(&mut self, place: &Place, size: u64, all_written: bool) {
        if let Some(ended) = self.running.take_if(|running| running.is_finished()) {
            match ended.join() {
                Ok(Some(mark)) => self.mark = mark,
                Ok(None) | Err(_) => self.failed = true,
            }
        }
        let upto = place.whole(size);
        let now = Instant::now();
        if self.failed || self.running.is_some() || !all_written || upto <= self.mark || now < self.at {
            return;
        }
        self.at = now + place.sync_every;
        let disk = Arc::clone(&self.disk);
        let sync = move || {
            let synced = rustix::fs::syncfs(disk);
            if let Err(error) = &synced {
                tracing::warn!(%error, "syncing the audit log's tiles");
            }
            synced.is_ok().then_some(upto)
        };
        self.running = std::thread::Builder::new().name("audit-tiles".into()).spawn(sync).ok();
    }
}

/// How often the tree follows the writer.
const FOLLOW_EVERY: Duration = Duration::from_millis(10);
/// Most entries that are followed before the boundary's answer is looked at.
const FOLLOWED_AT_ONCE: u64 = 4096;
const RETRY: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Longest that a log that is being closed waits for its last checkpoint.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::Rig;

    #[test]
    fn after_a_sync_that_failed_the_mark_stays_though_the_next_would_succeed() {
        let rig = Rig::of(256);
        let place = rig.place();
        std::fs::create_dir(&place.dir).unwrap();
        let disk = |flags| {
            File::from(
                rustix::fs::open(&place.dir, flags | rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap(),
            )
        };
        let mut syncing = Syncing::of(disk(rustix::fs::OFlags::RDONLY), 256, Instant::now());
        let round = |syncing: &mut Syncing, size| {
            syncing.at = Instant::now();
            syncing.look(&place, size, true);
            while syncing.running.as_ref().is_some_and(|running| !running.is_finished()) {
                std::thread::yield_now();
            }
            syncing.look(&place, 0, true);
            syncing.mark
        };
        assert_eq!((round(&mut syncing, 511), round(&mut syncing, 800)), (256, 768));
        let works = std::mem::replace(&mut syncing.disk, Arc::new(disk(rustix::fs::OFlags::PATH)));
        assert_eq!(round(&mut syncing, 1200), 768, "nothing is synced by what was opened as a path alone");
        syncing.disk = works;
        assert_eq!(round(&mut syncing, 1200), 768);
    }
}
