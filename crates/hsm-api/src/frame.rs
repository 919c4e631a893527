//! Length-prefixed frames, sans-IO: `u32 length | item…`, an item being `u32 request id | u8 service | u32 length | body`
//! (a reply carries the service 0).
//!
//! Always: the length is checked against [`FRAME_BYTES_MAX`] before a byte of the body is waited for.
//! Never: a panic or an allocation beyond a frame for any input.

use crate::wire::{Reader, Writer};
use crate::{HsmError, Reply, Request, Service};

/// Longest frame body, bytes.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Most items in a frame.
pub const FRAME_ITEMS_MAX: usize = 128;
/// Longest item that a sender may make, so that every item fits a frame.
pub const ITEM_BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - ITEM_HEAD_BYTES;

const ITEM_HEAD_BYTES: usize = 9;
const LENGTH_BYTES: usize = 4;

/// Collects items until the frame is full.
#[derive(Debug, Default)]
pub struct FrameWriter {
    buffer: Vec<u8>,
    items: usize,
}

impl FrameWriter {
    /// Adds a request; `false` and unchanged where it does not fit any more.
    /// `Err` where it would fit no frame at all.
    pub fn push_request(&mut self, id: u32, request: &Request) -> Result<bool, HsmError> {
        if request.reply_bytes_max() > ITEM_BODY_BYTES_MAX {
            return Err(HsmError::OutOfRange);
        }
        self.push(id, request.service().code(), |w| request.encode(w))
    }

    /// Adds a reply; as [`Self::push_request`]. A reply that fits no frame becomes an error.
    pub fn push_reply(&mut self, id: u32, reply: &Result<Reply, HsmError>) -> bool {
        match self.push(id, 0, |w| Reply::encode_result(reply, w)) {
            Ok(fits) => fits,
            Err(error) => self.push(id, 0, |w| Reply::encode_result(&Err(error), w)).unwrap_or(false),
        }
    }

    #[expect(clippy::expect_used, reason = "the length was checked two lines before")]
    fn push(&mut self, id: u32, service: u8, body: impl FnOnce(&mut Writer<'_>)) -> Result<bool, HsmError> {
        if self.items == FRAME_ITEMS_MAX {
            return Ok(false);
        }
        if self.buffer.is_empty() {
            self.buffer.extend_from_slice(&[0; LENGTH_BYTES]);
        }
        let start = self.buffer.len();
        let mut w = Writer(&mut self.buffer);
        w.u32(id);
        w.u8(service);
        w.u32(0);
        body(&mut w);
        let body_len = self.buffer.len() - start - ITEM_HEAD_BYTES;
        if self.buffer.len() - LENGTH_BYTES > FRAME_BYTES_MAX {
            zeroize::Zeroize::zeroize(&mut self.buffer[start..]);
            self.buffer.truncate(start);
            return if body_len > ITEM_BODY_BYTES_MAX { Err(HsmError::OutOfRange) } else { Ok(false) };
        }
        let body_len = u32::try_from(body_len).expect("a body fits a frame");
        self.buffer[start + 5..start + ITEM_HEAD_BYTES].copy_from_slice(&body_len.to_be_bytes());
        self.items += 1;
        Ok(true)
    }

    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// The finished frame, length in front. Call [`Self::clear`] when it has been written.
    #[expect(clippy::expect_used, reason = "push keeps a frame below its cap")]
    pub fn finish(&mut self) -> &[u8] {
        if let Some(body) = self.buffer.len().checked_sub(LENGTH_BYTES) {
            let len = u32::try_from(body).expect("a frame is at most 64 KiB");
            self.buffer[..LENGTH_BYTES].copy_from_slice(&len.to_be_bytes());
        }
        &self.buffer
    }

    /// Wipes what was sent and starts the next frame in the same buffer.
    pub fn clear(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.buffer[..]);
        self.buffer.clear();
        self.items = 0;
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The next whole frame's body in `buffer`, and how many bytes it takes with its length. `None`: more must come.
pub fn next_frame(buffer: &[u8]) -> Result<Option<(&[u8], usize)>, HsmError> {
    let Some((len, rest)) = buffer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let len = u32::from_be_bytes(*len) as usize;
    if len == 0 || len > FRAME_BYTES_MAX {
        return Err(HsmError::Protocol);
    }
    Ok(rest.get(..len).map(|body| (body, LENGTH_BYTES + len)))
}

/// A request as it came; what could not be decoded is answered under its id.
#[derive(Debug)]
pub struct IncomingRequest {
    pub id: u32,
    pub request: Result<Request, HsmError>,
}

/// All requests of a frame's body. An unknown service or malformed body is one item's error; a broken item head is
/// the whole frame's.
pub fn decode_requests(body: &[u8]) -> Result<Vec<IncomingRequest>, HsmError> {
    let mut out = Vec::new();
    for_each_item(body, |id, service, body| {
        let mut r = Reader { rest: body };
        let request = Service::from_code(service)
            .and_then(|service| Request::decode(service, &mut r))
            .filter(|_| r.rest.is_empty())
            .ok_or(HsmError::Protocol);
        out.push(IncomingRequest { id, request });
        Ok(())
    })?;
    Ok(out)
}

/// All replies of a frame's body, in the order they came.
pub fn decode_replies(body: &[u8], mut each: impl FnMut(u32, Result<Reply, HsmError>)) -> Result<(), HsmError> {
    for_each_item(body, |id, service, body| {
        let mut r = Reader { rest: body };
        let reply = Reply::decode_result(&mut r).filter(|_| r.rest.is_empty() && service == 0);
        each(id, reply.ok_or(HsmError::Protocol)?);
        Ok(())
    })
}

fn for_each_item(body: &[u8], mut each: impl FnMut(u32, u8, &[u8]) -> Result<(), HsmError>) -> Result<(), HsmError> {
    let mut r = Reader { rest: body };
    for _ in 0..FRAME_ITEMS_MAX {
        if r.rest.is_empty() {
            return Ok(());
        }
        let (id, service, body) = (|| Some((r.u32()?, r.u8()?, r.bytes()?)))().ok_or(HsmError::Protocol)?;
        each(id, service, body)?;
    }
    if r.rest.is_empty() { Ok(()) } else { Err(HsmError::Protocol) }
}
