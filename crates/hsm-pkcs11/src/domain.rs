//! What the module remembers, in one record of the token: the domain, its clusters, the checkpoints it signed.
//!
//! ```text
//! format u16 = 1 | domain id 16 | module id 16 | boot epoch u64
//! | HMAC key: CKA_ID 16, check value 32 | identity: spec u8, CKA_ID 16, check value 32, SubjectPublicKeyInfo u16 + bytes
//! | clusters u16, 16 each | checkpoints u16, each: origin u16 + bytes, size u64, root 32             integers big-endian
//! ```
//!
//! Always: a change counts when the token has stored it. Never: a record that is read halfway.

use crate::resident::Resident;
use bytes::Bytes;
use hsm_api::message::ORIGIN_BYTES_MAX;
use hsm_api::{KeySpec, TenantId};
use std::collections::BTreeMap;

/// The record's name in the token.
pub(crate) const DOMAIN: &str = "domain";
/// Most clusters that a module knows.
pub(crate) const CLUSTERS_MAX: usize = 16;
/// Most logs whose last checkpoint a module remembers.
pub(crate) const ORIGINS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) domain_id: [u8; 16],
    pub(crate) module_id: [u8; 16],
    pub(crate) boot_epoch: u64,
    pub(crate) hmac: Named,
    pub(crate) identity: Named,
    pub(crate) identity_spki: Bytes,
    pub(crate) clusters: Vec<TenantId>,
    pub(crate) checkpoints: BTreeMap<String, Checkpoint>,
}

/// Enough to find a resident again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) spec: KeySpec,
    pub(crate) cka_id: [u8; 16],
    pub(crate) check_value: [u8; 32],
}

/// The last checkpoint signed for an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) size: u64,
    pub(crate) root: [u8; 32],
}

impl From<&Resident> for Named {
    fn from(key: &Resident) -> Self {
        Self { spec: key.spec, cka_id: key.cka_id, check_value: key.check_value }
    }
}

impl Named {
    pub(crate) fn resident(&self) -> Resident {
        Resident::new(self.spec, self.cka_id, self.check_value)
    }
}

impl Memory {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = FORMAT.to_be_bytes().to_vec();
        out.extend_from_slice(&self.domain_id);
        out.extend_from_slice(&self.module_id);
        out.extend_from_slice(&self.boot_epoch.to_be_bytes());
        out.extend_from_slice(&self.hmac.cka_id);
        out.extend_from_slice(&self.hmac.check_value);
        out.push(self.identity.spec.code());
        out.extend_from_slice(&self.identity.cka_id);
        out.extend_from_slice(&self.identity.check_value);
        count(&mut out, self.identity_spki.len());
        out.extend_from_slice(&self.identity_spki);
        count(&mut out, self.clusters.len());
        self.clusters.iter().for_each(|cluster| out.extend_from_slice(cluster));
        count(&mut out, self.checkpoints.len());
        for (origin, checkpoint) in &self.checkpoints {
            count(&mut out, origin.len());
            out.extend_from_slice(origin.as_bytes());
            out.extend_from_slice(&checkpoint.size.to_be_bytes());
            out.extend_from_slice(&checkpoint.root);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Cursor(bytes);
        if r.u16()? != FORMAT {
            return None;
        }
        let (domain_id, module_id, boot_epoch) = (r.array()?, r.array()?, r.u64()?);
        let hmac = Named { spec: KeySpec::Hmac256, cka_id: r.array()?, check_value: r.array()? };
        let [spec] = r.array()?;
        let identity = Named { spec: KeySpec::from_code(spec)?, cka_id: r.array()?, check_value: r.array()? };
        let len = r.u16()?;
        let identity_spki = Bytes::copy_from_slice(r.take(len.into())?);
        let clusters = (0..r.count(CLUSTERS_MAX)?).map(|_| r.array()).collect::<Option<_>>()?;
        let mut checkpoints = BTreeMap::new();
        for _ in 0..r.count(ORIGINS_MAX)? {
            let len = r.count(ORIGIN_BYTES_MAX)?;
            let origin = std::str::from_utf8(r.take(len)?).ok()?.to_owned();
            checkpoints.insert(origin, Checkpoint { size: r.u64()?, root: r.array()? });
        }
        let memory = Self { domain_id, module_id, boot_epoch, hmac, identity, identity_spki, clusters, checkpoints };
        r.0.is_empty().then_some(memory)
    }
}

fn count(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes());
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn count(&mut self, max: usize) -> Option<usize> {
        Some(usize::from(self.u16()?)).filter(|n| *n <= max)
    }
}

const FORMAT: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_comes_back_whole_or_not_at_all() {
        let named = |spec| Named { spec, cka_id: [3; 16], check_value: [4; 32] };
        let memory = Memory {
            domain_id: [1; 16],
            module_id: [2; 16],
            boot_epoch: 9,
            hmac: named(KeySpec::Hmac256),
            identity: named(KeySpec::EccNistEdwards25519),
            identity_spki: Bytes::from_static(&[5; 44]),
            clusters: vec![[6; 16], [7; 16]],
            checkpoints: BTreeMap::from([("log.example".to_owned(), Checkpoint { size: 8, root: [9; 32] })]),
        };
        let bytes = memory.encode();
        assert_eq!(Memory::decode(&bytes), Some(memory));
        for cut in 0..bytes.len() {
            assert_eq!(Memory::decode(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Memory::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
