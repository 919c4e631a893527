//! Lists of what is revoked: one of each issuer, signed when something is revoked and before it is too old.

use super::authority::{Authority, Issuer};
use super::record::{REVOKED_MAX, all_revoked};
use super::text::serial;
use super::x509::{Above, Asks, time, unbuilt};
use crate::error::VaultError;
use crate::view::View;
use envelope::Timestamp;
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};
use x509_cert::crl::RevokedCert;
use x509_cert::serial_number::SerialNumber;

/// As stored: three numbers of 8 bytes, then DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    pub(super) number: u64,
    /// Unix milliseconds.
    pub(super) made: u64,
    pub(super) ends: u64,
    pub(super) der: Vec<u8>,
}

impl List {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.number, self.made, self.ends].map(u64::to_be_bytes);
        [numbers.concat(), self.der.clone()].concat()
    }

    fn decode(stored: &[u8]) -> Option<Self> {
        let (numbers, der) = stored.split_at_checked(24)?;
        let mut numbers = numbers.chunks(8).filter_map(|bytes| bytes.try_into().ok().map(u64::from_be_bytes));
        Some(Self { number: numbers.next()?, made: numbers.next()?, ends: numbers.next()?, der: der.to_vec() })
    }

    /// Half of its time is over.
    pub(super) fn is_old(&self, now: Timestamp) -> bool {
        now.unix_millis() >= self.made + self.ends.saturating_sub(self.made) / 2
    }
}

fn path(view: &View, issuer: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("c/{issuer}"))
}

pub(super) async fn load(view: &View, issuer: &str) -> Result<Option<(List, Revision)>, VaultError> {
    let found = view.load(&path(view, issuer)?).await?;
    let unreadable = || VaultError::Internal("a stored list of what is revoked cannot be read".into());
    found.map(|found| Ok((List::decode(found.value.expose()).ok_or_else(unreadable)?, found.revision))).transpose()
}

/// With an issuer's next list, on which `also` stands. Whoever revokes puts the list: of two at once one is done again.
pub(super) async fn renew(
    (view, batch): (&View, Batch),
    asks: &Asks<'_>,
    (authority, issuer): (&Authority, &Issuer),
    also: Option<&str>,
    now: Timestamp,
) -> Result<Batch, VaultError> {
    let path = path(view, &issuer.id)?;
    let found = load(view, &issuer.id).await?;
    let mut revoked: Vec<(String, Timestamp)> = Vec::new();
    for (serial, found) in all_revoked(view, &issuer.id).await? {
        revoked.push((serial, Timestamp::from_unix_millis(found.at)));
    }
    if let Some(also) = also
        && !revoked.iter().any(|(serial, _)| serial == also)
    {
        revoked.push((also.to_owned(), now));
    }
    if revoked.len() > REVOKED_MAX {
        return Err(VaultError::Limited(format!("more than {REVOKED_MAX} certificates are revoked").into()));
    }
    let number = found.as_ref().map_or(1, |(list, _)| list.number.saturating_add(1));
    let ends = now.plus(Duration::from_secs(authority.lists.expiry_secs));
    let entries = revoked.iter().map(|(serial, at)| entry(serial, *at)).collect::<Result<_, _>>()?;
    let der = Above::of(issuer)?.list(asks, (number, now, ends), entries).await?;
    let list = List { number, made: now.unix_millis(), ends: ends.unix_millis(), der };
    let batch = match found {
        Some((_, revision)) => batch.revision_is(path.clone(), revision),
        None => batch.absent(path.clone()),
    };
    view.put(batch, path, &list.encode())
}

pub(super) fn forget(view: &View, batch: Batch, issuer: &str) -> Result<Batch, VaultError> {
    Ok(batch.delete(path(view, issuer)?))
}

fn entry(text: &str, at: Timestamp) -> Result<RevokedCert, VaultError> {
    let bytes = serial(text).and_then(|text| hex::decode(text).ok());
    let bytes = bytes.ok_or_else(|| VaultError::Internal("a stored serial number is one".into()))?;
    let serial_number = SerialNumber::new(&bytes).map_err(unbuilt)?;
    Ok(RevokedCert { serial_number, revocation_date: time(at)?, crl_entry_extensions: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_old_at_half_of_its_time() {
        let list = List { number: 7, made: 1000, ends: 3000, der: vec![1, 2] };
        assert_eq!(List::decode(&list.encode()).as_ref(), Some(&list));
        assert_eq!(List::decode(&[0; 23]), None);
        for (now, old) in [(1000, false), (1999, false), (2000, true), (4000, true)] {
            assert_eq!(list.is_old(Timestamp::from_unix_millis(now)), old);
        }
    }
}
