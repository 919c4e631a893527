//! One channel without its socket: TLS bytes in and out on one side, frames on the other.
//!
//! Always: who the peer is stands fixed before a byte of a frame is looked at; what was decrypted is wiped when it
//! has been read.
//! Never: more in memory than a frame and what one read brought.

use crate::{ALPN, ChannelError, Pin};
use hsm_api::HsmError;
use hsm_api::frame::{FRAME_BYTES_MAX, next_frame};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection};
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use zeroize::Zeroize;

/// Most TLS bytes that one [`Stream::feed`] takes.
pub const FEED_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub struct Stream {
    connection: Connection,
    peer: Option<Pin>,
    inbox: Inbox,
    unsent: usize,
}

impl Stream {
    pub fn client(config: Arc<ClientConfig>) -> Result<Self, ChannelError> {
        // the name is not sent (no SNI) and not looked at: the pin decides
        let name = ServerName::try_from("boundary").map_err(|_| ChannelError::Protocol)?;
        Ok(Self::new(ClientConnection::new(config, name)?.into()))
    }

    pub fn server(config: Arc<ServerConfig>) -> Result<Self, ChannelError> {
        Ok(Self::new(ServerConnection::new(config)?.into()))
    }

    fn new(mut connection: Connection) -> Self {
        // callers look at `unsent` before they add to it
        connection.set_buffer_limit(None);
        Self { connection, peer: None, inbox: Inbox::default(), unsent: 0 }
    }

    /// The peer, once the handshake is complete and was of this protocol.
    pub fn peer(&self) -> Option<&Pin> {
        self.peer.as_ref()
    }

    /// Takes what the socket gave, at most [`FEED_BYTES_MAX`]. After an error [`Self::write_tls`] may still have an
    /// alert to send, and nothing else is of use.
    pub fn feed(&mut self, mut tls: &[u8]) -> Result<(), ChannelError> {
        if tls.len() > FEED_BYTES_MAX {
            return Err(ChannelError::Protocol);
        }
        while !tls.is_empty() {
            self.connection.read_tls(&mut tls)?;
            self.connection.process_new_packets()?;
            if self.peer.is_none() && !self.connection.is_handshaking() {
                self.peer = Some(established(&self.connection)?);
                self.inbox.reserve();
            }
            if self.peer.is_some() {
                drain(&mut self.connection, &mut self.inbox)?;
            }
        }
        Ok(())
    }

    /// Hands the next whole frame's body to `each`. `None`: more must come.
    pub fn take_frame<T>(&mut self, each: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, HsmError> {
        let Some((body, bytes)) = next_frame(self.inbox.unread())? else { return Ok(None) };
        let outcome = each(body);
        self.inbox.consume(bytes);
        Ok(Some(outcome))
    }

    /// Encrypts a finished frame for [`Self::write_tls`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), ChannelError> {
        self.unsent += frame.len();
        Ok(self.connection.writer().write_all(frame)?)
    }

    /// Bytes of frames given to [`Self::send`] since everything was last written out.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Writes what it can; as `write(2)` does.
    pub fn write_tls(&mut self, socket: &mut dyn Write) -> io::Result<usize> {
        let written = self.connection.write_tls(socket)?;
        if !self.connection.wants_write() {
            self.unsent = 0;
        }
        Ok(written)
    }
}

/// Who stands at the other end of a finished handshake.
fn established(connection: &Connection) -> Result<Pin, ChannelError> {
    if connection.alpn_protocol() != Some(ALPN) || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(ChannelError::Protocol);
    }
    match connection.peer_certificates() {
        Some([shown]) => Ok(Pin::of(shown)),
        Some(_) | None => Err(ChannelError::NoKey),
    }
}

fn drain(connection: &mut Connection, inbox: &mut Inbox) -> Result<(), ChannelError> {
    let mut reader = connection.reader();
    loop {
        match reader.fill_buf() {
            // the peer has closed its side: the socket tells the same
            Ok([]) => return Ok(()),
            Ok(bytes) => {
                let len = bytes.len();
                inbox.push(bytes)?;
                reader.consume(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What was decrypted and not read yet. It never grows beyond what is reserved, so no copy is left behind.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    read: usize,
}

impl Inbox {
    fn reserve(&mut self) {
        self.bytes.reserve_exact(INBOX_BYTES_MAX);
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        if self.bytes.len() + bytes.len() > INBOX_BYTES_MAX && self.read > 0 {
            let unread = self.bytes.len() - self.read;
            self.bytes.copy_within(self.read.., 0);
            wipe(&mut self.bytes[unread..]);
            self.bytes.truncate(unread);
            self.read = 0;
        }
        if self.bytes.len() + bytes.len() > INBOX_BYTES_MAX {
            return Err(ChannelError::Protocol);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    fn consume(&mut self, bytes: usize) {
        wipe(&mut self.bytes[self.read..self.read + bytes]);
        self.read += bytes;
        if self.read == self.bytes.len() {
            self.bytes.clear();
            self.read = 0;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

/// Whole words at a time: `zeroize` goes byte by byte, which is felt on each frame. The bytes stay in a live buffer, and
/// the box keeps the compiler from knowing that nobody reads them.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// A frame that lacks its last byte, and one more read.
const INBOX_BYTES_MAX: usize = FRAME_BYTES_MAX + 4 + FEED_BYTES_MAX;
