//! Token roles: written, read, listed, dropped. What was made by one goes on without it.

use super::holds_sudo;
use crate::error::IdentityError;
use crate::name::RoleName;
use crate::op::{ATTEMPTS_MAX, PageRequest};
use crate::policy::Capability;
use crate::principal::Principal;
use crate::service::Identities;
use crate::store;
use crate::token::TokenRole;
use crate::{ChangeError, RequestInfo};
use storage::AtLeast;

/// Names of token roles, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRolePage {
    pub names: Vec<RoleName>,
    /// More names follow: ask with this marker.
    pub next_marker: Option<String>,
}

impl Identities {
    /// One that gives more than the caller has (policies of others, orphans, periods) takes sudo on the path.
    pub async fn put_token_role(
        &self,
        by: &Principal,
        call: &RequestInfo,
        role: &TokenRole,
    ) -> Result<(), IdentityError> {
        let path = path(&role.name);
        let act = self.authorise(by, call, "PutTokenRole", path.clone(), Capability::Update).await?;
        let outcome = async {
            role.check()?;
            if !role.gives_only(by.policies()) && !holds_sudo(by, &path) {
                return Err(IdentityError::PermissionDenied);
            }
            let at = self.layout.token_role(&role.name)?;
            let sealed = self.barrier.seal(&at, &store::encode_token_role(role)?)?;
            Ok(act.commit(self.changes.batch()?.put(at, sealed)).await?)
        };
        act.changed(outcome.await).await
    }

    /// Changes a role, or makes one that gives nothing by itself and changes that. `change` may be asked again.
    pub async fn change_token_role(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &RoleName,
        change: impl Fn(&mut TokenRole) -> Result<(), IdentityError> + Send,
    ) -> Result<(), IdentityError> {
        let path = path(name);
        let act = self.authorise(by, call, "PutTokenRole", path.clone(), Capability::Update).await?;
        let at = self.layout.token_role(name)?;
        let attempt = async || {
            let (_, found) = self.barrier.get(std::slice::from_ref(&at), AtLeast::Latest).await?;
            let batch = self.changes.batch()?;
            let (mut role, batch) = match found.into_iter().flatten().next() {
                Some(opened) => {
                    (store::decode_token_role(name, &opened.value)?, batch.revision_is(at.clone(), opened.revision))
                }
                None => (TokenRole::new(name.clone()), batch.absent(at.clone())),
            };
            change(&mut role)?;
            role.check()?;
            if !role.gives_only(by.policies()) && !holds_sudo(by, &path) {
                return Err(IdentityError::PermissionDenied);
            }
            let sealed = self.barrier.seal(&at, &store::encode_token_role(&role)?)?;
            Ok(act.commit(batch.put(at.clone(), sealed)).await?)
        };
        let mut outcome = Err(IdentityError::Conflict);
        for _ in 0..ATTEMPTS_MAX {
            outcome = attempt().await;
            if !matches!(outcome, Err(IdentityError::Conflict)) {
                break;
            }
        }
        act.changed(outcome).await
    }

    pub async fn read_token_role(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &RoleName,
    ) -> Result<TokenRole, IdentityError> {
        let act = self.authorise(by, call, "ReadTokenRole", path(name), Capability::Read).await?;
        act.read(self.stored_token_role(name).await).await
    }

    pub async fn list_token_roles(
        &self,
        by: &Principal,
        call: &RequestInfo,
        page: &PageRequest,
    ) -> Result<TokenRolePage, IdentityError> {
        let act = self.authorise(by, call, "ListTokenRoles", FOLDER.to_owned(), Capability::List).await?;
        act.read(self.token_role_page(page).await).await
    }

    pub async fn delete_token_role(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &RoleName,
    ) -> Result<(), IdentityError> {
        let act = self.authorise(by, call, "DeleteTokenRole", path(name), Capability::Delete).await?;
        let outcome = async {
            let at = self.layout.token_role(name)?;
            for _ in 0..ATTEMPTS_MAX {
                let (_, found) = self.barrier.storage().get(std::slice::from_ref(&at), AtLeast::Latest).await?;
                let entry = found.into_iter().flatten().next().ok_or(IdentityError::RoleNotFound)?;
                let batch = self.changes.batch()?.revision_is(at.clone(), entry.revision).delete(at.clone());
                match act.commit(batch).await {
                    Err(ChangeError::Conflict(_)) => {}
                    outcome => return Ok(outcome?),
                }
            }
            Err(IdentityError::Conflict)
        };
        act.changed(outcome.await).await
    }

    pub(super) async fn stored_token_role(&self, name: &RoleName) -> Result<TokenRole, IdentityError> {
        let at = self.layout.token_role(name)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&at), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next().ok_or(IdentityError::RoleNotFound)?;
        store::decode_token_role(name, &opened.value)
    }

    async fn token_role_page(&self, page: &PageRequest) -> Result<TokenRolePage, IdentityError> {
        let folder = self.layout.token_roles()?;
        let after = page.after.as_ref().map(|name| folder.join(name).map_err(|_| IdentityError::InvalidMarker));
        let after = after.transpose()?;
        let found = self.barrier.storage().scan(&folder, after.as_ref(), page.limit, AtLeast::Latest).await?;
        let names = found.entries.iter().filter_map(|(path, _)| RoleName::parse(path.segments().last()?).ok());
        let names: Vec<_> = names.collect();
        let next_marker = names.last().filter(|_| found.more).map(|name| name.as_str().to_owned());
        Ok(TokenRolePage { names, next_marker })
    }
}

fn path(name: &RoleName) -> String {
    format!("{FOLDER}/{name}")
}

const FOLDER: &str = "auth/token/roles";
