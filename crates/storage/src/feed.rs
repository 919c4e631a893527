//! The feed: what changed lately, from which every watcher reads at its own pace.
//!
//! Always: what a watcher did not see, because it was slow or came late, is told as a gap.
//! Never: a commit waits for a watcher.

use crate::{Change, EntryPath, Revision};
use futures_util::stream::{self, BoxStream, StreamExt};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Feed {
    history: Mutex<History>,
    /// The newest revision: wakes the watchers. Dropped with the store, which ends them.
    head: watch::Sender<Revision>,
}

#[derive(Debug)]
struct History {
    commits: VecDeque<(Revision, Vec<EntryPath>)>,
    paths: usize,
    /// Everything after this revision is in `commits`.
    floor: Revision,
    head: Revision,
}

impl Feed {
    /// A feed of a store whose newest revision is `head`.
    pub(crate) fn new(head: Revision) -> Self {
        let history = History { commits: VecDeque::new(), paths: 0, floor: head, head };
        Self { history: Mutex::new(history), head: watch::Sender::new(head) }
    }

    /// Tells durable commits, in order.
    pub(crate) fn publish(&self, commits: impl IntoIterator<Item = (Revision, Vec<EntryPath>)>) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        for (revision, paths) in commits {
            history.head = revision;
            history.paths += paths.len();
            history.commits.push_back((revision, paths));
            while history.paths > HISTORY_PATHS_MAX || history.commits.len() > HISTORY_COMMITS_MAX {
                let Some((revision, paths)) = history.commits.pop_front() else { break };
                history.floor = revision;
                history.paths -= paths.len();
            }
        }
        let head = history.head;
        drop(history);
        self.head.send_replace(head);
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change> {
        let watcher = Watcher {
            feed: Arc::downgrade(self),
            head: self.head.subscribe(),
            prefix: prefix.clone(),
            seen: from,
            ready: VecDeque::new(),
        };
        stream::unfold(watcher, |mut watcher| async move { watcher.next().await.map(|change| (change, watcher)) })
            .boxed()
    }

    /// What came after `seen` below `prefix`, and the revision up to which that is all.
    fn after(&self, seen: Revision, prefix: &EntryPath) -> (Revision, VecDeque<Change>) {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if seen < history.floor || seen > history.head {
            return (history.head, VecDeque::from([Change::Gap { revision: history.head }]));
        }
        let start = history.commits.partition_point(|(revision, _)| *revision <= seen);
        let changes = history.commits.range(start..).filter_map(|(revision, paths)| {
            let paths: Vec<_> = paths.iter().filter(|path| path.starts_with(prefix)).cloned().collect();
            (!paths.is_empty()).then_some(Change::Paths { revision: *revision, paths })
        });
        (history.head, changes.collect())
    }
}

struct Watcher {
    feed: std::sync::Weak<Feed>,
    head: watch::Receiver<Revision>,
    prefix: EntryPath,
    seen: Revision,
    ready: VecDeque<Change>,
}

impl Watcher {
    async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            // Marked as seen before the history is read: what comes in between wakes once too often, never too rarely.
            self.head.borrow_and_update();
            (self.seen, self.ready) = self.feed.upgrade()?.after(self.seen, &self.prefix);
            if self.ready.is_empty() {
                self.head.changed().await.ok()?;
            }
        }
    }
}

const HISTORY_COMMITS_MAX: usize = 4096;
const HISTORY_PATHS_MAX: usize = 16 * 1024;
