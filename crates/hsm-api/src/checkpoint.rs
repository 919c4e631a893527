//! What is signed for the audit log: the body of a C2SP `tlog-checkpoint`, and that of a batch's receipt.

use crate::message::ORIGIN_BYTES_MAX;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// `origin`, the tree's size in decimal and its root in base64, a line each. Both boundary processes sign these bytes
/// with Ed25519, and the log puts them in front of the signature lines.
pub fn note_body(origin: &str, size: u64, root: &[u8; 32]) -> Vec<u8> {
    format!("{origin}\n{size}\n{}\n", STANDARD.encode(root)).into_bytes()
}

/// Whether a log may be named so: neither body has a line more by it.
pub fn is_origin(origin: &str) -> bool {
    (1..=ORIGIN_BYTES_MAX).contains(&origin.len()) && !origin.contains(char::is_control)
}

/// Whether a log may have such a batch.
pub fn is_batch(origin: &str, first: u64, count: u32) -> bool {
    is_origin(origin) && count > 0 && first.checked_add(count.into()).is_some()
}

/// Of a batch of entries: what it is, `origin`, the number of its first entry and how many they are in decimal, and the root of
/// their tree in base64. Both boundary processes sign these bytes, too. No
/// checkpoint's third line is a number.
pub fn batch_body(origin: &str, first: u64, count: u32, root: &[u8; 32]) -> Vec<u8> {
    format!("strongroom audit batch v1\n{origin}\n{first}\n{count}\n{}\n", STANDARD.encode(root)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification (c2sp.org/tlog-checkpoint).
    #[test]
    fn the_body_is_that_of_c2sp() {
        let root = STANDARD.decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=").unwrap();
        let body = note_body("example.com/behind-the-sofa", 20_852_163, &root.try_into().unwrap());
        assert_eq!(body, b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n");
    }
}
