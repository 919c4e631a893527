//! What the process's parent hears of us, and how we hear of its end.

use crate::{ServeError, Stopper};
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// sd_notify(3). Connected before the process is confined, for then no socket can be made any more.
#[derive(Debug)]
pub struct Notify(Option<UnixDatagram>);

impl Notify {
    /// `socket` is what NOTIFY_SOCKET says; a leading `@` stands for an abstract name.
    pub fn connect(socket: Option<&Path>) -> Result<Self, ServeError> {
        let Some(socket) = socket else { return Ok(Self(None)) };
        let address = match socket.as_os_str().as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(socket),
        };
        let connected = address.and_then(|address| {
            let datagram = UnixDatagram::unbound()?;
            datagram.connect_addr(&address)?;
            Ok(datagram)
        });
        Ok(Self(Some(connected.map_err(|_| ServeError::Notify)?)))
    }

    pub fn ready(&self) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(b"READY=1")
        {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }
}

/// Ends the listener when standard input closes: it is a pipe that only the parent holds open.
pub fn end_with_parent(stopper: Stopper) -> std::io::Result<()> {
    let watch = move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 64];
        loop {
            match stdin.read(&mut ignored) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break stopper.stop(),
            }
        }
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told_once_we_serve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let name = format!("strongroom-test-{}", std::process::id());
        let abstract_manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, manager) in [(path, manager), (Path::new(&format!("@{name}")).to_owned(), abstract_manager)] {
            Notify::connect(Some(&socket)).unwrap().ready();
            let mut told = [0; 16];
            let len = manager.recv(&mut told).unwrap();
            assert_eq!(&told[..len], b"READY=1");
        }
        Notify::connect(None).unwrap().ready();
        assert!(Notify::connect(Some(Path::new("/nowhere/at/all"))).is_err());
    }
}
