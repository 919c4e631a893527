//! What the server's authorities certify, judged by OpenSSL and by Go; logins by certificates and SVIDs, beside go-spiffe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tests::{Dev, DevOptions, workspace};

/// Built once: the modules come from Go's proxy and are checked against `go.sum`.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = workspace().join("target/x509_go");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".").current_dir(workspace().join("tests/x509_go"));
    let output = go.output().unwrap_or_else(|error| panic!("this test needs Go 1.26: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
});

fn dev() -> Dev {
    let arguments = vec!["--any-client-certificate".to_owned()];
    Dev::start(DevOptions { arguments, ..DevOptions::default() })
}

/// What Go says last: how many checks it made.
fn go(dev: &Dev, arguments: &[&Path], done: &str) {
    let mut program = Command::new(&*PROGRAM);
    let what = arguments.first().unwrap();
    program.arg(what).arg(format!("https://{}", dev.addr())).arg(dev.ca()).arg(dev.data().join("root-token"));
    let output = program.args(arguments.iter().skip(1)).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains(done), "wanted: {done}\n{said}");
}

/// Its status, and all that it said.
fn openssl(dir: &Path, arguments: &str) -> (bool, String) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn chains_constraints_and_lists_are_what_openssl_and_go_expect() {
    let dev = dev();
    let dir = tempfile::tempdir().unwrap();
    go(&dev, &[Path::new("pki"), dir.path()], "go: 43 checks done");
    let chain = "-CAfile root.pem -untrusted sub.pem -x509_strict";
    let revoked = "-crl_check_all -CRLfile lists.pem";
    for (arguments, sound, says) in [
        (format!("verify {chain} -purpose sslserver web.example.com.pem"), true, "OK"),
        (format!("verify {chain} -purpose sslclient web.example.com.pem"), true, "OK"),
        (format!("verify {chain} {revoked} revoked.example.com.pem"), false, "certificate revoked"),
        (format!("verify {chain} -verify_hostname web.example.com web.example.com.pem"), true, "OK"),
        (format!("verify {chain} -verify_hostname other.test web.example.com.pem"), false, "hostname mismatch"),
        (format!("verify {chain} -verify_ip 127.0.0.1 web.example.com.pem"), true, "OK"),
        (format!("verify {chain} evil.test.pem"), false, "permitted subtree violation"),
        (format!("verify {chain} a.secret.example.com.pem"), false, "excluded subtree violation"),
        ("verify -CAfile root.pem web.example.com.pem".to_owned(), false, "unable to get local issuer"),
        ("verify -CAfile root.pem -x509_strict root.pem".to_owned(), true, "OK"),
        ("verify -CAfile root.pem -crl_check -CRLfile lists.pem sub.pem".to_owned(), true, "OK"),
        ("crl -in lists.pem -noout -CAfile sub.pem -verify".to_owned(), true, "verify OK"),
        ("crl -in lists.pem -noout -CAfile root.pem -verify".to_owned(), false, ""),
        ("pkey -in web.example.com.key -check -noout".to_owned(), true, "Key is valid"),
    ] {
        let (success, said) = openssl(dir.path(), &arguments);
        assert!(success == sound && said.contains(says), "openssl {arguments}\n{said}");
    }
    // key and certificate belong together
    let (sound, key) = openssl(dir.path(), "pkey -in web.example.com.key -pubout");
    assert_eq!(openssl(dir.path(), "x509 -in web.example.com.pem -noout -pubkey"), (true, key.clone()));
    assert!(sound, "{key}");
    // web.example.com was revoked by its certificate, after the lists were written
    let (success, said) = openssl(dir.path(), &format!("verify {chain} {revoked} web.example.com.pem"));
    assert!(success && said.contains("OK"), "{said}");
}

#[test]
fn go_spiffe_and_the_server_believe_the_same_svids() {
    go(&dev(), &[Path::new("spiffe")], "go: 28 checks done");
}
