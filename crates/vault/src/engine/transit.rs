//! Transit: the key domain's keys under names of a mount, for callers who send data and get ciphertexts, signatures and codes.
//!
//! A name stands for one key of the key domain, which nobody else needs to be given: the caller's policies on the mount's
//! paths have decided, and the key domain carries the operation out in the caller's name ([`kms::Through`]). Its record names
//! the key by its id; the record that made the name tells both.
//!
//! Always: a ciphertext, signature or code says which version of its key it was made under, and is taken only as that.
//! Never: a key in the clear here, but the data key of one long plaintext, made for it and wiped.
//!
//! # Divergences
//! - Types: `aes256-gcm96`, `ecdsa-p256`, `ed25519`, `rsa-2048`, `rsa-3072`, `rsa-4096`, `hmac` (of 32 bytes). An HMAC takes
//!   a key of type `hmac`: no other key authenticates beside what it is for. `derived` is for `aes256-gcm96`.
//! - Nothing is exported, imported, backed up or restored, but public keys; convergent encryption is refused.
//! - `context` is bound as associated data is, on keys that are not derived too.
//! - A ciphertext is the key domain's blob in base64, and longer than Vault's by its header.
//! - HMACs, and Ed25519's signatures, are of 1 to 4096 bytes. PSS salts are as long as the hash.
//! - A deleted key can be brought back from the key domain for seven days; its name is gone at once.

mod admin;
pub(crate) mod auto;
mod batch;
mod cipher;
mod config;
mod data_key;
mod der;
mod key;
mod large;
mod mac;
mod plain;
mod sign;
mod wire;

use super::tree::Tree;
use crate::backend::{Access, Backend};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use std::borrow::Cow;

#[derive(Debug)]
pub struct Transit;

#[async_trait::async_trait]
impl Backend for Transit {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    fn access(&self, _call: &Call, _path: &str) -> Access {
        Access::Policy
    }

    /// To encrypt under a name that is not there makes a key, which is another capability.
    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        match scope.segments()[..] {
            ["encrypt", name] if key::check_name(name).is_ok() => Ok(key::find(&scope.view()?, name).await?.is_some()),
            _ => Ok(true),
        }
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let segments = scope.segments();
        match (&segments[..], scope.call.verb) {
            (["keys"], Verb::List) => super::kv1::list(scope, &Tree::new(&scope.view()?, key::LIST), "").await,
            (["keys", name], Verb::Read) => admin::read(scope, name).await,
            (["keys", name], Verb::Write) => admin::create(scope, name).await,
            (["keys", name], Verb::Delete) => admin::delete(scope, name).await,
            (["keys", name, "config"], Verb::Write) => config::configure(scope, name).await,
            (["keys", name, "rotate"], Verb::Write) => admin::rotate(scope, name).await,
            (["keys", name, "trim"], Verb::Write) => config::trim(scope, name).await,
            (["encrypt", name], Verb::Write) => cipher::encrypt(scope, name).await,
            (["decrypt", name], Verb::Write) => cipher::decrypt(scope, name).await,
            (["rewrap", name], Verb::Write) => cipher::rewrap(scope, name).await,
            (["datakey", shown, name], Verb::Write) => data_key::generate(scope, shown, name).await,
            (["sign", name, hash @ ..], Verb::Write) if hash.len() < 2 => sign::sign(scope, name, hash.first()).await,
            (["verify", name, hash @ ..], Verb::Write) if hash.len() < 2 => {
                sign::verify(scope, name, hash.first()).await
            }
            (["hmac", name, hash @ ..], Verb::Write) if hash.len() < 2 => {
                mac::generate(scope, name, hash.first()).await
            }
            (["hash", hash @ ..], Verb::Write) if hash.len() < 2 => plain::hash(scope, hash.first()),
            (["random", how @ ..], Verb::Write) if how.len() < 3 => plain::random(scope, how).await,
            (["export", "public-key", name, version @ ..], Verb::Read) if version.len() < 2 => {
                admin::export_public(scope, name, version.first()).await
            }
            (["export", "public-key", ..], _) => Err(VaultError::Unsupported),
            (["export" | "byok-export" | "backup" | "restore", ..], _) => Err(never_leaves()),
            (["wrapping_key"] | ["keys", _, "import" | "import_version"], _) => {
                Err(VaultError::Invalid("import: keys are made inside the boundary, none is imported here".into()))
            }
            (["keys", _, "csr" | "set-certificate" | "soft-delete" | "soft-delete-restore"], _) => {
                Err(VaultError::Invalid("certificates and soft deletion of keys are not served here".into()))
            }
            (["keys", ..], _) => Err(VaultError::Unsupported),
            ([first, ..], _) if SERVED.contains(first) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

fn never_leaves() -> VaultError {
    VaultError::Invalid("export and backup: keys never leave the boundary".into())
}

const SERVED: [&str; 9] = ["encrypt", "decrypt", "rewrap", "datakey", "sign", "verify", "hmac", "hash", "random"];
const ATTEMPTS_MAX: usize = 16;
