//! Keys of the key domain, as transit shows them.

use crate::rig::{Rig, With};
use aws_lc_rs::signature::{self as aws, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use std::time::Duration;
use vault::Verb::{Delete, List, Read, Write};

fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

async fn mounted() -> Rig {
    let rig = Rig::new().await;
    rig.done(Write, "sys/mounts/transit", json!({"type": "transit"})).await;
    rig
}

async fn with_key(body: Value) -> Rig {
    let rig = mounted().await;
    rig.done(Write, "transit/keys/k", body).await;
    rig
}

impl Rig {
    async fn encrypt(&self, body: Value) -> String {
        self.done(Write, "transit/encrypt/k", body).await["ciphertext"].as_str().unwrap().to_owned()
    }

    /// The plaintext, or the status and what was told.
    async fn decrypt(&self, body: Value) -> Result<Vec<u8>, (u16, String)> {
        let (status, body) = self.root(Write, "transit/decrypt/k", body).await;
        match body["data"]["plaintext"].as_str() {
            Some(text) => Ok(STANDARD.decode(text).unwrap()),
            None => Err((status, body["errors"][0].as_str().unwrap_or_default().to_owned())),
        }
    }

    /// The status and what was told.
    async fn refused(&self, verb: vault::Verb, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.root(verb, path, body.clone()).await;
        assert!(status >= 400, "{path} {body}: {status} {answer}");
        (status, answer["errors"][0].as_str().unwrap_or_default().to_owned())
    }
}

fn rejected() -> Result<Vec<u8>, (u16, String)> {
    Err((400, "cipher: message authentication failed".into()))
}

#[tokio::test]
async fn every_type_of_the_boundary_is_made_and_the_others_are_refused_by_name() {
    let rig = mounted().await;
    for (kind, encrypts, signs) in [
        ("aes256-gcm96", true, false),
        ("ecdsa-p256", false, true),
        ("ed25519", false, true),
        ("rsa-2048", false, true),
        ("hmac", false, false),
    ] {
        let path = format!("transit/keys/{kind}");
        assert_eq!(rig.root(Write, &path, json!({"type": kind})).await, (204, Value::Null), "{kind}");
        let key = rig.done(Read, &path, Value::Null).await;
        for (field, value) in [
            ("type", json!(kind)),
            ("name", json!(kind)),
            ("latest_version", json!(1)),
            ("min_decryption_version", json!(1)),
            ("min_encryption_version", json!(0)),
            ("min_available_version", json!(0)),
            ("deletion_allowed", json!(false)),
            ("exportable", json!(false)),
            ("allow_plaintext_backup", json!(false)),
            ("derived", json!(false)),
            ("auto_rotate_period", json!(0)),
            ("supports_encryption", json!(encrypts)),
            ("supports_decryption", json!(encrypts)),
            ("supports_signing", json!(signs)),
        ] {
            assert_eq!(key[field], value, "{kind} {field}");
        }
        let version = &key["keys"]["1"];
        if signs {
            let public = version["public_key"].as_str().unwrap();
            assert_eq!(version["creation_time"], "2023-11-14T22:13:20Z");
            assert_eq!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"), kind != "ed25519", "{public}");
            assert_eq!(version["name"], if kind == "ecdsa-p256" { "P-256" } else { kind });
        } else {
            assert_eq!(*version, json!(1_700_000_000));
        }
        // made once; what is asked for again stays as it is
        let (status, again) = rig.root(Write, &path, json!({"type": kind})).await;
        assert!(status == 200 && again["warnings"][0].as_str().unwrap().contains("already existed"), "{again}");
    }
    let keys = rig.done(List, "transit/keys", Value::Null).await["keys"].clone();
    assert_eq!(keys, json!(["aes256-gcm96", "ecdsa-p256", "ed25519", "hmac", "rsa-2048"]));
    for (body, told) in [
        (json!({"type": "aes128-gcm96"}), "unsupported key type \"aes128-gcm96\""),
        (json!({"type": "chacha20-poly1305"}), "\"chacha20-poly1305\""),
        (json!({"type": "xchacha20-poly1305"}), "\"xchacha20-poly1305\""),
        (json!({"type": "ecdsa-p384"}), "\"ecdsa-p384\""),
        (json!({"type": "ecdsa-p521"}), "\"ecdsa-p521\""),
        (json!({"type": "ml-dsa-44"}), "\"ml-dsa-44\""),
        (json!({"type": 7}), "\"7\""),
        (json!({"type": ["hmac"]}), "type: not a string"),
        (json!({"exportable": true}), "exportable: not supported"),
        (json!({"allow_plaintext_backup": true}), "allow_plaintext_backup: not supported"),
        (json!({"convergent_encryption": true, "derived": true}), "convergent_encryption: not supported"),
        (json!({"type": "ed25519", "derived": true}), "derived: key derivation is not supported"),
        (json!({"type": "hmac", "key_size": 64}), "key_size"),
        (json!({"auto_rotate_period": "59m"}), "auto_rotate_period: 0, or at least an hour"),
        (json!({"auto_rotate_period": "x"}), "auto_rotate_period"),
    ] {
        let (status, error) = rig.refused(Write, "transit/keys/new", body.clone()).await;
        assert!(status == 400 && error.contains(told), "{body}: {status} {error}");
    }
    assert_eq!(rig.root(Read, "transit/keys/new", Value::Null).await.0, 404);
    for name in ["-a", "a-", ".a", "a b", &"a".repeat(65)] {
        assert_eq!(rig.root(Write, &format!("transit/keys/{name}"), json!({})).await.0, 400, "{name}");
    }
}

#[tokio::test]
async fn what_is_encrypted_is_decrypted_with_what_it_was_bound_to_and_nothing_else() {
    for derived in [false, true] {
        let rig = with_key(json!({"derived": derived})).await;
        for size in [0, 1, 17, 4096, 4097, 70_000] {
            let plain: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let bound = json!({"plaintext": b64(&plain), "context": b64("c"), "associated_data": b64("a")});
            let text = rig.encrypt(bound).await;
            assert!(text.starts_with("vault:v1:"), "{text}");
            let ask =
                |context: Value, data: Value| json!({"ciphertext": text, "context": context, "associated_data": data});
            assert_eq!(rig.decrypt(ask(json!(b64("c")), json!(b64("a")))).await, Ok(plain), "{size}");
            for (context, data) in [
                (json!(b64("d")), json!(b64("a"))),
                (json!(b64("c")), json!(b64("b"))),
                (json!(b64("a")), json!(b64("c"))),
                (json!(b64("c")), Value::Null),
                (json!(b64("ca")), json!("")),
            ] {
                assert_eq!(rig.decrypt(ask(context.clone(), data.clone())).await, rejected(), "{context} {data}");
            }
            let none = rig.decrypt(ask(Value::Null, json!(b64("a")))).await;
            let missing = Err((400, "context: missing: the key is derived".to_owned()));
            assert_eq!(none, if derived { missing } else { rejected() });
        }
    }
}

#[tokio::test]
async fn a_ciphertext_that_was_altered_wears_one_face() {
    let rig = with_key(json!({})).await;
    rig.done(Write, "transit/keys/other", json!({})).await;
    let small = rig.encrypt(json!({"plaintext": b64("secret")})).await;
    let large = rig.encrypt(json!({"plaintext": b64(vec![7; 5000])})).await;
    for text in [&small, &large] {
        let bytes = STANDARD.decode(text.strip_prefix("vault:v1:").unwrap()).unwrap();
        for at in [0, 2, 3, 4, 5, 9, 28, 40, 60, 100, bytes.len() / 2, bytes.len() - 1] {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let body = json!({"ciphertext": format!("vault:v1:{}", b64(&altered))});
            assert_eq!(rig.decrypt(body.clone()).await, rejected(), "{at}");
            // of a long one the data key alone is re-wrapped, and what it is for is looked at when it is opened
            let (status, body) = rig.root(Write, "transit/rewrap/k", body).await;
            assert!(status == 400 || rig.decrypt(body["data"].clone()).await == rejected(), "{at}");
        }
        for cut in [1, bytes.len() / 2, bytes.len() - 1] {
            let body = json!({"ciphertext": format!("vault:v1:{}", b64(&bytes[..cut]))});
            assert_eq!(rig.decrypt(body).await, rejected(), "{cut}");
        }
        // of another key, and under another version
        let (status, told) = rig.refused(Write, "transit/decrypt/other", json!({"ciphertext": text})).await;
        assert_eq!(Err((status, told)), rejected());
        assert_eq!(rig.decrypt(json!({"ciphertext": text.replace(":v1:", ":v2:")})).await, rejected());
        assert!(rig.decrypt(json!({"ciphertext": text.replace(":v1:", ":v0:")})).await.is_ok());
    }
    // the data key of a long one is no plaintext of its own
    let bytes = STANDARD.decode(large.strip_prefix("vault:v1:").unwrap()).unwrap();
    let len = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let inner = json!({"ciphertext": format!("vault:v1:{}", b64(&bytes[5..5 + len]))});
    assert_eq!(rig.decrypt(inner).await, rejected());
    for (path, body, told) in [
        ("decrypt/k", json!({}), "ciphertext: missing"),
        ("decrypt/k", json!({"ciphertext": "x"}), "ciphertext: not of the form"),
        ("decrypt/k", json!({"ciphertext": "vault:v1:%"}), "authentication failed"),
        ("decrypt/k", json!({"ciphertext": 7}), "ciphertext: not of the form"),
        ("encrypt/k", json!({}), "plaintext: missing"),
        ("encrypt/k", json!({"plaintext": "%"}), "plaintext: not base64"),
        ("encrypt/k", json!({"plaintext": "QQ==", "associated_data": "%"}), "associated_data: not base64"),
        ("encrypt/k", json!({"plaintext": "QQ==", "nonce": "QQ=="}), "nonce"),
        ("encrypt/k", json!({"plaintext": "QQ==", "key_version": 2}), "key_version"),
        ("encrypt/k", json!({"plaintext": "QQ==", "key_version": -1}), "key_version"),
        ("encrypt/k", json!({"batch_input": []}), "batch_input"),
        ("encrypt/k", json!({"batch_input": [7]}), "batch_input"),
        ("decrypt/none", json!({"ciphertext": small}), "encryption key not found"),
        ("rewrap/none", json!({"ciphertext": small}), "encryption key not found"),
        ("datakey/plaintext/none", json!({}), "encryption key not found"),
        ("sign/none", json!({"input": "QQ=="}), "signing key not found"),
        ("keys/none/config", json!({}), "no existing key"),
        ("keys/none/rotate", json!({}), "no existing key"),
        ("sign/k", json!({"input": "QQ=="}), "signing is not supported by keys of type aes256-gcm96"),
        ("hmac/k", json!({"input": "QQ=="}), "create one of type hmac"),
    ] {
        let (status, error) = rig.refused(Write, &format!("transit/{path}"), body.clone()).await;
        assert!(status == 400 && error.contains(told), "{path} {body}: {status} {error}");
    }
}

#[tokio::test]
async fn after_a_rotation_old_versions_decrypt_until_the_policy_or_a_trim_says_no() {
    let rig = with_key(json!({})).await;
    let old = rig.encrypt(json!({"plaintext": b64("old")})).await;
    let old_large = rig.encrypt(json!({"plaintext": b64(vec![1; 9000])})).await;
    for _ in 0..2 {
        assert_eq!(rig.root(Write, "transit/keys/k/rotate", json!({})).await, (204, Value::Null));
    }
    let new = rig.encrypt(json!({"plaintext": b64("new")})).await;
    let second = rig.encrypt(json!({"plaintext": b64("two"), "key_version": 2})).await;
    assert!(new.starts_with("vault:v3:") && second.starts_with("vault:v2:"), "{new} {second}");
    for (text, plain) in [(&old, &b"old"[..]), (&new, b"new"), (&second, b"two"), (&old_large, &[1; 9000])] {
        assert_eq!(rig.decrypt(json!({"ciphertext": text})).await.unwrap(), plain);
        let wrapped = rig.done(Write, "transit/rewrap/k", json!({"ciphertext": text})).await;
        assert_eq!(wrapped["key_version"], 3);
        let wrapped = wrapped["ciphertext"].as_str().unwrap();
        assert!(wrapped.starts_with("vault:v3:"));
        assert_eq!(rig.decrypt(json!({"ciphertext": wrapped})).await.unwrap(), plain);
    }
    for (body, told) in [
        (json!({"min_decryption_version": 4}), "min_decryption_version"),
        (json!({"min_encryption_version": 4}), "min_encryption_version"),
        (json!({"min_decryption_version": 2, "min_encryption_version": 1}), "min_encryption_version"),
        (json!({"min_decryption_version": -1}), "min_decryption_version"),
        (json!({"exportable": true}), "exportable"),
        (json!({"allow_plaintext_backup": "true"}), "allow_plaintext_backup"),
        (json!({"auto_rotate_period": 60}), "auto_rotate_period"),
    ] {
        let (status, error) = rig.refused(Write, "transit/keys/k/config", body.clone()).await;
        assert!(status == 400 && error.starts_with(told), "{body}: {error}");
    }
    let early = rig.refused(Write, "transit/keys/k/trim", json!({"min_available_version": 2})).await;
    assert!(early.1.contains("min_encryption_version must be set"), "{early:?}");
    rig.done(Write, "transit/keys/k/config", json!({"min_decryption_version": 2, "min_encryption_version": "3"})).await;
    let too_old = Err((400, "ciphertext or signature version is disallowed by policy (too old)".to_owned()));
    assert_eq!(rig.decrypt(json!({"ciphertext": old})).await, too_old);
    assert_eq!(rig.decrypt(json!({"ciphertext": second})).await.unwrap(), b"two");
    let told = rig.refused(Write, "transit/encrypt/k", json!({"plaintext": "QQ==", "key_version": 2})).await;
    assert!(told.1.starts_with("key_version"), "{told:?}");
    assert_eq!(rig.refused(Write, "transit/keys/k/trim", json!({"min_available_version": 3})).await.0, 400);
    rig.done(Write, "transit/keys/k/config", json!({"min_decryption_version": 1})).await;
    assert_eq!(rig.decrypt(json!({"ciphertext": old})).await.unwrap(), b"old");
    rig.done(Write, "transit/keys/k/config", json!({"min_decryption_version": 2})).await;
    for _ in 0..2 {
        rig.done(Write, "transit/keys/k/trim", json!({"min_available_version": 2})).await;
    }
    let key = rig.done(Read, "transit/keys/k", Value::Null).await;
    assert_eq!((&key["min_available_version"], &key["latest_version"]), (&json!(2), &json!(3)));
    assert_eq!(key["keys"].as_object().unwrap().keys().collect::<Vec<_>>(), ["2", "3"]);
    for body in [json!({"min_decryption_version": 1}), json!({"min_encryption_version": 1})] {
        assert_eq!(rig.refused(Write, "transit/keys/k/config", body).await.0, 400);
    }
    assert_eq!(rig.decrypt(json!({"ciphertext": old})).await, too_old);
    // gone from the key itself, too
    let id = kms::KeyId::parse(key["kms_key_id"].as_str().unwrap()).unwrap();
    let record = rig.vault.kms().known(&id).await.unwrap();
    let left: Vec<_> = record.versions.iter().map(|version| version.material.is_some()).collect();
    assert_eq!(left, [false, true, true]);
    assert_eq!(rig.decrypt(json!({"ciphertext": second})).await.unwrap(), b"two");
}

#[tokio::test]
async fn a_batch_answers_each_item_and_says_when_one_failed() {
    let rig = with_key(json!({})).await;
    let items = json!([
        {"plaintext": b64("one"), "reference": "r1"},
        {"plaintext": "%", "reference": "r2"},
        {"plaintext": b64(vec![3; 5000])},
        {"plaintext": b64("x"), "key_version": 9},
    ]);
    let (status, body) = rig.root(Write, "transit/encrypt/k", json!({"batch_input": items})).await;
    assert_eq!(status, 400, "{body}");
    let results = body["data"]["batch_results"].as_array().unwrap().clone();
    assert_eq!((&results[0]["reference"], &results[1]["reference"]), (&json!("r1"), &json!("r2")));
    assert_eq!((&results[0]["key_version"], &results[1]["ciphertext"]), (&json!(1), &Value::Null));
    assert_eq!(results[1]["error"], "plaintext: not base64");
    assert!(results[3]["error"].as_str().unwrap().starts_with("key_version"));
    assert!(body["request_id"].is_string() && body["errors"].is_null(), "{body}");
    let (one, large) = (results[0]["ciphertext"].clone(), results[2]["ciphertext"].clone());
    let items = json!([{"ciphertext": one}, {"ciphertext": "vault:v1:AAAA"}, {"ciphertext": large}]);
    for (code, status) in [(json!(null), 400), (json!(202), 202), (json!(199), 400)] {
        let body = json!({"batch_input": items, "partial_failure_response_code": code});
        let (found, body) = rig.root(Write, "transit/decrypt/k", body).await;
        assert_eq!(found, status, "{code}");
        let results = &body["data"]["batch_results"];
        assert_eq!(results[0]["plaintext"], b64("one"));
        assert_eq!(results[1], json!({"error": rejected().unwrap_err().1}));
        assert_eq!(results[2]["plaintext"], b64(vec![3; 5000]));
    }
    // where all failed the code does not help
    let none = json!({"batch_input": [{"ciphertext": "x"}], "partial_failure_response_code": 202});
    for path in ["decrypt", "rewrap"] {
        assert_eq!(rig.root(Write, &format!("transit/{path}/k"), none.clone()).await.0, 400);
    }
    let items = json!([{"ciphertext": one}, {"ciphertext": large}]);
    for path in ["rewrap", "decrypt"] {
        let (status, body) = rig.root(Write, &format!("transit/{path}/k"), json!({"batch_input": items})).await;
        assert_eq!((status, body["data"]["batch_results"].as_array().unwrap().len()), (200, 2), "{body}");
    }
    let most = vec![json!({"plaintext": "QQ=="}); 128];
    let (status, body) = rig.root(Write, "transit/encrypt/k", json!({"batch_input": most})).await;
    assert_eq!((status, body["data"]["batch_results"].as_array().unwrap().len()), (200, 128));
    let more = vec![json!({"plaintext": "QQ=="}); 129];
    assert_eq!(rig.refused(Write, "transit/encrypt/k", json!({"batch_input": more})).await.0, 400);
}

#[tokio::test]
async fn a_data_key_is_shown_or_wrapped_and_decrypts_to_itself() {
    let rig = with_key(json!({})).await;
    for (bits, len) in [(json!(128), 16), (json!(256), 32), (json!("512"), 64), (Value::Null, 32)] {
        let body = json!({"bits": bits, "context": b64("c")});
        let shown = rig.done(Write, "transit/datakey/plaintext/k", body.clone()).await;
        let plain = STANDARD.decode(shown["plaintext"].as_str().unwrap()).unwrap();
        assert_eq!(plain.len(), len);
        let ask = json!({"ciphertext": shown["ciphertext"], "context": b64("c")});
        assert_eq!(rig.decrypt(ask).await.unwrap(), plain);
        assert_eq!(rig.decrypt(json!({"ciphertext": shown["ciphertext"]})).await, rejected());
        let wrapped = rig.done(Write, "transit/datakey/wrapped/k", body).await;
        assert!(wrapped["plaintext"].is_null() && wrapped["key_version"] == 1, "{wrapped}");
        let ask = json!({"ciphertext": wrapped["ciphertext"], "context": b64("c")});
        assert_eq!(rig.decrypt(ask).await.unwrap().len(), len);
    }
    for (path, body) in [
        ("datakey/plaintext/k", json!({"bits": 192})),
        ("datakey/plaintext/k", json!({"bits": 1024})),
        ("datakey/other/k", json!({})),
    ] {
        assert_eq!(rig.refused(Write, &format!("transit/{path}"), body).await.0, 400);
    }
}

/// DER of a PEM, or the bytes themselves.
fn public(text: &str) -> Vec<u8> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}

#[tokio::test]
async fn signatures_are_those_of_the_exported_public_key() {
    let rig = mounted().await;
    let message = b"a message".repeat(1000);
    let short = b"a message".to_vec();
    type Case<'a> = (&'a str, &'a str, Value, &'static dyn VerificationAlgorithm);
    let cases: [Case<'_>; 10] = [
        ("ecdsa-p256", "", json!({}), &aws::ECDSA_P256_SHA256_ASN1),
        ("ecdsa-p256", "/sha2-256", json!({"marshaling_algorithm": "asn1"}), &aws::ECDSA_P256_SHA256_ASN1),
        ("ecdsa-p256", "", json!({"marshaling_algorithm": "jws"}), &aws::ECDSA_P256_SHA256_FIXED),
        ("ed25519", "", json!({}), &aws::ED25519),
        ("ed25519", "", json!({"marshaling_algorithm": "jws"}), &aws::ED25519),
        ("rsa-2048", "", json!({}), &aws::RSA_PSS_2048_8192_SHA256),
        ("rsa-2048", "/sha2-384", json!({"salt_length": "hash"}), &aws::RSA_PSS_2048_8192_SHA384),
        ("rsa-2048", "", json!({"hash_algorithm": "sha2-512", "salt_length": 64}), &aws::RSA_PSS_2048_8192_SHA512),
        ("rsa-2048", "", json!({"signature_algorithm": "pkcs1v15"}), &aws::RSA_PKCS1_2048_8192_SHA256),
        (
            "rsa-2048",
            "/sha2-512",
            json!({"signature_algorithm": "pkcs1v15", "marshaling_algorithm": "jws"}),
            &aws::RSA_PKCS1_2048_8192_SHA512,
        ),
    ];
    for kind in ["ecdsa-p256", "ed25519", "rsa-2048"] {
        rig.done(Write, &format!("transit/keys/{kind}"), json!({"type": kind})).await;
    }
    for (kind, hash, how, scheme) in cases {
        let message = if kind == "ed25519" { &short } else { &message };
        let with = |more: Value| {
            let mut body = how.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let made = rig.done(Write, &format!("transit/sign/{kind}{hash}"), with(json!({"input": b64(message)}))).await;
        let text = made["signature"].as_str().unwrap().to_owned();
        let bytes = text.strip_prefix("vault:v1:").unwrap();
        let jws = how["marshaling_algorithm"] == "jws";
        let bytes = if jws { URL_SAFE_NO_PAD.decode(bytes) } else { STANDARD.decode(bytes) }.unwrap();
        let key = rig.done(Read, &format!("transit/export/public-key/{kind}/1"), Value::Null).await;
        let key = public(key["keys"]["1"].as_str().unwrap());
        UnparsedPublicKey::new(scheme, &key).verify(message, &bytes).unwrap();
        let other = b64(b"another message");
        for (input, signature, valid) in [
            (b64(message), text.clone(), json!(true)),
            (other, text.clone(), json!(false)),
            (b64(message), text.replace(":v1:", ":v2:"), Value::Null),
        ] {
            let body = with(json!({"input": input, "signature": signature}));
            let (_, body) = rig.root(Write, &format!("transit/verify/{kind}{hash}"), body).await;
            assert_eq!(body["data"]["valid"], valid, "{kind} {body}");
        }
        // its hash, made elsewhere
        if kind != "ed25519" && hash.is_empty() && how["hash_algorithm"].is_null() {
            let digest = envelope::mac::sha256(message);
            let body = with(json!({"input": b64(digest), "prehashed": true}));
            let made = rig.done(Write, &format!("transit/sign/{kind}"), body).await;
            let body = with(json!({"input": b64(message), "signature": made["signature"]}));
            assert_eq!(rig.done(Write, &format!("transit/verify/{kind}"), body).await["valid"], true);
        }
    }
    for (path, body, told) in [
        ("sign/ecdsa-p256/sha2-512", json!({"input": "QQ=="}), "unsupported hash algorithm \"sha2-512\""),
        ("sign/rsa-2048/sha1", json!({"input": "QQ=="}), "unsupported hash algorithm \"sha1\""),
        ("sign/rsa-2048", json!({"input": "QQ==", "signature_algorithm": "x"}), "unsupported signature algorithm"),
        ("sign/rsa-2048", json!({"input": "QQ==", "salt_length": "20"}), "salt_length"),
        ("sign/rsa-2048", json!({"input": "QQ==", "prehashed": true}), "a hash of 32 bytes"),
        ("sign/ed25519", json!({"input": "QQ==", "prehashed": true}), "prehashed"),
        ("sign/ed25519", json!({"input": b64(vec![0; 4097])}), "input: 1 to 4096 bytes"),
        ("sign/ed25519", json!({"input": "QQ==", "marshaling_algorithm": "x"}), "marshaling_algorithm"),
        ("sign/ed25519", json!({}), "input: missing"),
        ("verify/ed25519", json!({"input": "QQ==", "signature": "x"}), "signature: not of the form"),
        ("verify/ed25519", json!({"input": "QQ=="}), "signature: missing"),
        ("encrypt/ed25519", json!({"plaintext": "QQ=="}), "encryption is not supported by keys of type ed25519"),
    ] {
        let (status, error) = rig.refused(Write, &format!("transit/{path}"), body.clone()).await;
        assert!(status == 400 && error.contains(told), "{path} {body}: {status} {error}");
    }
}

#[tokio::test]
async fn a_rotated_key_verifies_what_its_old_versions_made() {
    let rig = mounted().await;
    for (kind, path, field) in
        [("ecdsa-p256", "sign", "signature"), ("ed25519", "sign", "signature"), ("hmac", "hmac", "hmac")]
    {
        rig.done(Write, &format!("transit/keys/{kind}"), json!({"type": kind})).await;
        let make = async |version: Value| {
            let body = json!({"input": b64("m"), "key_version": version});
            rig.done(Write, &format!("transit/{path}/{kind}"), body).await[field].clone()
        };
        let verify = async |made: &Value| {
            let body = json!({"input": b64("m"), field: made});
            rig.root(Write, &format!("transit/verify/{kind}"), body).await.1["data"]["valid"].clone()
        };
        let old = make(Value::Null).await;
        rig.done(Write, &format!("transit/keys/{kind}/rotate"), json!({})).await;
        let (new, again) = (make(Value::Null).await, make(json!(1)).await);
        assert!(new.as_str().unwrap().starts_with("vault:v2:") && again.as_str().unwrap().starts_with("vault:v1:"));
        for made in [&old, &new, &again] {
            assert_eq!(verify(made).await, json!(true), "{kind} {made}");
        }
        let crossed = json!(old.as_str().unwrap().replace(":v1:", ":v2:"));
        assert_eq!(verify(&crossed).await, json!(false), "{kind}");
        rig.done(Write, &format!("transit/keys/{kind}/config"), json!({"min_decryption_version": 2})).await;
        assert_eq!((verify(&old).await, verify(&new).await), (Value::Null, json!(true)));
        let items = json!([{"input": b64("m"), "reference": "a"}, {"input": "%"}]);
        let (status, body) = rig.root(Write, &format!("transit/{path}/{kind}"), json!({"batch_input": items})).await;
        let results = &body["data"]["batch_results"];
        assert_eq!(
            (status, &results[0]["reference"], &results[1]["error"]),
            (400, &json!("a"), &json!("input: not base64"))
        );
        let items = json!([{"input": b64("m"), field: new}, {"input": b64("n"), field: new}]);
        let (status, body) = rig.root(Write, &format!("transit/verify/{kind}"), json!({"batch_input": items})).await;
        assert_eq!((status, &body["data"]["batch_results"]), (200, &json!([{"valid": true}, {"valid": false}])));
    }
    for (body, path, told) in [
        (json!({"input": "QQ=="}), "hmac/hmac/sha2-512", "unsupported hash algorithm"),
        (json!({"input": ""}), "hmac/hmac", "input: 1 to 4096 bytes"),
        (json!({"input": b64(vec![0; 4097])}), "hmac/hmac", "input: 1 to 4096 bytes"),
        (json!({"input": "QQ==", "hmac": "x"}), "verify/hmac", "hmac: not of the form"),
        (json!({"input": "QQ=="}), "sign/hmac", "signing is not supported"),
    ] {
        let (status, error) = rig.refused(Write, &format!("transit/{path}"), body.clone()).await;
        assert!(status == 400 && error.contains(told), "{path} {body}: {status} {error}");
    }
}

#[tokio::test]
async fn hashes_and_random_bytes_take_no_key() {
    let rig = mounted().await;
    // FIPS 180-4 and FIPS 202: of "abc"
    for (path, body, sum) in [
        ("hash", json!({}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("hash/sha2-224", json!({}), "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        ("hash/sha2-256", json!({"format": "base64"}), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
        ("hash", json!({"algorithm": "sha3-256"}), "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
    ] {
        let mut body = body.clone();
        body["input"] = json!(b64("abc"));
        assert_eq!(rig.done(Write, &format!("transit/{path}"), body).await["sum"], sum, "{path}");
    }
    for (path, body, len) in [
        ("random", json!({}), 32),
        ("random/16", json!({}), 16),
        ("random/platform", json!({"bytes": 1}), 1),
        ("random/all/1024", json!({}), 1024),
    ] {
        let random = rig.done(Write, &format!("transit/{path}"), body).await;
        assert_eq!(STANDARD.decode(random["random_bytes"].as_str().unwrap()).unwrap().len(), len, "{path}");
    }
    let hex = rig.done(Write, "transit/random/seal/8", json!({"format": "hex"})).await;
    assert_eq!(hex["random_bytes"].as_str().unwrap().len(), 16);
    for (path, body) in [
        ("random/0", json!({})),
        ("random/1025", json!({})),
        ("random/elsewhere", json!({})),
        ("random", json!({"format": "x"})),
        ("random/9999999999", json!({})),
        ("hash/md5", json!({"input": "QQ=="})),
        ("hash", json!({})),
        ("hash", json!({"input": "QQ==", "format": "x"})),
    ] {
        assert_eq!(rig.refused(Write, &format!("transit/{path}"), body).await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn what_would_take_a_key_out_or_in_is_refused_by_name() {
    let rig = with_key(json!({})).await;
    for (verb, path, status, told) in [
        (Read, "export/encryption-key/k", 400, "never leave"),
        (Read, "export/hmac-key/k/1", 400, "never leave"),
        (Read, "export/public-key/k", 400, "never leave"),
        (Read, "backup/k", 400, "never leave"),
        (Write, "restore/k", 400, "never leave"),
        (Read, "byok-export/a/b", 400, "never leave"),
        (Write, "keys/k/import", 400, "import"),
        (Read, "wrapping_key", 400, "import"),
        (Write, "keys/k/csr", 400, "certificates"),
        (Delete, "keys/k/soft-delete", 400, "soft deletion"),
        (Read, "encrypt/k", 405, "unsupported"),
        (Delete, "encrypt/k", 405, "unsupported"),
        (Read, "cache-config", 404, "no handler"),
    ] {
        let (found, error) = rig.refused(verb, &format!("transit/{path}"), json!({})).await;
        assert!(found == status && error.contains(told), "{path}: {found} {error}");
    }
}

#[tokio::test]
async fn a_key_is_deleted_only_where_that_was_allowed() {
    let rig = with_key(json!({})).await;
    let text = rig.encrypt(json!({"plaintext": b64("x")})).await;
    let key = rig.done(Read, "transit/keys/k", Value::Null).await;
    assert!(rig.refused(Delete, "transit/keys/k", Value::Null).await.1.contains("not allowed"));
    rig.done(Write, "transit/keys/k/config", json!({"deletion_allowed": true})).await;
    assert_eq!(rig.root(Delete, "transit/keys/k", Value::Null).await, (204, Value::Null));
    for (verb, path, status) in
        [(Read, "transit/keys/k", 404), (List, "transit/keys", 404), (Delete, "transit/keys/k", 400)]
    {
        assert_eq!(rig.root(verb, path, Value::Null).await.0, status, "{path}");
    }
    assert_eq!(rig.decrypt(json!({"ciphertext": text})).await.unwrap_err().1, "encryption key not found");
    let id = kms::KeyId::parse(key["kms_key_id"].as_str().unwrap()).unwrap();
    let state = rig.vault.kms().known(&id).await.unwrap().state;
    assert!(matches!(state, kms::KeyState::PendingDeletion { .. }), "{state:?}");
    // a new one of the same name is another one
    rig.done(Write, "transit/keys/k", json!({})).await;
    assert_eq!(rig.decrypt(json!({"ciphertext": text})).await, rejected());
}

#[tokio::test]
async fn a_key_that_is_due_rotates_by_itself_and_once() {
    let rig = with_key(json!({"auto_rotate_period": "1h"})).await;
    rig.done(Write, "transit/keys/hand", json!({"auto_rotate_period": 7200})).await;
    rig.done(Write, "transit/keys/never", json!({})).await;
    let versions = async || {
        let mut found = Vec::new();
        for name in ["k", "hand", "never"] {
            found.push(rig.done(Read, &format!("transit/keys/{name}"), Value::Null).await["latest_version"].clone());
        }
        Value::from(found)
    };
    let tend = async || vault::tend(&rig.vault, rig.clock_now()).await.unwrap();
    assert_eq!((tend().await, versions().await), (0, json!([1, 1, 1])));
    rig.clock.advance(Duration::from_secs(3600));
    let (_, records) = rig.recorded(tend()).await;
    assert_eq!(versions().await, json!([2, 1, 1]));
    let rotated = records.iter().find(|record| record["operation"] == "RotateKeyWhenDue").unwrap();
    assert_eq!(rotated["subject"]["type"], "system", "{rotated}");
    assert_eq!((tend().await, versions().await), (0, json!([2, 1, 1])));
    // by hand: the next turn counts from there
    rig.clock.advance(Duration::from_secs(3500));
    rig.done(Write, "transit/keys/hand/rotate", json!({})).await;
    rig.clock.advance(Duration::from_secs(100));
    tend().await;
    assert_eq!(versions().await, json!([3, 2, 1]));
    rig.done(Write, "transit/keys/k/config", json!({"auto_rotate_period": 0})).await;
    rig.clock.advance(Duration::from_secs(7200));
    tend().await;
    assert_eq!(versions().await, json!([3, 3, 1]));
    // what is unmounted is forgotten
    rig.done(Delete, "sys/mounts/transit", Value::Null).await;
    rig.clock.advance(Duration::from_secs(7200));
    let (taken, records) = rig.recorded(async { (tend().await, tend().await, tend().await) }).await;
    // the key that was due, and the six entries of the mount; then its mark
    assert_eq!((taken, records.len()), ((1 + 6, 1, 0), 3), "{records:?}");
}

#[tokio::test]
async fn a_callers_policy_on_the_mounts_paths_is_all_that_counts() {
    let rig = with_key(json!({})).await;
    rig.done(Write, "transit/keys/other", json!({})).await;
    let policy = r#"
        path "transit/encrypt/k" { capabilities = ["update"] }
        path "transit/encrypt/mine-*" { capabilities = ["create", "update"] }
        path "transit/encrypt/theirs-*" { capabilities = ["update"] }
        path "kms/*" { capabilities = ["deny"] }"#;
    rig.done(Write, "sys/policies/acl/app", json!({"policy": policy})).await;
    let made = rig.root(Write, "auth/token/create", json!({"policies": ["app"], "no_default_policy": true})).await.1;
    let token = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let text = rig.encrypt(json!({"plaintext": b64("x")})).await;
    let with = || With { token: Some(&token), ..With::default() };
    for (path, body, status) in [
        ("encrypt/k", json!({"plaintext": "QQ=="}), 200),
        ("encrypt/mine-1", json!({"plaintext": "QQ=="}), 200),
        ("encrypt/mine-1", json!({"plaintext": "QQ=="}), 200),
        ("encrypt/other", json!({"plaintext": "QQ=="}), 403),
        ("encrypt/new", json!({"plaintext": "QQ=="}), 403),
        ("encrypt/theirs-1", json!({"plaintext": "QQ=="}), 403),
        ("decrypt/k", json!({"ciphertext": text}), 403),
        ("datakey/plaintext/k", json!({}), 403),
        ("keys/k/rotate", json!({}), 403),
        ("random", json!({}), 403),
    ] {
        let (found, answer) = rig.ask(Write, &format!("transit/{path}"), body, with()).await;
        assert_eq!(found, status, "{path} {answer}");
    }
    // and it adds no right on the key itself
    let id = rig.done(Read, "transit/keys/k", Value::Null).await["kms_key_id"].as_str().unwrap().to_owned();
    let info = identity::RequestInfo::new("direct".into(), "192.0.2.7:4711".into(), rig.clock_now());
    let by = rig.vault.identities().authenticate(Some(token.as_bytes()), None, &info).await.unwrap();
    let command = kms::GenerateDataKey {
        key: kms::KeyRef::parse(&id).unwrap(),
        length: kms::DataKeyBytes::AES_256,
        context: envelope::EncryptionContext::default(),
    };
    let direct = rig.vault.kms().generate_data_key(&by, &info, command).await;
    assert_eq!(direct.unwrap_err(), kms::KmsError::PermissionDenied);
}

#[tokio::test]
async fn each_request_is_one_record_of_the_key_that_names_no_plaintext() {
    let rig = mounted().await;
    let (_, made) = rig.recorded(rig.done(Write, "transit/keys/k", json!({}))).await;
    let named = made.iter().find(|record| record["path"] == "transit/keys/k").unwrap();
    let id = named["items"][0]["key_id"].as_str().unwrap().to_owned();
    let secret = "plaintext-that-nobody-logs";
    let text = rig.encrypt(json!({"plaintext": b64(secret)})).await;
    for (path, body, operation, suffix, outcome) in [
        ("encrypt/k", json!({"plaintext": b64(secret)}), "Encrypt", "/encrypt", "asked"),
        ("decrypt/k", json!({"ciphertext": text}), "Decrypt", "/decrypt", "asked"),
        ("rewrap/k", json!({"ciphertext": text}), "ReEncrypt", "/re-encrypt-from", "asked"),
        ("datakey/plaintext/k", json!({}), "GenerateDataKey", "/generate-data-key", "asked"),
        (
            "datakey/wrapped/k",
            json!({}),
            "GenerateDataKeyWithoutPlaintext",
            "/generate-data-key-without-plaintext",
            "asked",
        ),
        ("encrypt/k", json!({"plaintext": b64(secret), "key_version": 9}), "Encrypt", "/encrypt", "failed"),
    ] {
        let (_, records) = rig.recorded(rig.root(Write, &format!("transit/{path}"), body)).await;
        assert_eq!(records.len(), 1, "{path} {records:?}");
        assert_eq!(records[0]["operation"], operation);
        assert_eq!(records[0]["path"], format!("kms/keys/{id}{suffix}"));
        assert_eq!((&records[0]["rule"], &records[0]["decision"]), (&json!("root"), &json!("allowed")));
        assert_eq!(records[0]["subject"]["type"], "token", "{}", records[0]);
        assert!(records[0]["outcome"].to_string().contains(outcome), "{}", records[0]);
    }
    for (verb, path, body, failed) in [
        (Read, "keys/k", Value::Null, false),
        (List, "keys", Value::Null, false),
        (Write, "hash", json!({"input": b64(secret)}), false),
        (Write, "keys/k/config", json!({"deletion_allowed": true}), false),
        (Write, "encrypt/k", json!({"plaintext": secret}), true),
        (Write, "decrypt/k", json!({"batch_input": [{"ciphertext": "x"}]}), true),
        (Write, "rewrap/k", json!({"batch_input": [{"ciphertext": "x"}]}), true),
    ] {
        let (_, records) = rig.recorded(rig.root(verb, &format!("transit/{path}"), body)).await;
        assert_eq!(records.len(), 1, "{path} {records:?}");
        assert_eq!(records[0]["outcome"].to_string().contains("failed"), failed, "{}", records[0]);
    }
    let items = json!([{"plaintext": b64(secret)}, {"plaintext": b64(secret)}]);
    let (_, records) = rig.recorded(rig.done(Write, "transit/encrypt/k", json!({"batch_input": items}))).await;
    assert_eq!((records.len(), records[0]["items"].as_array().unwrap().len()), (1, 2));
    let all = format!("{:?}", rig.records());
    for hidden in [secret, &b64(secret), text.strip_prefix("vault:v1:").unwrap()] {
        assert!(!all.contains(hidden), "{hidden}");
    }
}

#[tokio::test]
async fn of_many_who_make_a_key_at_once_all_get_the_same_one() {
    let rig = std::sync::Arc::new(mounted().await);
    let makers = (0..8).map(|n| {
        let rig = std::sync::Arc::clone(&rig);
        tokio::spawn(async move {
            if n % 2 == 0 {
                rig.root(Write, "transit/keys/k", json!({})).await;
            }
            rig.encrypt(json!({"plaintext": b64("x")})).await
        })
    });
    for maker in makers.collect::<Vec<_>>() {
        let text = maker.await.unwrap();
        assert_eq!(rig.decrypt(json!({"ciphertext": text})).await.unwrap(), b"x");
    }
    // what nobody got to know is on its way out
    let info = identity::RequestInfo::new("keys".into(), String::new(), rig.clock_now());
    let by = rig.vault.identities().authenticate(Some(crate::rig::ROOT.as_bytes()), None, &info).await.unwrap();
    let all = rig.vault.kms().list_keys(&by, &info, &kms::op::PageRequest::default()).await.unwrap();
    let mut enabled = 0;
    for id in &all.items {
        enabled += usize::from(rig.vault.kms().known(id).await.unwrap().state == kms::KeyState::Enabled);
    }
    assert!(all.items.len() > 1, "nobody was second");
    assert_eq!(enabled, 1);
}

#[tokio::test]
async fn a_key_has_so_many_versions_and_says_so() {
    let rig = with_key(json!({})).await;
    for _ in 1..kms::KEY_VERSIONS_MAX {
        rig.done(Write, "transit/keys/k/rotate", json!({})).await;
    }
    let (status, error) = rig.refused(Write, "transit/keys/k/rotate", json!({})).await;
    assert!(status == 400 && error.contains("100 versions"), "{status} {error}");
    assert!(rig.encrypt(json!({"plaintext": b64("x")})).await.starts_with("vault:v100:"));
}

#[tokio::test]
async fn whatever_is_sent_is_answered_and_leaves_a_record() {
    let rig = with_key(json!({})).await;
    rig.done(Write, "transit/keys/e", json!({"type": "ecdsa-p256"})).await;
    rig.done(Write, "transit/keys/h", json!({"type": "hmac"})).await;
    let bodies = [
        Value::Null,
        json!({"plaintext": 7, "ciphertext": [], "input": {}, "batch_input": "x", "type": 1, "bits": "x"}),
        json!({"plaintext": "QQ==", "ciphertext": "vault:v1:U0wBAAA=", "input": "QQ==", "key_version": "x"}),
        json!({"batch_input": [{}, {"plaintext": []}, {"input": "QQ==", "signature": "vault:v1:QQ=="}]}),
        json!({"batch_input": [{"reference": {}}]}),
        json!({"input": "QQ==", "signature": "vault:v1:QQ==", "hmac": "vault:v4000000000:QQ=="}),
        json!({"min_decryption_version": "x", "min_available_version": 4_294_967_296u64, "derived": "x"}),
        json!({"partial_failure_response_code": "x", "batch_input": [{"ciphertext": "x"}]}),
    ];
    let paths = [
        "",
        "keys",
        "keys/k",
        "keys/k/config",
        "keys/k/rotate/x",
        "keys/k/trim",
        "encrypt",
        "encrypt/k",
        "encrypt/e",
        "encrypt/-",
        "decrypt/k",
        "decrypt/h",
        "rewrap/k",
        "rewrap/e",
        "datakey",
        "datakey/plaintext",
        "datakey/wrapped/k",
        "datakey/plaintext/e",
        "sign/e",
        "sign/e/sha2-256/x",
        "sign/h",
        "verify/e",
        "verify/h",
        "hmac/h",
        "hmac/k",
        "hash",
        "hash/sha2-256",
        "random/x",
        "random/0/1/2",
        "export",
        "backup/k",
        "nothing",
    ];
    let made = rig.root(Write, "auth/token/create", json!({"policies": ["none"], "no_default_policy": true})).await.1;
    let stranger = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let (first, mut asked) = (rig.records().len(), 0);
    for token in [crate::rig::ROOT, &stranger] {
        for path in paths {
            for verb in [Read, List, Write, vault::Verb::Patch, Delete] {
                for body in &bodies {
                    let with = With { token: Some(token), ..With::default() };
                    let answer = rig.ask(verb, &format!("transit/{path}"), body.clone(), with).await;
                    let case = format!("{verb:?} {path} {body}: {answer:?}");
                    assert!(answer.0 < 500 && (token == crate::rig::ROOT || answer.0 == 403), "{case}");
                    asked += 1;
                }
            }
        }
    }
    let records = rig.records().split_off(first);
    let requests: std::collections::BTreeSet<_> = records.iter().map(|record| record["request_id"].as_str()).collect();
    assert_eq!(requests.len(), asked);
}
