//! What the library leaves out of an authority that is pinned: it keeps its name and its key.

use super::{EXPIRED, MALFORMED, NOT_AUTHORITY, NOT_YET, TOO_LONG, USAGE};
use envelope::Timestamp;
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints};
use x509_cert::time::Validity;

/// Whether the authority's own certificate lets it stand above so many others, for clients, now.
pub(super) fn check(der: &[u8], between: usize, now: Timestamp) -> Result<(), &'static str> {
    let tbs = Certificate::from_der(der).map_err(|_| MALFORMED)?.tbs_certificate;
    check_time(tbs.validity, now)?;
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

pub(super) fn is_of_now(der: &[u8], now: Timestamp) -> bool {
    Certificate::from_der(der).is_ok_and(|read| check_time(read.tbs_certificate.validity, now).is_ok())
}

fn check_time(validity: Validity, now: Timestamp) -> Result<(), &'static str> {
    let millis = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    if millis(validity.not_after.to_unix_duration()) < now.unix_millis() {
        return Err(EXPIRED);
    }
    if millis(validity.not_before.to_unix_duration()) > now.unix_millis() {
        return Err(NOT_YET);
    }
    Ok(())
}

/// Whether it says which names may stand below it, of a kind that a common name may look like. What cannot be read does.
pub(super) fn constrains_names(der: &[u8]) -> bool {
    let read = || {
        let told = Certificate::from_der(der).ok()?.tbs_certificate.get::<NameConstraints>().ok()?;
        let Some((_, NameConstraints { permitted_subtrees, excluded_subtrees })) = told else { return Some(false) };
        let mut all = permitted_subtrees.into_iter().chain(excluded_subtrees).flatten();
        // a subject is itself compared with a directory's names, and an address is nobody's name
        Some(!all.all(|tree| matches!(tree.base, GeneralName::DirectoryName(_) | GeneralName::IpAddress(_))))
    };
    read().unwrap_or(true)
}

/// clientAuth, and anyExtendedKeyUsage (RFC 5280 §4.2.1.12).
const CLIENTS: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"), ObjectIdentifier::new_unwrap("2.5.29.37.0")];
