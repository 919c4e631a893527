//! Texts: PEM, base64, serial numbers.

use crate::error::VaultError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// DER that is stored as base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Der(pub(super) Vec<u8>);

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// RFC 7468 §2, without a line's end at the end, as clients of this API have it. Wiped, for it may be of a private key.
pub(super) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40));
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----"));
    pem
}

pub(super) fn certificate_pem(der: &[u8]) -> String {
    pem(CERTIFICATE, der).to_string()
}

pub(super) fn base64(der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(der))
}

/// All certificates of a bundle, at most `most`.
pub(super) fn certificates(field: &'static str, bundle: &str, most: usize) -> Result<Vec<Vec<u8>>, VaultError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    let found = found.map_err(|_| VaultError::field(field, "malformed PEM"))?;
    if found.is_empty() || found.len() > most {
        return Err(VaultError::field(field, format!("1 to {most} certificates in PEM are expected")));
    }
    Ok(found.into_iter().map(|der| der.as_ref().to_vec()).collect())
}

/// `17:67:16:…`, in pairs.
pub(super) fn colons(serial: &str) -> String {
    let pairs = serial.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.collect::<Vec<_>>().join(":")
}

/// A serial number as callers write it, with colons or hyphens between or without: in lower case, in whole bytes. `None`: none.
pub(super) fn serial(raw: &str) -> Option<String> {
    let digits: String = raw.chars().filter(|c| !matches!(c, ':' | '-')).collect::<String>().to_ascii_lowercase();
    let sound = (2..=2 * SERIAL_BYTES).contains(&digits.len()) && digits.len().is_multiple_of(2);
    (sound && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

/// Into an answer, which is wiped.
pub(super) fn expose<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const LIST: &str = "X509 CRL";
pub(super) const REQUEST: &str = "CERTIFICATE REQUEST";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";
pub(super) const SERIAL_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_has_one_form_in_the_store() {
        for (raw, read) in [
            ("0a:FF", Some("0aff")),
            ("0a-ff", Some("0aff")),
            ("0AFF", Some("0aff")),
            ("a:ff", None),
            ("", None),
            ("zz", None),
            ("../..", None),
            (&"00:".repeat(21), None),
        ] {
            assert_eq!(serial(raw).as_deref(), read, "{raw}");
        }
        assert_eq!(colons("0aff17"), "0a:ff:17");
    }

    #[test]
    fn pem_is_read_back() {
        for length in [1, 47, 48, 49, 200] {
            let der = vec![7; length];
            assert_eq!(certificates("certificate", &certificate_pem(&der), 1).unwrap(), [der]);
        }
        let two = [certificate_pem(b"1"), certificate_pem(b"2")].join("\n");
        assert!(certificates("certificate", &two, 1).is_err() && certificates("certificate", "", 9).is_err());
    }
}
