//! A request, as the pipeline sees it.
//!
//! Always: a path is decided on and served in the very bytes that were checked here.

use crate::body::Body;
use crate::error::VaultError;
use envelope::SecretBytes;
use identity::{PeerCertificate, RequestInfo};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest path, bytes.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most segments of a path.
pub const SEGMENTS_MAX: usize = 64;

/// What is to be done, whatever the method was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Read,
    List,
    /// POST and PUT.
    Write,
    Patch,
    Delete,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// A path below `/v1/`: 1 to 64 segments between single slashes, perhaps one at the end.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiPath(Box<str>);

impl ApiPath {
    /// From the percent-encoded path of a URI behind `/v1/`.
    pub fn parse(encoded: &str) -> Result<Self, VaultError> {
        let refused = |why: &'static str| VaultError::field("path", why);
        if encoded.len() > 3 * PATH_BYTES_MAX {
            return Err(refused("too long"));
        }
        let path = decode(encoded).ok_or_else(|| refused("malformed percent-encoding, or no UTF-8"))?;
        let segments = path.strip_suffix('/').unwrap_or(&path).split('/');
        if path.len() > PATH_BYTES_MAX || segments.clone().count() > SEGMENTS_MAX {
            return Err(refused("too long"));
        }
        for segment in segments {
            if matches!(segment, "" | "." | "..") {
                return Err(refused("an empty segment, `.` or `..`"));
            }
            if segment.chars().any(is_deceptive) {
                return Err(refused("a character that cannot be seen, or looks like a slash or a dot"));
            }
        }
        Ok(Self(path.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As records tell it: what looks like a token stands there as a mark.
    pub fn told(&self) -> Cow<'_, str> {
        without_tokens(&self.0)
    }

    /// Without the slash at the end: only a list is asked for with one.
    pub(crate) fn trim(&mut self) {
        if let Some(trimmed) = self.0.strip_suffix('/') {
            self.0 = trimmed.into();
        }
    }

    /// Without the bytes that named a namespace.
    pub(crate) fn go_on_from(&mut self, at: usize) {
        if let Some(rest) = self.0.get(at..).filter(|rest| at > 0 && !rest.is_empty()) {
            self.0 = rest.into();
        }
    }

    pub(crate) fn replace(&mut self, path: String) {
        self.0 = path.into();
    }
}

/// A path in which each segment that begins as our tokens do is a mark: clients of old put them there.
pub fn without_tokens(path: &str) -> Cow<'_, str> {
    let is_token = |segment: &str| TOKENS.iter().any(|prefix| segment.starts_with(prefix));
    if !path.split('/').any(is_token) {
        return Cow::Borrowed(path);
    }
    let marked = path.split('/').map(|segment| if is_token(segment) { "(token)" } else { segment });
    Cow::Owned(marked.collect::<Vec<_>>().join("/"))
}

/// With what the text of a token begins.
const TOKENS: [&str; 3] = ["sr.", "srb.", "srw."];

/// Each `%xx` once; `%2f` would be a slash that is none.
fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                let mut decoded = [0];
                hex::decode_to_slice(pair, &mut decoded).ok()?;
                Some(decoded[0]).filter(|byte| *byte != b'/')?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// Controls, white space but the plain one, format characters, and what looks like `/`, `\` or `.`.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c,
            '\\' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}'
            | '\u{2044}' | '\u{2215}' | '\u{29f8}' | '\u{29f9}' | '\u{ff0f}' | '\u{ff3c}' | '\u{2216}'
            | '\u{2024}' | '\u{fe52}' | '\u{ff0e}' | '\u{2025}' | '\u{2026}')
}

impl fmt::Debug for ApiPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A parameter of the URI's query.
pub type Parameter = (Box<str>, Box<str>);

#[derive(Debug)]
pub struct Call {
    pub verb: Verb,
    /// The namespace that is named beside the path, as [`crate::namespace::parse_named`] makes it; nothing for the root.
    pub namespace: Box<str>,
    pub path: ApiPath,
    pub parameters: Vec<Parameter>,
    pub body: Body,
    pub token: Option<SecretBytes>,
    pub certificate: Option<Arc<PeerCertificate>>,
    /// The answer is to be wrapped, for so long.
    pub wrap_ttl: Option<Duration>,
    /// What is made by this call (a wrapping token, a SecretID, a login's token) counts only beside the client certificate
    /// of this SHA-256.
    pub bind: Option<[u8; 32]>,
    pub info: Arc<RequestInfo>,
}

impl Call {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| &**found == name).map(|(_, value)| &**value)
    }

    /// A whole number from 0 to `most`, of the query.
    pub fn count(&self, name: &'static str, most: u32) -> Result<Option<u32>, VaultError> {
        let Some(text) = self.parameter(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number <= most);
        number.map(Some).ok_or_else(|| VaultError::field(name, format!("not a whole number from 0 to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_hides_or_deceives_is_refused() {
        let (long, deep) = ("a".repeat(PATH_BYTES_MAX + 1), vec!["a"; SEGMENTS_MAX + 1].join("/"));
        for path in [
            "",
            "/",
            "/a",
            "a//b",
            "a/",
            "a/b//",
            "a/./b",
            "a/../b",
            "..",
            "a/%2e%2e/b",
            "a/%2E/b",
            "a%2fb",
            "a%2Fb",
            "a%00b",
            "a%0ab",
            "a%7fb",
            "a%",
            "a%2",
            "a%zz",
            "a%ff",
            "a%c3",
            "a%5cb",
            "a%e2%80%8bb",
            "a%e2%88%95b",
            "a%ef%bc%8fb",
            "a%ef%bc%8eb",
            "a%c2%a0b",
            &long,
            &deep,
        ] {
            let sound = ApiPath::parse(path).is_ok();
            assert_eq!(sound, path == "a/", "{path:?}");
        }
        for (path, told) in
            [("auth/token/lookup/sr.abc", "auth/token/lookup/(token)"), ("a/srb.x/b", "a/(token)/b"), ("a/b", "a/b")]
        {
            assert_eq!(ApiPath::parse(path).unwrap().told(), told);
        }
        for (path, read) in [("secret/data/a", "secret/data/a"), ("a%20b/%C3%A4%25", "a b/ä%"), ("a/B", "a/B")] {
            assert_eq!(ApiPath::parse(path).unwrap().as_str(), read);
        }
    }
}
