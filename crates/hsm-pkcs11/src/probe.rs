//! What a token can do, found out by doing it with throw-away session objects.
//!
//! Always: a capability is one that was run in this process, against this token. RSA keys longer than 2048 bits take
//! seconds to make: there the mechanism's range is read, 2048 bits are run, and each new key is checked as it is made.
//! Never: a mechanism list taken at its word.

use crate::der;
use crate::device::Link;
use crate::error::Fault;
use crate::resident::{Candidate, make};
use crate::seal::{self, Encrypted, IV_BYTES, IvSource};
use crate::sign;
use crate::store::{self, Stored};
use crate::template::{self, Name, Stay};
use cryptoki::object::{AttributeInfo, AttributeType, ObjectHandle};
use envelope::mac::sha256;
use hsm_api::{Capabilities, KeySpec, ProtectionLevel, Service, SigningAlgorithm};

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) iv: Option<IvSource>,
    pub(crate) hmac: bool,
    /// Small durable objects: counters of invocations, the domain itself.
    pub(crate) records: bool,
    pub(crate) specs: Vec<KeySpec>,
    pub(crate) algorithms: Vec<SigningAlgorithm>,
    /// CKA_EC_PARAMS of Ed25519 as this token wants it.
    pub(crate) ed25519: Vec<u8>,
}

impl Proven {
    /// Without these nothing is served.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        if self.iv.is_none() {
            Some("the token has no AES-256-GCM that seals, opens and refuses what was altered")
        } else if !self.hmac {
            Some("the token has no HMAC-SHA-256 with resident keys")
        } else if !self.records {
            Some("the token stores no data objects")
        } else {
            None
        }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let ed25519 = self.specs.contains(&KeySpec::EccNistEdwards25519);
        let offered = |service: &Service| match service {
            Service::Rewrap | Service::Backup | Service::Restore | Service::RotateDomain => false,
            Service::SignCheckpoint | Service::SignBatch => ed25519,
            Service::Sign | Service::PublicKey => !self.algorithms.is_empty(),
            Service::Status
            | Service::GenerateKey
            | Service::GenerateDataKeys
            | Service::Encrypt
            | Service::Decrypt
            | Service::ReEncrypt
            | Service::Mac
            | Service::Random
            | Service::SystemSeal
            | Service::SystemOpen
            | Service::Counters
            | Service::Initialise
            | Service::Enrol
            | Service::Zeroise => true,
        };
        Capabilities {
            levels: vec![ProtectionLevel::HsmResident],
            specs: self.specs.clone(),
            algorithms: self.algorithms.clone(),
            services: Service::ALL.iter().copied().filter(offered).collect(),
            remembers_checkpoints: ed25519,
        }
    }
}

/// Runs everything. A fault of the device ends it; what the token refuses is merely not proven.
pub(crate) fn run(link: &mut Link<'_>) -> Result<Proven, Fault> {
    let mut proven = Proven {
        iv: attempt(link, cipher)?.flatten(),
        hmac: attempt(link, hmac)?.unwrap_or(false),
        records: attempt(link, records)?.unwrap_or(false),
        specs: Vec::new(),
        algorithms: Vec::new(),
        ed25519: Vec::new(),
    };
    if proven.iv.is_some() {
        proven.specs.push(KeySpec::Aes256);
    }
    if proven.hmac {
        proven.specs.push(KeySpec::Hmac256);
    }
    if attempt(link, |link| pair(link, KeySpec::EccNistP256, &[]))?.is_some_and(|algorithms| !algorithms.is_empty()) {
        proven.specs.push(KeySpec::EccNistP256);
        proven.algorithms.push(SigningAlgorithm::EcdsaSha256);
    }
    for params in der::ED25519_PARAMS {
        let ran = attempt(link, |link| pair(link, KeySpec::EccNistEdwards25519, params))?;
        if ran.is_some_and(|algorithms| !algorithms.is_empty()) {
            proven.specs.push(KeySpec::EccNistEdwards25519);
            proven.algorithms.push(SigningAlgorithm::Ed25519Sha512);
            proven.ed25519 = params.to_vec();
            break;
        }
    }
    if let Some(algorithms) = attempt(link, |link| pair(link, KeySpec::Rsa2048, &[]))?.filter(|found| !found.is_empty())
    {
        proven.specs.push(KeySpec::Rsa2048);
        let longest = link.rsa_bits_max()?;
        for spec in [KeySpec::Rsa3072, KeySpec::Rsa4096] {
            if spec.rsa_bits().is_some_and(|bits| bits <= longest) {
                proven.specs.push(spec);
            }
        }
        proven.algorithms.extend(algorithms);
    }
    proven.algorithms.sort();
    Ok(proven)
}

/// `None`: the token refused. Ambiguous answers are refusals here, for nothing of a caller's is at stake.
fn attempt<T>(link: &mut Link<'_>, mut run: impl FnMut(&mut Link<'_>) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
    match run(link) {
        Ok(done) => Ok(Some(done)),
        Err(Fault::Data | Fault::Ambiguous | Fault::Answer(_) | Fault::Handle | Fault::Session) => Ok(None),
        Err(fault @ (Fault::Login | Fault::Pin | Fault::Dead)) => Err(fault),
    }
}

fn throw_away(link: &mut Link<'_>, spec: KeySpec, ed25519: &[u8]) -> Result<Candidate, Fault> {
    let name = Name { cka_id: link.random_array()?, label: "probe".to_owned() };
    make(link, spec, Stay::Session, &name, ed25519)
}

/// AES-GCM: who makes the IV; what was altered is refused; the key cannot be read.
fn cipher(link: &mut Link<'_>) -> Result<Option<IvSource>, Fault> {
    let key = throw_away(link, KeySpec::Aes256, &[])?;
    let handle = key.handle;
    let iv: [u8; IV_BYTES] = link.random_array()?;
    let (aad, plaintext) = (b"probe aad", [5u8; 48]);
    let mut found = None;
    for source in [IvSource::Driver, IvSource::WrittenBack, IvSource::Appended] {
        let Ok(made) = seal::encrypt(&mut link.beside(), source, handle, iv, aad, &plaintext) else { continue };
        if source == IvSource::WrittenBack && made.iv == iv {
            continue;
        }
        if opens(link, handle, &made, aad, &plaintext) {
            found = Some(source);
            break;
        }
    }
    let evidence = key.check_value(link)?;
    let stable = evidence == key.check_value(link)?;
    let sealed_off = unreadable(link, handle)?;
    key.destroy(link)?;
    Ok(found.filter(|_| stable && sealed_off))
}

/// Opens what was sealed, and nothing that differs in one bit.
fn opens(link: &mut Link<'_>, key: ObjectHandle, made: &Encrypted, aad: &[u8], plaintext: &[u8]) -> bool {
    let mut altered = made.ciphertext.clone();
    altered[0] ^= 1;
    let mut cut = made.ciphertext.clone();
    cut.truncate(15);
    let opened = seal::decrypt(&mut link.beside(), key, &made.iv, aad, &made.ciphertext);
    let same = opened.is_ok_and(|opened| opened.as_slice() == plaintext);
    let refused = [(aad, &altered), (&aad[1..], &made.ciphertext), (aad, &cut)]
        .iter()
        .all(|(aad, ciphertext)| seal::decrypt(&mut link.beside(), key, &made.iv, aad, ciphertext).is_err());
    same && refused
}

/// CKA_VALUE stays inside. (An empty list from C_GetAttributeValue proves nothing; the module has to say so.)
fn unreadable(link: &mut Link<'_>, key: ObjectHandle) -> Result<bool, Fault> {
    let told = link.call(|session| session.get_attribute_info(key, &[AttributeType::Value]))?;
    let hidden = told.iter().all(|info| !matches!(info, AttributeInfo::Available(_)));
    let confined = template::is_confined(KeySpec::Aes256, &link.attributes(key, template::PROOF)?);
    Ok(hidden && confined)
}

fn hmac(link: &mut Link<'_>) -> Result<bool, Fault> {
    let key = throw_away(link, KeySpec::Hmac256, &[])?;
    let first = key.check_value(link)?;
    let mac = link.sign(&cryptoki::mechanism::Mechanism::Sha256Hmac, key.handle, b"probe")?;
    let stable = first == key.check_value(link)? && mac.len() == 32;
    key.destroy(link)?;
    Ok(stable)
}

/// A key pair that is consistent, and the schemes that give a signature of the right length.
fn pair(link: &mut Link<'_>, spec: KeySpec, ed25519: &[u8]) -> Result<Vec<SigningAlgorithm>, Fault> {
    let key = throw_away(link, spec, ed25519)?;
    let mut algorithms = Vec::new();
    if key.works(link)? {
        for algorithm in spec.signing_algorithms() {
            let input = vec![7; algorithm.digest_bytes().unwrap_or(40)];
            let ran = attempt(link, |link| {
                let mut beside = link.beside();
                let signature = sign::sign(&mut beside, *algorithm, key.handle, &input)?;
                sign::verifies(&mut beside, *algorithm, key.public(), &input, &signature)
            })?;
            if ran == Some(true) {
                algorithms.push(*algorithm);
            }
        }
    }
    key.destroy(link)?;
    Ok(algorithms)
}

/// A record is written, replaced and read back.
fn records(link: &mut Link<'_>) -> Result<bool, Fault> {
    let id: [u8; 16] = link.random_array()?;
    let name = format!("probe/{:032x}", u128::from_be_bytes(id));
    let body = sha256(&id);
    let first = store::write(link, &name, 0, &[])?;
    let second = store::write(link, &name, first, &body)?;
    let kept = store::read(link, &name)?;
    let same = matches!(&kept, Stored::Whole(record) if record.sequence == second && record.body == body);
    store::remove(link, &name)?;
    Ok(same && store::read(link, &name)? == Stored::Missing)
}
