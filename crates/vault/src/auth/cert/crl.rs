//! `crls/:name`: authorities' lists of what they have revoked: uploaded, or fetched by URL and fetched again.
//!
//! Always: a list that was fetched last counts until it is over, and then refuses: what cannot be fetched is not taken for
//! what would have been told.

use super::{ATTEMPTS_MAX, NAME_BYTES_MAX};
use crate::Done;
use crate::auth::token_fields::{self, folded};
use crate::auth::x509::list;
use crate::error::VaultError;
use crate::mount::{Kind, Mount};
use crate::outside::{Ask, Method, OutsideError};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::stored::{decode, encode, load};
use crate::view::View;
use audit::{Decision, Record, Subject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::Timestamp;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::{EntryPath, Opened, Revision};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// As stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    name: String,
    /// Where the next one is had; empty: it is uploaded.
    url: String,
    /// PEM of the authorities by whom that server is believed; empty: the system's.
    url_ca: String,
    /// Base64 of DER.
    list: String,
    /// When it is fetched again, unix milliseconds.
    due: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    serials: BTreeMap<&'a str, BTreeMap<&'static str, &'static str>>,
    cdp: Option<Cdp<'a>>,
    next_update: String,
}

#[derive(Serialize)]
struct Cdp<'a> {
    url: &'a str,
    valid_until: String,
}

impl Stored {
    fn der(&self) -> Result<Vec<u8>, VaultError> {
        STANDARD.decode(&self.list).map_err(|_| VaultError::Internal("a stored list cannot be read".into()))
    }

    fn is_due(&self, now: Timestamp) -> bool {
        !self.url.is_empty() && self.due <= now.unix_millis()
    }

    fn with(&self, list: &list::List, now: Timestamp) -> Self {
        let left = list.next_update.since(now);
        // half of what is left, so that one failure does not matter
        let pause = (left / 2).clamp(FETCHED_MIN, FETCHED_MAX);
        Self { list: STANDARD.encode(&list.der), due: now.plus(pause).unix_millis(), ..self.clone() }
    }
}

fn path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{LISTS}/{}", view.hash(b"cert/crl", name)?))
}

async fn find(view: &View, raw: &str) -> Result<Option<(Stored, EntryPath, Revision)>, VaultError> {
    let Some(name) = folded(raw, NAME_BYTES_MAX) else { return Ok(None) };
    let path = path(view, &name)?;
    Ok(load(view, &path).await?.map(|(stored, revision)| (stored, path, revision)))
}

/// DER of all lists of the mount.
pub(super) async fn all(view: &View) -> Result<Vec<Vec<u8>>, VaultError> {
    entries(view).await?.iter().map(|(_, found)| decode::<Stored>(found.value.expose())?.der()).collect()
}

/// None may be missing.
async fn entries(view: &View) -> Result<Vec<(EntryPath, Opened)>, VaultError> {
    Ok(view.entries(&view.path(LISTS)?, usize::MAX).await?.0)
}

pub(super) async fn exists(scope: &Scope<'_>, raw: &str) -> Result<bool, VaultError> {
    Ok(find(&scope.view()?, raw).await?.is_some())
}

pub(super) async fn list(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    token_fields::list(scope, &scope.view()?, LISTS, |text| Ok(Some(decode::<Stored>(text)?.name))).await
}

pub(super) async fn show(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let (stored, ..) = find(&scope.view()?, raw).await?.ok_or(VaultError::NotFound)?;
    let list = list::read("crl", &stored.der()?)?;
    let next_update = crate::clock::rfc3339(list.next_update);
    let cdp = (!stored.url.is_empty()).then(|| Cdp { url: &stored.url, valid_until: next_update.clone() });
    let serials = list.serials.iter().map(|serial| (serial.as_str(), BTreeMap::new())).collect();
    Reply::data(&Shown { serials, cdp, next_update })
}

pub(super) async fn write(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    let (view, body) = (scope.view()?, &scope.call.body);
    let name = folded(raw, NAME_BYTES_MAX);
    let name = name.ok_or_else(|| VaultError::field("name", "1 to 64 letters, digits, `-`, `_`, `.`"))?;
    let (url, uploaded) = (body.string("url")?.unwrap_or_default(), body.string("crl")?.unwrap_or_default());
    let url_ca = body.string("url_ca")?.unwrap_or_default();
    let stored = Stored { name: name.clone(), url: url.to_string(), url_ca: url_ca.to_string(), ..Stored::default() };
    let found = match (url.is_empty(), uploaded.is_empty()) {
        (true, false) => list::read("crl", uploaded.as_bytes())?,
        (false, true) => fetch(scope.vault, &scope.mount.id, &stored).await?,
        (true, true) | (false, false) => return Err(VaultError::field("crl", "either a list or a url is expected")),
    };
    let stored = stored.with(&found, scope.now());
    for _ in 0..ATTEMPTS_MAX {
        let batch = scope.batch()?;
        let (batch, path) = match find(&view, &name).await? {
            Some((old, path, revision)) => {
                scope.may_change()?;
                // from where it came before, as a fetch of the worker's would
                if !url.is_empty() && old.url == stored.url {
                    follows(&old, &found, scope.now())?;
                }
                (batch.revision_is(path.clone(), revision), path)
            }
            None if entries(&view).await?.len() >= LISTS_MAX => {
                return Err(VaultError::Limited(format!("more than {LISTS_MAX} lists").into()));
            }
            None => {
                let path = path(&view, &name)?;
                (batch.absent(path.clone()), path)
            }
        };
        match scope.commit(view.put(batch, path, &encode(&stored)?)?).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

/// To delete what is not there succeeds.
pub(super) async fn delete(scope: &Scope<'_>, raw: &str) -> Result<Reply, VaultError> {
    if let Some((_, path, _)) = find(&scope.view()?, raw).await? {
        scope.commit(scope.batch()?.delete(path)).await?;
    }
    Ok(Reply::empty())
}

async fn fetch(vault: &Vault, mount: &str, stored: &Stored) -> Result<list::List, VaultError> {
    let ask = Ask {
        method: Method::Get,
        url: stored.url.clone(),
        headers: Vec::new(),
        body: Zeroizing::default(),
        ca: Some(stored.url_ca.clone()).filter(|ca| !ca.is_empty()),
        answer_is_signed: false,
        answer_bytes_max: LIST_BYTES_MAX,
        within: WITHIN,
    };
    let told = vault.outside().ask(&format!("{mount}/{}", stored.name), ask).await;
    let told = told.map_err(|error| match error {
        OutsideError::Refused(why) => VaultError::field("url", why),
        OutsideError::Unreachable(_) | OutsideError::NotAsked => VaultError::from(error),
    })?;
    if told.status != 200 {
        return Err(VaultError::field("url", format!("answered {}", told.status)));
    }
    list::read("url", &told.body)
}

/// Fetches what is due, of all mounts, for as long as a turn is; first what has been so for longest. How much there was to do.
///
/// Always: when one is due again counts from the end of its fetch: one that hangs comes behind those that a turn leaves out.
pub(crate) async fn tend(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let (table, began) = (vault.table().await?, Instant::now());
    let (mut due, mut done) = (Vec::new(), Done::default());
    for (_, mount) in table.auth().filter(|(_, mount)| mount.kind == Kind::Cert) {
        for (path, found) in entries(&vault.view(&mount.id)?).await? {
            match decode::<Stored>(found.value.expose()) {
                Ok(stored) if stored.is_due(now) => due.push((stored.due, mount, path)),
                Ok(_) => {}
                Err(error) => done.add("a list of what is revoked", Err(error)),
            }
        }
    }
    due.sort_by_key(|(due, ..)| *due);
    for (_, mount, path) in due {
        if began.elapsed() > TURN {
            tracing::warn!("lists of what is revoked that are due wait for the next turn: some servers are slow");
            break;
        }
        done.add("a list of what is revoked", fetch_next(vault, mount, path, now.plus(began.elapsed())).await);
    }
    done.told()
}

async fn fetch_next(vault: &Vault, mount: &Mount, path: EntryPath, now: Timestamp) -> Result<usize, VaultError> {
    let (view, began) = (vault.view(&mount.id)?, Instant::now());
    let found: Option<(Stored, Revision)> = load(&view, &path).await?;
    let Some((stored, revision)) = found.filter(|(stored, _)| stored.is_due(now)) else { return Ok(0) };
    let fetched = fetch(vault, &mount.id, &stored).await;
    // the fetch took its time
    let now = now.plus(began.elapsed());
    let next = match fetched.and_then(|list| follows(&stored, &list, now).map(|()| list)) {
        Ok(list) => stored.with(&list, now),
        Err(error) => {
            tracing::warn!(%error, url = stored.url, "a list of what is revoked was not fetched");
            Stored { due: now.plus(FETCHED_MIN).unix_millis(), ..stored }
        }
    };
    let batch = crate::gone::still_there(vault, vault.changes().batch()?, mount)?;
    let batch = view.put(batch.revision_is(path.clone(), revision), path, &encode(&next)?)?;
    let record = Record::new(now, "worker", "VaultFetchRevocationList", &Subject::System);
    match vault.commit(batch, &Record { decision: Decision::Allowed, ..record }).await {
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is the next one of the same authority's. Who serves it is not who signs it: what another has issued, an older
/// one, or one of a time to come that no later one would follow, takes the place of none.
fn follows(stored: &Stored, list: &list::List, now: Timestamp) -> Result<(), VaultError> {
    let known = list::read("crl", &stored.der()?)?;
    let why = match () {
        () if known.issuer != list.issuer => "another authority's list",
        () if list.this_update < known.this_update => "an older list than the one that is known",
        () if list.this_update > now.plus(CLOCKS_APART) => "a list of a time to come",
        () => return Ok(()),
    };
    Err(VaultError::field("url", why))
}

/// After so much of a turn no other list is asked for.
const TURN: Duration = Duration::from_secs(10);
/// How far an authority's clock may be ahead.
const CLOCKS_APART: Duration = Duration::from_secs(300);
const LISTS: &str = "c";
const LISTS_MAX: usize = 32;
const LIST_BYTES_MAX: usize = 700_000;
const WITHIN: Duration = Duration::from_secs(10);
const FETCHED_MIN: Duration = Duration::from_secs(60);
const FETCHED_MAX: Duration = Duration::from_secs(3600);
