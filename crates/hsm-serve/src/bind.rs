//! The socket's place in the file system, and who may connect.

use crate::ServeError;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A bound socket. Its name is removed at the end, if it is still ours.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Bound {
    /// Binds in a folder that only we can write to. A socket that nobody answers on is a leftover and is replaced.
    pub(crate) fn new(path: &Path, uids: &[u32]) -> Result<Self, ServeError> {
        let own = own_uid();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let metadata = std::fs::metadata(folder)?;
        if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            return Err(ServeError::FolderExposed);
        }
        remove_leftover(path)?;
        let listener = UnixListener::bind(path)?;
        // whoever connects is asked for its uid; the mode only spares strangers the attempt
        let mode = if uids.iter().all(|uid| *uid == own) { 0o600 } else { 0o666 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino()) == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _the_next_start_replaces_it = std::fs::remove_file(&self.path);
        }
    }
}

fn remove_leftover(path: &Path) -> Result<(), ServeError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ServeError::NotASocket),
        Ok(_) => {}
    }
    // without waiting: a process that is stopped, or has no room for us, is there all the same
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(io::Error::from)?;
    let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
    match rustix::net::connect(&probe, &address) {
        Err(rustix::io::Errno::CONNREFUSED) => Ok(std::fs::remove_file(path)?),
        Ok(()) | Err(_) => Err(ServeError::InUse),
    }
}

/// Who stands at the other end, as the kernel saw it when it connected. The pid may be another's by now.
pub(crate) fn peer(socket: &impl AsFd) -> io::Result<(u32, i32)> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok((credentials.uid.as_raw(), credentials.pid.as_raw_nonzero().get()))
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_leftover_is_replaced_and_a_living_socket_or_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("hsm.sock");
        let bound = Bound::new(&path, &[own_uid()]).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(Bound::new(&path, &[own_uid()]), Err(ServeError::InUse)));
        let (uid, pid) = peer(&UnixStream::connect(&path).unwrap()).unwrap();
        assert_eq!((uid, u32::try_from(pid).unwrap()), (own_uid(), std::process::id()));
        drop(bound);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a killed process leaves its socket behind");
        let bound = Bound::new(&path, &[own_uid(), 12345]).unwrap();
        assert_eq!(mode(&path), 0o666);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"text").unwrap();
        drop(bound);
        assert!(path.exists(), "what is not ours is left alone");
        assert!(matches!(Bound::new(&path, &[]), Err(ServeError::NotASocket)));
        std::fs::remove_file(&path).unwrap();
        for mode in [0o770, 0o707, 0o777] {
            std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Bound::new(&path, &[]), Err(ServeError::FolderExposed)), "{mode:o}");
        }
    }
}
