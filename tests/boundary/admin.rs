//! Roles and states, restarts, backup, rotation of the domain, zeroisation.

use crate::stand::Stand;
use crate::suite::{AAD, Gives, Need, Refuses, Suite, TENANT, decrypt_on, encrypt};
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::{
    BackupPackage, HsmError, KeySpec, KeyToken, KeyUsage, MessageToSign, ModuleState, NewKey, ProtectionLevel, Reply,
    Request, Role, Service, SigningAlgorithm,
};

/// Nothing but the folder (and the token) survives a restart, and every key works again.
pub(crate) fn restart(suite: &mut Suite) {
    let specs: Vec<KeySpec> = KeySpec::ALL.iter().copied().filter(|spec| suite.offers(Need::Spec(*spec))).collect();
    let small = specs.into_iter().filter(|spec| !matches!(spec, KeySpec::Rsa3072 | KeySpec::Rsa4096));
    let keys: Vec<_> = small.map(|spec| (spec, suite.key(spec))).collect();
    let aes = suite.aes();
    let blob = suite.encrypt(&aes, b"text");
    let before = suite.stand.status();
    suite.stand.restart();
    let after = suite.stand.status();
    assert_eq!(
        (before.module_id, before.domain_id, before.identity_key),
        (after.module_id, after.domain_id, after.identity_key)
    );
    assert_eq!(after.boot_epoch, before.boot_epoch + 1);
    assert_eq!(after.clusters, before.clusters);
    assert_eq!(suite.decrypt(&aes, &blob, AAD).unwrap(), b"text");
    suite.count(false);
    for (spec, key) in keys {
        let token = key.token.clone();
        let request = match spec.usage() {
            KeyUsage::EncryptDecrypt => encrypt(&token, b"text"),
            KeyUsage::GenerateVerifyMac => Request::Mac { key: token, message: SecretBytes::copy_from(b"m") },
            KeyUsage::SignVerify | KeyUsage::Log | KeyUsage::SystemSeal => Request::Sign {
                key: token,
                algorithm: spec.signing_algorithms()[0],
                message: MessageToSign::Raw(Bytes::from_static(b"m")),
            },
        };
        suite.row(format!("{spec:?} after a restart"), &[], request, Gives);
        if !key.public_key.is_empty() {
            let request = Request::PublicKey { key: key.token };
            let Some(Reply::PublicKey(again)) = suite.row(format!("{spec:?}"), &[], request, Gives) else { panic!() };
            assert_eq!(again, key.public_key);
        }
    }
}

/// A request of every service, as small as it gets and refused on its merits where it gets that far.
fn request_of(service: Service, key: &KeyToken, level: ProtectionLevel) -> Request {
    let key = key.clone();
    match service {
        Service::Status => Request::Status,
        Service::GenerateKey => Request::GenerateKey(NewKey {
            key_id: None,
            version: 0,
            tenant: TENANT,
            spec: KeySpec::Aes256,
            usage: KeyUsage::EncryptDecrypt,
            level,
            not_after: None,
        }),
        Service::GenerateDataKeys => Request::GenerateDataKeys { key, asks: vec![] },
        Service::Encrypt => Request::Encrypt { key, asks: vec![] },
        Service::Decrypt => Request::Decrypt { key, asks: vec![] },
        Service::ReEncrypt => Request::ReEncrypt {
            from: key.clone(),
            to: key,
            from_aad_digest: AAD,
            to_aad_digest: AAD,
            blob: Bytes::new(),
        },
        Service::Sign => {
            let message = MessageToSign::Raw(Bytes::new());
            Request::Sign { key, algorithm: SigningAlgorithm::EcdsaSha256, message }
        }
        Service::PublicKey => Request::PublicKey { key },
        Service::Mac => Request::Mac { key, message: SecretBytes::from_vec(vec![]) },
        Service::Random => Request::Random { bytes: 0 },
        Service::SystemSeal => {
            Request::SystemSeal { key, epoch: 0, aad_digest: AAD, plaintext: SecretBytes::from_vec(vec![]) }
        }
        Service::SystemOpen => Request::SystemOpen { key, aad_digest: AAD, sealed: Bytes::new() },
        Service::SignCheckpoint => {
            Request::SignCheckpoint { key, origin: String::new(), size: 0, root: [0; 32], proof: vec![] }
        }
        Service::SignBatch => Request::SignBatch { key, origin: String::new(), first: 0, count: 0, root: [0; 32] },
        Service::Counters => Request::Counters { after: None, limit: 0, challenge: [0; 32] },
        Service::Rewrap => Request::Rewrap { key },
        Service::Initialise => Request::Initialise { threshold: 0, shares: 0 },
        Service::Enrol => Request::Enrol { role: Role::User, pin: [9; 32] },
        Service::Backup => Request::Backup { threshold: 0, shares: 0 },
        Service::Restore => Request::Restore { package: Bytes::new(), shares: vec![] },
        Service::RotateDomain => Request::RotateDomain,
        Service::Zeroise => Request::Zeroise,
    }
}

/// The table of `hsm_api::state::allowed`, asked for cell by cell.
pub(crate) fn roles_and_states(suite: &mut Suite) {
    let (key, level, kind) = (suite.aes(), suite.level(), suite.stand.kind);
    let blank = Stand::blank(kind);
    // one that starts without its domain key has no state to be in before initialisation
    let mut states = vec![(blank.status().state, &blank)];
    let locked = Stand::locked(kind);
    states.push((ModuleState::Locked, &locked));
    states.push((ModuleState::Operational, &suite.stand));
    let mut cells = Vec::new();
    for (state, stand) in states {
        assert_eq!(stand.status().state, state);
        for role in [Role::User, Role::Officer, Role::Auditor] {
            for service in Service::ALL.iter().copied().filter(|service| changes_nothing(*service, role)) {
                let outcome = stand.ask(role, request_of(service, &key, level));
                let lost = matches!(outcome, Err(HsmError::Unavailable | HsmError::Restarted | HsmError::TimedOut));
                assert!(!lost, "{kind:?} was lost over {} as {role:?} in {state:?}: {outcome:?}", service.name());
                let refused = matches!(outcome, Err(HsmError::RoleForbidden | HsmError::StateForbidden));
                let allowed = hsm_api::state::allowed(service, role, state);
                assert_eq!(refused, !allowed, "{kind:?}: {} as {role:?} in {state:?}: {outcome:?}", service.name());
                cells.push(refused);
            }
        }
    }
    cells.into_iter().for_each(|refused| suite.count(refused));
}

/// What an officer may really do is asked for elsewhere.
fn changes_nothing(service: Service, role: Role) -> bool {
    !matches!((service, role), (Service::Zeroise | Service::RotateDomain, Role::Officer))
}

pub(crate) fn backup_and_rotation(suite: &mut Suite) {
    let old = suite.aes();
    let blob = suite.encrypt(&old, b"text");
    let backup = |threshold, shares| Request::Backup { threshold, shares };
    for (threshold, shares) in [(0, 0), (0, 1), (3, 2)] {
        let what = format!("{threshold} of {shares}");
        suite.row_as(Role::Officer, what, &[], backup(threshold, shares), Refuses(HsmError::OutOfRange));
    }
    if let Some(Reply::Backup(backup)) = suite.row_as(Role::Officer, "2 of 3", &[], backup(2, 3), Gives) {
        restore(suite, &backup, &old, &blob);
    }
    let before = suite.stand.status().generation;
    if let Some(Reply::Generation(generation)) =
        suite.row_as(Role::Officer, "a new generation", &[], Request::RotateDomain, Gives)
    {
        assert_eq!(generation, before + 1);
    }
    let fresh = match suite.row("an old token", &[], Request::Rewrap { key: old.clone() }, Gives) {
        Some(Reply::Token(fresh)) => fresh,
        Some(other) => panic!("{other:?}"),
        None => old.clone(),
    };
    if suite.offers(Need::Service(Service::RotateDomain)) {
        let generation = |token: &KeyToken| envelope::sealed::parse_token(token.bytes()).unwrap().header.generation;
        assert_eq!((generation(&old), generation(&fresh)), (before, before + 1));
    }
    for token in [&old, &fresh] {
        assert_eq!(suite.decrypt(token, &blob, AAD).unwrap(), b"text");
        suite.count(false);
    }
    let moved = KeyToken::parse([1; 16], old.bytes().clone()).unwrap();
    suite.row("another tenant's token", &[], Request::Rewrap { key: moved }, Refuses(HsmError::TokenRejected));
}

/// Into a new module: with too few shares not, with enough of them everything opens.
fn restore(suite: &mut Suite, backup: &BackupPackage, key: &KeyToken, blob: &[u8]) {
    let new = Stand::blank(suite.stand.kind);
    let share = |which: &[usize]| which.iter().map(|n| SecretBytes::copy_from(backup.shares[*n].expose())).collect();
    let mut altered = backup.package.to_vec();
    altered[30] ^= 1;
    for (package, shares, outcome) in [
        (&backup.package[..], share(&[]), Err(HsmError::SharesRejected)),
        (&backup.package, share(&[0]), Err(HsmError::SharesRejected)),
        (&backup.package, share(&[1, 1]), Err(HsmError::SharesRejected)),
        (&altered, share(&[0, 1]), Err(HsmError::SharesRejected)),
        (&backup.package, share(&[2, 0]), Ok(())),
        (&backup.package, share(&[2, 0]), Err(HsmError::StateForbidden)),
    ] {
        let request = Request::Restore { package: Bytes::copy_from_slice(package), shares };
        assert_eq!(new.ask(Role::Officer, request).map(drop), outcome);
        suite.count(outcome.is_err());
    }
    assert_eq!(decrypt_on(&new, key, blob, AAD).unwrap(), b"text");
    assert_eq!(new.status().domain_id, suite.stand.status().domain_id);
    assert_ne!(new.status().module_id, suite.stand.status().module_id);
    suite.count(false);
}

/// The end of every key.
pub(crate) fn zeroise(suite: &mut Suite) {
    let key = suite.aes();
    let blob = suite.encrypt(&key, b"text");
    if suite.row_as(Role::Officer, "the end", &[], Request::Zeroise, Gives).is_none() {
        return;
    }
    assert_eq!(suite.stand.status().state, ModuleState::Uninitialised);
    suite.row("after the end", &[], encrypt(&key, b"text"), Refuses(HsmError::StateForbidden));
    suite.stand.initialise();
    assert_eq!(suite.decrypt(&key, &blob, AAD), Err(HsmError::TokenRejected));
    suite.count(true);
}
