//! `sys/internal/ui/resultant-acl`: what the caller's rules say, as user interfaces ask it to draw what may be clicked.
//!
//! # Divergences
//!
//! - A pattern with `+` stands among `glob_paths` as it is written. What a rule demands of requests is not told.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize, Default)]
struct Resultant {
    chroot_namespace: &'static str,
    root: bool,
    exact_paths: BTreeMap<String, Given>,
    glob_paths: BTreeMap<String, Given>,
}

#[derive(Serialize)]
struct Given {
    capabilities: Vec<&'static str>,
}

pub(super) fn resultant_acl(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::Read {
        return Err(VaultError::Unsupported);
    }
    let acl = scope.by()?.acl();
    let mut resultant = Resultant { root: acl.is_root(), ..Resultant::default() };
    for said in acl.said() {
        let mut capabilities: Vec<_> = said.given.iter().map(|capability| capability.as_str()).collect();
        if said.denied || capabilities.is_empty() {
            capabilities = vec!["deny"];
        }
        capabilities.sort_unstable();
        let paths = if said.exact { &mut resultant.exact_paths } else { &mut resultant.glob_paths };
        let path = if said.exact { said.pattern } else { said.pattern.trim_end_matches('*').to_owned() };
        paths.insert(path, Given { capabilities });
    }
    Reply::data(&resultant)
}
