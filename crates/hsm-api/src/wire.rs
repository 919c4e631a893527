//! Primitive fields of the protocol: big-endian integers, `u32 length ‖ bytes`, `u16 count ‖ items`.

use crate::HsmError;
use crate::key::{KeyToken, TOKEN_BYTES_MAX};
use bytes::Bytes;
use envelope::SecretBytes;

pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn u8(&mut self, n: u8) {
        self.raw(&[n]);
    }

    pub(crate) fn u16(&mut self, n: u16) {
        self.raw(&n.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, n: u32) {
        self.raw(&n.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, n: u64) {
        self.raw(&n.to_be_bytes());
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.u8(u8::from(flag));
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            widen(self.0, bytes.len());
        }
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    pub(crate) fn token(&mut self, token: &KeyToken) {
        self.raw(token.tenant());
        self.bytes(token.bytes());
    }

    /// Longer lists than a count can tell are cut by no caller: the frame's size check refuses them first.
    pub(crate) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
        items.iter().for_each(|item| each(self, item));
    }

    pub(crate) fn result<T>(&mut self, result: &Result<T, HsmError>, ok: impl FnOnce(&mut Self, &T)) {
        match result {
            Ok(value) => {
                self.u8(0);
                ok(self, value);
            }
            Err(error) => self.u8(error.code()),
        }
    }
}

/// Makes room for `more` bytes. A vector that grows by itself leaves a copy of its secrets behind; this gives the old buffer
/// back, wiped.
fn widen(buffer: &mut Vec<u8>, more: usize) -> Vec<u8> {
    let mut wider = Vec::with_capacity((buffer.len() + more).max(2 * buffer.capacity()).max(CAPACITY_MIN));
    wider.extend_from_slice(buffer);
    let mut old = std::mem::replace(buffer, wider);
    zeroize::Zeroize::zeroize(&mut old[..]);
    old
}

const CAPACITY_MIN: usize = 512;

/// Reads from a frame; `None` is "not of the protocol".
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(len)?;
        self.rest = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    pub(crate) fn shared(&mut self) -> Option<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    pub(crate) fn secret(&mut self) -> Option<SecretBytes> {
        self.bytes().map(SecretBytes::copy_from)
    }

    pub(crate) fn text(&mut self, max: usize) -> Option<String> {
        let bytes = self.bytes().filter(|bytes| bytes.len() <= max)?;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    pub(crate) fn token(&mut self) -> Option<KeyToken> {
        let tenant = self.array()?;
        let bytes = self.bytes().filter(|bytes| bytes.len() <= TOKEN_BYTES_MAX)?;
        KeyToken::parse(tenant, Bytes::copy_from_slice(bytes)).ok()
    }

    pub(crate) fn list<T>(&mut self, max: usize, mut each: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::from(self.u16()?);
        if count > max {
            return None;
        }
        // what is reserved never exceeds what could be there
        let mut items = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            items.push(each(self)?);
        }
        Some(items)
    }

    pub(crate) fn result<T>(&mut self, ok: impl FnOnce(&mut Self) -> Option<T>) -> Option<Result<T, HsmError>> {
        match self.u8()? {
            0 => ok(self).map(Ok),
            code => HsmError::from_code(code).map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_grows_leaves_no_copy_behind() {
        let mut buffer = Vec::new();
        for round in 0..64 {
            Writer(&mut buffer).bytes(&[0xaa; 100]);
            assert_eq!(buffer.len(), (round + 1) * 104);
            // here the vector would have moved itself
            if buffer.capacity() - buffer.len() < 104 {
                let (whole, capacity) = (buffer.clone(), buffer.capacity());
                let old = widen(&mut buffer, 104);
                assert!(old.len() == whole.len() && old.iter().all(|byte| *byte == 0));
                assert!(buffer == whole && buffer.capacity() >= 2 * capacity);
            }
        }
        let (at, capacity) = (buffer.as_ptr(), buffer.capacity());
        let room = capacity - buffer.len();
        Writer(&mut buffer).raw(&vec![1; room]);
        assert_eq!((buffer.as_ptr(), buffer.len()), (at, capacity), "what fits moves nothing");
    }
}
