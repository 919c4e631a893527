//! Clients that others wrote, against us: what they need is on the wire.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::kms::CreateKeyRequest;
use std::path::PathBuf;
use std::process::Command;
use tests::{Dev, bearer, workspace};

/// What the vault's clients print at the end: how many checks they made.
const CHECKS: [&str; 3] = ["hvac 3: 78 checks done", "node-vault: 16 checks done", "openbao api: 75 checks done"];

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

#[test]
fn the_vaults_own_clients_find_their_vault() {
    let dev = Dev::sim();
    let (url, token) = (format!("https://{}", dev.addr()), dev.data().join("root-token"));
    let scripts = workspace().join("tests/stock_clients");
    let mut hvac = python();
    hvac.arg(scripts.join("vault.py")).arg(&url).arg(dev.ca()).arg(&token);
    let modules = workspace().join("target/node/node_modules");
    assert!(modules.join("node-vault").exists(), "node-vault is not there: `cargo xtask test` installs it");
    let mut node = Command::new("node");
    node.arg(scripts.join("vault.js")).arg(&url).arg(&token);
    node.env("NODE_PATH", modules).env("NODE_EXTRA_CA_CERTS", dev.ca());
    let mut openbao = Command::new(openbao());
    openbao.arg(&url).arg(dev.ca()).arg(&token);
    for (mut client, done) in [hvac, node, openbao].into_iter().zip(CHECKS) {
        let output = client.output().unwrap_or_else(|error| panic!("{client:?}: {error}"));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.contains(done), "wanted: {done}\n{said}");
    }
}

/// The modules come from Go's proxy and are checked against `go.sum`.
fn openbao() -> PathBuf {
    let program = workspace().join("target/vault_go");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".");
    let output = go.current_dir(workspace().join("tests/stock_clients/vault_go")).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs Go 1.26: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn the_vaults_own_client_finds_its_namespaces() {
    let dev = Dev::sim();
    let (url, token) = (format!("https://{}", dev.addr()), dev.data().join("root-token"));
    let mut hvac = python();
    hvac.arg(workspace().join("tests/stock_clients/namespaces.py")).arg(&url).arg(dev.ca()).arg(&token);
    let output = hvac.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("hvac in namespaces: 37 checks done"), "{said}");
}
