//! A server, an issuer of tokens and an OpenID provider that are not ours, and a person at a browser.

use audit::Outcome;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tests::{Dev, binary, workspace};

/// A program of node's that answers line by line. Ends with this value.
pub(crate) struct Party {
    child: Child,
    lines: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
    pub(crate) url: String,
}

impl Party {
    fn start(script: &str, certificate: &str, key: &str) -> Self {
        let mut node = node(script);
        node.arg(certificate).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = node.spawn().unwrap_or_else(|error| panic!("{node:?}: {error}"));
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut party = Self { child, lines: RefCell::new((stdin, BufReader::new(stdout))), url: String::new() };
        party.url = party.line().as_str().unwrap().to_owned();
        party
    }

    fn line(&self) -> Value {
        let mut line = String::new();
        self.lines.borrow_mut().1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no answer: {line}"))
    }

    pub(crate) fn ask(&self, command: Value) -> Value {
        writeln!(self.lines.borrow_mut().0, "{command}").unwrap();
        let answer = self.line();
        assert!(answer.get("failed").is_none(), "{command}: {answer}");
        answer
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Scripts run beside the modules that `cargo xtask test` has fetched.
fn node(script: &str) -> Command {
    let folder = workspace().join("target/oidc");
    let modules = folder.join("node_modules/oidc-provider");
    assert!(modules.exists(), "{} is not there: `cargo xtask test` fetches it", modules.display());
    let text = std::fs::read(workspace().join("tests/oidc").join(script)).unwrap();
    // several tests put it there at once
    let ours = folder.join(format!("{}-{}", std::process::id(), script));
    std::fs::write(&ours, text).unwrap();
    std::fs::rename(&ours, folder.join(script)).unwrap();
    let mut node = Command::new("node");
    node.arg(folder.join(script));
    node
}

/// What comes back from the API: status and body.
pub(crate) type Answer = (u16, Value);

pub(crate) struct Stand {
    pub(crate) dev: Dev,
    pub(crate) dir: tempfile::TempDir,
}

impl Stand {
    /// A policy `ci` that reads `secret/app`.
    pub(crate) fn new() -> Self {
        let stand = Self { dev: Dev::sim(), dir: tempfile::tempdir().unwrap() };
        stand.certificates();
        let policy = "path \"secret/data/app\" { capabilities = [\"read\"] }";
        stand.done("POST", "sys/policies/acl/ci", json!({ "policy": policy }));
        stand.done("POST", "secret/data/app", json!({"data": {"password": "the-secret"}}));
        stand
    }

    /// An authority, and a certificate of this machine's.
    fn certificates(&self) {
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
                      -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem && \
                      openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=issuer -keyout own.key -out own.csr && \
                      printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
                      openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out own.pem";
        let made = Command::new("sh").args(["-c", script]).current_dir(self.dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ca(&self) -> String {
        std::fs::read_to_string(self.path("ca.pem")).unwrap()
    }

    pub(crate) fn party(&self, script: &str) -> Party {
        let file = |name| self.path(name).display().to_string();
        Party::start(script, &file("own.pem"), &file("own.key"))
    }

    /// As root, and it must succeed.
    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(&self.dev.root_token(), method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    pub(crate) fn ask(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_in(token, method, path, &text)
    }

    /// With the body's very bytes.
    pub(crate) fn ask_in(&self, token: &str, method: &str, path: &str, body: &str) -> Answer {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "60", "-X", method, "-w", "\n%{http_code}", "--data-binary", "@-"]);
        if !token.is_empty() {
            curl.arg("-H").arg(format!("X-Vault-Token: {token}"));
        }
        curl.arg("--cacert").arg(self.dev.ca()).arg(format!("https://{}/v1/{path}", self.dev.addr()));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(answer).unwrap_or(Value::Null))
    }

    pub(crate) fn login(&self, mount: &str, role: &str, jwt: &str) -> Answer {
        self.ask("", "POST", &format!("auth/{mount}/login"), json!({"role": role, "jwt": jwt}))
    }

    /// Outcomes of requests of this path, as the log has them.
    pub(crate) fn recorded(&self, path: &str) -> Vec<String> {
        let mut all = Vec::new();
        self.dev.audit_records(|record| {
            if record.path == path {
                all.push(match &record.outcome {
                    Outcome::Failed(cause) => cause.to_string(),
                    Outcome::Done | Outcome::Asked => format!("done {}", record.proof),
                });
            }
        });
        all
    }

    /// `strongroom …`, as nobody, in the background.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("strongroom"));
        command.env("STRONGROOM_ADDR", format!("https://{}", self.dev.addr())).env("STRONGROOM_CACERT", self.dev.ca());
        command.env("HOME", self.dir.path()).env_remove("STRONGROOM_TOKEN").env_remove("VAULT_TOKEN");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A person at a real browser: what it ends on says.
pub(crate) fn browse(address: &str, name: &str, wish: &str) -> Value {
    let output = node("browser.mjs").args([address, name, wish]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(said.trim()).unwrap_or_else(|_| panic!("the browser: {said}{complaint}"))
}
