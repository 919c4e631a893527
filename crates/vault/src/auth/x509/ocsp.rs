//! Whether an authority has revoked a certificate, as its responder tells (OCSP, RFC 6960). Pure: whom to ask is others' matter.
//!
//! Always: an answer counts where it is about the very certificate that was asked about, is of now, and is signed by the
//! certificate's issuer, by whom that issuer has certified for answering, or by a responder that the role names.
//! Never: anything but "good" taken for it.
//!
//! A responder that its issuer has certified counts for as long as its certificate does: nobody is asked about it in turn
//! (§4.2.2.2.1, local policy).

use super::{ALGORITHMS, MALFORMED, REVOKED};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use envelope::Timestamp;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, Null, ObjectIdentifier, OctetString};
use x509_cert::der::{self, Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::AuthorityInfoAccessSyntax;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse, OcspResponseStatus, Request,
    SingleResponse, TbsRequest,
};

/// A certificate and the one above it, as a path was found through them. DER.
#[derive(Debug, Clone)]
pub struct Link {
    pub own: Vec<u8>,
    pub issuer: Vec<u8>,
}

/// Asked of a responder.
#[derive(Debug)]
pub struct Question {
    id: CertId,
    nonce: Vec<u8>,
    der: Vec<u8>,
}

/// Who may answer, and how old an answer may be.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// DER of responders, or of authorities of theirs, that count beside the issuer.
    pub responders: &'a [Vec<u8>],
    /// Zero: for as long as it says itself.
    pub age_max: Duration,
}

impl Link {
    /// Where its authority says that it is told (RFC 5280 §4.2.2.1).
    pub fn servers(&self) -> Result<Vec<String>, &'static str> {
        let tbs = Certificate::from_der(&self.own).map_err(|_| MALFORMED)?.tbs_certificate;
        let told = tbs.get::<AuthorityInfoAccessSyntax>().map_err(|_| MALFORMED)?;
        let all = told.map(|(_, AuthorityInfoAccessSyntax(all))| all).unwrap_or_default();
        let url = |one: &GeneralName| {
            let GeneralName::UniformResourceIdentifier(url) = one else { return None };
            Some(url.as_str().to_owned())
        };
        Ok(all.iter().filter(|one| one.access_method == OCSP).filter_map(|one| url(&one.access_location)).collect())
    }

    /// With a nonce, so that a responder that heeds it cannot be played back.
    pub fn question(&self, nonce: [u8; 16]) -> Result<Question, &'static str> {
        self.asked(&nonce).map_err(|_| MALFORMED)
    }

    fn asked(&self, nonce: &[u8]) -> Result<Question, der::Error> {
        let own = Certificate::from_der(&self.own)?.tbs_certificate;
        let issuer = Certificate::from_der(&self.issuer)?.tbs_certificate;
        let sha1 = |bytes: &[u8]| OctetString::new(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
        // what every responder knows (RFC 5019 §2.1.1): it names, and vouches for nothing
        let id = CertId {
            hash_algorithm: AlgorithmIdentifierOwned { oid: SHA1, parameters: Some(Null.into()) },
            issuer_name_hash: sha1(&own.issuer.to_der()?)?,
            issuer_key_hash: sha1(issuer.subject_public_key_info.subject_public_key.raw_bytes())?,
            serial_number: own.serial_number,
        };
        let nonce = OctetString::new(nonce)?.to_der()?;
        let extension = Extension { extn_id: NONCE, critical: false, extn_value: OctetString::new(nonce.as_slice())? };
        let request = OcspRequest {
            tbs_request: TbsRequest {
                request_list: vec![Request { req_cert: id.clone(), single_request_extensions: None }],
                request_extensions: Some(vec![extension]),
                ..TbsRequest::default()
            },
            optional_signature: None,
        };
        Ok(Question { id, nonce, der: request.to_der()? })
    }

    /// Nothing, where the answer is that it is good. Else why it counts no more, or why the answer does not.
    pub fn judge(
        &self,
        question: &Question,
        answer: &[u8],
        terms: Terms<'_>,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        let response = OcspResponse::from_der(answer).map_err(|_| UNREADABLE)?;
        if response.response_status != OcspResponseStatus::Successful {
            return Err(REFUSES);
        }
        let basic = response.response_bytes.filter(|bytes| bytes.response_type == BASIC).ok_or(UNREADABLE)?;
        let basic = BasicOcspResponse::from_der(basic.response.as_bytes()).map_err(|_| UNREADABLE)?;
        self.check_signature(&basic, terms.responders, now)?;
        let data = &basic.tbs_response_data;
        question.check_extensions(data.response_extensions.as_deref().unwrap_or_default())?;
        let mut about = data.responses.iter().filter(|one| question.is_about(&one.cert_id));
        let (Some(one), None) = (about.next(), about.next()) else { return Err(OTHER) };
        if one.single_extensions.iter().flatten().any(|extension| extension.critical) {
            return Err(UNREADABLE);
        }
        check_time(one, millis(data.produced_at), terms.age_max, now)?;
        match one.cert_status {
            CertStatus::Good(_) => Ok(()),
            CertStatus::Revoked(_) => Err(REVOKED),
            CertStatus::Unknown(_) => Err(UNKNOWN),
        }
    }

    fn check_signature(
        &self,
        basic: &BasicOcspResponse,
        responders: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<(), &'static str> {
        // DER has one form: what was signed is what was read
        let message = basic.tbs_response_data.to_der().map_err(|_| UNREADABLE)?;
        let algorithm = basic.signature_algorithm.to_der().map_err(|_| UNREADABLE)?;
        let algorithm = AnyRef::from_der(&algorithm).map_err(|_| UNREADABLE)?;
        let signature = basic.signature.as_bytes().ok_or(UNREADABLE)?;
        let of_its_kind =
            |known: &&&dyn SignatureVerificationAlgorithm| known.signature_alg_id().as_ref() == algorithm.value();
        let has_signed = |der: &[u8]| {
            let der = CertificateDer::from(der);
            let signer = EndEntityCert::try_from(&der).ok();
            let signed = |known: &&dyn SignatureVerificationAlgorithm| {
                signer.as_ref().is_some_and(|signer| signer.verify_signature(*known, &message, signature).is_ok())
            };
            ALGORITHMS.iter().filter(of_its_kind).any(signed)
        };
        let named: Vec<_> = responders.iter().filter(|der| super::anchor::is_of_now(der, now)).collect();
        if has_signed(&self.issuer) || named.iter().any(|der| has_signed(der)) {
            return Ok(());
        }
        let others = basic.certs.iter().flatten().take(CERTIFICATES_MAX).filter_map(|one| one.to_der().ok());
        let mut certified = others.filter(|der| self.has_certified(der, &named, now));
        if certified.any(|der| has_signed(&der)) { Ok(()) } else { Err(SIGNER_OTHER) }
    }

    /// Whether the issuer itself, or an authority that the role names, lets it answer (§4.2.2.2).
    fn has_certified(&self, der: &[u8], named: &[&Vec<u8>], now: Timestamp) -> bool {
        let above = std::iter::once(&self.issuer).chain(named.iter().copied());
        let above: Vec<CertificateDer<'_>> = above.map(|der| der.as_slice().into()).collect();
        let anchors: Vec<TrustAnchor<'_>> = above.iter().filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
        let der = CertificateDer::from(der);
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.unix_millis()));
        let answers = KeyUsage::required(OCSP_SIGNING);
        EndEntityCert::try_from(&der)
            .is_ok_and(|own| own.verify_for_usage(ALGORITHMS, &anchors, &[], at, answers, None, None).is_ok())
    }
}

impl Question {
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    fn is_about(&self, id: &CertId) -> bool {
        // what stands beside the algorithm's name differs from one to the other
        let CertId { hash_algorithm, issuer_name_hash, issuer_key_hash, serial_number } = &self.id;
        hash_algorithm.oid == id.hash_algorithm.oid
            && (issuer_name_hash, issuer_key_hash) == (&id.issuer_name_hash, &id.issuer_key_hash)
            && *serial_number == id.serial_number
    }

    /// Many sign ahead, and heed no nonce; one that is told is ours.
    fn check_extensions(&self, extensions: &[Extension]) -> Result<(), &'static str> {
        for extension in extensions {
            match extension.extn_id == NONCE {
                true if extension.extn_value.as_bytes() != self.nonce => return Err(NONCE_OTHER),
                false if extension.critical => return Err(UNREADABLE),
                true | false => {}
            }
        }
        Ok(())
    }
}

fn check_time(one: &SingleResponse, produced: u64, age_max: Duration, now: Timestamp) -> Result<(), &'static str> {
    let (now, from) = (now.unix_millis(), millis(one.this_update));
    let apart = u64::try_from(CLOCKS_APART.as_millis()).unwrap_or(u64::MAX);
    let age_max = match (u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX), one.next_update) {
        // there is always something newer
        (0, None) => apart,
        (0, Some(_)) => u64::MAX,
        (most, _) => most,
    };
    let is_over = one.next_update.is_some_and(|next| millis(next) < now);
    let is_to_come = from.max(produced) > now.saturating_add(apart);
    if is_over || is_to_come || now.saturating_sub(from) > age_max { Err(NOT_CURRENT) } else { Ok(()) }
}

fn millis(time: OcspGeneralizedTime) -> u64 {
    u64::try_from(time.0.to_unix_duration().as_millis()).unwrap_or(u64::MAX)
}

/// What any of these refusals means.
pub const CAUSES: &[(&str, &str)] = &[
    (NO_SERVER, "the certificate names no OCSP responder: name one in the role's ocsp_servers_override"),
    (UNREADABLE, "the OCSP responder answered what cannot be read"),
    (REFUSES, "the OCSP responder refuses to tell: it is not responsible, or wants to be asked later"),
    (
        SIGNER_OTHER,
        "the OCSP answer is signed by nobody who may: the issuer, whom it certified for OCSPSigning, or the role's ocsp_ca_certificates",
    ),
    (OTHER, "the OCSP answer is not about this certificate"),
    (
        NOT_CURRENT,
        "the OCSP answer is over, of a time to come, or older than ocsp_this_update_max_age: compare the clocks",
    ),
    (NONCE_OTHER, "the OCSP answer is to another question: it was played back"),
    (UNKNOWN, "the OCSP responder does not know the certificate"),
];

pub(crate) const NO_SERVER: &str = "X509_OCSP_SERVER_NONE";
pub(crate) const UNREADABLE: &str = "X509_OCSP_UNREADABLE";
pub(crate) const REFUSES: &str = "X509_OCSP_REFUSED";
const SIGNER_OTHER: &str = "X509_OCSP_SIGNER_OTHER";
const OTHER: &str = "X509_OCSP_CERTIFICATE_OTHER";
const NOT_CURRENT: &str = "X509_OCSP_NOT_CURRENT";
const NONCE_OTHER: &str = "X509_OCSP_NONCE_OTHER";
const UNKNOWN: &str = "X509_OCSP_STATUS_UNKNOWN";
/// Between this machine and a responder.
const CLOCKS_APART: Duration = Duration::from_secs(300);
const CERTIFICATES_MAX: usize = 4;
const OCSP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1");
const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
/// 1.3.6.1.5.5.7.3.9, as it stands in DER.
const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];
