//! Files that templates and tokens go to: whole or not at all, theirs alone until they have their name.
//!
//! Always: what a killed agent left half-made beside a file is removed at the next start.

use crate::cli::new_file::{NewFile, Replace};
use anyhow::{Context as _, Result};
use client::SecretBytes;
use rustix::fs::{Gid, Uid};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Who a file belongs to; what is not named stays the agent's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Owner {
    user: Option<u32>,
    group: Option<u32>,
}

/// One file.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    mode: u32,
    owner: Owner,
}

/// What a file is to say, whole, beside its name. Dropped, it leaves nothing.
#[derive(Debug)]
pub(super) struct Prepared {
    file: NewFile,
    mode: u32,
}

impl Prepared {
    /// What a full disk refuses is refused here, before anything was exchanged.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Takes the place of what was there.
    pub(super) fn finish(self) -> Result<()> {
        self.file.finish(self.mode)
    }
}

impl Owner {
    /// `USER`, `USER:GROUP` or `:GROUP`, by name or number.
    pub(super) fn parse(raw: &str) -> Result<Self> {
        let (user, group) = raw.split_once(':').map_or((raw, None), |(user, group)| (user, Some(group)));
        let user = (!user.is_empty()).then(|| number(user, "/etc/passwd")).transpose()?;
        Ok(Self { user, group: group.map(|group| number(group, "/etc/group")).transpose()? })
    }
}

fn number(name: &str, file: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let known = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let found = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.with_context(|| format!("`{name}` is not in {file}"))
}

impl Output {
    pub(super) fn new(path: &Path, mode: u32, owner: Owner) -> Self {
        Self { path: path.to_owned(), mode, owner }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what a killed agent left.
    pub(super) fn sweep(&self) {
        let (Some(name), Some(folder)) = (self.path.file_name(), self.path.parent()) else { return };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let begins = format!(".{}.partial-", name.to_string_lossy());
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&begins) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Writes it unless it says so already; tells whether it was written.
    pub(super) fn write(&self, text: &SecretBytes) -> Result<bool> {
        Ok(self.prepare(text)?.map(Prepared::finish).transpose()?.is_some())
    }

    /// Writes it beside its name; nothing where it says so already.
    pub(super) fn prepare(&self, text: &SecretBytes) -> Result<Option<Prepared>> {
        let context = || format!("cannot write {}", self.path.display());
        if self.says(text) {
            return Ok(None);
        }
        let file = NewFile::create(&self.path, Replace::RegularFile)?;
        let mut writer = file.std_writer()?;
        writer.write_all(text.expose()).with_context(context)?;
        if self.owner != Owner::default() {
            let (user, group) = (self.owner.user.map(Uid::from_raw), self.owner.group.map(Gid::from_raw));
            rustix::fs::fchown(&writer, user, group).with_context(context)?;
        }
        Ok(Some(Prepared { file, mode: self.mode }))
    }

    fn says(&self, text: &SecretBytes) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(found) = std::fs::symlink_metadata(&self.path) else { return false };
        let alike = found.is_file() && found.mode() & 0o7777 == self.mode && found.len() == text.len() as u64;
        let owned = self.owner.user.is_none_or(|user| user == found.uid())
            && self.owner.group.is_none_or(|group| group == found.gid());
        alike
            && owned
            && std::fs::read(&self.path).map(SecretBytes::from_vec).is_ok_and(|there| there.expose() == text.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_file_is_written_where_it_says_something_else_and_what_was_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let output = Output::new(&path, 0o640, Owner::default());
        std::fs::write(dir.path().join(".f.partial-12"), "half").unwrap();
        std::fs::write(dir.path().join(".g.partial-12"), "another's").unwrap();
        output.sweep();
        for (text, written) in [("a", true), ("a", false), ("b", true)] {
            assert_eq!(output.write(&SecretBytes::copy_from(text.as_bytes())).unwrap(), written, "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let other_mode = Output::new(&path, 0o600, Owner::default());
        assert!(other_mode.write(&SecretBytes::copy_from(b"b")).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_owner_is_named_or_numbered() {
        let owner = |user, group| Owner { user, group };
        for (raw, expected) in [
            ("root", Some(owner(Some(0), None))),
            ("root:root", Some(owner(Some(0), Some(0)))),
            (":7", Some(owner(None, Some(7)))),
            ("1000:1001", Some(owner(Some(1000), Some(1001)))),
            ("no such user", None),
            ("root:no such group", None),
        ] {
            assert_eq!(Owner::parse(raw).ok(), expected, "{raw}");
        }
    }
}
