//! Authorities' lists of what they have revoked, as somebody uploads them or their server tells them.

use crate::error::VaultError;
use envelope::Timestamp;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

/// What is known of a list.
#[derive(Debug)]
pub struct List {
    pub der: Vec<u8>,
    pub serials: Vec<String>,
    pub next_update: Timestamp,
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
    let next = list.next_update.ok_or_else(refused)?.to_unix_duration();
    let next_update = Timestamp::from_unix_millis(u64::try_from(next.as_millis()).unwrap_or(u64::MAX));
    let revoked = list.revoked_certificates.unwrap_or_default();
    let serials = revoked.iter().map(|one| hex::encode(one.serial_number.as_bytes())).collect();
    Ok(List { der, serials, next_update })
}
