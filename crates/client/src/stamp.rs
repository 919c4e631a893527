//! Files that somebody else replaces: whether they are others than they were, without reading them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files, and by what they were known when they were taken last.
#[derive(Debug)]
pub struct Followed {
    paths: Vec<PathBuf>,
    taken: Vec<Option<Stamp>>,
    refused: bool,
}

/// Where a file stands, its length, and when it and its inode were changed. Links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Followed {
    /// To be called before they are read: what replaces them meanwhile is seen by the first look.
    pub fn new<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let paths: Vec<_> = paths.into_iter().map(|path| path.as_ref().to_owned()).collect();
        Self { taken: stamps(&paths), paths, refused: false }
    }

    /// Where nobody knows of what files was read: the first look has them taken.
    pub fn unread<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self { taken: Vec::new(), ..Self::new(paths) }
    }

    /// Has them taken where they are others. What cannot be taken is told once, and tried at each look.
    pub fn look<E>(&mut self, take: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        let now = stamps(&self.paths);
        if now == self.taken {
            self.refused = false;
            return None;
        }
        let outcome = take();
        let is_told = std::mem::replace(&mut self.refused, outcome.is_err());
        if outcome.is_ok() {
            self.taken = now;
        }
        (outcome.is_ok() || !is_told).then_some(outcome)
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some(Stamp {
            inode: (found.dev(), found.ino()),
            length: found.len(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    };
    paths.iter().map(stamp).collect()
}

/// How often files are looked at.
pub const LOOKS_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_is_taken_once_and_what_is_broken_is_told_once_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let put = |path: &Path, text: &str| {
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), path).unwrap();
        };
        put(&one, "1");
        put(&other, "1");
        let mut files = Followed::new([&one, &other]);
        let mut tries = 0;
        let mut look = |taken: bool| {
            let outcome = files.look(|| {
                tries += 1;
                if taken { Ok(()) } else { Err("broken") }
            });
            (outcome, tries)
        };
        assert_eq!(look(true), (None, 0), "as they were");
        // another inode, of the same length and text
        put(&one, "1");
        assert_eq!(look(true), (Some(Ok(())), 1));
        assert_eq!(look(true), (None, 1));
        put(&other, "2");
        assert_eq!(look(false), (Some(Err("broken")), 2));
        assert_eq!(look(false), (None, 3), "tried, and not told again");
        assert_eq!(look(true), (Some(Ok(())), 4));
        assert_eq!(look(true), (None, 4));
        std::fs::remove_file(&one).unwrap();
        assert_eq!(look(false), (Some(Err("broken")), 5), "each trouble is told");
        std::os::unix::fs::symlink(&other, &one).unwrap();
        assert_eq!(look(true), (Some(Ok(())), 6));
        // where a link leads to
        put(&other, "3");
        assert_eq!(look(true), (Some(Ok(())), 7));
        let mut unread = Followed::unread([&one]);
        assert_eq!([(); 2].map(|()| unread.look(|| Ok::<_, ()>(()))), [Some(Ok(())), None]);
    }
}
