//! What a client certificate says of its holder. Nothing of it counts before the path was checked.

use super::{AUTHORITY, MALFORMED, TWICE, USAGE};
use envelope::Timestamp;
use std::collections::BTreeSet;
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, SubjectKeyIdentifier,
};

#[derive(Debug, Clone, Default)]
pub struct Leaf {
    pub common_name: String,
    pub units: Vec<String>,
    pub dns: Vec<String>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// Hexadecimal, in lower case.
    pub serial: String,
    pub key_id: String,
    pub authority_key_id: String,
    pub not_after: Timestamp,
    /// Its usages are named, and clients' is one of them.
    pub for_clients: bool,
    /// Its key's usages are named, and signatures are one of them.
    pub signs: bool,
    /// Each extension's object id, and its content.
    pub extensions: Vec<(String, Vec<u8>)>,
}

impl Leaf {
    /// Of a certificate that is no authority's and signs for itself, each thing said once.
    pub fn read(der: &[u8]) -> Result<Self, &'static str> {
        let tbs = Certificate::from_der(der).map_err(|_| MALFORMED)?.tbs_certificate;
        let extensions = tbs.extensions.as_deref().unwrap_or_default();
        let mut seen = BTreeSet::new();
        if !extensions.iter().all(|extension| seen.insert(extension.extn_id)) {
            return Err(TWICE);
        }
        let limits = tbs.get::<BasicConstraints>().map_err(|_| MALFORMED)?;
        if limits.is_some_and(|(_, limits)| limits.ca) {
            return Err(AUTHORITY);
        }
        // RFC 5280 §4.2.1.3: TLS's handshake is signed
        let usage = tbs.get::<KeyUsage>().map_err(|_| MALFORMED)?;
        if usage.is_some_and(|(_, usage)| !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign()) {
            return Err(USAGE);
        }
        let mut leaf = Self {
            signs: usage.is_some(),
            serial: hex::encode(tbs.serial_number.as_bytes()),
            not_after: Timestamp::from_unix_millis(
                u64::try_from(tbs.validity.not_after.to_unix_duration().as_millis()).unwrap_or(u64::MAX),
            ),
            ..Self::default()
        };
        for extension in extensions {
            leaf.extensions.push((extension.extn_id.to_string(), extension.extn_value.as_bytes().to_vec()));
        }
        let extended = tbs.get::<ExtendedKeyUsage>().map_err(|_| MALFORMED)?;
        leaf.for_clients = extended.is_some_and(|(_, ExtendedKeyUsage(all))| all.contains(&CLIENT_AUTH));
        if let Some((_, SubjectKeyIdentifier(id))) = tbs.get().map_err(|_| MALFORMED)? {
            leaf.key_id = hex::encode(id.as_bytes());
        }
        let above = tbs.get::<AuthorityKeyIdentifier>().map_err(|_| MALFORMED)?;
        if let Some(id) = above.and_then(|(_, above)| above.key_identifier) {
            leaf.authority_key_id = hex::encode(id.as_bytes());
        }
        leaf.read_subject(&tbs.subject)?;
        if let Some((_, SubjectAltName(names))) = tbs.get().map_err(|_| MALFORMED)? {
            leaf.read_names(&names);
        }
        Ok(leaf)
    }

    fn read_subject(&mut self, subject: &x509_cert::name::Name) -> Result<(), &'static str> {
        let mut named = false;
        for part in subject.0.iter().flat_map(|part| part.0.iter()) {
            let is_text = matches!(part.value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
            let text = is_text.then(|| String::from_utf8(part.value.value().to_vec()).ok()).flatten();
            match part.oid {
                // who has two names is nobody
                COMMON_NAME if named => return Err(TWICE),
                COMMON_NAME => {
                    named = true;
                    self.common_name = text.ok_or(MALFORMED)?;
                }
                UNIT => self.units.extend(text),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_names(&mut self, names: &[GeneralName]) {
        for name in names {
            match name {
                GeneralName::DnsName(name) => self.dns.push(name.as_str().to_owned()),
                GeneralName::Rfc822Name(name) => self.emails.push(name.as_str().to_owned()),
                GeneralName::UniformResourceIdentifier(name) => self.uris.push(name.as_str().to_owned()),
                GeneralName::OtherName(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EdiPartyName(_)
                | GeneralName::IpAddress(_)
                | GeneralName::RegisteredId(_) => {}
            }
        }
    }
}

const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
