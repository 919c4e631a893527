//! Stored values, version 1. Integers big-endian; `text` and `bytes` are `u16 length | bytes`.
//!
//! ```text
//! key      u8 = 1 | key id 16 | spec u8 | usage u8 | level u8 | origin u8 | created u64 | state u8 | state's time u64 (0: none)
//!          | description text | count u16 | count × (number u32 | created u64 | token bytes (empty: erased, of all versions or the oldest) | public key bytes)
//!          or u8 = 2 | the same, with the version's generation u64 after each `created`; in 1 it is 1 everywhere
//! alias    u8 = 1 | target key id 16 | created u64 | name text
//! grant    u8 = 1 | grant id 16 | operations u16 (bit n: operation n) | created u64 | expires u64 (2^64-1: never)
//!          | grantee text | retiring text | issuing text | name text (empty: none) | subset bytes | equals bytes (canonical)
//! request  u8 = 1 | SHA-256 of the request 32 | key id 16 | created u64
//! due      u8 = 1 | key id 16
//! ```
//!
//! Always: decoding is total, and takes nothing but what encoding makes.

use crate::grant::{Grant, GrantConstraints, Operations};
use crate::key::{KEY_VERSIONS_MAX, KeyRecord, KeyState, KeyVersion, Material};
use crate::name::{AliasName, Description, GrantId, GrantName, PrincipalName};
use crate::op::alias::AliasEntry;
use bytes::Bytes;
use envelope::{EncryptionContext, Timestamp};
use hsm_api::{KeyId, KeySpec, KeyToken, KeyUsage, Origin, ProtectionLevel, TenantId};

/// What a client request id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestRecord {
    pub(crate) request: [u8; 32],
    pub(crate) key_id: KeyId,
    pub(crate) created: Timestamp,
}

/// `None`: something in the record is longer than its limit, which names and tokens never are.
pub(crate) fn encode_key(key: &KeyRecord) -> Option<Vec<u8>> {
    let (state, at) = match key.state {
        KeyState::Enabled => (1, Timestamp::default()),
        KeyState::Disabled => (2, Timestamp::default()),
        KeyState::PendingDeletion { at } => (3, at),
        KeyState::Deleted { at } => (4, at),
    };
    // as it has always been, where no generation has passed
    let told = key.versions.iter().any(|version| version.generation != FIRST_GENERATION);
    let mut out = vec![if told { GENERATIONS_TOLD } else { VERSION }];
    out.extend_from_slice(key.id.bytes());
    out.extend_from_slice(&[key.spec.code(), key.usage.code(), key.level.code(), key.origin.code()]);
    put_time(&mut out, key.created);
    out.push(state);
    put_time(&mut out, at);
    put(&mut out, key.description.as_str().as_bytes())?;
    out.extend_from_slice(&u16::try_from(key.versions.len()).ok()?.to_be_bytes());
    for version in &key.versions {
        out.extend_from_slice(&version.number.to_be_bytes());
        put_time(&mut out, version.created);
        if told {
            out.extend_from_slice(&version.generation.to_be_bytes());
        }
        let material = version.material.as_ref();
        put(&mut out, material.map_or(&[], |material| material.token.bytes()))?;
        put(&mut out, material.map_or(&[], |material| &material.public_key))?;
    }
    Some(out)
}

pub(crate) fn decode_key(tenant: &TenantId, bytes: &[u8]) -> Option<KeyRecord> {
    let (mut r, told) = match bytes.split_first()? {
        (&VERSION, rest) => (Reader(rest), false),
        (&GENERATIONS_TOLD, rest) => (Reader(rest), true),
        _ => return None,
    };
    let id = KeyId::from_bytes(r.array()?);
    let [spec, usage, level, origin] = r.array()?;
    let created = r.time()?;
    let [state] = r.array()?;
    let at = r.time()?;
    let state = match (state, at.unix_millis()) {
        (1, 0) => KeyState::Enabled,
        (2, 0) => KeyState::Disabled,
        (3, _) => KeyState::PendingDeletion { at },
        (4, _) => KeyState::Deleted { at },
        _ => return None,
    };
    let description = Description::parse(r.text()?).ok()?;
    let count = usize::from(u16::from_be_bytes(r.array()?));
    if !(1..=KEY_VERSIONS_MAX).contains(&count) {
        return None;
    }
    let erased = matches!(state, KeyState::Deleted { .. });
    let mut versions = Vec::with_capacity(count);
    for expected in 1..=count {
        let number = u32::from_be_bytes(r.array()?);
        let created = r.time()?;
        let generation = if told { u64::from_be_bytes(r.array()?) } else { FIRST_GENERATION };
        let (token, public_key) = (r.bytes()?, r.bytes()?);
        // old versions can be erased, oldest first; the current one goes with its key only
        let after_material = versions.last().is_some_and(|version: &KeyVersion| version.material.is_some());
        let gone = token.is_empty() && public_key.is_empty();
        let sound = if gone { erased || (!after_material && expected < count) } else { !erased };
        if usize::try_from(number).ok()? != expected || !sound {
            return None;
        }
        let material = if gone { None } else { Some(material(tenant, token, public_key)?) };
        versions.push(KeyVersion { number, created, generation, material });
    }
    r.end()?;
    if told && versions.iter().all(|version| version.generation == FIRST_GENERATION) {
        return None;
    }
    Some(KeyRecord {
        id,
        spec: KeySpec::from_code(spec)?,
        usage: KeyUsage::from_code(usage)?,
        level: ProtectionLevel::from_code(level)?,
        origin: Origin::from_code(origin)?,
        description,
        created,
        state,
        versions,
    })
}

fn material(tenant: &TenantId, token: &[u8], public_key: &[u8]) -> Option<Material> {
    let token = KeyToken::parse(*tenant, Bytes::copy_from_slice(token)).ok()?;
    Some(Material { token, public_key: Bytes::copy_from_slice(public_key) })
}

pub(crate) fn encode_alias(alias: &AliasEntry) -> Option<Vec<u8>> {
    let mut out = vec![VERSION];
    out.extend_from_slice(alias.target.bytes());
    put_time(&mut out, alias.created);
    put(&mut out, alias.name.as_str().as_bytes())?;
    Some(out)
}

pub(crate) fn decode_alias(bytes: &[u8]) -> Option<AliasEntry> {
    let mut r = Reader::of(bytes)?;
    let (target, created) = (KeyId::from_bytes(r.array()?), r.time()?);
    let name = AliasName::parse(r.text()?).ok()?;
    r.end()?;
    Some(AliasEntry { name, target, created })
}

pub(crate) fn encode_grant(grant: &Grant) -> Option<Vec<u8>> {
    let mut out = vec![VERSION];
    out.extend_from_slice(grant.id.bytes());
    put_grant_body(&mut out, grant)?;
    Some(out)
}

/// All of a grant but its id and the time when it was made: what makes a repeated call the same.
pub(crate) fn grant_body(grant: &Grant) -> Option<Vec<u8>> {
    let mut out = vec![VERSION];
    put_grant_body(&mut out, &Grant { created: Timestamp::default(), ..grant.clone() })?;
    Some(out)
}

fn put_grant_body(out: &mut Vec<u8>, grant: &Grant) -> Option<()> {
    out.extend_from_slice(&grant.operations.bits().to_be_bytes());
    put_time(out, grant.created);
    put_time(out, grant.expires.unwrap_or(NEVER));
    put(out, grant.grantee.as_str().as_bytes())?;
    put(out, grant.retiring.as_ref().map_or("", PrincipalName::as_str).as_bytes())?;
    put(out, grant.issuing.as_str().as_bytes())?;
    put(out, grant.name.as_ref().map_or("", GrantName::as_str).as_bytes())?;
    put(out, &grant.constraints.subset.canonical())?;
    put(out, &grant.constraints.equals.canonical())
}

pub(crate) fn decode_grant(bytes: &[u8]) -> Option<Grant> {
    let mut r = Reader::of(bytes)?;
    let id = GrantId::from_bytes(r.array()?);
    let operations = Operations::from_bits(u16::from_be_bytes(r.array()?))?;
    let (created, expires) = (r.time()?, r.time()?);
    let grantee = PrincipalName::parse(r.text()?).ok()?;
    let retiring = Some(r.text()?).filter(|text| !text.is_empty()).map(PrincipalName::parse).transpose().ok()?;
    let issuing = PrincipalName::parse(r.text()?).ok()?;
    let name = Some(r.text()?).filter(|text| !text.is_empty()).map(GrantName::parse).transpose().ok()?;
    let subset = EncryptionContext::from_canonical(r.bytes()?).ok()?;
    let equals = EncryptionContext::from_canonical(r.bytes()?).ok()?;
    r.end()?;
    let constraints = GrantConstraints { subset, equals };
    let expires = Some(expires).filter(|expires| *expires != NEVER);
    Some(Grant { id, name, grantee, retiring, issuing, operations, constraints, created, expires })
}

pub(crate) fn encode_request(request: &RequestRecord) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&request.request);
    out.extend_from_slice(request.key_id.bytes());
    put_time(&mut out, request.created);
    out
}

pub(crate) fn decode_request(bytes: &[u8]) -> Option<RequestRecord> {
    let mut r = Reader::of(bytes)?;
    let (request, key_id, created) = (r.array()?, KeyId::from_bytes(r.array()?), r.time()?);
    r.end()?;
    Some(RequestRecord { request, key_id, created })
}

pub(crate) fn encode_due(key_id: &KeyId) -> Vec<u8> {
    [&[VERSION][..], key_id.bytes()].concat()
}

pub(crate) fn decode_due(bytes: &[u8]) -> Option<KeyId> {
    let mut r = Reader::of(bytes)?;
    let key_id = KeyId::from_bytes(r.array()?);
    r.end()?;
    Some(key_id)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend_from_slice(&time.unix_millis().to_be_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        bytes.strip_prefix(&[VERSION]).map(Self)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.array().map(u64::from_be_bytes).map(Timestamp::from_unix_millis)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(u16::from_be_bytes(self.array()?));
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

const VERSION: u8 = 1;
/// Of a key, a version of which is not of the first generation.
const GENERATIONS_TOLD: u8 = 2;
/// Of the cluster.
const FIRST_GENERATION: u64 = 1;
const NEVER: Timestamp = Timestamp::from_unix_millis(u64::MAX);
