//! Certificates that were issued: each under its serial number, in a queue by its end, and, once revoked, below its issuer.

use super::authority::Issuer;
use super::text::{Der, colons};
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::stored::{decode, encode};
use crate::view::View;
use envelope::{Timestamp, mac};
use serde::{Deserialize, Serialize};
use storage::{Batch, EntryPath, PAGE_ENTRIES_MAX, Revision};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    /// The issuer's id.
    pub(super) issuer: String,
    pub(super) certificate: Der,
    /// Unix milliseconds.
    pub(super) not_after: u64,
    /// Unix milliseconds; zero: it counts.
    #[serde(default)]
    pub(super) revoked_at: u64,
}

/// On its issuer's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revoked {
    /// Unix milliseconds.
    pub(super) at: u64,
}

pub(super) fn path(view: &View, serial: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{ISSUED}/{serial}"))
}

pub(super) fn revoked_path(view: &View, issuer: &str, serial: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{REVOKED}/{issuer}/{serial}"))
}

fn end_path(view: &View, not_after: u64, serial: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{ENDS}/{not_after:016x}/{serial}"))
}

/// With a new one, which must not be there.
pub(super) fn add(view: &View, batch: Batch, serial: &str, issued: &Issued) -> Result<Batch, VaultError> {
    let path = path(view, serial)?;
    let batch = view.put(batch.absent(path.clone()), path, &encode(issued)?)?;
    view.put(batch, end_path(view, issued.not_after, serial)?, issued.issuer.as_bytes())
}

/// Of an issuer, in DER.
pub(super) fn of(issuer: &Issuer, certificate: &[u8], not_after: u64) -> Issued {
    Issued { issuer: issuer.id.clone(), certificate: Der(certificate.to_vec()), not_after, revoked_at: 0 }
}

/// Which one it is, for the audit log.
pub(super) fn told(serial: &str, issued: &Issued) -> String {
    let sha256 = hex::encode(mac::sha256(&issued.certificate.0));
    let until = rfc3339(Timestamp::from_unix_millis(issued.not_after));
    format!("serial={} sha256={sha256} until={until}", colons(serial))
}

pub(super) async fn load(view: &View, serial: &str) -> Result<Option<(Issued, Revision)>, VaultError> {
    let found = view.load(&path(view, serial)?).await?;
    found.map(|found| Ok((decode(found.value.expose())?, found.revision))).transpose()
}

/// Serial numbers, in order; at most so many.
pub(super) async fn serials(view: &View, revoked: Option<&str>) -> Result<Vec<String>, VaultError> {
    let prefix = match revoked {
        Some(issuer) => view.path(&format!("{REVOKED}/{issuer}"))?,
        None => view.path(ISSUED)?,
    };
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = view.scan(&prefix, after.as_ref(), PAGE_ENTRIES_MAX).await?;
        all.extend(page.entries.iter().filter_map(|(path, _)| path.segments().last().map(str::to_owned)));
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        if !page.more || all.len() >= LISTED_MAX {
            return Ok(all);
        }
    }
}

/// What is on an issuer's list, in the order of serial numbers.
pub(super) async fn all_revoked(view: &View, issuer: &str) -> Result<Vec<(String, Revoked)>, VaultError> {
    let prefix = view.path(&format!("{REVOKED}/{issuer}"))?;
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = view.scan(&prefix, after.as_ref(), PAGE_ENTRIES_MAX).await?;
        for (path, found) in &page.entries {
            let serial = path.segments().last().unwrap_or_default().to_owned();
            all.push((serial, decode(found.value.expose())?));
        }
        after = page.entries.into_iter().next_back().map(|(path, _)| path);
        if !page.more {
            return Ok(all);
        }
        if all.len() > REVOKED_MAX {
            return Err(VaultError::Limited(format!("more than {REVOKED_MAX} certificates are revoked").into()));
        }
    }
}

/// What has ended before `before` (unix milliseconds): dropped in one batch, a page of it. How many.
pub(super) async fn drop_ended(view: &View, mut batch: Batch, before: u64) -> Result<(Batch, usize), VaultError> {
    let page = view.scan(&view.path(ENDS)?, None, DROPPED_AT_ONCE).await?;
    let mut dropped = 0;
    for (end, issuer) in page.entries {
        let at = end.segments().skip_while(|segment| *segment != ENDS).nth(1);
        let at = at.and_then(|at| u64::from_str_radix(at, 16).ok()).ok_or_else(unreadable)?;
        if at >= before {
            break;
        }
        let serial = end.segments().last().unwrap_or_default().to_owned();
        let issuer = String::from_utf8(issuer.value.expose().to_vec()).map_err(|_| unreadable())?;
        batch = batch.delete(path(view, &serial)?).delete(revoked_path(view, &issuer, &serial)?).delete(end);
        dropped += 1;
    }
    Ok((batch, dropped))
}

fn unreadable() -> VaultError {
    VaultError::Internal("the queue of certificates that end cannot be read".into())
}

const ISSUED: &str = "s";
const REVOKED: &str = "v";
const ENDS: &str = "e";
const LISTED_MAX: usize = 100_000;
/// A list of so many is 800 kB.
pub(super) const REVOKED_MAX: usize = 20_000;
/// Each takes three writes of a batch.
const DROPPED_AT_ONCE: u32 = 40;
