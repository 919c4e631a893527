//! Where an entry lives: segments, ordered byte by byte, with no way to climb out of a prefix.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest path, bytes.
pub const PATH_BYTES_MAX: usize = 512;
/// Most segments of a path.
pub const SEGMENTS_MAX: usize = 16;

/// `a/b/c`: 1 to 16 segments of visible ASCII but `/`, none of them `.` or `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an entry path")]
pub struct MalformedPath;

impl EntryPath {
    pub fn parse(raw: &str) -> Result<Self, MalformedPath> {
        let legal = |segment: &str| {
            !matches!(segment, "" | "." | "..") && segment.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        };
        let sound = raw.len() <= PATH_BYTES_MAX && raw.split('/').count() <= SEGMENTS_MAX && raw.split('/').all(legal);
        if sound { Ok(Self(raw.into())) } else { Err(MalformedPath) }
    }

    /// A path below this one.
    pub fn join(&self, rest: &str) -> Result<Self, MalformedPath> {
        Self::parse(&format!("{}/{rest}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whole segments only: `a/b` starts with `a`, `ab` does not.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.0.strip_prefix(&*prefix.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Equal, ordered and hashed as its text.
impl Borrow<str> for EntryPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_climb_or_hide() {
        for raw in
            ["", "/", "a/", "/a", "a//b", "a/../b", ".", "a/.", "a b", "a\0", "ä", "a\u{2215}b", &"x".repeat(513)]
        {
            assert!(EntryPath::parse(raw).is_err(), "{raw:?}");
        }
        let deep = vec!["a"; SEGMENTS_MAX].join("/");
        assert!(EntryPath::parse(&deep).is_ok());
        assert!(EntryPath::parse(&format!("{deep}/a")).is_err());
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let path = EntryPath::parse("a/bc/d").unwrap();
        for (prefix, starts) in [("a", true), ("a/bc", true), ("a/b", false), ("a/bc/d", true), ("a/bc/d/e", false)] {
            assert_eq!(path.starts_with(&EntryPath::parse(prefix).unwrap()), starts, "{prefix}");
        }
    }
}
