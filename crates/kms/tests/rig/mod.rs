//! The key domain over a real module in this process, a store in memory and an audit log in a folder.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]
#![allow(dead_code, reason = "each test file takes what it needs")]

use audit::read::{LogFolder, LogReader};
use audit::record::Entry;
use audit::{CheckpointSigner, Log, LogOptions, SignError};
use bytes::Bytes;
use envelope::merkle::Hash;
use envelope::time::Clock;
use envelope::{EncryptionContext, ManualClock, SecretBytes, SecretKey, Timestamp};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hsm_api::{Boundary, HsmError, KeyId, KeySpec, Pending, Reply, Request, Role};
use hsm_sim::jail::SecretPage;
use hsm_sim::{KeyStore, Module, Options, Unlock};
use identity::{Changes, CreateToken, Identities, PolicyName, Principal, RequestInfo};
use kms::{CreateKey, DataKeyBytes, Description, GenerateDataKey, KeyMetadata, KeyRef, Kms, KmsError};
use std::fmt::Debug;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::{Barrier, EntryPath, Invalidate, Keyring, Memory, Storage, follow};

pub(crate) const TENANT: [u8; 16] = [0x7e; 16];
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const ROOT: &[u8] = b"root-token-of-these-tests";

/// The module, called without a socket between. Stopped, it is away.
#[derive(Debug)]
pub(crate) struct InProcess {
    module: Mutex<Option<Arc<Module>>>,
    pub(crate) requests: AtomicUsize,
}

impl Boundary for InProcess {
    fn submit(&self, request: Request) -> Pending<Reply> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let module = self.module.lock().unwrap().clone();
        let reply = module.map_or(Err(HsmError::Unavailable), |module| module.serve(Role::User, request));
        async move {
            // a reply never comes in the moment of its request
            tokio::task::yield_now().await;
            reply
        }
        .boxed()
    }
}

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) boundary: Arc<InProcess>,
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) sink: Arc<Log>,
    pub(crate) changes: Changes,
    pub(crate) identities: Identities,
    pub(crate) kms: Kms,
    pub(crate) root: Arc<Principal>,
    calls: AtomicU64,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let boundary = Arc::new(InProcess { module: Mutex::new(None), requests: AtomicUsize::new(0) });
        let module = start_module(&dir.path().join("hsm"), &clock);
        module.serve(Role::Officer, Request::Initialise { threshold: 1, shares: 1 }).unwrap();
        *boundary.module.lock().unwrap() = Some(Arc::new(module));
        let store: Arc<dyn Storage> = Arc::new(Memory::with_clock(Arc::new(clock.clone())));
        let barrier = Arc::new(Barrier::new(Arc::clone(&store), [0xc1; 16], Keyring::generate().unwrap()));
        let sink = open_log(dir.path().join("audit"));
        let changes = Changes::new(Arc::clone(&barrier), sink.lane(), 1);
        let caches = Arc::new(identity::Caches::new(100));
        let identities = Identities::new(identity::Seams {
            barrier: Arc::clone(&barrier),
            tenant: TENANT,
            generation: 1,
            changes: changes.clone(),
            caches: Arc::clone(&caches),
        })
        .unwrap();
        watch(&store, identities.watched(), caches);
        let call = RequestInfo::new("boot".into(), String::new(), START);
        identities.create_root(ROOT, &call).await.unwrap();
        let root = identities.authenticate(Some(ROOT), None, &call).await.unwrap();
        let kms = make_kms(&boundary, &store, &barrier, &sink, &changes);
        let calls = AtomicU64::new(0);
        Self { dir, clock, boundary, store, barrier, sink, changes, identities, kms, root, calls }
    }

    /// As on another core, or another node: its own caches over the same store.
    pub(crate) fn another_kms(&self) -> Kms {
        make_kms(&self.boundary, &self.store, &self.barrier, &self.sink, &self.changes)
    }

    /// Over another barrier, and the same boundary.
    pub(crate) fn kms_over(&self, barrier: &Arc<Barrier>) -> Kms {
        make_kms(&self.boundary, barrier.storage(), barrier, &self.sink, &self.changes)
    }

    pub(crate) fn call(&self) -> RequestInfo {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        RequestInfo::new(format!("call-{number}"), "192.0.2.7:4711".into(), self.clock.now())
    }

    /// A token whose only policy this is.
    pub(crate) async fn principal(&self, name: &str, policy: &str) -> Arc<Principal> {
        let name = PolicyName::parse(name).unwrap();
        self.identities.put_policy(&self.root, &self.call(), &name, policy).await.unwrap();
        let command = CreateToken { policies: vec![name], ..CreateToken::default() };
        let token = self.identities.create_token(&self.root, &self.call(), command).await.unwrap();
        self.identities.authenticate(Some(token.token.expose()), None, &self.call()).await.unwrap()
    }

    /// A token that may do nothing with keys.
    pub(crate) async fn stranger(&self, name: &str) -> Arc<Principal> {
        self.principal(name, r#"path "other/*" { capabilities = ["read"] }"#).await
    }

    pub(crate) async fn key(&self, spec: KeySpec) -> KeyMetadata {
        self.kms.create_key(&self.root, &self.call(), create(spec)).await.unwrap()
    }

    pub(crate) async fn data_key(&self, by: &Principal, key: &KeyRef) -> Result<kms::GeneratedDataKey, KmsError> {
        self.kms.generate_data_key(by, &self.call(), data_key(key)).await
    }

    pub(crate) async fn encrypt(&self, key: &KeyRef, plaintext: &[u8], pairs: &[(&str, &str)]) -> Bytes {
        let plaintext = SecretBytes::copy_from(plaintext);
        let command = kms::Encrypt { key: key.clone(), plaintext, context: context(pairs) };
        self.kms.encrypt(&self.root, &self.call(), command).await.unwrap().ciphertext_blob
    }

    pub(crate) async fn decrypt(
        &self,
        by: &Principal,
        blob: &Bytes,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<u8>, KmsError> {
        let command = kms::Decrypt { ciphertext_blob: blob.clone(), context: context(pairs), key: None };
        self.kms.decrypt(by, &self.call(), command).await.map(|out| out.plaintext.expose().to_vec())
    }

    pub(crate) fn stop_module(&self) {
        *self.boundary.module.lock().unwrap() = None;
    }

    pub(crate) fn start_module(&self) {
        self.stop_module();
        *self.boundary.module.lock().unwrap() = Some(Arc::new(start_module(&self.dir.path().join("hsm"), &self.clock)));
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    /// The log, as far as it is written: lines of JSON.
    pub(crate) fn log(&self) -> Vec<u8> {
        let log = LogReader::over(LogFolder::open(&self.log_path()).unwrap());
        let (mut entries, mut out) = (log.iter_from(0).unwrap(), Vec::new());
        while let Some((_, entry)) = entries.read().unwrap() {
            out.push(Entry::decode(entry).unwrap().to_json(None));
        }
        out.concat().into_bytes()
    }

    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let log = String::from_utf8(self.log()).unwrap();
        let records: Vec<_> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for record in &records {
            check_latency(record);
        }
        records
    }

    /// What `act` adds to the log.
    pub(crate) async fn recorded<T>(&self, act: impl Future<Output = T>) -> (T, Vec<serde_json::Value>) {
        let before = self.records().len();
        let outcome = act.await;
        (outcome, self.records().split_off(before))
    }

    pub(crate) fn requests(&self) -> usize {
        self.boundary.requests.load(Ordering::Relaxed)
    }
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

fn make_kms(
    boundary: &Arc<InProcess>,
    store: &Arc<dyn Storage>,
    barrier: &Arc<Barrier>,
    sink: &Arc<Log>,
    changes: &Changes,
) -> Kms {
    let caches = Arc::new(kms::Caches::new(1000));
    let kms = Kms::new(kms::Seams {
        boundary: Arc::clone(boundary) as Arc<dyn Boundary>,
        barrier: Arc::clone(barrier),
        audit: sink.lane(),
        changes: changes.on_lane(sink.lane()),
        caches: Arc::clone(&caches),
        tenant: TENANT,
        generation: 1,
    })
    .unwrap();
    watch(store, kms.watched(), caches);
    kms
}

/// What is under way has taken no time yet, a change's record is part of it, and nobody waits for what the system does.
fn check_latency(record: &serde_json::Value) {
    let ended = record["outcome"] != "asked" && record.get("changes").is_none();
    let asked_for = record["operation"] != "AuditLog" && record["subject"]["type"] != "system";
    assert_eq!(record.get("latency_micros").is_some(), ended && asked_for, "{record}");
}

fn watch(store: &Arc<dyn Storage>, prefix: EntryPath, cache: Arc<dyn Invalidate>) {
    tokio::spawn(follow(Arc::clone(store), prefix, vec![cache]));
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

pub(crate) fn create(spec: KeySpec) -> CreateKey {
    CreateKey { spec, usage: None, level: None, description: Description::default(), client_request_id: None }
}

pub(crate) fn data_key(key: &KeyRef) -> GenerateDataKey {
    GenerateDataKey { key: key.clone(), length: DataKeyBytes::AES_256, context: EncryptionContext::default() }
}

pub(crate) fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    EncryptionContext::parse(pairs.iter().copied()).unwrap()
}

pub(crate) fn id(key: &KeyMetadata) -> KeyRef {
    KeyRef::Id(key.key_id)
}

pub(crate) fn unknown_id() -> KeyId {
    KeyId::from_random([0x99; 16])
}

/// `PERMISSION_DENIED`, or `INVALID_FIELD number_of_bytes`.
pub(crate) fn told<T: Debug>(outcome: &Result<T, KmsError>) -> String {
    match outcome {
        Ok(_) => "OK".to_owned(),
        Err(error) => match error.field() {
            Some(field) => format!("{} {field}", error.reason()),
            None => error.reason().to_owned(),
        },
    }
}

/// What watchers tell reaches a cache soon, not at once.
pub(crate) async fn soon<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) -> bool {
    for _ in 0..200 {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
