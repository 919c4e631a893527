//! Settings that stand by themselves, as JSON: read, changed and dropped under their revisions.

use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::text::Text;
use crate::view::View;
use identity::ChangeError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use storage::{EntryPath, Revision};
use zeroize::Zeroizing;

/// Wiped, as is whatever it grew from: settings hold secrets.
pub(crate) fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let text = Text::of(value).ok_or_else(|| VaultError::Internal("what is to be stored".into()))?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

pub(crate) fn decode<T: DeserializeOwned>(stored: &[u8]) -> Result<T, VaultError> {
    serde_json::from_slice(stored).map_err(|_| VaultError::Internal("what is stored cannot be read".into()))
}

/// As it stands in the store now.
pub(crate) async fn load<T: DeserializeOwned>(
    view: &View,
    path: &EntryPath,
) -> Result<Option<(T, Revision)>, VaultError> {
    let found = view.load(path).await?;
    found.map(|found| Ok((decode(found.value.expose())?, found.revision))).transpose()
}

/// Perhaps from memory.
pub(crate) async fn recall<T: DeserializeOwned>(
    view: &View,
    path: &EntryPath,
) -> Result<Option<(T, Revision)>, VaultError> {
    let kept = view.read(path).await?;
    let kept = kept.as_ref().as_ref();
    kept.map(|kept| Ok((decode(kept.value.expose())?, kept.revision))).transpose()
}

/// Puts what `make` makes of what stands there, anew where others came in between.
pub(crate) async fn change<T: DeserializeOwned + Send, U: Serialize>(
    scope: &Scope<'_>,
    view: &View,
    path: &EntryPath,
    make: impl Fn(Option<T>) -> Result<U, VaultError> + Send + Sync,
) -> Result<(), VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (batch, old) = match load(view, path).await? {
            Some((old, revision)) => {
                scope.may_change()?;
                (scope.batch()?.revision_is(path.clone(), revision), Some(old))
            }
            None => (scope.batch()?.absent(path.clone()), None),
        };
        let batch = view.put(batch, path.clone(), &encode(&make(old)?)?)?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| ())?),
        }
    }
    Err(VaultError::Conflict)
}

/// To delete what is not there succeeds.
pub(crate) async fn delete(scope: &Scope<'_>, view: &View, path: EntryPath) -> Result<Reply, VaultError> {
    if view.load(&path).await?.is_some() {
        scope.commit(scope.batch()?.delete(path)).await?;
    }
    Ok(Reply::empty())
}

const ATTEMPTS_MAX: usize = 32;
