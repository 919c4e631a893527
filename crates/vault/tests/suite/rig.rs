//! A vault, and how it is asked.

use crate::far::Far;
use audit::read::{LogFolder, LogReader};
use audit::record::Entry;
use audit::{AuditSink, CheckpointSigner, Log, LogOptions, Record, SignError};
use envelope::merkle::Hash;
use envelope::time::Clock;
use envelope::{ManualClock, SecretBytes, SecretKey, Timestamp};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hsm_api::{Boundary, Pending, Reply, Request, Role};
use hsm_sim::jail::SecretPage;
use hsm_sim::{KeyStore, Module, Options, Unlock};
use identity::{Changes, Identities, PeerCertificate, RequestInfo};
use kms::Kms;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use storage::{AtLeast, Barrier, EntryPath, Memory, Storage, follow};
use vault::{ApiPath, Body, Call, Vault, VaultError, Verb};

pub(crate) const TENANT: [u8; 16] = [0x7e; 16];
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
pub(crate) const ROOT: &str = "root-token-of-these-tests";

#[derive(Debug)]
struct InProcess(Module);

impl Boundary for InProcess {
    fn submit(&self, request: Request) -> Pending<Reply> {
        let reply = self.0.serve(Role::User, request);
        async move {
            tokio::task::yield_now().await;
            reply
        }
        .boxed()
    }
}

pub(crate) struct Rig {
    dir: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) vault: Vault,
    boundary: Arc<InProcess>,
    /// Ends with its last holder that is no lane.
    log: Arc<Log>,
    calls: AtomicU64,
}

/// Whose part of the log is used up.
pub(crate) const SPENT: &str = "203.0.113.250:1";

/// Strangers that nobody bounds but one.
#[derive(Debug)]
struct Unbounded(Arc<dyn AuditSink>);

#[async_trait::async_trait]
impl vault::service::Strangers for Unbounded {
    async fn append(&self, record: &Record<'_>) -> Result<(), VaultError> {
        if record.from == SPENT {
            return Err(VaultError::Unavailable("RATE_LIMITED"));
        }
        Ok(self.0.append(record.encode()).await?)
    }
}

/// What is counted: nothing but this.
#[derive(Debug)]
struct Counted;

impl vault::service::Telemetry for Counted {
    fn render(&self) -> String {
        "strongroom_serving 1\n# EOF\n".to_owned()
    }
}

/// How a request is sent beside its path and body.
#[derive(Default, Clone)]
pub(crate) struct With<'a> {
    pub(crate) token: Option<&'a str>,
    pub(crate) certificate: Option<u8>,
    pub(crate) wrap_secs: Option<u64>,
    pub(crate) bind: Option<u8>,
    /// A client certificate and those above it, for which nobody vouches.
    pub(crate) chain: Option<&'a [Vec<u8>]>,
    pub(crate) from: Option<&'a str>,
    /// Else the rig's first.
    pub(crate) node: Option<&'a Vault>,
    /// As the header has it.
    pub(crate) namespace: &'a str,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let module = start_module(&dir.path().join("hsm"), &clock);
        module.serve(Role::Officer, Request::Initialise { threshold: 1, shares: 1 }).unwrap();
        let store: Arc<dyn Storage> = Arc::new(Memory::with_clock(Arc::new(clock.clone())));
        let log = open_log(dir.path().join("audit"));
        let boundary = Arc::new(InProcess(module));
        let barrier = kms::boot::open(Arc::clone(&store), &*boundary, START).await.unwrap().barrier;
        let vault = node(&store, &barrier, &log, &boundary);
        let info = RequestInfo::new("boot".into(), String::new(), START);
        vault.identities().create_root(ROOT.as_bytes(), &info).await.unwrap();
        vault.prepare(START).await.unwrap();
        Self { dir, clock, store, vault, boundary, log, calls: AtomicU64::new(0) }
    }

    /// Another node over the same store, which is far, and the same log and boundary: what it knows from memory is its own.
    pub(crate) fn another_node(&self) -> Vault {
        let store: Arc<dyn Storage> = Arc::new(Far(Arc::clone(&self.store)));
        let known = self.vault.barrier();
        let barrier = Arc::new(Barrier::new(Arc::clone(&store), *known.cluster_id(), known.keyring().unwrap()));
        node(&store, &barrier, &self.log, &self.boundary)
    }

    pub(crate) fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    /// As root. The status, and the body or null.
    pub(crate) async fn root(&self, verb: Verb, path: &str, body: Value) -> (u16, Value) {
        self.ask(verb, path, body, With { token: Some(ROOT), ..With::default() }).await
    }

    /// As root, and it must succeed: its `data`.
    pub(crate) async fn done(&self, verb: Verb, path: &str, body: Value) -> Value {
        let (status, body) = self.root(verb, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {body}");
        body["data"].clone()
    }

    /// As root: the body of the answer, as it was written, to one that was.
    pub(crate) async fn text(&self, verb: Verb, path: &str, body: &str) -> String {
        let answer = self.answer(verb, path, body, With { token: Some(ROOT), ..With::default() }).await;
        answer.body.map_or(String::new(), |body| body.as_str().to_owned())
    }

    /// By nobody: the status, and the body as it is.
    pub(crate) async fn raw(&self, path: &str) -> (u16, Vec<u8>) {
        let answer = self.answer(Verb::Read, path, "", With::default()).await;
        (answer.status, answer.body.map_or(Vec::new(), |body| body.as_bytes().to_vec()))
    }

    pub(crate) async fn ask(&self, verb: Verb, path: &str, body: Value, with: With<'_>) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.answer(verb, path, &text, with).await;
        let body = answer.body.map_or(Value::Null, |body| serde_json::from_slice(body.as_bytes()).unwrap());
        (answer.status, body)
    }

    async fn answer(&self, verb: Verb, path: &str, text: &str, with: With<'_>) -> vault::Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let from = with.from.unwrap_or("192.0.2.7:4711").to_owned();
        let certificate = with.chain.map(shown).or_else(|| with.certificate.map(certificate));
        let mut info = RequestInfo::new(format!("call-{number}"), from, self.clock.now());
        info.certificate = certificate.as_ref().map(|shown| hex::encode(shown.thumbprint).into());
        let call = Call {
            verb,
            namespace: vault::namespace::parse_named(with.namespace).unwrap(),
            path: ApiPath::parse(path).unwrap(),
            parameters: pairs.map(|(name, value)| (name.into(), value.into())).collect(),
            body: Body::parse(SecretBytes::copy_from(text.as_bytes())).unwrap(),
            token: with.token.map(|token| SecretBytes::copy_from(token.as_bytes())),
            certificate,
            wrap_ttl: with.wrap_secs.map(Duration::from_secs),
            bind: with.bind.map(|byte| [byte; 32]),
            info: Arc::new(info),
        };
        with.node.unwrap_or(&self.vault).handle(call).await
    }

    /// The log's records.
    pub(crate) fn records(&self) -> Vec<Value> {
        let log = LogReader::over(LogFolder::open(&self.log_path()).unwrap());
        let (mut entries, mut out) = (log.iter_from(0).unwrap(), Vec::new());
        while let Some((_, entry)) = entries.read().unwrap() {
            out.push(serde_json::from_str(&Entry::decode(entry).unwrap().to_json(None)).unwrap());
        }
        out
    }

    /// What `act` adds to the log.
    pub(crate) async fn recorded<T>(&self, act: impl Future<Output = T>) -> (T, Vec<Value>) {
        let before = self.records().len();
        let outcome = act.await;
        (outcome, self.records().split_off(before))
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("audit")
    }
}

fn node(store: &Arc<dyn Storage>, barrier: &Arc<Barrier>, log: &Arc<Log>, boundary: &Arc<InProcess>) -> Vault {
    let changes = Changes::new(Arc::clone(barrier), log.lane(), 1);
    let (names, keys) = (Arc::new(identity::Caches::new(100)), Arc::new(kms::Caches::new(100)));
    let identities = Identities::new(identity::Seams {
        barrier: Arc::clone(barrier),
        tenant: TENANT,
        generation: 1,
        changes: changes.clone(),
        caches: Arc::clone(&names),
    })
    .unwrap();
    let kms = Kms::new(kms::Seams {
        boundary: Arc::clone(boundary) as _,
        barrier: Arc::clone(barrier),
        audit: log.lane(),
        changes: changes.clone(),
        caches: Arc::clone(&keys),
        tenant: TENANT,
        generation: 1,
    })
    .unwrap();
    let caches = Arc::new(vault::Caches::new(1000));
    let all = EntryPath::parse(&hex::encode(TENANT)).unwrap();
    let told = vec![Arc::clone(&names) as _, Arc::clone(&keys) as _, Arc::clone(&caches) as _];
    tokio::spawn(follow(Arc::clone(store), all, told));
    Vault::new(vault::Seams {
        generation: 1,
        leases_void_below: 0,
        barrier: Arc::clone(barrier),
        tenant: TENANT,
        identities,
        identity_caches: names,
        kms,
        changes,
        strangers: Arc::new(Unbounded(log.lane())),
        telemetry: Arc::new(Counted),
        databases: vault::Databases::default(),
        outside: Arc::new(crate::jwt::Loopback),
        caches,
    })
    .unwrap()
}

/// A token whose only policy this is.
pub(crate) async fn minted(rig: &Rig, name: &str, policy: &str) -> String {
    rig.done(Verb::Write, &format!("sys/policies/acl/{name}"), json!({ "policy": policy })).await;
    let only = json!({"policies": [name], "no_default_policy": true});
    let (status, body) = rig.root(Verb::Write, "auth/token/create", only).await;
    assert_eq!(status, 200, "{body}");
    body["auth"]["client_token"].as_str().unwrap().to_owned()
}

/// All entries of the tenant, by their paths.
pub(crate) async fn everything_stored(rig: &Rig) -> Vec<(String, Vec<u8>)> {
    let all = EntryPath::parse(&hex::encode(TENANT)).unwrap();
    let (mut stored, mut after) = (Vec::new(), None);
    loop {
        let page = rig.store.scan(&all, after.as_ref(), 100, AtLeast::Latest).await.unwrap();
        stored.extend(page.entries.iter().map(|(path, entry)| (path.as_str().to_owned(), entry.value.to_vec())));
        after = page.entries.last().map(|(path, _)| path.clone());
        if !page.more {
            return stored;
        }
    }
}

fn shown(chain: &[Vec<u8>]) -> Arc<PeerCertificate> {
    Arc::new(PeerCertificate {
        thumbprint: envelope::mac::sha256(&chain[0]),
        chain: chain.iter().map(|der| der.clone().into_boxed_slice()).collect(),
        ..PeerCertificate::default()
    })
}

/// A client certificate whose thumbprint is this byte, repeated.
pub(crate) fn certificate(byte: u8) -> Arc<PeerCertificate> {
    let standing = identity::Standing::Verified;
    Arc::new(PeerCertificate { thumbprint: [byte; 32], standing, ..PeerCertificate::default() })
}

/// A boundary that is away: the log goes on, unsigned.
#[derive(Debug)]
struct Away;

impl CheckpointSigner for Away {
    /// RFC 8032 §7.1, test 1.
    fn verifier(&self) -> [u8; 32] {
        let mut key = [0; 32];
        hex::decode_to_slice("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", &mut key).unwrap();
        key
    }

    fn sign(&self, _: String, _: u64, _: Hash, _: Vec<Hash>) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        std::future::ready(Err(SignError::Unavailable)).boxed()
    }
}

fn open_log(dir: PathBuf) -> Arc<Log> {
    let (origin, clock) = ("strongroom.audit/test".to_owned(), Arc::new(ManualClock::at(START)));
    let options = LogOptions::new(dir, origin, "1", Arc::new(Away), clock);
    Log::open(LogOptions { reserve_bytes: 1 << 16, ..options }).unwrap()
}

fn start_module(dir: &std::path::Path, clock: &ManualClock) -> Module {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let clock = clock.clone();
    let options = Options {
        unlock: Some(Unlock::Secret(SecretKey::init_with(|key| key.fill(7)))),
        now: Arc::new(move || clock.now()),
        report: vec![],
        allow_fault_build: true,
        fault: None,
    };
    Module::open(KeyStore::open(dir).unwrap(), SecretPage::ordinary().unwrap(), options)
}
