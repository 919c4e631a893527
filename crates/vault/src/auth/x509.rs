//! Client certificates that auth methods judge by authorities of their own: `cert` and `spiffe`.
//!
//! Always: a whole path (RFC 5280 §6.1) to one of the authorities that are given, by rustls's own library: signatures, times,
//! name constraints, path lengths, usages; and what the authorities have revoked, where their lists are given.
//! Never: an authority of the system's, or of the listener's; a certificate of which something is known twice.

mod anchor;
pub mod leaf;
pub mod list;
pub mod ocsp;

use envelope::Timestamp;
use list::Known;
use ocsp::Link;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::time::Duration;
use webpki::aws_lc_rs as algorithms;
use webpki::{
    EndEntityCert, Error, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, VerifiedPath, anchor_from_trusted_cert,
};
use x509_cert::der::Decode;

/// By what a certificate is judged.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// DER of authorities that are believed.
    pub authorities: &'a [Vec<u8>],
    /// Their lists of what they have revoked. An authority's list counts once it is given, and must not be too old.
    pub lists: &'a [Known],
    /// An authority without a list is none.
    pub lists_required: bool,
}

/// What a path says of its leaf.
#[derive(Debug, Clone)]
pub struct Path {
    /// Some authority of it may not certify every name.
    pub names_constrained: bool,
    /// The leaf, and who has certified it.
    pub link: Link,
}

impl Path {
    /// Constraints are compared with alternative names: a common name counts below them where it is one that was compared.
    pub fn certifies_common_name(&self, leaf: &leaf::Leaf) -> Result<(), &'static str> {
        let stands_there = leaf.common_name.is_empty() || leaf.dns.contains(&leaf.common_name);
        if stands_there || !self.names_constrained { Ok(()) } else { Err(NAME_CONSTRAINT) }
    }
}

/// Whether the first of `chain` is somebody's whom one of the authorities has certified, now. Else why not.
///
/// Usages count on the whole path, where any are named (RFC 5280 §4.2.1.12); that a leaf names one, [`leaf::Leaf`] tells.
pub fn check(chain: &[Box<[u8]>], by: &By<'_>, now: Timestamp) -> Result<Path, &'static str> {
    let (own, above) = chain.split_first().ok_or(MALFORMED)?;
    if above.len() > ABOVE_MAX {
        return Err(TOO_LONG);
    }
    let own = CertificateDer::from(&**own);
    let own = EndEntityCert::try_from(&own).map_err(|error| told(&error))?;
    let above: Vec<_> = above.iter().map(|der| CertificateDer::from(&**der)).collect();
    let authorities: Vec<_> = by.authorities.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors: Vec<TrustAnchor<'_>> =
        authorities.iter().filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
    let known = list::in_order(by.lists, chain)?;
    let lists: Vec<_> = known.iter().map(|list| &list.list).collect();
    let unknown = if by.lists_required { UnknownStatusPolicy::Deny } else { UnknownStatusPolicy::Allow };
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
        let builder = builder.with_depth(RevocationCheckDepth::Chain).with_status_policy(unknown);
        builder.with_expiration_policy(ExpirationPolicy::Enforce).build()
    });
    if by.lists_required && revocation.is_none() {
        return Err(STATUS_UNKNOWN);
    }
    let at = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_millis()));
    let signs = |path: &VerifiedPath<'_>| match path.intermediate_certificates().all(may_sign) {
        true => Ok(()),
        false => Err(Error::EndEntityUsedAsCa),
    };
    let verified =
        own.verify_for_usage(ALGORITHMS, &anchors, &above, at, KeyUsage::client_auth(), revocation, Some(&signs));
    let path = verified.map_err(|error| told(&error))?;
    let between: Vec<Vec<u8>> = path.intermediate_certificates().map(|one| one.der().to_vec()).collect();
    let is_top = |der: &&Vec<u8>| {
        anchor_from_trusted_cert(&CertificateDer::from(der.as_slice())).is_ok_and(|one| &one == path.anchor())
    };
    let tops: Vec<&Vec<u8>> = by.authorities.iter().filter(is_top).collect();
    // what is pinned by its key is bound by what its certificate says of it, too
    let judged: Vec<_> = tops.iter().map(|der| anchor::check(der, between.len(), now)).collect();
    if !judged.iter().any(Result::is_ok) {
        return Err(judged.into_iter().find_map(Result::err).unwrap_or(UNKNOWN));
    }
    let tops: Vec<_> = judged.iter().zip(&tops).filter(|(judged, _)| judged.is_ok()).map(|(_, der)| *der).collect();
    let names_constrained = tops.iter().copied().chain(&between).any(|der| anchor::constrains_names(der));
    // of several tops of one name and key, each says the same of who has certified
    let issuer = between.first().or(tops.first().copied()).ok_or(UNKNOWN)?.clone();
    Ok(Path { names_constrained, link: Link { own: chain.first().ok_or(MALFORMED)?.to_vec(), issuer } })
}

/// RFC 5280 §6.1.4 (n), which the library leaves out.
fn may_sign(authority: &webpki::Cert<'_>) -> bool {
    let read = || {
        let certificate = x509_cert::Certificate::from_der(&authority.der()).ok()?;
        let usage = certificate.tbs_certificate.get::<x509_cert::ext::pkix::KeyUsage>().ok()?;
        Some(usage.is_none_or(|(_, usage)| usage.key_cert_sign()))
    };
    read() == Some(true)
}

fn told(error: &Error) -> &'static str {
    tracing::debug!(?error, "a client certificate was refused");
    #[expect(clippy::wildcard_enum_match_arm, reason = "another library's, and it grows")]
    match error {
        Error::CertExpired { .. } => EXPIRED,
        Error::CertNotValidYet { .. } => NOT_YET,
        Error::CertRevoked => REVOKED,
        Error::CrlExpired { .. } => LIST_OLD,
        Error::UnknownRevocationStatus => STATUS_UNKNOWN,
        Error::InvalidCrlSignatureForPublicKey | Error::IssuerNotCrlSigner => LIST_UNREADABLE,
        Error::NameConstraintViolation => NAME_CONSTRAINT,
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => TOO_LONG,
        Error::CaUsedAsEndEntity => AUTHORITY,
        Error::EndEntityUsedAsCa => NOT_AUTHORITY,
        Error::RequiredEkuNotFoundContext(_) => USAGE,
        Error::InvalidSignatureForPublicKey => SIGNATURE,
        Error::UnknownIssuer => UNKNOWN,
        Error::UnsupportedCriticalExtension => CRITICAL,
        _ => MALFORMED,
    }
}

/// What any of these refusals means.
pub const CAUSES: &[(&str, &str)] = &[
    (NOT_SHOWN, "no client certificate was shown: [tls] client_certificates = \"any\", and the client must show one"),
    (MALFORMED, "the client certificate, or one above it, cannot be read, or is of an algorithm that is not taken"),
    (EXPIRED, "the client certificate, or one above it, is over: renew it"),
    (NOT_YET, "the client certificate, or one above it, does not count yet: compare the clocks"),
    (UNKNOWN, "no authority of the role has certified it, or one between them was not shown"),
    (SIGNATURE, "a signature on the way to the authority is not its issuer's"),
    (NAME_CONSTRAINT, "an authority may not certify this name"),
    (TOO_LONG, "more authorities in a row than one of them allows, or than are taken (6)"),
    (AUTHORITY, "an authority's own certificate was shown: a client needs one of its own"),
    (NOT_AUTHORITY, "somebody who is no authority has certified it"),
    (USAGE, "the certificate is not for clients: extended key usage clientAuth, key usage digitalSignature"),
    (CRITICAL, "it has a critical extension that is not understood here"),
    (TWICE, "an extension or a name that must stand once stands twice"),
    (REVOKED, "the authority has revoked it"),
    (LIST_OLD, "the authority's list of what is revoked is too old: upload, or fetch, the next one"),
    (LIST_UNREADABLE, "a list of what is revoked cannot be read, or is not signed by its authority"),
    (STATUS_UNKNOWN, "no list says whether it is revoked, and the role requires one of each authority"),
];

static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];
const ABOVE_MAX: usize = 6;
pub(crate) const NOT_SHOWN: &str = "X509_NOT_SHOWN";
pub(crate) const MALFORMED: &str = "X509_MALFORMED";
const EXPIRED: &str = "X509_EXPIRED";
const NOT_YET: &str = "X509_NOT_YET_VALID";
const UNKNOWN: &str = "X509_ISSUER_UNKNOWN";
const SIGNATURE: &str = "X509_SIGNATURE_WRONG";
const NAME_CONSTRAINT: &str = "X509_NAME_CONSTRAINT";
const TOO_LONG: &str = "X509_PATH_TOO_LONG";
const AUTHORITY: &str = "X509_IS_AUTHORITY";
const NOT_AUTHORITY: &str = "X509_ISSUER_NO_AUTHORITY";
pub(crate) const USAGE: &str = "X509_USAGE_OTHER";
const CRITICAL: &str = "X509_CRITICAL_UNKNOWN";
pub(crate) const TWICE: &str = "X509_NAMED_TWICE";
const REVOKED: &str = "X509_REVOKED";
const LIST_OLD: &str = "X509_LIST_OLD";
const LIST_UNREADABLE: &str = "X509_LIST_UNREADABLE";
const STATUS_UNKNOWN: &str = "X509_STATUS_UNKNOWN";
