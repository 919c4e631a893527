//! A real Kubernetes API server with its etcd, in a folder of its own. There are no nodes, and nothing runs its Pods.

use crate::{until, workspace};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// The process. Ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    dir: tempfile::TempDir,
    port: u16,
    flags: Vec<String>,
    running: Option<(Child, ChildStdin)>,
}

impl ApiServer {
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With flags of its own, and what they name in its folder.
    pub fn start_with(flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-ec", CERTIFICATES]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let flags = flags(dir.path());
        let mut server = Self { dir, port, flags, running: None };
        server.start_again();
        server
    }

    /// On what it has stored, at the same address.
    pub fn start_again(&mut self) {
        self.end();
        let program = workspace().join("target/kube-apiserver/kube-apiserver");
        assert!(program.exists(), "{} is not there: `cargo xtask kube-apiserver` builds it", program.display());
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").args(FLAGS).arg(format!("--secure-port={}", self.port)).args(&self.flags);
        command.current_dir(self.dir.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        self.running = Some((child, stdin));
        let ready = || {
            let ended = self.running.as_mut().is_some_and(|(child, _)| child.try_wait().unwrap().is_some());
            assert!(!ended, "kube-apiserver ended:\n{}", self.log());
            self.health().is_ok()
        };
        until("kube-apiserver is ready", Duration::from_secs(180), ready);
    }

    pub fn end(&mut self) {
        if let Some((mut child, _stdin)) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The same, by another name.
    pub fn other_url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// PEM of its authority.
    pub fn ca(&self) -> String {
        std::fs::read_to_string(self.path("ca.crt")).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What `readyz` says where it is not well.
    pub fn health(&self) -> Result<(), String> {
        let mut curl = self.curl("GET", "readyz");
        let output = curl.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.trim_end().ends_with("200") { Ok(()) } else { Err(said) }
    }

    /// The bytes that etcd keeps.
    pub fn stored(&self, key: &str) -> Vec<u8> {
        let mut command = Command::new(workspace().join("target/kube-apiserver/kube-apiserver"));
        let output = command.args(["stored", key]).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn curl(&self, method: &str, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "60", "-X", method, "-w", "\n%{http_code}", "-H", "content-type: application/json"]);
        curl.args(["--cacert", "ca.crt", "--cert", "admin.crt", "--key", "admin.key", "--data-binary", "@-"]);
        curl.arg(format!("{}/{path}", self.url())).current_dir(self.dir.path());
        curl
    }

    /// As its administrator: status and answer.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut child = self.curl(method, path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(answer).unwrap_or(Value::Null))
    }

    pub fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, &body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Its uid.
    pub fn make(&self, path: &str, body: Value) -> String {
        self.done("POST", path, body)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub fn namespace(&self, name: &str, labels: Value) -> String {
        self.make("api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}}))
    }

    pub fn account(&self, namespace: &str, name: &str) -> String {
        let path = format!("api/v1/namespaces/{namespace}/serviceaccounts");
        self.make(&path, json!({"metadata": {"name": name}}))
    }

    pub fn delete_account(&self, namespace: &str, name: &str) {
        self.done("DELETE", &format!("api/v1/namespaces/{namespace}/serviceaccounts/{name}"), Value::Null);
    }

    pub fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) -> String {
        let container = json!({"name": "app", "image": "app"});
        let spec = json!({"serviceAccountName": account, "nodeName": node, "containers": [container]});
        self.make(&format!("api/v1/namespaces/{namespace}/pods"), json!({"metadata": {"name": name}, "spec": spec}))
    }

    /// At once, as a kubelet does that has seen it end.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        let path = format!("api/v1/namespaces/{namespace}/pods/{name}");
        self.done("DELETE", &path, json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}));
    }

    /// For `audience`, and ten minutes; bound to a Pod where one is named by name and uid.
    pub fn token(&self, namespace: &str, account: &str, audience: Option<&str>, pod: Option<(&str, &str)>) -> String {
        let mut spec = json!({"expirationSeconds": 600});
        if let Some(audience) = audience {
            spec["audiences"] = json!([audience]);
        }
        if let Some((name, uid)) = pod {
            spec["boundObjectRef"] = json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid});
        }
        let path = format!("api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.done("POST", &path, json!({"spec": spec}));
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Lets an account do what a role of the cluster allows.
    pub fn bind(&self, role: &str, namespace: &str, account: &str) {
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": account});
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        let name = format!("{namespace}-{account}-{}", role.replace(':', "-"));
        let body = json!({"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]});
        self.make("apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// An authority, the server's certificate, an administrator's; and the key of service accounts' tokens, ECDSA.
const CERTIFICATES: &str = "\
    new='req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'\n\
    openssl $new -x509 -days 2 -subj /CN=ca -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt\n\
    openssl $new -subj /CN=kube-apiserver -keyout server.key -out server.csr\n\
    printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\\nextendedKeyUsage=serverAuth\\n' > server.ext\n\
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.crt\n\
    openssl $new -subj /O=system:masters/CN=admin -keyout admin.key -out admin.csr\n\
    printf 'extendedKeyUsage=clientAuth\\n' > admin.ext\n\
    openssl x509 -req -in admin.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile admin.ext -out admin.crt\n\
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out sa.key\n\
    openssl pkey -in sa.key -pubout -out sa.pub\n";

const FLAGS: [&str; 14] = [
    "--bind-address=127.0.0.1",
    "--advertise-address=127.0.0.1",
    "--service-cluster-ip-range=10.0.0.0/24",
    "--tls-cert-file=server.crt",
    "--tls-private-key-file=server.key",
    "--client-ca-file=ca.crt",
    "--service-account-issuer=https://kubernetes.default.svc",
    "--service-account-key-file=sa.pub",
    "--service-account-signing-key-file=sa.key",
    "--authorization-mode=RBAC",
    "--endpoint-reconciler-type=none",
    "--disable-admission-plugins=ServiceAccount",
    "--v=1",
    "--profiling=false",
];
