//! Injected faults; `cargo test -p hsm-sim --features fault`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use hsm_api::{HsmError, ModuleState, Request, Role};
use hsm_sim::fault::Fault;
use hsm_sim::jail::SecretPage;
use hsm_sim::{KeyStore, Module, Options};
use rig::{Rig, unlock};
use std::sync::Arc;

fn start(rig: &mut Rig, fault: Option<Fault>, allow_fault_build: bool) {
    rig.module = None;
    let now: hsm_sim::Now = Arc::new(|| envelope::Timestamp::from_unix_millis(0));
    let options = Options { unlock: Some(unlock(7)), now, report: vec![], allow_fault_build, fault };
    let store = KeyStore::open(rig.dir.path()).unwrap();
    rig.module = Some(Module::open(store, SecretPage::ordinary().unwrap(), options));
}

#[test]
fn after_a_failed_self_test_there_is_nothing_but_status() {
    let mut rig = Rig::operational();
    for (name, fails) in [("Ed25519", true), ("AES-256-GCM", true), ("no such test", false)] {
        start(&mut rig, Some(Fault::SelfTest(name.to_owned())), true);
        let expected = if fails { ModuleState::Error } else { ModuleState::Operational };
        assert_eq!(rig.module().state(), expected, "{name}");
        let random = rig.user(Request::Random { bytes: 16 }).map(drop);
        assert_eq!(random, if fails { Err(HsmError::ErrorState) } else { Ok(()) }, "{name}");
        let named = rig.status().report.iter().any(|(_, outcome)| outcome.ends_with(name));
        assert_eq!(named, fails, "{name}");
    }
    // zeroising does not heal a module that fails its self-tests
    start(&mut rig, Some(Fault::SelfTest("Ed25519".to_owned())), true);
    rig.officer(Request::Zeroise).unwrap();
    assert_eq!(rig.module().state(), ModuleState::Error);
    assert!(!rig.state_file().exists());
}

#[test]
fn a_fault_build_says_so_and_is_not_initialised_unless_allowed() {
    let mut rig = Rig::blank();
    start(&mut rig, None, false);
    assert!(rig.status().fault_build);
    assert_eq!(rig.initialise(1, 1).unwrap_err(), HsmError::Unsupported);
    let restore = Request::Restore { package: vec![].into(), shares: vec![] };
    assert_eq!(rig.module().serve(Role::Officer, restore).unwrap_err(), HsmError::Unsupported);
    start(&mut rig, None, true);
    rig.initialise(1, 1).unwrap();
}
