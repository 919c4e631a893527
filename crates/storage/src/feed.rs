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
    commits: VecDeque<(Revision, Arc<[EntryPath]>)>,
    paths: usize,
    /// Everything after this revision is in `commits`.
    floor: Revision,
    head: Revision,
    /// How often it was begun anew: a watcher of before is told a gap, though it may have seen as high a revision.
    losses: u64,
}

impl Feed {
    /// A feed of a store whose newest revision is `head`.
    pub(crate) fn new(head: Revision) -> Self {
        let history = History { commits: VecDeque::new(), paths: 0, floor: head, head, losses: 0 };
        Self { history: Mutex::new(history), head: watch::Sender::new(head) }
    }

    /// Tells durable commits, in order.
    pub(crate) fn publish(&self, commits: impl IntoIterator<Item = (Revision, impl Into<Arc<[EntryPath]>>)>) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        for (revision, paths) in commits {
            let paths = paths.into();
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

    /// What happened up to `revision` was not heard of, or belongs to another history: whoever watches is told a gap.
    #[cfg(feature = "postgres")]
    pub(crate) fn lose(&self, revision: Revision) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let losses = history.losses + 1;
        *history = History { commits: VecDeque::new(), paths: 0, floor: revision, head: revision, losses };
        drop(history);
        self.head.send_replace(revision);
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change> {
        let watcher = Watcher {
            feed: Arc::downgrade(self),
            head: self.head.subscribe(),
            prefix: prefix.clone(),
            seen: from,
            losses: self.history.lock().unwrap_or_else(PoisonError::into_inner).losses,
            ready: VecDeque::new(),
        };
        stream::unfold(watcher, |mut watcher| async move { watcher.next().await.map(|change| (change, watcher)) })
            .boxed()
    }

    /// What came after `seen` below `prefix`, and the revision up to which that is all.
    fn after(&self, seen: Revision, losses: &mut u64, prefix: &EntryPath) -> (Revision, VecDeque<Change>) {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let begun_anew = std::mem::replace(losses, history.losses) != history.losses;
        if begun_anew || seen < history.floor || seen > history.head {
            return (history.head, VecDeque::from([Change::Gap { revision: history.head }]));
        }
        let start = history.commits.partition_point(|(revision, _)| *revision <= seen);
        let changes = history.commits.range(start..).filter_map(|(revision, paths)| {
            let all = paths.iter().all(|path| path.starts_with(prefix));
            let below = || paths.iter().filter(|path| path.starts_with(prefix)).cloned().collect();
            let paths: Arc<[EntryPath]> = if all { Arc::clone(paths) } else { below() };
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
    losses: u64,
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
            (self.seen, self.ready) = self.feed.upgrade()?.after(self.seen, &mut self.losses, &self.prefix);
            if self.ready.is_empty() {
                self.head.changed().await.ok()?;
            }
        }
    }
}

const HISTORY_COMMITS_MAX: usize = 4096;
const HISTORY_PATHS_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn path(raw: &str) -> EntryPath {
        EntryPath::parse(raw).unwrap()
    }

    fn now(changes: &mut BoxStream<'static, Change>) -> Option<Change> {
        changes.next().now_or_never().flatten()
    }

    fn told(revision: u64, at: &str) -> Change {
        Change::Paths { revision: Revision(revision), paths: [path(at)].into() }
    }

    #[test]
    fn whoever_is_too_slow_hears_of_a_gap_and_then_of_what_comes() {
        for (commits, paths_each) in [(HISTORY_COMMITS_MAX + 1, 1), (HISTORY_PATHS_MAX / 100 + 1, 100)] {
            let feed = Arc::new(Feed::new(Revision(0)));
            let (mut slow, mut other) = (feed.watch(&path("t"), Revision(0)), feed.watch(&path("u"), Revision(0)));
            for revision in 1..=commits as u64 {
                let paths: Vec<_> = (0..paths_each).map(|i| path(&format!("t/{i}"))).collect();
                feed.publish([(Revision(revision), paths)]);
            }
            let gap = Change::Gap { revision: Revision(commits as u64) };
            assert_eq!(now(&mut slow), Some(gap.clone()));
            assert_eq!(now(&mut slow), None);
            // it cannot know that nothing below its prefix was among what was lost
            assert_eq!(now(&mut other), Some(gap));
            feed.publish([(Revision(commits as u64 + 1), vec![path("t/a")])]);
            assert_eq!(now(&mut slow), Some(told(commits as u64 + 1, "t/a")));
            assert_eq!(now(&mut other), None);
            let history = feed.history.lock().unwrap();
            assert!(history.commits.len() <= HISTORY_COMMITS_MAX && history.paths <= HISTORY_PATHS_MAX);
        }
    }

    #[test]
    fn whoever_keeps_up_misses_nothing() {
        let feed = Arc::new(Feed::new(Revision(5)));
        let mut changes = feed.watch(&path("t"), Revision(5));
        for revision in 6..=3 * HISTORY_COMMITS_MAX as u64 {
            assert_eq!(now(&mut changes), None);
            let other = if revision % 3 == 0 { "u/a" } else { "t!" };
            feed.publish([(Revision(revision), vec![path("t/a"), path(other)])]);
            assert_eq!(now(&mut changes), Some(told(revision, "t/a")));
        }
    }

    #[test]
    fn what_was_before_the_store_was_opened_is_a_gap() {
        let feed = Arc::new(Feed::new(Revision(5)));
        for (from, hears) in [(4, true), (5, false), (6, true)] {
            let mut changes = feed.watch(&path("t"), Revision(from));
            let gap = Change::Gap { revision: Revision(5) };
            assert_eq!(now(&mut changes), hears.then_some(gap), "{from}");
        }
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_feed() {
        let feed = Arc::new(Feed::new(Revision(0)));
        let mut changes = feed.watch(&path("t"), Revision(0));
        let ended = tokio::spawn(async move { changes.next().await });
        tokio::task::yield_now().await;
        drop(feed);
        assert_eq!(ended.await.unwrap(), None);
    }
}
