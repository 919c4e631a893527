//! A backup of the domain key as files: the package, and one file a share, each for its own custodian.

use crate::files;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::BackupPackage;
use std::path::{Path, PathBuf};

/// Writes `package` and `share-1`, `share-2`, … into `folder`, which holds no backup yet.
pub fn write(folder: &Path, backup: &BackupPackage) -> Result<()> {
    files::private_folder(folder)?;
    if folder.join("package").exists() {
        bail!("{} holds a backup already: choose another folder", folder.display());
    }
    for (number, share) in (1..).zip(&backup.shares) {
        files::write_secret(&folder.join(format!("share-{number}")), hex::encode(share.expose()).as_bytes())?;
    }
    files::write_public(&folder.join("package"), &backup.package)
}

/// Reads a package and the shares that came together.
pub fn read(package: &Path, shares: &[PathBuf]) -> Result<(Bytes, Vec<SecretBytes>)> {
    let bytes = std::fs::read(package).with_context(|| format!("cannot read {}", package.display()))?;
    let share = |path: &PathBuf| -> Result<SecretBytes> {
        let text = files::read_secret(path)?;
        let bytes = hex::decode(text.expose()).map_err(|_| anyhow::anyhow!("{} is not a share", path.display()))?;
        Ok(SecretBytes::from_vec(bytes))
    };
    Ok((bytes.into(), shares.iter().map(share).collect::<Result<_>>()?))
}
