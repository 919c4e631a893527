//! What the library leaves out of an authority that is pinned: it keeps its name and its key.

use super::leaf::Leaf;
use super::{EXPIRED, MALFORMED, NAME_CONSTRAINT, NOT_AUTHORITY, NOT_YET, TOO_LONG, USAGE};
use envelope::Timestamp;
use std::time::Duration;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints};
use x509_cert::{Certificate, TbsCertificate};

/// Whether the authority's own certificate lets it stand above so many others, for clients, now.
pub(super) fn check(der: &[u8], between: usize, now: Timestamp) -> Result<(), &'static str> {
    let tbs = Certificate::from_der(der).map_err(|_| MALFORMED)?.tbs_certificate;
    let millis = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    if millis(tbs.validity.not_after.to_unix_duration()) < now.unix_millis() {
        return Err(EXPIRED);
    }
    if millis(tbs.validity.not_before.to_unix_duration()) > now.unix_millis() {
        return Err(NOT_YET);
    }
    let limits = tbs.get::<BasicConstraints>().map_err(|_| MALFORMED)?.map(|(_, limits)| limits);
    if limits.and_then(|limits| limits.path_len_constraint).is_some_and(|most| between > usize::from(most)) {
        return Err(TOO_LONG);
    }
    let usage = tbs.get::<KeyUsage>().map_err(|_| MALFORMED)?;
    if usage.is_some_and(|(_, usage)| !usage.key_cert_sign()) {
        return Err(NOT_AUTHORITY);
    }
    match tbs.get::<ExtendedKeyUsage>().map_err(|_| MALFORMED)? {
        Some((_, ExtendedKeyUsage(all))) if !all.iter().any(|one| CLIENTS.contains(one)) => Err(USAGE),
        Some(_) | None => Ok(()),
    }
}

/// Whether it says which names may stand below it.
pub(super) fn constrains(der: &[u8]) -> bool {
    let told = |tbs: TbsCertificate| tbs.get::<NameConstraints>().map_or(true, |found| found.is_some());
    Certificate::from_der(der).map_or(true, |certificate| told(certificate.tbs_certificate))
}

/// Constraints are compared with alternative names alone: a common name counts below them where it is one of those.
pub(super) fn common_name_is_constrained(own: &[u8]) -> Result<(), &'static str> {
    let leaf = Leaf::read(own)?;
    let mut names = leaf.dns.iter().chain(&leaf.emails).chain(&leaf.uris);
    let stands_there = leaf.common_name.is_empty() || names.any(|name| *name == leaf.common_name);
    if stands_there { Ok(()) } else { Err(NAME_CONSTRAINT) }
}

/// clientAuth, and anyExtendedKeyUsage (RFC 5280 §4.2.1.12).
const CLIENTS: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"), ObjectIdentifier::new_unwrap("2.5.29.37.0")];
