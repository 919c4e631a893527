//! The outbox: audit leaves committed in the same batch as the change that they tell.
//!
//! Always: a change and its leaf are durable together, and a leaf that was not yet taken out is found at the next start.
//! Never: a leaf in the clear.

use crate::{AtLeast, Barrier, BarrierError, Batch, EntryPath, Revision, StorageError};
use bytes::Bytes;

/// The batch with its leaf, and where the leaf stands until it is in the log.
pub fn attach(barrier: &Barrier, batch: Batch, leaf: &[u8]) -> Result<(Batch, EntryPath), BarrierError> {
    let name = format!("{:032x}", u128::from_be_bytes(batch.id.0));
    let path = prefix(barrier)?.join(&name).map_err(|_| StorageError::TooLarge)?;
    let sealed = barrier.seal(&path, leaf)?;
    Ok((batch.put(path.clone(), sealed), path))
}

/// All leaves that were committed and not yet taken out, in the order of their commits. About as many as there were changes
/// at once.
pub async fn pending(barrier: &Barrier) -> Result<Vec<Pending>, BarrierError> {
    let (prefix, mut found) = (prefix(barrier)?, Vec::new());
    loop {
        let after = found.last().map(|(path, _): &(EntryPath, _)| path.clone());
        let page = barrier.scan(&prefix, after.as_ref(), PAGE, AtLeast::Latest).await?;
        if page.entries.is_empty() {
            break;
        }
        found.extend(page.entries);
    }
    found.sort_by_key(|(_, opened)| opened.revision);
    let pending = found.into_iter().map(|(path, opened)| {
        let leaf = Bytes::copy_from_slice(opened.value.expose());
        Pending { path, leaf, revision: opened.revision }
    });
    Ok(pending.collect())
}

/// A leaf that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub path: EntryPath,
    pub leaf: Bytes,
    /// Of its change.
    pub revision: Revision,
}

/// `<cluster id>/outbox`: what belongs to the cluster itself stands under its id, where tenants have theirs.
fn prefix(barrier: &Barrier) -> Result<EntryPath, StorageError> {
    let cluster = u128::from_be_bytes(*barrier.cluster_id());
    EntryPath::parse(&format!("{cluster:032x}/outbox")).map_err(|_| StorageError::TooLarge)
}

const PAGE: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommitId, Keyring, Memory};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_leaf_stands_with_its_change_until_it_is_taken_out() {
        let memory = Arc::new(Memory::new());
        let barrier = Barrier::new(memory, [0xab; 16], Keyring::generate().unwrap());
        let mut outs = Vec::new();
        // ids in another order than the commits
        for number in [9_u8, 3, 7] {
            let batch = Batch::new(CommitId([number; 16])).put(EntryPath::parse("t/a").unwrap(), "value");
            let (batch, out) = attach(&barrier, batch, &[number; 20]).unwrap();
            assert_eq!(out.as_str(), format!("{}/outbox/{}", "ab".repeat(16), hex(number)));
            let leaf = batch.writes.iter().find(|write| write.path() == &out).unwrap();
            assert!(!format!("{leaf:?}").contains(&format!("{:?}", [number; 20])), "sealed");
            barrier.commit(batch).await.unwrap();
            outs.push(out);
        }
        let told = pending(&barrier).await.unwrap();
        assert!(told.is_sorted_by_key(|leaf| leaf.revision));
        let told: Vec<(EntryPath, Bytes)> = told.into_iter().map(|leaf| (leaf.path, leaf.leaf)).collect();
        let expected: Vec<(EntryPath, Bytes)> = outs
            .iter()
            .cloned()
            .zip([[9_u8; 20], [3; 20], [7; 20]].map(|leaf| Bytes::copy_from_slice(&leaf)))
            .collect();
        assert_eq!(told, expected, "in the order of their commits");
        let taken = outs.into_iter().fold(Batch::new(CommitId([1; 16])), Batch::delete);
        barrier.commit(taken).await.unwrap();
        assert_eq!(pending(&barrier).await.unwrap(), []);
    }

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(16)
    }
}
