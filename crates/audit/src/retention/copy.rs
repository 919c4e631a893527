//! Segments copied into an archive: a folder that holds them as the log did, and the log's verifier key.

use super::RetentionError;
use crate::read::{LogFolder, SEGMENTS, VERIFIER_KEY};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Copies segments, durably. One that stands there already stays: [`super::prepare`] tells whether it is the right one.
/// Refused where the archive is the log: what stands there already would be what is removed.
pub fn copy(
    log: &LogFolder,
    segments: Range<u64>,
    archive: &Path,
    each: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(), RetentionError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| RetentionError::Archive { path, source }
    };
    let folder = archive.join(SEGMENTS);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(at(&folder))?;
    apart(log, &folder).map_err(at(archive))?;
    own(log, archive).map_err(at(archive))?;
    for number in segments {
        if each().is_break() {
            return Err(RetentionError::CalledOff);
        }
        let name = format!("{number:010}");
        copy_file(&log.dir().join(SEGMENTS).join(&name), &folder, &name).map_err(at(&folder.join(&name)))?;
    }
    sync(&folder).and_then(|()| sync(archive)).map_err(at(archive))
}

/// `folder` is not the log's own, by whatever path or link.
fn apart(log: &LogFolder, folder: &Path) -> io::Result<()> {
    let (log, archive) = (fs::metadata(log.dir().join(SEGMENTS))?, fs::metadata(folder)?);
    if (log.dev(), log.ino()) != (archive.dev(), archive.ino()) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "it is the log itself: an archive is another folder"))
}

/// The archive is this log's, from now on or already.
fn own(log: &LogFolder, archive: &Path) -> io::Result<()> {
    let key = log.dir().join(VERIFIER_KEY);
    copy_file(&key, archive, VERIFIER_KEY)?;
    if fs::read(archive.join(VERIFIER_KEY))? == fs::read(key)? {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "it is another log's archive"))
}

/// Whole as soon as it has its name.
fn copy_file(from: &Path, folder: &Path, name: &str) -> io::Result<()> {
    let (to, temporary) = (folder.join(name), folder.join(format!("{name}.new")));
    match fs::symlink_metadata(&to) {
        Ok(there) if there.is_file() => return Ok(()),
        // a link may lead to what is removed
        Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "what stands there is no file of its own")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut source = File::open(from)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let copied = io::copy(&mut source, &mut file).and_then(|_| file.sync_all());
    if let Err(error) = copied.and_then(|()| fs::rename(&temporary, &to)) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(())
}

fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // some file systems of other machines sync no folder
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}
