//! Keys that live in the token: made there, found again by CKA_ID, believed only after they have shown who they are.
//!
//! Check value: SHA-256("sr/v1/kcv" ‖ evidence). Evidence of a key pair is its SubjectPublicKeyInfo, and the private
//! half must sign for it; of an HMAC key its MAC of a fixed label; of an AES key the encryption of one fixed block that
//! GCM's counter blocks do not meet but by chance of 2^-128. Only the digest leaves this process.
//!
//! Always: class, key type, confinement and check value are verified before a handle is used, and again in each epoch.
//! Never: an object that merely carries the right CKA_ID.

use crate::der;
use crate::device::Link;
use crate::error::Fault;
use crate::library::lock;
use crate::template::{self, Name, Stay};
use bytes::Bytes;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use envelope::mac::{equal, sha256};
use hsm_api::{HsmError, KeySpec};
use std::sync::Mutex;

/// A key of the token, and where it was found last.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) spec: KeySpec,
    pub(crate) cka_id: [u8; 16],
    pub(crate) check_value: [u8; 32],
    place: Mutex<Option<Place>>,
}

/// A handle that is good within one epoch; key pairs with their public half.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    epoch: u64,
    pub(crate) handle: ObjectHandle,
    pub(crate) spki: Bytes,
}

impl Resident {
    pub(crate) fn new(spec: KeySpec, cka_id: [u8; 16], check_value: [u8; 32]) -> Self {
        Self { spec, cka_id, check_value, place: Mutex::new(None) }
    }

    /// Makes a key inside and checks it (pairwise consistency, FIPS 140-3 IG 10.3.A, for key pairs).
    pub(crate) fn generate(
        link: &mut Link<'_>,
        spec: KeySpec,
        name: &Name,
        ed25519: &[u8],
    ) -> Result<(Self, Bytes), Fault> {
        let made = make(link, spec, Stay::Token, name, ed25519)?;
        let key = Self::new(spec, name.cka_id, made.check_value(link)?);
        let confined = template::is_confined(spec, &link.attributes(made.handle, template::PROOF)?);
        if !confined || !made.works(link)? {
            tracing::error!(?spec, "a new key is not confined or not consistent: it is destroyed");
            made.destroy(link)?;
            return Err(Fault::Answer(HsmError::Unsupported));
        }
        let spki = Bytes::from(made.spki);
        *lock(&key.place) = Some(Place { epoch: link.epoch(), handle: made.handle, spki: spki.clone() });
        Ok((key, spki))
    }

    /// The verified handle. Where the token works and the key is not there, the reference was to nothing of ours.
    pub(crate) fn locate(&self, link: &mut Link<'_>) -> Result<Place, Fault> {
        match self.find(link)? {
            Some(place) => Ok(place),
            None => {
                link.prove_alive_now()?;
                Err(HsmError::TokenRejected.into())
            }
        }
    }

    /// As [`Self::locate`], without asking anyone else.
    fn find(&self, link: &mut Link<'_>) -> Result<Option<Place>, Fault> {
        let mut place = lock(&self.place);
        if let Some(known) = place.as_ref().filter(|known| known.epoch == link.epoch()) {
            return Ok(Some(known.clone()));
        }
        *place = None;
        for handle in link.find(&self.search(template::class(self.spec)))? {
            if let Some(spki) = self.is_it(link, handle)? {
                *place = Some(Place { epoch: link.epoch(), handle, spki });
                break;
            }
        }
        Ok(place.clone())
    }

    /// Undoes [`Self::generate`], as well as the token lets it.
    pub(crate) fn destroy(&self, link: &mut Link<'_>) {
        for class in [template::class(self.spec), ObjectClass::PUBLIC_KEY] {
            let found = link.find(&self.search(class)).unwrap_or_default();
            if found.into_iter().any(|object| link.destroy(object).is_err()) {
                tracing::warn!("an object without a reference stays in the token");
            }
        }
    }

    /// The canary: the key is there and still does what it did.
    pub(crate) fn check(&self, link: &mut Link<'_>) -> Result<bool, Fault> {
        let sings = |link: &mut Link<'_>, handle| Ok(equal(&digest(&mac_evidence(link, handle)?), &self.check_value));
        if let Some(place) = self.find(link)?
            && let Ok(sang) = sings(link, place.handle)
        {
            return Ok(sang);
        }
        *lock(&self.place) = None;
        match self.find(link)? {
            Some(place) => sings(link, place.handle),
            None => Ok(false),
        }
    }

    fn search(&self, class: ObjectClass) -> [Attribute; 3] {
        [Attribute::Class(class), Attribute::Token(true), Attribute::Id(self.cka_id.to_vec())]
    }

    /// The candidate's public half (empty for symmetric keys) if it is this key.
    fn is_it(&self, link: &mut Link<'_>, handle: ObjectHandle) -> Result<Option<Bytes>, Fault> {
        if !template::is_confined(self.spec, &link.attributes(handle, template::PROOF)?) {
            return Ok(None);
        }
        let publics = match template::class(self.spec) {
            ObjectClass::PRIVATE_KEY => link.find(&self.search(ObjectClass::PUBLIC_KEY))?,
            _ => vec![handle],
        };
        for public in publics {
            let candidate = match read(link, self.spec, handle, public) {
                Ok(candidate) => candidate,
                Err(fault) if is_of_the_object(fault) => continue,
                Err(fault) => return Err(fault),
            };
            match candidate.check_value(link) {
                Ok(value) if equal(&value, &self.check_value) => {}
                Ok(_) => continue,
                Err(fault) if is_of_the_object(fault) => continue,
                Err(fault) => return Err(fault),
            }
            match candidate.works(link) {
                Ok(true) => return Ok(Some(candidate.spki.into())),
                Ok(false) => {}
                Err(fault) if is_of_the_object(fault) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }
}

/// A foreign object may refuse what ours would do. What could be the device's doing is no verdict on a key.
fn is_of_the_object(fault: Fault) -> bool {
    match fault {
        Fault::Data | Fault::Answer(_) => true,
        Fault::Session | Fault::Handle | Fault::Login | Fault::Pin | Fault::Ambiguous | Fault::Dead => false,
    }
}

/// A key that was just made or found, not yet believed.
pub(crate) struct Candidate {
    spec: KeySpec,
    pub(crate) handle: ObjectHandle,
    /// The public object; the key itself where it is symmetric.
    public: ObjectHandle,
    pub(crate) spki: Vec<u8>,
}

impl Candidate {
    pub(crate) fn public(&self) -> ObjectHandle {
        self.public
    }

    pub(crate) fn check_value(&self, link: &mut Link<'_>) -> Result<[u8; 32], Fault> {
        let evidence = match self.spec {
            KeySpec::Aes256 => link.call(|session| session.encrypt(&Mechanism::AesEcb, self.handle, CHECK_BLOCK))?,
            KeySpec::Hmac256 => mac_evidence(link, self.handle)?,
            KeySpec::EccNistP256
            | KeySpec::EccNistEdwards25519
            | KeySpec::Rsa2048
            | KeySpec::Rsa3072
            | KeySpec::Rsa4096 => self.spki.clone(),
        };
        Ok(digest(&evidence))
    }

    /// What the private half signs, the public half verifies.
    pub(crate) fn works(&self, link: &mut Link<'_>) -> Result<bool, Fault> {
        let input = sha256(b"sr/v1/pairwise consistency");
        let (mechanism, input) = match self.spec {
            KeySpec::Aes256 | KeySpec::Hmac256 => return Ok(true),
            KeySpec::EccNistP256 => (Mechanism::Ecdsa, input.to_vec()),
            KeySpec::EccNistEdwards25519 => (eddsa(), input.to_vec()),
            KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => {
                (Mechanism::RsaPkcs, der::digest_info(&input).unwrap_or_default())
            }
        };
        let signature = link.sign(&mechanism, self.handle, &input)?;
        match link.call(|session| session.verify(&mechanism, self.public, &input, &signature)) {
            Ok(()) => Ok(true),
            Err(Fault::Data) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    pub(crate) fn destroy(&self, link: &mut Link<'_>) -> Result<(), Fault> {
        link.destroy(self.handle)?;
        if self.public == self.handle { Ok(()) } else { link.destroy(self.public) }
    }
}

/// A new key of `spec`.
pub(crate) fn make(
    link: &mut Link<'_>,
    spec: KeySpec,
    stay: Stay,
    name: &Name,
    ed25519: &[u8],
) -> Result<Candidate, Fault> {
    let mechanism = template::generator(spec);
    match spec {
        KeySpec::Aes256 | KeySpec::Hmac256 => {
            let template = template::secret(spec, stay, name);
            let handle = link.call(|session| session.generate_key(&mechanism, &template))?;
            Ok(Candidate { spec, handle, public: handle, spki: Vec::new() })
        }
        KeySpec::EccNistP256
        | KeySpec::EccNistEdwards25519
        | KeySpec::Rsa2048
        | KeySpec::Rsa3072
        | KeySpec::Rsa4096 => {
            let (public, private) = (template::public(spec, stay, name, ed25519), template::private(stay, name));
            let (public, private) = link.call(|session| session.generate_key_pair(&mechanism, &public, &private))?;
            read(link, spec, private, public)
        }
    }
}

/// Puts a candidate together, with the public half read from its object.
fn read(link: &mut Link<'_>, spec: KeySpec, handle: ObjectHandle, public: ObjectHandle) -> Result<Candidate, Fault> {
    let ask: &[AttributeType] = match spec {
        KeySpec::Aes256 | KeySpec::Hmac256 => return Ok(Candidate { spec, handle, public, spki: Vec::new() }),
        KeySpec::EccNistP256 | KeySpec::EccNistEdwards25519 => &[AttributeType::EcPoint],
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => {
            &[AttributeType::Modulus, AttributeType::PublicExponent]
        }
    };
    let attributes = link.attributes(public, ask)?;
    let spki = match (spec, attributes.as_slice()) {
        (KeySpec::EccNistP256, [Attribute::EcPoint(point)]) => der::p256_spki(point),
        (KeySpec::EccNistEdwards25519, [Attribute::EcPoint(point)]) => der::ed25519_spki(point),
        (_, [Attribute::Modulus(modulus), Attribute::PublicExponent(exponent)]) => {
            spec.rsa_bits().and_then(|bits| der::rsa_spki(modulus, exponent, bits))
        }
        (_, _) => None,
    };
    Ok(Candidate { spec, handle, public, spki: spki.ok_or(Fault::Data)? })
}

fn mac_evidence(link: &mut Link<'_>, handle: ObjectHandle) -> Result<Vec<u8>, Fault> {
    link.sign(&Mechanism::Sha256Hmac, handle, CHECK_LABEL)
}

fn digest(evidence: &[u8]) -> [u8; 32] {
    sha256(&[b"sr/v1/kcv", evidence].concat())
}

pub(crate) fn eddsa() -> Mechanism<'static> {
    Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure))
}

const CHECK_LABEL: &[u8] = b"strongroom: key check value";
const CHECK_BLOCK: &[u8; 16] = b"sr/v1 kcv block.";
