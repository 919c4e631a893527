//! KV version 2: versioned secrets, of which several may be valid at once.
//!
//! Beyond Vault: a write with `options.label = "pending"` stages a version that nobody gets who does not ask for it;
//! `promote` makes it the current one and keeps the one before as `previous`. `?label=` reads by label. Metadata tells when
//! each version was read last, so that an old one is withdrawn when nobody uses it any more. A hook can do all of that by
//! itself ([`rotation`]).
//!
//! Always: a version's data stands in an entry of its own, written once.
//! Never: data in metadata; what is destroyed is deleted in the same commit that says so.

mod data;
pub(crate) mod last_read;
mod merge;
mod meta;
mod metadata;
pub(crate) mod rotation;

pub use last_read::LastReads;

use super::kv1::{list, name};
use super::tree::Tree;
use crate::backend::{Access, Backend};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::view::View;
use meta::{Config, Meta};
use std::borrow::Cow;
use storage::{EntryPath, Revision};

#[derive(Debug)]
pub struct Kv2;

#[async_trait::async_trait]
impl Backend for Kv2 {
    fn canonical<'p>(&self, path: &'p str) -> Cow<'p, str> {
        Cow::Borrowed(path)
    }

    fn access(&self, call: &Call, path: &str) -> Access {
        match path.split_once('/') {
            // it says where the server dials
            Some(("rotation", _)) if call.verb == Verb::Write => Access::PolicyAndSudo,
            Some(_) | None => Access::Policy,
        }
    }

    async fn exists(&self, scope: &Scope<'_>) -> Result<bool, VaultError> {
        let (kind, rest) = scope.path.split_once('/').unwrap_or((scope.path, ""));
        // what is deleted, destroyed or promoted is there; only these two make a name
        if !matches!(kind, "data" | "metadata") || rest.is_empty() {
            return Ok(true);
        }
        let view = scope.view()?;
        Ok(view.read(&Secret::new(&view, rest)?.meta_path).await?.is_some())
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        let (kind, rest) = scope.path.split_once('/').unwrap_or((scope.path, ""));
        let view = scope.view()?;
        let secret = || name(rest).and_then(|name| Secret::new(&view, name));
        match (kind, scope.call.verb) {
            ("config", _) if scope.path != "config" => Err(scope.no_route()),
            ("config", Verb::Read) => Reply::data(&config(&view).await?.shown()),
            ("config", Verb::Write) => metadata::configure(scope, &view).await,
            ("data", Verb::Read) => data::read(scope, &secret()?).await,
            ("data", Verb::Write) => data::write(scope, &secret()?).await,
            ("data", Verb::Patch) => data::patch(scope, &secret()?).await,
            ("data", Verb::Delete) => data::delete_latest(scope, &secret()?).await,
            ("subkeys", Verb::Read) => data::subkeys(scope, &secret()?).await,
            ("delete", Verb::Write) => data::change_versions(scope, &secret()?, data::Fate::Deleted).await,
            ("undelete", Verb::Write) => data::change_versions(scope, &secret()?, data::Fate::Undeleted).await,
            ("destroy", Verb::Write) => data::change_versions(scope, &secret()?, data::Fate::Destroyed).await,
            ("promote", Verb::Write) => metadata::promote(scope, &secret()?).await,
            ("rotation", Verb::Read) => rotation::read(&secret()?).await,
            ("rotation", Verb::Write) => rotation::write(scope, &secret()?).await,
            ("rotation", Verb::Delete) => rotation::delete(scope, &secret()?).await,
            ("rotate", Verb::Write) => rotation::rotate_now(scope, &secret()?).await,
            ("metadata", Verb::List) => list(scope, &Tree::new(&view, LIST), rest).await,
            ("metadata", Verb::Read) if rest.is_empty() || rest.ends_with('/') => Err(VaultError::NotFound),
            ("metadata", Verb::Read) => metadata::read(scope, &secret()?).await,
            ("metadata", Verb::Write) => metadata::write(scope, &secret()?, metadata::Way::Replace).await,
            ("metadata", Verb::Patch) => metadata::write(scope, &secret()?, metadata::Way::Merge).await,
            ("metadata", Verb::Delete) => metadata::delete(scope, &secret()?).await,
            (
                "config" | "data" | "subkeys" | "delete" | "undelete" | "destroy" | "promote" | "rotation" | "rotate",
                _,
            ) => Err(VaultError::Unsupported),
            _ => Err(scope.no_route()),
        }
    }
}

/// One name of a mount.
pub(super) struct Secret<'v> {
    view: &'v View,
    name: &'v str,
    slot: String,
    /// All of it is below.
    root: EntryPath,
    /// Beside its data: neighbours in the store, which a write touches together.
    meta_path: EntryPath,
}

impl<'v> Secret<'v> {
    fn new(view: &'v View, name: &'v str) -> Result<Self, VaultError> {
        let slot = Tree::new(view, LIST).slot(name)?;
        let root = view.path(&format!("s/{slot}"))?;
        let meta_path = below(&root, "m")?;
        Ok(Self { view, name, slot, root, meta_path })
    }

    fn tree(&self) -> Tree<'v> {
        Tree::new(self.view, LIST)
    }

    fn data_path(&self, version: u32) -> Result<EntryPath, VaultError> {
        below(&self.root, &format!("d/{version:08x}"))
    }

    /// Perhaps from memory.
    async fn meta(&self) -> Result<Option<Meta>, VaultError> {
        Ok(self.known().await?.map(|(meta, _)| meta))
    }

    /// Perhaps from memory. A change that stands on it commits if it is what stands in the store.
    async fn known(&self) -> Result<Option<(Meta, Revision)>, VaultError> {
        let found = self.view.read(&self.meta_path).await?;
        let decoded = found.as_ref().as_ref().map(|found| Ok((Meta::decode(found.value.expose())?, found.revision)));
        decoded.transpose()
    }

    /// To be changed: as it stands in the store.
    async fn load(&self) -> Result<Option<(Meta, Revision)>, VaultError> {
        let found = self.view.load(&self.meta_path).await?;
        found.map(|found| Ok((Meta::decode(found.value.expose())?, found.revision))).transpose()
    }
}

fn below(root: &EntryPath, rest: &str) -> Result<EntryPath, VaultError> {
    root.join(rest).map_err(|_| VaultError::field("path", "too long to be stored"))
}

async fn config(view: &View) -> Result<Config, VaultError> {
    let found = view.read(&view.path(CONFIG)?).await?;
    found.as_ref().as_ref().map_or(Ok(Config::default()), |found| Config::decode(found.value.expose()))
}

const LIST: &str = "l";
const CONFIG: &str = "c";
const ATTEMPTS_MAX: usize = 16;
