//! New keys and further versions; the same key under a newer generation of the domain key.

use super::Desk;
use crate::keys::{self, Material, unwrap, wrap};
use crate::keystore::KeyStore;
use crate::module::{Change, Operational, Stop};
use crate::random;
use crate::record::CLUSTERS_MAX;
use envelope::{SecretBytes, Timestamp};
use hsm_api::{
    Export, GeneratedKey, HsmError, KeyBinding, KeyId, KeyToken, KeyUsage, NewKey, Origin, ProtectionLevel, Reply,
    TenantId,
};

/// Makes a key without looking at the module's state: RSA takes seconds, during which nobody shall wait.
pub(crate) fn make(new: &NewKey, now: Timestamp) -> Result<(SecretBytes, Material), Stop> {
    match new.level {
        ProtectionLevel::Boundary => {}
        ProtectionLevel::HsmResident => return Err(HsmError::Unsupported.into()),
    }
    if !new.is_sound() {
        return Err(HsmError::UsageForbidden.into());
    }
    if new.version == 0 {
        return Err(HsmError::OutOfRange.into());
    }
    if new.not_after.is_some_and(|not_after| not_after <= now) {
        return Err(HsmError::KeyExpired.into());
    }
    Ok(keys::generate(new.spec)?)
}

/// Wraps the new key; a SYSTEM_SEAL key binds its cluster to this module first, durably.
pub(crate) fn keep(
    module: &Operational,
    store: &KeyStore,
    new: &NewKey,
    (key, material): (SecretBytes, Material),
) -> Result<Reply, Stop> {
    if new.usage == KeyUsage::SystemSeal {
        if !module.record().backup_made {
            return Err(HsmError::BackupRequired.into());
        }
        bind_cluster(module, store, new.tenant)?;
    }
    let key_id = match new.key_id {
        Some(key_id) => key_id,
        None => KeyId::from_random(random::array()?),
    };
    let binding = KeyBinding {
        key_id,
        version: new.version,
        tenant: new.tenant,
        spec: new.spec,
        usage: new.usage,
        level: new.level,
        domain_id: module.domain_id,
        generation: module.root.generation(),
        origin: Origin::Generated,
        export: Export::Never,
        not_after: new.not_after,
    };
    let token = wrap(&module.root, &binding, key.expose())?;
    let public_key = material.public_key().unwrap_or_default().into();
    module.keyring.keep(&token, binding, material);
    Ok(Reply::Key(GeneratedKey { key_id, token, public_key }))
}

/// Remembers that `cluster` has its SYSTEM_SEAL key here: the server asks before it initialises an empty store.
pub(super) fn bind_cluster(module: &Operational, store: &KeyStore, cluster: TenantId) -> Result<(), Stop> {
    module.commit(store, |record| {
        let clusters = &mut record.domain.clusters;
        if clusters.contains(&cluster) {
            return Ok(Change::None);
        }
        if clusters.len() == CLUSTERS_MAX {
            return Err(HsmError::OutOfRange);
        }
        clusters.push(cluster);
        Ok(Change::Made)
    })
}

impl Desk<'_> {
    pub(super) fn rewrap(&self, token: &KeyToken) -> Result<Reply, Stop> {
        let module = self.module;
        let unwrapped = unwrap(&module.root, &module.domain_id, token)?;
        let binding = KeyBinding { generation: module.root.generation(), ..unwrapped.binding.clone() };
        Ok(Reply::Token(wrap(&module.root, &binding, unwrapped.key())?))
    }
}
