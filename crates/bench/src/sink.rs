//! The audit log alone: callers on one runtime a core, as in the server, each appending records and waiting until they are
//! durable. Beside the raw group commit it tells what entries, lanes, tree and checkpoints cost.

use crate::load::Seen;
use anyhow::{Context as _, Result};
use audit::note::VerifierKey;
use audit::read::{LogFolder, LogReader};
use audit::verify::{self, Options};
use audit::{AuditSink, CheckpointSigner, Decision, Log, LogOptions, Outcome, Record, SignError, Subject};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use envelope::merkle::Hash;
use envelope::{ManualClock, Timestamp};
use futures_util::future::BoxFuture;
use hdrhistogram::Histogram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One window of `callers`. Tells the number of syncs too.
pub(crate) fn window(folder: &Path, callers: usize, length: Duration) -> Result<(Seen, u64)> {
    let dir = fresh(folder)?;
    let log = open(&dir)?;
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let latency = std::thread::scope(|threads| {
        let cores: Vec<_> = (0..CORES).map(|_| threads.spawn(|| core(&log, callers / CORES, &stop))).collect();
        std::thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        let mut all = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        for core in cores {
            all.add(core.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??)?;
        }
        anyhow::Ok(all)
    })?;
    let (elapsed, syncs) = (began.elapsed(), log.syncs());
    Ok((Seen { calls: latency.len(), elapsed, latency }, syncs))
}

/// Entries a second that one core verifies, of the log that the last window left. `None` where there is none.
pub(crate) fn verified(folder: &Path) -> Result<Option<(u64, f64)>> {
    let dir = folder.join(FOLDER);
    if !dir.exists() {
        return Ok(None);
    }
    let key = VerifierKey::parse(std::fs::read_to_string(dir.join(audit::read::VERIFIER_KEY))?.trim())?;
    let reader = LogReader::over(LogFolder::open(&dir)?);
    let began = Instant::now();
    let report = verify::verify(&reader, &key, &Options::default(), &mut |_| ()).context("the log does not verify")?;
    Ok(Some((report.entries, report.entries as f64 / began.elapsed().as_secs_f64())))
}

fn core(log: &Log, callers: usize, stop: &AtomicBool) -> Result<Histogram<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let lane = log.lane();
        let callers = (0..callers).map(|_| append(Arc::clone(&lane), stop));
        let mut all = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        for latency in futures_util::future::join_all(callers).await {
            all.add(latency?)?;
        }
        Ok(all)
    })
}

async fn append(lane: Arc<dyn AuditSink>, stop: &AtomicBool) -> Result<Histogram<u64>> {
    let subject = Subject::Token { accessor: "90".repeat(16), name: "an-application".to_owned() };
    let mut record = Record::new(Timestamp::from_unix_millis(1), REQUEST_ID, "GenerateDataKey", &subject);
    record.path = "kms/keys/f9b33630-a56a-44b2-92ab-8e4c8c044144/generate-data-key";
    record.from = "192.0.2.10:54321";
    record.decision = Decision::Allowed;
    record.rule = "policy/application";
    record.outcome = Outcome::Asked;
    record.context_hmac = Some(CONTEXT_HMAC);
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        lane.append(record.encode()).await?;
        latency.saturating_record(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(latency)
}

fn open(dir: &Path) -> Result<Arc<Log>> {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|_| anyhow::anyhow!("no key"))?;
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1)));
    let origin = "strongroom.audit/bench/1".to_owned();
    Ok(Log::open(LogOptions::new(dir.to_owned(), origin, "1", Arc::new(Signer(key)), clock))?)
}

/// A new log each time.
fn fresh(folder: &Path) -> Result<std::path::PathBuf> {
    let dir = folder.join(FOLDER);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(dir)
}

/// In this process: what the boundary's signature costs is seen in the rows of whole requests.
#[derive(Debug)]
struct Signer(Ed25519KeyPair);

impl CheckpointSigner for Signer {
    fn verifier(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        key
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        _: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let signature = self.0.sign(&hsm_api::checkpoint::note_body(&origin, size, &root));
        let signature = signature.as_ref().try_into().map_err(|_| SignError::Unavailable);
        Box::pin(std::future::ready(signature))
    }
}

const CORES: usize = 2;
const FOLDER: &str = "audit-log-alone";
const REQUEST_ID: &str = "67e509be3be4168ddbf76bc9c0cf2124";
const CONTEXT_HMAC: &str = "ff15a63b447666aea698a5f3d23fd3a2c22f4ee92eeef82e4a6563e069776098";
