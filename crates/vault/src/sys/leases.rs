//! `sys/leases/*`, and the older `sys/revoke*` and `sys/renew`: what was lent, until when, and how it is taken back.
//!
//! Always: a lease's id is the path at which its token was made, and `h` with a keyed hash of the token's accessor: it names
//! the token and is none.
//! Always: taking back below a prefix is bounded, and told as not over while anything may be left: ask again.
//!
//! # Divergences
//!
//! - Tokens are renewed below `auth/token/`, as Vault does it too.
//! - Everything is taken back before the answer (`sync`), or told as not over; what fails is tried again for ever, so that
//!   nothing is ever irrevocable; `revoke-force` is the same as `revoke-prefix`. `queue` tells what is late.

mod lent;

use crate::auth::token::started;
use crate::call::Verb;
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use identity::{ChangeError, IdentityError, LEASES_A_BATCH, Lease, TokenMetadata};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    use Verb::{List, Read, Write};
    let below = segments.strip_prefix(&["leases"]).unwrap_or(segments);
    match (below, scope.call.verb) {
        (["queue"], Read) if below.len() < segments.len() => lent::queue(scope).await,
        (["lookup" | "renew" | "revoke", path @ ..], Write) if path.is_empty() || below.first() != Some(&"lookup") => {
            of_one(scope, below.first().copied().unwrap_or_default(), path).await
        }
        (["lookup", prefix @ ..], List) => list(scope, prefix).await,
        (["revoke-prefix" | "revoke-force", prefix @ ..], Write) if !prefix.is_empty() => {
            revoke_below(scope, &prefix.join("/")).await
        }
        (["tidy"], Write) if below.len() < segments.len() => {
            scope.vault.identities().sweep(scope.now()).await?;
            crate::lease::work(scope.vault, scope.now()).await?;
            started(scope, "Tidied what was over now; what is left is swept up all the time.")
        }
        (["count"], Read) if below.len() < segments.len() => count(scope).await,
        ([], List) => none_irrevocable(),
        ([], _) => Err(VaultError::Unsupported),
        (["lookup" | "renew" | "revoke" | "revoke-prefix" | "revoke-force" | "tidy" | "count" | "queue", ..], _) => {
            Err(VaultError::Unsupported)
        }
        _ => Err(scope.no_route()),
    }
}

pub(super) fn needs_sudo(verb: Verb, path: &str) -> bool {
    let path = path.strip_prefix("leases/").unwrap_or(path);
    if path == "lookup" {
        return verb == Verb::List;
    }
    ["revoke-prefix/", "revoke-force/", "lookup/"].iter().any(|sudo| path.starts_with(sudo)) || path == "tidy"
}

/// Of a user of a database, or of a token.
async fn of_one(scope: &Scope<'_>, what: &str, path: &[&str]) -> Result<Reply, VaultError> {
    let id = named(scope, path)?;
    if let Some(found) = lent::find(scope, &id).await? {
        return match what {
            "lookup" => lent::lookup(scope, &found),
            "renew" => lent::renew(scope, found).await,
            _ => lent::revoke(scope, found).await,
        };
    }
    let (lease, token) = lease(scope, &id).await?;
    match what {
        "lookup" => lookup(scope, &lease, &token),
        "renew" => Err(VaultError::Invalid("tokens cannot be renewed through this endpoint".into())),
        _ => revoke(scope, &[lease]).await.map(|_| Reply::empty()),
    }
}

/// The lease that a request names, in its body or its path.
fn named(scope: &Scope<'_>, path: &[&str]) -> Result<String, VaultError> {
    let text = match scope.call.body.string("lease_id")?.filter(|id| !id.is_empty()) {
        // what the path names was decided on
        Some(id) if !path.is_empty() && *id != path.join("/") => {
            return Err(VaultError::field("lease_id", "not the one that the path names"));
        }
        Some(id) => id.as_str().to_owned(),
        None => path.join("/"),
    };
    if text.is_empty() {
        return Err(VaultError::field("lease_id", "missing"));
    }
    Ok(text)
}

/// The lease of a token, and the token.
async fn lease(scope: &Scope<'_>, id: &str) -> Result<(Lease, TokenMetadata), VaultError> {
    let lease = id.rsplit_once("/h").map(|(path, key)| Lease { path: path.into(), key: key.to_owned() });
    let lease = lease.ok_or_else(invalid)?;
    match scope.vault.identities().leased(&lease).await {
        Err(IdentityError::TokenNotFound) => Err(invalid()),
        Err(error) => Err(error.into()),
        Ok(token) => Ok((lease, token)),
    }
}

fn invalid() -> VaultError {
    VaultError::Invalid("invalid lease".into())
}

fn lookup(scope: &Scope<'_>, lease: &Lease, token: &TokenMetadata) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        id: &'a str,
        issue_time: String,
        expire_time: Option<String>,
        last_renewal: Option<String>,
        renewable: bool,
        ttl: u64,
    }
    Reply::data(&Shown {
        id: &id(lease),
        issue_time: rfc3339(token.created),
        expire_time: token.expires.map(rfc3339),
        last_renewal: token.renewed.map(rfc3339),
        renewable: token.renewable,
        ttl: token.ttl(scope.now()).unwrap_or_default().as_secs(),
    })
}

fn id(lease: &Lease) -> String {
    format!("{}/h{}", lease.path, lease.key)
}

/// Names right below a prefix, folders with a slash.
async fn list(scope: &Scope<'_>, prefix: &[&str]) -> Result<Reply, VaultError> {
    let prefix = folder(&prefix.join("/"));
    let mut names = BTreeSet::new();
    let all = lent::names(scope, &prefix, &mut names).await?;
    let (mut after, mut whole) = (None, true);
    for page in 0.. {
        let found = scope.vault.identities().leases(&prefix, after.as_deref(), PAGE, scope.now()).await?;
        for lease in &found.leases {
            let id = id(lease);
            let rest = id.strip_prefix(&prefix).unwrap_or_default();
            names.insert(rest.split_once('/').map_or_else(|| rest.to_owned(), |(first, _)| format!("{first}/")));
        }
        after = found.next_marker;
        whole = after.is_none();
        if whole || names.len() > NAMES_MAX || page >= PAGES_MAX {
            break;
        }
    }
    let whole = whole && all && names.len() <= NAMES_MAX;
    let names: Vec<_> = names.into_iter().take(NAMES_MAX).collect();
    let reply = Reply::keys(&names)?;
    Ok(if whole { reply } else { reply.warning("there are more than can be told at once") })
}

fn folder(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

async fn count(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Counted {
        lease_count: u64,
        counts: BTreeMap<String, u64>,
    }
    if scope.call.parameter("type") == Some("irrevocable") {
        return Reply::data(&Counted { lease_count: 0, counts: BTreeMap::new() });
    }
    let table = scope.vault.table().await?;
    let mut counted = Counted { lease_count: 0, counts: BTreeMap::new() };
    let (mut after, mut whole) = (None, false);
    for _ in 0..PAGES_MAX {
        let found = scope.vault.identities().leases("", after.as_deref(), PAGE, scope.now()).await?;
        for lease in &found.leases {
            let mount = table.route(&lease.path).map_or("", |(path, ..)| path);
            *counted.counts.entry(mount.to_owned()).or_default() += 1;
            counted.lease_count += 1;
        }
        after = found.next_marker;
        whole = after.is_none();
        if whole {
            break;
        }
    }
    let (lent, all) = lent::count(scope, &mut counted.counts).await?;
    counted.lease_count += lent;
    let reply = Reply::data(&counted)?;
    Ok(if whole && all { reply } else { reply.warning("there are more than can be counted at once") })
}

fn none_irrevocable() -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Irrevocable {
        lease_count: u64,
        leases: [&'static str; 0],
    }
    Reply::data(&Irrevocable { lease_count: 0, leases: [] })
}

/// Ends what was made below a prefix, or of one lease. Names in it are met again only if they were not ended.
pub(super) async fn revoke_below(scope: &Scope<'_>, prefix: &str) -> Result<Reply, VaultError> {
    let prefix = folder(prefix);
    // one that cannot have made anything is a slip of the pen
    if prefix.is_empty() {
        return Err(VaultError::field("prefix", "missing"));
    }
    let (lent, all) = lent::revoke_below(scope, &prefix).await?;
    if !all {
        return Ok(left(lent)?.warning("what was lent there is taken back until nothing is left: see sys/leases/queue"));
    }
    let (mut ended, mut after) = (0, None);
    for _ in 0..PAGES_MAX {
        let found = scope.vault.identities().leases(&prefix, after.as_deref(), PAGE, scope.now()).await?;
        for some in found.leases.chunks(LEASES_A_BATCH) {
            ended += revoke(scope, some).await?;
            if ended >= ENDED_MAX {
                return left(ended);
            }
        }
        after = found.next_marker;
        if after.is_none() {
            return Ok(Reply::empty());
        }
    }
    left(ended)
}

fn left(ended: usize) -> Result<Reply, VaultError> {
    let reply = Reply::data(&BTreeMap::from([("revoked", ended)]))?;
    Ok(reply
        .warning("not all that was made there is taken back yet: send the same request again until this is not told"))
}

async fn revoke(scope: &Scope<'_>, leases: &[Lease]) -> Result<usize, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (batch, count) = scope.vault.identities().prepare_ends(scope.batch()?, leases, scope.now()).await?;
        if count == 0 {
            return Ok(0);
        }
        match scope.commit(batch).await {
            // renewed in between, or ended
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(count),
        }
    }
    Err(VaultError::Conflict)
}

const PAGE: u32 = 1000;
/// Of tokens that are looked through for one request: a million.
const PAGES_MAX: usize = 1000;
const NAMES_MAX: usize = 1000;
/// Ended by one request; the batch that reaches it is the last.
const ENDED_MAX: usize = 1024;
const ATTEMPTS_MAX: usize = 16;
