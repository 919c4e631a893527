//! Backing keys: how they are made, wrapped as key tokens, opened and kept at hand.
//!
//! A token's plaintext is its binding in canonical form and then the key: 32 bytes for AES-256, HMAC, P-256 (scalar,
//! big-endian) and Ed25519 (seed, RFC 8032 §5.1.5), PKCS#8 DER for RSA.
//!
//! Always: what a key may do is read from its own token, which only this boundary can have made.
//! Never: key material that is parsed before its usage has been found to cover the service.

use crate::random::{self, EntropyFault};
use crate::root::RootKeys;
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::spki::EncodePublicKey as _;
use envelope::mac::{self, HmacSha256};
use envelope::sealed::{Header, Kind, Suite, parse_token};
use envelope::suite1::{self, SealingKey};
use envelope::{SecretBytes, SecretKey};
use getrandom::SysRng;
use hsm_api::{HsmError, KeyBinding, KeyId, KeySpec, KeyToken, KeyUsage};
use p256::ecdsa::signature::hazmat::{PrehashVerifier, RandomizedPrehashSigner};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::{Pkcs1v15Sign, PrivateKey as RsaPrivateKey};
use sha2::Sha256;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// A backing key that is open, and what its token says of it.
pub(crate) struct OpenKey {
    pub(crate) binding: KeyBinding,
    pub(crate) material: Material,
    uses: Arc<AtomicU64>,
}

impl OpenKey {
    /// Counts services that gave a result under this key.
    pub(crate) fn count(&self, uses: u64) {
        self.uses.fetch_add(uses, Ordering::Relaxed);
    }
}

/// A parsed key; each kind wipes itself on drop.
pub(crate) enum Material {
    Sealing(SealingKey),
    Mac(HmacSha256),
    P256(p256::ecdsa::SigningKey),
    Ed25519(ed25519_dalek::SigningKey),
    Rsa(Box<RsaPrivateKey>),
}

impl Material {
    fn parse(spec: KeySpec, bytes: &[u8]) -> Option<Self> {
        Some(match spec {
            KeySpec::Aes256 => Self::Sealing(SealingKey::new(&SecretKey::from_slice(bytes)?)),
            KeySpec::Hmac256 => Self::Mac(mac::keyed(&SecretKey::from_slice(bytes)?)),
            KeySpec::EccNistP256 => Self::P256(p256::ecdsa::SigningKey::from_slice(bytes).ok()?),
            KeySpec::EccNistEdwards25519 => {
                let seed = SecretKey::from_slice(bytes)?;
                Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(seed.expose()))
            }
            KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => {
                Self::Rsa(Box::new(RsaPrivateKey::from_pkcs8_der(bytes).ok()?))
            }
        })
    }

    /// SubjectPublicKeyInfo, DER; `None` for symmetric keys.
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        let document = match self {
            Self::Sealing(_) | Self::Mac(_) => return None,
            Self::P256(key) => key.verifying_key().to_public_key_der(),
            Self::Ed25519(key) => key.verifying_key().to_public_key_der(),
            Self::Rsa(key) => key.as_public_key().to_public_key_der(),
        };
        document.ok().map(|document| document.into_vec())
    }

    /// Pairwise consistency (FIPS 140-3 IG 10.3.A): what the private half signs, the public half verifies.
    fn is_consistent(&self) -> bool {
        let digest = mac::sha256(b"pairwise consistency");
        match self {
            Self::Sealing(_) | Self::Mac(_) => true,
            Self::P256(key) => {
                let signed: Result<p256::ecdsa::Signature, _> = key.sign_prehash_with_rng(&mut SysRng, &digest);
                signed.is_ok_and(|signature| key.verifying_key().verify_prehash(&digest, &signature).is_ok())
            }
            Self::Ed25519(key) => key.verifying_key().verify_strict(&digest, &key.sign(&digest)).is_ok(),
            Self::Rsa(key) => {
                let scheme = Pkcs1v15Sign::new::<Sha256>;
                let signed = key.sign_with_rng(&mut SysRng, scheme(), &digest);
                signed.is_ok_and(|signature| key.as_public_key().verify(scheme(), &digest, &signature).is_ok())
            }
        }
    }
}

/// A new backing key of `spec`, tested, with its bytes as a token holds them.
pub(crate) fn generate(spec: KeySpec) -> Result<(SecretBytes, Material), NotGenerated> {
    let bytes = match spec.rsa_bits() {
        Some(bits) => {
            let key = RsaPrivateKey::new(&mut SysRng, bits).map_err(|_| NotGenerated::Entropy)?;
            let document = key.to_pkcs8_der().map_err(|_| NotGenerated::Inconsistent)?;
            SecretBytes::copy_from(document.as_bytes())
        }
        None => scalar(spec)?,
    };
    let material = Material::parse(spec, bytes.expose()).ok_or(NotGenerated::Inconsistent)?;
    if material.is_consistent() { Ok((bytes, material)) } else { Err(NotGenerated::Inconsistent) }
}

/// 32 random bytes; for P-256 again until they are a scalar (FIPS 186-5 §A.2.2, rejection).
fn scalar(spec: KeySpec) -> Result<SecretBytes, NotGenerated> {
    for _ in 0..SCALAR_TRIES_MAX {
        let mut outcome = Ok(());
        let bytes = SecretBytes::init_with(32, |bytes| outcome = random::fill(bytes));
        outcome?;
        if Material::parse(spec, bytes.expose()).is_some() {
            return Ok(bytes);
        }
    }
    Err(NotGenerated::Entropy)
}

/// Why no key came out: in both cases the module stops serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotGenerated {
    Entropy,
    Inconsistent,
}

impl From<EntropyFault> for NotGenerated {
    fn from(_: EntropyFault) -> Self {
        Self::Entropy
    }
}

/// Wraps a backing key under the domain key's generation that `binding` names.
pub(crate) fn wrap(root: &RootKeys, binding: &KeyBinding, key: &[u8]) -> Result<KeyToken, NotWrapped> {
    let domain_key = root.domain_key(binding.generation).ok_or(NotWrapped)?;
    let canonical = binding.canonical();
    let mut plaintext = Zeroizing::new(Vec::with_capacity(canonical.len() + key.len()));
    plaintext.extend_from_slice(&canonical);
    plaintext.extend_from_slice(key);
    let (n, iv) = (random::array().map_err(|_| NotWrapped)?, random::array().map_err(|_| NotWrapped)?);
    let aad = KeyBinding::aad_digest(&binding.tenant);
    let token = suite1::seal(&domain_key, &token_header(binding), &n, &iv, &aad, &plaintext);
    KeyToken::parse(binding.tenant, token.into()).map_err(|_| NotWrapped)
}

/// The domain key's generation is gone, or randomness is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotWrapped;

/// A token's binding and key, after it was found to be ours and whole.
pub(crate) struct Unwrapped {
    pub(crate) binding: KeyBinding,
    plaintext: SecretBytes,
    key_len: usize,
}

impl Unwrapped {
    pub(crate) fn key(&self) -> &[u8] {
        &self.plaintext.expose()[self.plaintext.len() - self.key_len..]
    }
}

pub(crate) fn unwrap(root: &RootKeys, domain_id: &[u8; 16], token: &KeyToken) -> Result<Unwrapped, HsmError> {
    let sealed = parse_token(token.bytes()).map_err(|_| HsmError::TokenRejected)?;
    if sealed.header.domain_id != *domain_id {
        return Err(HsmError::TokenRejected);
    }
    let domain_key = root.domain_key(sealed.header.generation).ok_or(HsmError::TokenRejected)?;
    let aad = KeyBinding::aad_digest(token.tenant());
    let plaintext = suite1::open(&domain_key, &sealed, &aad).map_err(|_| HsmError::TokenRejected)?;
    let (binding, key) = KeyBinding::split_canonical(plaintext.expose()).ok_or(HsmError::TokenRejected)?;
    if token_header(&binding) != sealed.header || binding.tenant != *token.tenant() {
        return Err(HsmError::TokenRejected);
    }
    let key_len = key.len();
    Ok(Unwrapped { binding, plaintext, key_len })
}

fn token_header(binding: &KeyBinding) -> Header {
    Header {
        kind: Kind::KeyToken,
        suite: Suite::KdfCommitGcm,
        key_id: *binding.key_id.bytes(),
        key_version: binding.version,
        domain_id: binding.domain_id,
        generation: binding.generation,
    }
}

/// Open keys by their token, bounded; and the uses of every key since the module started.
pub(crate) struct Keyring {
    open: Mutex<Cache>,
    uses: Mutex<BTreeMap<KeyId, Arc<AtomicU64>>>,
}

/// Two halves: when the young one is full, the old one is dropped (and wiped) and the young one becomes old.
#[derive(Default)]
struct Cache {
    young: HashMap<KeyToken, Arc<OpenKey>>,
    old: HashMap<KeyToken, Arc<OpenKey>>,
}

impl Keyring {
    pub(crate) fn new() -> Self {
        Self { open: Mutex::default(), uses: Mutex::default() }
    }

    /// The token's key, if its usage is one of `usages`.
    pub(crate) fn open(
        &self,
        root: &RootKeys,
        domain_id: &[u8; 16],
        token: &KeyToken,
        usages: &[KeyUsage],
    ) -> Result<Arc<OpenKey>, HsmError> {
        let key = match self.cached(token) {
            Some(key) => key,
            None => {
                let unwrapped = unwrap(root, domain_id, token)?;
                if !usages.contains(&unwrapped.binding.usage) {
                    return Err(HsmError::UsageForbidden);
                }
                let material =
                    Material::parse(unwrapped.binding.spec, unwrapped.key()).ok_or(HsmError::TokenRejected)?;
                self.keep(token, unwrapped.binding, material)
            }
        };
        if usages.contains(&key.binding.usage) { Ok(key) } else { Err(HsmError::UsageForbidden) }
    }

    /// Keeps a key at hand that is open already.
    pub(crate) fn keep(&self, token: &KeyToken, binding: KeyBinding, material: Material) -> Arc<OpenKey> {
        let uses = self.uses_of(binding.key_id);
        let key = Arc::new(OpenKey { binding, material, uses });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).put(token.clone(), Arc::clone(&key));
        key
    }

    /// Uses in key id order, after `after`, at most `limit`; and whether more follow.
    pub(crate) fn uses(&self, after: Option<KeyId>, limit: usize) -> (Vec<(KeyId, u64)>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = uses
            .range((after.map_or(Unbounded, Excluded), Unbounded))
            .map(|(key_id, uses)| (*key_id, uses.load(Ordering::Relaxed)))
            .filter(|(_, uses)| *uses > 0);
        let page = rest.by_ref().take(limit).collect();
        (page, rest.next().is_some())
    }

    fn cached(&self, token: &KeyToken) -> Option<Arc<OpenKey>> {
        let mut cache = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = cache.young.get(token) {
            return Some(Arc::clone(key));
        }
        let (token, key) = cache.old.remove_entry(token)?;
        cache.put(token, Arc::clone(&key));
        Some(key)
    }

    fn uses_of(&self, key_id: KeyId) -> Arc<AtomicU64> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let key_id = if uses.len() < COUNTED_KEYS_MAX || uses.contains_key(&key_id) { key_id } else { OVERFLOW };
        Arc::clone(uses.entry(key_id).or_default())
    }
}

impl Cache {
    fn put(&mut self, token: KeyToken, key: Arc<OpenKey>) {
        if self.young.len() >= CACHED_KEYS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, key);
    }
}

/// Open keys kept at hand.
const CACHED_KEYS_MAX: usize = 4096;
/// Keys that are counted one by one; uses of all further keys are counted together under the nil id.
const COUNTED_KEYS_MAX: usize = 1 << 18;
const OVERFLOW: KeyId = KeyId::from_bytes([0; 16]);
/// A P-256 candidate fails with probability 2^-32.
const SCALAR_TRIES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::SecretPage;
    use hsm_api::{Export, Origin, ProtectionLevel};

    fn root() -> RootKeys {
        let mut root = RootKeys::new(SecretPage::ordinary().unwrap());
        root.generate_domain_key().unwrap();
        root
    }

    fn binding(n: u32) -> KeyBinding {
        KeyBinding {
            key_id: KeyId::from_random([9; 16]),
            version: n,
            tenant: [1; 16],
            spec: KeySpec::Aes256,
            usage: KeyUsage::EncryptDecrypt,
            level: ProtectionLevel::Boundary,
            domain_id: [2; 16],
            generation: 1,
            origin: Origin::Generated,
            export: Export::Never,
            not_after: None,
        }
    }

    #[test]
    fn open_keys_are_bounded_and_evicted_ones_open_again() {
        let (root, keyring) = (root(), Keyring::new());
        let usages = &[KeyUsage::EncryptDecrypt];
        let tokens: Vec<_> = (1..=5000).map(|n| wrap(&root, &binding(n), &[3; 32]).unwrap()).collect();
        for token in &tokens {
            keyring.open(&root, &[2; 16], token, usages).unwrap().count(1);
            let cache = keyring.open.lock().unwrap();
            assert!(cache.young.len() + cache.old.len() <= CACHED_KEYS_MAX);
        }
        assert!(keyring.cached(&tokens[0]).is_none() && keyring.cached(&tokens[4999]).is_some());
        keyring.open(&root, &[2; 16], &tokens[0], usages).unwrap().count(1);
        assert_eq!(keyring.uses(None, 10), (vec![(KeyId::from_random([9; 16]), 5001)], false));
    }

    #[test]
    fn a_cached_key_is_still_asked_for_its_usage() {
        let (root, keyring) = (root(), Keyring::new());
        let token = wrap(&root, &binding(1), &[3; 32]).unwrap();
        keyring.open(&root, &[2; 16], &token, &[KeyUsage::EncryptDecrypt]).unwrap();
        let refused = keyring.open(&root, &[2; 16], &token, &[KeyUsage::SystemSeal]);
        assert_eq!(refused.err(), Some(HsmError::UsageForbidden));
    }

    #[test]
    fn a_token_whose_header_and_binding_differ_is_rejected() {
        let root = root();
        let domain_key = root.domain_key(1).unwrap();
        // sealed under the right key, as only this module could: one field of the binding does not match the header
        let forged = |header: &KeyBinding, inside: &KeyBinding| {
            let plaintext = [inside.canonical(), vec![3; 32]].concat();
            let aad = KeyBinding::aad_digest(&header.tenant);
            let token = suite1::seal(&domain_key, &token_header(header), &[1; 16], &[1; 12], &aad, &plaintext);
            KeyToken::parse(header.tenant, token.into()).unwrap()
        };
        let good = binding(1);
        assert!(unwrap(&root, &[2; 16], &forged(&good, &good)).is_ok());
        for inside in [
            KeyBinding { version: 2, ..good.clone() },
            KeyBinding { key_id: KeyId::from_random([8; 16]), ..good.clone() },
            KeyBinding { domain_id: [3; 16], ..good.clone() },
            KeyBinding { generation: 2, ..good.clone() },
            KeyBinding { tenant: [4; 16], ..good.clone() },
        ] {
            assert_eq!(unwrap(&root, &[2; 16], &forged(&good, &inside)).err(), Some(HsmError::TokenRejected));
        }
        assert_eq!(unwrap(&root, &[9; 16], &forged(&good, &good)).err(), Some(HsmError::TokenRejected));
    }

    #[test]
    fn keys_beyond_the_counted_ones_are_counted_together() {
        let keyring = Keyring::new();
        for n in 0..COUNTED_KEYS_MAX + 2 {
            let id = u128::try_from(n + 1).unwrap().to_be_bytes();
            keyring.uses_of(KeyId::from_bytes(id)).fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(keyring.uses(None, 1), (vec![(OVERFLOW, 2)], true));
        assert_eq!(keyring.uses.lock().unwrap().len(), COUNTED_KEYS_MAX + 1);
    }
}
