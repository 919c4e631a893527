//! A log that its writer made, and the command line over it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]
#![allow(dead_code, reason = "each test file takes what it needs")]

use audit::record::{AuditorPublic, Decision, Item, Outcome, Record, Subject};
use audit::{AuditSink, CheckpointSigner, Log, LogOptions, OpenError, SignError};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use envelope::{ManualClock, Timestamp};
use futures_util::future::{BoxFuture, FutureExt as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
pub(crate) const ORIGIN: &str = "strongroom.audit/00112233445566778899aabbccddeeff/1";

#[derive(Debug)]
pub(crate) struct Signer(Ed25519KeyPair);

impl CheckpointSigner for Signer {
    fn verifier(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: [u8; 32],
        _proof: Vec<[u8; 32]>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let body = audit::checkpoint::Checkpoint { origin, size, root }.body();
        let signature = self.0.sign(body.as_bytes()).as_ref().try_into().unwrap();
        async move { Ok(signature) }.boxed()
    }

    fn sign_batch(&self, batch: audit::receipt::Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let signature = self.0.sign(batch.body().as_bytes()).as_ref().try_into().unwrap();
        async move { Ok(signature) }.boxed()
    }
}

/// A log's folder, and a folder to work in with a copy of the key.
pub(crate) struct Rig {
    pub(crate) log: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) auditor: Option<AuditorPublic>,
    pub(crate) _folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (log, work) = (folder.path().join("data/audit"), folder.path().join("work"));
        fs::create_dir(&work).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        Self { log, work, auditor: None, _folder: folder }
    }

    pub(crate) fn with_entries(count: u64) -> Self {
        let rig = Self::new();
        let log = rig.open();
        rig.append(&log, 0..count);
        rig
    }

    pub(crate) fn open(&self) -> Arc<Log> {
        let options = LogOptions {
            dir: self.log.clone(),
            origin: ORIGIN.into(),
            node: "1".into(),
            signer: Arc::new(Signer(Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap())),
            checkpoint_every: Duration::from_millis(20),
            personal: self.auditor,
            clock: Arc::new(ManualClock::at(Timestamp::from_unix_millis(START))),
            reserve_bytes: 64 << 10,
            remembered: None,
        };
        // a child that another test is about to start holds our files until it is
        let began = Instant::now();
        let log = loop {
            match Log::open(options.clone()) {
                Err(OpenError::Held) if began.elapsed() < Duration::from_secs(20) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => break opened.unwrap(),
            }
        };
        fs::copy(self.log.join("log.vkey"), self.work.join("log.vkey")).unwrap();
        log
    }

    /// All are durable, and signed.
    pub(crate) fn append(&self, log: &Log, numbers: std::ops::Range<u64>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lane: Arc<dyn AuditSink> = log.lane();
            let appended: Vec<_> = numbers.map(|number| lane.append(draft(number))).collect();
            for outcome in futures_util::future::join_all(appended).await {
                outcome.unwrap();
            }
            let mut checkpoints = log.checkpoints();
            let signed =
                checkpoints.wait_for(|signed| signed.as_ref().is_some_and(|signed| signed.0.size == log.size()));
            tokio::time::timeout(Duration::from_secs(20), signed).await.expect("it is signed").unwrap();
        });
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(STRONGROOM);
        command.arg("audit").args(line.split_whitespace()).current_dir(&self.work).env_clear();
        command
    }

    pub(crate) fn run(&self, line: &str) -> Said {
        let output = self.command(line).stdin(Stdio::null()).output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// With the log and the key that was kept elsewhere.
    pub(crate) fn on_log(&self, line: &str) -> Said {
        self.run(&format!("{line} --dir {} --key log.vkey", self.log.display()))
    }

    pub(crate) fn read_only(&self, line: &str) -> Vec<serde_json::Value> {
        let said = self.run(&format!("{line} --dir {}", self.log.display()));
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{line}");
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.work).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }

    pub(crate) fn field(&self, name: &str) -> String {
        let line = self.stdout.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name}: {} {}", self.stdout, self.stderr))[name.len()..].trim().to_owned()
    }
}

pub(crate) const SECOND: u64 = 1000;
pub(crate) const START: u64 = 1_800_000_000 * SECOND;

/// One a second from 2027-01-15T08:00:00Z on.
pub(crate) fn draft(number: u64) -> bytes::Bytes {
    let subject = Subject::Token { accessor: format!("{:032x}", number % 3), name: format!("user-{}", number % 3) };
    let request_id = format!("{number:032x}");
    let path = format!("kms/keys/00000000-0000-4000-8000-{:012x}/decrypt", number % 5);
    let mut record =
        Record::new(Timestamp::from_unix_millis(START + number * SECOND), &request_id, "Decrypt", &subject);
    record.decision = Decision::Allowed;
    record.from = "192.0.2.7:99";
    record.path = &path;
    record.outcome = if number % 10 == 9 { Outcome::Failed("INVALID_CIPHERTEXT".into()) } else { Outcome::Done };
    let key_id = Some("11111111-0000-4000-8000-000000000000".to_owned());
    let items = [Item { key_id, ..item() }];
    if number == 7 {
        record.operation = "BatchDecrypt";
        record.items = &items;
    }
    record.encode()
}

pub(crate) fn item() -> Item {
    serde_json::from_value(serde_json::json!({"index": 0, "outcome": {"failed": "KEY_DISABLED"}})).unwrap()
}

pub(crate) fn indexes(lines: &[serde_json::Value]) -> Vec<u64> {
    lines.iter().map(|line| line["index"].as_u64().unwrap()).collect()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            let _ = fs::copy(entry.path(), target).unwrap();
        }
    }
}
