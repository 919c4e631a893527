//! Cubbyhole: what a token keeps for itself. It goes with the token, and nobody else reaches it, not even root.
//!
//! Data stands below the holder's own hash, in the same form as [`super::kv1`].

use super::kv1;
use crate::backend::{Access, Backend};
use crate::call::Call;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Cubbyhole;

#[async_trait::async_trait]
impl Backend for Cubbyhole {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    fn access(&self, _call: &Call, _path: &str) -> Access {
        Access::Policy
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        kv1::is_there(&view(scope)?, scope.path).await
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        kv1::serve(scope, &view(scope)?).await
    }
}

/// Below who holds it.
fn view(scope: &Scope<'_>) -> Result<View, VaultError> {
    let all = scope.view()?;
    let holder = all.hash(b"vault/cubbyhole", scope.by()?.id())?;
    scope.vault.view(&format!("{}/{holder}", scope.mount.id))
}
