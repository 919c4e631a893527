//! Authorities' lists of what they have revoked, as somebody uploads them or their server tells them.

use crate::error::VaultError;
use envelope::Timestamp;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use std::collections::HashSet;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode, Encode};
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
}

impl Known {
    pub fn read(der: Vec<u8>) -> Result<Self, &'static str> {
        let list = webpki::OwnedCertRevocationList::from_der(&der).map_err(|_| super::LIST_UNREADABLE)?;
        let read = CertificateList::from_der(&der).map_err(|_| super::LIST_UNREADABLE)?.tbs_cert_list;
        let issuer = read.issuer.to_der().map_err(|_| super::LIST_UNREADABLE)?;
        let this_update = timestamp(read.this_update);
        let revoked = read.revoked_certificates.unwrap_or_default();
        let serials = revoked.iter().map(|one| one.serial_number.as_bytes().to_vec()).collect();
        Ok(Self { list: list.into(), issuer, serials, this_update })
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
