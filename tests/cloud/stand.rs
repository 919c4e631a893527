//! A server, and the programs that stand in for clouds, or are their makers' own.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tests::{Dev, DevOptions, binary, until, workspace};

/// A script of `tests/cloud`, spoken to in lines of JSON. Ends with this value.
pub(crate) struct Script {
    child: Child,
    lines: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Script {
    pub(crate) fn start(name: &str, environment: &[(&str, String)]) -> Self {
        let python = workspace().join("target/python/bin/python");
        assert!(python.exists(), "{} is not there: `cargo xtask test` makes it", python.display());
        let mut command = Command::new(python);
        command.arg(workspace().join("tests/cloud").join(name)).stdin(Stdio::piped()).stdout(Stdio::piped());
        for stray in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
            command.env_remove(stray);
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let lines = Mutex::new((child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap())));
        Self { child, lines }
    }

    /// The line that a server says when it is there.
    pub(crate) fn line(&self) -> Value {
        let mut line = String::new();
        self.lines.lock().unwrap().1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub(crate) fn ask(&self, ask: &Value) -> Value {
        writeln!(self.lines.lock().unwrap().0, "{ask}").unwrap();
        self.line()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What somebody shows beside a request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shows<'a> {
    pub(crate) token: Option<&'a str>,
    /// The name of a certificate of [`Stand`]'s.
    pub(crate) certificate: Option<&'a str>,
}

pub(crate) struct Stand {
    pub(crate) dev: Dev,
    pub(crate) dir: tempfile::TempDir,
}

impl Stand {
    /// With an authority for client certificates, and two of them: `app` and `thief`.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
             -addext basicConstraints=critical,CA:TRUE -keyout ca-key.pem -out client-ca.pem && \
             printf 'basicConstraints=CA:FALSE\\nextendedKeyUsage=clientAuth\\n' > ext && for name in app thief; do \
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$name -keyout $name-key.pem -out $name.csr && \
             openssl x509 -req -in $name.csr -CA client-ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext -out $name.pem \
             || exit 1; done";
        let made = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let authority = dir.path().join("client-ca.pem").display().to_string();
        let arguments = vec!["--client-ca".to_owned(), authority];
        let dev = Dev::start(DevOptions { arguments, ..DevOptions::default() });
        Self { dev, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.dev.addr())
    }

    /// Status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value, shows: Shows<'_>) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "60", "-X", method, "-w", "\n%{http_code}", "--data-binary", "@-", "--cacert"]);
        curl.arg(self.dev.ca());
        if let Some(token) = shows.token {
            curl.arg("-H").arg(format!("X-Vault-Token: {token}"));
        }
        if let Some(name) = shows.certificate {
            curl.arg("--cert").arg(self.path(&format!("{name}.pem")));
            curl.arg("--key").arg(self.path(&format!("{name}-key.pem")));
        }
        let mut child =
            curl.arg(format!("{}/v1/{path}", self.url())).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(answer).unwrap_or_default())
    }

    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let token = self.dev.root_token();
        let (status, answer) = self.ask(method, path, &body, Shows { token: Some(&token), ..Shows::default() });
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// As nobody.
    pub(crate) fn login(&self, mount: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", &format!("auth/{mount}/login"), body, Shows::default())
    }

    /// Why the last login was refused, in the audit log; and how many have left a record of each cause.
    pub(crate) fn causes(&self) -> BTreeMap<String, usize> {
        let mut causes = BTreeMap::new();
        self.dev.audit_records(|record| {
            if let audit::Outcome::Failed(cause) = &record.outcome {
                *causes.entry(cause.to_string()).or_default() += 1;
            }
        });
        causes
    }

    /// What proved the last login that was let in.
    pub(crate) fn last_proof(&self) -> String {
        let mut last = String::new();
        self.dev.audit_records(|record| {
            if !record.proof.is_empty() {
                last = record.proof.to_owned();
            }
        });
        last
    }
}

/// GET or POST of a stand-in's own.
pub(crate) fn tell(port: u64, path: &str, body: &Value) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "10", "-X", "POST", "--data-binary", &body.to_string()]);
    let output = curl.arg(format!("http://127.0.0.1:{port}{path}")).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(json!(null))
}

/// `strongroom login …`: what it prints, or says.
pub(crate) fn strongroom_login(
    stand: &Stand,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<String, String> {
    let mut command = Command::new(binary("strongroom"));
    command.args(["login", "--print", "--address", &stand.url(), "--ca-cert"]).arg(stand.dev.ca()).args(arguments);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "STRONGROOM_TOKEN"] {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// `strongroom agent` logs in as `login` says: what its token may. It keeps no secret for it.
pub(crate) fn agent_login(stand: &Stand, login: &str) -> Value {
    let (sink, config) = (stand.path("agent-token"), stand.path("agent.toml"));
    let (url, ca) = (stand.url(), stand.dev.ca());
    let text = format!(
        "log_out = false\n[server]\naddress = \"{url}\"\nca = \"{}\"\n[login]\n{login}\n[[sink]]\nfile = \"{}\"\n",
        ca.display(),
        sink.display(),
    );
    std::fs::write(&config, text).unwrap();
    let output =
        Command::new(binary("strongroom")).args(["agent", "--once", "--config"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token = std::fs::read_to_string(&sink).unwrap();
    let shows = Shows { token: Some(token.trim()), ..Shows::default() };
    let (status, looked) = stand.ask("GET", "auth/token/lookup-self", &Value::Null, shows);
    assert_eq!(status, 200, "{looked}");
    looked["data"]["policies"].clone()
}

/// What `ask` gives in the end.
pub(crate) fn in_the_end<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until("it comes about", within, || {
        found = ask();
        found.is_some()
    });
    found.unwrap()
}
