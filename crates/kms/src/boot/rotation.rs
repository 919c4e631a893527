//! A new epoch of the barrier: sealed by the boundary, written into the `boot` entry, heard of by every node.
//!
//! Always: an epoch is durable in the `boot` entry before anything is sealed under it.
//! Never: an epoch that is dropped: what it sealed stays as it is until it is written again.

use super::{Boot, BootError, SENTINEL, aad_digest, opened_keyring, path, system_paths};
use crate::Kms;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use hsm_api::{Boundary, Reply, Request, ask};
use std::pin::pin;
use std::sync::Arc;
use storage::{AtLeast, Barrier, Batch, Keyring};

impl Kms {
    /// Adds to `batch` the `boot` entry with one epoch more, and what must still hold for it. Once that is committed, the
    /// keyring is for [`Barrier::install`].
    pub async fn prepare_rotation(&self, batch: Batch) -> Result<(Batch, Keyring), BootError> {
        let boundary = &*self.inner.seams.boundary;
        let at = path("boot")?;
        let found = self.inner.seams.barrier.storage().get(std::slice::from_ref(&at), AtLeast::Latest).await?;
        let entry = found.1.into_iter().flatten().next().ok_or(BootError::BootMissing)?;
        let boot = Boot::parse(&entry.value).ok_or(BootError::BootAltered)?;
        // as it stands there: another node may have been first
        let keyring = opened_keyring(boundary, &boot).await?.advance()?;
        let (epoch, plaintext) = (keyring.epoch(), keyring.encode());
        let aad_digest = aad_digest(&boot.cluster, epoch);
        let seal = Request::SystemSeal { key: boot.token.clone(), epoch, aad_digest, plaintext };
        let sealed = ask!(boundary, seal => Reply::Blob).await?;
        let written = Boot { keyring: sealed, ..boot }.encode()?;
        Ok((batch.revision_is(at.clone(), entry.revision).put(at, written), keyring))
    }
}

impl Kms {
    /// The barrier's keys, opened by the boundary anew, for [`Barrier::reopen`]: the store's sentinel opens with them.
    pub async fn open_keyring(&self) -> Result<Keyring, BootError> {
        let (barrier, boundary) = (&self.inner.seams.barrier, &*self.inner.seams.boundary);
        let at = path("boot")?;
        let (_, found) = barrier.storage().get(std::slice::from_ref(&at), AtLeast::Latest).await?;
        let entry = found.into_iter().flatten().next().ok_or(BootError::BootMissing)?;
        let boot = Boot::parse(&entry.value).filter(|boot| boot.cluster == *barrier.cluster_id());
        let boot = boot.ok_or(BootError::BootAltered)?;
        let opened = Barrier::new(Arc::clone(barrier.storage()), boot.cluster, opened_keyring(boundary, &boot).await?);
        let (sentinel_at, _) = system_paths(&boot.cluster)?;
        let (_, sentinel) = opened.get(std::slice::from_ref(&sentinel_at), AtLeast::Latest).await?;
        match sentinel.into_iter().flatten().next() {
            Some(sentinel) if sentinel.value.expose() == SENTINEL => Ok(opened.keyring()?),
            Some(_) | None => Err(BootError::SystemEntry("sentinel")),
        }
    }
}

/// Hears of epochs that other nodes added, until the store tells no more changes: begin anew then, and after an error.
pub async fn follow_keyring(barrier: &Barrier, boundary: &dyn Boundary) -> Result<(), BootError> {
    let at = path("boot")?;
    let (revision, _) = barrier.storage().get(&[], AtLeast::Latest).await?;
    let (mut changes, mut closed) = (barrier.storage().watch(&at, revision), barrier.closed());
    loop {
        let (_, found) = barrier.storage().get(std::slice::from_ref(&at), AtLeast::Latest).await?;
        let entry = found.into_iter().flatten().next().ok_or(BootError::BootMissing)?;
        let boot = Boot::parse(&entry.value).ok_or(BootError::BootAltered)?;
        // closed by hand, it takes none
        closed.borrow_and_update();
        if !barrier.is_closed() {
            barrier.install(opened_keyring(boundary, &boot).await?)?;
        }
        // once it is opened again, another node may have added to the keys with which it was
        match select(changes.next(), pin!(closed.changed())).await {
            Either::Left((None, _)) | Either::Right((Err(_), _)) => return Ok(()),
            Either::Left((Some(_), _)) | Either::Right((Ok(()), _)) => {}
        }
    }
}
