//! `crls/:name`: authorities' lists of what they have revoked: uploaded, or fetched by URL and fetched again.
//!
//! Always: a list that was fetched last counts until it is over, and then refuses: what cannot be fetched is not taken for
//! what would have been told.

use super::{ATTEMPTS_MAX, NAME_BYTES_MAX};
use crate::auth::token_fields::{self, folded};
use crate::auth::x509::list;
use crate::error::VaultError;
use crate::mount::Kind;
use crate::outside::{Ask, Method, OutsideError};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::stored::{decode, encode};
use crate::view::View;
use audit::{Decision, Record, Subject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::Timestamp;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::{EntryPath, Opened, PAGE_ENTRIES_MAX, Revision};
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
    /// Unix milliseconds.
    next_update: u64,
    /// When it is fetched again.
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

    fn with(&self, list: &list::List, now: Timestamp) -> Self {
        let left = list.next_update.since(now);
        // half of what is left, so that one failure does not matter
        let pause = (left / 2).clamp(FETCHED_MIN, FETCHED_MAX);
        Self {
            list: STANDARD.encode(&list.der),
            next_update: list.next_update.unix_millis(),
            due: now.plus(pause).unix_millis(),
            ..self.clone()
        }
    }
}

fn path(view: &View, name: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{LISTS}/{}", view.hash(b"cert/crl", name)?))
}

async fn find(view: &View, raw: &str) -> Result<Option<(Stored, EntryPath, Revision)>, VaultError> {
    let Some(name) = folded(raw, NAME_BYTES_MAX) else { return Ok(None) };
    let path = path(view, &name)?;
    let found = view.load(&path).await?;
    found.map(|found| Ok((decode(found.value.expose())?, path, found.revision))).transpose()
}

/// DER of all lists of the mount.
pub(super) async fn all(view: &View) -> Result<Vec<Vec<u8>>, VaultError> {
    entries(view).await?.iter().map(|(_, found)| decode::<Stored>(found.value.expose())?.der()).collect()
}

/// A page ends at some bytes, and none may be missing.
async fn entries(view: &View) -> Result<Vec<(EntryPath, Opened)>, VaultError> {
    let (folder, mut after, mut all) = (view.path(LISTS)?, None, Vec::new());
    loop {
        let page = view.scan(&folder, after.as_ref(), PAGE_ENTRIES_MAX).await?;
        after = page.entries.last().map(|(path, _)| path.clone());
        all.extend(page.entries);
        if !page.more {
            return Ok(all);
        }
    }
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
            Some((_, path, revision)) => {
                scope.may_change()?;
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

/// Fetches what is due, of all mounts, as far as a turn goes. How much there was to do.
pub(crate) async fn tend(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let (table, began) = (vault.table().await?, Instant::now());
    let mut done = 0;
    for (_, mount) in table.auth().filter(|(_, mount)| mount.kind == Kind::Cert) {
        let view = vault.view(&mount.id)?;
        for (path, found) in entries(&view).await? {
            let stored: Stored = decode(found.value.expose())?;
            if stored.url.is_empty() || stored.due > now.unix_millis() {
                continue;
            }
            // others wait for their turn: what is left is due in the next one
            if began.elapsed() > TURN {
                return Ok(done);
            }
            let fetched = fetch(vault, &mount.id, &stored).await;
            let now = now.plus(began.elapsed());
            let next = match fetched.and_then(|list| follows(&stored, &list).map(|()| list)) {
                Ok(list) => stored.with(&list, now),
                Err(error) => {
                    tracing::warn!(%error, url = stored.url, "a list of what is revoked was not fetched");
                    Stored { due: now.plus(FETCHED_MIN).unix_millis(), ..stored }
                }
            };
            let batch = crate::gone::still_there(vault, vault.changes().batch()?, mount)?;
            let batch = view.put(batch.revision_is(path.clone(), found.revision), path, &encode(&next)?)?;
            let record = Record {
                decision: Decision::Allowed,
                ..Record::new(now, "worker", "VaultFetchRevocationList", &Subject::System)
            };
            match vault.commit(batch, &record).await {
                Ok(_) | Err(ChangeError::Conflict(_)) => done += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(done)
}

/// Whether it is the next one of the same authority's. Who serves it is not who signs it: what another has issued, or an
/// older one, takes the place of none.
fn follows(stored: &Stored, list: &list::List) -> Result<(), VaultError> {
    let known = list::read("crl", &stored.der()?)?;
    let why = match () {
        () if known.issuer != list.issuer => "another authority's list",
        () if list.this_update < known.this_update => "an older list than the one that is known",
        () => return Ok(()),
    };
    Err(VaultError::field("url", why))
}

/// After so much of a turn no other list is asked for.
const TURN: Duration = Duration::from_secs(10);
const LISTS: &str = "c";
const LISTS_MAX: usize = 32;
const LIST_BYTES_MAX: usize = 700_000;
const WITHIN: Duration = Duration::from_secs(10);
const FETCHED_MIN: Duration = Duration::from_secs(60);
const FETCHED_MAX: Duration = Duration::from_secs(3600);
