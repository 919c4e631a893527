//! Keys that verify.

use super::algorithm::Algorithm;
use crate::body::Strict;
use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde::Deserialize;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A public key, for one algorithm or the few that its kind allows.
#[derive(Debug)]
pub struct Key {
    id: Option<String>,
    /// One parsed key an algorithm: none is used for another.
    parsed: Vec<(Algorithm, ParsedPublicKey)>,
}

/// Keys of one issuer. Never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// No key, or none that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedKey(pub &'static str);

/// It is what it should be, and holds nothing that verifies.
pub(super) const NO_KEYS: MalformedKey = MalformedKey("no key that can be used");

/// RFC 7517. What else stands there counts for nothing.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    pub fn new(keys: Vec<Key>) -> Result<Self, MalformedKey> {
        match keys.len() {
            0 => Err(NO_KEYS),
            1..=KEYS_MAX => Ok(Self { keys }),
            _ => Err(MalformedKey("more keys than are looked at")),
        }
    }

    /// A JWK set. Keys that are no public keys for signatures, or of a kind that is not known, are passed over.
    pub fn from_jwks(text: &[u8]) -> Result<Self, MalformedKey> {
        Self::from_jwks_for(text, "sig")
    }

    /// The same, of keys whose `use`, where they have one, is this: a SPIFFE bundle says `jwt-svid`.
    pub fn from_jwks_for(text: &[u8], usage: &str) -> Result<Self, MalformedKey> {
        const NO_SET: MalformedKey = MalformedKey("no JWK set");
        serde_json::from_slice::<Strict>(text).map_err(|_| NO_SET)?;
        let set: Jwks = serde_json::from_slice(text).map_err(|_| NO_SET)?;
        if set.keys.len() > KEYS_MAX {
            return Err(MalformedKey("more keys than are looked at"));
        }
        Self::new(set.keys.into_iter().filter_map(|jwk| Key::from_jwk(jwk, usage)).collect())
    }

    /// PEM texts, each of a public key or a certificate. The keys have no ids.
    pub fn from_pem<'p>(texts: impl IntoIterator<Item = &'p str>) -> Result<Self, MalformedKey> {
        Self::new(texts.into_iter().map(|text| Key::from_pem(text, None)).collect::<Result<_, _>>()?)
    }

    /// A key of that id is there.
    pub fn has(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| key.is_called(id))
    }

    /// Keys of this id, parsed for this algorithm. Keys without an id answer to any, and to none all.
    pub(super) fn find<'s>(
        &'s self,
        id: Option<&'s str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'s ParsedPublicKey> {
        let called = self.keys.iter().filter(move |key| key.is_called(id));
        let fitting = called.filter_map(move |key| key.parsed.iter().find(|(of, _)| *of == algorithm));
        fitting.map(|(_, parsed)| parsed).take(TRIED_MAX)
    }
}

impl Key {
    fn is_called(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(id)) => own == id,
            (None, _) | (_, None) => true,
        }
    }

    /// A public key or a certificate, whose other contents count for nothing.
    pub fn from_pem(text: &str, id: Option<String>) -> Result<Self, MalformedKey> {
        const NO_KEY: MalformedKey = MalformedKey("neither a public key nor a certificate in PEM");
        let bytes = text.as_bytes();
        if let Ok(der) = SubjectPublicKeyInfoDer::from_pem_slice(bytes) {
            let (rest, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| NO_KEY)?;
            return if rest.is_empty() { Self::from_info(&info, id) } else { Err(NO_KEY) };
        }
        let der = CertificateDer::from_pem_slice(bytes).map_err(|_| NO_KEY)?;
        let (rest, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| NO_KEY)?;
        if rest.is_empty() { Self::from_info(certificate.public_key(), id) } else { Err(NO_KEY) }
    }

    fn from_info(info: &SubjectPublicKeyInfo<'_>, id: Option<String>) -> Result<Self, MalformedKey> {
        const OTHER: MalformedKey = MalformedKey("a key of a kind that is not known, or too small");
        // RFC 8410 §3
        if info.algorithm.algorithm.to_id_string() == "1.3.101.112" {
            return Self::raw(id, Algorithm::EdDsa, &info.subject_public_key.data).ok_or(OTHER);
        }
        match info.parsed().map_err(|_| OTHER)? {
            PublicKey::RSA(rsa) => {
                Self::rsa(id, &Algorithm::RSA, without_zeros(rsa.modulus), without_zeros(rsa.exponent)).ok_or(OTHER)
            }
            PublicKey::EC(point) => {
                let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()).ok_or(OTHER)?;
                // RFC 5480 §2.1.1.1
                let algorithm = match curve.to_id_string().as_str() {
                    "1.2.840.10045.3.1.7" => Algorithm::Es256,
                    "1.3.132.0.34" => Algorithm::Es384,
                    "1.3.132.0.35" => Algorithm::Es512,
                    _ => return Err(OTHER),
                };
                Self::raw(id, algorithm, point.data()).ok_or(OTHER)
            }
            PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) | PublicKey::Unknown(_) => {
                Err(OTHER)
            }
        }
    }

    fn from_jwk(jwk: serde_json::Value, usage: &str) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        if jwk.usage.as_ref().is_some_and(|found| found != usage)
            || jwk.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|known| known == "verify"))
            || jwk.kid.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX)
        {
            return None;
        }
        // what a key is said to be for, it is for nothing else
        let named = jwk.alg.as_deref().map(|name| Algorithm::parse(name).ok_or(()));
        let named = named.transpose().ok()?;
        let fits = |algorithm: &Algorithm| named.is_none_or(|named| named == *algorithm);
        let part = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let algorithms: Vec<_> = Algorithm::RSA.into_iter().filter(fits).collect();
                Self::rsa(jwk.kid, &algorithms, &part(&jwk.n)?, &part(&jwk.e)?)
            }
            ("EC", Some(curve)) => {
                let (algorithm, bytes) = match curve {
                    "P-256" => (Algorithm::Es256, 32),
                    "P-384" => (Algorithm::Es384, 48),
                    "P-521" => (Algorithm::Es512, 66),
                    _ => return None,
                };
                let (x, y) = (part(&jwk.x)?, part(&jwk.y)?);
                // RFC 7518 §6.2.1.2: as long as the curve has it; SEC 1 §2.3.4: both, uncompressed
                let sound = fits(&algorithm) && x.len() == bytes && y.len() == bytes;
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                sound.then(|| Self::raw(jwk.kid, algorithm, &point)).flatten()
            }
            ("OKP", Some("Ed25519")) if fits(&Algorithm::EdDsa) => Self::raw(jwk.kid, Algorithm::EdDsa, &part(&jwk.x)?),
            _ => None,
        }
    }

    /// A point, uncompressed, or 32 bytes of Ed25519.
    fn raw(id: Option<String>, algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if algorithm == Algorithm::EdDsa && bytes.len() != ED25519_BYTES {
            return None;
        }
        let parsed = ParsedPublicKey::new(algorithm.verification(), bytes).ok()?;
        Some(Self { id, parsed: vec![(algorithm, parsed)] })
    }

    fn rsa(id: Option<String>, algorithms: &[Algorithm], n: &[u8], e: &[u8]) -> Option<Self> {
        let bits = n.len().checked_mul(8)?.checked_sub(usize::try_from(n.first()?.leading_zeros()).ok()?)?;
        // an exponent of 1 would make every text its own signature
        let sound = RSA_BITS.contains(&bits) && (1..=4).contains(&e.len()) && e != [1] && e.last()? % 2 == 1;
        if !sound || e.first() == Some(&0) || algorithms.is_empty() {
            return None;
        }
        let parse = |algorithm: &Algorithm| {
            let parsed = RsaPublicKeyComponents { n, e }.to_parsed_public_key(algorithm.rsa()?).ok()?;
            Some((*algorithm, parsed))
        };
        Some(Self { id, parsed: algorithms.iter().map(parse).collect::<Option<_>>()? })
    }
}

/// As DER has whole numbers: with a zero where the first bit is set.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Most keys of an issuer.
const KEYS_MAX: usize = 64;
/// Most of them that are tried for one token, which names none or one that several have.
const TRIED_MAX: usize = 16;
pub(super) const ID_BYTES_MAX: usize = 512;
const ED25519_BYTES: usize = 32;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
