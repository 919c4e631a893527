//! Restarts, foreign objects, invocation blocks, wrong PINs and tokens that go away, over SoftHSM2.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::Session;
use hsm_api::{HsmError, KeySpec, KeyToken, ModuleState, Reply, Request};
use hsm_pkcs11::{ADVISED_AT, BLOCK, REFUSED_AT};
use rig::{AAD, Rig, TENANT, Tokens, ask, beside, cka_id, isolated};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

fn save(tokens: &Tokens, name: &str, bytes: &[u8]) {
    std::fs::write(tokens.folder.join(name), bytes).unwrap();
}

fn saved(tokens: &Tokens, name: &str) -> Vec<u8> {
    std::fs::read(tokens.folder.join(name)).unwrap()
}

fn saved_key(tokens: &Tokens, name: &str) -> KeyToken {
    KeyToken::parse(TENANT, saved(tokens, name).into()).unwrap()
}

#[test]
fn keys_are_found_again_by_another_process() {
    let test = "keys_are_found_again_by_another_process";
    isolated(test, |tokens| {
        let specs = [KeySpec::Hmac256, KeySpec::EccNistP256, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048];
        if tokens.part() == "first" {
            let rig = tokens.operational();
            let aes = rig.key(KeySpec::Aes256).token;
            save(tokens, "aes", aes.bytes());
            save(tokens, "blob", &rig.encrypt(&aes, b"kept").unwrap());
            for spec in specs {
                let key = rig.key(spec);
                save(tokens, spec.name(), key.token.bytes());
                save(tokens, &format!("{}.spki", spec.name()), &key.public_key);
                if spec == KeySpec::Hmac256 {
                    save(tokens, "mac", &rig.mac(&key.token, b"message").unwrap());
                }
            }
            save(tokens, "module", &rig.status().module_id);
            return;
        }
        assert!(tokens.start(test, "first").wait().unwrap().success());
        let rig = tokens.open();
        let status = rig.status();
        assert_eq!((status.state, status.boot_epoch), (ModuleState::Operational, 2));
        assert_eq!(status.module_id[..], saved(tokens, "module"));
        assert_eq!(rig.decrypt(&saved_key(tokens, "aes"), &saved(tokens, "blob"), AAD).unwrap(), b"kept");
        assert_eq!(rig.mac(&saved_key(tokens, KeySpec::Hmac256.name()), b"message").unwrap()[..], saved(tokens, "mac"));
        for spec in &specs[1..] {
            let key = saved_key(tokens, spec.name());
            let Ok(Reply::PublicKey(spki)) = rig.user(Request::PublicKey { key }) else { panic!("{spec:?}") };
            assert_eq!(spki, saved(tokens, &format!("{}.spki", spec.name())), "{spec:?}");
        }
        // and once more in this process, after C_Finalize and C_Initialize
        drop(rig);
        let rig = tokens.open();
        assert_eq!(rig.status().boot_epoch, 3);
        assert_eq!(rig.decrypt(&saved_key(tokens, "aes"), &saved(tokens, "blob"), AAD).unwrap(), b"kept");
    });
}

fn objects_of(session: &Session, key: &KeyToken, class: ObjectClass) -> Vec<cryptoki::object::ObjectHandle> {
    session.find_objects(&[Attribute::Class(class), Attribute::Id(cka_id(key))]).unwrap()
}

/// Somebody makes a key with the CKA_ID of one of ours, as well confined as ours.
fn plant(session: &Session, key: &KeyToken) {
    let template = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Id(cka_id(key)),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

#[test]
fn a_foreign_key_with_the_same_id_is_not_taken_for_ours() {
    isolated("a_foreign_key_with_the_same_id_is_not_taken_for_ours", |tokens| {
        let (key, lost, blob) = {
            let rig = tokens.operational();
            let (key, lost) = (rig.key(KeySpec::Aes256).token, rig.key(KeySpec::Aes256).token);
            let blob = rig.encrypt(&key, b"text").unwrap();
            rig.encrypt(&lost, b"text").unwrap();
            let session = beside();
            // beside ours: ours is found by its check value
            plant(&session, &key);
            // in the place of ours, while its handle is known to the module
            let ours = objects_of(&session, &lost, ObjectClass::SECRET_KEY);
            ours.into_iter().for_each(|object| session.destroy_object(object).unwrap());
            plant(&session, &lost);
            assert_eq!(rig.encrypt(&lost, b"text").unwrap_err(), HsmError::TokenRejected);
            assert_eq!(rig.told("token").as_deref(), Some("available"));
            (key, lost, blob)
        };
        let rig = tokens.open();
        assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), b"text");
        assert_eq!(rig.encrypt(&lost, b"text").unwrap_err(), HsmError::TokenRejected);
        let pair = rig.key(KeySpec::EccNistP256).token;
        let session = beside();
        let mechanism = Mechanism::EccKeyPairGen;
        let p256 = Attribute::EcParams(vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
        let id = Attribute::Id(cka_id(&pair));
        for object in objects_of(&session, &pair, ObjectClass::PRIVATE_KEY) {
            session.destroy_object(object).unwrap();
        }
        // our public half is still there, the private one is somebody else's
        let public = [Attribute::Token(false), Attribute::Verify(true), p256];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            id,
        ];
        session.generate_key_pair(&mechanism, &public, &private).unwrap();
        drop(rig);
        let rig = tokens.open();
        let refused = rig.user(Request::PublicKey { key: pair }).unwrap_err();
        assert_eq!(refused, HsmError::TokenRejected);
        assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), b"text", "and the module serves");
    });
}

fn counter_label(key: &KeyToken) -> Attribute {
    let hex: String = cka_id(key).iter().map(|byte| format!("{byte:02x}")).collect();
    Attribute::Label(format!("strongroom/invocations/{hex}").into_bytes())
}

/// Sequence and reserved invocations, as they stand in the token.
fn counter(key: &KeyToken) -> (u64, u64) {
    let session = beside();
    let found = session.find_objects(&[counter_label(key)]).unwrap();
    let [object] = found[..] else { panic!("{} counters", found.len()) };
    let value = session.get_attributes(object, &[AttributeType::Value]).unwrap();
    let [Attribute::Value(bytes)] = &value[..] else { panic!("{value:?}") };
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

/// Puts another counter in its place: any bytes.
fn put_counter(key: &KeyToken, value: Option<Vec<u8>>) {
    let session = beside();
    for object in session.find_objects(&[counter_label(key)]).unwrap() {
        session.destroy_object(object).unwrap();
    }
    if let Some(value) = value {
        let class = Attribute::Class(ObjectClass::DATA);
        let application = Attribute::Application(b"strongroom".to_vec());
        let template = [
            class,
            Attribute::Token(true),
            Attribute::Private(true),
            application,
            counter_label(key),
            Attribute::Value(value),
        ];
        session.create_object(&template).unwrap();
    }
}

fn record(sequence: u64, upto: u64) -> Vec<u8> {
    let mut out = [sequence.to_be_bytes(), upto.to_be_bytes()].concat();
    let check = envelope::mac::sha256(&out);
    out.extend_from_slice(&check);
    out
}

#[test]
fn invocations_are_reserved_in_the_token_before_they_are_used() {
    let test = "invocations_are_reserved_in_the_token_before_they_are_used";
    isolated(test, |tokens| {
        if tokens.part() == "victim" {
            let rig = tokens.operational();
            let key = rig.key(KeySpec::Aes256).token;
            assert_eq!(counter(&key).1, 0, "a new key has its counter");
            save(tokens, "blob", &rig.encrypt(&key, b"first").unwrap());
            save(tokens, "key", key.bytes());
            #[expect(clippy::print_stdout, reason = "the word that the killer waits for")]
            {
                println!("\nencrypted");
            }
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        let mut victim = tokens.start(test, "victim");
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "encrypted"));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let key = saved_key(tokens, "key");
        let rig = tokens.open();
        assert_eq!(counter(&key).1, BLOCK, "the block outlives the process that took it");
        assert_eq!(rig.decrypt(&key, &saved(tokens, "blob"), AAD).unwrap(), b"first");
        assert_eq!(counter(&key).1, BLOCK, "opening takes none");
        rig.data_keys(&key, vec![ask(32); 128]).unwrap();
        assert_eq!(counter(&key).1, 2 * BLOCK, "what was left of the old block is forfeited");
        for _ in 0..BLOCK / 128 - 1 {
            rig.data_keys(&key, vec![ask(1); 128]).unwrap();
        }
        assert_eq!(counter(&key).1, 2 * BLOCK, "a block is used up to its end");
        rig.encrypt(&key, b"one more").unwrap();
        assert_eq!(counter(&key).1, 3 * BLOCK);
    });
}

#[test]
fn a_key_at_its_limit_encrypts_no_more_and_still_opens() {
    isolated("a_key_at_its_limit_encrypts_no_more_and_still_opens", |tokens| {
        let (key, system, blob) = {
            let rig = tokens.operational();
            let (key, system) = (rig.key(KeySpec::Aes256).token, rig.system_key().token);
            let blob = rig.encrypt(&key, b"text").unwrap();
            assert_eq!(rig.told("rotate"), None);
            (key, system, blob)
        };
        let check = |value: Option<Vec<u8>>, refused: Option<HsmError>| {
            let rig = tokens.open();
            put_counter(&key, value);
            assert_eq!(rig.encrypt(&key, b"text").err(), refused);
            let data_key = rig.data_keys(&key, vec![ask(32)]).err();
            assert_eq!(data_key, refused);
            assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), b"text");
            assert_eq!(rig.told("token").as_deref(), Some("available"));
            rig.told("rotate")
        };
        let refused = Some(HsmError::InvocationsExhausted);
        assert_eq!(check(Some(record(9, ADVISED_AT - 2 * BLOCK)), None), None);
        assert!(check(Some(record(9, ADVISED_AT - BLOCK)), None).unwrap().contains("2^30"));
        assert!(check(Some(record(9, REFUSED_AT - BLOCK)), None).is_some());
        assert_eq!(counter(&key), (10, REFUSED_AT));
        check(Some(record(9, REFUSED_AT)), refused);
        check(Some(record(9, REFUSED_AT - 1)), refused);
        check(Some(record(9, u64::MAX)), refused);
        check(None, refused);
        check(Some(b"damaged".to_vec()), refused);
        let rig = tokens.open();
        put_counter(&system, Some(record(9, REFUSED_AT)));
        let plaintext = envelope::SecretBytes::copy_from(b"keyring");
        let seal = Request::SystemSeal { key: system, epoch: 1, aad_digest: AAD, plaintext };
        assert_eq!(rig.user(seal).unwrap_err(), HsmError::InvocationsExhausted);
    });
}

/// Calls of one function in the log of OpenSC's spy.
fn calls(tokens: &Tokens, function: &str) -> usize {
    let log = std::fs::read_to_string(tokens.folder.join("spy.log")).unwrap();
    log.lines().filter(|line| line.split(": ").nth(1).is_some_and(|called| called.trim() == function)).count()
}

#[test]
fn a_wrong_pin_is_tried_once_and_the_module_stays_locked() {
    isolated("a_wrong_pin_is_tried_once_and_the_module_stays_locked", |tokens| {
        drop(tokens.operational());
        let rig = tokens.try_open_with("wrong", rig::spy()).unwrap();
        for _ in 0..5 {
            assert_eq!(rig.status().state, ModuleState::Locked);
            assert_eq!(rig.user(Request::Random { bytes: 1 }).unwrap_err(), HsmError::StateForbidden);
            assert!(rig.initialise().is_err());
            assert!(rig.officer(Request::Zeroise).is_err());
        }
        assert!(rig.told("unlock").unwrap().contains("refused"));
        assert_eq!(calls(tokens, "C_Login"), 1);
        drop(rig);
        let rig = tokens.open();
        assert_eq!(rig.status().state, ModuleState::Operational, "the token is as it was");
    });
}

#[test]
fn one_login_and_few_sessions_serve_many_requests() {
    isolated("one_login_and_few_sessions_serve_many_requests", |tokens| {
        let key = tokens.operational().key(KeySpec::Aes256).token;
        let rig = tokens.try_open_with(rig::PIN, rig::spy()).unwrap();
        rig.encrypt(&key, b"text").unwrap();
        let (sessions, searches) = (calls(tokens, "C_OpenSession"), calls(tokens, "C_FindObjectsInit"));
        for _ in 0..100 {
            rig.encrypt(&key, b"text").unwrap();
        }
        assert_eq!(calls(tokens, "C_OpenSession"), sessions);
        assert_eq!(calls(tokens, "C_FindObjectsInit"), searches, "handles are kept");
        assert_eq!((calls(tokens, "C_Login"), calls(tokens, "C_Initialize")), (1, 1));
        // garbage costs a session, and a canary a second
        let mut altered = rig.encrypt(&key, b"text").unwrap().to_vec();
        *altered.last_mut().unwrap() ^= 1;
        std::thread::sleep(Duration::from_millis(1100));
        let macs = calls(tokens, "C_SignInit");
        for _ in 0..100 {
            assert_eq!(rig.decrypt(&key, &altered, AAD).unwrap_err(), HsmError::Rejected);
        }
        let canaries = calls(tokens, "C_SignInit") - macs;
        assert!((1..=5).contains(&canaries), "{canaries} canaries");
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

#[test]
fn a_token_that_goes_away_is_unavailable_and_comes_back() {
    isolated("a_token_that_goes_away_is_unavailable_and_comes_back", |tokens| {
        let rig = tokens.operational();
        let (key, mac) = (rig.key(KeySpec::Aes256).token, rig.key(KeySpec::Hmac256).token);
        let blob = rig.encrypt(&key, b"text").unwrap();
        let away = tokens.folder.join("away");
        for round in 0..2 {
            std::fs::rename(tokens.token_folder(), &away).unwrap();
            std::fs::create_dir(tokens.token_folder()).unwrap();
            eventually("the loss is noticed", || {
                let outcome = rig.decrypt(&key, &blob, AAD);
                // a cached object may still be served for a moment; garbage it is never called
                assert!(matches!(outcome, Ok(_) | Err(HsmError::Unavailable)), "{outcome:?}");
                outcome.is_err().then_some(())
            });
            for _ in 0..20 {
                assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap_err(), HsmError::Unavailable, "round {round}");
                assert_eq!(rig.mac(&mac, b"m").unwrap_err(), HsmError::Unavailable);
            }
            assert_eq!(rig.told("token").as_deref(), Some("unavailable"));
            assert_eq!(rig.status().state, ModuleState::Operational);
            std::fs::remove_dir_all(tokens.token_folder()).unwrap();
            std::fs::rename(&away, tokens.token_folder()).unwrap();
            let opened = eventually("the token is found again", || rig.decrypt(&key, &blob, AAD).ok());
            assert_eq!(opened, b"text");
            assert!(rig.mac(&mac, b"m").is_ok());
            assert_eq!(rig.told("token").as_deref(), Some("available"));
        }
    });
}

#[test]
fn a_token_that_is_not_there_is_a_named_error_at_start() {
    isolated("a_token_that_is_not_there_is_a_named_error_at_start", |tokens| {
        std::fs::remove_dir_all(tokens.token_folder()).unwrap();
        std::fs::create_dir(tokens.token_folder()).unwrap();
        let error = tokens.try_open(rig::PIN).err().unwrap().to_string();
        assert!(error.contains("token is not there"), "{error}");
        let error = tokens.try_open_with(rig::PIN, "/nowhere/module.so").err().unwrap().to_string();
        assert!(error.contains("cannot be loaded"), "{error}");
    });
}

#[test]
fn threads_and_garbage_do_not_disturb_each_other() {
    isolated("threads_and_garbage_do_not_disturb_each_other", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Aes256).token;
        let mut altered = rig.encrypt(&key, b"text").unwrap().to_vec();
        *altered.last_mut().unwrap() ^= 1;
        let work = |rig: &Rig, garbage: bool| {
            for n in 0u32..200 {
                if garbage {
                    assert_eq!(rig.decrypt(&key, &altered, AAD).unwrap_err(), HsmError::Rejected);
                } else {
                    let text = n.to_be_bytes();
                    let blob = rig.encrypt(&key, &text).unwrap();
                    assert_eq!(rig.decrypt(&key, &blob, AAD).unwrap(), text);
                }
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (rig, work) = (&rig, &work);
                scope.spawn(move || work(rig, thread % 2 == 0));
            }
        });
    });
}

#[test]
fn a_domain_that_lost_its_keys_or_its_record_is_an_error_and_no_blank_token() {
    isolated("a_domain_that_lost_its_keys_or_its_record_is_an_error_and_no_blank_token", |tokens| {
        let rig = tokens.operational();
        let session = beside();
        let label = |name: &str| Attribute::Label(format!("strongroom/{name}").into_bytes());
        let domain = [Attribute::Class(ObjectClass::SECRET_KEY), label("domain")];
        for object in session.find_objects(&domain).unwrap() {
            session.destroy_object(object).unwrap();
        }
        drop(rig);
        let rig = tokens.open();
        assert_eq!(rig.status().state, ModuleState::Error);
        assert!(rig.told("fault").unwrap().contains("keys"));
        assert_eq!(rig.user(Request::Random { bytes: 1 }).unwrap_err(), HsmError::ErrorState);
        let session = beside();
        let record = [Attribute::Class(ObjectClass::DATA), label("domain")];
        let objects = session.find_objects(&record).unwrap();
        assert_eq!(objects.len(), 1);
        let copy = session.get_attributes(objects[0], &[AttributeType::Value]).unwrap();
        let [Attribute::Value(bytes)] = &copy[..] else { panic!("{copy:?}") };
        let mut torn = bytes.clone();
        torn[20] ^= 1;
        session.destroy_object(objects[0]).unwrap();
        let private = [Attribute::Token(true), Attribute::Private(true)];
        session.create_object(&[&record[..], &private, &[Attribute::Value(torn)]].concat()).unwrap();
        drop(rig);
        let rig = tokens.open();
        assert_eq!(rig.status().state, ModuleState::Error);
        assert!(rig.told("fault").unwrap().contains("damaged"));
        assert!(matches!(rig.officer(Request::Zeroise), Ok(Reply::Done)), "an officer can begin anew");
        rig.initialise().unwrap();
        assert_eq!(rig.status().state, ModuleState::Operational);

        // and so he can where the record is whole and the keys are gone
        let session = beside();
        let found = session.find_objects(&domain).unwrap();
        found.into_iter().for_each(|object| session.destroy_object(object).unwrap());
        drop(rig);
        let rig = tokens.open();
        assert_eq!(rig.status().state, ModuleState::Error);
        let zeroised = eventually("the breaker lets an attempt through", || rig.officer(Request::Zeroise).ok());
        assert!(matches!(zeroised, Reply::Done));
        rig.initialise().unwrap();
        assert!(rig.key(KeySpec::Aes256).public_key.is_empty());
    });
}

#[test]
fn a_key_refuses_mechanisms_that_it_was_not_made_for() {
    isolated("a_key_refuses_mechanisms_that_it_was_not_made_for", |tokens| {
        let rig = tokens.operational();
        let key = rig.key(KeySpec::Aes256).token;
        let session = beside();
        let [object] = objects_of(&session, &key, ObjectClass::SECRET_KEY)[..] else { panic!("one object") };
        let allowed = session.get_attributes(object, &[AttributeType::AllowedMechanisms]).unwrap();
        let [Attribute::AllowedMechanisms(allowed)] = &allowed[..] else { panic!("{allowed:?}") };
        assert_eq!(allowed.len(), 2);
        assert!(allowed.contains(&MechanismType::AES_GCM) && allowed.contains(&MechanismType::AES_ECB));
        assert!(session.encrypt(&Mechanism::AesCbc([0; 16]), object, &[0; 16]).is_err());
        assert!(session.wrap_key(&Mechanism::AesKeyWrap, object, object).is_err());
    });
}
