//! Keys: status, every spec with every usage and level, expiry, tokens that were altered or come from elsewhere.

use crate::stand::Stand;
use crate::suite::{AAD, Gives, Need, Refuses, Suite, TENANT, ask, decrypt_on, encrypt, flips, now, open, seal};
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::{
    HsmError, KeySpec, KeyToken, KeyUsage, MessageToSign, ModuleState, NewKey, ProtectionLevel, Reply, Request, Role,
    SigningAlgorithm,
};
use std::time::Duration;

pub(crate) fn status(suite: &mut Suite) {
    for role in [Role::User, Role::Officer, Role::Auditor] {
        let Some(Reply::Status(status)) = suite.row_as(role, "status", &[], Request::Status, Gives) else { panic!() };
        assert_eq!(status.state, ModuleState::Operational);
        assert_eq!(status.module, suite.stand.kind.module());
        assert!(!status.fault_build && status.boot_epoch >= 1 && status.module_id != [0; 16], "{status:?}");
        assert_eq!(status.capabilities, suite.capabilities);
    }
    assert!(suite.capabilities.specs.contains(&KeySpec::Aes256) && !suite.capabilities.levels.is_empty());
}

pub(crate) fn generate(suite: &mut Suite) {
    for spec in KeySpec::ALL.iter().copied() {
        for usage in KeyUsage::ALL.iter().copied() {
            let new = suite.new_key(spec, usage);
            let answer = if new.is_sound() { Gives } else { Refuses(HsmError::UsageForbidden) };
            let needs = [Need::Spec(spec)];
            let needs = if new.is_sound() { &needs[..] } else { &[] };
            let reply = suite.row(format!("{spec:?} for {usage:?}"), needs, Request::GenerateKey(new), answer);
            if let Some(Reply::Key(key)) = reply {
                assert_eq!(key.public_key.is_empty(), spec.signing_algorithms().is_empty(), "{spec:?}");
                assert_eq!(key.key_id.to_string().as_bytes()[14], b'4', "a UUIDv4");
                assert_eq!(key.token.tenant(), &TENANT);
            }
        }
    }
    let base = suite.new_key(KeySpec::Aes256, KeyUsage::EncryptDecrypt);
    for level in ProtectionLevel::ALL.iter().copied() {
        let new = NewKey { level, ..base.clone() };
        suite.row(format!("{level:?}"), &[Need::Level(level)], Request::GenerateKey(new), Gives);
    }
    let past = Some(envelope::Timestamp::from_unix_millis(1_000));
    for (what, new, error) in [
        ("version 0", NewKey { version: 0, ..base.clone() }, HsmError::OutOfRange),
        ("already expired", NewKey { not_after: past, ..base.clone() }, HsmError::KeyExpired),
    ] {
        suite.row(what, &[], Request::GenerateKey(new), Refuses(error));
    }
    let first = suite.make(base.clone());
    let next = NewKey { key_id: Some(first.key_id), version: 2, ..base };
    let Some(Reply::Key(second)) = suite.row("a further version", &[], Request::GenerateKey(next), Gives) else {
        panic!()
    };
    assert_eq!(second.key_id, first.key_id);
    assert_ne!(second.token, first.token);
}

type Make = fn(KeyToken) -> Request;

/// Every service that takes a key, and the usages that it may have.
const SERVICES: [(Make, &[KeyUsage]); 11] = [
    (|key| Request::GenerateDataKeys { key, asks: vec![ask(32)] }, &[KeyUsage::EncryptDecrypt]),
    (|key| encrypt(&key, b"text"), &[KeyUsage::EncryptDecrypt]),
    (|key| Request::Decrypt { key, asks: vec![open(b"", AAD)] }, &[KeyUsage::EncryptDecrypt]),
    (
        |key| Request::Sign {
            key,
            algorithm: SigningAlgorithm::Ed25519Sha512,
            message: MessageToSign::Raw(Bytes::from_static(b"m")),
        },
        &[KeyUsage::SignVerify],
    ),
    (|key| Request::PublicKey { key }, &[KeyUsage::SignVerify, KeyUsage::Log]),
    (|key| Request::Mac { key, message: SecretBytes::copy_from(b"m") }, &[KeyUsage::GenerateVerifyMac]),
    (
        |key| Request::SystemSeal { key, epoch: 1, aad_digest: AAD, plaintext: SecretBytes::copy_from(b"text") },
        &[KeyUsage::SystemSeal],
    ),
    (|key| Request::SystemOpen { key, aad_digest: AAD, sealed: Bytes::new() }, &[KeyUsage::SystemSeal]),
    (
        |key| Request::SignCheckpoint { key, origin: "usage".into(), size: 1, root: [0; 32], proof: vec![] },
        &[KeyUsage::Log],
    ),
    (|key| Request::SignBatch { key, origin: "usage".into(), first: 7, count: 2, root: [0; 32] }, &[KeyUsage::Log]),
    (
        |key| Request::ReEncrypt {
            from: key.clone(),
            to: key,
            from_aad_digest: AAD,
            to_aad_digest: AAD,
            blob: Bytes::new(),
        },
        &[KeyUsage::EncryptDecrypt],
    ),
];

/// No usage stands in for another. What fits may still be refused, for another reason.
pub(crate) fn usages(suite: &mut Suite) {
    let keys = [
        (KeyUsage::EncryptDecrypt, suite.aes()),
        (KeyUsage::SignVerify, suite.key(KeySpec::EccNistEdwards25519).token),
        (KeyUsage::GenerateVerifyMac, suite.key(KeySpec::Hmac256).token),
        (KeyUsage::Log, suite.log_key().token),
        (KeyUsage::SystemSeal, suite.system_key()),
    ];
    for (make, usages) in SERVICES {
        for (usage, key) in &keys {
            let request = make(key.clone());
            let service = request.service();
            let outcome = suite.stand.ask(Role::User, request);
            let forbidden = matches!(outcome, Err(HsmError::UsageForbidden));
            let kind = suite.stand.kind;
            assert_eq!(forbidden, !usages.contains(usage), "{kind:?} {} {usage:?}: {outcome:?}", service.name());
            suite.count(forbidden);
        }
    }
}

pub(crate) fn expiry(suite: &mut Suite) {
    let not_after = now().plus(Duration::from_millis(2_500));
    let make =
        |spec: KeySpec| suite.make(NewKey { not_after: Some(not_after), ..suite.new_key(spec, spec.usage()) }).token;
    let (aes, ed25519, hmac) = (make(KeySpec::Aes256), make(KeySpec::EccNistEdwards25519), make(KeySpec::Hmac256));
    let blob = suite.encrypt(&aes, b"text");
    assert_eq!(suite.decrypt(&aes, &blob, AAD).unwrap(), b"text");
    suite.count(false);
    std::thread::sleep(not_after.since(now()) + Duration::from_millis(50));
    let expired = Refuses(HsmError::KeyExpired);
    let (algorithm, message) = (SigningAlgorithm::Ed25519Sha512, MessageToSign::Raw(Bytes::from_static(b"m")));
    for request in [
        Request::GenerateDataKeys { key: aes.clone(), asks: vec![ask(32)] },
        encrypt(&aes, b"text"),
        Request::Decrypt { key: aes.clone(), asks: vec![open(&blob, AAD)] },
        Request::Mac { key: hmac, message: SecretBytes::copy_from(b"m") },
        Request::Sign { key: ed25519.clone(), algorithm, message },
    ] {
        suite.row("an expired key", &[], request, expired);
    }
    suite.row("the public half of an expired key", &[], Request::PublicKey { key: ed25519 }, Gives);
}

/// Tokens that were altered, moved to another tenant, spliced, or made by another boundary.
pub(crate) fn tokens(suite: &mut Suite) {
    let (key, second) = (suite.aes(), suite.aes());
    let blob = suite.encrypt(&key, b"sixteen byte txt");
    let rejected = Refuses(HsmError::TokenRejected);
    let (mut asked, mut unparsed) = (0, 0);
    for altered in flips(key.bytes()) {
        // what does not parse as a token is refused where it is parsed
        let Ok(altered) = KeyToken::parse(TENANT, altered.into()) else {
            unparsed += 1;
            continue;
        };
        assert_eq!(
            suite.decrypt(&altered, &blob, AAD).unwrap_err(),
            HsmError::TokenRejected,
            "bit {}",
            asked + unparsed
        );
        asked += 1;
    }
    assert!(asked > unparsed && unparsed > 0, "{asked} were asked, {unparsed} did not parse");
    suite.count(true);

    let half = key.bytes().len() / 2;
    let spliced = [&key.bytes()[..half], &second.bytes()[half..]].concat();
    let tail = [&key.bytes()[..key.bytes().len() - 16], &second.bytes()[second.bytes().len() - 16..]].concat();
    let foreign = Suite::on(Stand::operational(suite.stand.kind)).aes();
    for (what, token) in [
        ("another tenant's", KeyToken::parse([1; 16], key.bytes().clone())),
        ("two tokens in halves", KeyToken::parse(TENANT, spliced.into())),
        ("another token's last 16 bytes", KeyToken::parse(TENANT, tail.into())),
        ("of another boundary", Ok(foreign)),
    ] {
        let key = token.unwrap();
        suite.row(what, &[], Request::Decrypt { key: key.clone(), asks: vec![open(&blob, AAD)] }, rejected);
        suite.row(what, &[], Request::Encrypt { key: key.clone(), asks: vec![seal(b"text")] }, rejected);
        suite.row(what, &[], Request::GenerateDataKeys { key, asks: vec![ask(32)] }, rejected);
    }
    assert!(KeyToken::parse(TENANT, blob.clone()).is_err(), "a blob is no token");
    suite.count(true);
    assert_eq!(
        decrypt_on(&suite.stand, &key, &blob, AAD).unwrap(),
        b"sixteen byte txt",
        "and the true one still works"
    );
}
