//! KV version 1: one value a name, the last one written.

use super::tree::Tree;
use crate::backend::{Access, Backend};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::{LeaseInfo, Reply};
use crate::scope::Scope;
use crate::text::Text;
use crate::view::View;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Kv1;

#[async_trait::async_trait]
impl Backend for Kv1 {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    fn access(&self, _call: &Call, _path: &str) -> Access {
        Access::Policy
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        is_there(&scope.view()?, scope.path).await
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let reply = serve(scope, &scope.view()?).await?;
        if scope.call.verb != Verb::Read {
            return Ok(reply);
        }
        // not a lease that anybody keeps: how long a client may use it before it asks again
        let secs = scope.mount.default_ttl().as_secs();
        Ok(Reply { lease: Some(LeaseInfo { id: String::new(), secs, renewable: false }), ..reply })
    }
}

pub(super) async fn is_there(view: &View, path: &str) -> Result<bool, VaultError> {
    Ok(view.read(&Tree::new(view, LIST).data(DATA, name(path)?)?).await?.is_some())
}

/// One value a name, below `view`.
pub(super) async fn serve(scope: &Scope<'_>, view: &View) -> Result<Reply, VaultError> {
    let tree = Tree::new(view, LIST);
    match scope.call.verb {
        Verb::List => list(scope, &tree, scope.path).await,
        Verb::Read => {
            let found = view.read(&tree.data(DATA, name(scope.path)?)?).await?;
            let found = found.as_ref().as_ref().ok_or(VaultError::NotFound)?;
            let text = std::str::from_utf8(found.value.expose());
            let data = Text::copy_from(text.map_err(|_| VaultError::Internal("a stored value".into()))?);
            Ok(Reply { data: Some(data), ..Reply::default() })
        }
        Verb::Write => write(scope, view, &tree).await,
        Verb::Delete => {
            let name = name(scope.path)?;
            let path = tree.data(DATA, name)?;
            // to delete what is not there succeeds
            if view.load(&path).await?.is_some() {
                scope.commit(tree.remove(scope.batch()?, name)?.delete(path)).await?;
                tree.prune(scope, name).await;
            }
            Ok(Reply::empty())
        }
        Verb::Patch => Err(VaultError::Unsupported),
    }
}

async fn write(scope: &Scope<'_>, view: &View, tree: &Tree<'_>) -> Result<Reply, VaultError> {
    let name = name(scope.path)?;
    if scope.call.body.names().next().is_none() {
        return Err(VaultError::Invalid("missing data fields".into()));
    }
    for _ in 0..ATTEMPTS_MAX {
        let (path, batch) = (tree.data(DATA, name)?, scope.batch()?);
        let batch = match view.load(&path).await? {
            Some(found) => {
                scope.may_change()?;
                batch.revision_is(path.clone(), found.revision)
            }
            None => batch.absent(path.clone()),
        };
        let batch = tree.add(batch, name).await?;
        let batch = view.put(batch, path, scope.call.body.whole().as_bytes())?;
        match scope.commit(batch).await {
            Err(identity::ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

/// A folder's names, all of them or as `after` and `limit` ask.
pub(super) async fn list(scope: &Scope<'_>, tree: &Tree<'_>, folder: &str) -> Result<Reply, VaultError> {
    let limit = scope.call.count("limit", u32::MAX)?.unwrap_or(0);
    let after = scope.call.parameter("after").unwrap_or_default();
    let folder = folder.trim_end_matches('/');
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    Reply::keys(&tree.list(&folder, after, limit).await?)
}

/// A name is no folder.
pub(super) fn name(path: &str) -> Result<&str, VaultError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(VaultError::field("path", "missing, or it ends in a slash"));
    }
    Ok(path)
}

const LIST: &str = "l";
const DATA: &str = "d";
const ATTEMPTS_MAX: usize = 16;
