//! Who asks in a namespace: one of its own, or one of a namespace above.

use super::Tree;
use crate::Call;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::service::Vault;
use crate::{backend, namespace};
use audit::Decision;
use envelope::SecretBytes;
use identity::{Cause, IdentityError, Principal};
use std::borrow::Cow;
use std::sync::Arc;

/// Who asks, as the namespace that is asked in sees it.
pub(crate) struct Asker {
    pub(crate) by: Arc<Principal>,
    /// Where it is from, and as whom it is known there; nothing where it is from here.
    pub(crate) home: Option<Box<(Vault, Arc<Principal>)>>,
}

impl Vault {
    /// A certificate alone is known to the root.
    pub(crate) async fn asker(&self, call: &Call, tree: &Tree) -> Result<Asker, VaultError> {
        let (token, shown) = (call.token.as_ref().map(SecretBytes::expose), call.certificate.as_deref());
        let Some(space) = &self.space else {
            let by = self.identities().authenticate(token, shown, &call.info).await?;
            return Ok(Asker { by, home: None });
        };
        let from = token.and_then(identity::token::mark).and_then(|mark| tree.marked(mark)).unwrap_or_default();
        if from == &*space.path {
            let by = self.identities().authenticate(token, shown, &call.info).await?;
            return Ok(Asker { by, home: None });
        }
        let Some(path) = space.path.strip_prefix(from) else {
            return Err(IdentityError::Unauthenticated(Cause::TokenUnknown).into());
        };
        let home = match tree.get(from) {
            Some(entry) => self.within(&from.into(), entry)?,
            None => self.top().clone(),
        };
        let known = home.identities().authenticate(token, shown, &call.info).await?;
        let by = Arc::new(known.below(home.identities(), path));
        Ok(Asker { by, home: Some(Box::new((home, known))) })
    }

    /// What a token asks of itself, its own namespace answers.
    pub(crate) async fn serve_own(&self, call: &Call, by: &Arc<Principal>) -> Result<Reply, VaultError> {
        let table = match self.table().await {
            Ok(table) => table,
            Err(error) => return self.refused(call, Some(by), (Decision::NotReached, ""), error).await,
        };
        match table.route(call.path.as_str()) {
            Some(routed) => self.authorised(call, routed, backend::of(routed.1.kind), by).await,
            None => self.refused(call, Some(by), (Decision::NotReached, ""), namespace::unreadable()).await,
        }
    }

    /// The vault of the namespace that made a token, as its text says.
    pub(crate) async fn maker_of(&self, token: &[u8]) -> Result<Cow<'_, Self>, VaultError> {
        let Some(mark) = identity::token::mark(token) else { return Ok(Cow::Borrowed(self.top())) };
        if self.space.as_ref().is_some_and(|space| space.id == mark) {
            return Ok(Cow::Borrowed(self));
        }
        let tree = self.tree().await?;
        match tree.marked(mark).and_then(|path| Some((path, tree.get(path)?))) {
            Some((path, entry)) => Ok(Cow::Owned(self.within(&path.into(), entry)?)),
            None => Ok(Cow::Borrowed(self.top())),
        }
    }
}

/// What a token asks of itself.
pub(crate) fn is_of_ones_own(path: &str) -> bool {
    matches!(path, "auth/token/lookup-self" | "auth/token/renew-self" | "auth/token/revoke-self")
}
