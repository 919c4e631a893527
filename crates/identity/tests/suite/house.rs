//! A store, a log and a clock; any number of nodes over them.

use audit::read::{LogFolder, LogReader};
use audit::record::Entry;
use audit::{AuditSink, CheckpointSigner, Log, LogOptions, SignError};
use envelope::merkle::Hash;
use envelope::{Clock, ManualClock, SecretBytes, Timestamp};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use identity::{
    Caches, Changes, CreateToken, Identities, IdentityError, PeerCertificate, Principal, RequestInfo, Seams, Standing,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use storage::{Barrier, Keyring, Memory, Sqlite, Storage, sqlite};

pub(crate) const ROOT: &[u8] = b"root-token-of-the-tests";
pub(crate) const START: u64 = 1_700_000_000_000;
pub(crate) const TENANT: [u8; 16] = [7; 16];

pub(crate) struct House {
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) clock: ManualClock,
    pub(crate) log: PathBuf,
    pub(crate) file: Arc<Log>,
    requests: AtomicU64,
    dir: tempfile::TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_unix_millis(START));
        let store = Arc::new(Memory::with_clock(Arc::new(clock.clone())));
        Self::over(store, clock, tempfile::tempdir().unwrap(), Keyring::generate().unwrap())
    }

    /// Over the embedded store.
    pub(crate) fn on_disk() -> Self {
        let clock = ManualClock::at(Timestamp::from_unix_millis(START));
        Self::open_disk(clock, tempfile::tempdir().unwrap(), Keyring::generate().unwrap())
    }

    /// The same folder, opened by another process. Its time is the same.
    pub(crate) fn restart(self, keyring: Keyring) -> Self {
        let Self { store, barrier, clock, file, dir, .. } = self;
        drop((store, barrier, file));
        Self::open_disk(clock, dir, keyring)
    }

    pub(crate) fn open_disk(clock: ManualClock, dir: tempfile::TempDir, keyring: Keyring) -> Self {
        let options = sqlite::Options { clock: Arc::new(clock.clone()), ..sqlite::Options::default() };
        let store = Arc::new(Sqlite::open_with(&dir.path().join("store"), options).unwrap());
        Self::over(store, clock, dir, keyring)
    }

    fn over(store: Arc<dyn Storage>, clock: ManualClock, dir: tempfile::TempDir, keyring: Keyring) -> Self {
        let barrier = Arc::new(Barrier::new(Arc::clone(&store), [1; 16], keyring));
        let log = dir.path().join("audit");
        let file = open_log(log.clone());
        Self { store, barrier, clock, log, file, requests: AtomicU64::new(0), dir }
    }

    pub(crate) fn sink(&self) -> Arc<dyn AuditSink> {
        self.file.lane()
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes::new(Arc::clone(&self.barrier), self.sink(), 1)
    }

    /// A node with caches of its own that follow the store.
    pub(crate) fn node(&self) -> Identities {
        self.node_of(1, TENANT)
    }

    pub(crate) fn node_of(&self, generation: u64, tenant: [u8; 16]) -> Identities {
        let caches = Arc::new(Caches::new(100));
        let seams = Seams {
            barrier: Arc::clone(&self.barrier),
            tenant,
            generation,
            changes: self.changes(),
            caches: Arc::clone(&caches),
        };
        let identities = Identities::new(seams).unwrap();
        tokio::spawn(storage::follow(Arc::clone(&self.store), identities.watched(), vec![caches]));
        identities
    }

    /// A node, and the root token's holder.
    pub(crate) async fn open(&self) -> (Identities, Arc<Principal>) {
        let node = self.node();
        node.create_root(ROOT, &self.call()).await.unwrap();
        let root = node.authenticate(Some(ROOT), None, &self.call()).await.unwrap();
        (node, root)
    }

    /// A new request, now.
    pub(crate) fn call(&self) -> RequestInfo {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        RequestInfo::new(format!("request-{number}"), "192.0.2.1:5".into(), self.clock.now())
    }

    pub(crate) fn entries_below(&self, folder: &str) -> impl Future<Output = Vec<String>> + use<> {
        let prefix = storage::EntryPath::parse(&format!("{}/identity/{folder}", "07".repeat(16))).unwrap();
        let store = Arc::clone(&self.store);
        async move {
            let page = store.scan(&prefix, None, 1000, storage::AtLeast::Latest).await.unwrap();
            page.entries.into_iter().map(|(path, _)| path.to_string()).collect()
        }
    }

    /// The log's records so far, as lines of JSON; but what it tells of itself.
    pub(crate) fn lines(&self) -> Vec<String> {
        let log = LogReader::over(LogFolder::open(&self.log).unwrap());
        let (mut entries, mut out) = (log.iter_from(0).unwrap(), Vec::new());
        while let Some((_, entry)) = entries.read().unwrap() {
            out.push(Entry::decode(entry).unwrap().to_json(None));
        }
        out.retain(|line| !line.contains(r#""operation":"AuditLog""#));
        out
    }

    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// operation, subject's type, path, decision, rule, outcome: of the last `count` records.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let records = self.records();
        let text = |value: &serde_json::Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None if value.is_null() => String::new(),
            None => value.to_string(),
        };
        let shown = records.iter().skip(records.len().saturating_sub(count)).map(|record| {
            let fields = [
                &record["operation"],
                &record["subject"]["type"],
                &record["path"],
                &record["decision"],
                &record["rule"],
                &record["outcome"],
            ];
            fields.map(text).join(" ")
        });
        shown.collect()
    }
}

pub(crate) fn policies(names: &[&str]) -> Vec<identity::PolicyName> {
    names.iter().map(|name| identity::PolicyName::parse(name).unwrap()).collect()
}

pub(crate) fn token(names: &[&str], ttl_secs: u64) -> CreateToken {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CreateToken::parse(&names, "", ttl_secs, 0, &[]).unwrap()
}

pub(crate) fn certificate(thumbprint: u8, common_name: &str, sans: &[&str]) -> PeerCertificate {
    PeerCertificate {
        thumbprint: [thumbprint; 32],
        common_name: Some(common_name.to_owned()),
        sans: sans.iter().map(|name| (*name).to_owned()).collect(),
        standing: Standing::Verified,
        ..PeerCertificate::default()
    }
}

/// Makes a token and its holder.
pub(crate) async fn child(
    house: &House,
    node: &Identities,
    by: &Principal,
    command: CreateToken,
) -> (SecretBytes, Arc<Principal>) {
    let created = node.create_token(by, &house.call(), command).await.unwrap();
    let holder = node.authenticate(Some(created.token.expose()), None, &house.call()).await.unwrap();
    (created.token, holder)
}

/// What the log would say of an attempt to come in, or nothing.
pub(crate) async fn refusal(house: &House, node: &Identities, token: &[u8]) -> Option<&'static str> {
    match node.authenticate(Some(token), None, &house.call()).await {
        Ok(_) => None,
        Err(error) => {
            assert!(matches!(error, IdentityError::Unauthenticated(_)), "{error}");
            assert_eq!((error.reason(), error.to_string().as_str()), ("UNAUTHENTICATED", "unauthenticated"));
            Some(error.cause())
        }
    }
}

/// Waits until it holds: at most the two seconds that revocation may take on another node.
pub(crate) async fn within_two_seconds<F: AsyncFnMut() -> bool>(mut holds: F) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within two seconds");
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
    let (origin, clock) =
        ("strongroom.audit/test".to_owned(), Arc::new(ManualClock::at(Timestamp::from_unix_millis(START))));
    let options = LogOptions::new(dir, origin, "1", Arc::new(Away), clock);
    Log::open(LogOptions { reserve_bytes: 1 << 16, ..options }).unwrap()
}
