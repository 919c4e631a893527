//! Client certificates, and the roles by which they stand for somebody.

use crate::error::IdentityError;
use crate::name::{PolicyName, RoleName};
use std::sync::Arc;

/// Longest common name or alternative name that is matched, bytes.
pub const MATCH_BYTES_MAX: usize = 256;
/// Alternative names of a certificate that are looked at.
pub const SANS_MAX: usize = 64;

/// Who vouches for a client certificate whose key its holder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nobody yet: tokens count beside it that are bound to it, and an auth method may judge it by its own authorities.
    #[default]
    Shown,
    /// The listener's authorities: it stands for who a role says.
    Verified,
}

/// What is known of a client certificate, whose key its holder has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCertificate {
    /// SHA-256 of its DER; it determines the rest.
    pub thumbprint: [u8; 32],
    pub common_name: Option<String>,
    /// DNS names, URIs and e-mail addresses.
    pub sans: Vec<String>,
    pub standing: Standing,
    /// DER as it was shown, the certificate itself first.
    pub chain: Arc<[Box<[u8]>]>,
}

/// How a role recognises its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateMatch {
    Thumbprint([u8; 32]),
    CommonName(String),
    SubjectAlternativeName(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRole {
    pub name: RoleName,
    pub matches: CertificateMatch,
    pub policies: Arc<[PolicyName]>,
}

impl CertificateRole {
    /// Refuses what no role may have: no policy or too many, `root`, an empty or endless name to match.
    pub fn check(&self) -> Result<(), IdentityError> {
        match &self.matches {
            CertificateMatch::Thumbprint(_) => {}
            CertificateMatch::CommonName(name) if matchable(name) => {}
            CertificateMatch::SubjectAlternativeName(name) if matchable(name) => {}
            CertificateMatch::CommonName(_) => return Err(IdentityError::InvalidField("common_name")),
            CertificateMatch::SubjectAlternativeName(_) => {
                return Err(IdentityError::InvalidField("subject_alternative_name"));
            }
        }
        let sound = (1..=crate::token::POLICIES_MAX).contains(&self.policies.len());
        if sound && !self.policies.iter().any(PolicyName::is_root) {
            Ok(())
        } else {
            Err(IdentityError::InvalidField("policies"))
        }
    }
}

impl CertificateMatch {
    /// Kind and value, kept apart: what stands in storage is their keyed hash.
    pub(crate) fn label_and_value(&self) -> (&'static [u8], &[u8]) {
        match self {
            Self::Thumbprint(thumbprint) => (LABEL_THUMBPRINT, thumbprint),
            Self::CommonName(name) => (LABEL_COMMON_NAME, name.as_bytes()),
            Self::SubjectAlternativeName(name) => (LABEL_SAN, name.as_bytes()),
        }
    }
}

impl PeerCertificate {
    /// What a role may recognise it by, the most specific first.
    pub(crate) fn labels_and_values(&self) -> Vec<(&'static [u8], &[u8])> {
        let sans = self.sans.iter().take(SANS_MAX).filter(|name| matchable(name));
        let common_name = self.common_name.iter().filter(|name| matchable(name));
        std::iter::once((LABEL_THUMBPRINT, &self.thumbprint[..]))
            .chain(sans.map(|name| (LABEL_SAN, name.as_bytes())))
            .chain(common_name.map(|name| (LABEL_COMMON_NAME, name.as_bytes())))
            .collect()
    }
}

fn matchable(name: &str) -> bool {
    (1..=MATCH_BYTES_MAX).contains(&name.len())
}

const LABEL_THUMBPRINT: &[u8] = b"identity/certificate/thumbprint";
const LABEL_COMMON_NAME: &[u8] = b"identity/certificate/common-name";
const LABEL_SAN: &[u8] = b"identity/certificate/san";
