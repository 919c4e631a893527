//! Other devices' ways, by a module of our own in front of SoftHSM2 (`vendor.c`): IVs of the token's making, errors of
//! every class in every place, calls that hang.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::sealed::{Body, parse_blob};
use hsm_api::{HsmError, KeySpec, MessageToSign, ModuleState, Request, SigningAlgorithm};
use rig::{AAD, PIN, Rig, Tokens, ask, isolated};
use std::process::Command;
use std::time::{Duration, Instant};

impl Tokens {
    fn vendor(&self) -> String {
        let module = self.folder.join("vendor.so");
        if !module.exists() {
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vendor.c");
            let outcome = Command::new("cc")
                .args(["-shared", "-fPIC", "-std=gnu11", "-O1", "-o"])
                .arg(&module)
                .args([source, "-ldl"])
                .output()
                .unwrap();
            assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
        }
        module.display().to_string()
    }

    fn say(&self, name: &str, text: &str) {
        // whole or not at all: the module reads it at every call
        let new = self.folder.join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.join(name)).unwrap();
    }

    fn unsay(&self, name: &str) {
        let _gone = std::fs::remove_file(self.folder.join(name));
    }

    fn open_vendor(&self) -> Rig {
        self.try_open_with(PIN, &self.vendor()).unwrap()
    }

    fn logins(&self) -> usize {
        std::fs::read_to_string(self.folder.join("logins")).unwrap_or_default().lines().count()
    }
}

#[test]
fn a_token_that_makes_its_own_ivs_is_found_out_and_understood() {
    isolated("a_token_that_makes_its_own_ivs_is_found_out_and_understood", |tokens| {
        for (mode, source, iv_bytes) in [
            ("", "this process from the token's generator, 12", 12),
            ("written", "the token, 12", 12),
            ("appended", "the token, 16", 16),
        ] {
            if mode.is_empty() {
                tokens.unsay("iv")
            } else {
                tokens.say("iv", mode)
            }
            let rig = tokens.open_vendor();
            if rig.status().state == ModuleState::Uninitialised {
                rig.initialise().unwrap();
            }
            assert!(rig.told("initialisation_vectors").unwrap().contains(source), "{mode}");
            let key = rig.key(KeySpec::Aes256).token;
            let mut ivs = std::collections::BTreeSet::new();
            for made in rig.data_keys(&key, vec![ask(32); 20]).unwrap() {
                let made = made.unwrap();
                let Body::Suite2 { iv, .. } = parse_blob(&made.blob).unwrap().body else { panic!("suite 2") };
                assert!(ivs.insert(iv.to_vec()) && iv.len() == iv_bytes, "{mode}");
                assert_eq!(rig.decrypt(&key, &made.blob, AAD).unwrap(), made.plaintext.unwrap().expose());
                let mut altered = made.blob.to_vec();
                *altered.last_mut().unwrap() ^= 1;
                assert_eq!(rig.decrypt(&key, &altered, AAD).unwrap_err(), HsmError::Rejected);
            }
        }
        // a token that changes its ways while it runs is trusted no more
        tokens.unsay("iv");
        let rig = tokens.open_vendor();
        let key = rig.key(KeySpec::Aes256).token;
        tokens.say("iv", "appended");
        assert_eq!(rig.encrypt(&key, b"text").unwrap_err(), HsmError::Unavailable);
    });
}

fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// CKR_ values by what must follow from them.
const LOST: [&str; 7] = ["b3", "b0", "91", "90", "82", "60", "101"];
const AMBIGUOUS: [&str; 4] = ["5", "6", "30", "80000001"];
const DEAD: [&str; 4] = ["32", "e0", "2", "190"];

#[test]
fn what_is_lost_once_is_found_again_without_the_caller_knowing() {
    isolated("what_is_lost_once_is_found_again_without_the_caller_knowing", |tokens| {
        let rig = tokens.open_vendor();
        rig.initialise().unwrap();
        let (key, mac) = (rig.key(KeySpec::Aes256).token, rig.key(KeySpec::Hmac256).token);
        let blob = rig.encrypt(&key, b"text").unwrap();
        for rv in LOST {
            tokens.say("fault", &format!("decrypt {rv} once"));
            assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), b"text", "{rv}");
            tokens.say("fault", &format!("encrypt {rv} once"));
            assert!(rig.encrypt(&key, b"text").is_ok(), "{rv}");
            tokens.say("fault", &format!("sign {rv} once"));
            assert!(rig.mac(&mac, b"m").is_ok(), "{rv}");
            assert!(!tokens.folder.join("fault").exists(), "it did happen");
        }
        assert_eq!(rig.told("token").as_deref(), Some("available"));
        assert!(tokens.logins() <= 1 + 3, "a login is lost three times");
    });
}

#[test]
fn an_ambiguous_error_is_the_datas_fault_while_the_canary_sings_and_else_the_devices() {
    isolated("an_ambiguous_error_is_the_datas_fault_while_the_canary_sings_and_else_the_devices", |tokens| {
        let rig = tokens.open_vendor();
        rig.initialise().unwrap();
        let key = rig.key(KeySpec::Aes256).token;
        let blob = rig.encrypt(&key, b"text").unwrap();
        for rv in AMBIGUOUS {
            tokens.say("fault", &format!("decrypt {rv}"));
            assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::Rejected, "{rv}");
            tokens.say("fault", &format!("encrypt {rv}"));
            assert_eq!(rig.encrypt(&key, b"text").unwrap_err(), HsmError::Unavailable, "{rv}");
            tokens.unsay("fault");
            assert!(rig.encrypt(&key, b"text").is_ok(), "the breaker stayed closed: {rv}");
            // a canary is believed for a second; then the device's silence is heard
            std::thread::sleep(Duration::from_millis(1100));
            tokens.say("fault", &format!("all {rv}"));
            assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::Unavailable, "{rv}");
            assert_eq!(rig.told("token").as_deref(), Some("unavailable"), "{rv}");
            tokens.unsay("fault");
            assert_eq!(eventually("it is back", || rig.decrypt(&key, &blob, AAD).ok()), b"text", "{rv}");
        }
    });
}

#[test]
fn a_dead_device_is_unavailable_at_once_and_comes_back() {
    isolated("a_dead_device_is_unavailable_at_once_and_comes_back", |tokens| {
        let rig = tokens.open_vendor();
        rig.initialise().unwrap();
        let (key, pair) = (rig.key(KeySpec::Aes256).token, rig.key(KeySpec::EccNistP256).token);
        let blob = rig.encrypt(&key, b"text").unwrap();
        let message = || MessageToSign::Raw(Bytes::from_static(b"m"));
        let sign = || {
            rig.user(Request::Sign { key: pair.clone(), algorithm: SigningAlgorithm::EcdsaSha256, message: message() })
        };
        for rv in DEAD {
            tokens.say("fault", &format!("all {rv}"));
            assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::Unavailable, "{rv}");
            let asked = Instant::now();
            for _ in 0..200 {
                assert_eq!(rig.encrypt(&key, b"text").unwrap_err(), HsmError::Unavailable, "{rv}");
                assert_eq!(sign().unwrap_err(), HsmError::Unavailable, "{rv}");
            }
            assert!(asked.elapsed() < Duration::from_secs(5), "an open breaker answers at once");
            tokens.unsay("fault");
            assert_eq!(eventually("it is back", || rig.decrypt(&key, &blob, AAD).ok()), b"text", "{rv}");
            assert!(sign().is_ok());
        }
    });
}

#[test]
fn a_pin_that_is_refused_while_serving_is_not_tried_again() {
    isolated("a_pin_that_is_refused_while_serving_is_not_tried_again", |tokens| {
        let rig = tokens.open_vendor();
        rig.initialise().unwrap();
        let key = rig.key(KeySpec::Aes256).token;
        let before = tokens.logins();
        // a0: PIN_INCORRECT. The device loses the login, and somebody has changed the PIN
        tokens.say("fault", "login a0");
        let refused = {
            std::fs::rename(tokens.token_folder(), tokens.folder.join("away")).unwrap();
            std::fs::create_dir(tokens.token_folder()).unwrap();
            eventually("the loss is noticed", || rig.encrypt(&key, b"text").err())
        };
        assert_eq!(refused, HsmError::Unavailable);
        std::fs::remove_dir_all(tokens.token_folder()).unwrap();
        std::fs::rename(tokens.folder.join("away"), tokens.token_folder()).unwrap();
        eventually("it is locked", || {
            (rig.status().state == ModuleState::Locked || rig.encrypt(&key, b"t").is_ok()).then_some(())
        });
        assert_eq!(rig.status().state, ModuleState::Locked);
        let after = tokens.logins();
        assert_eq!(after - before, 1, "one try");
        tokens.unsay("fault");
        for _ in 0..20 {
            assert_eq!(rig.encrypt(&key, b"text").unwrap_err(), HsmError::StateForbidden);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(tokens.logins(), after);
    });
}

#[test]
fn a_call_that_hangs_holds_nobody_else_up() {
    isolated("a_call_that_hangs_holds_nobody_else_up", |tokens| {
        let rig = tokens.open_vendor();
        rig.initialise().unwrap();
        let (key, mac) = (rig.key(KeySpec::Aes256).token, rig.key(KeySpec::Hmac256).token);
        rig.encrypt(&key, b"text").unwrap();
        tokens.say("hang", "sign");
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let begun = Instant::now();
                (rig.mac(&mac, b"m"), begun.elapsed())
            });
            std::thread::sleep(Duration::from_millis(200));
            let begun = Instant::now();
            for _ in 0..50 {
                rig.encrypt(&key, b"text").unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            tokens.unsay("hang");
            let (outcome, took) = slow.join().unwrap();
            assert!(outcome.is_ok() && took > Duration::from_secs(2), "{outcome:?} {took:?}");
        });
    });
}
