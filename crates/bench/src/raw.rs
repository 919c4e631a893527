//! The raw group commit: 64 writers, one log on the same disk, one fdatasync a group. What durability alone costs.

use crate::load::Seen;
use crate::rig;
use anyhow::Result;
use hdrhistogram::Histogram;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

type Waiting = Vec<(Vec<u8>, oneshot::Sender<()>)>;

/// One window of `writers` tasks, each appending records of `bytes` and waiting until they are durable. Tells the
/// number of syncs too, and the CPU seconds of all of it.
pub(crate) fn window(folder: &Path, writers: usize, bytes: usize, length: Duration) -> Result<(Seen, u64, f64)> {
    let path = folder.join("raw-group-commit");
    let file = File::create(&path)?;
    // preallocated and zeroed, as the audit log is
    file.write_all_at(&vec![0; 64 << 20], 0)?;
    file.sync_all()?;
    let used = rig::cpu_secs(std::process::id())?;
    let queue: Arc<Mutex<Waiting>> = Arc::default();
    let (more, stop) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let seen = runtime.block_on(async {
        let writer = tokio::spawn(commit(file, Arc::clone(&queue), Arc::clone(&more), Arc::clone(&stop)));
        let began = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|_| tokio::spawn(append(bytes, Arc::clone(&queue), Arc::clone(&more), Arc::clone(&stop))))
            .collect();
        tokio::time::sleep(length).await;
        stop.store(true, Ordering::Relaxed);
        let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        for task in tasks {
            latency.add(task.await??)?;
        }
        let elapsed = began.elapsed();
        more.notify_one();
        let syncs = writer.await??;
        let used = rig::cpu_secs(std::process::id())? - used;
        anyhow::Ok((Seen { calls: latency.len(), elapsed, latency }, syncs, used))
    });
    std::fs::remove_file(&path)?;
    seen
}

async fn append(
    bytes: usize,
    queue: Arc<Mutex<Waiting>>,
    more: Arc<Notify>,
    stop: Arc<AtomicBool>,
) -> Result<Histogram<u64>> {
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let (done, durable) = oneshot::channel();
        queue.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?.push((vec![b'x'; bytes], done));
        more.notify_one();
        durable.await?;
        latency.saturating_record(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(latency)
}

async fn commit(file: File, queue: Arc<Mutex<Waiting>>, more: Arc<Notify>, stop: Arc<AtomicBool>) -> Result<u64> {
    let file = Arc::new(file);
    let (mut at, mut syncs) = (0, 0);
    loop {
        let group = std::mem::take(&mut *queue.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        if group.is_empty() {
            if stop.load(Ordering::Relaxed) {
                return Ok(syncs);
            }
            more.notified().await;
            continue;
        }
        let buffer: Vec<u8> = group.iter().flat_map(|(record, _)| record.iter().copied()).collect();
        let (here, handle) = (at, Arc::clone(&file));
        at = (at + buffer.len() as u64) % (60 << 20);
        tokio::task::spawn_blocking(move || handle.write_all_at(&buffer, here).and_then(|()| handle.sync_data()))
            .await??;
        syncs += 1;
        for (_, done) in group {
            let _ = done.send(());
        }
    }
}
