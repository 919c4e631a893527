//! Administration of a bare token: the domain's birth, and its end.
//!
//! Backing the token up is its vendor's business (cloning, smart cards, a Security World): initialising answers an empty
//! package without shares, and the status says that the token's own backup applies.
//!
//! Always: the domain's record is written last; until then there is no domain.

use crate::device::Device;
use crate::domain::{DOMAIN, Memory, Named};
use crate::module::Operational;
use crate::probe::Proven;
use crate::resident::Resident;
use crate::store::{self, APPLICATION, Record};
use crate::template::Name;
use bytes::Bytes;
use cryptoki::object::{Attribute, AttributeType};
use hsm_api::{BackupPackage, HsmError, KeySpec, Reply};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes the domain's HMAC key and the module's identity in the token, and remembers them there.
pub(crate) fn initialise(
    device: &Device,
    proven: &Proven,
    module_id: [u8; 16],
    threshold: u8,
    shares: u8,
) -> Result<Operational, HsmError> {
    // no shares come of it, and yet it is asked as the other boundary is
    if threshold == 0 || threshold > shares {
        return Err(HsmError::OutOfRange);
    }
    let identity_spec = proven.identity_spec();
    if !proven.specs.contains(&identity_spec) {
        return Err(HsmError::Unsupported);
    }
    let (memory, sequence) = device.run(|link| {
        let make = |link: &mut _, spec, label: &str| {
            let name = Name { cka_id: crate::device::Link::random_array(link)?, label: label.to_owned() };
            Resident::generate(link, spec, &name, &proven.ed25519)
        };
        let (hmac, _) = make(link, KeySpec::Hmac256, "domain")?;
        let (identity, identity_spki) = make(link, identity_spec, "identity")?;
        let memory = Memory {
            domain_id: link.random_array()?,
            module_id,
            boot_epoch: 1,
            hmac: Named::from(&hmac),
            identity: Named::from(&identity),
            identity_spki,
            clusters: Vec::new(),
            checkpoints: BTreeMap::new(),
        };
        let sequence = store::write(link, DOMAIN, 0, &memory.encode())?;
        Ok((memory, sequence))
    })?;
    let module = Operational::new(Record { sequence, body: Vec::new() }, memory);
    device.canary.keep(Arc::clone(&module.domain.hmac));
    Ok(module)
}

/// What initialising answers in a backup's place.
pub(crate) fn no_backup() -> Reply {
    Reply::Backup(BackupPackage { package: Bytes::new(), shares: Vec::new() })
}

/// Destroys every object that this module made, the domain's record first; objects of others stay.
pub(crate) fn zeroise(device: &Device, stop_serving: impl FnOnce()) -> Result<[u8; 16], HsmError> {
    let mut stop_serving = Some(stop_serving);
    let (left, module_id) = device.run(|link| {
        let objects = link.call(|session| session.find_objects(&[Attribute::Token(true)]))?;
        if let Some(stop_serving) = stop_serving.take() {
            stop_serving();
        }
        store::remove(link, DOMAIN)?;
        let mut left = 0;
        for object in objects {
            let Ok(attributes) = link.attributes(object, &[AttributeType::Label]) else { continue };
            if attributes.iter().any(is_ours) && link.destroy(object).is_err() {
                left += 1;
            }
        }
        Ok((left, link.random_array()?))
    })?;
    device.canary.release();
    if left == 0 {
        Ok(module_id)
    } else {
        tracing::error!(left, "objects could not be destroyed");
        Err(HsmError::StateNotDurable)
    }
}

fn is_ours(attribute: &Attribute) -> bool {
    let prefix = format!("{APPLICATION}/");
    matches!(attribute, Attribute::Label(label) if label.starts_with(prefix.as_bytes()))
}
