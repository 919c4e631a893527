//! Checkpoints: what the log holds goes into the file, so that the log stays small.
//!
//! A thread of its own does the bulk while the writer goes on; the writer then does the little that came in between, after
//! which the log begins anew. Neither waits for readers.

use super::{schema, spawn};
use crate::StorageError;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The writer's end.
pub(super) struct Checkpoints {
    wake: SyncSender<()>,
    /// Pages in the log, as SQLite says at each commit.
    pages: Arc<AtomicI32>,
    bulk_done: Arc<AtomicBool>,
    asked: bool,
}

impl Checkpoints {
    pub(super) fn start(file: &Path, threads: &mut Vec<JoinHandle<()>>) -> Result<Self, StorageError> {
        let connection = schema::connect(file)?;
        schema::leave_log(&connection)?;
        // A thread that checkpoints syncs the log before the file, and the file before it frees the log.
        connection.pragma_update(None, "synchronous", "FULL").map_err(|error| schema::storage_error(&error))?;
        let (wake, woken) = sync_channel(1);
        let bulk_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&bulk_done);
        threads.push(spawn("store-checkpoint", move || run(&connection, &woken, &done))?);
        Ok(Self { wake, pages: Arc::default(), bulk_done, asked: false })
    }

    /// Has the writer's connection count the pages of its log.
    pub(super) fn count(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let pages = Arc::clone(&self.pages);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, in_log| {
            pages.store(in_log, Ordering::Relaxed);
            Ok(())
        }))
    }

    /// Asked by the writer after each group.
    pub(super) fn after_group(&mut self, connection: &Connection) {
        if self.bulk_done.swap(false, Ordering::Acquire) {
            passive(connection);
            self.asked = false;
        } else if !self.asked && self.pages.load(Ordering::Relaxed) >= LOG_PAGES {
            self.asked = self.wake.try_send(()).is_ok();
        }
    }
}

fn run(connection: &Connection, woken: &Receiver<()>, bulk_done: &AtomicBool) {
    while woken.recv().is_ok() {
        passive(connection);
        bulk_done.store(true, Ordering::Release);
    }
}

fn passive(connection: &Connection) {
    // A checkpoint that fails loses nothing: the log keeps what it has, and the next one tries again.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(%error, "checkpoint");
    }
}

/// 16 MiB: what is written over and over goes into the file once.
const LOG_PAGES: i32 = 4096;
