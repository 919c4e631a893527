//! A log of many real records: what `strongroom audit verify` takes for it, in time and in memory.
//!
//! `STRONGROOM_AUDIT_RECORDS`, 200,000 if not set; `cargo xtask audit` runs it with ten million.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "the figures are part of the result")]

use audit::{CheckpointSigner, Decision, Log, LogOptions, Outcome, Record, SignError, Subject};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use envelope::merkle::Hash;
use envelope::{ManualClock, Timestamp};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::{Pid, binary};

/// Signs whatever it is asked: no boundary's rule is looked at here.
#[derive(Debug)]
struct Signer(Ed25519KeyPair);

impl CheckpointSigner for Signer {
    fn verifier(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        _: Vec<Hash>,
    ) -> Pin<Box<dyn Future<Output = Result<[u8; 64], SignError>> + Send>> {
        let signature = self.0.sign(&hsm_api::checkpoint::note_body(&origin, size, &root));
        Box::pin(std::future::ready(Ok(signature.as_ref().try_into().unwrap())))
    }
}

fn open(dir: &Path) -> Arc<Log> {
    let key = Signer(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1)));
    Log::open(LogOptions::new(dir.to_owned(), "strongroom.audit/size/1".to_owned(), "1", Arc::new(key), clock)).unwrap()
}

/// Makes the log as long as that, by its own writer, many records a sync. Bytes of an entry, about.
async fn write(log: &Log, entries: u64) -> usize {
    let (lane, subject) = (log.lane(), Subject::Token { accessor: "90".repeat(16), name: "an-application".to_owned() });
    let mut bytes = 0;
    while log.size() < entries {
        let count = (entries - log.size()).min(BURST);
        let waiting: Vec<_> = (0..count)
            .map(|at| {
                let encoded = record(&subject, log.size() + at).encode();
                bytes = encoded.len();
                lane.append(encoded)
            })
            .collect();
        for answer in waiting {
            answer.await.unwrap();
        }
    }
    bytes
}

fn record(subject: &Subject, number: u64) -> Record<'_> {
    let mut record = Record::new(Timestamp::from_unix_millis(number), REQUEST_ID, "GenerateDataKey", subject);
    record.path = "kms/keys/f9b33630-a56a-44b2-92ab-8e4c8c044144/generate-data-key";
    record.from = "192.0.2.10:54321";
    record.decision = Decision::Allowed;
    record.rule = "policy/application";
    record.outcome = Outcome::Asked;
    record.context_hmac = Some(CONTEXT_HMAC);
    record
}

/// Seconds of CPU, and the most memory that it took.
struct Took {
    entries: u64,
    cpu_secs: f64,
    elapsed: Duration,
    peak_kib: u64,
}

/// By the command line, in a process of its own.
fn verify(dir: &Path) -> Took {
    let mut command = Command::new(binary("strongroom"));
    command.args(["audit", "verify", "--output", "json", "--dir"]).arg(dir);
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pid = Pid(child.id());
    let (mut peak_kib, mut cpu_secs) = (0, 0.0_f64);
    // what it says of itself until it is gone: both only rise
    while child.try_wait().unwrap().is_none() {
        let kib = pid.field("VmHWM:").and_then(|kib| kib.trim_end_matches("kB").trim().parse().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        cpu_secs = cpu_secs.max(pid.cpu_secs().unwrap_or(0.0));
        std::thread::sleep(Duration::from_millis(2));
    }
    let elapsed = began.elapsed();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Took { entries: report["entries"].as_u64().unwrap(), cpu_secs, elapsed, peak_kib }
}

fn records() -> u64 {
    let Some(records) = std::env::var_os("STRONGROOM_AUDIT_RECORDS") else { return 200_000 };
    records
        .to_str()
        .and_then(|records| records.parse().ok())
        .unwrap_or_else(|| panic!("STRONGROOM_AUDIT_RECORDS is no number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_log_is_verified_in_the_same_memory() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    let mut peaks = Vec::new();
    for entries in [records() / 10, records()] {
        let log = open(&dir);
        let began = Instant::now();
        let before = log.size();
        let bytes = write(&log, entries).await;
        let rate = (entries - before) as f64 / began.elapsed().as_secs_f64();
        println!("written: {} entries of {bytes} bytes, {rate:.0} a second, all durable", entries - before);
        tokio::task::spawn_blocking(move || drop(log)).await.unwrap();
        let took = verify(&dir);
        assert_eq!(took.entries, entries);
        let Took { cpu_secs, elapsed, peak_kib, .. } = took;
        println!(
            "verified: {entries} entries in {:.1} s and {cpu_secs:.1} s of CPU: {:.0} a second of one core; peak memory {:.1} MiB",
            elapsed.as_secs_f64(),
            entries as f64 / cpu_secs.max(0.01),
            peak_kib as f64 / 1024.0
        );
        peaks.push(peak_kib as f64);
    }
    let ratio = peaks[1] / peaks[0];
    println!("peak memory for ten times the entries: {ratio:.2} of it (at most {RATIO_MAX})");
    assert!(ratio <= RATIO_MAX, "{peaks:?} KiB");
}

const RATIO_MAX: f64 = 1.2;
/// So many wait at once; the log's queue takes them.
const BURST: u64 = 8_192;
const REQUEST_ID: &str = "67e509be3be4168ddbf76bc9c0cf2124";
const CONTEXT_HMAC: &str = "ff15a63b447666aea698a5f3d23fd3a2c22f4ee92eeef82e4a6563e069776098";
