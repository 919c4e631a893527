//! `sys/capabilities*`: what a token's rules give on paths.

use super::policies::of;
use crate::auth::token::{accessor_in, invalid_accessor};
use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::{IdentityError, Target};
use std::collections::BTreeMap;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::Write || segments.len() != 1 {
        return Err(VaultError::Unsupported);
    }
    let paths = match scope.call.body.list("paths")? {
        Some(paths) => paths,
        None => scope.call.body.list("path")?.ok_or_else(|| VaultError::field("paths", "missing"))?,
    };
    if paths.is_empty() || paths.len() > PATHS_MAX {
        return Err(VaultError::field("paths", format!("1 to {PATHS_MAX} paths")));
    }
    let (identities, by) = (scope.vault.identities(), scope.by()?);
    let rules;
    let acl = match segments {
        ["capabilities"] => {
            let token = scope.call.body.required("token")?;
            let outcome = identities.rules_of(Target::Token(token.as_bytes()), by, scope.now()).await;
            rules = outcome.map_err(|error| unknown(error, VaultError::Invalid("invalid token".into())))?;
            &rules
        }
        ["capabilities-accessor"] => {
            let accessor = accessor_in(scope)?;
            let outcome = identities.rules_of(Target::Accessor(&accessor), by, scope.now()).await;
            rules = outcome.map_err(|error| unknown(error, invalid_accessor()))?;
            &rules
        }
        _ => by.acl(),
    };
    let mut found: BTreeMap<&str, Vec<&str>> = paths.iter().map(|path| (path.as_str(), of(acl, path))).collect();
    if let [path] = paths.as_slice() {
        found.insert("capabilities", of(acl, path));
    }
    Ok(Reply::data(&found)?.repeated())
}

fn unknown(error: IdentityError, told: VaultError) -> VaultError {
    if matches!(error, IdentityError::TokenNotFound) { told } else { error.into() }
}

const PATHS_MAX: usize = 256;
