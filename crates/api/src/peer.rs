//! Who is at the other end of a connection.

use identity::Standing;
use std::ops::Deref;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;

/// Known of a connection before its first request. `strongroom::listen` puts it into each request's extensions, as an `Arc`.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address and port.
    pub addr: String,
    /// Whose key the other end has; whether anybody vouches for it, its standing tells.
    pub certificate: Option<PeerCertificate>,
}

/// What identity needs to know of a client certificate, read from its DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    read: identity::PeerCertificate,
    /// The thumbprint as records tell it: written once a connection.
    hexadecimal: Arc<str>,
}

impl PeerCertificate {
    /// Verified, without those above it.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        Self::from_chain(&[der], Standing::Verified)
    }

    /// `None` where it is no certificate, or where more than one common name or alternative-name extension leaves open who
    /// it stands for: such a one stands for nobody.
    pub fn from_chain(chain: &[impl AsRef<[u8]>], standing: Standing) -> Option<Self> {
        let der = chain.first()?.as_ref();
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = common_names.next().map(|name| name.as_str().map(str::to_owned)).transpose().ok()?;
        if !rest.is_empty() || common_names.next().is_some() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let sans = names.filter_map(name_of).take(identity::certificate::SANS_MAX).collect();
        let thumbprint = envelope::mac::sha256(der);
        let chain = chain.iter().take(CHAIN_MAX).map(|der| der.as_ref().into()).collect();
        let read = identity::PeerCertificate { thumbprint, common_name, sans, standing, chain };
        Some(Self { read, hexadecimal: hex::encode(thumbprint).into() })
    }

    pub(crate) fn hexadecimal(&self) -> Arc<str> {
        Arc::clone(&self.hexadecimal)
    }
}

impl Deref for PeerCertificate {
    type Target = identity::PeerCertificate;

    fn deref(&self) -> &Self::Target {
        &self.read
    }
}

/// Names that a role can match. Addresses and directory names are none.
///
/// Always: the text tells of which kind it is: a role that means a DNS name is not matched by a URI that reads like one.
fn name_of(name: &GeneralName<'_>) -> Option<String> {
    let (name, is_sound) = match name {
        GeneralName::DNSName(name) => (name, !name.contains([':', '/', '@'])),
        GeneralName::URI(name) => (name, name.contains(':')),
        GeneralName::RFC822Name(name) => (name, name.contains('@') && !name.contains(':')),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => return None,
    };
    is_sound.then(|| (*name).to_owned())
}

/// Certificates of a chain that are kept.
const CHAIN_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(common_names: &[&str], sans: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = sans;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_read_and_addresses_are_not() {
        let sans = vec![
            SanType::DnsName("db.example".try_into().unwrap()),
            SanType::URI("spiffe://example/db".try_into().unwrap()),
            SanType::Rfc822Name("db@example".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        let der = certificate(&["db"], sans);
        let read = PeerCertificate::from_der(&der).unwrap();
        assert_eq!(read.thumbprint, envelope::mac::sha256(&der));
        assert_eq!(read.common_name.as_deref(), Some("db"));
        assert_eq!(read.sans, ["db.example", "spiffe://example/db", "db@example"]);
        let bare = PeerCertificate::from_der(&certificate(&[], vec![])).unwrap();
        assert_eq!((bare.common_name.clone(), bare.sans.len()), (None, 0));
    }

    #[test]
    fn a_name_of_one_kind_is_never_taken_for_one_of_another() {
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let email = |text: &str| SanType::Rfc822Name(text.try_into().unwrap());
        for (san, taken) in [
            (dns("db.example"), true),
            (dns("*.example"), true),
            (dns("spiffe://example/db"), false),
            (dns("urn:db"), false),
            (dns("example/db"), false),
            (dns("db@example"), false),
            (uri("spiffe://example/db"), true),
            (uri("https://db@example/"), true),
            (uri("urn:db"), true),
            (uri("db.example"), false),
            (uri("db@example"), false),
            (email("db@example"), true),
            (email("db.example"), false),
            (email("spiffe://example/db@example"), false),
        ] {
            let read = PeerCertificate::from_der(&certificate(&["db"], vec![san.clone()])).unwrap();
            assert_eq!(read.sans.len(), usize::from(taken), "{san:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_stands_for_nobody() {
        let der = certificate(&["db"], vec![]);
        let longer = [&der[..], b"\0"].concat();
        for bytes in [&[][..], b"x", &der[..der.len() - 1], &longer] {
            assert!(PeerCertificate::from_der(bytes).is_none(), "{} bytes", bytes.len());
        }
    }
}
