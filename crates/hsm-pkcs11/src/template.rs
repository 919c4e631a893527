//! Attribute templates, and the one place where a key becomes sensitive and unextractable.

use crate::der;
use crate::store::APPLICATION;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use hsm_api::KeySpec;

/// Where a key shall live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// In the token, found again by its CKA_ID.
    Token,
    /// In the session: probes.
    Session,
}

/// What a key is called in the token.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) cka_id: [u8; 16],
    /// For people who look at the token; nothing is found by it.
    pub(crate) label: String,
}

pub(crate) fn class(spec: KeySpec) -> ObjectClass {
    match spec {
        KeySpec::Aes256 | KeySpec::Hmac256 => ObjectClass::SECRET_KEY,
        KeySpec::EccNistP256
        | KeySpec::EccNistEdwards25519
        | KeySpec::Rsa2048
        | KeySpec::Rsa3072
        | KeySpec::Rsa4096 => ObjectClass::PRIVATE_KEY,
    }
}

pub(crate) fn key_type(spec: KeySpec) -> KeyType {
    match spec {
        KeySpec::Aes256 => KeyType::AES,
        KeySpec::Hmac256 => KeyType::GENERIC_SECRET,
        KeySpec::EccNistP256 => KeyType::EC,
        KeySpec::EccNistEdwards25519 => KeyType::EC_EDWARDS,
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => KeyType::RSA,
    }
}

pub(crate) fn generator(spec: KeySpec) -> Mechanism<'static> {
    match spec {
        KeySpec::Aes256 => Mechanism::AesKeyGen,
        KeySpec::Hmac256 => Mechanism::GenericSecretKeyGen,
        KeySpec::EccNistP256 => Mechanism::EccKeyPairGen,
        KeySpec::EccNistEdwards25519 => Mechanism::EccEdwardsKeyPairGen,
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => Mechanism::RsaPkcsKeyPairGen,
    }
}

/// All that keeps a key inside. Every secret or private key is made with this and with nothing else.
fn confined(stay: Stay) -> [Attribute; 7] {
    [
        Attribute::Token(stay == Stay::Token),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Derive(false),
        Attribute::Unwrap(false),
    ]
}

fn named(name: &Name) -> [Attribute; 2] {
    [Attribute::Id(name.cka_id.to_vec()), Attribute::Label(format!("{APPLICATION}/{}", name.label).into_bytes())]
}

/// A symmetric key: for GCM and its check value, or for HMAC, and for nothing else.
pub(crate) fn secret(spec: KeySpec, stay: Stay, name: &Name) -> Vec<Attribute> {
    let cipher = spec == KeySpec::Aes256;
    let mut template = confined(stay).to_vec();
    template.extend(named(name));
    template.extend([
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type(spec)),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(cipher),
        Attribute::Decrypt(cipher),
        Attribute::Sign(!cipher),
        Attribute::Verify(!cipher),
        Attribute::Wrap(false),
    ]);
    let allowed: &[MechanismType] =
        if cipher { &[MechanismType::AES_GCM, MechanismType::AES_ECB] } else { &[MechanismType::SHA256_HMAC] };
    template.push(Attribute::AllowedMechanisms(allowed.to_vec()));
    template
}

/// The private half: signs, and nothing else.
pub(crate) fn private(stay: Stay, name: &Name) -> Vec<Attribute> {
    let mut template = confined(stay).to_vec();
    template.extend(named(name));
    template.extend([Attribute::Sign(true), Attribute::Decrypt(false)]);
    template
}

/// The public half: shown to anyone.
pub(crate) fn public(spec: KeySpec, stay: Stay, name: &Name, ed25519: &[u8]) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(stay == Stay::Token),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
    ];
    template.extend(named(name));
    match spec {
        KeySpec::EccNistP256 => template.push(Attribute::EcParams(der::P256_OID.to_vec())),
        KeySpec::EccNistEdwards25519 => template.push(Attribute::EcParams(ed25519.to_vec())),
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => {
            let bits = spec.rsa_bits().and_then(|bits| bits.try_into().ok()).unwrap_or(4096u64.into());
            template.extend([Attribute::ModulusBits(bits), Attribute::PublicExponent(vec![1, 0, 1])]);
        }
        KeySpec::Aes256 | KeySpec::Hmac256 => {}
    }
    template
}

/// What is asked of an object before it is taken for a key of ours.
pub(crate) const PROOF: &[AttributeType] = &[
    AttributeType::KeyType,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::AlwaysSensitive,
    AttributeType::NeverExtractable,
    AttributeType::Local,
];

/// Made inside, and could never leave. The last three are not told by every module.
pub(crate) fn is_confined(spec: KeySpec, attributes: &[Attribute]) -> bool {
    use Attribute as A;
    let refuted = attributes
        .iter()
        .any(|attribute| matches!(attribute, A::AlwaysSensitive(false) | A::NeverExtractable(false) | A::Local(false)));
    !refuted
        && attributes.contains(&A::KeyType(key_type(spec)))
        && attributes.contains(&A::Sensitive(true))
        && attributes.contains(&A::Extractable(false))
}
