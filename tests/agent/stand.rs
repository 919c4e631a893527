//! A server with an application's role and secret, and the agent that serves it.

use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tests::{Dev, Pid, binary, until};

pub(crate) struct Stand {
    pub(crate) dev: Dev,
    pub(crate) dir: tempfile::TempDir,
}

/// `strongroom agent`. Ends with this value.
pub(crate) struct Agent {
    child: Child,
    log: PathBuf,
}

impl Stand {
    /// An AppRole `web` whose tokens live for `token_ttl`, and `secret/app`.
    pub(crate) fn new(token_ttl: &str) -> Self {
        Self::on(Dev::sim(), token_ttl)
    }

    pub(crate) fn on(dev: Dev, token_ttl: &str) -> Self {
        let stand = Self { dev, dir: tempfile::tempdir().unwrap() };
        let policy = "path \"secret/data/app\" { capabilities = [\"read\"] }\n\
                      path \"database/creds/*\" { capabilities = [\"read\"] }";
        stand.done("POST", "sys/policies/acl/app", json!({ "policy": policy }));
        stand.done("POST", "sys/auth/approle", json!({"type": "approle"}));
        stand.done(
            "POST",
            "auth/approle/role/web",
            json!({"token_policies": "app", "token_ttl": token_ttl, "secret_id_num_uses": 0}),
        );
        let role_id = stand.done("GET", "auth/approle/role/web/role-id", Value::Null);
        stand.put_file("role-id", role_id["data"]["role_id"].as_str().unwrap());
        stand.put("first-password");
        stand
    }

    pub(crate) fn put(&self, password: &str) {
        self.done("POST", "secret/data/app", json!({"data": {"password": password}}));
    }

    /// A wrapping token for a SecretID, where the agent looks for it.
    pub(crate) fn wrap_secret_id(&self) {
        self.wrap("auth/approle/role/web/secret-id", json!({}));
    }

    pub(crate) fn wrap(&self, path: &str, body: Value) {
        let answer = self.ask(&self.dev.root_token(), "POST", path, body, Some("60s")).unwrap();
        self.put_file("wrapping-token", answer["wrap_info"]["token"].as_str().unwrap());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put_file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What a file says now; nothing where there is none.
    pub(crate) fn says(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn is_said(&self, name: &str, text: &str) {
        let said = || self.says(name) == text;
        until(&format!("{name} says {text}"), Duration::from_secs(30), said);
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.says("status.json")).unwrap_or_default()
    }

    pub(crate) fn until_status(&self, field: &str, value: &Value) {
        let is_so = || self.status()[field] == *value;
        until(&format!("status: {field} is {value}"), Duration::from_secs(30), is_so);
    }

    /// As an operator writes it; `more` follows server, login and status file.
    pub(crate) fn config(&self, more: &str) -> PathBuf {
        let login = "[login]\nmethod = \"approle\"\nrole_id_file = \"DIR/role-id\"\nsecret_id_file = \"DIR/wrapping-token\"\n\
                     wrapped_at = \"auth/approle/role/web/secret-id\"\n";
        self.config_with(login, more)
    }

    /// With a login of its own, and perhaps more about the server before it.
    pub(crate) fn config_with(&self, login: &str, more: &str) -> PathBuf {
        let text = format!(
            "refresh_secs = 1\nstatus_file = \"DIR/status.json\"\n{}\n[server]\naddress = \"https://{}\"\nca = \"{}\"\n{login}\n{more}",
            if more.contains("[exec]") { "" } else { "log_out = true" },
            self.dev.addr(),
            self.dev.ca().display(),
        );
        std::fs::write(self.path("agent.toml"), text.replace("DIR", &self.dir.path().display().to_string())).unwrap();
        self.path("agent.toml")
    }

    pub(crate) fn agent(&self, more: &str) -> Agent {
        Agent::start(&self.config(more), &self.path("agent.log"), &[])
    }

    pub(crate) fn once(&self, more: &str) -> (ExitStatus, String) {
        self.once_with(&self.config(more))
    }

    pub(crate) fn once_with(&self, config: &Path) -> (ExitStatus, String) {
        let mut agent = Agent::start(config, &self.path("agent.log"), &["--once"]);
        (agent.ended(), agent.log())
    }

    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(&self.dev.root_token(), method, path, body, None);
        answer.unwrap_or_else(|said| panic!("{method} {path}: {said}"))
    }

    pub(crate) fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
        wrap: Option<&str>,
    ) -> Result<Value, String> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "60", "-X", method, "-w", "\n%{http_code}", "--data-binary", "@-", "-H"]);
        curl.arg(format!("X-Vault-Token: {token}")).arg("--cacert").arg(self.dev.ca());
        if let Some(ttl) = wrap {
            curl.arg("-H").arg(format!("X-Vault-Wrap-TTL: {ttl}"));
        }
        curl.arg(format!("https://{}/v1/{path}", self.dev.addr()));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        if status.starts_with('2') {
            Ok(serde_json::from_str(answer).unwrap_or(Value::Null))
        } else {
            Err(format!("{status} {answer}"))
        }
    }

    /// `strongroom …`, with `input` on standard input, as nobody: exit code, what it printed, what it complained of.
    pub(crate) fn cli(&self, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
        let mut command = Command::new(binary("strongroom"));
        command.env("STRONGROOM_ADDR", format!("https://{}", self.dev.addr())).env("STRONGROOM_CACERT", self.dev.ca());
        command.env("HOME", self.dir.path()).env_remove("STRONGROOM_TOKEN").env_remove("VAULT_TOKEN");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // one that reads nothing may be gone already
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), told(&output.stdout), told(&output.stderr))
    }
}

impl Agent {
    fn start(config: &Path, log: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(binary("strongroom"));
        command.arg("agent").arg("--config").arg(config).args(more);
        command.env("STRONGROOM_TOKEN", "not-for-the-program");
        let stderr = std::fs::File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the agent ends", Duration::from_secs(40), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
