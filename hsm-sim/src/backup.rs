//! The M-of-N backup of the domain: a sealed package, and shares of the key that opens it.
//!
//! ```text
//! header (44)  magic "SRSIMBAK" | format u16 = 1 | threshold u8 | shares u8 | module id 16 | domain id 16
//! body         a sealed value of suite 1 under a random backup key, kind 3, AAD: SHA-256 of the header; its plaintext is
//!              the domain: id, domain keys by generation, clusters, last checkpoints
//! share (33)   of the backup key, by `envelope::shamir`
//! ```
//!
//! Always: the backup key exists only while this function runs; only the shares carry it on.
//! Never: the module's identity in a backup; a restored module has its own.

use crate::module::Stop;
use crate::random;
use crate::record::{BODY_BYTES_MAX, Cursor, Domain};
use crate::root::RootKeys;
use envelope::mac::sha256;
use envelope::sealed::{Header, Kind, Suite, parse_barrier};
use envelope::shamir::{self, SplitError};
use envelope::suite1::{self, SealingKey};
use envelope::{SecretBytes, SecretKey};
use hsm_api::{BackupPackage, HsmError};
use zeroize::Zeroizing;

pub(crate) fn make(
    root: &RootKeys,
    domain: &Domain,
    module_id: &[u8; 16],
    threshold: u8,
    shares: u8,
) -> Result<BackupPackage, Stop> {
    let key = SecretKey::try_init_with(|key| random::fill(key))?;
    let shares_of_key = shamir::split(key.expose(), threshold, shares, random::fill).map_err(|error| match error {
        SplitError::Threshold | SplitError::SecretLength => Stop::Refuse(HsmError::OutOfRange),
        SplitError::Random(fault) => fault.into(),
    })?;
    let mut package = Vec::with_capacity(HEADER_BYTES);
    package.extend_from_slice(MAGIC);
    package.extend_from_slice(&FORMAT.to_be_bytes());
    package.extend_from_slice(&[threshold, shares]);
    package.extend_from_slice(module_id);
    package.extend_from_slice(&domain.id);
    let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES_MAX));
    domain.encode(root, &mut body);
    let (n, iv) = (random::array()?, random::array()?);
    let aad = sha256(&package);
    package.extend_from_slice(&suite1::seal(&SealingKey::new(&key), &BODY_HEADER, &n, &iv, &aad, &body));
    Ok(BackupPackage { package: package.into(), shares: shares_of_key })
}

/// Opens a package; the domain keys go into `root`, which holds none before, and none after an error.
pub(crate) fn open(root: &mut RootKeys, package: &[u8], shares: &[SecretBytes]) -> Result<Domain, HsmError> {
    let domain = try_open(root, package, shares);
    if domain.is_none() {
        root.clear_domain_keys();
    }
    domain.ok_or(HsmError::SharesRejected)
}

fn try_open(root: &mut RootKeys, package: &[u8], shares: &[SecretBytes]) -> Option<Domain> {
    let (header, sealed) = package.split_at_checked(HEADER_BYTES)?;
    let mut r = Cursor(header.strip_prefix(MAGIC)?);
    if u16::from_be_bytes(r.array()?) != FORMAT {
        return None;
    }
    let [threshold, made] = r.array()?;
    let [_module_id, domain_id]: [[u8; 16]; 2] = [r.array()?, r.array()?];
    if threshold == 0 || threshold > made || shares.len() < usize::from(threshold) {
        return None;
    }
    let key = SecretKey::from_slice(shamir::combine(shares).ok()?.expose())?;
    let sealed = parse_barrier(sealed).ok().filter(|sealed| sealed.header == BODY_HEADER)?;
    let body = suite1::open(&SealingKey::new(&key), &sealed, &sha256(header)).ok()?;
    let mut r = Cursor(body.expose());
    let domain = Domain::decode(&mut r, root)?;
    (r.0.is_empty() && domain.id == domain_id).then_some(domain)
}

const MAGIC: &[u8; 8] = b"SRSIMBAK";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 44;
const BODY_HEADER: Header = Header {
    kind: Kind::BarrierValue,
    suite: Suite::KdfCommitGcm,
    key_id: *b"hsm-sim backup 1",
    key_version: 1,
    domain_id: [0; 16],
    generation: 0,
};
