//! What goes on in namespaces without anybody asking: some of them at a time, one after the other, so that many that nobody
//! uses cost little.

use super::Tree;
use crate::error::VaultError;
use crate::service::Vault;
use crate::{Done, gone};
use envelope::Timestamp;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

/// How far a worker has come; one for the whole process.
#[derive(Debug, Default)]
pub(crate) struct Round(Mutex<String>);

impl Round {
    /// The paths of those whose turn it is. Behind the last one it begins anew.
    fn next(&self, tree: &Tree, most: usize) -> Vec<Arc<str>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (Bound::Excluded(last.as_str()), Bound::Unbounded);
        let turn: Vec<Arc<str>> =
            tree.entries.range::<str, _>(after).take(most).map(|(path, _)| path.as_str().into()).collect();
        *last = turn.last().filter(|_| turn.len() == most).map(ToString::to_string).unwrap_or_default();
        turn
    }
}

/// Every second or so, for a worker: tokens that are over and keys that are due, of some namespaces. How many.
pub async fn sweep_namespaces(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let tree = vault.tree().await?;
    let mut done = Done::default();
    for path in vault.seams.caches.swept.next(&tree, AT_ONCE) {
        let Some(entry) = tree.get(&path) else { continue };
        let vault = vault.within(&path, entry)?;
        done.add("tokens of a namespace", vault.identities().sweep(now).await.map_err(VaultError::from));
        done.add("keys of a namespace", vault.kms().sweep(now).await.map_err(VaultError::from));
    }
    done.told()
}

/// What [`crate::tend`] does, for some namespaces; and a page of those that are gone.
pub(crate) async fn tend(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let tree = vault.tree().await?;
    let mut done = Done::default();
    for path in vault.seams.caches.tended.next(&tree, AT_ONCE) {
        let Some(entry) = tree.get(&path) else { continue };
        done.add("a namespace", crate::tend_one(&vault.within(&path, entry)?, now).await);
    }
    done.add("namespaces that are gone", gone::sweep_namespaces(vault, now).await);
    done.told()
}

/// The vaults of all namespaces, one after the other, behind `after`: for who walks through all of them once.
pub async fn next_namespace(vault: &Vault, after: &str) -> Result<Option<Vault>, VaultError> {
    let tree = vault.tree().await?;
    let behind = (Bound::Excluded(after), Bound::Unbounded);
    match tree.entries.range::<str, _>(behind).next() {
        Some((path, entry)) => Ok(Some(vault.within(&path.as_str().into(), entry)?)),
        None => Ok(None),
    }
}

const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    #[test]
    fn every_namespace_has_its_turn_and_then_they_begin_anew() {
        let mut tree = Tree::default();
        for n in 0..5 {
            let (tenant, id) = (format!("{n:032x}"), format!("id{n}"));
            tree.add(format!("n{n}/"), Entry { tenant, id, created: 0, custom_metadata: Default::default() });
        }
        let round = Round::default();
        let turn = || round.next(&tree, 2).iter().map(|path| path.replace('/', "")).collect::<Vec<_>>().join(" ");
        for expected in ["n0 n1", "n2 n3", "n4", "n0 n1"] {
            assert_eq!(turn(), expected);
        }
        assert!(round.next(&Tree::default(), 2).is_empty());
    }
}
