//! Names in folders, as a listing shows them.
//!
//! A name's data stands under a keyed hash of the whole name, so that names may be long, deep and of any script. Beside it
//! each folder has a list: `l/<hash of the folder>/<child>`, where a child that is a folder ends in a mark.
//!
//! Always: a folder is listed as long as something is in it. Whoever adds relies on the entries of all folders above, by
//! their revisions; whoever removes the last child first marks the folder's entry, looks again, and only then drops it.
//! Never: a name in the clear beyond its own segment.

use crate::error::VaultError;
use crate::scope::Scope;
use crate::view::{View, segment, unsegment};
use audit::{Decision, Outcome, Record, Subject};
use identity::ChangeError;
use storage::{Batch, EntryPath, PAGE_ENTRIES_MAX};

/// Names below one label of a mount: several trees may stand beside each other.
#[derive(Debug)]
pub(crate) struct Tree<'v> {
    view: &'v View,
    label: &'static str,
}

impl<'v> Tree<'v> {
    pub(crate) fn new(view: &'v View, label: &'static str) -> Self {
        Self { view, label }
    }

    /// By what the data of `name` stands.
    pub(crate) fn slot(&self, name: &str) -> Result<String, VaultError> {
        self.view.hash(b"vault/name", name)
    }

    /// Where the data of `name` stands, below `label`.
    pub(crate) fn data(&self, label: &str, name: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{label}/{}", self.slot(name)?))
    }

    /// Adds `name` to its folder, and the folders that are not there.
    pub(crate) async fn add(&self, mut batch: Batch, name: &str) -> Result<Batch, VaultError> {
        let paths = self.entries_of(name)?;
        let found = self.view.load_all(&paths).await?;
        let leaf = paths.len() - 1;
        for (at, (path, found)) in paths.into_iter().zip(found).enumerate() {
            let there = match found {
                Some(found) => {
                    if at < leaf {
                        batch = batch.revision_is(path.clone(), found.revision);
                    }
                    found.value.expose() == LIVE
                }
                None => {
                    if at < leaf {
                        batch = batch.absent(path.clone());
                    }
                    false
                }
            };
            if !there {
                batch = self.view.put(batch, path, LIVE)?;
            }
        }
        Ok(batch)
    }

    /// Takes `name` out of its folder. [`Tree::prune`] follows, once this is committed.
    pub(crate) fn remove(&self, batch: Batch, name: &str) -> Result<Batch, VaultError> {
        let paths = self.entries_of(name)?;
        Ok(paths.into_iter().next_back().map_or(batch.clone(), |leaf| batch.delete(leaf)))
    }

    /// Drops folders above `name` in which nothing is any more. What stands in the way is left for the next time.
    pub(crate) async fn prune(&self, scope: &Scope<'_>, name: &str) {
        let mut folder = parent(name);
        while !folder.is_empty() {
            match self.prune_one(scope, folder).await {
                Ok(true) => folder = parent(folder.trim_end_matches('/')),
                Ok(false) => return,
                Err(error) => return tracing::debug!(%error, "an empty folder was left"),
            }
        }
    }

    async fn prune_one(&self, scope: &Scope<'_>, folder: &str) -> Result<bool, VaultError> {
        let entry = self.entry(parent(folder.trim_end_matches('/')), last(folder))?;
        if !self.is_empty(folder).await? {
            return Ok(false);
        }
        let Some(found) = self.view.load(&entry).await? else { return Ok(true) };
        let batch = scope.batch()?.revision_is(entry.clone(), found.revision);
        let revision = match self.commit(scope, self.view.put(batch, entry.clone(), DYING)?).await {
            Ok(revision) => revision,
            Err(ChangeError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // who relied on the entry before has committed by now, or does not any more
        let batch = scope.batch()?.revision_is(entry.clone(), revision);
        let batch =
            if self.is_empty(folder).await? { batch.delete(entry) } else { self.view.put(batch, entry, LIVE)? };
        match self.commit(scope, batch).await {
            Ok(_) => Ok(true),
            Err(ChangeError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn commit(&self, scope: &Scope<'_>, batch: Batch) -> Result<storage::Revision, ChangeError> {
        let info = &scope.call.info;
        let record = Record {
            path: scope.mount_path,
            decision: Decision::Allowed,
            ..info.record("VaultPruneFolder", &Subject::System, Outcome::Done)
        };
        scope.vault.commit(batch, &record).await
    }

    async fn is_empty(&self, folder: &str) -> Result<bool, VaultError> {
        Ok(self.view.scan(&self.folder(folder)?, None, 1).await?.entries.is_empty())
    }

    /// What is in `folder`, which is empty or ends in a slash: names in order, folders with a slash; after `after`, at most
    /// `limit`, all where that is zero.
    pub(crate) async fn list(&self, folder: &str, after: &str, limit: u32) -> Result<Vec<String>, VaultError> {
        let at = self.folder(folder)?;
        let mut after = if after.is_empty() { None } else { Some(self.entry(folder, after)?) };
        let most = if limit == 0 { LISTED_MAX } else { limit.min(LISTED_MAX) };
        let mut keys = Vec::new();
        loop {
            let left = most - u32::try_from(keys.len()).unwrap_or(most);
            let page = self.view.scan(&at, after.as_ref(), left.min(PAGE_ENTRIES_MAX)).await?;
            keys.extend(page.entries.iter().filter_map(|(path, _)| unsegment(path.segments().last()?)));
            after = page.entries.last().map(|(path, _)| path.clone()).or(after);
            if !page.more || keys.len() >= most as usize {
                keys.sort_unstable();
                return Ok(keys);
            }
        }
    }

    /// The list entries of all folders above `name`, outermost first, and of `name` itself.
    fn entries_of(&self, name: &str) -> Result<Vec<EntryPath>, VaultError> {
        let mut entries = Vec::new();
        for (at, _) in name.match_indices('/') {
            let (folder, _) = name.split_at(at + 1);
            entries.push(self.entry(parent(folder.trim_end_matches('/')), last(folder))?);
        }
        entries.push(self.entry(parent(name), last(name))?);
        Ok(entries)
    }

    fn entry(&self, folder: &str, child: &str) -> Result<EntryPath, VaultError> {
        let (name, mark) = child.strip_suffix('/').map_or((child, ""), |name| (name, FOLDER));
        if name.len() > SEGMENT_BYTES_MAX {
            return Err(VaultError::field("path", format!("a segment of more than {SEGMENT_BYTES_MAX} bytes")));
        }
        let at = self.view.hash(b"vault/folder", folder)?;
        self.view.path(&format!("{}/{at}/{}{mark}", self.label, segment(name)))
    }

    fn folder(&self, folder: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{}/{}", self.label, self.view.hash(b"vault/folder", folder)?))
    }
}

/// `a/b/` of `a/b/c` and of `a/b/c/` without its slash; nothing of `c`.
fn parent(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..=at])
}

/// `c` of `a/b/c`, `b/` of `a/b/`.
fn last(name: &str) -> &str {
    let body = name.strip_suffix('/').unwrap_or(name);
    body.rfind('/').map_or(name, |at| &name[at + 1..])
}

const LIVE: &[u8] = b"1";
/// Of a folder that is about to go.
const DYING: &[u8] = b"0";
/// No name's segment has it: a slash would stand for itself there.
const FOLDER: &str = "~2f";
const LISTED_MAX: u32 = 100_000;
const SEGMENT_BYTES_MAX: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_names_folder_and_its_last_part() {
        for (name, folder, rest) in [("c", "", "c"), ("a/b/c", "a/b/", "c"), ("a/", "a/", "a/"), ("a/b/", "a/b/", "b/")]
        {
            assert_eq!((parent(name), last(name)), (folder, rest), "{name}");
        }
    }
}
