//! The command line against a real server and a real boundary: every command, in both formats; files; refusals; signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use clap::CommandFactory as _;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");

fn hsm_sim() -> PathBuf {
    let path = Path::new(STRONGROOM).with_file_name("hsm-sim");
    assert!(path.exists(), "{} is not there: `cargo build --workspace --bins` makes it", path.display());
    path
}

/// A process that ends with us.
struct Process(Child);

impl Process {
    /// Starts it and waits for the line that says `ready`.
    fn start(command: &mut Command) -> (Self, String) {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut process = Self(child);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = line.trim().strip_prefix("ready").unwrap_or_else(|| panic!("it said `{line}`")).trim().to_owned();
        (process, ready)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `strongroom dev` on a folder of its own, and a folder to work in.
struct Rig {
    /// Ends with the rig.
    dev: Process,
    addr: String,
    data: PathBuf,
    work: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        hsm_sim();
        let folder = tempfile::tempdir().unwrap();
        let (data, work) = (folder.path().join("data"), folder.path().join("work"));
        std::fs::create_dir(&work).unwrap();
        let mut command = Command::new(STRONGROOM);
        command.args(["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).env("STRONGROOM_LOG", "warn");
        let (dev, addr) = Process::start(&mut command);
        Self { dev, addr, data, work, _folder: folder }
    }

    /// A command with nothing of this process's environment but what a user would set.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(STRONGROOM);
        command.args(words).current_dir(&self.work).env_clear().env("HOME", &self.work);
        command.env("STRONGROOM_ADDR", format!("https://{}", self.addr));
        command.env("STRONGROOM_CACERT", self.data.join("tls/ca.pem"));
        command.env("STRONGROOM_TOKEN", std::fs::read_to_string(self.data.join("root-token")).unwrap());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.work).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

struct Said {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

fn run(command: &mut Command, input: &[u8]) -> Said {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().unwrap();
    // written beside reading, or both sides wait for room in full pipes
    let output = std::thread::scope(|scope| {
        // it may end without reading
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    Said {
        code: output.status.code().expect("it ends by itself"),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Commands in one format, and which they were.
struct Session<'a> {
    rig: &'a Rig,
    format: &'static str,
    ran: BTreeSet<String>,
}

impl Session<'_> {
    fn run(&mut self, line: &str, input: &[u8]) -> Said {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.ran.insert(path_of(&words));
        run(self.rig.command(&words).args(["--output", self.format]), input)
    }

    fn ok(&mut self, line: &str) -> Fields {
        self.ok_with(line, b"")
    }

    fn ok_with(&mut self, line: &str, input: &[u8]) -> Fields {
        let said = self.run(line, input);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{line}");
        Fields { format: self.format, text: String::from_utf8(said.stdout).unwrap() }
    }

    /// Exit 1, and an answer all the same.
    fn no(&mut self, line: &str, input: &[u8]) -> Fields {
        let said = self.run(line, input);
        assert_eq!((said.code, said.stderr.as_str()), (1, ""), "{line}");
        Fields { format: self.format, text: String::from_utf8(said.stdout).unwrap() }
    }

    fn refused(&mut self, line: &str, reason: &str) {
        let said = self.run(line, b"");
        assert_eq!((said.code, said.stdout.as_slice()), (1, &b""[..]), "{line}");
        match self.format {
            "json" => {
                let error: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
                let told = error["error"]["reason"].as_str().or(error["error"]["code"].as_str());
                assert_eq!(told, Some(reason), "{line}");
                assert!(error["error"]["advice"].is_string(), "{line}: {error}");
            }
            _ => {
                assert!(said.stderr.contains(reason) && said.stderr.contains("hint:"), "{line}: {}", said.stderr);
            }
        }
    }
}

/// An answer's text, and its fields by name in either format.
struct Fields {
    format: &'static str,
    text: String,
}

impl Fields {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn get(&self, name: &str) -> String {
        if self.format == "json" {
            let value = name.split('.').fold(self.json(), |value, name| value[name].clone());
            return value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        }
        let line = self.text.lines().find(|line| line.split_whitespace().next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no field {name}: {}", self.text));
        line[name.len()..].trim().to_owned()
    }

    /// How often `what` stands there.
    fn count(&self, what: &str) -> usize {
        self.text.matches(what).count()
    }
}

/// The words that name a command.
fn path_of(words: &[&str]) -> String {
    let root = strongroom::cli::Cli::command();
    let mut here = &root;
    let mut path = Vec::new();
    for word in words {
        match here.find_subcommand(word) {
            Some(inner) => (here, path) = (inner, [path, vec![*word]].concat()),
            None => break,
        }
    }
    path.join(" ")
}

fn all_paths() -> BTreeSet<String> {
    fn walk(command: &clap::Command, path: &str, out: &mut BTreeSet<String>) {
        let mut inner = command.get_subcommands().filter(|inner| inner.get_name() != "help").peekable();
        if inner.peek().is_none() {
            out.insert(path.to_owned());
        }
        inner.for_each(|inner| walk(inner, format!("{path} {}", inner.get_name()).trim(), out));
    }
    let mut out = BTreeSet::new();
    walk(&strongroom::cli::Cli::command(), "", &mut out);
    out
}

#[test]
fn every_command_answers_in_both_formats() {
    let rig = Rig::start();
    for format in ["table", "json"] {
        let mut session = Session { rig: &rig, format, ran: BTreeSet::new() };
        keys(&mut session);
        data(&mut session);
        signatures(&mut session);
        grants(&mut session);
        tokens_and_policies(&mut session);
        certificate_roles(&mut session);
        secrets(&mut session);
        namespaces(&mut session);
        operator(&mut session);
        officers_and_leases(&mut session);
        boundary(&mut session);
        let mut expected = all_paths();
        // these do not talk to a server, and print no answer: `dev` runs this test, the others have their own
        for command in ["dev", "server", "demo postgres", "agent", "kms-plugin"] {
            assert!(expected.remove(command), "{command}");
        }
        // these have a test of their own, with real logins: tests/agent.rs
        expected.retain(|command| !command.starts_with("login "));
        // these ask no server either: tests/audit.rs
        expected.retain(|command| !command.starts_with("audit "));
        for command in ELSEWHERE {
            assert!(expected.remove(command), "{command}");
        }
        assert_eq!(session.ran, expected, "{format}");
    }
}

fn keys(session: &mut Session<'_>) {
    let f = session.format;
    let made = session.ok(&format!("kms create-key --description invoices --client-request-id {f}-1"));
    let key = made.get("key_id");
    assert_eq!((made.get("key_state"), made.get("description")), ("ENABLED".into(), "invoices".into()));
    let again = session.ok(&format!("kms create-key --description invoices --client-request-id {f}-1"));
    assert_eq!(again.get("key_id"), key);
    assert_eq!(session.ok(&format!("kms describe-key --key-id {key}")).get("key_spec"), "SYMMETRIC_DEFAULT");
    assert_eq!(session.ok("kms list-keys").count(&key), 1);
    let page = session.ok("kms list-keys --limit 1");
    assert!(f != "json" || page.json()["keys"].as_array().unwrap().len() == 1);

    session.ok(&format!("kms disable-key --key-id {key}"));
    session.refused(&format!("kms encrypt --key-id {key} --plaintext-file /etc/hostname"), "KEY_DISABLED");
    session.ok(&format!("kms enable-key --key-id {key}"));
    let scheduled = session.ok(&format!("kms schedule-key-deletion --key-id {key} --pending-window-in-days 7"));
    assert_eq!(scheduled.get("key_state"), "PENDING_DELETION");
    let told = session.ok(&format!("kms describe-key --key-id {key}"));
    assert_eq!(told.get("deletion_date"), scheduled.get("deletion_date"));
    session.ok(&format!("kms cancel-key-deletion --key-id {key}"));
    session.ok(&format!("kms enable-key --key-id {key}"));
    assert_eq!(session.ok(&format!("kms rotate-key --key-id {key}")).get("key_version"), "2");

    let other = session.ok("kms create-key").get("key_id");
    let alias = format!("alias/{f}");
    session.ok(&format!("kms create-alias --alias-name {alias} --target-key-id {key}"));
    session.refused(&format!("kms create-alias --alias-name {alias} --target-key-id {key}"), "ALIAS_EXISTS");
    assert_eq!(session.ok(&format!("kms list-aliases --key-id {key}")).count(&alias), 1);
    session.ok(&format!("kms update-alias --alias-name {alias} --target-key-id {other}"));
    assert_eq!(session.ok(&format!("kms describe-key --key-id {alias}")).get("key_id"), other);
    session.ok(&format!("kms delete-alias --alias-name {alias}"));
    session.refused(&format!("kms describe-key --key-id {alias}"), "ALIAS_NOT_FOUND");
    session.refused("kms describe-key --key-id 00000000-0000-4000-8000-000000000000", "KEY_NOT_FOUND");
    session.refused("kms list-keys --limit 5000", "INVALID_FIELD");
}

fn data(session: &mut Session<'_>) {
    let f = session.format;
    let key = session.ok("kms create-key").get("key_id");
    let bound = "--context tenant=blue --context n=1";

    let shown = session.ok(&format!("kms generate-data-key --key-id {key} {bound} --show-plaintext"));
    let blob = shown.get("ciphertext_blob");
    let opened = session.ok(&format!("kms decrypt --ciphertext-blob {blob} {bound} --show-plaintext"));
    assert_eq!((opened.get("plaintext"), opened.get("key_id")), (shown.get("plaintext"), key.clone()));
    session.refused(&format!("kms decrypt --ciphertext-blob {blob} --show-plaintext"), "INVALID_CIPHERTEXT");
    let files = format!("--plaintext-out {f}.key --ciphertext-out {f}.key.sealed");
    let written = session.ok(&format!("kms generate-data-key --key-id {key} --number-of-bytes 24 {files}"));
    assert_eq!(written.count("\"plaintext\"") + written.count("plaintext "), 0, "{}", written.text);
    let plaintext = std::fs::read(session.rig.file(&format!("{f}.key"))).unwrap();
    assert_eq!(plaintext.len(), 24);
    assert_eq!(mode(&session.rig.file(&format!("{f}.key"))), 0o600);
    let raw = session.run(&format!("kms decrypt --ciphertext-file {f}.key.sealed --out -"), b"");
    assert_eq!((raw.code, raw.stdout), (0, plaintext));

    let sealed = session.ok(&format!("kms generate-data-key-without-plaintext --key-id {key} --key-spec AES_128"));
    let blob = sealed.get("ciphertext_blob");
    let opened = session.ok(&format!("kms decrypt --ciphertext-blob {blob} --key-id {key} --out {f}.16"));
    assert_eq!((opened.get("out"), opened.get("key_version")), (format!("{f}.16"), "1".into()));
    assert_eq!(std::fs::read(session.rig.file(&format!("{f}.16"))).unwrap().len(), 16);
    let refused = session.run(&format!("kms decrypt --ciphertext-blob {blob} --out {f}.16"), b"");
    assert!(refused.code == 1 && refused.stderr.contains("--force"), "{}", refused.stderr);

    let encrypted = session.ok_with(&format!("kms encrypt --key-id {key} {bound} --plaintext-file -"), b"pass\nword");
    let moved = session.ok(&format!(
        "kms re-encrypt --ciphertext-blob {} --source-context tenant=blue --source-context n=1 --destination-key-id {key} \
         --destination-context tenant=red",
        encrypted.get("ciphertext_blob")
    ));
    let again = format!("kms decrypt --ciphertext-blob {} --context tenant=red --out -", moved.get("ciphertext_blob"));
    assert_eq!(session.run(&again, b"").stdout, b"pass\nword");
    let long = session.run(&format!("kms encrypt --key-id {key} --plaintext-file -"), &[b'x'; 4097]);
    assert!(long.code == 2 && long.stderr.contains("encrypt-file"), "{}", long.stderr);

    assert_eq!(session.ok("kms generate-random --number-of-bytes 33 --show-plaintext").get("plaintext").len(), 44);
    session.ok(&format!("kms generate-random --number-of-bytes 33 --out {f}.random"));
    assert_eq!(std::fs::read(session.rig.file(&format!("{f}.random"))).unwrap().len(), 33);

    std::fs::write(session.rig.file(&format!("{f}.txt")), "a file").unwrap();
    let made = session.ok(&format!("kms encrypt-file --key-id {key} {bound} {f}.txt"));
    assert_eq!((made.get("out"), made.get("plaintext_bytes")), (format!("{f}.txt.sr"), "6".into()));
    session.ok(&format!("kms decrypt-file {bound} {f}.txt.sr --out {f}.again"));
    assert_eq!(std::fs::read(session.rig.file(&format!("{f}.again"))).unwrap(), b"a file");
}

fn signatures(session: &mut Session<'_>) {
    let f = session.format;
    let key = session.ok("kms create-key --key-spec ECC_NIST_P256").get("key_id");
    let algorithm = "--signing-algorithm ECDSA_SHA_256 --message-file -";
    let signed = session.ok_with(&format!("kms sign --key-id {key} {algorithm}"), b"message");
    let verify = format!("kms verify --key-id {key} {algorithm} --signature {}", signed.get("signature"));
    assert_eq!(session.ok_with(&verify, b"message").get("signature_valid"), "true");
    assert_eq!(session.no(&verify, b"massage").get("signature_valid"), "false");
    let public = session.ok(&format!("kms get-public-key --key-id {key}"));
    let pem = if f == "json" { public.get("public_key_pem") } else { public.text.clone() };
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{pem}");
    session.ok(&format!("kms get-public-key --key-id {key} --format der --out {f}.der"));
    // SubjectPublicKeyInfo of a P-256 key (RFC 5480): 26 bytes before the point of 65
    assert_eq!(std::fs::read(session.rig.file(&format!("{f}.der"))).unwrap().len(), 91);

    let key = session.ok("kms create-key --key-spec HMAC_256").get("key_id");
    let made = session.ok_with(&format!("kms generate-mac --key-id {key} --message-file -"), b"message");
    let verify = format!("kms verify-mac --key-id {key} --message-file - --mac {}", made.get("mac"));
    assert_eq!(session.ok_with(&verify, b"message").get("mac_valid"), "true");
    assert_eq!(session.no(&verify, b"massage").get("mac_valid"), "false");
    session.refused(&format!("kms encrypt --key-id {key} --plaintext-file /etc/hostname"), "INVALID_KEY_USAGE");
}

fn grants(session: &mut Session<'_>) {
    let key = session.ok("kms create-key").get("key_id");
    let token = session.ok("token create --policy default --show-token");
    let grantee = format!("token/{}", token.get("accessor"));
    let grant = session.ok(&format!(
        "kms create-grant --key-id {key} --grantee-principal {grantee} --operations ENCRYPT,DECRYPT \
         --retiring-principal {grantee} --context-subset tenant=blue --expires-in 1h --name g"
    ));
    let grant = grant.get("grant_id");
    let listed = session.ok(&format!("kms list-grants --key-id {key} --grantee-principal {grantee}"));
    assert_eq!((listed.count(&grant), listed.count("DECRYPT"), listed.count("blue")), (1, 1, 1), "{}", listed.text);
    let mut as_grantee = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        session.ran.insert(path_of(&words));
        run(session.rig.command(&words).env("STRONGROOM_TOKEN", token.get("token")), b"text")
    };
    let encrypt = format!("kms encrypt --key-id {key} --plaintext-file -");
    assert_eq!(as_grantee(&format!("{encrypt} --context tenant=blue")).code, 0);
    let refused = as_grantee(&encrypt);
    assert!(refused.code == 1 && refused.stderr.contains("PERMISSION_DENIED"), "{}", refused.stderr);
    assert_eq!(as_grantee(&format!("kms retire-grant --key-id {key} --grant-id {grant}")).code, 0);
    assert_eq!(as_grantee(&format!("{encrypt} --context tenant=blue")).code, 1);
    let grant =
        session.ok(&format!("kms create-grant --key-id {key} --grantee-principal {grantee} --operations DECRYPT"));
    session.ok(&format!("kms revoke-grant --key-id {key} --grant-id {}", grant.get("grant_id")));
    session
        .refused(&format!("kms revoke-grant --key-id {key} --grant-id {}", grant.get("grant_id")), "GRANT_NOT_FOUND");
}

fn secrets(session: &mut Session<'_>) {
    let f = session.format;
    let name = format!("secret/app/{f}");
    let put = |session: &mut Session<'_>, rest: &str, input: &[u8]| {
        session.ok_with(&format!("kv put {name} {rest}"), input).get("version")
    };
    assert_eq!(put(session, "-", b"{\"user\": \"me\", \"pw\": \"one\"}"), "1");
    assert_eq!(session.ok(&format!("kv get {name}")).get("data.pw"), "one");
    assert_eq!(put(session, "pw=- --label pending --cas 1", b"two"), "2");
    let field = session.run(&format!("kv get {name} --label pending --field pw"), b"");
    assert_eq!((field.code, field.stdout.as_slice()), (0, &b"two\n"[..]));
    let said = session.run(&format!("kv put {name} pw=in-the-clear"), b"");
    assert!(said.code == 2 && said.stderr.contains("pw=@FILE") && !said.stderr.contains("in-the-clear"));
    assert_eq!(session.ok(&format!("kv promote {name}")).get("current_version"), "2");
    session.ok_with(&format!("kv patch {name} more=-"), b"x");
    assert_eq!(session.ok(&format!("kv metadata {name}")).get("versions.3.destroyed"), "false");
    assert_eq!(session.ok("kv list secret/app").count(f), 1);
    session.ok(&format!("kv delete {name} --versions 1,3"));
    session.ok(&format!("kv undelete {name} --versions 3"));
    session.ok(&format!("kv destroy {name} --versions 1"));
    session.refused(&format!("kv get {name} --version 1"), "NOT_FOUND");

    session.ok(&format!("write sys/mounts/old-{f} type=kv"));
    session.ok_with(&format!("write old-{f}/a pw=-"), b"three");
    assert_eq!(session.ok(&format!("read old-{f}/a")).get("pw"), "three");
    assert_eq!(session.ok(&format!("list old-{f}")).count("a"), 1);
    session.ok(&format!("delete old-{f}/a"));

    let wrapped = session.ok(&format!("read --wrap-ttl 1m secret/data/app/{f}")).get("token");
    let file = session.rig.file(&format!("{f}.wrapped"));
    std::fs::write(&file, wrapped).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let unwrap =
        |session: &mut Session<'_>, rest: &str| session.run(&format!("unwrap --token-file {f}.wrapped {rest}"), b"");
    let other = unwrap(session, "--expect-path auth/approle/role/web/secret-id");
    assert!(other.code == 1 && other.stderr.contains("somebody may have unwrapped it"), "{}", other.stderr);
    let fetched = unwrap(session, &format!("--expect-path secret/data/app/{f}"));
    assert!(fetched.code == 0 && String::from_utf8_lossy(&fetched.stdout).contains("two"), "{}", fetched.stderr);
    assert_eq!(unwrap(session, "").code, 1, "it is fetched once");
    session.ok(&format!("kv purge {name}"));
}

fn namespaces(session: &mut Session<'_>) {
    let f = session.format;
    assert_eq!(
        session.ok(&format!("namespace create {f} --custom-metadata owner=ann")).get("custom_metadata.owner"),
        "ann"
    );
    assert_eq!(session.ok(&format!("namespace create {f}/below")).get("path"), format!("{f}/below/"));
    assert_eq!(session.ok("namespace list --recursive").count("below/.path"), usize::from(f == "table"));
    assert_eq!(session.ok(&format!("namespace list --namespace {f}")).count(&format!("{f}/below/")), 1);
    session.ok(&format!("write --namespace {f}/below sys/mounts/kv type=kv"));
    session.ok_with(&format!("write --namespace {f}/below kv/a pw=-"), b"four");
    assert_eq!(session.ok(&format!("read {f}/below/kv/a")).get("pw"), "four");
    session.refused("read kv/a", "NOT_FOUND");
    let above = session.run(&format!("namespace delete {f}"), b"");
    assert!(above.code == 1 && above.stderr.contains("namespaces below it"), "{}", above.stderr);
    let native = session.run(&format!("policy list --namespace {f}"), b"");
    assert!(native.code == 2 && native.stderr.contains("root alone"), "{}", native.stderr);
    session.ok(&format!("namespace delete {f}/below"));
    session.refused(&format!("namespace read {f}/below"), "NOT_FOUND");
    session.ok(&format!("namespace delete {f}"));
    assert_eq!(session.run("namespace create a?b", b"").code, 2);
}

fn tokens_and_policies(session: &mut Session<'_>) {
    let f = session.format;
    let policy = b"path \"kms/random\" { capabilities = [\"update\"] }\n";
    session.ok_with(&format!("policy write {f} -"), policy);
    let read = session.ok(&format!("policy read {f}"));
    assert_eq!(if f == "json" { read.get("policy") } else { read.text.clone() }, String::from_utf8_lossy(policy));
    assert!(session.ok("policy list").count(f) >= 1);

    let made = session
        .ok(&format!("token create --policy {f} --ttl 10m --renewable --display-name {f} --token-out {f}.token"));
    assert_eq!(mode(&session.rig.file(&format!("{f}.token"))), 0o600);
    assert_eq!(made.count("sr."), 0, "{}", made.text);
    let with_it = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let token_file = format!("{f}.token");
        run(session.rig.command(&words).env_remove("STRONGROOM_TOKEN").args(["--token-file", &token_file]), b"")
    };
    assert_eq!(with_it("kms generate-random --number-of-bytes 8 --show-plaintext").code, 0);
    assert!(with_it("kms list-keys").stderr.contains("PERMISSION_DENIED"));
    let own = with_it("token lookup");
    assert_eq!((own.code, String::from_utf8_lossy(&own.stdout).contains(&made.get("accessor"))), (0, true));
    let found = session.ok(&format!("token lookup --accessor {}", made.get("accessor")));
    assert_eq!((found.get("display_name"), found.get("orphan")), (f.to_owned(), "false".into()));
    let renewed = session.ok(&format!("token renew --accessor {} --increment 1h", made.get("accessor")));
    assert_eq!(renewed.get("renewable"), "true");
    assert_ne!(renewed.get("expiration_date"), made.get("expiration_date"));
    assert!(with_it("token renew --self").stderr.contains("PERMISSION_DENIED"), "without the policy `default`");
    session.ok(&format!("token revoke --accessor {}", made.get("accessor")));
    let dead = with_it("token lookup");
    assert!(dead.code == 1 && dead.stderr.contains("UNAUTHENTICATED"), "{}", dead.stderr);
    assert_eq!(session.run("token revoke --accessor=", b"").code, 2);
    assert_eq!(session.run("token renew --accessor= --increment 1h", b"").code, 2);
    assert_eq!(session.run("token renew --self --increment 0s", b"").code, 2);

    let line = session.run(&format!("token create --policy {f} --num-uses 2 --token-out -"), b"");
    let token = String::from_utf8(line.stdout).unwrap();
    assert!(token.starts_with("sr.") && token.ends_with('\n'), "one line");
    std::fs::write(session.rig.file(".strongroom-token"), token).unwrap();
    let home = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        run(session.rig.command(&words).env_remove("STRONGROOM_TOKEN"), b"")
    };
    let open = home("token lookup");
    assert!(open.code == 1 && open.stderr.contains("chmod 600"), "{}", open.stderr);
    std::fs::set_permissions(session.rig.file(".strongroom-token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!([home("token lookup").code, home("token revoke --self").code, home("token lookup").code], [0, 0, 1]);
    std::fs::remove_file(session.rig.file(".strongroom-token")).unwrap();

    session.ok(&format!("policy delete {f}"));
    session.refused(&format!("policy read {f}"), "POLICY_NOT_FOUND");
}

fn certificate_roles(session: &mut Session<'_>) {
    let f = session.format;
    let ca = session.rig.data.join("tls/ca.pem");
    session.ok(&format!("auth cert write {f}-a --policy default --certificate {}", ca.display()));
    session.ok(&format!("auth cert write {f}-b --policy default --policy p2 --common-name {f}.example"));
    let listed = session.ok("auth cert list");
    assert_eq!((listed.count(&format!("{f}-a")), listed.count(&format!("{f}.example"))), (1, 1), "{}", listed.text);
    session.ok(&format!("auth cert delete {f}-a"));
    session.refused(&format!("auth cert delete {f}-a"), "ROLE_NOT_FOUND");
    session.ok(&format!("auth cert delete {f}-b"));
}

fn operator(session: &mut Session<'_>) {
    let f = session.format;
    let status = session.ok("operator status");
    assert_eq!((status.get("boundary.state"), status.get("boundary.module")), ("OPERATIONAL".into(), "hsm-sim".into()));
    let made = session.ok(&format!("operator backup --out {f}.backup"));
    let bytes = std::fs::metadata(session.rig.file(&format!("{f}.backup"))).unwrap().len();
    assert_eq!((made.get("bytes"), mode(&session.rig.file(&format!("{f}.backup")))), (bytes.to_string(), 0o600));
    let restored = session.ok(&format!("operator restore --from {f}.backup --data-dir {f}.restored"));
    assert_eq!(restored.get("revision"), made.get("revision"));
    let again = session.run(&format!("operator restore --from {f}.backup --data-dir {f}.restored"), b"");
    assert!(again.code == 1 && again.stderr.contains("holds a store already"), "{}", again.stderr);

    // a server that is sealed leaves this; how it goes on is tests/audit.rs's
    let acknowledge = format!("operator acknowledge --data-dir {f}.restored");
    let early = session.run(&acknowledge, b"");
    assert!(early.code == 1 && early.stderr.contains("waits for it"), "{}", early.stderr);
    std::fs::write(session.rig.file(&format!("{f}.restored/sealed")), "it is an old copy").unwrap();
    assert_eq!(session.ok(&acknowledge).get("acknowledged"), "it is an old copy");
}

fn officers_and_leases(session: &mut Session<'_>) {
    for command in ["operator rotate", "operator key-status", "operator rekey status", "operator generate-root status"]
    {
        session.ok(command);
    }
    for command in ["operator rekey cancel", "lease count", "lease queue"] {
        session.ok(command);
    }
}

/// What seals the server, takes officers' shares, another store or a database: tests/seal.rs, migrate.rs, dynamic.rs.
const ELSEWHERE: [&str; 14] = [
    "auth explain",
    "operator seal",
    "operator unseal",
    "operator init",
    "operator rekey begin",
    "operator rekey share",
    "operator generate-root begin",
    "operator generate-root share",
    "operator generate-root decode",
    "operator generate-root cancel",
    "operator migrate",
    "lease lookup",
    "lease renew",
    "lease revoke",
];

fn boundary(session: &mut Session<'_>) {
    let (f, rig) = (session.format, session.rig);
    let (dir, socket) = (rig.file(&format!("{f}.hsm")), rig.file(&format!("{f}.sock")));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let unlock = rig.file(&format!("{f}.unlock"));
    std::fs::write(&unlock, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(&unlock, std::fs::Permissions::from_mode(0o600)).unwrap();
    let officer = session.ok(&format!("operator boundary identity --identity {f}.officer")).get("pin");
    let serve = |dir: &Path| {
        let identity = run(Command::new(hsm_sim()).args(["identity", "--dir"]).arg(dir), b"");
        let pin = String::from_utf8(identity.stdout).unwrap().trim().to_owned();
        let mut command = Command::new(hsm_sim());
        command.args(["serve", "--end-with-parent", "--pin", &format!("officer={officer}")]);
        command.arg("--dir").arg(dir).arg("--socket").arg(&socket).arg("--unlock");
        command.arg(format!("file:{}", unlock.display()));
        command.args(["memfd_secret", "landlock", "mlock"].map(|name| ["--allow-missing", name]).concat());
        (Process::start(&mut command).0, format!("--socket {f}.sock --identity {f}.officer --pin {pin}"))
    };
    let (first, reach) = serve(&dir);
    assert_eq!(session.ok(&format!("operator boundary status {reach}")).get("state"), "UNINITIALISED");
    session.ok(&format!("operator boundary init {reach} --threshold 2 --shares 3 --out {f}.domain"));
    let domain = session.ok(&format!("operator boundary status {reach}")).get("domain_id");
    let twice = session.run(&format!("operator boundary init {reach} --threshold 1 --shares 1 --out {f}.twice"), b"");
    assert!(twice.code == 1 && twice.stderr.contains("state"), "{}", twice.stderr);
    let enrolled =
        session.ok(&format!("operator boundary enroll {reach} --role user --peer-identity {f}.server")).get("pin");
    assert_eq!(enrolled, session.ok(&format!("operator boundary identity --identity {f}.server")).get("pin"));
    session.ok(&format!("operator boundary backup {reach} --threshold 1 --shares 1 --out {f}.domain-2"));
    drop(first);
    let dir = rig.file(&format!("{f}.hsm-2"));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let (_second, reach) = serve(&dir);
    let share = |n: u32| format!("--share {f}.domain/share-{n}");
    let one = format!("operator boundary restore {reach} --package {f}.domain/package {}", share(1));
    let too_few = session.run(&one, b"");
    assert!(too_few.code == 1 && too_few.stderr.contains("shares"), "{}", too_few.stderr);
    assert_eq!(session.ok(&format!("{one} {}", share(3))).get("domain_id"), domain);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_comes_back_whole_or_not_at_all() {
    let rig = Rig::start();
    let mut session = Session { rig: &rig, format: "json", ran: BTreeSet::new() };
    let key = session.ok("kms create-key").get("key_id");
    let plaintext: Vec<u8> = (0..1_000_003u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    std::fs::write(rig.file("f"), &plaintext).unwrap();
    session.ok(&format!("kms encrypt-file --key-id {key} --context tenant=blue f"));
    session.ok("kms decrypt-file --context tenant=blue f.sr --out again");
    assert_eq!(std::fs::read(rig.file("again")).unwrap(), plaintext);
    // through pipes
    let piped = session.run(&format!("kms encrypt-file --key-id {key} - --out -"), &plaintext);
    assert_eq!((piped.code, piped.stderr.as_str()), (0, ""));
    let back = session.run("kms decrypt-file - --out -", &piped.stdout);
    assert_eq!((back.code, back.stdout == plaintext), (0, true));
    // after a rotation
    session.ok(&format!("kms rotate-key --key-id {key}"));
    session.ok("kms decrypt-file --context tenant=blue f.sr --out rotated");

    let whole = std::fs::read(rig.file("f.sr")).unwrap();
    let altered = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (name, bytes) in [
        ("cut", whole[..whole.len() - 70_000].to_vec()),
        ("cut-at-a-chunk", whole[..whole.len() - (1_000_003 % 65_536 + 16)].to_vec()),
        ("extended", [&whole[..], b"x"].concat()),
        ("flipped-blob", altered(60)),
        ("flipped-salt", altered(12)),
        ("flipped-body", altered(500_000)),
        ("flipped-tag", altered(whole.len() - 1)),
        ("nothing", Vec::new()),
        ("text", b"SRFILE, said the text".to_vec()),
    ] {
        std::fs::write(rig.file(name), bytes).unwrap();
        let before = rig.names();
        for line in [
            format!("kms decrypt-file --context tenant=blue {name} --out out"),
            format!("kms decrypt-file --context tenant=blue {name} --out -"),
        ] {
            let said = session.run(&line, b"");
            assert_eq!((said.code, said.stdout.len()), (1, 0), "{line}");
            assert!(
                said.stderr.contains("was not decrypted") && said.stderr.contains("advice"),
                "{line}: {}",
                said.stderr
            );
        }
        assert_eq!(rig.names(), before, "{name}");
    }
    session.refused("kms decrypt-file --context tenant=red f.sr --out out", "INVALID_CIPHERTEXT");
    session.refused("kms decrypt-file f.sr --out out", "INVALID_CIPHERTEXT");
    let there = session.run("kms decrypt-file --context tenant=blue f.sr --out f", b"");
    assert!(there.code == 1 && there.stderr.contains("--force"), "{}", there.stderr);
    assert!(!rig.file("out").exists());
}

#[test]
fn a_signal_leaves_no_file_behind() {
    let rig = Rig::start();
    let mut session = Session { rig: &rig, format: "json", ran: BTreeSet::new() };
    let key = session.ok("kms create-key").get("key_id");
    for signal in ["INT", "TERM", "HUP"] {
        let before = rig.names();
        let mut command = rig.command(&["kms", "encrypt-file", "--key-id", &key, "-", "--out", "f.sr"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&[7; 200_000]).unwrap();
        // it holds a file by now, and waits for more
        let began = Instant::now();
        while !rig.names().iter().any(|name| name.starts_with(".f.sr.partial-")) {
            assert!(began.elapsed() < Duration::from_secs(20), "no file was begun");
            std::thread::sleep(Duration::from_millis(10));
        }
        let killed = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!((status.code(), told.contains("interrupted")), (Some(1), true), "{signal}: {told}");
        assert_eq!(rig.names(), before, "{signal}");
    }
}

#[test]
fn who_cannot_connect_hears_why_and_what_to_do() {
    let rig = Rig::start();
    let words = ["kms", "list-keys"];
    let other = rig.file("other.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let other_ca = rcgen::CertificateParams::new(vec!["other".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&other, other_ca.pem()).unwrap();
    let port = rig.addr.rsplit(':').next().unwrap();
    let cases: [(&str, &str, &str, i32, &str); 7] = [
        ("STRONGROOM_ADDR", "https://127.0.0.1:1", "cannot reach", 1, "STRONGROOM_ADDR"),
        ("STRONGROOM_ADDR", "http://10.0.0.1:8200", "not on this machine", 1, "https://"),
        ("STRONGROOM_ADDR", "https://", "not an address", 1, "https://HOST:PORT"),
        ("STRONGROOM_CACERT", other.to_str().unwrap(), "not trusted", 1, "STRONGROOM_CACERT"),
        ("STRONGROOM_CACERT", "/nowhere", "PEM", 1, "path"),
        ("STRONGROOM_TOKEN", "sr.nonsense", "UNAUTHENTICATED", 1, "STRONGROOM_TOKEN"),
        ("STRONGROOM_TOKEN", "two words", "token", 1, "token create"),
    ];
    for (variable, value, message, code, advice) in cases {
        let said = run(rig.command(&words).env(variable, value), b"");
        assert_eq!((said.code, said.stdout.len()), (code, 0), "{variable}={value}");
        assert!(said.stderr.contains(message) && said.stderr.contains(advice), "{variable}={value}: {}", said.stderr);
        assert!(!said.stderr.contains("sr.nonsense") && !said.stderr.contains("two words"), "{}", said.stderr);
    }
    let nobody = run(rig.command(&words).env_remove("STRONGROOM_TOKEN"), b"");
    assert!(nobody.code == 2 && nobody.stderr.contains("--token-file"), "{}", nobody.stderr);
    // Vault's names are fallbacks
    let root = std::fs::read_to_string(rig.data.join("root-token")).unwrap();
    let mut command = rig.command(&words);
    for name in ["STRONGROOM_ADDR", "STRONGROOM_CACERT", "STRONGROOM_TOKEN"] {
        command.env_remove(name);
    }
    command.env("VAULT_ADDR", format!("https://localhost:{port}")).env("VAULT_TOKEN", root);
    command.env("VAULT_CACERT", rig.data.join("tls/ca.pem"));
    let said = run(&mut command, b"");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

/// Boundary and server of a folder that `dev` made, started one by one as in production, with client certificates allowed.
struct ByHand {
    server: Process,
    _boundary: Process,
    addr: String,
}

impl ByHand {
    fn start(rig: &Rig, client_ca: &Path) -> Self {
        let pin = |who: &str| {
            let file = rig.data.join(who).join("identity.key");
            let words = ["operator", "boundary", "identity", "--output", "json", "--identity", file.to_str().unwrap()];
            let said = run(&mut rig.command(&words), b"");
            Fields { format: "json", text: String::from_utf8(said.stdout).unwrap() }.get("pin")
        };
        let mut command = Command::new(hsm_sim());
        command.args(["serve", "--end-with-parent", "--pin", &format!("user={}", pin("server"))]);
        command.arg("--dir").arg(rig.data.join("boundary")).arg("--socket").arg(rig.data.join("run/hsm.sock"));
        command.arg("--unlock").arg(format!("file:{}", rig.data.join("boundary/unlock.key").display()));
        command.args(["memfd_secret", "landlock", "mlock"].map(|name| ["--allow-missing", name]).concat());
        let boundary = Process::start(&mut command).0;
        let config = std::fs::read_to_string(rig.data.join("server.toml")).unwrap();
        let listen = config.lines().find(|line| line.starts_with("listen")).unwrap();
        let config = config.replace(listen, "listen = \"127.0.0.1:0\"");
        let config = config.replace("[tls]", &format!("[tls]\nclient_ca = \"{}\"", client_ca.display()));
        std::fs::write(rig.file("server.toml"), config).unwrap();
        let mut command = Command::new(STRONGROOM);
        command.args(["server", "--config"]).arg(rig.file("server.toml")).env("STRONGROOM_LOG", "warn");
        let (server, addr) = Process::start(&mut command);
        Self { server, _boundary: boundary, addr }
    }
}

#[test]
fn a_client_certificate_stands_for_its_role_and_a_server_drains() {
    let mut rig = Rig::start();
    rig.dev = Process(Command::new("true").spawn().unwrap());
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(rig.file("clients.pem"), ca.pem()).unwrap();
    for name in ["billing", "stranger"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut client = rcgen::CertificateParams::new(vec![format!("{name}.example")]).unwrap();
        client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(rig.file(&format!("{name}.pem")), client.signed_by(&key, &ca).unwrap().pem()).unwrap();
        std::fs::write(rig.file(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
    let mut by_hand = ByHand::start(&rig, &rig.file("clients.pem"));
    rig.addr = by_hand.addr.clone();

    let mut session = Session { rig: &rig, format: "json", ran: BTreeSet::new() };
    session.ok_with("policy write dice -", b"path \"kms/random\" { capabilities = [\"update\"] }");
    session.ok("auth cert write billing --policy dice --certificate billing.pem");
    let bound = session.ok("token create --policy dice --certificate billing.pem --show-token").get("token");
    let random = "kms generate-random --number-of-bytes 8 --show-plaintext";
    let tried = |token: Option<&str>, certificate: Option<&str>| {
        let mut command = rig.command(&random.split_whitespace().collect::<Vec<_>>());
        command.env_remove("STRONGROOM_TOKEN").envs(token.map(|token| ("STRONGROOM_TOKEN", token)));
        for (variable, suffix) in [("STRONGROOM_CLIENT_CERT", ".pem"), ("STRONGROOM_CLIENT_KEY", "-key.pem")] {
            command.envs(certificate.map(|name| (variable, format!("{name}{suffix}"))));
        }
        run(&mut command, b"").code
    };
    for (token, certificate, code) in [
        (None, Some("billing"), 0),
        (None, Some("stranger"), 1),
        (Some(bound.as_str()), Some("billing"), 0),
        (Some(bound.as_str()), Some("stranger"), 1),
        (Some(bound.as_str()), None, 1),
        (None, None, 2),
    ] {
        assert_eq!(tried(token, certificate), code, "token {} certificate {certificate:?}", token.is_some());
    }
    let killed = Command::new("kill").arg(by_hand.server.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(by_hand.server.0.wait().unwrap().code(), Some(0), "SIGTERM drains and exits 0");
}
