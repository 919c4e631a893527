//! A backup on its way to whoever asked for it: one at a time, in pieces, from a copy beside the store.
//!
//! Always: whoever does not take a piece for a while loses the backup, and others may have theirs.
//! Never: a copy that outlives its backup, also where its caller has left while it was made.

use api::{BackupPiece, OperatorError};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::{Revision, Storage, StorageError};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

type Piece = Result<BackupPiece, OperatorError>;

#[derive(Debug)]
pub(super) struct Backups {
    storage: Arc<dyn Storage>,
    /// Where a copy stands until it is open.
    copy: PathBuf,
    one: Arc<Semaphore>,
    stall: Duration,
}

/// A copy that is being sent: others wait for its end. Its file goes with it.
struct Copy {
    path: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

impl Backups {
    /// Nobody else uses `copy`.
    pub(super) fn new(storage: Arc<dyn Storage>, copy: PathBuf) -> Self {
        // of a process that was killed while it made one
        let _none = std::fs::remove_file(&copy);
        storage::sqlite::remove_partial(&copy);
        Self { storage, copy, one: Arc::new(Semaphore::new(1)), stall: STALL }
    }

    /// In a task of its own: the store goes on copying where the caller leaves, and somebody must clear the copy away.
    pub(super) async fn start(&self) -> Result<BoxStream<'static, Piece>, OperatorError> {
        let permit = Arc::clone(&self.one).try_acquire_owned().map_err(|_| OperatorError::Busy)?;
        let copy = Copy { path: self.copy.clone(), _permit: permit };
        let (made_to, made) = oneshot::channel();
        let (pieces_to, pieces) = mpsc::channel(PIECES_AHEAD);
        let (storage, stall) = (Arc::clone(&self.storage), self.stall);
        tokio::spawn(async move {
            match open(&*storage, &copy).await {
                Ok((file, revision)) => {
                    if made_to.send(Ok(())).is_ok() {
                        send(file, revision, copy, &Outlet { pieces: pieces_to, stall }).await;
                    }
                }
                Err(error) => {
                    drop(copy);
                    let _caller_gone = made_to.send(Err(error));
                }
            }
        });
        made.await.unwrap_or(Err(OperatorError::Internal))?;
        Ok(stream::unfold(Some(pieces), next).boxed())
    }
}

async fn open(storage: &dyn Storage, copy: &Copy) -> Result<(File, Revision), OperatorError> {
    let revision = storage.backup(&copy.path).await.map_err(|error| {
        tracing::error!(%error, "a backup was not made");
        refused(&error)
    })?;
    let file = File::open(&copy.path).await.map_err(|error| unreadable(&error))?;
    // without a name the file is gone with this process, however that ends
    std::fs::remove_file(&copy.path).map_err(|error| unreadable(&error))?;
    Ok((file, revision))
}

struct Outlet {
    pieces: mpsc::Sender<Piece>,
    stall: Duration,
}

/// Nobody takes any more.
struct Untaken;

impl Outlet {
    async fn put(&self, piece: Piece) -> Result<(), Untaken> {
        match tokio::time::timeout(self.stall, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_caller_gone)) => Err(Untaken),
            Err(_) => {
                tracing::warn!("a backup was given up: its caller takes nothing");
                Err(Untaken)
            }
        }
    }
}

/// Others may have theirs before the last piece is taken.
async fn send(mut file: File, revision: Revision, copy: Copy, outlet: &Outlet) {
    let mut digest = Sha256::new();
    let last = loop {
        let mut data = Vec::with_capacity(PIECE_BYTES);
        match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut data).await {
            Ok(0) => break Ok(BackupPiece::End { sha256: digest.finalize().into(), revision: revision.0 }),
            Ok(_) => digest.update(&data),
            Err(error) => break Err(unreadable(&error)),
        }
        if let Err(Untaken) = outlet.put(Ok(BackupPiece::Data(Bytes::from(data)))).await {
            return;
        }
    };
    drop(copy);
    let _untaken = outlet.put(last).await;
}

/// What follows; an error is the last.
async fn next(pieces: Option<mpsc::Receiver<Piece>>) -> Option<(Piece, Option<mpsc::Receiver<Piece>>)> {
    let mut pieces = pieces?;
    match pieces.recv().await {
        Some(Ok(data @ BackupPiece::Data(_))) => Some((Ok(data), Some(pieces))),
        Some(last) => Some((last, None)),
        // given up
        None => Some((Err(OperatorError::Busy), None)),
    }
}

fn refused(error: &StorageError) -> OperatorError {
    match error {
        StorageError::Unavailable | StorageError::Full => OperatorError::StorageUnavailable,
        StorageError::TargetExists => OperatorError::Busy,
        StorageError::Damaged(_) | StorageError::Format { .. } | StorageError::Held | StorageError::TooLarge => {
            OperatorError::Internal
        }
    }
}

fn unreadable(error: &std::io::Error) -> OperatorError {
    tracing::error!(%error, "a backup could not be read");
    OperatorError::Internal
}

const PIECE_BYTES: usize = api::operator_grpc::BACKUP_PIECE_BYTES_MAX;
/// Pieces read before they are taken.
const PIECES_AHEAD: usize = 4;
/// Whoever takes no piece for so long loses the backup. Who takes them slowly has as long as the connection lives.
const STALL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use storage::{Batch, CommitId, EntryPath, Sqlite};
    use tempfile::TempDir;

    /// A store of 2 MiB.
    async fn house() -> (TempDir, Arc<Backups>) {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(Sqlite::open(folder.path()).unwrap());
        for number in 0..8_u8 {
            let path = EntryPath::parse(&format!("t/{number}")).unwrap();
            let batch = Batch::new(CommitId([number; 16])).put(path, vec![number; 256 << 10]);
            storage.commit(batch).await.unwrap();
        }
        let backups = Backups::new(storage, folder.path().join("copy.db"));
        (folder, Arc::new(Backups { stall: Duration::from_millis(300), ..backups }))
    }

    fn copies(folder: &TempDir) -> Vec<String> {
        let names = std::fs::read_dir(folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("copy")).collect()
    }

    /// All of it; once the place is free.
    async fn whole(backups: &Backups) -> Result<u64, OperatorError> {
        let began = tokio::time::Instant::now();
        let mut pieces = loop {
            match backups.start().await {
                Err(OperatorError::Busy) if began.elapsed() < Duration::from_secs(5) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                started => break started?,
            }
        };
        let (mut digest, mut bytes) = (Sha256::new(), 0);
        while let Some(piece) = pieces.next().await {
            match piece? {
                BackupPiece::Data(data) => {
                    bytes += data.len() as u64;
                    digest.update(&data);
                }
                BackupPiece::End { sha256, revision } => {
                    assert_eq!((sha256, revision), (digest.clone().finalize().into(), 8));
                    assert!(pieces.next().await.is_none());
                    return Ok(bytes);
                }
            }
        }
        panic!("a backup without an end");
    }

    #[tokio::test]
    async fn a_backup_is_whole_and_leaves_nothing_behind() {
        let (folder, backups) = house().await;
        for _ in 0..2 {
            assert!(whole(&backups).await.unwrap() > 2 << 20);
            assert_eq!(copies(&folder), [""; 0]);
        }
    }

    #[tokio::test]
    async fn who_stops_reading_loses_the_backup_and_others_have_theirs() {
        let (folder, backups) = house().await;
        let mut stalled = backups.start().await.unwrap();
        assert!(matches!(stalled.next().await, Some(Ok(BackupPiece::Data(_)))));
        assert!(matches!(backups.start().await, Err(OperatorError::Busy)), "one at a time");
        assert!(whole(&backups).await.is_ok());
        let mut last = None;
        while let Some(piece) = stalled.next().await {
            last = Some(piece);
        }
        assert_eq!(last, Some(Err(OperatorError::Busy)), "what there was is no backup");
        assert_eq!(copies(&folder), [""; 0]);
    }

    #[tokio::test]
    async fn who_leaves_early_leaves_no_copy_behind() {
        let (folder, backups) = house().await;
        // while it is read
        let mut left = backups.start().await.unwrap();
        left.next().await.unwrap().unwrap();
        assert_eq!(copies(&folder), [""; 0], "it has no name");
        drop(left);
        assert!(whole(&backups).await.is_ok());
        // while it is made
        for _ in 0..3 {
            let mut started = Box::pin(backups.start());
            assert!(poll!(&mut started).is_pending());
            tokio::task::yield_now().await;
            drop(started);
            assert!(whole(&backups).await.is_ok());
            assert_eq!(copies(&folder), [""; 0]);
        }
    }
}
