//! `sys/policies/password/*`: what passwords are made of, and passwords made so.
//!
//! # Divergences
//!
//! - Each rule's characters are drawn first, then the others of all characters, then all are shuffled: a policy that can be
//!   met always gives a password, at once.

mod policy;

use crate::call::Verb;
use crate::error::VaultError;
use crate::mount::Kind;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::view::View;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::PolicyName;
use policy::PasswordPolicy;
use serde::{Deserialize, Serialize};
use storage::{Barrier, EntryPath};
use zeroize::Zeroizing;

/// As written, and as stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    policy: String,
}

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments.get(2..).unwrap_or_default(), scope.call.verb) {
        ([], Verb::List) => list(scope).await,
        ([name], Verb::Read) => {
            let found = load(&scope.view()?, name).await?;
            Reply::data(&std::collections::BTreeMap::from([("policy", found.policy)]))
        }
        ([name], Verb::Write) => write(scope, name).await,
        ([name], Verb::Delete) => {
            let view = scope.view()?;
            scope.commit(scope.batch()?.delete(place(&view, &parse(name)?)?)).await?;
            Ok(Reply::empty())
        }
        ([name, "generate"], Verb::Read) => generate(scope, name).await,
        ([] | [_] | [_, "generate"], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

fn parse(name: &str) -> Result<PolicyName, VaultError> {
    PolicyName::parse(&name.to_ascii_lowercase()).map_err(|_| VaultError::field("name", "no policy's name"))
}

fn place(view: &View, name: &PolicyName) -> Result<EntryPath, VaultError> {
    view.path(&format!("{FOLDER}/{}", view.hash(b"vault/password-policy", name.as_str())?))
}

async fn load(view: &View, name: &str) -> Result<Stored, VaultError> {
    let found = view.load(&place(view, &parse(name)?)?).await?.ok_or(VaultError::NotFound)?;
    read(found.value.expose())
}

fn read(stored: &[u8]) -> Result<Stored, VaultError> {
    serde_json::from_slice(stored).map_err(|_| VaultError::Internal("a password policy cannot be read".into()))
}

async fn write(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let name = parse(name)?;
    let text = scope.call.body.required("policy")?;
    // some clients send it in base64
    let decoded = STANDARD.decode(text.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let policy = decoded.unwrap_or_else(|| text.as_str().to_owned());
    PasswordPolicy::parse(&policy).map_err(|why| VaultError::field("policy", why))?;
    let view = scope.view()?;
    let stored = Stored { name: name.as_str().to_owned(), policy };
    let stored = serde_json::to_vec(&stored).map_err(|_| VaultError::Internal("a password policy".into()))?;
    let at = place(&view, &name)?;
    scope.commit(view.put(scope.batch()?, at, &stored)?).await?;
    Ok(Reply::empty())
}

async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let view = scope.view()?;
    let page = view.scan(&view.path(FOLDER)?, None, LISTED_MAX).await?;
    let names = page.entries.iter().map(|(_, found)| Ok(read(found.value.expose())?.name));
    let mut names = names.collect::<Result<Vec<_>, VaultError>>()?;
    names.sort_unstable();
    let reply = Reply::keys(&names)?;
    Ok(if page.more { reply.warning("there are more than can be told at once") } else { reply })
}

async fn generate(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Password<'a> {
        password: &'a str,
    }
    Reply::data(&Password { password: &by_policy(scope.vault, name).await? })
}

/// A password that a policy makes.
pub(crate) async fn by_policy(vault: &Vault, name: &str) -> Result<Zeroizing<String>, VaultError> {
    let table = vault.table().await?;
    let system = table.mounts.values().find(|mount| mount.kind == Kind::System);
    let system = system.ok_or_else(|| VaultError::Internal("there is no system".into()))?;
    let policy = PasswordPolicy::parse(&load(&vault.view(&system.id)?, name).await?.policy);
    let policy = policy.map_err(|_| VaultError::Internal("a password policy cannot be read".into()))?;
    let barrier = vault.barrier();
    let mut bytes = Zeroizing::new([0; 32]);
    let mut left = 0;
    policy.generate(&mut || {
        if left == 0 {
            *bytes = barrier.random::<32>()?;
            left = bytes.len();
        }
        left -= 1;
        bytes.get(left).copied().ok_or_else(|| VaultError::Internal("no randomness".into()))
    })
}

/// So many of them, each as likely as any other.
pub(crate) fn letters_and_digits(barrier: &Barrier, count: usize) -> Result<Zeroizing<String>, VaultError> {
    let mut text = Zeroizing::new(String::with_capacity(count));
    while text.len() < count {
        let bytes = Zeroizing::new(barrier.random::<64>()?);
        // the largest multiple of 62 that a byte holds
        let even = bytes.iter().filter(|byte| **byte < 248).take(count - text.len());
        text.extend(even.filter_map(|byte| ALPHABET.get(usize::from(*byte % 62))).map(|byte| char::from(*byte)));
    }
    Ok(text)
}

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const FOLDER: &str = "password-policies";
const LISTED_MAX: u32 = 1000;
