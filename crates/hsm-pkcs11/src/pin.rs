//! Where the PIN comes from: a file, a descriptor, or an environment variable that the command line names.
//!
//! Never: an argument; a PIN in a log line or an error.

use cryptoki::types::AuthPin;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// One of the three roads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    File(PathBuf),
    /// A variable's name, never its value.
    Environment(String),
    Descriptor(u32),
}

/// A user PIN, and whether others could read where it stood.
pub struct Pin {
    pub(crate) secret: AuthPin,
    pub(crate) exposed: bool,
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("the PIN's source cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    #[error("the PIN's file is not a file of this user")]
    Foreign,
    #[error("the environment variable named for the PIN is not set")]
    Unset,
    #[error("the PIN is empty, longer than 256 bytes or not UTF-8")]
    Malformed,
}

impl PinSource {
    /// Reads the PIN; one newline at its end is not part of it.
    pub fn read(&self) -> Result<Pin, PinError> {
        match self {
            Self::File(path) => from_file(path),
            Self::Descriptor(number) => {
                let path = format!("/proc/self/fd/{number}");
                from_reader(File::open(path).map_err(PinError::Unreadable)?, false)
            }
            Self::Environment(name) => {
                let value = std::env::var_os(name).ok_or(PinError::Unset)?.into_string();
                parse(Zeroizing::new(value.map_err(|_| PinError::Malformed)?.into_bytes()), false)
            }
        }
    }
}

impl Pin {
    /// For tests and callers that have it already.
    pub fn new(pin: &str) -> Self {
        Self { secret: AuthPin::from(pin), exposed: false }
    }
}

fn from_file(path: &Path) -> Result<Pin, PinError> {
    let file = File::open(path).map_err(PinError::Unreadable)?;
    let metadata = file.metadata().map_err(PinError::Unreadable)?;
    let owner = metadata.uid();
    if !metadata.is_file() || (owner != rustix::process::geteuid().as_raw() && owner != 0) {
        return Err(PinError::Foreign);
    }
    from_reader(file, metadata.mode() & 0o077 != 0)
}

fn from_reader(file: File, exposed: bool) -> Result<Pin, PinError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PIN_BYTES_MAX + 2));
    file.take(PIN_BYTES_MAX as u64 + 2).read_to_end(&mut bytes).map_err(PinError::Unreadable)?;
    parse(bytes, exposed)
}

fn parse(mut bytes: Zeroizing<Vec<u8>>, exposed: bool) -> Result<Pin, PinError> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| PinError::Malformed)?;
    if !(1..=PIN_BYTES_MAX).contains(&text.len()) {
        return Err(PinError::Malformed);
    }
    Ok(Pin { secret: AuthPin::from(text), exposed })
}

const PIN_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pin_is_a_short_text_in_a_file_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        for (content, mode, outcome) in [
            (&b"1234"[..], 0o600, Some(false)),
            (b"1234\n", 0o400, Some(false)),
            (b"1234\n", 0o644, Some(true)),
            (b"", 0o600, None),
            (b"\n", 0o600, None),
            (&[b'1'; 257], 0o600, None),
            (b"\xff\xff", 0o600, None),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = PinSource::File(path.clone()).read().ok().map(|pin| pin.exposed);
            assert_eq!(read, outcome, "{content:?} {mode:o}");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(matches!(PinSource::File(dir.path().into()).read(), Err(PinError::Foreign)));
        assert!(matches!(PinSource::Environment("NO_SUCH_PIN".into()).read(), Err(PinError::Unset)));
    }
}
