//! What the server's authorities certify, judged by OpenSSL and by Go; logins by certificates and SVIDs, beside go-spiffe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tests::{Dev, DevOptions, binary, workspace};

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

/// `strongroom …`, and its answer's data or `auth`; or what it said.
fn strongroom(dev: &Dev, arguments: &[&str]) -> Result<serde_json::Value, String> {
    let mut command = Command::new(binary("strongroom"));
    command.args(arguments).env("STRONGROOM_ADDR", format!("https://{}", dev.addr()));
    command.env("STRONGROOM_CACERT", dev.ca()).env("STRONGROOM_TOKEN", dev.root_token());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| text(output.stdout).trim().into())),
        false => Err(text(output.stderr)),
    }
}

#[test]
fn what_its_own_authority_issues_logs_in_at_the_command_line() {
    let (dev, dir) = (dev(), tempfile::tempdir().unwrap());
    let done = |line: &str| {
        let arguments: Vec<_> = line.split(' ').chain(["--output", "json"]).collect();
        strongroom(&dev, &arguments).unwrap_or_else(|said| panic!("{line}: {said}"))
    };
    let file = |name: &str| dir.path().join(name).display().to_string();
    done("write sys/mounts/pki type=pki");
    let root = done("write pki/root/generate/internal common_name=Root ttl=24h");
    std::fs::write(file("root.pem"), root["certificate"].as_str().unwrap()).unwrap();
    let uri = "spiffe://example.org/ns/shop/sa/web";
    done(&format!("write pki/roles/web allowed_domains=example.com allow_subdomains=true allowed_uri_sans={uri}"));
    let issued = done(&format!("write pki/issue/web common_name=web.example.com uri_sans={uri} ttl=1h"));
    let text = |name: &str| issued[name].as_str().unwrap();
    std::fs::write(file("web.pem"), format!("{}\n{}\n", text("certificate"), text("private_key"))).unwrap();
    done("write sys/auth/cert type=cert");
    done(&format!("write auth/cert/certs/web certificate=@{} token_policies=app", file("root.pem")));
    done("write sys/auth/spiffe type=spiffe");
    done(&format!("write auth/spiffe/config trust_domain=example.org bundle=@{}", file("root.pem")));
    done("write auth/spiffe/role/web workload_id_patterns=/ns/shop/sa/* token_policies=app");
    let own = file("web.pem");
    let shown = ["--client-cert", &own, "--client-key", &own];
    let sink = file("token");
    let read = |shown: &[&str]| {
        let all = [&["read", "--output", "json", "--token-file", &sink], shown, &["auth/token/lookup-self"]].concat();
        let mut command = Command::new(binary("strongroom"));
        command.args(all).env("STRONGROOM_ADDR", format!("https://{}", dev.addr()));
        let output = command.env("STRONGROOM_CACERT", dev.ca()).env_remove("STRONGROOM_TOKEN").output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    for (method, others) in [("cert", vec![]), ("cert", vec!["--role", "web"]), ("spiffe", vec!["--role", "web"])] {
        let login = |shown: &[&str]| strongroom(&dev, &[&["login", "--print"], shown, &[method], &others].concat());
        let token = login(&shown).unwrap_or_else(|said| panic!("{method}: {said}"));
        std::fs::write(&sink, token.as_str().unwrap()).unwrap();
        std::fs::set_permissions(&sink, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let (success, looked) = read(&shown);
        assert!(success && looked.contains("\"app\""), "{method}: {looked}");
        // it counts beside the certificate alone
        assert!(!read(&[]).0, "{method}");
        assert!(login(&[]).is_err(), "{method}");
    }
    for method in ["cert", "spiffe"] {
        let (url, ca, config) = (format!("https://{}", dev.addr()), dev.ca().display().to_string(), file("agent.toml"));
        let text = format!(
            "log_out = false\n[server]\naddress = \"{url}\"\nca = \"{ca}\"\nclient_certificate = \"{own}\"\n\
             client_key = \"{own}\"\n[login]\nmethod = \"{method}\"\nrole = \"web\"\n[[sink]]\nfile = \"{sink}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        std::fs::remove_file(&sink).unwrap();
        let agent = Command::new(binary("strongroom")).args(["agent", "--once", "--config", &config]).output().unwrap();
        assert!(agent.status.success(), "{method}: {}", String::from_utf8_lossy(&agent.stderr));
        let (success, looked) = read(&shown);
        assert!(success && looked.contains("\"app\""), "{method}: {looked}");
    }
}
