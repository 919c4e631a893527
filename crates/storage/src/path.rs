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
        let sound = raw.len() <= PATH_BYTES_MAX && segments_of(raw).is_some_and(|count| count <= SEGMENTS_MAX);
        if sound { Ok(Self(raw.into())) } else { Err(MalformedPath) }
    }

    /// A path below this one.
    pub fn join(&self, rest: &str) -> Result<Self, MalformedPath> {
        let len = self.0.len() + 1 + rest.len();
        let sound = |count| count + self.segments().count() <= SEGMENTS_MAX;
        if len > PATH_BYTES_MAX || !segments_of(rest).is_some_and(sound) {
            return Err(MalformedPath);
        }
        let mut path = String::with_capacity(len);
        path.push_str(&self.0);
        path.push('/');
        path.push_str(rest);
        Ok(Self(path.into()))
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

/// How many, where each is one.
fn segments_of(raw: &str) -> Option<usize> {
    let (mut count, mut begins) = (1, 0);
    let legal = |segment: &[u8]| !matches!(segment, b"" | b"." | b"..");
    for (at, byte) in raw.bytes().enumerate() {
        if byte == b'/' {
            if !legal(raw.as_bytes().get(begins..at)?) {
                return None;
            }
            (count, begins) = (count + 1, at + 1);
        } else if !byte.is_ascii_graphic() {
            return None;
        }
    }
    legal(raw.as_bytes().get(begins..)?).then_some(count)
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

    proptest::proptest! {
        #[test]
        fn a_path_is_what_its_segments_are(raw in "[a./ \u{e9}]{0,24}") {
            let legal = |segment: &str| {
                !matches!(segment, "" | "." | "..") && segment.bytes().all(|byte| byte.is_ascii_graphic())
            };
            let sound = raw.split('/').count() <= SEGMENTS_MAX && raw.split('/').all(legal);
            proptest::prop_assert_eq!(EntryPath::parse(&raw).is_ok(), sound);
        }
    }

    #[test]
    fn what_is_joined_is_what_would_be_parsed() {
        let path = EntryPath::parse("a/bc").unwrap();
        let (long, deep) = ("x".repeat(PATH_BYTES_MAX - 5), vec!["d"; SEGMENTS_MAX - 2].join("/"));
        let (longer, deeper) = (format!("{long}x"), format!("{deep}/d"));
        for (rest, sound) in [
            ("d", true),
            ("d/e", true),
            (&long, true),
            (&longer, false),
            (&deep, true),
            (&deeper, false),
            ("", false),
            ("/d", false),
            ("d/", false),
            ("d//e", false),
            (".", false),
            ("..", false),
            ("../d", false),
            ("...", true),
            ("d e", false),
            ("d\n", false),
        ] {
            let joined = path.join(rest);
            assert_eq!(joined.is_ok(), sound, "{rest:?}");
            assert_eq!(joined, EntryPath::parse(&format!("a/bc/{rest}")), "{rest:?}");
        }
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let path = EntryPath::parse("a/bc/d").unwrap();
        for (prefix, starts) in [("a", true), ("a/bc", true), ("a/b", false), ("a/bc/d", true), ("a/bc/d/e", false)] {
            assert_eq!(path.starts_with(&EntryPath::parse(prefix).unwrap()), starts, "{prefix}");
        }
    }
}
