//! The unlock secret: what opens the sealed state file at start.
//!
//! Always: it comes from a file of our own, or from a descriptor.
//! Never: from an argument or the environment, where others can read it.

use argon2::{Algorithm, Argon2, Params, Version};
use envelope::{SecretBytes, SecretKey};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

/// An unlock secret in hand.
#[derive(Debug)]
pub enum Unlock {
    /// 32 random bytes.
    Secret(SecretKey),
    /// A passphrase, stretched by Argon2id (RFC 9106).
    Passphrase(SecretBytes),
}

/// Where the unlock secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnlockSource {
    File(PathBuf),
    Descriptor(u32),
    PassphraseFile(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    #[error("--unlock is not file:PATH, fd:N or passphrase-file:PATH")]
    Source,
    #[error("the unlock secret could not be read")]
    Unreadable(#[source] std::io::Error),
    #[error(
        "the unlock file must be a plain file, owned by this user, with no access for others (mode 0600 or 0400), or a credential of systemd"
    )]
    Exposed,
    #[error("the unlock secret is not 32 bytes or 64 hexadecimal digits")]
    Malformed,
    #[error("the passphrase must have 12 to {PASSPHRASE_BYTES_MAX} bytes")]
    Passphrase,
    #[error("the passphrase could not be stretched")]
    Argon2,
}

impl FromStr for UnlockSource {
    type Err = UnlockError;

    fn from_str(raw: &str) -> Result<Self, UnlockError> {
        match raw.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("passphrase-file", path)) if !path.is_empty() => Ok(Self::PassphraseFile(path.into())),
            Some(("fd", n)) => n.parse().map(Self::Descriptor).map_err(|_| UnlockError::Source),
            _ => Err(UnlockError::Source),
        }
    }
}

impl UnlockSource {
    /// Reads the secret, once. An inherited descriptor is closed afterwards.
    pub fn read(&self) -> Result<Unlock, UnlockError> {
        match self {
            Self::File(path) => secret(read_bounded(open_own(path)?)?),
            Self::Descriptor(n) => {
                let file = File::open(format!("/proc/self/fd/{n}")).map_err(UnlockError::Unreadable)?;
                let bytes = read_bounded(file)?;
                crate::jail::close_inherited(*n);
                secret(bytes)
            }
            Self::PassphraseFile(path) => {
                let mut bytes = read_bounded(open_own(path)?)?;
                trim_newline(&mut bytes);
                match bytes.len() {
                    12..=PASSPHRASE_BYTES_MAX => Ok(Unlock::Passphrase(bytes)),
                    _ => Err(UnlockError::Passphrase),
                }
            }
        }
    }
}

impl Unlock {
    pub(crate) fn kind(&self) -> UnlockKind {
        match self {
            Self::Secret(_) => UnlockKind::Secret,
            Self::Passphrase(_) => UnlockKind::Passphrase,
        }
    }

    /// The unlock key. `salt` counts for passphrases only.
    pub(crate) fn key(&self, salt: &[u8; 16]) -> Result<SecretKey, UnlockError> {
        match self {
            Self::Secret(secret) => Ok(SecretKey::init_with(|key| key.copy_from_slice(secret.expose()))),
            Self::Passphrase(passphrase) => {
                // RFC 9106 §4, second recommended option, on one lane: 64 MiB, three passes
                let params = Params::new(64 * 1024, 3, 1, Some(32)).map_err(|_| UnlockError::Argon2)?;
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                SecretKey::try_init_with(|key| argon2.hash_password_into(passphrase.expose(), salt, key))
                    .map_err(|_| UnlockError::Argon2)
            }
        }
    }
}

/// How the unlock key comes to be; named in the state file's clear header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum UnlockKind {
    Secret = 1,
    Passphrase = 2,
}

impl UnlockKind {
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Secret),
            2 => Some(Self::Passphrase),
            _ => None,
        }
    }
}

fn open_own(path: &std::path::Path) -> Result<File, UnlockError> {
    let file = File::open(path).map_err(UnlockError::Unreadable)?;
    let metadata = file.metadata().map_err(UnlockError::Unreadable)?;
    let own = rustix::process::geteuid().as_raw();
    let private = is_private(own, (metadata.uid(), metadata.gid()), metadata.mode());
    if metadata.is_file() && private { Ok(file) } else { Err(UnlockError::Exposed) }
}

/// Ours alone; or root's with nothing for others, as systemd gives a credential to a service of another user: by an access
/// list, whose mask stands where the group's bits do (systemd.exec(5), CREDENTIALS).
fn is_private(own: u32, (uid, gid): (u32, u32), mode: u32) -> bool {
    (uid == own && mode & 0o177 == 0) || ((uid, gid) == (0, 0) && mode & 0o337 == 0)
}

fn read_bounded(mut file: File) -> Result<SecretBytes, UnlockError> {
    let mut bytes = SecretBytes::init_with(PASSPHRASE_BYTES_MAX + 2, |_| {});
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes.expose_mut()[len..]).map_err(UnlockError::Unreadable)? {
            0 => break,
            n => len += n,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn trim_newline(bytes: &mut SecretBytes) {
    if bytes.expose().last() == Some(&b'\n') {
        bytes.truncate(bytes.len() - 1);
    }
}

fn secret(mut bytes: SecretBytes) -> Result<Unlock, UnlockError> {
    if let Some(key) = SecretKey::from_slice(bytes.expose()) {
        return Ok(Unlock::Secret(key));
    }
    trim_newline(&mut bytes);
    let digits: &[u8; 64] = bytes.expose().try_into().map_err(|_| UnlockError::Malformed)?;
    SecretKey::try_init_with(|key| {
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(())
    })
    .map(Unlock::Secret)
}

fn digit(c: u8) -> Result<u8, UnlockError> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        b'A'..=b'F' => Ok(c - b'A' + 10),
        _ => Err(UnlockError::Malformed),
    }
}

const PASSPHRASE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn sources_have_one_spelling_each() {
        for (raw, source) in [
            ("file:/a", Some(UnlockSource::File("/a".into()))),
            ("fd:3", Some(UnlockSource::Descriptor(3))),
            ("passphrase-file:b:c", Some(UnlockSource::PassphraseFile("b:c".into()))),
            ("file:", None),
            ("fd:-1", None),
            ("fd:x", None),
            ("0123", None),
            ("secret:abc", None),
            ("", None),
        ] {
            assert_eq!(raw.parse().ok(), source, "{raw}");
        }
    }

    #[test]
    fn a_secret_is_32_bytes_or_64_digits_in_a_file_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unlock");
        let hex = "0f".repeat(32);
        for (content, mode, good) in [
            (&[0x0f; 32][..], 0o600, true),
            (hex.as_bytes(), 0o400, true),
            (format!("{hex}\n").as_bytes(), 0o600, true),
            (&[0x0f; 31], 0o600, false),
            (&[0x0f; 33], 0o600, false),
            (&[], 0o600, false),
            (&hex.as_bytes()[..63], 0o600, false),
            ("zz".repeat(32).as_bytes(), 0o600, false),
            (&[0x0f; 4096], 0o600, false),
            (&[0x0f; 32], 0o640, false),
            (&[0x0f; 32], 0o604, false),
            (&[0x0f; 32], 0o700, false),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match UnlockSource::File(path.clone()).read() {
                Ok(Unlock::Secret(key)) => assert!(good && *key.expose() == [0x0f; 32], "{content:?} {mode:o}"),
                Ok(Unlock::Passphrase(_)) => panic!("a secret is no passphrase"),
                Err(_) => assert!(!good, "{content:?} {mode:o}"),
            }
            std::fs::remove_file(&path).unwrap();
        }
        assert!(matches!(UnlockSource::File(dir.path().to_owned()).read(), Err(UnlockError::Exposed)));
    }

    #[test]
    fn a_file_is_ours_alone_or_a_credential_that_root_gave_us() {
        for (owner, mode, private) in [
            ((7, 7), 0o600, true),
            ((7, 8), 0o400, true),
            ((7, 7), 0o440, false),
            ((7, 7), 0o604, false),
            ((0, 0), 0o440, true),
            ((0, 0), 0o400, true),
            ((0, 0), 0o444, false),
            ((0, 0), 0o460, false),
            ((0, 0), 0o640, false),
            ((0, 7), 0o440, false),
            ((8, 0), 0o400, false),
        ] {
            assert_eq!(is_private(7, owner, mode | 0o100_000), private, "{owner:?} {mode:o}");
        }
    }

    #[test]
    fn argon2id_gives_one_key_for_one_passphrase_and_salt() {
        let key = |text: &[u8], salt| Unlock::Passphrase(SecretBytes::copy_from(text)).key(&[salt; 16]).unwrap();
        let first = *key(b"correct horse battery", 1).expose();
        assert_eq!(*key(b"correct horse battery", 1).expose(), first);
        assert_ne!(*key(b"correct horse battery", 2).expose(), first);
        assert_ne!(*key(b"correct horse batterz", 1).expose(), first);
    }
}
