//! Namespaces: vaults within the vault, each with mounts, policies, tokens, entities, quotas and keys of its own.
//!
//! A namespace is a tenant of its own, whose part of the store stands at `<tenant>/ns/<its own tenant>`: one watch, one backup
//! and one log are the whole server's. Which there are is one table of the root's, as mounts are: it is what a request finds
//! its namespace by, from memory.
//!
//! Whose token it is stands in its text, behind a second dot: a hint of where it is to be looked for, and no more. It counts in
//! its own namespace and in those below; there its own policies decide, on the path as it is from its own namespace
//! (`b/secret/data/x`). Elsewhere it is nobody's.
//!
//! Always: a namespace that is not in the table serves nothing: its tokens end with the commit that takes it out.
//! Always: a name that is given anew is another tenant: it sees nothing of its predecessor.
//! Always: what a token of a namespace above makes here ends with that token, but for orphans, which take `sudo` or a role;
//! and it may give policies of here with `sudo` or by a role alone, `default` excepted.
//! Never: a mount and a namespace at one path; a decision by a policy of another namespace's own name.
//!
//! Not there: groups whose members are another namespace's, and mounts that move from one to another. Who may make namespaces
//! in one of them may use up what all may have together.
//!
//! The native API (gRPC) and client certificates are the root's. A token's own `lookup-self`, `renew-self` and `revoke-self`
//! are answered wherever it counts, by its own namespace. A wrapping token is found by its text, whatever is asked in.

pub(crate) mod asker;
pub(crate) mod round;

use crate::backend::Access;
use crate::error::VaultError;
use crate::mount::Table;
use crate::reply::Reply;
use crate::service::{Seams, Vault};
use crate::{Call, backend, mount};
use audit::Decision;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use storage::{AtLeast, Batch, EntryPath, Revision};

/// Most namespaces of a server.
pub const NAMESPACES_MAX: usize = 1000;
/// How deep they may stand.
pub const DEPTH_MAX: usize = 7;
/// Longest name, bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest path of one, with the slash at its end.
pub const PATH_BYTES_MAX: usize = 512;

/// What is stored of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// 32 hex digits: below it all of its data stands.
    pub(crate) tenant: String,
    /// In the text of its tokens.
    pub(crate) id: String,
    /// Unix milliseconds.
    pub(crate) created: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) custom_metadata: BTreeMap<String, String>,
}

impl Entry {
    pub(crate) fn tenant(&self) -> Result<[u8; 16], VaultError> {
        let mut tenant = [0; 16];
        hex::decode_to_slice(&self.tenant, &mut tenant).map_err(|_| unreadable())?;
        Ok(tenant)
    }
}

/// All namespaces but the root, by their paths: `a/b/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
    paths: HashMap<String, String>,
}

/// In which namespace something is asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Root,
    /// Its path, and how many bytes of the request's path named it.
    Namespace(Arc<str>, usize),
    /// The one that is named is not there. The deepest one above it that is, and what is missing.
    Nowhere(Arc<str>, String),
}

impl Tree {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, VaultError> {
        let entries: BTreeMap<String, Entry> = serde_json::from_slice(text).map_err(|_| unreadable())?;
        let paths = entries.iter().map(|(path, entry)| (entry.id.clone(), path.clone())).collect();
        Ok(Self { entries, paths })
    }

    /// `named` beside the request (`a/b/`, or nothing), and the request's own path, which goes on from there.
    pub(crate) fn find(&self, named: &str, path: &str) -> Found {
        if self.entries.is_empty() && named.is_empty() {
            return Found::Root;
        }
        let mut at = 0;
        for (end, _) in named.match_indices('/') {
            let Some(here) = named.get(..=end).filter(|here| self.entries.contains_key(*here)) else {
                let (deepest, missing) = named.split_at_checked(at).unwrap_or_default();
                return Found::Nowhere(deepest.into(), missing.to_owned());
            };
            at = here.len();
        }
        // the whole path, where both name some of it
        let joined;
        let whole = if named.is_empty() {
            path
        } else {
            joined = format!("{named}{path}");
            &joined
        };
        let ends = whole.match_indices('/').map(|(end, _)| end + 1);
        // what follows is never nothing
        for end in ends.filter(|end| *end > named.len() && *end < whole.len()) {
            match whole.get(..end) {
                Some(here) if self.entries.contains_key(here) => at = end,
                Some(_) | None => break,
            }
        }
        match whole.get(..at) {
            Some(found) if at > 0 => Found::Namespace(found.into(), at - named.len()),
            Some(_) | None => Found::Root,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    pub(crate) fn get_mut(&mut self, path: &str) -> Option<&mut Entry> {
        self.entries.get_mut(path)
    }

    /// The path of the namespace whose tokens end so.
    pub(crate) fn marked(&self, mark: &str) -> Option<&str> {
        self.paths.get(mark).map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Those below a namespace, at any depth, by what of their paths goes on from there.
    pub(crate) fn below<'t>(&'t self, above: &str) -> impl Iterator<Item = (&'t str, &'t Entry)> {
        let from = (std::ops::Bound::Excluded(above), std::ops::Bound::Unbounded);
        let found = self.entries.range::<str, _>(from);
        let length = above.len();
        let above = above.to_owned();
        found
            .take_while(move |(path, _)| path.starts_with(&above))
            .filter_map(move |(path, entry)| Some((path.get(length..)?, entry)))
    }

    /// A namespace stands where a mount of `above` is to stand, above it or below it.
    pub(crate) fn is_taken(&self, above: &str, mount: &str) -> bool {
        self.below(above).any(|(path, _)| path.starts_with(mount) || mount.starts_with(path))
    }

    pub(crate) fn add(&mut self, path: String, entry: Entry) {
        self.paths.insert(entry.id.clone(), path.clone());
        self.entries.insert(path, entry);
    }

    pub(crate) fn remove(&mut self, path: &str) -> Option<Entry> {
        let entry = self.entries.remove(path)?;
        self.paths.remove(&entry.id);
        Some(entry)
    }
}

/// The path that stands beside a request: `a/b/`; of the root nothing.
pub fn parse_named(raw: &str) -> Result<Box<str>, VaultError> {
    let path = raw.trim().trim_matches('/');
    if matches!(path, "" | "root") {
        return Ok("".into());
    }
    if path.len() >= PATH_BYTES_MAX || path.split('/').any(|name| !is_plain(name)) {
        return Err(VaultError::field("X-Vault-Namespace", "no path of a namespace"));
    }
    Ok(format!("{path}/").into())
}

/// The name of a new namespace.
pub(crate) fn parse_name(raw: &str) -> Result<&str, VaultError> {
    if !is_plain(raw) {
        let told = "1 to 128 letters, digits, `-`, `_`, `.`: one namespace is made at a time, in the one above it";
        return Err(VaultError::field("path", told));
    }
    if RESERVED.contains(&raw) {
        return Err(VaultError::field(
            "path",
            format!("\"{raw}\" is a reserved path and cannot be used as a namespace name"),
        ));
    }
    Ok(raw)
}

fn is_plain(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && name.bytes().all(legal)
}

/// Where a vault stands that is not the root's.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) path: Arc<str>,
    pub(crate) id: String,
    top: Vault,
}

impl Vault {
    /// `a/b/`; of the root nothing.
    pub fn namespace(&self) -> &str {
        self.space.as_ref().map_or("", |space| &space.path)
    }

    /// The root's.
    pub(crate) fn top(&self) -> &Self {
        self.space.as_ref().map_or(self, |space| &space.top)
    }

    /// All namespaces, as they are now or were a moment ago.
    pub(crate) async fn tree(&self) -> Result<Arc<Tree>, VaultError> {
        let namespaces = &self.seams.caches.namespaces;
        if let Some(tree) = namespaces.peek(&()) {
            return Ok(tree);
        }
        let (tree, _, read_at) = self.load_tree().await?;
        let tree = Arc::new(tree);
        namespaces.insert((), Arc::clone(&tree), &[self.tree_path()?], read_at);
        Ok(tree)
    }

    /// With the revision of its entry, if there is one, and of the read.
    pub(crate) async fn load_tree(&self) -> Result<(Tree, Option<Revision>, Revision), VaultError> {
        let path = self.tree_path()?;
        let (read_at, found) = self.barrier().get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        match found.into_iter().flatten().next() {
            None => Ok((Tree::default(), None, read_at)),
            Some(opened) => Ok((Tree::parse(opened.value.expose())?, Some(opened.revision), read_at)),
        }
    }

    /// Only where the table is as it was read.
    pub(crate) fn while_tree(&self, batch: Batch, revision: Option<Revision>) -> Result<Batch, VaultError> {
        let path = self.tree_path()?;
        Ok(match revision {
            Some(revision) => batch.revision_is(path, revision),
            None => batch.absent(path),
        })
    }

    pub(crate) fn put_tree(&self, batch: Batch, tree: &Tree) -> Result<Batch, VaultError> {
        let path = self.tree_path()?;
        let text = serde_json::to_vec(&tree.entries).map_err(|_| unreadable())?;
        if text.len() > TREE_BYTES_MAX {
            return Err(VaultError::Limited("all namespaces with their metadata are too long together".into()));
        }
        let sealed = self.barrier().seal(&path, &text)?;
        Ok(batch.put(path, sealed))
    }

    /// With the mounts that a new namespace begins with.
    pub(crate) fn put_first_mounts(&self, batch: Batch, table: &Table) -> Result<Batch, VaultError> {
        self.put_table(batch.absent(self.mounts_path()?), table)
    }

    /// Only while no namespace stands at one of these mounts, above or below.
    pub(crate) async fn without_namespaces_at(&self, batch: Batch, mounts: &[String]) -> Result<Batch, VaultError> {
        let (tree, revision, _) = self.load_tree().await?;
        for at in mounts {
            if tree.is_taken(self.namespace(), at) {
                return Err(VaultError::Invalid(format!("a namespace stands at {at}").into()));
            }
        }
        self.while_tree(batch, revision)
    }

    /// The vault of a namespace.
    pub(crate) fn within(&self, path: &Arc<str>, entry: &Entry) -> Result<Self, VaultError> {
        let (top, tenant) = (self.top(), entry.tenant()?);
        let part = self.part_of(&entry.tenant)?;
        let root = part.join("vault").map_err(|_| unreadable())?;
        let identities = top.seams.identities.in_namespace(&part, &entry.id)?;
        let kms = top.seams.kms.in_namespace(&part, tenant)?;
        let seams = Seams { tenant, identities, kms, ..top.seams.clone() };
        let space = Space { path: Arc::clone(path), id: entry.id.clone(), top: top.clone() };
        Ok(Self { seams, root, space: Some(Arc::new(space)) })
    }

    /// Where all of a namespace's data stands.
    pub(crate) fn part_of(&self, tenant: &str) -> Result<EntryPath, VaultError> {
        let root = hex::encode(self.top().seams.tenant);
        EntryPath::parse(&format!("{root}/ns/{tenant}")).map_err(|_| unreadable())
    }

    fn tree_path(&self) -> Result<EntryPath, VaultError> {
        self.top().root.join("namespaces").map_err(|_| unreadable())
    }

    /// Finds the namespace that is asked in, and serves there.
    pub(crate) async fn enter(&self, call: &mut Call) -> Result<Reply, VaultError> {
        if self.is_sealed() {
            return crate::seal::serve(self, call).await;
        }
        let tree = match self.tree().await {
            Ok(tree) => tree,
            Err(error) => return self.refused(call, None, (Decision::NotReached, ""), error).await,
        };
        match tree.find(&call.namespace, call.path.as_str()) {
            Found::Root => self.serve(call, &tree).await,
            // what is rarer does not make what is more frequent larger
            Found::Namespace(path, named) => Box::pin(self.serve_within(call, &tree, path, named)).await,
            Found::Nowhere(deepest, missing) => match of_wrapped(call) {
                Some(at) => {
                    call.path.go_on_from(at);
                    let _ = call.info.namespace.set(call.namespace.as_ref().into());
                    Box::pin(self.serve(call, &tree)).await
                }
                None => Box::pin(self.nowhere(call, &tree, deepest, &missing)).await,
            },
        }
    }

    async fn serve_within(
        &self,
        call: &mut Call,
        tree: &Tree,
        path: Arc<str>,
        named: usize,
    ) -> Result<Reply, VaultError> {
        let vault = self.within(&path, tree.get(&path).ok_or_else(unreadable)?)?;
        call.path.go_on_from(named);
        let _ = call.info.namespace.set(path);
        vault.serve(call, tree).await
    }

    /// That a namespace is not there is told to whom the one above it knows, and who may do something there, alone.
    async fn nowhere(&self, call: &Call, tree: &Tree, deepest: Arc<str>, missing: &str) -> Result<Reply, VaultError> {
        let vault = match tree.get(&deepest) {
            Some(entry) => self.within(&deepest, entry)?,
            None => self.clone(),
        };
        let _ = call.info.namespace.set(call.namespace.as_ref().into());
        if let Err(error) = self.seams.caches.quotas.admit(&vault, call).await {
            return self.refused(call, None, (Decision::NotReached, ""), error).await;
        }
        match vault.asker(call, tree).await {
            Err(error) => self.refused(call, None, (Decision::NotReached, ""), error).await,
            Ok(asker) => {
                let told = if asker.by.acl().speaks_of(missing) {
                    VaultError::NoNamespace
                } else {
                    VaultError::PermissionDenied
                };
                self.refused(call, Some(&asker.by), (Decision::Denied, ""), told).await
            }
        }
    }
}

/// What a wrapping token is good for is asked for where that stands in the path. It is answered in whatever namespace is named,
/// also where there is none: nobody learns by it which there are.
pub(crate) fn of_wrapped(call: &Call) -> Option<usize> {
    let path = call.path.as_str().trim_end_matches('/');
    let (before, last) = path.rsplit_once('/')?;
    let at = before.strip_suffix("sys/wrapping").filter(|named| named.is_empty() || named.ends_with('/'))?.len();
    let below = path.get(at..)?.strip_prefix("sys/")?;
    // by an accessor its maker asks, in its own namespace
    let is_public = backend::of(mount::Kind::System).access(call, below) == Access::Public;
    (matches!(last, "unwrap" | "rewrap" | "lookup") && is_public).then_some(at)
}

/// Whether a path is served in the root alone. As OpenBao has it.
pub(crate) fn is_roots(path: &str) -> bool {
    let Some(path) = path.strip_prefix("sys/") else { return false };
    ROOTS.iter().any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

pub(crate) fn unreadable() -> VaultError {
    VaultError::Internal("the stored namespaces cannot be read".into())
}

/// Below `sys/`.
const ROOTS: [&str; 34] = [
    "audit",
    "audit-hash",
    "config",
    "decode-token",
    "generate-recovery-token",
    "generate-root",
    "ha-status",
    "health",
    "host-info",
    "in-flight-req",
    "init",
    "internal/counters",
    "internal/inspect",
    "key-status",
    "leader",
    "loggers",
    "managed-keys",
    "metrics",
    "monitor",
    "plugins",
    "pprof",
    "quotas/config",
    "quotas/lease-count",
    "raw",
    "rekey",
    "rekey-recovery-key",
    "replication",
    "rotate",
    "seal",
    "seal-status",
    "step-down",
    "storage",
    "unseal",
    "version-history",
];
/// What is no name: paths that mean something else.
const RESERVED: [&str; 8] = ["root", "sys", "audit", "auth", "cubbyhole", "identity", "kms", "api-lock"];
/// Of one value of the store.
const TREE_BYTES_MAX: usize = 960 << 10;

/// What a namespace begins with.
pub(crate) const FIRST_MOUNTS: [(&str, mount::Kind, &str); 4] = [
    ("auth/token/", mount::Kind::Token, "token based credentials"),
    ("cubbyhole/", mount::Kind::Cubbyhole, "per-token private secret storage"),
    ("identity/", mount::Kind::Identity, "identity store"),
    ("sys/", mount::Kind::System, "system endpoints used for control, policy and debugging"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::default();
        for (n, path) in paths.iter().enumerate() {
            let (tenant, id) = (format!("{n:032x}"), format!("id{n}"));
            tree.add((*path).to_owned(), Entry { tenant, id, created: 0, custom_metadata: BTreeMap::new() });
        }
        tree
    }

    #[test]
    fn a_request_is_asked_in_the_deepest_namespace_that_header_and_path_name_together() {
        let tree = tree(&["a/", "a/b/", "a/b/c/", "ab/", "x/"]);
        for (named, path, found) in [
            ("", "secret/data/x", Found::Root),
            ("", "a", Found::Root),
            ("", "a/", Found::Root),
            ("", "a/secret/data/x", Found::Namespace("a/".into(), 2)),
            ("", "a/b/", Found::Namespace("a/".into(), 2)),
            ("", "a/b/c/sys/mounts", Found::Namespace("a/b/c/".into(), 6)),
            ("", "a/x/sys/mounts", Found::Namespace("a/".into(), 2)),
            ("", "abc/x", Found::Root),
            ("", "ab/x", Found::Namespace("ab/".into(), 3)),
            ("a/", "sys/mounts", Found::Namespace("a/".into(), 0)),
            ("a/", "b/sys/mounts", Found::Namespace("a/b/".into(), 2)),
            ("a/b/", "c/x", Found::Namespace("a/b/c/".into(), 2)),
            ("a/", "x/sys/mounts", Found::Namespace("a/".into(), 0)),
            ("a/q/", "x", Found::Nowhere("a/".into(), "q/".into())),
            ("q/r/", "x", Found::Nowhere("".into(), "q/r/".into())),
            ("a/b/c/d/e/", "x", Found::Nowhere("a/b/c/".into(), "d/e/".into())),
        ] {
            assert_eq!(tree.find(named, path), found, "{named:?} {path:?}");
        }
        assert_eq!(Tree::default().find("", "a/b"), Found::Root);
        assert_eq!(Tree::default().find("a/", "b"), Found::Nowhere("".into(), "a/".into()));
        assert_eq!(tree.below("a/").map(|(path, _)| path).collect::<Vec<_>>(), ["b/", "b/c/"]);
        assert_eq!(tree.below("").count(), 5);
        for (above, mount, taken) in
            [("", "a/", true), ("", "a/kv/", true), ("", "b/", false), ("a/", "b/c/", true), ("a/", "x/", false)]
        {
            assert_eq!(tree.is_taken(above, mount), taken, "{above} {mount}");
        }
    }

    #[test]
    fn names_and_paths_are_plain_and_what_means_something_else_is_no_name() {
        for (raw, sound) in [
            ("a", true),
            ("Team-1_x.y", true),
            (&"a".repeat(128), true),
            (&"a".repeat(129), false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("+", false),
            ("a*", false),
            ("ä", false),
            ("root", false),
            ("sys", false),
            ("auth", false),
            ("audit", false),
            ("identity", false),
            ("cubbyhole", false),
            ("kms", false),
        ] {
            assert_eq!(parse_name(raw).is_ok(), sound, "{raw}");
        }
        for (raw, path) in [
            ("", Some("")),
            ("/", Some("")),
            ("root", Some("")),
            ("root/", Some("")),
            ("a", Some("a/")),
            (" /a/b/ ", Some("a/b/")),
            ("a//b", None),
            ("a/../b", None),
            ("ä", None),
        ] {
            assert_eq!(parse_named(raw).ok().as_deref(), path, "{raw}");
        }
    }

    #[test]
    fn paths_of_the_roots_alone_are_whole_segments() {
        for (path, roots) in [
            ("sys/health", true),
            ("sys/seal", true),
            ("sys/seal-status", true),
            ("sys/rotate/keyring", true),
            ("sys/quotas/config", true),
            ("sys/quotas/rate-limit/x", false),
            ("sys/sealed", false),
            ("sys/mounts", false),
            ("sys/internal/ui/mounts", false),
            ("secret/health", false),
        ] {
            assert_eq!(is_roots(path), roots, "{path}");
        }
    }
}
