//! A store beyond a network: a change takes a while on its way, so that what two nodes decided on at once meets there.

use futures_util::stream::BoxStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use storage::{
    AtLeast, Batch, Change, Claim, CommitError, CommitId, Entry, EntryPath, Page, Revision, Storage, StorageError,
};

#[derive(Debug)]
pub(crate) struct Far(pub(crate) Arc<dyn Storage>);

const WAY: Duration = Duration::from_millis(4);

#[async_trait::async_trait]
impl Storage for Far {
    async fn get(&self, paths: &[EntryPath], at: AtLeast) -> Result<(Revision, Vec<Option<Entry>>), StorageError> {
        self.0.get(paths, at).await
    }

    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<Page, StorageError> {
        self.0.scan(prefix, after, limit, at).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        tokio::time::sleep(WAY).await;
        self.0.commit(batch).await
    }

    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError> {
        self.0.committed(id).await
    }

    fn watch(&self, prefix: &EntryPath, from: Revision) -> BoxStream<'static, Change> {
        self.0.watch(prefix, from)
    }

    fn hearing(&self) -> Option<tokio::sync::watch::Receiver<storage::Moment>> {
        self.0.hearing()
    }

    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<Claim>, StorageError> {
        self.0.claim(queue, limit, for_).await
    }

    async fn backup(&self, to: &Path) -> Result<Revision, StorageError> {
        self.0.backup(to).await
    }
}
