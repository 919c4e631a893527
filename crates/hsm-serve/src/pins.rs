//! Whom the boundary knows: a pin, and the role bound to it.
//!
//! Always: what `Enrol` changed is durable before its reply leaves; it stands above what the command line gave.
//! Never: a damaged file that is taken for an empty one.

use crate::ServeError;
use hsm_api::{HsmError, Role};
use hsm_channel::{MalformedPin, Pin, Roles};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, RwLock};

/// `role=sha256:…` of a command line.
#[derive(Debug, Clone, Copy)]
pub struct PinArgument {
    pub role: Role,
    pub pin: Pin,
}

impl FromStr for PinArgument {
    type Err = MalformedPin;

    fn from_str(raw: &str) -> Result<Self, MalformedPin> {
        let (role, pin) = raw.split_once('=').ok_or(MalformedPin)?;
        Ok(Self { role: role_named(role).ok_or(MalformedPin)?, pin: pin.parse()? })
    }
}

/// The pins of one boundary: a few, looked through whole each time.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    known: RwLock<Known>,
    /// Held while the file is written.
    turn: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    given: Vec<PinArgument>,
    enrolled: Vec<PinArgument>,
}

impl Pins {
    /// The file in `folder`, and what the command line gave.
    pub fn open(folder: &Path, given: Vec<PinArgument>) -> Result<Self, ServeError> {
        let enrolled = read(&folder.join(NAME))?;
        if given.len() + enrolled.len() > PINS_MAX {
            return Err(ServeError::TooManyPins);
        }
        let known = RwLock::new(Known { given, enrolled });
        Ok(Self { folder: folder.to_owned(), known, turn: Mutex::default() })
    }

    pub fn is_empty(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.given.is_empty() && known.enrolled.is_empty()
    }

    /// Binds `pin` to `role`, durably; whatever it was bound to before ends.
    pub(crate) fn enrol(&self, role: Role, pin: Pin) -> Result<(), HsmError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let full = next.given.len() + next.enrolled.len() >= PINS_MAX;
        match next.enrolled.iter_mut().find(|known| known.pin.matches(&pin)) {
            Some(known) => known.role = role,
            None if full => return Err(HsmError::OutOfRange),
            None => next.enrolled.push(PinArgument { role, pin }),
        }
        replace(&self.folder, &next.enrolled).map_err(|error| {
            tracing::error!(%error, "the pins could not be written");
            HsmError::StateNotDurable
        })?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = next;
        tracing::info!(%pin, ?role, "enrolled");
        Ok(())
    }
}

impl Roles for Pins {
    fn role(&self, pin: &Pin) -> Option<Role> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut role = None;
        for one in known.given.iter().chain(&known.enrolled) {
            if one.pin.matches(pin) {
                role = Some(one.role);
            }
        }
        role
    }
}

fn read(path: &Path) -> Result<Vec<PinArgument>, ServeError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(std::io::Error::from(errno).into()),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|_| ServeError::PinsDamaged(1))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(ServeError::PinsDamaged(text.lines().count()));
    }
    let parsed = text.lines().enumerate().map(|(at, line)| line.parse().map_err(|_| ServeError::PinsDamaged(at + 1)));
    parsed.collect()
}

/// A new file under another name, synced, then renamed; the folder synced.
fn replace(folder: &Path, pins: &[PinArgument]) -> std::io::Result<()> {
    let text: String = pins.iter().map(|known| format!("{}={}\n", role_name(known.role), known.pin)).collect();
    let new = folder.join(NEW_NAME);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

fn role_named(name: &str) -> Option<Role> {
    match name {
        "user" => Some(Role::User),
        "officer" => Some(Role::Officer),
        "auditor" => Some(Role::Auditor),
        _ => None,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Officer => "officer",
        Role::Auditor => "auditor",
    }
}

pub(crate) const PINS_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 8 * 1024;
const NAME: &str = "pins";
const NEW_NAME: &str = "pins.new";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn pin(byte: u8) -> Pin {
        Pin::from_bytes([byte; 32])
    }

    #[test]
    fn what_was_enrolled_survives_and_stands_above_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let given =
            vec![PinArgument { role: Role::User, pin: pin(1) }, PinArgument { role: Role::Officer, pin: pin(2) }];
        let pins = Pins::open(dir.path(), given.clone()).unwrap();
        assert_eq!([1, 2, 3].map(|byte| pins.role(&pin(byte))), [Some(Role::User), Some(Role::Officer), None]);
        pins.enrol(Role::Auditor, pin(3)).unwrap();
        pins.enrol(Role::Auditor, pin(1)).unwrap();
        pins.enrol(Role::User, pin(3)).unwrap();
        let expected = [Some(Role::Auditor), Some(Role::Officer), Some(Role::User)];
        assert_eq!([1, 2, 3].map(|byte| pins.role(&pin(byte))), expected);
        let again = Pins::open(dir.path(), given).unwrap();
        assert_eq!([1, 2, 3].map(|byte| again.role(&pin(byte))), expected);
        let mode = std::fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for byte in 4..=63 {
            again.enrol(Role::User, pin(byte)).unwrap();
        }
        assert_eq!(again.enrol(Role::User, pin(64)), Err(HsmError::OutOfRange));
        assert_eq!(again.role(&pin(64)), None);
    }

    #[test]
    fn a_damaged_file_is_never_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let line = format!("user={}", pin(1));
        for text in [
            line.clone(),
            format!("{line}\n\n"),
            format!("{line}\nroot={}\n", pin(2)),
            "user\n".to_owned(),
            "\u{0}\n".to_owned(),
            format!("{line}\n").repeat(200),
        ] {
            std::fs::write(dir.path().join(NAME), &text).unwrap();
            assert!(Pins::open(dir.path(), vec![]).is_err(), "{text}");
        }
        std::fs::write(dir.path().join(NAME), format!("{line}\n")).unwrap();
        assert_eq!(Pins::open(dir.path(), vec![]).unwrap().role(&pin(1)), Some(Role::User));
        // a folder that is gone cannot keep anything
        let pins = Pins::open(dir.path(), vec![]).unwrap();
        drop(dir);
        assert_eq!(pins.enrol(Role::User, pin(9)), Err(HsmError::StateNotDurable));
        assert_eq!(pins.role(&pin(9)), None);
    }

    #[test]
    fn an_argument_is_a_role_and_a_pin() {
        let text = pin(7).to_string();
        for (role, expected) in [("user", Role::User), ("officer", Role::Officer), ("auditor", Role::Auditor)] {
            let parsed: PinArgument = format!("{role}={text}").parse().unwrap();
            assert!(parsed.role == expected && parsed.pin.matches(&pin(7)));
        }
        for raw in [&text[..], "user", "user=", "root=sha256:00", &format!("User={text}"), &format!("user=={text}")] {
            assert!(raw.parse::<PinArgument>().is_err(), "{raw}");
        }
    }
}
