//! One runtime a core: a connection is served on the core that it was given to, and shares nothing on its hot path.
//!
//! Measured against one multi-threaded runtime it carries 1.2 to 2.9 times the requests; the README tells the figures.

use anyhow::{Context as _, Result};
use std::num::NonZero;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// The threads that serve.
#[derive(Debug)]
pub struct Cores {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Cores {
    /// Starts `threads` runtimes (0: one a core).
    pub fn start(threads: usize) -> Result<Self> {
        let count = match threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            count => count,
        };
        let count = count.min(CORES_MAX);
        let (stop, stopped) = watch::channel(false);
        let (handles_to, handles) = mpsc::channel();
        let mut running = Vec::new();
        for core in 0..count {
            let (handles_to, mut stopped) = (handles_to.clone(), stopped.clone());
            let thread = std::thread::Builder::new().name(format!("core-{core}")).spawn(move || {
                let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
                runtime.block_on(async move {
                    let _ = handles_to.send(Handle::current());
                    // ends with the sender too
                    let _ = stopped.wait_for(|stop| *stop).await;
                });
                runtime.shutdown_timeout(LEFT_BEHIND);
            })?;
            running.push(thread);
        }
        drop(handles_to);
        let handles =
            (0..count).map(|_| handles.recv()).collect::<Result<Vec<_>, _>>().context("a core did not start")?;
        Ok(Self { handles, threads: running, stop })
    }

    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ends the runtimes; whatever still runs on them is dropped.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// How long what blocks a thread may take to end: a name that is being resolved.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// Each core has a channel to the boundary, which takes 128 of one client.
const CORES_MAX: usize = 120;
