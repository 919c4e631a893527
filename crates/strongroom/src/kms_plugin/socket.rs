//! The socket's place in the file system, and who may connect.
//!
//! Always: 0600 before it has its name; who connects is asked for its uid by the kernel.

use anyhow::{Context as _, Result, bail};
use futures_util::stream::{self, Stream};
use rustix::process::geteuid;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// Its name is removed at the end, if it is still ours.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    uids: Vec<u32>,
}

impl Socket {
    /// A socket that nobody answers on is a leftover and is replaced.
    pub(super) fn bind(path: &Path, peers: &[u32]) -> Result<Self> {
        let own = geteuid().as_raw();
        refuse_taken(path)?;
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let made = path.with_added_extension(hex::encode(suffix));
        let context = || format!("cannot listen on {}", path.display());
        let listener = UnixListener::bind(&made).with_context(context)?;
        // others than root and this one may connect only where that was asked for
        let mode = if peers.iter().all(|uid| *uid == own || *uid == 0) { 0o600 } else { 0o666 };
        let named = std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode))
            .and_then(|()| std::fs::rename(&made, path))
            .and_then(|()| std::fs::symlink_metadata(path));
        if named.is_err() {
            let _ = std::fs::remove_file(&made);
        }
        let metadata = named.with_context(context)?;
        let uids = [&[own, 0], peers].concat();
        Ok(Self { listener, path: path.to_owned(), inode: (metadata.dev(), metadata.ino()), uids })
    }

    /// Who may connect and does.
    pub(super) fn incoming(self) -> impl Stream<Item = io::Result<UnixStream>> {
        stream::unfold(self, |socket| async move {
            loop {
                match socket.listener.accept().await {
                    Ok((stream, _)) => match stream.peer_cred() {
                        Ok(peer) if socket.uids.contains(&peer.uid()) => return Some((Ok(stream), socket)),
                        Ok(peer) => tracing::warn!(uid = peer.uid(), "who may not connect did"),
                        Err(error) => tracing::warn!(%error, "who connects cannot be told"),
                    },
                    Err(error) => {
                        // out of descriptors: nobody gets in until one is free, and the loop does not spin
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino()) == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _the_next_start_replaces_it = std::fs::remove_file(&self.path);
        }
    }
}

fn refuse_taken(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
        Ok(metadata) if !metadata.file_type().is_socket() => bail!("{} is no socket", path.display()),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) | Err(_) => bail!("{}: another process serves there", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    #[tokio::test]
    async fn a_leftover_is_replaced_and_a_living_socket_or_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kms.sock");
        let socket = Socket::bind(&path, &[]).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert!(Socket::bind(&path, &[]).unwrap_err().to_string().contains("another process"));
        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, &[12345]).unwrap();
        assert_eq!(mode(&path), 0o666);
        drop(socket);
        std::fs::write(&path, b"text").unwrap();
        assert!(Socket::bind(&path, &[]).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-made is left");
    }

    #[tokio::test]
    async fn who_may_not_connect_is_hung_up_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kms.sock");
        let mut socket = Socket::bind(&path, &[]).unwrap();
        socket.uids = vec![geteuid().as_raw() + 1];
        let incoming = socket.incoming();
        tokio::pin!(incoming);
        let stranger = UnixStream::connect(&path).await.unwrap();
        let nobody = tokio::time::timeout(Duration::from_millis(100), incoming.next()).await;
        assert!(nobody.is_err());
        stranger.readable().await.unwrap();
        assert_eq!(stranger.try_read(&mut [0; 1]).unwrap(), 0);
    }
}
