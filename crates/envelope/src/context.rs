//! The encryption context: pairs that the caller names and that must come back unchanged; as bytes, the canonical AAD.
//!
//! Canonical form (design §4): `u32 count`, then for each pair, sorted by key bytes, `u32 len ‖ key ‖ u32 len ‖ value`.
//! UTF-8, no normalisation, no duplicates, 8 KiB at most.

use std::collections::BTreeMap;

/// Longest canonical form, in bytes.
pub const CONTEXT_BYTES_MAX: usize = 8192;

/// Why a context was refused. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedContext {
    #[error("encryption_context is longer than {CONTEXT_BYTES_MAX} bytes in canonical form")]
    TooLong,
    #[error("encryption_context has an empty key")]
    EmptyKey,
    #[error("encryption_context names a key twice")]
    DuplicateKey,
    #[error("encryption_context is not in canonical form")]
    NotCanonical,
}

/// Validated pairs. Constructing is validating.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncryptionContext {
    pairs: BTreeMap<String, String>,
}

impl EncryptionContext {
    pub fn parse<K: Into<String>, V: Into<String>>(
        raw: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, MalformedContext> {
        let mut pairs = BTreeMap::new();
        let mut len = 4;
        for (key, value) in raw {
            let (key, value) = (key.into(), value.into());
            len += 8 + key.len() + value.len();
            if len > CONTEXT_BYTES_MAX {
                return Err(MalformedContext::TooLong);
            }
            if key.is_empty() {
                return Err(MalformedContext::EmptyKey);
            }
            if pairs.insert(key, value).is_some() {
                return Err(MalformedContext::DuplicateKey);
            }
        }
        Ok(Self { pairs })
    }

    /// Reads the canonical form back; anything else, trailing bytes included, is refused.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, MalformedContext> {
        let mut rest = bytes;
        let count = take_u32(&mut rest)?;
        let mut raw = Vec::new();
        for _ in 0..count {
            raw.push((take_text(&mut rest)?, take_text(&mut rest)?));
        }
        let context = Self::parse(raw)?;
        if rest.is_empty() && context.canonical() == bytes { Ok(context) } else { Err(MalformedContext::NotCanonical) }
    }

    pub fn canonical(&self) -> Vec<u8> {
        canonical_pairs(self.pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))
    }

    /// SHA-256 of the canonical form: what the sealed format binds.
    pub fn digest(&self) -> [u8; 32] {
        crate::mac::sha256(&self.canonical())
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.pairs
    }

    /// Every pair of `subset` stands here too: AWS KMS's EncryptionContextSubset.
    pub fn contains(&self, subset: &Self) -> bool {
        subset.pairs.iter().all(|(key, value)| self.pairs.get(key) == Some(value))
    }
}

/// The canonical form of pairs that are already sorted by key and free of duplicates.
pub fn canonical_pairs<'a>(pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_u32(&mut out, pairs.len());
    for (key, value) in pairs {
        put_u32(&mut out, key.len());
        out.extend_from_slice(key);
        put_u32(&mut out, value.len());
        out.extend_from_slice(value);
    }
    out
}

#[expect(clippy::expect_used, reason = "a context is at most 8 KiB, a binding a few hundred bytes")]
fn put_u32(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u32::try_from(n).expect("pairs are far below 4 GiB").to_be_bytes());
}

fn take_u32(rest: &mut &[u8]) -> Result<usize, MalformedContext> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(MalformedContext::NotCanonical)?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head) as usize)
}

fn take_text(rest: &mut &[u8]) -> Result<String, MalformedContext> {
    let len = take_u32(rest)?;
    let (head, tail) = rest.split_at_checked(len).ok_or(MalformedContext::NotCanonical)?;
    *rest = tail;
    std::str::from_utf8(head).map(str::to_owned).map_err(|_| MalformedContext::NotCanonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_content_does() {
        let a = EncryptionContext::parse([("b", "2"), ("a", "1")]).unwrap();
        assert_eq!(a, EncryptionContext::parse([("a", "1"), ("b", "2")]).unwrap());
        assert_ne!(a.digest(), EncryptionContext::parse([("a", "12"), ("b", "")]).unwrap().digest());
        assert_eq!(EncryptionContext::default().canonical(), [0, 0, 0, 0]);
        assert_eq!(EncryptionContext::from_canonical(&a.canonical()).unwrap(), a);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let long = "x".repeat(CONTEXT_BYTES_MAX);
        for (raw, error) in [
            (vec![("", "v")], MalformedContext::EmptyKey),
            (vec![("k", "v"), ("k", "w")], MalformedContext::DuplicateKey),
            (vec![("k", long.as_str())], MalformedContext::TooLong),
        ] {
            assert_eq!(EncryptionContext::parse(raw), Err(error));
        }
        for bytes in [&[][..], &[0, 0, 0, 1], &[0, 0, 0, 0, 0], &[255; 8]] {
            assert!(EncryptionContext::from_canonical(bytes).is_err(), "{bytes:?}");
        }
        // unsorted
        let swapped = canonical_pairs([(&b"b"[..], &b""[..]), (b"a", b"")].into_iter());
        assert_eq!(EncryptionContext::from_canonical(&swapped), Err(MalformedContext::NotCanonical));
    }
}
