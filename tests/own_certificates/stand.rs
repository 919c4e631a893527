//! A server with a `pki` engine that certifies it and its clients; agents, a KMS plugin, a witness, and clients that connect all
//! the time.

use client::{ClientCertificate, Input, Kv, Login, Options, Vault};
use proto::kms::CreateKeyRequest;
use proto::kubernetes_kms::StatusRequest;
use proto::kubernetes_kms::key_management_service_client::KeyManagementServiceClient;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tests::boundary::{self, Kind};
use tests::{Node, bearer, binary, until};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

pub(crate) struct Stand {
    pub(crate) node: Node,
    scheme: &'static str,
    dir: tempfile::TempDir,
    root_token: String,
    key: String,
    _boundary: boundary::Stand,
}

/// `strongroom agent` or `strongroom kms-plugin`. Ends with this value.
pub(crate) struct Program {
    child: Child,
    name: &'static str,
    dir: PathBuf,
}

pub(crate) struct Application {
    runtime: Runtime,
    vault: Vault,
}

/// Connects all the time, and believes the authority alone.
pub(crate) struct Visitor {
    orders: Arc<Mutex<Orders>>,
    thread: JoinHandle<(usize, usize)>,
}

/// Held while it visits.
#[derive(Default)]
struct Orders {
    pauses: bool,
    ends: bool,
}

impl Stand {
    /// Its first certificates are issued while it listens without TLS.
    pub(crate) fn new() -> Self {
        let boundary = boundary::Stand::operational(Kind::Sim);
        let node = Node::start("own", &boundary, "");
        let root_token = node.root_token().unwrap();
        let made = CreateKeyRequest { description: "cluster".into(), ..Default::default() };
        let key = Runtime::new().unwrap().block_on(async {
            let reply = node.clients().keys.create_key(bearer(&root_token, made)).await.unwrap().into_inner();
            reply.key_metadata.unwrap().key_id
        });
        let dir = tempfile::tempdir().unwrap();
        let mut stand = Self { node, scheme: "http", dir, root_token, key, _boundary: boundary };
        stand.certify();
        let pem = stand.path("server.pem").display().to_string();
        let ca = stand.path("ca.pem").display().to_string();
        let tls = format!("[tls]\ncertificate = \"{pem}\"\nkey = \"{pem}\"\nclient_ca = \"{ca}\"\n");
        stand.node.stop();
        stand.node.set_storage(&tls);
        stand.node.start_again();
        stand.scheme = "https";
        stand
    }

    fn certify(&self) {
        self.done("POST", "sys/mounts/pki", json!({"type": "pki"}));
        let root = json!({"common_name": "Strongroom's own", "key_type": "ec", "ttl": "24h"});
        let root = self.done("POST", "pki/root/generate/internal", root)["data"]["certificate"].clone();
        self.put_file("ca.pem", root.as_str().unwrap());
        for (role, ttl) in [("server", LIFE), ("client", LIFE), ("short", "6s")] {
            self.role(role, ttl);
        }
        for (role, file, asked) in [
            ("server", "server.pem", json!({"common_name": "localhost", "ip_sans": "127.0.0.1", "ttl": "60s"})),
            ("client", "client.pem", json!({"common_name": "app.example"})),
        ] {
            let issued = self.done("POST", &format!("pki/issue/{role}"), asked)["data"].clone();
            let text = |field: &str| issued[field].as_str().unwrap().to_owned();
            self.put_file(file, &format!("{}\n{}\n", text("certificate"), text("private_key")));
        }
        for (name, policy) in [
            ("server", "path \"pki/sign/+\" { capabilities = [\"update\"] }".to_owned()),
            (
                "app",
                format!(
                    "path \"pki/sign/client\" {{ capabilities = [\"update\"] }}\n\
                     path \"secret/data/app\" {{ capabilities = [\"read\"] }}\n\
                     path \"kms/keys/{0}/encrypt\" {{ capabilities = [\"update\"] }}\n\
                     path \"kms/keys/{0}/decrypt\" {{ capabilities = [\"update\"] }}",
                    self.key
                ),
            ),
        ] {
            self.done("POST", &format!("sys/policies/acl/{name}"), json!({ "policy": policy }));
        }
        for (policy, file) in [("server", "servers-token"), ("app", "apps-token")] {
            let token = self.done("POST", "auth/token/create", json!({"policies": [policy], "ttl": "1h"}));
            self.put_file(file, token["auth"]["client_token"].as_str().unwrap());
        }
        self.done("POST", "sys/auth/cert", json!({"type": "cert"}));
        let role = json!({"certificate": root, "allowed_common_names": "app.example", "token_policies": "app"});
        self.done("POST", "auth/cert/certs/app", role);
        self.put_file("root-token", &self.root_token);
        let mut write = Command::new(binary("strongroom"));
        write.args(["auth", "cert", "write", "app", "--policy", "app", "--common-name", "app.example", "--token-file"]);
        write.arg(self.path("root-token")).arg("--address").arg(format!("http://{}", self.node.addr()));
        assert!(write.stdout(Stdio::null()).status().unwrap().success());
    }

    /// Of which certificates live so long, unless they are asked for a minute.
    pub(crate) fn role(&self, name: &str, ttl: &str) {
        let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": ttl, "max_ttl": "60s"});
        self.done("POST", &format!("pki/roles/{name}"), role);
    }

    pub(crate) fn put(&self, password: &str) {
        self.done("POST", "secret/data/app", json!({"data": {"password": password}}));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put_file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn copy(&self, from: &str, to: &str) {
        self.put_file(to, &self.says(from));
    }

    /// What a file says now; nothing where there is none.
    pub(crate) fn says(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// As root.
    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let token = format!("X-Vault-Token: {}", self.root_token);
        let (status, answer) = self.ask(&["-X", method, "-H", &token], path, &body);
        assert_eq!(status / 100, 2, "{method} {path}: {answer}");
        serde_json::from_str(&answer).unwrap_or_default()
    }

    /// The status of a login by the pair in this file; 0 where there is no connection with it, 400 where it ended since there is
    /// one.
    pub(crate) fn login(&self, pair: &str) -> u16 {
        let pair = self.path(pair).display().to_string();
        let (status, answer) = self.ask(&["--cert", &pair, "--key", &pair], "auth/cert/login", &json!({"name": "app"}));
        assert!(matches!(status, 0 | 200 | 400), "{status} {answer}");
        status
    }

    fn ask(&self, more: &[&str], path: &str, body: &Value) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "30", "-w", "\n%{http_code}"]).args(more).arg("--cacert").arg(self.path("ca.pem"));
        if !body.is_null() {
            curl.arg("-d").arg(body.to_string());
        }
        let output = curl.arg(format!("{}://{}/v1/{path}", self.scheme, self.node.addr())).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), answer.to_owned())
    }

    /// `strongroom agent`, whose first certificate is `NAME.pem`; `more` goes on with its server.
    pub(crate) fn agent(&self, name: &'static str, more: &str) -> Program {
        let text = format!(
            "refresh_secs = 1\nstatus_file = \"DIR/{name}.json\"\n[server]\naddress = \"https://{}\"\nca = \"DIR/ca.pem\"\n{more}",
            self.node.addr()
        );
        self.program(&["agent"], name, &text)
    }

    /// `strongroom kms-plugin`, which shows what the client's agent keeps fresh.
    pub(crate) fn plugin(&self) -> Program {
        let text = format!(
            "socket = \"DIR/plugin.sock\"\nkey_id = \"{}\"\ncluster = \"prod\"\n[server]\naddress = \"https://{}\"\nca = \"DIR/ca.pem\"\n\
             client_certificate = \"DIR/client.pem\"\nclient_key = \"DIR/client.pem\"\n[login]\nmethod = \"certificate\"\n",
            self.key,
            self.node.addr()
        );
        self.program(&["kms-plugin"], "plugin", &text)
    }

    fn program(&self, command: &[&str], name: &'static str, config: &str) -> Program {
        let file = self.path(&format!("{name}.toml"));
        std::fs::write(&file, config.replace("DIR", &self.dir.path().display().to_string())).unwrap();
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut program = Command::new(binary("strongroom"));
        program.args(command).arg("--config").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Program { child: program.spawn().unwrap(), name, dir: self.dir.path().to_owned() }
    }

    /// A Rust application that has a token of its own, and shows what the client's agent keeps fresh.
    pub(crate) fn application(&self) -> Application {
        let pair = self.path("client.pem");
        let options = Options {
            ca: Some(self.path("ca.pem")),
            certificate: Some(ClientCertificate { chain: pair.clone(), key: pair }),
            ..Options::new(format!("https://{}", self.node.addr()))
        };
        let runtime = Runtime::new().unwrap();
        let login = Login::Token(Input::File(self.path("apps-token")));
        let vault = runtime.block_on(Vault::login(options, login)).unwrap();
        Application { runtime, vault }
    }

    pub(crate) fn visitor(&self) -> Visitor {
        Visitor::start((self.node.addr(), "/v1/sys/health", "200"), &self.path("ca.pem"))
    }

    /// `strongroom audit witness`, which shows the server's certificate, and who visits it.
    pub(crate) fn witness(&self) -> (Program, Visitor) {
        let mut command = Command::new(binary("strongroom"));
        command.args(["audit", "witness", "--name", "own.example/w1", "--listen", "127.0.0.1:0", "--dir"]);
        command.arg(self.path("witness")).arg("--log").arg(self.node.data().join("audit/log.vkey"));
        command.arg("--tls-cert").arg(self.path("server.pem")).arg("--tls-key").arg(self.path("server.pem"));
        let log = std::fs::File::create(self.path("witness.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let visitor = Visitor::start((addr, "/", "404"), &self.path("ca.pem"));
        (Program { child, name: "witness", dir: self.dir.path().to_owned() }, visitor)
    }
}

impl Program {
    fn says(&self, ending: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{}.{ending}", self.name))).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        self.says("log")
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.says("json")).unwrap_or_default()
    }

    /// How many certificates of its own it was given.
    fn certificates(&self) -> usize {
        let (file, log) = (self.dir.join(format!("{}.pem", self.name)).display().to_string(), self.log());
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let issued =
            lines.filter(|line| line["message"] == "a certificate was issued and written" && line["file"] == *file);
        issued.map(|line| line["serial"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>().len()
    }

    /// Until its own certificate has been replaced so often by another.
    pub(crate) fn is_replaced(&self, times: usize) {
        let what = format!("{} certificates of {}", times + 1, self.name);
        until(&what, Duration::from_secs(90), || self.certificates() > times);
    }

    /// Until its own certificate is another one than now.
    pub(crate) fn is_replaced_again(&self) {
        self.is_replaced(self.certificates());
    }

    /// As an API server asks for it.
    pub(crate) fn health(&self) -> Result<String, String> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.dir.join("plugin.sock").display())).unwrap();
        Runtime::new().unwrap().block_on(async {
            let mut plugin = KeyManagementServiceClient::new(endpoint.connect_lazy());
            let reply = plugin.status(StatusRequest {}).await.map_err(|status| status.to_string())?;
            Ok(reply.into_inner().healthz)
        })
    }
}

impl Application {
    /// What it reads, and by which session.
    pub(crate) fn reads(&self) -> (String, u64) {
        let secret = self.runtime.block_on(self.vault.kv("secret", "app", Kv::Current)).unwrap();
        let password = secret.field("password").unwrap().unwrap();
        (String::from_utf8(password.expose().to_vec()).unwrap(), self.vault.standing().session)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of {}:\n{}", self.name, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Visitor {
    fn start(target: (SocketAddr, &'static str, &'static str), ca: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let orders = Arc::new(Mutex::new(Orders::default()));
        let told = Arc::clone(&orders);
        let thread = std::thread::spawn(move || {
            let (mut visits, mut seen) = (0, BTreeSet::new());
            loop {
                let orders = told.lock().unwrap();
                match &*orders {
                    Orders { ends: true, .. } => return (visits, seen.len()),
                    Orders { pauses: true, .. } => {}
                    Orders { .. } => {
                        seen.insert(visit(target, &config));
                        visits += 1;
                    }
                }
                drop(orders);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { orders, thread }
    }

    /// When this returns, it is at home.
    pub(crate) fn pause(&self) {
        self.orders.lock().unwrap().pauses = true;
    }

    pub(crate) fn go_on(&self) {
        self.orders.lock().unwrap().pauses = false;
    }

    /// How often it came, and how many certificates it was shown.
    pub(crate) fn ended(self) -> (usize, usize) {
        self.orders.lock().unwrap().ends = true;
        self.thread.join().unwrap()
    }
}

/// A connection of its own, on which a path is answered by a status; the certificate that was shown there.
fn visit((addr, path, status): (SocketAddr, &str, &str), config: &Arc<ClientConfig>) -> Vec<u8> {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let client = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(std::str::from_utf8(&answer), Ok(format!("HTTP/1.1 {status}").as_str()));
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// Of certificates that are kept fresh: half of it is enough for all that the test does while the vault is away.
const LIFE: &str = "24s";
