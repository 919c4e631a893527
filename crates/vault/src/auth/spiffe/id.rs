//! SPIFFE IDs (SPIFFE-ID §2), and patterns of them. Pure.

/// `spiffe://trust-domain/path`, in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins; the text's end where there is none.
    path_at: usize,
}

/// Which paths: segments of which `+` is any, and `*` in one stands for anything within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl SpiffeId {
    /// Nothing is folded or decoded: what is not spelled as it must be is none.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME)?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at_checked(end)?;
        let sound = text.len() <= ID_BYTES_MAX && is_trust_domain(domain);
        let sound = sound && (path.is_empty() || path.strip_prefix('/')?.split('/').all(is_segment));
        sound.then(|| Self { text: text.to_owned(), path_at: SCHEME.len() + end })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// With its slash at the beginning, or empty.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }
}

impl Pattern {
    /// Of a path, with or without the slash at its beginning, or of a whole ID of this trust domain.
    pub fn parse(text: &str, trust_domain: &str) -> Option<Self> {
        let path = match text.strip_prefix(SCHEME) {
            Some(rest) => rest.strip_prefix(trust_domain)?.strip_prefix('/')?,
            None => text.strip_prefix('/').unwrap_or(text),
        };
        let legal = |byte: u8| is_of_segment(byte) || byte == b'*';
        let sound =
            |segment: &str| segment == "+" || (!matches!(segment, "" | "." | "..") && segment.bytes().all(legal));
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        (path.len() <= ID_BYTES_MAX && segments.iter().all(|segment| sound(segment))).then_some(Self(segments))
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        let Some(path) = id.path().strip_prefix('/') else { return false };
        let mut segments = path.split('/');
        let all = self.0.iter().all(|pattern| {
            segments.next().is_some_and(|segment| pattern == "+" || crate::glob::is_like(pattern, segment))
        });
        all && segments.next().is_none()
    }
}

/// §2.1: lower case, and no port.
pub(super) fn is_trust_domain(text: &str) -> bool {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal)
}

fn is_of_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// §2.2.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.bytes().all(is_of_segment)
}

const SCHEME: &str = "spiffe://";
const ID_BYTES_MAX: usize = 2048;
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_spelled_in_one_way() {
        for (text, path) in [
            ("spiffe://example.org/ns/a/sa/web", Some("/ns/a/sa/web")),
            ("spiffe://example.org", Some("")),
            ("spiffe://a_b-c.1/A.b_c-1", Some("/A.b_c-1")),
            ("spiffe://example.org/", None),
            ("spiffe://example.org//a", None),
            ("spiffe://example.org/a/", None),
            ("spiffe://example.org/a/../b", None),
            ("spiffe://example.org/./b", None),
            ("spiffe://example.org/a%2fb", None),
            ("spiffe://example.org/a?b", None),
            ("spiffe://example.org/a#b", None),
            ("spiffe://example.org/\u{430}", None),
            ("spiffe://Example.org/a", None),
            ("spiffe://example.org:443/a", None),
            ("spiffe://u@example.org/a", None),
            ("spiffe:///a", None),
            ("SPIFFE://example.org/a", None),
            ("https://example.org/a", None),
            ("spiffe:/example.org/a", None),
            ("", None),
            (&format!("spiffe://{}/a", "a".repeat(256)), None),
            (&format!("spiffe://a/{}", "a".repeat(2048)), None),
        ] {
            let id = SpiffeId::parse(text);
            assert_eq!(id.as_ref().map(SpiffeId::path), path, "{text}");
            assert!(id.is_none_or(|id| id.as_str() == text && !id.trust_domain().contains('/')));
        }
    }

    #[test]
    fn a_pattern_matches_segment_by_segment() {
        for (pattern, path, matches) in [
            ("/ns/*/sa/web", "/ns/a/sa/web", true),
            ("ns/+/sa/web", "/ns/a/sa/web", true),
            ("spiffe://example.org/ns/*/sa/web", "/ns/a/sa/web", true),
            ("/ns/*/sa/web", "/ns/a/b/sa/web", false),
            ("/ns/*/sa/web", "/ns/a/sa/web/x", false),
            ("/ns/*", "/ns/a/sa/web", false),
            ("/ns/a-*", "/ns/a-b", true),
            ("/ns/a-*", "/ns/b-a-", false),
            ("/*", "/a", true),
            ("/*", "", false),
            ("/a", "/A", false),
        ] {
            let id = SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap();
            assert_eq!(Pattern::parse(pattern, "example.org").unwrap().matches(&id), matches, "{pattern} {path}");
        }
        for malformed in
            ["", "/", "a//b", "/a/", "/..", "/a b", "/a?", "spiffe://evil.org/a", "spiffe://example.orgx/a", "a/++"]
        {
            assert_eq!(Pattern::parse(malformed, "example.org"), None, "{malformed}");
        }
    }
}
