//! The native API end to end: TLS, token, policy, storage, audit, the boundary's own process. On hsm-sim and on SoftHSM2.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use bytes::Bytes;
use proto::identity::{CreateTokenRequest, PutPolicyRequest, RevokeTokenRequest};
use proto::kms::*;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::{Clients, Dev, DevOptions, bearer, context, reason};
use tonic::Code;
use tonic_types::StatusExt as _;

/// One server, and its root.
struct Root {
    dev: Dev,
    clients: Clients,
    token: String,
}

impl Root {
    fn of(dev: Dev) -> Self {
        let (clients, token) = (dev.clients(), dev.root_token());
        Self { dev, clients, token }
    }

    async fn key(&self, spec: KeySpec) -> KeyMetadata {
        let request = CreateKeyRequest { key_spec: spec.into(), ..Default::default() };
        let reply = self.clients.keys.clone().create_key(bearer(&self.token, request)).await.unwrap();
        reply.into_inner().key_metadata.unwrap()
    }

    async fn data_key(&self, key_id: &str) -> GenerateDataKeyResponse {
        let request = GenerateDataKeyRequest {
            key_id: key_id.into(),
            key_spec: DataKeySpec::Aes256.into(),
            number_of_bytes: None,
            encryption_context: context("file", "a"),
        };
        self.clients.crypto.clone().generate_data_key(bearer(&self.token, request)).await.unwrap().into_inner()
    }

    async fn decrypt(&self, blob: &[u8], context: &[(&str, &str)]) -> Result<DecryptResponse, tonic::Status> {
        let request = DecryptRequest {
            ciphertext_blob: Bytes::copy_from_slice(blob),
            encryption_context: context.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            key_id: String::new(),
        };
        Ok(self.clients.crypto.clone().decrypt(bearer(&self.token, request)).await?.into_inner())
    }

    /// A child token with this policy.
    async fn token_with(&self, name: &str, policy: &str) -> String {
        let mut identity = self.clients.identity.clone();
        let request = PutPolicyRequest { name: name.into(), policy: policy.into() };
        identity.put_policy(bearer(&self.token, request)).await.unwrap();
        let request = CreateTokenRequest { policies: vec![name.into()], ..Default::default() };
        identity.create_token(bearer(&self.token, request)).await.unwrap().into_inner().token
    }
}

/// Both boundaries, each behind a server of its own.
fn everywhere() -> [Root; 2] {
    [Root::of(Dev::sim()), Root::of(Dev::softhsm())]
}

const CONTEXT: &[(&str, &str)] = &[("file", "a")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job_works_and_what_was_altered_is_refused() {
    for root in everywhere() {
        let key = root.key(KeySpec::SymmetricDefault).await;
        let first = root.data_key(&key.key_id).await;
        assert_eq!((first.plaintext.len(), first.key_version, &first.key_id), (32, 1, &key.key_id));
        let opened = root.decrypt(&first.ciphertext_blob, CONTEXT).await.unwrap();
        assert_eq!((opened.plaintext, opened.key_id), (first.plaintext.clone(), key.key_id.clone()));

        let mut flipped = first.ciphertext_blob.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        for (what, blob, context) in [
            ("another context", &first.ciphertext_blob[..], &[("file", "b")][..]),
            ("no context", &first.ciphertext_blob, &[]),
            ("more context", &first.ciphertext_blob, &[("file", "a"), ("more", "")]),
            ("a flipped bit", &flipped, CONTEXT),
            ("cut", &first.ciphertext_blob[..60], CONTEXT),
            ("trailing bytes", &[&first.ciphertext_blob[..], b"x"].concat(), CONTEXT),
            ("noise", &[0x5a; 200], CONTEXT),
        ] {
            let status = root.decrypt(blob, context).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status)),
                (Code::InvalidArgument, "INVALID_CIPHERTEXT".into()),
                "{what}"
            );
        }

        let mut keys = root.clients.keys.clone();
        let request = RotateKeyOnDemandRequest { key_id: key.key_id.clone() };
        let rotated = keys.rotate_key_on_demand(bearer(&root.token, request)).await.unwrap().into_inner();
        assert_eq!(rotated.key_version, 2);
        let second = root.data_key(&key.key_id).await;
        assert_eq!(second.key_version, 2);
        for (made, version) in [(&first, 1), (&second, 2)] {
            let opened = root.decrypt(&made.ciphertext_blob, CONTEXT).await.unwrap();
            assert_eq!((&opened.plaintext, opened.key_version), (&made.plaintext, version), "older versions open");
        }
        // 48 bytes of header of one version in front of the other version's body
        let spliced = [&first.ciphertext_blob[..48], &second.ciphertext_blob[48..]].concat();
        assert_eq!(reason(&root.decrypt(&spliced, CONTEXT).await.unwrap_err()), "INVALID_CIPHERTEXT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_answer_item_by_item() {
    for root in everywhere() {
        let (key, other) = (root.key(KeySpec::SymmetricDefault).await, root.key(KeySpec::SymmetricDefault).await);
        let mac = root.key(KeySpec::Hmac256).await;
        let item = |key_id: &str, bytes| GenerateDataKeyRequest {
            key_id: key_id.into(),
            number_of_bytes: Some(bytes),
            ..Default::default()
        };
        let items = vec![
            item(&key.key_id, 1),
            item(&mac.key_id, 32),
            item(&other.key_id, 1024),
            item("00000000-0000-4000-8000-000000000000", 32),
            item(&key.key_id, 1025),
            item(&key.key_id, 32),
        ];
        let request = bearer(&root.token, BatchGenerateDataKeyRequest { items });
        let reply = root.clients.crypto.clone().batch_generate_data_key(request).await.unwrap().into_inner();
        use batch_generate_data_key_response::result::Outcome;
        let mut blobs = Vec::new();
        let outcomes: Vec<String> = reply
            .results
            .into_iter()
            .map(|result| match result.outcome.unwrap() {
                Outcome::Response(made) => {
                    blobs.push(made.ciphertext_blob);
                    format!("{} bytes", made.plaintext.len())
                }
                Outcome::Error(error) => error.reason,
            })
            .collect();
        let expected = ["1 bytes", "INVALID_KEY_USAGE", "1024 bytes", "KEY_NOT_FOUND", "INVALID_FIELD", "32 bytes"];
        assert_eq!(outcomes, expected);
        let item = |blob: &[u8]| DecryptRequest { ciphertext_blob: Bytes::copy_from_slice(blob), ..Default::default() };
        let items = vec![item(&blobs[0]), item(b"noise"), item(&blobs[1]), item(&blobs[2])];
        let request = bearer(&root.token, BatchDecryptRequest { items });
        let reply = root.clients.crypto.clone().batch_decrypt(request).await.unwrap().into_inner();
        let opened = |result: &batch_decrypt_response::Result| match result.outcome.as_ref().unwrap() {
            batch_decrypt_response::result::Outcome::Response(opened) => Ok(opened.plaintext.len()),
            batch_decrypt_response::result::Outcome::Error(error) => Err(error.reason.clone()),
        };
        let outcomes: Vec<_> = reply.results.iter().map(opened).collect();
        assert_eq!(outcomes, [Ok(1), Err("INVALID_CIPHERTEXT".into()), Ok(1024), Ok(32)]);
        for count in [0, 129] {
            let items = vec![item(&blobs[0]); count];
            let request = bearer(&root.token, BatchDecryptRequest { items });
            let status = root.clients.crypto.clone().batch_decrypt(request).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status)),
                (Code::InvalidArgument, "INVALID_FIELD".into()),
                "{count} items"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_boundary_is_unavailable_and_serves_when_it_goes_on() {
    for root in everywhere() {
        let key = root.key(KeySpec::SymmetricDefault).await;
        let made = root.data_key(&key.key_id).await;
        let boundary = root.dev.boundary().unwrap();
        boundary.stop();
        for _ in 0..2 {
            let status = root.decrypt(&made.ciphertext_blob, CONTEXT).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status)),
                (Code::Unavailable, "BOUNDARY_UNAVAILABLE".into()),
                "{status:?}"
            );
            let retry = status.get_details_retry_info().expect("it says when to come back");
            assert!(retry.retry_delay.is_some_and(|delay| !delay.is_zero()));
        }
        boundary.go_on();
        let began = Instant::now();
        while root.decrypt(&made.ciphertext_blob, CONTEXT).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(5), "{}", root.dev.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(root.dev.boundary(), Some(boundary), "neither process was started anew");
        assert_eq!(root.decrypt(&made.ciphertext_blob, CONTEXT).await.unwrap().plaintext, made.plaintext);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_the_same_keys_and_another_root_token_is_an_error() {
    for mut root in everywhere() {
        let key = root.key(KeySpec::SymmetricDefault).await;
        let made = root.data_key(&key.key_id).await;
        let child = root.token_with("reader", r#"path "kms/keys/*" { capabilities = ["read"] }"#).await;
        root.dev.set_arguments(&["--root-token", "not-the-first-one-that-was-given"]);
        let log = root.dev.start_again().unwrap_err();
        assert!(log.contains("another --root-token"), "{log}");
        root.dev.set_arguments(&[]);
        root.dev.start_again().unwrap();
        assert_eq!(root.token, root.dev.root_token());
        root.clients = root.dev.clients();
        assert_eq!(root.decrypt(&made.ciphertext_blob, CONTEXT).await.unwrap().plaintext, made.plaintext);
        let request = DescribeKeyRequest { key_id: key.key_id.clone() };
        let described = root.clients.keys.clone().describe_key(bearer(&child, request)).await.unwrap().into_inner();
        assert_eq!(described.key_metadata.unwrap(), key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_token_given_by_hand_is_the_root_token() {
    let arguments = vec!["--root-token".into(), "root-token-of-a-script".into()];
    let root = Root::of(Dev::start(DevOptions { arguments, ..DevOptions::default() }));
    assert_eq!(root.token, "root-token-of-a-script");
    root.key(KeySpec::SymmetricDefault).await;
    let told = root.dev.log().matches("root-token-of-a-script").count();
    assert_eq!(told, 1, "told once, to who started it: {}", root.dev.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_learns_nothing_more() {
    let root = Root::of(Dev::sim());
    let (mine, other) = (root.key(KeySpec::SymmetricDefault).await, root.key(KeySpec::SymmetricDefault).await);
    let policy = format!(r#"path "kms/keys/{}/encrypt" {{ capabilities = ["update"] }}"#, mine.key_id);
    let token = root.token_with("one-key", &policy).await;
    let encrypt = |key_id: &str| EncryptRequest {
        key_id: key_id.into(),
        plaintext: Bytes::from_static(b"text"),
        encryption_context: Default::default(),
    };
    let mut crypto = root.clients.crypto.clone();
    crypto.encrypt(bearer(&token, encrypt(&mine.key_id))).await.unwrap();
    let denied = crypto.encrypt(bearer(&token, encrypt(&other.key_id))).await.unwrap_err();
    let unknown = crypto.encrypt(bearer(&token, encrypt("00000000-0000-4000-8000-000000000000"))).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(
        (unknown.code(), unknown.message(), unknown.details()),
        (denied.code(), denied.message(), denied.details())
    );

    let unauthenticated = [
        crypto.encrypt(tonic::Request::new(encrypt(&mine.key_id))).await.unwrap_err(),
        crypto.encrypt(bearer("sr.not-a-token-that-anybody-has", encrypt(&mine.key_id))).await.unwrap_err(),
        crypto.encrypt(bearer("x", encrypt(&mine.key_id))).await.unwrap_err(),
    ];
    for status in &unauthenticated {
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!((status.message(), status.details()), (unauthenticated[0].message(), unauthenticated[0].details()));
    }
    root.clients.identity.clone().revoke_token(bearer(&token, RevokeTokenRequest::default())).await.unwrap();
    let began = Instant::now();
    let code = loop {
        match crypto.encrypt(bearer(&token, encrypt(&mine.key_id))).await {
            Err(status) => break status.code(),
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(2), "a revoked token still works"),
        }
    };
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_by_name() {
    let root = Root::of(Dev::sim());
    let key = root.key(KeySpec::SymmetricDefault).await;
    let mut crypto = root.clients.crypto.clone();
    let big = "x".repeat(10 << 20);
    let encrypt = |plaintext: usize, value: &str| EncryptRequest {
        key_id: key.key_id.clone(),
        plaintext: vec![1; plaintext].into(),
        encryption_context: context("k", value),
    };
    crypto.encrypt(bearer(&root.token, encrypt(4096, ""))).await.unwrap();
    for (what, request) in [
        ("an empty plaintext", encrypt(0, "")),
        ("a plaintext that is too long", encrypt(4097, "")),
        ("a context that is too long", encrypt(1, &big[..8192])),
    ] {
        let status = crypto.encrypt(bearer(&root.token, request)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "INVALID_FIELD".into()), "{what}");
    }
    let status = crypto.encrypt(bearer(&root.token, encrypt(1, &big))).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{status:?}");
    let request = CreateKeyRequest { key_spec: 99, ..Default::default() };
    let status = root.clients.keys.clone().create_key(bearer(&root.token, request)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "INVALID_FIELD".into()));
    crypto.encrypt(bearer(&root.token, encrypt(1, ""))).await.unwrap();
}

/// A peer's answer to nonsense: bytes, or the end. Never a hang.
fn nonsense(addr: std::net::SocketAddr, seed: u8, read: bool) {
    let Ok(mut stream) = TcpStream::connect(addr) else { return };
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let bytes: Vec<u8> = (0..2000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1] ^ seed).collect();
    let shapes: [&[u8]; 5] = [
        &bytes,
        // a TLS record head that promises more than comes
        b"\x16\x03\x01\x40\x00\x01\x00",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"",
    ];
    let _ = stream.write_all(shapes[usize::from(seed) % shapes.len()]);
    if read {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_port_disturbs_nobody() {
    let root = Root::of(Dev::sim());
    let key = root.key(KeySpec::SymmetricDefault).await;
    let addr = root.dev.addr();
    let server = root.dev.server();
    // some hang up, some hold their connection open half-way through a handshake
    let held: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for mut stream in held.iter().take(25) {
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    }
    let noise: Vec<_> = (0..4u8)
        .map(|thread| std::thread::spawn(move || (0..50u8).for_each(|n| nonsense(addr, thread * 50 + n, n % 2 == 0))))
        .collect();
    let mut slowest = Duration::ZERO;
    while !noise.iter().all(std::thread::JoinHandle::is_finished) {
        let began = Instant::now();
        let made = root.data_key(&key.key_id).await;
        root.decrypt(&made.ciphertext_blob, CONTEXT).await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    noise.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(slowest < Duration::from_secs(2), "the slowest pair of calls took {slowest:?}");
    drop(held);
    // a new client gets in at once
    root.dev
        .clients()
        .crypto
        .generate_random(bearer(&root.token, GenerateRandomRequest { number_of_bytes: 8 }))
        .await
        .unwrap();
    assert_eq!(root.dev.server(), server, "the server was not started anew");
}

/// `openssl dgst` or `pkeyutl` on files; true where it says that the signature is right.
fn openssl_verifies(algorithm: SigningAlgorithmSpec, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (message, signature) = (file("message", message), file("signature", signature));
    let der = file("public.der", public_key);
    let pem = dir.path().join("public.pem");
    let mut converts = Command::new("openssl");
    converts.args(["pkey", "-pubin", "-inform", "DER", "-in"]).arg(&der).arg("-out").arg(&pem);
    assert!(converts.output().unwrap().status.success(), "OpenSSL reads the public key");
    use SigningAlgorithmSpec as A;
    let mut command = Command::new("openssl");
    if algorithm == A::Ed25519Sha512 {
        command.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]).arg(&pem);
        command.arg("-in").arg(&message).arg("-sigfile").arg(&signature);
    } else {
        let (hash, padding) = match algorithm {
            A::RsassaPssSha256 => ("-sha256", "pss"),
            A::RsassaPssSha384 => ("-sha384", "pss"),
            A::RsassaPssSha512 => ("-sha512", "pss"),
            A::RsassaPkcs1V15Sha256 => ("-sha256", "pkcs1"),
            A::RsassaPkcs1V15Sha384 => ("-sha384", "pkcs1"),
            A::RsassaPkcs1V15Sha512 => ("-sha512", "pkcs1"),
            A::EcdsaSha256 => ("-sha256", ""),
            A::Ed25519Sha512 | A::Unspecified => panic!("{algorithm:?} has no digest form"),
        };
        command.args(["dgst", hash]);
        if !padding.is_empty() {
            command.args(["-sigopt", &format!("rsa_padding_mode:{padding}")]);
        }
        if padding == "pss" {
            command.args(["-sigopt", "rsa_pss_saltlen:digest"]);
        }
        command.arg("-verify").arg(&pem).arg("-signature").arg(&signature).arg(&message);
    }
    command.output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_verifies_signatures_by_the_exported_public_keys() {
    for root in everywhere() {
        let mut verified = 0;
        for spec in
            [KeySpec::EccNistP256, KeySpec::EccNistEdwards25519, KeySpec::Rsa2048, KeySpec::Rsa3072, KeySpec::Rsa4096]
        {
            let key = root.key(spec).await;
            let mut crypto = root.clients.crypto.clone();
            let request = GetPublicKeyRequest { key_id: key.key_id.clone() };
            let public = crypto.get_public_key(bearer(&root.token, request)).await.unwrap().into_inner();
            assert_eq!(public.signing_algorithms, key.signing_algorithms);
            for algorithm in key.signing_algorithms {
                let request = SignRequest {
                    key_id: key.key_id.clone(),
                    message: Bytes::from_static(b"a message"),
                    message_type: MessageType::Raw.into(),
                    signing_algorithm: algorithm,
                };
                let signed = crypto.sign(bearer(&root.token, request)).await.unwrap().into_inner();
                let spec = SigningAlgorithmSpec::try_from(algorithm).unwrap();
                assert!(openssl_verifies(spec, &public.public_key, b"a message", &signed.signature), "{spec:?}");
                assert!(!openssl_verifies(spec, &public.public_key, b"another", &signed.signature), "{spec:?}");
                for (message, valid) in [(&b"a message"[..], true), (b"another", false)] {
                    let request = VerifyRequest {
                        key_id: key.key_id.clone(),
                        message: Bytes::from_static(message),
                        message_type: MessageType::Raw.into(),
                        signature: signed.signature.clone(),
                        signing_algorithm: algorithm,
                    };
                    let reply = crypto.verify(bearer(&root.token, request)).await.unwrap().into_inner();
                    assert_eq!(reply.signature_valid, valid, "{spec:?}");
                }
                verified += 1;
            }
        }
        assert_eq!(verified, 20, "every algorithm of every spec");
    }
}
