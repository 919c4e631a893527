//! `strongroom kms-plugin` beside a real API server: what etcd keeps, restarts, rotations, and a plugin that is away.

use proto::kms::{CreateKeyRequest, DisableKeyRequest, EnableKeyRequest, RotateKeyOnDemandRequest};
use proto::kubernetes_kms::key_management_service_client::KeyManagementServiceClient;
use proto::kubernetes_kms::{DecryptRequest, EncryptRequest, StatusRequest};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::boundary::{self, Kind};
use tests::{ApiServer, Clients, Node, Pid, bearer, binary, until};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const PLAINTEXT: &str = "a secret of the cluster's";

/// A vault, a key, and who may use it.
struct Stand {
    dir: tempfile::TempDir,
    node: Node,
    _boundary: boundary::Stand,
    runtime: Runtime,
    key: String,
}

/// `strongroom kms-plugin`. Ends with this value.
struct Plugin {
    child: Child,
    socket: PathBuf,
}

impl Stand {
    fn new() -> Self {
        let boundary = boundary::Stand::operational(Kind::Sim);
        let node = Node::start("kms", &boundary, "");
        let runtime = Runtime::new().unwrap();
        let root = node.root_token().unwrap();
        let made = CreateKeyRequest { description: "cluster".into(), ..Default::default() };
        let key = runtime.block_on(async {
            let reply = node.clients().keys.create_key(bearer(&root, made)).await.unwrap().into_inner();
            reply.key_metadata.unwrap().key_id
        });
        let stand = Self { dir: tempfile::tempdir().unwrap(), node, _boundary: boundary, runtime, key };
        let policy = format!(
            "path \"kms/keys/{0}/encrypt\" {{ capabilities = [\"update\"] }}\npath \"kms/keys/{0}/decrypt\" {{ capabilities = [\"update\"] }}",
            stand.key
        );
        stand.vault("sys/policies/acl/plugin", &json!({ "policy": policy }));
        let token =
            stand.vault("auth/token/create", &json!({"policies": ["plugin"], "ttl": "1h", "no_default_policy": false}));
        let file = stand.path("token");
        std::fs::write(&file, token["auth"]["client_token"].as_str().unwrap()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        stand
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn vault(&self, path: &str, body: &Value) -> Value {
        let url = format!("http://{}/v1/{path}", self.node.addr());
        let token = format!("X-Vault-Token: {}", self.node.root_token().unwrap());
        let output =
            Command::new("curl").args(["-sf", "-X", "POST", "-H", &token, "-d", &body.to_string(), &url]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{path}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn clients(&self) -> Clients {
        let _within = self.runtime.enter();
        self.node.clients()
    }

    fn rotate(&self) {
        let request = RotateKeyOnDemandRequest { key_id: self.key.clone() };
        let root = self.node.root_token().unwrap();
        let mut keys = self.clients().keys;
        self.runtime.block_on(keys.rotate_key_on_demand(bearer(&root, request))).unwrap();
    }

    fn key_id(&self, version: u32) -> String {
        format!("{}/{version}", self.key)
    }

    fn config(&self, name: &str, cluster: &str) -> (PathBuf, PathBuf) {
        let (config, socket) = (self.path(&format!("{name}.toml")), self.path(&format!("{name}.sock")));
        let text = format!(
            "socket = \"{}\"\nkey_id = \"{}\"\ncluster = \"{cluster}\"\n[server]\naddress = \"http://{}\"\n\
             [login]\nmethod = \"token-file\"\nfile = \"{}\"\n",
            socket.display(),
            self.key,
            self.node.addr(),
            self.path("token").display()
        );
        std::fs::write(&config, text).unwrap();
        (config, socket)
    }

    fn plugin(&self, name: &str, cluster: &str) -> Plugin {
        let (config, socket) = self.config(name, cluster);
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(binary("strongroom"));
        command.args(["kms-plugin", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let plugin = Plugin { child: command.spawn().unwrap(), socket };
        until("the plugin listens", Duration::from_secs(30), || plugin.socket.exists());
        plugin
    }

    fn talk(&self, plugin: &Plugin) -> KeyManagementServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", plugin.socket.display())).unwrap();
        let _within = self.runtime.enter();
        KeyManagementServiceClient::new(endpoint.connect_lazy())
    }

    /// Health and key.
    fn status(&self, plugin: &Plugin) -> Result<(String, String), Status> {
        let reply = self.runtime.block_on(self.talk(plugin).status(StatusRequest {}))?.into_inner();
        assert_eq!(reply.version, "v2");
        Ok((reply.healthz, reply.key_id))
    }

    fn encrypt(&self, plugin: &Plugin, plaintext: &[u8]) -> Result<(Vec<u8>, String), Status> {
        let request = EncryptRequest { plaintext: plaintext.to_vec().into(), uid: "encrypt-1".into() };
        let reply = self.runtime.block_on(self.talk(plugin).encrypt(request))?.into_inner();
        Ok((reply.ciphertext.to_vec(), reply.key_id))
    }

    fn decrypt(&self, plugin: &Plugin, ciphertext: &[u8], key_id: &str) -> Result<Vec<u8>, Status> {
        let ciphertext = ciphertext.to_vec().into();
        let request =
            DecryptRequest { ciphertext, uid: "decrypt-1".into(), key_id: key_id.into(), ..Default::default() };
        Ok(self.runtime.block_on(self.talk(plugin).decrypt(request))?.into_inner().plaintext.to_vec())
    }

    fn api_server(&self, plugin: &Plugin) -> ApiServer {
        let socket = plugin.socket.display().to_string();
        ApiServer::start_with(|dir| {
            let provider = json!({"apiVersion": "v2", "name": "strongroom", "endpoint": format!("unix://{socket}"), "timeout": "3s"});
            let resources = json!([{"resources": ["secrets"], "providers": [{"kms": provider}, {"identity": {}}]}]);
            let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": resources});
            std::fs::write(dir.join("encryption.yaml"), config.to_string()).unwrap();
            vec!["--encryption-provider-config=encryption.yaml".into()]
        })
    }
}

impl Plugin {
    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.end();
    }
}

fn secret(api: &ApiServer, name: &str) {
    let data = json!({"password": PLAINTEXT});
    api.make("api/v1/namespaces/apps/secrets", json!({"metadata": {"name": name}, "stringData": data}));
}

/// What the API server answers, as plaintext.
fn read(api: &ApiServer, name: &str) -> Value {
    api.done("GET", &format!("api/v1/namespaces/apps/secrets/{name}"), Value::Null)
}

/// Encrypted under this key, and nothing of the secret to be seen.
fn is_kept(api: &ApiServer, name: &str, key_id: &str) {
    let stored = api.stored(&format!("/registry/secrets/apps/{name}"));
    let has = |needle: &[u8]| stored.windows(needle.len()).any(|window| window == needle);
    assert!(stored.starts_with(b"k8s:enc:kms:v2:strongroom:"), "{}", String::from_utf8_lossy(&stored[..40]));
    assert!(has(key_id.as_bytes()), "{name} is not under {key_id}");
    // base64 of the text as well: what JSON would hold
    assert!(!has(PLAINTEXT.as_bytes()) && !has(b"password"), "{name} stands in the clear");
}

fn shows(api: &ApiServer, name: &str) {
    let shown = read(api, name)["data"]["password"].as_str().unwrap().to_owned();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, PLAINTEXT);
    assert_eq!(shown, encoded, "{name}");
}

#[test]
fn a_clusters_secrets_are_kept_under_a_key_of_ours_through_restarts_and_rotations() {
    let stand = Stand::new();
    let mut plugin = stand.plugin("kms", "prod");
    let mut api = stand.api_server(&plugin);
    api.namespace("apps", json!({}));
    secret(&api, "first");
    is_kept(&api, "first", &stand.key_id(1));
    shows(&api, "first");
    // the API server anew, on what etcd has; and the plugin anew
    api.start_again();
    shows(&api, "first");
    plugin.end();
    plugin = stand.plugin("kms", "prod");
    api.start_again();
    shows(&api, "first");
    // another version; started anew so as not to wait for the API server's minute
    stand.rotate();
    api.start_again();
    secret(&api, "second");
    is_kept(&api, "second", &stand.key_id(2));
    is_kept(&api, "first", &stand.key_id(1));
    for name in ["first", "second"] {
        shows(&api, name);
    }
    // written again as it is, it moves to the version of now
    let whole = read(&api, "first");
    api.done("PUT", "api/v1/namespaces/apps/secrets/first", whole);
    is_kept(&api, "first", &stand.key_id(2));
    shows(&api, "first");
    assert_eq!(stand.status(&plugin).unwrap(), ("ok".into(), stand.key_id(2)));
}

#[test]
fn a_plugin_tells_one_key_id_and_opens_what_any_version_encrypted_for_its_cluster_alone() {
    let mut stand = Stand::new();
    let (plugin, replica, other) =
        (stand.plugin("kms", "prod"), stand.plugin("replica", "prod"), stand.plugin("other", "test"));
    let mode = std::fs::metadata(&plugin.socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let seed = [7; 32];
    // it serves before it is logged in
    let well = || stand.status(&plugin).is_ok_and(|(healthz, _)| healthz == "ok");
    until("the plugin is well", Duration::from_secs(20), well);
    let (first, key_id) = stand.encrypt(&plugin, &seed).unwrap();
    assert_eq!(key_id, stand.key_id(1));
    assert!((1..1024).contains(&first.len()));
    assert!(!first.windows(8).any(|window| window == [7; 8]));
    stand.rotate();
    let (second, key_id) = stand.encrypt(&plugin, &seed).unwrap();
    assert_eq!(key_id, stand.key_id(2));
    for plugin in [&plugin, &replica] {
        assert_eq!(stand.status(plugin).unwrap(), ("ok".into(), stand.key_id(2)));
        assert_eq!(stand.decrypt(plugin, &first, &stand.key_id(1)).unwrap(), seed);
        assert_eq!(stand.decrypt(plugin, &second, &stand.key_id(2)).unwrap(), seed);
    }
    let mut altered = first.clone();
    altered[100] ^= 1;
    let unknown = "00000000-0000-4000-8000-000000000000/1".to_owned();
    for (what, plugin, ciphertext, key_id, code) in [
        ("another version", &plugin, &first, stand.key_id(2), Code::InvalidArgument),
        ("a version that is none", &plugin, &first, format!("{}/x", stand.key), Code::InvalidArgument),
        ("no version", &plugin, &first, stand.key.clone(), Code::InvalidArgument),
        ("no key", &plugin, &first, String::new(), Code::InvalidArgument),
        ("another key", &plugin, &first, unknown, Code::InvalidArgument),
        ("another cluster", &other, &first, stand.key_id(1), Code::InvalidArgument),
        ("altered", &plugin, &altered, stand.key_id(1), Code::InvalidArgument),
        ("nothing", &plugin, &Vec::new(), stand.key_id(1), Code::InvalidArgument),
    ] {
        let refused = stand.decrypt(plugin, ciphertext, &key_id).unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert_eq!(refused.message().contains("older_keys"), what == "another key", "{what}: {refused:?}");
    }
    for plaintext in [0, 513, 100_000] {
        assert!(stand.encrypt(&plugin, &vec![7; plaintext]).is_err(), "{plaintext}");
    }
    // a key that is disabled: not well, by the same key_id, and well again
    let root = stand.node.root_token().unwrap();
    let (key_id, mut keys) = (stand.key.clone(), stand.clients().keys);
    stand.runtime.block_on(keys.disable_key(bearer(&root, DisableKeyRequest { key_id: key_id.clone() }))).unwrap();
    assert!(stand.encrypt(&plugin, &seed).is_err());
    until("it is not well", Duration::from_secs(20), || stand.status(&plugin).unwrap().0.contains("KEY_DISABLED"));
    assert_eq!(stand.status(&plugin).unwrap().1, stand.key_id(2));
    stand.runtime.block_on(keys.enable_key(bearer(&root, EnableKeyRequest { key_id }))).unwrap();
    until("it is well again", Duration::from_secs(20), || stand.status(&plugin).unwrap().0 == "ok");
    // a vault that is away: the same, within the time that API servers wait
    stand.node.kill();
    let began = Instant::now();
    assert!(stand.encrypt(&plugin, &seed).is_err());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    until("it is not well", Duration::from_secs(20), || stand.status(&plugin).unwrap().0 != "ok");
    stand.node.start_again();
    until("it is well again", Duration::from_secs(30), || stand.status(&plugin).unwrap().0 == "ok");
    assert_eq!(stand.decrypt(&plugin, &first, &stand.key_id(1)).unwrap(), seed);
    // asked to, it ends in peace and takes its socket along
    let mut plugin = plugin;
    Pid(plugin.child.id()).terminate();
    until("it ends", Duration::from_secs(10), || plugin.child.try_wait().unwrap().is_some());
    assert!(plugin.child.wait().unwrap().success() && !plugin.socket.exists());
}

/// Six minutes: `cargo xtask kubernetes`.
#[cfg_attr(feature = "long", test)]
#[cfg_attr(not(feature = "long"), expect(dead_code, reason = "it runs by its feature alone"))]
fn while_the_plugin_is_away_reads_go_on_and_writes_end_and_a_rotation_is_seen_by_itself() {
    let stand = Stand::new();
    let mut plugin = stand.plugin("kms", "prod");
    let api = stand.api_server(&plugin);
    api.namespace("apps", json!({}));
    secret(&api, "first");
    // a rotation, without any restart: within the API server's minute
    stand.rotate();
    let mut n = 0;
    let seen = until("the rotation is seen", Duration::from_secs(90), || {
        n += 1;
        let name = format!("rotated-{n}");
        secret(&api, &name);
        std::thread::sleep(Duration::from_secs(1));
        let stored = api.stored(&format!("/registry/secrets/apps/{name}"));
        let key_id = stand.key_id(2);
        stored.windows(key_id.len()).any(|window| window == key_id.as_bytes())
    });
    println!("the rotation was seen after {seen:?}");
    plugin.end();
    let mut n = 0;
    let write = |n: u32| {
        let body = json!({"metadata": {"name": format!("away-{n}")}, "stringData": {"password": PLAINTEXT}});
        api.ask("POST", "api/v1/namespaces/apps/secrets", &body).0
    };
    let until_refused = until("writes end", Duration::from_secs(300), || {
        std::thread::sleep(Duration::from_secs(1));
        shows(&api, "first");
        n += 1;
        write(n) >= 500
    });
    println!("writes went on for {until_refused:?} without the plugin");
    assert!(api.health().is_err_and(|said| said.contains("kms-providers")));
    shows(&api, "first");
    plugin = stand.plugin("kms", "prod");
    // it dials again after pauses that have grown meanwhile
    let well = until("the API server is well again", Duration::from_secs(180), || {
        n += 1;
        api.health().is_ok() && write(n) == 201
    });
    println!("well again {well:?} after the plugin was back");
    is_kept(&api, &format!("away-{n}"), &stand.key_id(2));
    assert!(Path::new(&plugin.socket).exists());
}
