//! What is committed at once: preconditions and writes, all or nothing.

use crate::{EntryPath, Revision, StorageError, VALUE_BYTES_MAX};
use bytes::Bytes;

/// Most preconditions and writes of a batch together.
pub const BATCH_OPERATIONS_MAX: usize = 128;

/// Most bytes of a batch's values together.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// 16 bytes that no other batch ever has: by them an unknown outcome is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitId(pub [u8; 16]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    Absent(EntryPath),
    RevisionIs(EntryPath, Revision),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put(EntryPath, Bytes),
    Delete(EntryPath),
}

impl Write {
    pub fn path(&self) -> &EntryPath {
        match self {
            Self::Put(path, _) | Self::Delete(path) => path,
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Self::Put(_, value) => value.len(),
            Self::Delete(_) => 0,
        }
    }
}

/// Conditions and writes that hold or happen together. Of two writes to one path the later counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub id: CommitId,
    pub preconditions: Vec<Precondition>,
    pub writes: Vec<Write>,
}

impl Precondition {
    pub fn path(&self) -> &EntryPath {
        match self {
            Self::Absent(path) | Self::RevisionIs(path, _) => path,
        }
    }

    /// Whether it holds for an entry of this revision, or for none.
    pub fn holds(&self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => found.is_none(),
            Self::RevisionIs(_, revision) => found == Some(*revision),
        }
    }
}

impl Batch {
    pub fn new(id: CommitId) -> Self {
        Self { id, preconditions: Vec::new(), writes: Vec::new() }
    }

    #[must_use]
    pub fn absent(mut self, path: EntryPath) -> Self {
        self.preconditions.push(Precondition::Absent(path));
        self
    }

    #[must_use]
    pub fn revision_is(mut self, path: EntryPath, revision: Revision) -> Self {
        self.preconditions.push(Precondition::RevisionIs(path, revision));
        self
    }

    #[must_use]
    pub fn put(mut self, path: EntryPath, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put(path, value.into()));
        self
    }

    #[must_use]
    pub fn delete(mut self, path: EntryPath) -> Self {
        self.writes.push(Write::Delete(path));
        self
    }

    pub(crate) fn values_len(&self) -> usize {
        self.writes.iter().map(Write::value_len).sum()
    }

    /// Every adapter asks this before it writes.
    pub fn check(&self) -> Result<(), StorageError> {
        let operations = self.preconditions.len() + self.writes.len();
        let fits = self.writes.iter().all(|write| write.value_len() <= VALUE_BYTES_MAX);
        let fits = fits && self.values_len() <= BATCH_BYTES_MAX;
        if operations <= BATCH_OPERATIONS_MAX && fits { Ok(()) } else { Err(StorageError::TooLarge) }
    }
}
