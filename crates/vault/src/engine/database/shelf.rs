//! Settings of a mount under names: one record each, and a list of the names.

use super::check_name;
use crate::engine::tree::Tree;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stored::{decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use storage::{Batch, EntryPath, Revision};

/// Below which label the records stand, and below which the names.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) data: &'static str,
    pub(super) list: &'static str,
}

impl Shelf {
    pub(super) fn path(&self, scope: &Scope<'_>, name: &str) -> Result<EntryPath, VaultError> {
        check_name(name)?;
        Tree::new(&scope.view()?, self.list).data(self.data, name)
    }

    pub(super) async fn has(&self, scope: &Scope<'_>, name: &str) -> Result<bool, VaultError> {
        Ok(scope.view()?.load(&self.path(scope, name)?).await?.is_some())
    }

    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        scope: &Scope<'_>,
        name: &str,
    ) -> Result<Option<(T, Revision)>, VaultError> {
        let found = scope.view()?.load(&self.path(scope, name)?).await?;
        found.map(|found| Ok((decode(found.value.expose())?, found.revision))).transpose()
    }

    pub(super) async fn load<T: DeserializeOwned>(&self, scope: &Scope<'_>, name: &str) -> Result<T, VaultError> {
        self.find(scope, name).await?.map(|(found, _)| found).ok_or(VaultError::NotFound)
    }

    /// With what stands there now; it must be as it was.
    pub(super) async fn put(
        &self,
        scope: &Scope<'_>,
        batch: Batch,
        (name, was): (&str, Option<Revision>),
        value: &(impl Serialize + Sync),
    ) -> Result<Batch, VaultError> {
        let (view, path) = (scope.view()?, self.path(scope, name)?);
        let batch = match was {
            Some(revision) => batch.revision_is(path.clone(), revision),
            None => Tree::new(&view, self.list).add(batch.absent(path.clone()), name).await?,
        };
        view.put(batch, path, &encode(value)?)
    }

    pub(super) fn remove(&self, scope: &Scope<'_>, batch: Batch, name: &str) -> Result<Batch, VaultError> {
        Ok(Tree::new(&scope.view()?, self.list).remove(batch, name)?.delete(self.path(scope, name)?))
    }

    /// To delete what is not there succeeds.
    pub(super) async fn delete(&self, scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
        if self.has(scope, name).await? {
            scope.commit(self.remove(scope, scope.batch()?, name)?).await?;
        }
        Ok(Reply::empty())
    }

    pub(super) async fn list(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        Reply::keys(&Tree::new(&scope.view()?, self.list).list("", "", 0).await?)
    }
}
