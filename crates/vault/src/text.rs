//! JSON on its way out, which may hold secrets.
//!
//! Always: wiped on drop, and where it grew from.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use std::io;
use zeroize::Zeroizing;

/// JSON text.
#[derive(Default)]
pub struct Text(Zeroizing<Vec<u8>>);

impl Text {
    /// `None` where a value cannot be written: a map whose keys are no strings.
    pub fn of(value: &impl Serialize) -> Option<Self> {
        let mut text = Self::default();
        serde_json::to_writer(&mut text, value).ok()?;
        Some(text)
    }

    pub fn copy_from(json: &str) -> Self {
        let mut text = Self::default();
        text.push(json.as_bytes());
        text
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // serde_json writes UTF-8, and so do we
        std::str::from_utf8(&self.0).unwrap_or("null")
    }

    /// To stand in other JSON as it is.
    pub fn as_raw(&self) -> Option<&RawValue> {
        serde_json::from_slice(&self.0).ok()
    }

    /// Shared, and wiped when the last holder drops it.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    pub fn push(&mut self, more: &[u8]) {
        let needed = self.0.len() + more.len();
        if needed > self.0.capacity() {
            // a vector that grew by itself would leave its old bytes behind
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().max(BYTES_MIN)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(more);
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl io::Write for Text {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.push(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Text")
    }
}

const BYTES_MIN: usize = 512;
