//! The system's own paths: one file a subtree.

mod audit;
mod capabilities;
mod generate_root;
mod leases;
mod locked;
mod metrics;
mod mounts;
mod namespaces;
mod openapi;
mod operator;
pub(crate) mod passwords;
mod policies;
mod quotas;
mod rekey;
pub(crate) mod status;
mod tools;
mod ui;
mod wrapping;

use crate::backend::{Access, Backend, lowered};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;

pub(crate) use generate_root::RootAttempts;
pub(crate) use rekey::RekeyAttempt;

#[derive(Debug)]
pub(crate) struct System;

#[async_trait::async_trait]
impl Backend for System {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        match path {
            path if path.starts_with("policies/") => lowered(path, 2),
            path if path.starts_with("policy/") => lowered(path, 1),
            path if path.starts_with("locked-users/") => lowered(path, 3),
            path => Cow::Borrowed(path),
        }
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        let first = path.split('/').next().unwrap_or_default();
        match (path, call.verb) {
            ("health" | "seal-status" | "leader", Verb::Read)
            | ("init", Verb::Read | Verb::Write)
            | ("unseal" | "wrapping/unwrap" | "wrapping/rewrap", Verb::Write) => Access::Public,
            // the root token is what is lost: the shares speak
            ("generate-root/attempt", Verb::Read | Verb::Write | Verb::Delete)
            | ("generate-root/update", Verb::Write) => Access::Public,
            // who asks by an accessor must be whoever made the token
            ("wrapping/lookup", Verb::Write) if call.body.has("accessor") => Access::Everybodys,
            ("wrapping/lookup", Verb::Read | Verb::Write) => Access::Public,
            ("internal/ui/resultant-acl", Verb::Read) => Access::Everybodys,
            (path, Verb::Read) if path.starts_with("internal/ui/mounts") => Access::Everybodys,
            _ => match first {
                "auth" if matches!(call.verb, Verb::Write | Verb::Delete) => Access::PolicyAndSudo,
                "remount" | "audit" | "rotate" | "seal" | "step-down" | "rekey" | "rekey-recovery-key" => {
                    Access::PolicyAndSudo
                }
                // the same as `auth/…/tune`
                "mounts" if call.verb == Verb::Write && path.starts_with("mounts/auth/") && path.ends_with("/tune") => {
                    Access::PolicyAndSudo
                }
                _ if leases::needs_sudo(call.verb, path) => Access::PolicyAndSudo,
                _ => Access::Policy,
            },
        }
    }

    async fn exists(&self, _scope: &Scope<'_>) -> Result<bool, VaultError> {
        Ok(true)
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let segments = scope.segments();
        match segments.first().copied().unwrap_or_default() {
            "init" if scope.call.verb == Verb::Write => operator::handle(scope, &segments).await,
            "health" | "seal-status" | "leader" | "ha-status" | "init" => status::handle(scope, &segments).await,
            "unseal" | "seal" | "step-down" | "rekey" | "generate-recovery-token" | "rotate" | "key-status" => {
                operator::handle(scope, &segments).await
            }
            "rekey-recovery-key" => rekey::handle(scope, &segments).await,
            "generate-root" => generate_root::handle(scope, &segments).await,
            "quotas" => quotas::handle(scope, &segments).await,
            "audit" | "audit-hash" => audit::handle(scope, &segments).await,
            "policies" if segments.get(1) == Some(&"password") => passwords::handle(scope, &segments).await,
            "internal" if segments.get(1..) == Some(&["specs", "openapi"]) => openapi::handle(scope).await,
            "internal" if segments.get(1..) == Some(&["ui", "resultant-acl"]) => ui::resultant_acl(scope),
            "locked-users" => locked::handle(scope, &segments).await,
            "metrics" if segments.len() == 1 => metrics::handle(scope),
            "mounts" | "auth" | "remount" | "internal" => mounts::handle(scope, &segments).await,
            "namespaces" => namespaces::handle(scope, &segments).await,
            "policies" | "policy" => policies::handle(scope, &segments).await,
            "capabilities" | "capabilities-self" | "capabilities-accessor" => {
                capabilities::handle(scope, &segments).await
            }
            "leases" | "renew" | "revoke" | "revoke-prefix" | "revoke-force" => leases::handle(scope, &segments).await,
            "tools" => tools::handle(scope, &segments).await,
            "wrapping" => wrapping::handle(scope, &segments).await,
            _ => Err(scope.no_route()),
        }
    }
}
