//! Administration: the domain key's birth, backup, restoration, rotation and end.
//!
//! Always: a backup exists before the domain key counts; what is not durable is undone.

use super::Desk;
use crate::backup;
use crate::keystore::KeyStore;
use crate::module::{Change, FIRST_BOOT_EPOCH, Fault, Held, Operational, State, Stop, write};
use crate::random;
use crate::record::{Domain, Record};
use envelope::SecretBytes;
use hsm_api::{HsmError, Reply};

/// Makes the domain key and its backup.
pub(crate) fn initialise(state: &mut State, store: &KeyStore, threshold: u8, shares: u8) -> Result<Reply, Stop> {
    let held = uninitialised(state)?;
    held.root.generate_domain_key()?;
    let born = (|| {
        let domain = Domain::new(random::array()?);
        let backup = backup::make(&held.root, &domain, &held.module_id, threshold, shares)?;
        let record = found(held, domain);
        write(store, &held.root, &record, held.sealing)?;
        Ok((record, backup))
    })();
    match born {
        Ok((record, backup)) => {
            serve_from(state, record);
            Ok(Reply::Backup(backup))
        }
        Err(stop) => {
            held.root.clear_domain_keys();
            Err(stop)
        }
    }
}

/// Takes a domain over from a backup. The module keeps its own identity.
pub(crate) fn restore(
    state: &mut State,
    store: &KeyStore,
    package: &[u8],
    shares: &[SecretBytes],
) -> Result<Reply, Stop> {
    let held = uninitialised(state)?;
    let restored = (|| {
        let domain = backup::open(&mut held.root, package, shares)?;
        let record = found(held, domain);
        write(store, &held.root, &record, held.sealing)?;
        Ok(record)
    })();
    match restored {
        Ok(record) => {
            serve_from(state, record);
            Ok(Reply::Done)
        }
        Err(stop) => {
            held.root.clear_domain_keys();
            Err(stop)
        }
    }
}

pub(crate) fn rotate_domain(state: &mut State, store: &KeyStore) -> Result<Reply, Stop> {
    match state {
        State::Operational(module) => module.rotate(store).map(Reply::Generation),
        State::Uninitialised(_) | State::Locked { .. } => Err(HsmError::StateForbidden.into()),
        State::Error { .. } => Err(HsmError::ErrorState.into()),
    }
}

/// Wipes every key in memory and removes the state file (ISO/IEC 19790 §7.9.7). Keys in memory are gone even where
/// the file could not be removed; the module then says so and stays in the error state.
pub(crate) fn zeroise(state: &mut State, store: &KeyStore) -> Result<Reply, Stop> {
    let removed = store.remove();
    let (fault, held) = match state.take() {
        State::Uninitialised(held) | State::Locked { why: _, held } => (None, Some(held)),
        State::Operational(module) => (None, Some(Operational::into_held(*module))),
        State::Error { fault, held } => (Some(fault), held),
    };
    let held = held.map(|mut held| {
        held.root.zeroise();
        held
    });
    *state = match (fault, held) {
        (
            Some(fault @ (Fault::SelfTest(_) | Fault::Entropy | Fault::PairwiseConsistency | Fault::Interrupted)),
            held,
        ) => State::Error { fault, held },
        (Some(fault @ Fault::StateFile(_)), None) => State::Error { fault, held: None },
        (None, None) => State::Error { fault: Fault::Interrupted, held: None },
        (Some(Fault::StateFile(_)) | None, Some(mut held)) => {
            held.root.generate_identity()?;
            held.module_id = random::array()?;
            State::Uninitialised(held)
        }
    };
    match removed {
        Ok(()) => Ok(Reply::Done),
        Err(error) => {
            tracing::error!(%error, "the state file could not be removed");
            *state = State::Error { fault: Fault::StateFile(crate::record::StateFileFault::Io), held: None };
            Err(HsmError::StateNotDurable.into())
        }
    }
}

impl Desk<'_> {
    pub(super) fn backup(&self, threshold: u8, shares: u8) -> Result<Reply, Stop> {
        let module = self.module;
        let domain = module.record().domain.clone();
        let backup = backup::make(&module.root, &domain, &module.module_id, threshold, shares)?;
        module.commit(self.store, |record| {
            let change = if record.backup_made { Change::None } else { Change::Made };
            record.backup_made = true;
            Ok(change)
        })?;
        Ok(Reply::Backup(backup))
    }
}

/// The held keys of a module that may be initialised: it needs an unlock key to seal its state.
fn uninitialised(state: &mut State) -> Result<&mut Held, HsmError> {
    match state {
        State::Uninitialised(held) if held.root.unlock_key().is_some() => Ok(held),
        State::Uninitialised(_) | State::Locked { .. } | State::Operational(_) => Err(HsmError::StateForbidden),
        State::Error { .. } => Err(HsmError::ErrorState),
    }
}

fn found(held: &Held, domain: Domain) -> Record {
    Record { module_id: held.module_id, boot_epoch: FIRST_BOOT_EPOCH, writes: 1, backup_made: true, domain }
}

fn serve_from(state: &mut State, record: Record) {
    *state = match state.take() {
        State::Uninitialised(Held { root, module_id: _, sealing }) => {
            State::Operational(Box::new(Operational::new(root, record, sealing)))
        }
        other @ (State::Locked { .. } | State::Operational(_) | State::Error { .. }) => other,
    };
}
