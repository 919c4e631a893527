//! Whom wrong passwords have locked out.

use super::lockout::Failures;
use super::user::{User, Users};
use super::{ATTEMPTS_MAX, user_name};
use crate::error::VaultError;
use crate::scope::Scope;
use crate::view::View;
use envelope::Timestamp;
use identity::ChangeError;
use storage::{EntryPath, PAGE_ENTRIES_MAX};

/// Names of the users who are locked, sorted; and whether these are all.
pub(crate) async fn locked(view: &View, most: usize, now: Timestamp) -> Result<(Vec<String>, bool), VaultError> {
    let (users, folder) = (Users::new(view), view.path("f")?);
    let (mut names, mut after, mut whole) = (Vec::new(), None, false);
    for _ in 0..PAGES_MAX {
        let page = view.scan(&folder, after.as_ref(), PAGE_ENTRIES_MAX).await?;
        for (path, found) in &page.entries {
            let failures: Option<Failures> = serde_json::from_slice(found.value.expose()).ok();
            if failures.is_some_and(|failures| failures.is_locked(now))
                && let Some(name) = named(view, &users, path).await?
            {
                names.push(name);
            }
        }
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        whole = !page.more;
        if whole || names.len() >= most {
            break;
        }
    }
    whole &= names.len() <= most;
    names.truncate(most);
    names.sort_unstable();
    Ok((names, whole))
}

/// Failures stand under the same hash as their user.
async fn named(view: &View, users: &Users<'_>, failures: &EntryPath) -> Result<Option<String>, VaultError> {
    let hash = failures.segments().last().unwrap_or_default();
    match view.load(&users.hashed_path(hash)?).await? {
        Some(user) => Ok(Some(User::decode(user.value.expose())?.name)),
        None => Ok(None),
    }
}

/// Forgets a user's failures. Who has none is none the worse.
pub(crate) async fn unlock(scope: &Scope<'_>, view: &View, name: &str) -> Result<(), VaultError> {
    let users = Users::new(view);
    let path = users.failures_path(&user_name(name)?)?;
    for _ in 0..ATTEMPTS_MAX {
        let Some(found) = view.load(&path).await? else { return Ok(()) };
        let batch = scope.batch()?.revision_is(path.clone(), found.revision).delete(path.clone());
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(drop)?),
        }
    }
    Err(VaultError::Conflict)
}

const PAGES_MAX: usize = 1000;
