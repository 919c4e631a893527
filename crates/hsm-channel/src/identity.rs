//! One side's own key.
//!
//! Always: the file is this user's alone, and is whole or not there.
//! Never: the key in a log line, an error or `Debug`.

use crate::{ChannelError, Pin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use envelope::SecretBytes;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A P-256 key and its pin. The file holds PKCS#8 (RFC 5958), DER.
pub struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pin: Pin,
}

impl Identity {
    /// A fresh key in memory.
    pub fn generate() -> Result<Self, ChannelError> {
        Self::from_pkcs8(&fresh()?)
    }

    pub fn load(path: &Path) -> Result<Self, ChannelError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from)?);
        let metadata = file.metadata()?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_file() || !ours || metadata.mode() & 0o077 != 0 {
            return Err(ChannelError::Exposed);
        }
        // full size at once: a vector that grows leaves copies behind
        let mut der = Vec::with_capacity(FILE_BYTES_MAX + 1);
        file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut der)?;
        let der = SecretBytes::from_vec(der);
        if der.len() > FILE_BYTES_MAX { Err(ChannelError::NotAKey) } else { Self::from_pkcs8(&der) }
    }

    /// Makes the file where it is missing. Of two that do so at once, one wins and both get its key.
    pub fn load_or_generate(path: &Path) -> Result<Self, ChannelError> {
        match Self::load(path) {
            Err(ChannelError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                write_new(path, &fresh()?)?;
                Self::load(path)
            }
            outcome => outcome,
        }
    }

    pub fn pin(&self) -> Pin {
        self.pin
    }

    fn from_pkcs8(der: &SecretBytes) -> Result<Self, ChannelError> {
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.expose()));
        let key: Arc<dyn SigningKey> = any_ecdsa_type(&pkcs8).map_err(|_| ChannelError::NotAKey)?;
        if key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_none() {
            return Err(ChannelError::NotAKey);
        }
        let spki = key.public_key().ok_or(ChannelError::NotAKey)?;
        let pin = Pin::of(spki.as_ref());
        // RFC 7250 §3: the certificate message carries the SubjectPublicKeyInfo
        let shown = CertificateDer::from(spki.as_ref().to_vec());
        Ok(Self { key: Arc::new(CertifiedKey::new(vec![shown], key)), pin })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.pin)
    }
}

fn fresh() -> Result<SecretBytes, ChannelError> {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    Ok(SecretBytes::copy_from(der.map_err(|_| ChannelError::NotGenerated)?.as_ref()))
}

/// Another name, synced, then renamed without replacing; an existing file stands.
fn write_new(path: &Path, der: &SecretBytes) -> Result<(), ChannelError> {
    let mut name = path.as_os_str().to_owned();
    // random: process numbers come again (in a container at every start), and with them what a killed process left
    let mut suffix = [0; 8];
    aws_lc_rs::rand::fill(&mut suffix).map_err(|_| ChannelError::NotGenerated)?;
    name.push(format!(".new-{:016x}", u64::from_be_bytes(suffix)));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let written = (|| {
        let mut file = File::from(rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(der.expose())?;
        file.sync_all()?;
        match rustix::fs::renameat_with(CWD, &name, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => std::fs::remove_file(&name)?,
            Err(errno) => return Err(errno.into()),
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    })();
    written.map_err(|error| {
        let _it_may_not_be_there = std::fs::remove_file(&name);
        ChannelError::Io(error)
    })
}

/// A P-256 key in PKCS#8 has 138 bytes.
const FILE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        assert!(matches!(Identity::load(&path), Err(ChannelError::Io(_))));
        let pin = Identity::load_or_generate(&path).unwrap().pin();
        assert!(Identity::load_or_generate(&path).unwrap().pin().matches(&pin));
        assert!(Identity::load(&path).unwrap().pin().matches(&pin));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        assert!(!Identity::generate().unwrap().pin().matches(&pin));
    }

    #[test]
    fn of_several_that_make_it_at_once_all_get_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        write_new(&path, &fresh().unwrap()).unwrap();
        let first = Identity::load(&path).unwrap().pin();
        write_new(&path, &fresh().unwrap()).unwrap();
        assert!(Identity::load(&path).unwrap().pin().matches(&first));
    }

    #[test]
    fn what_a_killed_process_of_the_same_number_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let left = dir.path().join(format!("identity.key.new-{}", std::process::id()));
        std::fs::write(&left, "half a k").unwrap();
        let pin = Identity::load_or_generate(&path).unwrap().pin();
        assert!(Identity::load(&path).unwrap().pin().matches(&pin));
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Identity::load_or_generate(&path).unwrap();
        for mode in [0o640, 0o604, 0o666] {
            set(mode);
            assert!(matches!(Identity::load(&path), Err(ChannelError::Exposed)), "{mode:o}");
        }
        set(0o600);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [vec![], whole[..40].to_vec(), vec![7; 4096], b"-----BEGIN PRIVATE KEY-----".to_vec()] {
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(Identity::load(&path), Err(ChannelError::NotAKey)), "{} bytes", bytes.len());
        }
        let aside = dir.path().join("aside");
        std::fs::write(&path, &whole).unwrap();
        std::fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        assert!(Identity::load(&path).is_err(), "a link is not followed");
    }

    #[test]
    fn an_identity_prints_its_pin_and_no_more() {
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.pin()));
    }
}
