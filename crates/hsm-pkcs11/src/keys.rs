//! Backing keys: references to residents as key tokens (suite 3), opened and kept at hand.
//!
//! ```text
//! HMAC over   "sr/v1/reference" ‖ header 48 ‖ CKA_ID 16 ‖ check value 32 ‖ binding length u16 ‖ binding ‖ AAD digest 32
//! ```
//!
//! Always: what a key may do is read from its own token, which only this domain's HMAC key can have made.
//! Never: a key looked for in the token before its usage has been found to cover the service.

use crate::device::Link;
use crate::error::Fault;
use crate::library::lock;
use crate::resident::Resident;
use cryptoki::mechanism::Mechanism;
use envelope::mac::equal;
use envelope::sealed::{Body, parse_token};
use envelope::{Header, Kind, Sealed, Suite};
use hsm_api::{HsmError, KeyBinding, KeyId, KeyToken, KeyUsage};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The domain key's only generation: a bare token rotates nothing.
pub(crate) const GENERATION: u32 = 1;

/// What makes references, and believes them.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) id: [u8; 16],
    pub(crate) hmac: Arc<Resident>,
}

/// A resident, and what its token says of it.
#[derive(Debug)]
pub(crate) struct OpenKey {
    pub(crate) binding: KeyBinding,
    pub(crate) resident: Resident,
    uses: Arc<AtomicU64>,
}

impl OpenKey {
    /// Counts services that gave a result under this key.
    pub(crate) fn count(&self, uses: u64) {
        self.uses.fetch_add(uses, Ordering::Relaxed);
    }

    /// The header of what this key version seals.
    pub(crate) fn header(&self, kind: Kind, generation: u32) -> Header {
        Header {
            kind,
            suite: Suite::TokenGcm,
            key_id: *self.binding.key_id.bytes(),
            key_version: self.binding.version,
            domain_id: self.binding.domain_id,
            generation,
        }
    }
}

impl Domain {
    /// The reference to a new resident.
    pub(crate) fn refer(&self, link: &mut Link<'_>, binding: &KeyBinding, key: &Resident) -> Result<KeyToken, Fault> {
        let (header, canonical) = (token_header(binding), binding.canonical());
        let mac = self.mac(link, binding, &header, &key.cka_id, &key.check_value, &canonical)?;
        let body = Body::Suite3 { cka_id: &key.cka_id, check_value: &key.check_value, binding: &canonical, mac: &mac };
        let sealed = Sealed { header, header_bytes: &header.to_bytes(), body };
        let bytes = sealed.to_bytes().map_err(|_| HsmError::OutOfRange)?;
        Ok(KeyToken::parse(binding.tenant, bytes.into())?)
    }

    /// Believes a reference that this domain made, and no other.
    fn resolve(&self, link: &mut Link<'_>, token: &KeyToken) -> Result<(KeyBinding, Resident), Fault> {
        const REJECTED: Fault = Fault::Answer(HsmError::TokenRejected);
        let sealed = parse_token(token.bytes()).map_err(|_| REJECTED)?;
        let Body::Suite3 { cka_id, check_value, binding: canonical, mac } = sealed.body else { return Err(REJECTED) };
        let Some((binding, [])) = KeyBinding::split_canonical(canonical) else { return Err(REJECTED) };
        let ours = sealed.header == token_header(&binding)
            && binding.domain_id == self.id
            && binding.generation == GENERATION
            && binding.tenant == *token.tenant();
        if !ours {
            return Err(REJECTED);
        }
        let expected = self.mac(link, &binding, &sealed.header, cka_id, check_value, canonical)?;
        if !equal(&expected, mac) {
            return Err(REJECTED);
        }
        let resident = Resident::new(binding.spec, *cka_id, *check_value);
        Ok((binding, resident))
    }

    fn mac(
        &self,
        link: &mut Link<'_>,
        binding: &KeyBinding,
        header: &Header,
        cka_id: &[u8; 16],
        check_value: &[u8; 32],
        canonical: &[u8],
    ) -> Result<[u8; 32], Fault> {
        let len = u16::try_from(canonical.len()).map_err(|_| HsmError::OutOfRange)?.to_be_bytes();
        let aad = KeyBinding::aad_digest(&binding.tenant);
        let parts: [&[u8]; 7] = [b"sr/v1/reference", &header.to_bytes(), cka_id, check_value, &len, canonical, &aad];
        let key = self.hmac.locate(link)?;
        let mac = link.sign(&Mechanism::Sha256Hmac, key.handle, &parts.concat())?;
        mac.as_slice().try_into().map_err(|_| Fault::Dead)
    }
}

fn token_header(binding: &KeyBinding) -> Header {
    Header {
        kind: Kind::KeyToken,
        suite: Suite::ResidentReference,
        key_id: *binding.key_id.bytes(),
        key_version: binding.version,
        domain_id: binding.domain_id,
        generation: binding.generation,
    }
}

/// Open keys by their token, bounded; and the uses of every key since the module started.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    open: Mutex<Cache>,
    uses: Mutex<BTreeMap<KeyId, Arc<AtomicU64>>>,
}

/// Two halves: when the young one is full, the old one is dropped and the young one becomes old.
#[derive(Debug, Default)]
struct Cache {
    young: HashMap<KeyToken, Arc<OpenKey>>,
    old: HashMap<KeyToken, Arc<OpenKey>>,
}

impl Keyring {
    /// The token's key, if its usage is one of `usages`.
    pub(crate) fn open(
        &self,
        link: &mut Link<'_>,
        domain: &Domain,
        token: &KeyToken,
        usages: &[KeyUsage],
    ) -> Result<Arc<OpenKey>, Fault> {
        let key = match self.cached(token) {
            Some(key) => key,
            None => {
                let (binding, resident) = domain.resolve(link, token)?;
                self.keep(token, binding, resident)
            }
        };
        if usages.contains(&key.binding.usage) { Ok(key) } else { Err(HsmError::UsageForbidden.into()) }
    }

    pub(crate) fn keep(&self, token: &KeyToken, binding: KeyBinding, resident: Resident) -> Arc<OpenKey> {
        let uses = self.uses_of(binding.key_id);
        let key = Arc::new(OpenKey { binding, resident, uses });
        lock(&self.open).put(token.clone(), Arc::clone(&key));
        key
    }

    /// Uses in key id order, after `after`, at most `limit`; and whether more follow.
    pub(crate) fn uses(&self, after: Option<KeyId>, limit: usize) -> (Vec<(KeyId, u64)>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let uses = lock(&self.uses);
        let mut rest = uses
            .range((after.map_or(Unbounded, Excluded), Unbounded))
            .map(|(key_id, uses)| (*key_id, uses.load(Ordering::Relaxed)))
            .filter(|(_, uses)| *uses > 0);
        let page = rest.by_ref().take(limit).collect();
        (page, rest.next().is_some())
    }

    fn cached(&self, token: &KeyToken) -> Option<Arc<OpenKey>> {
        let mut cache = lock(&self.open);
        if let Some(key) = cache.young.get(token) {
            return Some(Arc::clone(key));
        }
        let (token, key) = cache.old.remove_entry(token)?;
        cache.put(token, Arc::clone(&key));
        Some(key)
    }

    fn uses_of(&self, key_id: KeyId) -> Arc<AtomicU64> {
        let mut uses = lock(&self.uses);
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
