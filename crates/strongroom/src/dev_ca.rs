//! The development CA: made on the first run, signs one server certificate, and its key is not kept.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::net::IpAddr;
use std::path::Path;

use crate::files;

/// Writes `ca.pem`, `server.pem` and `server-key.pem` (0600) into `folder`, for `localhost` and `address`.
pub fn write(folder: &Path, address: IpAddr) -> Result<()> {
    let ca_key = KeyPair::generate().context("cannot make a CA key")?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "Strongroom development CA");
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut names = vec!["localhost".to_owned(), address.to_string()];
    names.extend(["127.0.0.1", "::1"].into_iter().filter(|name| *name != address.to_string()).map(str::to_owned));
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;

    files::write_secret(&folder.join("server-key.pem"), key.serialize_pem().as_bytes())?;
    files::write_public(&folder.join("server.pem"), certificate.pem().as_bytes())?;
    // last: its presence says that the others are whole
    files::write_public(&folder.join("ca.pem"), ca_certificate.pem().as_bytes())
}
