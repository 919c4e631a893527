//! What receipts promise of a log: that it has the entries which became durable together.

use super::Fault;
use crate::note::VerifierKey;
use crate::receipt::{Batch, Receipt, ReceiptError};
use envelope::merkle::{Hash, TreeHead};

/// A receipt that the log's key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    batch: Batch,
    index: u64,
    leaf: Hash,
}

impl Promise {
    /// Believes what `key` signed.
    pub fn of(receipt: &Receipt, key: &VerifierKey) -> Result<Self, ReceiptError> {
        let batch = receipt.verify(key, receipt.leaf())?;
        Ok(Self { batch, index: receipt.index(), leaf: *receipt.leaf() })
    }

    /// The entries that became durable together.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The entry whose receipt it is, by its number.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The entry's hash.
    pub fn leaf(&self) -> &Hash {
        &self.leaf
    }
}

/// Compares promises with the entries as they pass.
pub(super) struct Kept<'a> {
    all: Vec<(&'a Promise, TreeHead, Option<Fault>)>,
}

impl<'a> Kept<'a> {
    pub(super) fn new(promises: &'a [Promise]) -> Self {
        Self { all: promises.iter().map(|promise| (promise, TreeHead::default(), None)).collect() }
    }

    /// The next leaf of the log.
    pub(super) fn leaf(&mut self, index: u64, leaf: &Hash) {
        for (promise, tree, fault) in &mut self.all {
            if !promise.batch.entries().contains(&index) {
                continue;
            }
            tree.push(*leaf);
            if index == promise.index && *leaf != promise.leaf {
                *fault = Some(Fault::Broken { index });
            } else if tree.size() == u64::from(promise.batch.count) && tree.root() != promise.batch.root {
                let entries = promise.batch.entries();
                fault.get_or_insert(Fault::BrokenAmong { first: entries.start, last: entries.end - 1 });
            }
        }
    }

    /// At the end of a log of so many entries.
    pub(super) fn conclude(self, entries: u64) -> Result<(), Fault> {
        for (promise, _, fault) in self.all {
            if let Some(fault) = fault {
                return Err(fault);
            }
            let seen = promise.batch.entries().end;
            if entries < seen {
                return Err(Fault::Lost { entries, index: promise.index, seen });
            }
        }
        Ok(())
    }
}
