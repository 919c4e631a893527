//! A data folder that an older version left opens, and what its keys made is still good.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use bytes::Bytes;
use proto::kms::{
    DecryptRequest, DescribeKeyRequest, KeyState, MacAlgorithmSpec, MessageType, SigningAlgorithmSpec,
    VerifyMacRequest, VerifyRequest,
};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::{Dev, DevOptions, bearer, binary, context, workspace};

const PLAINTEXT: &[u8] = b"a plaintext of version 1";

fn golden() -> PathBuf {
    workspace().join("tests/golden/v1")
}

fn file(name: &str) -> Bytes {
    fs::read(golden().join(name)).unwrap().into()
}

/// git keeps no permission bits but one; the programs insist on theirs.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_folder_of_version_1_opens_and_its_keys_do_what_they_did() {
    let mut dev = Dev::prepare(DevOptions::default());
    copy(&golden().join("data"), &dev.data());
    dev.start_again().unwrap();
    let (clients, token) = (dev.clients(), dev.root_token());
    assert_eq!(token, "golden-root-token-of-version-1");

    let request = DescribeKeyRequest { key_id: "alias/golden".into() };
    let key = clients.keys.clone().describe_key(bearer(&token, request)).await.unwrap().into_inner();
    let key = key.key_metadata.unwrap();
    assert_eq!((key.key_state(), key.current_key_version, key.description.as_str()), (KeyState::Enabled, 2, "golden"));

    let mut crypto = clients.crypto.clone();
    let request = DecryptRequest {
        ciphertext_blob: file("blob"),
        encryption_context: context("made-by", "1"),
        key_id: String::new(),
    };
    let opened = crypto.decrypt(bearer(&token, request)).await.unwrap().into_inner();
    assert_eq!((&opened.plaintext[..], opened.key_version), (PLAINTEXT, 1));

    let request = VerifyMacRequest {
        key_id: "alias/mac".into(),
        message: PLAINTEXT.into(),
        mac_algorithm: MacAlgorithmSpec::HmacSha256.into(),
        mac: file("mac"),
    };
    assert!(crypto.verify_mac(bearer(&token, request)).await.unwrap().into_inner().mac_valid);
    let request = VerifyRequest {
        key_id: "alias/sign".into(),
        message: PLAINTEXT.into(),
        message_type: MessageType::Raw.into(),
        signature: file("signature"),
        signing_algorithm: SigningAlgorithmSpec::EcdsaSha256.into(),
    };
    assert!(crypto.verify(bearer(&token, request)).await.unwrap().into_inner().signature_valid);
    decrypt_file(&dev);
}

fn decrypt_file(dev: &Dev) {
    let opened = dev.folder().join("opened");
    let output = Command::new(binary("strongroom"))
        .args(["kms", "decrypt-file", "--context", "made-by=1"])
        .arg(golden().join("plain.sr"))
        .arg("--out")
        .arg(&opened)
        .arg("--token-file")
        .arg(dev.data().join("root-token"))
        .env("STRONGROOM_ADDR", format!("https://{}", dev.addr()))
        .env("STRONGROOM_CACERT", dev.ca())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(opened).unwrap(), PLAINTEXT);
}
