//! Small files that must be whole, and private where they hold secrets.

use anyhow::{Context as _, Result, bail};
use envelope::SecretBytes;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes the folder, 0700, with its parents; one that is there stays as it is.
pub fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Writes whole or not at all, 0600.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o600)
}

/// Writes whole or not at all, 0644.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    // no name that a killed process of our number could have left
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
    let temporary = path.with_added_extension(format!("new-{}", hex::encode(suffix)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).with_context(context)?;
    let whole = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&temporary, path));
    if whole.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    whole.with_context(context)?;
    sync_folder(path).with_context(context)
}

/// Removes for good: the file does not come back with the power.
pub fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path)
        .and_then(|()| sync_folder(path))
        .with_context(|| format!("cannot remove {}", path.display()))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Reads a secret of at most 4 KiB from a file that only its owner may read; line ends at the end are not part of it.
pub fn read_secret(path: &Path) -> Result<SecretBytes> {
    read_secret_up_to(path, 4096)
}

/// As [`read_secret`], of at most so many bytes.
pub fn read_secret_up_to(path: &Path, max: u64) -> Result<SecretBytes> {
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(context)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        bail!("{} is readable by others: run `chmod 600 {}`", path.display(), path.display());
    }
    // never moved: what it leaves behind is not wiped
    let mut bytes = Vec::with_capacity(usize::try_from(max)?);
    file.take(max).read_to_end(&mut bytes).with_context(context)?;
    let mut secret = SecretBytes::from_vec(bytes);
    let end = secret.expose().trim_ascii_end().len();
    secret.truncate(end);
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_hinders_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.toml");
        // in a container every start may have the same process number
        let pid = std::process::id();
        for left in [format!("file.new-{pid}"), format!("file.toml.new-{pid}")] {
            std::fs::write(folder.path().join(left), "half").unwrap();
        }
        write_secret(&path, b"whole").unwrap();
        write_public(&path, b"whole again").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole again");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing more is left");
    }

    #[test]
    fn a_file_is_removed_for_good_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_public(&path, b"").unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        assert!(remove(&path).is_err());
    }
}
