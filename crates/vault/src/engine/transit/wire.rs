//! Texts: base64, and `vault:vN:` in front of whatever a version of a key has made.

use crate::body::Body;
use crate::error::VaultError;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use envelope::SecretBytes;
use kms::KmsError;
use serde::Serializer;
use zeroize::Zeroizing;

/// A field in base64.
pub(super) fn bytes(body: &Body, field: &'static str) -> Result<Option<SecretBytes>, VaultError> {
    let Some(text) = body.string(field)? else { return Ok(None) };
    let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| VaultError::field(field, "not base64"))?;
    Ok(Some(SecretBytes::from_vec(bytes)))
}

/// A field in base64 that must be there, and may be empty.
pub(super) fn required(body: &Body, field: &'static str) -> Result<SecretBytes, VaultError> {
    bytes(body, field)?.ok_or_else(|| VaultError::field(field, "missing"))
}

/// Written once, where it is wiped.
pub(super) fn base64(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes))
}

pub(super) fn tagged(version: u32, bytes: &[u8]) -> String {
    let mut text = format!("vault:v{version}:");
    text.reserve_exact(bytes.len().div_ceil(3) * 4);
    STANDARD.encode_string(bytes, &mut text);
    text
}

pub(super) fn tagged_url_safe(version: u32, bytes: &[u8]) -> String {
    format!("vault:v{version}:{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The version and what follows; version 0 is the first, as in texts of old.
pub(super) fn untag(text: &str) -> Option<(u32, &str)> {
    let (version, rest) = text.strip_prefix("vault:v")?.split_once(':')?;
    let plain = (1..=9).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_digit());
    let version: u32 = version.parse().ok().filter(|_| plain)?;
    Some((version.max(1), rest))
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Into an answer, which is wiped.
pub(super) fn expose<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

pub(super) fn untag_bytes(text: &str) -> Option<(u32, Vec<u8>)> {
    let (version, rest) = untag(text)?;
    Some((version, decode(rest)?))
}

pub(super) fn untag_url_safe(text: &str) -> Option<(u32, Vec<u8>)> {
    let (version, rest) = untag(text)?;
    Some((version, URL_SAFE_NO_PAD.decode(rest).ok()?))
}

/// What a caller sent, as far as an error may repeat it.
pub(super) fn shown(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().take(SHOWN_CHARS_MAX).filter(plain).collect()
}

/// All that does not open wears one face.
pub(super) fn rejected() -> VaultError {
    VaultError::Invalid("cipher: message authentication failed".into())
}

/// In the words of this engine's fields.
pub(super) fn told(error: KmsError) -> VaultError {
    if matches!(error, KmsError::InvalidCiphertext | KmsError::IncorrectKey) {
        return rejected();
    }
    if error == KmsError::LimitExceeded {
        return VaultError::Invalid(
            format!("the key has {} versions, and takes no more", kms::KEY_VERSIONS_MAX).into(),
        );
    }
    match error.field() {
        Some("key_version") => VaultError::field("key_version", "no such version of the key, or it was trimmed"),
        Some("message") => VaultError::field("input", "1 to 4096 bytes"),
        Some("ciphertext_blob") => rejected(),
        Some(_) | None => error.into(),
    }
}

const SHOWN_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_in_one_spelling() {
        for (text, read) in [
            ("vault:v1:AAAA", Some((1, "AAAA"))),
            ("vault:v0:AAAA", Some((1, "AAAA"))),
            ("vault:v12:", Some((12, ""))),
            ("vault:v:AAAA", None),
            ("vault:v+1:AAAA", None),
            ("vault:v-1:AAAA", None),
            ("vault:v 1:AAAA", None),
            ("vault:v4294967296:AAAA", None),
            ("vault:v0000000001:AAAA", None),
            ("vault:1:AAAA", None),
            ("Vault:v1:AAAA", None),
            ("AAAA", None),
            ("", None),
        ] {
            assert_eq!(untag(text), read, "{text}");
        }
        assert_eq!(untag_bytes(&tagged(7, b"\xff\xfe")), Some((7, b"\xff\xfe".to_vec())));
        assert_eq!(untag_url_safe(&tagged_url_safe(7, b"\xff\xfe")), Some((7, b"\xff\xfe".to_vec())));
        assert_eq!(shown("ml-dsa\n<script>"), "ml-dsascript");
    }
}
