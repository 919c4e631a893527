//! Clients that others wrote, against us: what they need is on the wire.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use proto::kms::CreateKeyRequest;
use std::process::Command;
use tests::{Dev, bearer, workspace};

/// `cargo xtask test` makes the environment.
fn python() -> Command {
    let python = workspace().join("target/python/bin/python");
    assert!(python.exists(), "{} is not there: `cargo xtask test` makes it", python.display());
    Command::new(python)
}

#[tokio::test]
async fn python_grpcio_with_reflection_makes_and_opens_data_keys() {
    for dev in [Dev::sim(), Dev::softhsm()] {
        let request = bearer(&dev.root_token(), CreateKeyRequest::default());
        let key = dev.clients().keys.create_key(request).await.unwrap().into_inner().key_metadata.unwrap();
        let output = python()
            .arg(workspace().join("tests/stock_clients/kms.py"))
            .arg(dev.addr().to_string())
            .arg(dev.ca())
            .arg(dev.data().join("root-token"))
            .arg(&key.key_id)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        assert!(said.starts_with(b"generate-data-key and decrypt: done"));
    }
}
