//! Certificate roles: written, listed, dropped.
//!
//! Always: a match leads to one role; a role that is written again is another incarnation, and tokens made by the former die.
//! Always: a role that is written again keeps its lineage, and grants with it; one that is made anew after its deletion does not.

use super::token::within_own;
use super::{ATTEMPTS_MAX, PageRequest};
use crate::certificate::CertificateRole;
use crate::error::IdentityError;
use crate::name::RoleName;
use crate::policy::Capability;
use crate::principal::{Principal, role_id};
use crate::service::Identities;
use crate::store::{self, Layout, StoredRole};
use crate::{ChangeError, RequestInfo};
use std::sync::Arc;
use storage::{AtLeast, Barrier, BarrierError, Batch, StorageError};

/// Certificate roles in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRolePage {
    pub roles: Vec<CertificateRole>,
    /// More roles follow: ask with this marker.
    pub next_marker: Option<String>,
}

impl Identities {
    /// Its policies are of the caller's own, unless the caller is root or holds sudo on the path.
    pub async fn put_certificate_role(
        &self,
        by: &Principal,
        call: &RequestInfo,
        role: &CertificateRole,
    ) -> Result<(), IdentityError> {
        let path = path(&role.name);
        let act = self.authorise(by, call, "PutCertificateRole", path.clone(), Capability::Update).await?;
        let outcome = async {
            role.check()?;
            if !within_own(by, &role.policies, &path) {
                return Err(IdentityError::PermissionDenied);
            }
            for _ in 0..ATTEMPTS_MAX {
                match act.commit(self.role_batch(role).await?).await {
                    Err(ChangeError::Conflict(_)) => {}
                    outcome => return Ok(outcome?),
                }
            }
            Err(IdentityError::Conflict)
        };
        act.changed(outcome.await).await
    }

    pub async fn list_certificate_roles(
        &self,
        by: &Principal,
        call: &RequestInfo,
        page: &PageRequest,
    ) -> Result<CertificateRolePage, IdentityError> {
        let act = self.authorise(by, call, "ListCertificateRoles", FOLDER.to_owned(), Capability::List).await?;
        act.read(self.role_page(page).await).await
    }

    pub async fn delete_certificate_role(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &RoleName,
    ) -> Result<(), IdentityError> {
        let act = self.authorise(by, call, "DeleteCertificateRole", path(name), Capability::Delete).await?;
        let outcome = async {
            let at = self.layout.role(name)?;
            for _ in 0..ATTEMPTS_MAX {
                let (_, found) = self.barrier.get(std::slice::from_ref(&at), AtLeast::Latest).await?;
                let opened = found.into_iter().flatten().next().ok_or(IdentityError::RoleNotFound)?;
                let matched = self.layout.matched(&store::decode_role(&opened.value)?.matches)?;
                let batch = self.changes.batch()?.revision_is(at.clone(), opened.revision);
                match act.commit(batch.delete(at.clone()).delete(matched)).await {
                    Err(ChangeError::Conflict(_)) => {}
                    outcome => return Ok(outcome?),
                }
            }
            Err(IdentityError::Conflict)
        };
        act.changed(outcome.await).await
    }

    /// The role in place of the one of its name, and its match in place of that one's.
    async fn role_batch(&self, role: &CertificateRole) -> Result<Batch, IdentityError> {
        let (at, matched) = (self.layout.role(&role.name)?, self.layout.matched(&role.matches)?);
        let (_, found) = self.barrier.get(&[at.clone(), matched.clone()], AtLeast::Latest).await?;
        let mut found = found.into_iter();
        let mut batch = self.changes.batch()?;
        let lineage;
        (batch, lineage) = match found.next().flatten() {
            None => (batch.absent(at.clone()), Some(self.barrier.random()?)),
            Some(former) => {
                let batch = batch.revision_is(at.clone(), former.revision);
                let former = store::decode_role(&former.value)?;
                (batch.delete(self.layout.matched(&former.matches)?), former.lineage)
            }
        };
        batch = match found.next().flatten() {
            None => batch.absent(matched.clone()),
            Some(taken) if store::decode_name(&taken.value)? == role.name => {
                batch.revision_is(matched.clone(), taken.revision)
            }
            // One certificate stands for one role.
            Some(_) => return Err(IdentityError::InvalidField("match")),
        };
        let stored = StoredRole {
            matches: role.matches.clone(),
            policies: Arc::clone(&role.policies),
            incarnation: self.barrier.random()?,
            lineage,
        };
        let sealed = self.barrier.seal(&at, &store::encode_role(&stored)?)?;
        let name = self.barrier.seal(&matched, role.name.as_str().as_bytes())?;
        // Of two writes to one path the later counts: the former match may be this one.
        Ok(batch.put(at, sealed).put(matched, name))
    }

    async fn role_page(&self, page: &PageRequest) -> Result<CertificateRolePage, IdentityError> {
        let folder = self.layout.roles()?;
        let after = page.after.as_ref().map(|name| folder.join(name).map_err(|_| IdentityError::InvalidMarker));
        let after = after.transpose()?;
        let found = self.barrier.scan(&folder, after.as_ref(), page.limit, AtLeast::Latest).await?;
        let mut roles = Vec::with_capacity(found.entries.len());
        for (path, opened) in &found.entries {
            let name = path.segments().last().and_then(|name| RoleName::parse(name).ok());
            let name = name.ok_or(IdentityError::Internal("roles stand under their names"))?;
            let StoredRole { matches, policies, incarnation: _, lineage: _ } = store::decode_role(&opened.value)?;
            roles.push(CertificateRole { name, matches, policies });
        }
        let next_marker = roles.last().filter(|_| found.more).map(|role| role.name.as_str().to_owned());
        Ok(CertificateRolePage { roles, next_marker })
    }
}

/// The id of the principal that `name` names now, where that is `cert/ROLE` and the role is there; else `name` itself.
pub async fn principal_id(barrier: &Arc<Barrier>, tenant: &[u8; 16], name: &str) -> Result<String, BarrierError> {
    let role = name.strip_prefix("cert/").and_then(|role| RoleName::parse(role).ok());
    let Some(role) = role else { return Ok(name.to_owned()) };
    let path = Layout::new(Arc::clone(barrier), tenant).and_then(|layout| layout.role(&role));
    let path = path.map_err(|_| StorageError::TooLarge)?;
    let (_, found) = barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
    match found.into_iter().flatten().next() {
        Some(stored) => match store::decode_role(&stored.value) {
            Ok(stored) => Ok(role_id(&role, stored.lineage)),
            Err(_) => Err(BarrierError::Altered(path)),
        },
        None => Ok(name.to_owned()),
    }
}

fn path(name: &RoleName) -> String {
    format!("{FOLDER}/{name}")
}

const FOLDER: &str = "auth/cert/certs";
