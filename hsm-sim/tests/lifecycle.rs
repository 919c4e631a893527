//! What survives a restart, a crash, a rotation, a backup, and what does not survive zeroisation.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature, VerifyingKey};
use envelope::{SecretBytes, mac};
use hsm_api::{
    BackupPackage, HsmError, KeySpec, KeyToken, KeyUsage, ModuleState, NewKey, Reply, Request, Role, checkpoint,
};
use rig::{AAD, Rig, TENANT, new_key, unlock};
use std::os::unix::fs::PermissionsExt;

fn restore(rig: &Rig, package: &[u8], shares: &[&SecretBytes]) -> Result<(), HsmError> {
    let shares = shares.iter().map(|share| SecretBytes::copy_from(share.expose())).collect();
    rig.officer(Request::Restore { package: Bytes::copy_from_slice(package), shares }).map(drop)
}

fn picks<'a>(backup: &'a BackupPackage, which: &[usize]) -> Vec<&'a SecretBytes> {
    which.iter().map(|i| &backup.shares[*i]).collect()
}

fn rotate(rig: &Rig) -> u32 {
    match rig.officer(Request::RotateDomain) {
        Ok(Reply::Generation(generation)) => generation,
        other => panic!("{other:?}"),
    }
}

fn rewrap(rig: &Rig, key: &KeyToken) -> Result<KeyToken, HsmError> {
    match rig.user(Request::Rewrap { key: key.clone() })? {
        Reply::Token(token) => Ok(token),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_outlive_a_restart_and_the_boot_epoch_rises() {
    let mut rig = Rig::operational();
    let key = rig.key(KeySpec::Aes256).token;
    let rsa = rig.key(KeySpec::Rsa2048);
    let blob = rig.encrypt(&key, b"text").unwrap();
    let before = rig.status();
    rig.start();
    let after = rig.status();
    assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), b"text");
    let Ok(Reply::PublicKey(public_key)) = rig.user(Request::PublicKey { key: rsa.token }) else { panic!("RSA opens") };
    assert_eq!(public_key, rsa.public_key);
    assert_eq!((before.boot_epoch, after.boot_epoch), (1, 2));
    assert_eq!(before.module_id, after.module_id);
    assert_eq!(before.identity_key, after.identity_key);
    assert_eq!(rig.uses().len(), 1, "uses are counted from the start");
}

#[test]
fn a_wrong_or_missing_unlock_secret_leaves_the_module_locked_and_whole() {
    let mut rig = Rig::operational();
    let key = rig.key(KeySpec::Aes256).token;
    let passphrase = || hsm_sim::Unlock::Passphrase(SecretBytes::copy_from(b"a passphrase of words"));
    for (secret, why) in [
        (None, "no unlock secret was given"),
        (Some(unlock(8)), "the unlock secret is not the state file's"),
        (Some(passphrase()), "the unlock secret is of another kind than the state file's"),
    ] {
        rig.start_with(secret);
        let status = rig.status();
        assert_eq!(status.state, ModuleState::Locked);
        assert!(status.report.contains(&("unlock".to_owned(), why.to_owned())), "{:?}", status.report);
        assert_eq!(rig.encrypt(&key, b"text").unwrap_err(), HsmError::StateForbidden);
    }
    rig.start();
    assert!(rig.encrypt(&key, b"text").is_ok());
}

#[test]
fn a_passphrase_unlocks_what_it_sealed() {
    let mut rig = Rig::blank();
    let passphrase = |text: &[u8]| Some(hsm_sim::Unlock::Passphrase(SecretBytes::copy_from(text)));
    rig.start_with(passphrase(b"correct horse battery"));
    rig.initialise(1, 1).unwrap();
    rig.start_with(passphrase(b"correct horse battery"));
    assert_eq!(rig.module().state(), ModuleState::Operational);
    rig.start_with(passphrase(b"correct horse batterz"));
    assert_eq!(rig.module().state(), ModuleState::Locked);
}

#[test]
fn without_an_unlock_secret_nothing_is_initialised() {
    let mut rig = Rig::blank();
    rig.start_with(None);
    assert_eq!(rig.initialise(1, 1).unwrap_err(), HsmError::StateForbidden);
    assert!(!rig.state_file().exists());
}

#[test]
fn a_damaged_state_file_is_an_error_and_never_a_new_start() {
    let mut rig = Rig::operational();
    let good = std::fs::read(rig.state_file()).unwrap();
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for damaged in [&[][..], &good[..1], &good[..good.len() - 1], &flipped, &vec![0; 300 * 1024]] {
        std::fs::write(rig.state_file(), damaged).unwrap();
        rig.start();
        assert_eq!(rig.module().state(), ModuleState::Error, "{} bytes", damaged.len());
        assert_eq!(rig.initialise(1, 1).unwrap_err(), HsmError::ErrorState);
        assert_eq!(std::fs::read(rig.state_file()).unwrap(), damaged, "it is left as it is");
    }
    std::fs::write(rig.state_file(), &good).unwrap();
    std::fs::set_permissions(rig.state_file(), std::fs::Permissions::from_mode(0o640)).unwrap();
    rig.start();
    assert_eq!(rig.module().state(), ModuleState::Error, "others can read it");
    std::fs::set_permissions(rig.state_file(), std::fs::Permissions::from_mode(0o600)).unwrap();
    rig.start();
    assert_eq!(rig.module().state(), ModuleState::Operational);
}

#[test]
fn threshold_shares_restore_the_domain_into_a_new_module_and_fewer_do_not() {
    let old = Rig::blank();
    let first = old.initialise(3, 5).unwrap();
    assert_eq!(first.shares.len(), 5);
    let key = old.key(KeySpec::Aes256).token;
    let blob = old.encrypt(&key, b"text").unwrap();
    let Ok(Reply::Backup(other)) = old.officer(Request::Backup { threshold: 3, shares: 5 }) else { panic!("a backup") };

    let new = Rig::blank();
    let mut altered = first.package.to_vec();
    altered[30] ^= 1;
    let mixed = vec![&first.shares[0], &first.shares[1], &other.shares[2]];
    for (package, shares) in [
        (&first.package[..], picks(&first, &[0, 1])),
        (&first.package, picks(&first, &[0, 1, 1])),
        (&first.package, mixed),
        (&first.package, vec![]),
        (&altered, picks(&first, &[0, 1, 2])),
        (&first.package[..40], picks(&first, &[0, 1, 2])),
        (&[], picks(&first, &[0, 1, 2])),
    ] {
        assert_eq!(restore(&new, package, &shares).unwrap_err(), HsmError::SharesRejected);
        assert_eq!(new.module().state(), ModuleState::Uninitialised);
        assert!(!new.state_file().exists());
    }
    restore(&new, &first.package, &picks(&first, &[4, 0, 2])).unwrap();
    assert_eq!(new.decrypt(&key, &blob, AAD).unwrap(), b"text");
    let (a, b) = (old.status(), new.status());
    assert_eq!(a.domain_id, b.domain_id);
    assert_ne!(a.module_id, b.module_id);
    assert!(b.backup_made);
    assert_eq!(restore(&new, &first.package, &picks(&first, &[4, 0, 2])).unwrap_err(), HsmError::StateForbidden);
}

#[test]
fn an_impossible_quorum_initialises_nothing() {
    let rig = Rig::blank();
    for (threshold, shares) in [(0, 0), (0, 1), (2, 1), (255, 254)] {
        assert_eq!(rig.initialise(threshold, shares).unwrap_err(), HsmError::OutOfRange, "{threshold} of {shares}");
        assert!(!rig.state_file().exists());
    }
    rig.initialise(2, 3).unwrap();
    assert_eq!(rig.status().generation, 1);
    let ask = Request::Backup { threshold: 2, shares: 1 };
    assert_eq!(rig.officer(ask).unwrap_err(), HsmError::OutOfRange);
}

#[test]
fn a_rotated_domain_still_opens_old_tokens_and_rewraps_them() {
    let mut rig = Rig::operational();
    let old = rig.key(KeySpec::Aes256).token;
    let blob = rig.encrypt(&old, b"text").unwrap();
    assert_eq!(rotate(&rig), 2);
    assert_eq!(rotate(&rig), 3);
    let fresh = rewrap(&rig, &old).unwrap();
    let generation = |token: &KeyToken| envelope::sealed::parse_token(token.bytes()).unwrap().header.generation;
    assert_eq!((generation(&old), generation(&fresh), generation(&rig.key(KeySpec::Aes256).token)), (1, 3, 3));
    rig.start();
    assert_eq!(rig.status().generation, 3);
    for token in [&old, &fresh] {
        assert_eq!(rig.decrypt(token, &blob, AAD).unwrap(), b"text");
    }
    let altered = KeyToken::parse([0; 16], old.bytes().clone()).unwrap();
    assert_eq!(rewrap(&rig, &altered).unwrap_err(), HsmError::TokenRejected);
}

#[test]
fn a_new_generation_asks_for_a_new_backup_before_a_cluster_is_bound() {
    let rig = Rig::operational();
    rotate(&rig);
    assert!(!rig.status().backup_made);
    let system = || new_key(KeySpec::Aes256, KeyUsage::SystemSeal);
    assert_eq!(rig.generate(system()).unwrap_err(), HsmError::BackupRequired);
    assert_eq!(rig.status().clusters, Vec::<[u8; 16]>::new());
    rig.officer(Request::Backup { threshold: 1, shares: 1 }).unwrap();
    assert!(rig.status().backup_made);
    rig.generate(system()).unwrap();
    assert_eq!(rig.status().clusters, [TENANT]);
}

#[test]
fn clusters_are_remembered_and_bounded() {
    let mut rig = Rig::operational();
    let system = |n| NewKey { tenant: [n; 16], ..new_key(KeySpec::Aes256, KeyUsage::SystemSeal) };
    for n in 0..16 {
        rig.generate(system(n)).unwrap();
    }
    rig.generate(system(3)).unwrap();
    assert_eq!(rig.generate(system(16)).unwrap_err(), HsmError::OutOfRange);
    rig.start();
    assert_eq!(rig.status().clusters.len(), 16);
}

#[test]
fn a_restored_module_binds_a_cluster_when_its_keyring_opens() {
    let old = Rig::blank();
    let backup = old.initialise(1, 1).unwrap();
    let key = old.system_key().token;
    let plaintext = SecretBytes::copy_from(b"keyring");
    let seal = Request::SystemSeal { key: key.clone(), epoch: 1, aad_digest: AAD, plaintext };
    let Ok(Reply::Blob(sealed)) = old.user(seal) else { panic!("it seals") };
    let mut new = Rig::blank();
    restore(&new, &backup.package, &picks(&backup, &[0])).unwrap();
    assert_eq!(new.status().clusters, Vec::<[u8; 16]>::new());
    new.user(Request::SystemOpen { key, aad_digest: AAD, sealed }).unwrap();
    new.start();
    assert_eq!(new.status().clusters, [TENANT]);
}

#[test]
fn zeroising_ends_every_key_and_the_module_can_begin_anew() {
    let mut rig = Rig::operational();
    let key = rig.key(KeySpec::Aes256).token;
    let blob = rig.encrypt(&key, b"text").unwrap();
    let before = rig.status();
    rig.officer(Request::Zeroise).unwrap();
    assert_eq!(rig.module().state(), ModuleState::Uninitialised);
    assert!(!rig.state_file().exists());
    assert_ne!(rig.status().identity_key, before.identity_key);
    rig.initialise(1, 1).unwrap();
    assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::TokenRejected);
    rig.start();
    assert_eq!(rig.module().state(), ModuleState::Operational, "the unlock secret still seals");

    rig.start_with(None);
    assert_eq!(rig.module().state(), ModuleState::Locked);
    rig.officer(Request::Zeroise).unwrap();
    assert_eq!(rig.module().state(), ModuleState::Uninitialised);
}

/// RFC 9162 §2.1.1 and §2.1.4.1, as they are written there.
mod tree {
    use envelope::mac::sha256;

    pub(crate) fn root(leaves: &[u8]) -> [u8; 32] {
        match leaves {
            [] => sha256(b""),
            [leaf] => sha256(&[0, *leaf]),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                sha256(&[&[1][..], &root(left), &root(right)].concat())
            }
        }
    }

    pub(crate) fn proof(old: usize, leaves: &[u8]) -> Vec<[u8; 32]> {
        fn part(m: usize, leaves: &[u8], complete: bool) -> Vec<[u8; 32]> {
            if m == leaves.len() {
                return if complete { vec![] } else { vec![root(leaves)] };
            }
            let k = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(k);
            if m <= k {
                [part(m, left, complete), vec![root(right)]].concat()
            } else {
                [part(m - k, right, false), vec![root(left)]].concat()
            }
        }
        part(old, leaves, true)
    }
}

fn sign_checkpoint(
    rig: &Rig,
    key: &KeyToken,
    origin: &str,
    leaves: &[u8],
    proof: Vec<[u8; 32]>,
) -> Result<Vec<u8>, HsmError> {
    let (size, root) = (leaves.len() as u64, tree::root(leaves));
    let request = Request::SignCheckpoint { key: key.clone(), origin: origin.to_owned(), size, root, proof };
    match rig.user(request)? {
        Reply::Signature(signature) => Ok(signature.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fork_is_never_signed_not_even_after_a_restart() {
    let mut rig = Rig::operational();
    let key = rig.log_key();
    let origin = "log.example/one";
    let leaves: Vec<u8> = (0..9).collect();
    let public = VerifyingKey::from_public_key_der(&key.public_key).unwrap();
    let signature = sign_checkpoint(&rig, &key.token, origin, &leaves[..3], vec![]).unwrap();
    let body = checkpoint::note_body(origin, 3, &tree::root(&leaves[..3]));
    public.verify_strict(&body, &Signature::from_slice(&signature).unwrap()).unwrap();
    sign_checkpoint(&rig, &key.token, origin, &leaves[..7], tree::proof(3, &leaves[..7])).unwrap();
    let forked = [0, 1, 2, 3, 4, 5, 6, 99, 100];
    for restarted in [false, true] {
        if restarted {
            rig.start();
        }
        let other_key = rig.log_key();
        for key in [&key.token, &other_key.token] {
            for (leaves, proof) in [
                (&leaves[..], vec![]),
                (&leaves, tree::proof(3, &leaves)),
                (&forked[1..8], vec![]),
                (&leaves[..3], vec![]),
                (&leaves[..0], vec![]),
            ] {
                let outcome = sign_checkpoint(&rig, key, origin, leaves, proof);
                assert_eq!(outcome, Err(HsmError::CheckpointForked), "{} leaves", leaves.len());
            }
            // the same once more is no fork
            sign_checkpoint(&rig, key, origin, &leaves[..7], vec![]).unwrap();
        }
    }
    sign_checkpoint(&rig, &key.token, origin, &leaves, tree::proof(7, &leaves)).unwrap();
    let fork = sign_checkpoint(&rig, &key.token, origin, &forked, tree::proof(7, &forked));
    assert_eq!(fork, Err(HsmError::CheckpointForked));
}

#[test]
fn a_restored_module_remembers_the_checkpoints_of_its_backup() {
    let old = Rig::operational();
    let key = old.log_key().token;
    let leaves: Vec<u8> = (0..9).collect();
    sign_checkpoint(&old, &key, "log", &leaves[..4], vec![]).unwrap();
    let Ok(Reply::Backup(backup)) = old.officer(Request::Backup { threshold: 1, shares: 1 }) else {
        panic!("a backup")
    };
    let new = Rig::blank();
    restore(&new, &backup.package, &picks(&backup, &[0])).unwrap();
    assert_eq!(sign_checkpoint(&new, &key, "log", &leaves[1..6], vec![]), Err(HsmError::CheckpointForked));
    sign_checkpoint(&new, &key, "log", &leaves, tree::proof(4, &leaves)).unwrap();
}

#[test]
fn origins_are_bounded_and_well_formed() {
    let rig = Rig::operational();
    let key = rig.log_key().token;
    let long = "x".repeat(256);
    for origin in ["", "two\nlines", long.as_str()] {
        assert_eq!(sign_checkpoint(&rig, &key, origin, &[1], vec![]), Err(HsmError::OutOfRange), "{origin:?}");
    }
    for n in 0..64 {
        sign_checkpoint(&rig, &key, &format!("log/{n}"), &[1], vec![]).unwrap();
    }
    assert_eq!(sign_checkpoint(&rig, &key, "log/64", &[1], vec![]), Err(HsmError::OutOfRange));
    sign_checkpoint(&rig, &key, "log/3", &[1, 2], tree::proof(1, &[1, 2])).unwrap();
    let proof = vec![[0; 32]; 127];
    let root = mac::sha256(b"");
    let ask = Request::SignCheckpoint { key, origin: "log/3".into(), size: 3, root, proof };
    assert_eq!(rig.user(ask).unwrap_err(), HsmError::OutOfRange);
}

#[test]
fn what_cannot_be_made_durable_is_not_answered() {
    let rig = Rig::operational();
    let key = rig.log_key().token;
    sign_checkpoint(&rig, &key, "log", &[1], vec![]).unwrap();
    // a folder in the way of the new file: writing fails for root too
    let obstacle = rig.dir.path().join("state.sealed.new");
    std::fs::create_dir(&obstacle).unwrap();
    assert_eq!(sign_checkpoint(&rig, &key, "log", &[1, 2], tree::proof(1, &[1, 2])), Err(HsmError::StateNotDurable));
    assert_eq!(rig.officer(Request::RotateDomain).unwrap_err(), HsmError::StateNotDurable);
    assert_eq!(rig.status().generation, 1);
    let system = rig.generate(new_key(KeySpec::Aes256, KeyUsage::SystemSeal));
    assert_eq!(system.unwrap_err(), HsmError::StateNotDurable);
    std::fs::remove_dir(&obstacle).unwrap();
    // nothing was half-applied: another second leaf is no fork
    sign_checkpoint(&rig, &key, "log", &[1, 3], tree::proof(1, &[1, 3])).unwrap();
    assert_eq!(rig.module().serve(Role::User, Request::Random { bytes: 1 }).map(drop), Ok(()));

    let blank = Rig::blank();
    let obstacle = blank.dir.path().join("state.sealed.new");
    std::fs::create_dir(&obstacle).unwrap();
    assert_eq!(blank.initialise(1, 1).unwrap_err(), HsmError::StateNotDurable);
    assert_eq!(blank.module().state(), ModuleState::Uninitialised);
    std::fs::remove_dir(&obstacle).unwrap();
    blank.initialise(1, 1).unwrap();
    assert_eq!(blank.status().generation, 1);
}
