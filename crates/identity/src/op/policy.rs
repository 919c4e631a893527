//! Policies: written, read, listed, dropped.

use super::{ATTEMPTS_MAX, PageRequest};
use crate::error::IdentityError;
use crate::name::PolicyName;
use crate::policy::{Capability, Policy};
use crate::principal::Principal;
use crate::service::Identities;
use crate::{ChangeError, RequestInfo};
use std::collections::BTreeSet;
use storage::AtLeast;

/// A policy as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    pub name: PolicyName,
    pub text: String,
}

/// Names of policies, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPage {
    pub names: Vec<PolicyName>,
    /// More names follow: ask with this marker.
    pub next_marker: Option<String>,
}

impl Identities {
    pub async fn put_policy(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &PolicyName,
        text: &str,
    ) -> Result<(), IdentityError> {
        let act = self.authorise(by, call, "PutPolicy", path(name), Capability::Update).await?;
        let outcome = async {
            if name.is_root() {
                return Err(IdentityError::InvalidField("name"));
            }
            Policy::parse(text)?;
            let at = self.layout.policy(name)?;
            let sealed = self.barrier.seal(&at, text.as_bytes())?;
            Ok(act.commit(self.changes.batch()?.put(at, sealed)).await?)
        };
        act.changed(outcome.await).await
    }

    pub async fn get_policy(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &PolicyName,
    ) -> Result<PolicyText, IdentityError> {
        let act = self.authorise(by, call, "GetPolicy", path(name), Capability::Read).await?;
        act.read(self.policy_text(name).await).await
    }

    pub async fn list_policies(
        &self,
        by: &Principal,
        call: &RequestInfo,
        page: &PageRequest,
    ) -> Result<PolicyPage, IdentityError> {
        let act = self.authorise(by, call, "ListPolicies", FOLDER.to_owned(), Capability::List).await?;
        act.read(self.policy_page(page).await).await
    }

    /// Drops what was written. `default` is then again what it is by itself.
    pub async fn delete_policy(
        &self,
        by: &Principal,
        call: &RequestInfo,
        name: &PolicyName,
    ) -> Result<(), IdentityError> {
        let act = self.authorise(by, call, "DeletePolicy", path(name), Capability::Delete).await?;
        let outcome = async {
            if name.is_root() {
                return Err(IdentityError::InvalidField("name"));
            }
            let at = self.layout.policy(name)?;
            for _ in 0..ATTEMPTS_MAX {
                let (_, found) = self.barrier.storage().get(std::slice::from_ref(&at), AtLeast::Latest).await?;
                let entry = found.into_iter().flatten().next().ok_or(IdentityError::PolicyNotFound)?;
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

    async fn policy_text(&self, name: &PolicyName) -> Result<PolicyText, IdentityError> {
        let at = self.layout.policy(name)?;
        let (_, found) = self.barrier.get(std::slice::from_ref(&at), AtLeast::Latest).await?;
        let text = match found.into_iter().flatten().next() {
            Some(opened) => String::from_utf8(opened.value.expose().to_vec())
                .map_err(|_| IdentityError::Altered(format!("the stored policy {name} cannot be read")))?,
            None => built_in(name).ok_or(IdentityError::PolicyNotFound)?.to_owned(),
        };
        Ok(PolicyText { name: name.clone(), text })
    }

    async fn policy_page(&self, page: &PageRequest) -> Result<PolicyPage, IdentityError> {
        let folder = self.layout.policies()?;
        let after = page.after.as_ref().map(|name| folder.join(name).map_err(|_| IdentityError::InvalidMarker));
        let after = after.transpose()?;
        let found = self.barrier.storage().scan(&folder, after.as_ref(), page.limit, AtLeast::Latest).await?;
        let stored = found.entries.iter().filter_map(|(path, _)| PolicyName::parse(path.segments().last()?).ok());
        let mut names: BTreeSet<PolicyName> = stored.collect();
        // Beyond a page that goes on, a built-in name would hide those between.
        let last = names.last().cloned().filter(|_| found.more);
        let built_in = BUILT_IN.iter().filter_map(|(name, _)| PolicyName::parse(name).ok());
        let follows = |name: &PolicyName| page.after.as_deref().is_none_or(|after| name.as_str() > after);
        names.extend(built_in.filter(|name| follows(name) && last.as_ref().is_none_or(|last| name < last)));
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let more = found.more || names.len() > limit;
        let names: Vec<_> = names.into_iter().take(limit).collect();
        let next_marker = names.last().filter(|_| more).map(|name| name.as_str().to_owned());
        Ok(PolicyPage { names, next_marker })
    }
}

fn path(name: &PolicyName) -> String {
    format!("{FOLDER}/{name}")
}

fn built_in(name: &PolicyName) -> Option<&'static str> {
    BUILT_IN.iter().find(|(built_in, _)| *built_in == name.as_str()).map(|(_, text)| *text)
}

const FOLDER: &str = "sys/policies/acl";

/// As Vault's.
pub(crate) const DEFAULT_POLICY: &str = r#"# what a token may do to itself
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}

path "sys/capabilities-self" {
  capabilities = ["update"]
}

# who it is
path "identity/entity/id/{{identity.entity.id}}" {
  capabilities = ["read"]
}

path "identity/entity/name/{{identity.entity.name}}" {
  capabilities = ["read"]
}

path "sys/internal/ui/resultant-acl" {
  capabilities = ["read"]
}

# what it was lent
path "sys/renew" {
  capabilities = ["update"]
}

path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/lookup" {
  capabilities = ["update"]
}

# a place of its own, and what is handed over wrapped
path "cubbyhole/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

path "sys/wrapping/wrap" {
  capabilities = ["update"]
}

path "sys/wrapping/lookup" {
  capabilities = ["update"]
}

path "sys/wrapping/unwrap" {
  capabilities = ["update"]
}

path "sys/tools/hash" {
  capabilities = ["update"]
}

path "sys/tools/hash/*" {
  capabilities = ["update"]
}
"#;

const ROOT_POLICY: &str = r#"path "*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"]
}
"#;

const BUILT_IN: [(&str, &str); 2] = [("default", DEFAULT_POLICY), ("root", ROOT_POLICY)];
