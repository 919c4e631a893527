//! An API server, a vault beside it, and who logs in.

use audit::read::{LogFolder, LogReader};
use audit::record::{Entry, Outcome};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tests::boundary::{self, Kind};
use tests::{ApiServer, Node};

pub(crate) const AUDIENCE: &str = "strongroom.test";

pub(crate) struct Stand {
    pub(crate) api: ApiServer,
    pub(crate) node: Node,
    _boundary: boundary::Stand,
    /// Of the server's own account in the cluster, where that is called by its other name.
    pub(crate) account_file: PathBuf,
    mounts: AtomicU32,
}

/// What became of a login.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// As the audit log has it.
    pub(crate) outcome: Outcome,
    pub(crate) proof: String,
}

impl Login {
    pub(crate) fn token(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["auth"]["client_token"].as_str().unwrap()
    }

    pub(crate) fn entity(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["auth"]["entity_id"].as_str().unwrap()
    }

    /// Why not.
    pub(crate) fn cause(&self) -> &str {
        match &self.outcome {
            Outcome::Failed(cause) => cause,
            Outcome::Asked | Outcome::Done => "",
        }
    }
}

/// One for all tests that run at the same time.
pub(crate) fn shared() -> Arc<Stand> {
    static SHARED: Mutex<Weak<Stand>> = Mutex::new(Weak::new());
    // a test that failed while it waited here has changed nothing
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(stand) = shared.upgrade() {
        return stand;
    }
    let stand = Arc::new(Stand::new());
    *shared = Arc::downgrade(&stand);
    stand
}

impl Stand {
    pub(crate) fn new() -> Self {
        Self::on(ApiServer::start())
    }

    /// The vault's reviewer is a service account of the cluster, whose token stands in a file of the server's configuration.
    pub(crate) fn on(api: ApiServer) -> Self {
        api.namespace("vault", json!({}));
        api.account("vault", "reviewer");
        api.bind("system:auth-delegator", "vault", "reviewer");
        let (file, account_file) = (api.path("reviewer-token"), api.path("other-reviewer-token"));
        std::fs::write(&file, api.token("vault", "reviewer", None, None)).unwrap();
        let table = |(host, file): (String, &PathBuf)| {
            let (file, ca) = (file.display(), api.path("ca.crt"));
            format!("[[kubernetes]]\nhost = \"{host}\"\ntoken_file = \"{file}\"\nca_file = \"{}\"\n", ca.display())
        };
        let table = [(api.url(), &file), (api.other_url(), &account_file)].map(table).concat();
        let boundary = boundary::Stand::operational(Kind::Sim);
        let node = Node::start("k8s", &boundary, &table);
        let stand = Self { api, node, _boundary: boundary, account_file, mounts: AtomicU32::new(0) };
        let policy = "path \"secret/data/app\" { capabilities = [\"read\"] }";
        stand.done("POST", "sys/policies/acl/app", json!({ "policy": policy }));
        stand.done("POST", "secret/data/app", json!({"data": {"password": "p-1"}}));
        stand
    }

    /// A namespace, and a mount, that no other test has; the mount asks as the server's own account.
    pub(crate) fn mount(&self) -> String {
        let mount = format!("k{}", self.mounts.fetch_add(1, Ordering::Relaxed));
        self.done("POST", &format!("sys/auth/{mount}"), json!({"type": "kubernetes"}));
        self.configure(&mount, json!({"kubernetes_host": self.api.url()}));
        mount
    }

    pub(crate) fn configure(&self, mount: &str, config: Value) {
        self.done("POST", &format!("auth/{mount}/config"), config);
    }

    /// For `account` of `namespace`, with `more` over it.
    pub(crate) fn role(&self, mount: &str, name: &str, (namespace, account): (&str, &str), more: Value) {
        let mut role = json!({
            "audience": AUDIENCE, "token_policies": "app", "token_ttl": "10m",
            "bound_service_account_names": account, "bound_service_account_namespaces": namespace,
        });
        for (field, value) in more.as_object().unwrap() {
            role[field] = value.clone();
        }
        self.done("POST", &format!("auth/{mount}/role/{name}"), role);
    }

    pub(crate) fn login(&self, mount: &str, role: &str, jwt: &str) -> Login {
        self.login_with(mount, json!({"role": role, "jwt": jwt}))
    }

    pub(crate) fn login_with(&self, mount: &str, body: Value) -> Login {
        let jwt = body["jwt"].as_str().unwrap_or_default().to_owned();
        let (status, body, id) = self.exchange(None, "POST", &format!("auth/{mount}/login"), &body);
        let mut found = None;
        let log = LogReader::over(LogFolder::open(&self.node.data().join("audit")).unwrap());
        let mut entries = log.iter_from(log.first().unwrap()).unwrap();
        while let Some((_, entry)) = entries.read().unwrap() {
            let entry = Entry::decode(entry).unwrap();
            let record = entry.record();
            let told = serde_json::to_string(&record).unwrap();
            assert!(jwt.len() < 64 || !told.contains(&jwt[jwt.len() - 64..]), "a credential is in the log");
            if record.request_id == id {
                found = Some((record.outcome.clone(), record.proof.to_owned()));
            }
        }
        let (outcome, proof) = found.unwrap_or_else(|| panic!("{id} is not in the log: {status} {body}"));
        let login = Login { status, body, outcome, proof };
        let explained = vault::auth::explained(login.cause()).is_some();
        assert!(login.cause().is_empty() || explained, "nobody can tell the operator what {} means", login.cause());
        login
    }

    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let root = self.node.root_token().unwrap();
        let (status, answer) = self.ask(Some(&root), method, path, &body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    pub(crate) fn ask(&self, token: Option<&str>, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer, _) = self.exchange(token, method, path, body);
        (status, answer)
    }

    /// With the id under which the log tells of it.
    fn exchange(&self, token: Option<&str>, method: &str, path: &str, body: &Value) -> (u16, Value, String) {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-m",
            "60",
            "-X",
            method,
            "-w",
            "\n%{http_code} %header{x-request-id}",
            "--data-binary",
            "@-",
        ]);
        if let Some(token) = token {
            curl.arg("-H").arg(format!("X-Vault-Token: {token}"));
        }
        curl.arg(format!("http://{}/v1/{path}", self.node.addr()));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        let (status, id) = status.split_once(' ').unwrap();
        (status.parse().unwrap(), serde_json::from_str(answer).unwrap_or(Value::Null), id.to_owned())
    }

    /// What `token` reads of the application's secret.
    pub(crate) fn password(&self, token: &str) -> Option<String> {
        let (_, answer) = self.ask(Some(token), "GET", "secret/data/app", &Value::Null);
        answer["data"]["data"]["password"].as_str().map(str::to_owned)
    }

    /// Signed with the cluster's own key, by whoever has stolen it.
    pub(crate) fn signed(&self, header: &Value, payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(payload));
        let pem = std::fs::read(self.api.path("sa.key")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der()).unwrap();
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header, payload.
pub(crate) fn opened(jwt: &str) -> (Value, Value) {
    let mut parts = jwt.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut part = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (part(), part())
}
