use super::codec::*;
use super::*;
use crate::grant::{GrantConstraints, GrantOperation, Operations};
use crate::key::{KeyState, KeyVersion, Material};
use crate::name::{Description, GrantName, PrincipalName};
use bytes::Bytes;
use envelope::{EncryptionContext, Header, Kind, Suite};
use hsm_api::{KeySpec, KeyToken, KeyUsage, Origin, ProtectionLevel};

const TENANT: TenantId = [0x7e; 16];

fn at(millis: u64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

fn id() -> KeyId {
    KeyId::from_random([0xab; 16])
}

fn token(version: u32) -> KeyToken {
    let header = Header {
        kind: Kind::KeyToken,
        suite: Suite::KdfCommitGcm,
        key_id: *id().bytes(),
        key_version: version,
        domain_id: [0xd0; 16],
        generation: 1,
    };
    KeyToken::parse(TENANT, [&header.to_bytes()[..], &[0x5a; 16 + 12 + 32 + 8 + 16]].concat().into()).unwrap()
}

fn key(state: KeyState) -> KeyRecord {
    let erased = matches!(state, KeyState::Deleted { .. });
    let versions = (1..=2).map(|number| KeyVersion {
        number,
        created: at(1000 + u64::from(number)),
        generation: 1,
        material: (!erased).then(|| Material { token: token(number), public_key: Bytes::from_static(b"spki") }),
    });
    KeyRecord {
        id: id(),
        spec: KeySpec::EccNistP256,
        usage: KeyUsage::SignVerify,
        level: ProtectionLevel::Boundary,
        origin: Origin::Generated,
        description: Description::parse("für Tests").unwrap(),
        created: at(1000),
        state,
        versions: versions.collect(),
    }
}

/// With a version of a later generation of the cluster.
fn renewed() -> KeyRecord {
    let mut key = key(KeyState::Enabled);
    key.versions[1].generation = 7;
    key
}

/// Its first version's material is gone.
fn trimmed() -> KeyRecord {
    let mut key = key(KeyState::Enabled);
    key.versions[0].material = None;
    key
}

fn grant(full: bool) -> Grant {
    let principal = |name| PrincipalName::parse(name).unwrap();
    let pairs = |pairs: &[(&str, &str)]| EncryptionContext::parse(pairs.iter().copied()).unwrap();
    Grant {
        id: GrantId::from_bytes([3; 16]),
        name: full.then(|| GrantName::parse("job:nightly").unwrap()),
        grantee: principal("token/0123456789abcdef0123456789abcdef"),
        retiring: full.then(|| principal("cert/ops")),
        issuing: principal("cert/admin"),
        operations: Operations::of([GrantOperation::Decrypt, GrantOperation::VerifyMac]).unwrap(),
        constraints: GrantConstraints {
            subset: if full { pairs(&[("a", "b")]) } else { pairs(&[]) },
            equals: if full { pairs(&[("a", "b"), ("c", "")]) } else { pairs(&[]) },
        },
        created: at(5),
        expires: full.then(|| at(6)),
    }
}

fn alias() -> AliasEntry {
    AliasEntry { name: AliasName::parse("alias/team/app").unwrap(), target: id(), created: at(9) }
}

fn request() -> RequestRecord {
    RequestRecord { request: [0x1c; 32], key_id: id(), created: at(77) }
}

/// Encodes what `bytes` were decoded to.
type Again = fn(&[u8]) -> Option<Vec<u8>>;

/// Every kind of value: its name in the golden file, its bytes, and decoding with encoding after it.
fn samples() -> Vec<(&'static str, Vec<u8>, Again)> {
    let key_again: Again = |bytes| decode_key(&TENANT, bytes).and_then(|key| encode_key(&key));
    let grant_again: Again = |bytes| decode_grant(bytes).and_then(|grant| encode_grant(&grant));
    let alias_again: Again = |bytes| decode_alias(bytes).and_then(|alias| encode_alias(&alias));
    let request_again: Again = |bytes| decode_request(bytes).map(|request| encode_request(&request));
    let due_again: Again = |bytes| decode_due(bytes).map(|id| encode_due(&id));
    vec![
        ("key-enabled", encode_key(&key(KeyState::Enabled)).unwrap(), key_again),
        ("key-disabled", encode_key(&key(KeyState::Disabled)).unwrap(), key_again),
        ("key-pending-deletion", encode_key(&key(KeyState::PendingDeletion { at: at(2000) })).unwrap(), key_again),
        ("key-deleted", encode_key(&key(KeyState::Deleted { at: at(2000) })).unwrap(), key_again),
        ("key-renewed", encode_key(&renewed()).unwrap(), key_again),
        ("key-trimmed", encode_key(&trimmed()).unwrap(), key_again),
        ("grant-full", encode_grant(&grant(true)).unwrap(), grant_again),
        ("grant-bare", encode_grant(&grant(false)).unwrap(), grant_again),
        ("alias", encode_alias(&alias()).unwrap(), alias_again),
        ("request", encode_request(&request()), request_again),
        ("due", encode_due(&id()), due_again),
    ]
}

#[test]
fn stored_values_are_as_they_have_always_been() {
    let golden = include_str!("golden.txt");
    let lines: Vec<_> = golden.lines().collect();
    assert_eq!(lines.len(), samples().len());
    for ((name, bytes, again), line) in samples().into_iter().zip(lines) {
        assert_eq!(format!("{name} {}", hex::encode(&bytes)), line);
        assert_eq!(again(&bytes).as_ref(), Some(&bytes), "{name}");
    }
}

#[test]
fn what_is_decoded_is_what_was_encoded() {
    for state in [
        KeyState::Enabled,
        KeyState::Disabled,
        KeyState::PendingDeletion { at: at(1) },
        KeyState::Deleted { at: at(2) },
    ] {
        assert_eq!(decode_key(&TENANT, &encode_key(&key(state)).unwrap()), Some(key(state)));
    }
    assert_eq!(decode_key(&TENANT, &encode_key(&renewed()).unwrap()), Some(renewed()));
    assert_eq!(decode_key(&TENANT, &encode_key(&trimmed()).unwrap()), Some(trimmed()));
    // the oldest go first, and the newest goes with its key
    for gone in [&[1][..], &[0, 1]] {
        let mut key = key(KeyState::Enabled);
        gone.iter().for_each(|at| key.versions[*at].material = None);
        assert_eq!(decode_key(&TENANT, &encode_key(&key).unwrap()), None, "{gone:?}");
    }
    for full in [true, false] {
        assert_eq!(decode_grant(&encode_grant(&grant(full)).unwrap()), Some(grant(full)));
    }
    assert_eq!(decode_alias(&encode_alias(&alias()).unwrap()), Some(alias()));
    assert_eq!(decode_request(&encode_request(&request())), Some(request()));
    assert_eq!(decode_due(&encode_due(&id())), Some(id()));
}

#[test]
fn anything_else_is_not_decoded() {
    for (name, bytes, again) in samples() {
        for cut in 0..bytes.len() {
            assert_eq!(again(&bytes[..cut]), None, "{name} cut at {cut}");
        }
        assert_eq!(again(&[&bytes[..], &[0]].concat()), None, "{name} with a byte more");
        let other = [3 - bytes[0]];
        assert_eq!(again(&[&other, &bytes[1..]].concat()), None, "{name} of another version");
        // whatever is changed is refused, or is another value's own encoding: nothing has two forms
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(again(&changed).is_none_or(|again| again == changed), "{name} byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn caches_tell_their_sizes_up_to_their_limits() {
    let caches = Caches::new(2);
    let none = CacheSizes { keys: 0, aliases: 0, grants: 0 };
    assert_eq!(caches.sizes(), none);
    // nothing is kept before changes are followed
    caches.apply(&Change::Gap { revision: Revision(0) });
    for (number, aliases) in [(1, 1), (2, 2), (3, 2)] {
        let name = AliasName::parse(&format!("alias/{number}")).unwrap();
        caches.aliases.insert(name, Arc::new(id()), &[], Revision(number));
        assert_eq!(caches.sizes(), CacheSizes { aliases, ..none });
    }
    caches.keys.insert(([1; 16], id()), Arc::new(key(KeyState::Enabled)), &[], Revision(4));
    assert_eq!(caches.sizes(), CacheSizes { keys: 1, aliases: 2, grants: 0 });
}
