//! Authorities' lists of what they have revoked, as somebody uploads them or their server tells them.

use crate::error::VaultError;
use envelope::Timestamp;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use std::cmp::Reverse;
use std::collections::HashSet;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::AuthorityKeyIdentifier;
use x509_cert::time::Time;

/// What is known of a list.
#[derive(Debug)]
pub struct List {
    pub der: Vec<u8>,
    pub serials: Vec<String>,
    /// DER of its name.
    pub issuer: Vec<u8>,
    pub this_update: Timestamp,
    pub next_update: Timestamp,
}

/// A list, read once.
#[derive(Debug)]
pub struct Known {
    pub(super) list: webpki::CertRevocationList<'static>,
    pub(super) issuer: Vec<u8>,
    /// As they stand in certificates.
    pub(super) serials: HashSet<Vec<u8>>,
    pub(super) this_update: Timestamp,
    /// The key that has signed it, where it says so.
    key_id: Option<Vec<u8>>,
}

/// Those that one of `chain` stands on refuse it, whatever else tells. Of several of one name the first counts: it is the
/// newest of the key's that has signed, as the certificates say (authorities that have changed their key keep their name).
pub(super) fn in_order<'k>(lists: &'k [Known], chain: &[Box<[u8]>]) -> Result<Vec<&'k Known>, &'static str> {
    let mut ordered: Vec<&Known> = lists.iter().collect();
    if ordered.is_empty() {
        return Ok(ordered);
    }
    let mut keys = HashSet::new();
    for der in chain {
        let tbs = Certificate::from_der(der).map_err(|_| super::MALFORMED)?.tbs_certificate;
        let issuer = tbs.issuer.to_der().map_err(|_| super::MALFORMED)?;
        if lists.iter().any(|list| list.issuer == issuer && list.serials.contains(tbs.serial_number.as_bytes())) {
            return Err(super::REVOKED);
        }
        let above = tbs.get::<AuthorityKeyIdentifier>().map_err(|_| super::MALFORMED)?;
        keys.extend(above.and_then(|(_, above)| above.key_identifier).map(|id| id.as_bytes().to_vec()));
    }
    let is_theirs = |list: &Known| list.key_id.as_ref().is_some_and(|id| keys.contains(id));
    ordered.sort_by_key(|list| Reverse((is_theirs(list), list.this_update)));
    Ok(ordered)
}

impl Known {
    pub fn read(der: Vec<u8>) -> Result<Self, &'static str> {
        let list = webpki::OwnedCertRevocationList::from_der(&der).map_err(|_| super::LIST_UNREADABLE)?;
        let read = CertificateList::from_der(&der).map_err(|_| super::LIST_UNREADABLE)?.tbs_cert_list;
        let issuer = read.issuer.to_der().map_err(|_| super::LIST_UNREADABLE)?;
        let this_update = timestamp(read.this_update);
        let revoked = read.revoked_certificates.unwrap_or_default();
        let serials = revoked.iter().map(|one| one.serial_number.as_bytes().to_vec()).collect();
        let mut extensions = read.crl_extensions.iter().flatten();
        let above = extensions.find(|extension| extension.extn_id == AuthorityKeyIdentifier::OID);
        let above = above.and_then(|found| AuthorityKeyIdentifier::from_der(found.extn_value.as_bytes()).ok());
        let key_id = above.and_then(|above| above.key_identifier).map(|id| id.as_bytes().to_vec());
        Ok(Self { list: list.into(), issuer, serials, this_update, key_id })
    }
}

fn timestamp(time: Time) -> Timestamp {
    Timestamp::from_unix_millis(u64::try_from(time.to_unix_duration().as_millis()).unwrap_or(u64::MAX))
}

/// PEM or DER. One without an end is none: nobody would know that it is too old.
pub fn read(field: &'static str, bytes: &[u8]) -> Result<List, VaultError> {
    let refused = || VaultError::field(field, "no list of revoked certificates in PEM or DER that says when it ends");
    let der = match bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        true => CertificateRevocationListDer::from_pem_slice(bytes).map_err(|_| refused())?.as_ref().to_vec(),
        false => bytes.to_vec(),
    };
    let list = CertificateList::from_der(&der).map_err(|_| refused())?.tbs_cert_list;
    // what will be verified with it must be able to
    webpki::OwnedCertRevocationList::from_der(&der).map_err(|_| refused())?;
    let next_update = timestamp(list.next_update.ok_or_else(refused)?);
    let this_update = timestamp(list.this_update);
    let issuer = list.issuer.to_der().map_err(|_| refused())?;
    let revoked = list.revoked_certificates.unwrap_or_default();
    let serials = revoked.iter().map(|one| hex::encode(one.serial_number.as_bytes())).collect();
    Ok(List { der, serials, issuer, this_update, next_update })
}
