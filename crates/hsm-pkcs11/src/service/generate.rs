//! New keys and further versions, born in the token.

use super::Desk;
use crate::counter::Counters;
use crate::device::Link;
use crate::domain::CLUSTERS_MAX;
use crate::error::Fault;
use crate::keys::GENERATION;
use crate::module::Change;
use crate::resident::Resident;
use crate::template::Name;
use hsm_api::{
    Export, GeneratedKey, HsmError, KeyBinding, KeyId, KeySpec, KeyUsage, NewKey, Origin, ProtectionLevel, Reply,
    TenantId,
};

impl Desk<'_> {
    pub(super) fn generate_key(&self, new: &NewKey) -> Result<Reply, HsmError> {
        self.accept(new)?;
        if new.usage == KeyUsage::SystemSeal {
            self.bind_cluster(new.tenant)?;
        }
        let (binding, resident, token, public_key) = self.device.run(|link| {
            let binding = self.binding(link, new)?;
            let label = format!("{}/{}", binding.key_id, binding.version);
            let name = Name { cka_id: link.random_array()?, label };
            // a key without a counter never exists
            if new.spec == KeySpec::Aes256 {
                Counters::found(link, &name.cka_id)?;
            }
            let (resident, public_key) = Resident::generate(link, new.spec, &name, &self.proven.ed25519)?;
            match self.module.domain.refer(link, &binding, &resident) {
                Ok(token) => Ok((binding, resident, token, public_key)),
                Err(fault) => {
                    resident.destroy(link);
                    Err(fault)
                }
            }
        })?;
        let key_id = binding.key_id;
        self.module.keyring.keep(&token, binding, resident);
        Ok(Reply::Key(GeneratedKey { key_id, token, public_key }))
    }

    fn accept(&self, new: &NewKey) -> Result<(), HsmError> {
        match new.level {
            ProtectionLevel::HsmResident => {}
            ProtectionLevel::Boundary => return Err(HsmError::Unsupported),
        }
        if !new.is_sound() {
            return Err(HsmError::UsageForbidden);
        }
        if new.version == 0 {
            return Err(HsmError::OutOfRange);
        }
        if new.not_after.is_some_and(|not_after| not_after <= (self.now)()) {
            return Err(HsmError::KeyExpired);
        }
        if self.proven.specs.contains(&new.spec) { Ok(()) } else { Err(HsmError::Unsupported) }
    }

    fn binding(&self, link: &mut Link<'_>, new: &NewKey) -> Result<KeyBinding, Fault> {
        let key_id = match new.key_id {
            Some(key_id) => key_id,
            None => KeyId::from_random(link.random_array()?),
        };
        Ok(KeyBinding {
            key_id,
            version: new.version,
            tenant: new.tenant,
            spec: new.spec,
            usage: new.usage,
            level: new.level,
            domain_id: self.module.domain.id,
            generation: GENERATION,
            origin: Origin::Generated,
            export: Export::Never,
            not_after: new.not_after,
        })
    }

    /// Remembers that `cluster` has its SYSTEM_SEAL key here: the server asks before it initialises an empty store.
    pub(super) fn bind_cluster(&self, cluster: TenantId) -> Result<(), HsmError> {
        self.module.commit(self.device, |memory| {
            if memory.clusters.contains(&cluster) {
                return Ok(Change::None);
            }
            if memory.clusters.len() == CLUSTERS_MAX {
                return Err(HsmError::OutOfRange);
            }
            memory.clusters.push(cluster);
            Ok(Change::Made)
        })
    }
}
