//! Protobuf's encoding, as much of it as entries and receipts need. By hand: it stands on the path of every request.
//!
//! Always: what has its default is left out; identifiers that are hexadecimal or UUIDs go as the bytes they stand for.
//! Never: a panic on what others wrote.

use super::Malformed;

/// <https://protobuf.dev/programming-guides/encoding/#structure>
const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;
const FIXED_32: u32 = 5;

/// Leaves out 0.
pub(crate) fn uint(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        present_uint(out, field, value);
    }
}

/// Of an `optional` field: 0 is told.
pub(super) fn present_uint(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// Leaves out what is empty.
pub(crate) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        present_bytes(out, field, value);
    }
}

/// Of an `optional` field: what is empty is told.
pub(super) fn present_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(out, field, LENGTH_DELIMITED);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// The bytes under `field` where `text` is lower-case hexadecimal, else the text under the next one. Leaves out what is
/// empty.
pub(super) fn hexadecimal(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() && !decoded(out, field, text) {
        present_bytes(out, field + 1, text.as_bytes());
    }
}

/// Like [`hexadecimal`], of an `optional` field.
pub(super) fn present_hexadecimal(out: &mut Vec<u8>, field: u32, text: &str) {
    if text.is_empty() || !decoded(out, field, text) {
        present_bytes(out, field + 1, text.as_bytes());
    }
}

/// The 16 bytes under `field` where `text` is a UUID in lower case (RFC 9562 §4), else the text under the next one. Of an
/// `optional` field.
pub(super) fn present_uuid(out: &mut Vec<u8>, field: u32, text: &str) {
    match uuid_digits(text) {
        Some(digits) if decoded(out, field, digits) => {}
        Some(_) | None => present_bytes(out, field + 1, text.as_bytes()),
    }
}

/// A message under `field`, written by `body`; told even where it is empty.
pub(super) fn message(out: &mut Vec<u8>, field: u32, body: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH_DELIMITED);
    let at = out.len();
    out.push(0);
    body(out);
    let len = out.len() - at - 1;
    match out.get_mut(at) {
        // nearly always: the length takes the one byte that was kept for it
        Some(first) if len < 0x80 => *first = low_byte(len as u64),
        Some(_) | None => {
            let mut head = Vec::with_capacity(10);
            varint(&mut head, len as u64);
            out.splice(at..=at, head);
        }
    }
}

/// CRC-32 of all bytes before this field, which is the last one.
pub(super) fn checksum(out: &mut Vec<u8>, field: u32) {
    let sum = crc32fast::hash(out);
    tag(out, field, FIXED_32);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// What comes before the checksum, where there is one and it is right.
pub(super) fn checked(bytes: &[u8], field: u32) -> Option<&[u8]> {
    let mut head = Vec::with_capacity(8);
    tag(&mut head, field, FIXED_32);
    let (rest, sum) = bytes.split_last_chunk::<4>()?;
    let body = rest.strip_suffix(&*head)?;
    (crc32fast::hash(body) == u32::from_le_bytes(*sum)).then_some(body)
}

fn tag(out: &mut Vec<u8>, field: u32, kind: u32) {
    varint(out, u64::from(field << 3 | kind));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// Writes `text` as the bytes that it stands for; writes nothing where it is not lower-case hexadecimal.
fn decoded<T: AsRef<[u8]>>(out: &mut Vec<u8>, field: u32, text: T) -> bool {
    let (pairs, []) = text.as_ref().as_chunks::<2>() else { return false };
    let start = out.len();
    tag(out, field, LENGTH_DELIMITED);
    varint(out, pairs.len() as u64);
    let mut wrong = 0;
    out.extend(pairs.iter().map(|[high, low]| {
        let (high, low) = (NIBBLES[usize::from(*high)], NIBBLES[usize::from(*low)]);
        wrong |= high | low;
        high << 4 | low & 0xf
    }));
    let sound = wrong & NO_DIGIT == 0;
    if !sound {
        out.truncate(start);
    }
    sound
}

fn uuid_digits(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let mut digits = [0; 32];
    let mut rest = digits.iter_mut();
    for (at, byte) in text.iter().enumerate() {
        match at {
            8 | 13 | 18 | 23 if *byte == b'-' => {}
            8 | 13 | 18 | 23 => return None,
            _ => *rest.next()? = *byte,
        }
    }
    Some(digits)
}

/// The fields of a message, one after the other. Order, repeats and defaults are not looked at: whoever reads compares what
/// it has read, written anew, with what it read from.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Uint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Malformed::Field);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = u32::try_from(self.varint()?).ok()?;
        let value = match tag & 7 {
            VARINT => Value::Uint(self.varint()?),
            LENGTH_DELIMITED => {
                let len = usize::try_from(self.varint()?).ok()?;
                let (value, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Value<'a> {
    pub(crate) fn uint(self) -> Result<u64, Malformed> {
        match self {
            Self::Uint(value) => Ok(value),
            Self::Bytes(_) => Err(Malformed::Field),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(value) => Ok(value),
            Self::Uint(_) => Err(Malformed::Field),
        }
    }

    pub(super) fn text(self) -> Result<String, Malformed> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| Malformed::Field)
    }

    pub(super) fn hexadecimal(self) -> Result<String, Malformed> {
        digits(self.bytes()?)
    }

    pub(super) fn uuid(self) -> Result<String, Malformed> {
        let bytes: &[u8; 16] = self.bytes()?.try_into().map_err(|_| Malformed::Field)?;
        let mut text = digits(bytes)?;
        [8, 13, 18, 23].into_iter().for_each(|at| text.insert(at, '-'));
        Ok(text)
    }
}

fn digits(bytes: &[u8]) -> Result<String, Malformed> {
    let mut digits = Vec::with_capacity(bytes.len() * 2);
    digits.extend(bytes.iter().flat_map(|byte| DIGITS[usize::from(*byte)]));
    String::from_utf8(digits).map_err(|_| Malformed::Field)
}

/// Set in no digit.
const NO_DIGIT: u8 = 0x10;

const NIBBLES: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    table
};

const DIGITS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [b"0123456789abcdef"[byte >> 4], b"0123456789abcdef"[byte & 0xf]];
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        hex::encode(out)
    }

    #[test]
    fn values_are_written_as_protobuf_writes_them() {
        // https://protobuf.dev/programming-guides/encoding/: 150 in field 1, "testing" in field 2
        assert_eq!(written(|out| uint(out, 1, 150)), "089601");
        assert_eq!(written(|out| bytes(out, 2, b"testing")), "120774657374696e67");
        assert_eq!(written(|out| message(out, 3, |out| uint(out, 1, 150))), "1a03089601");
        assert_eq!(written(|out| uint(out, 1, 0)) + &written(|out| bytes(out, 1, b"")), "");
        assert_eq!(written(|out| present_uint(out, 1, 0)) + &written(|out| present_bytes(out, 2, b"")), "08001200");
        assert_eq!(written(|out| present_uint(out, 1, u64::MAX)), "08ffffffffffffffffff01");
        for (len, head) in [(127, "0a7f"), (128, "0a8001"), (20_000, "0aa09c01")] {
            let told = written(|out| message(out, 1, |out| out.resize(out.len() + len, 0xee)));
            assert_eq!(told, head.to_owned() + &"ee".repeat(len), "{len}");
        }
    }

    #[test]
    fn identifiers_go_as_bytes_where_the_way_back_is_one() {
        for (text, expected) in [
            ("00ff", "0a0200ff"),
            ("", ""),
            ("0", "120130"),
            ("0F", "12023046"),
            ("0g", "12023067"),
            ("00f", "1203303066"),
            ("0\u{e9}", "120330c3a9"),
        ] {
            assert_eq!(written(|out| hexadecimal(out, 1, text)), expected, "{text}");
            assert!(!text.is_empty() || written(|out| present_hexadecimal(out, 1, text)) == "1200");
        }
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(written(|out| present_uuid(out, 1, uuid)), "0a1000112233445566778899aabbccddeeff");
        assert_eq!(Value::Bytes(&hex::decode(uuid.replace('-', "")).unwrap()).uuid().unwrap(), uuid);
        for text in [&uuid[1..], &uuid.to_uppercase(), &uuid.replace('-', "0"), &format!("-{}", &uuid[1..]), ""] {
            let expected = format!("12{:02x}{}", text.len(), hex::encode(text));
            assert_eq!(written(|out| present_uuid(out, 1, text)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in
            ["08", "0880", "09", "0d00000000", "0a01", "0affffffffffffffffff01", "08ffffffffffffffffff02", "0b"]
        {
            let bytes = hex::decode(bytes).unwrap();
            assert_eq!(Fields(&bytes).last().unwrap().unwrap_err(), Malformed::Field, "{bytes:x?}");
        }
        let overlong = hex::decode("08808080808080808080808000").unwrap();
        assert!(Fields(&overlong).any(|field| field.is_err()));
    }
}
