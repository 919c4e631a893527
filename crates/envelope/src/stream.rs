//! The file format, version 1 (design §4): a data key's ciphertext blob in the header, then chunks sealed one by one
//! (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
//! Misuse-Resistance", 2015). Sans-IO: the caller reads, writes and renames.
//!
//! ```text
//! header   magic "SRFILE" | version u8 = 1 | flags u8 = 0 | file salt 16 | blob length u16 | blob      big-endian
//! chunk    ciphertext of 65,536 bytes, in the last chunk of 1 to 65,536 | tag 16
//! key      KO = SP 800-108 counter mode, HMAC-SHA-256, under the data key; label "sr/v1/file", context = file salt;
//!          AES-256-GCM key = KO[0..32], nonce prefix = KO[32..39]
//! nonce    prefix 7 | chunk number u32 | 1 in the last chunk, else 0
//! AAD      SHA-256(header)
//! ```
//!
//! An empty file is one empty last chunk; no other chunk is empty. The key is bound by the blob, which commits to it.
//!
//! Always: one error for cut, reordered, extended or altered files and for wrong keys; after it nothing more opens.
//! Never: a plaintext handed out before its tag was checked; a file believed whole before its last chunk.

use crate::kdf;
use crate::mac::sha256;
use crate::sealed::{TAG_BYTES, parse_blob};
use crate::secret::{SecretBytes, SecretKey};
pub use crate::suite1::Rejected;
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};

/// Plaintext bytes of each chunk but the last.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of each sealed chunk but the last.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Bytes of the header before the blob.
pub const HEADER_BYTES_MIN: usize = 26;
/// Longest blob that a header holds, bytes.
pub const BLOB_BYTES_MAX: usize = 4096;

const MAGIC: &[u8; 6] = b"SRFILE";
const VERSION: u8 = 1;

/// Not a header of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedFile {
    #[error("not an encrypted file: wrong magic")]
    Magic,
    #[error("file format version is not 1")]
    Version,
    #[error("reserved field is not zero")]
    Reserved,
    #[error("the header holds no ciphertext blob of at most {BLOB_BYTES_MAX} bytes")]
    Blob,
}

/// What an encryptor does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    #[error("the data key has not 32 bytes")]
    DataKeyLength,
    #[error("a chunk has {CHUNK_BYTES} bytes; the last one fewer, and none only in an empty file")]
    ChunkLength,
    #[error("the last chunk was made already")]
    Finished,
    #[error("the file is longer than 2^32 chunks")]
    TooLong,
}

/// The clear part of a file; the chunks authenticate all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    salt: [u8; 16],
    blob: Vec<u8>,
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefix {
    /// The header cannot be read before this many bytes are there, counted from the file's first.
    Needs(usize),
    /// The header, and how many bytes it takes; the first chunk follows.
    Whole(FileHeader, usize),
}

impl FileHeader {
    /// `blob` is the data key's ciphertext blob; `salt` is fresh and random for each file.
    pub fn new(blob: Vec<u8>, salt: [u8; 16]) -> Result<Self, MalformedFile> {
        if blob.len() > BLOB_BYTES_MAX || parse_blob(&blob).is_err() {
            return Err(MalformedFile::Blob);
        }
        Ok(Self { salt, blob })
    }

    /// Reads the header from the file's first bytes; what follows it is left alone.
    pub fn parse(prefix: &[u8]) -> Result<Prefix, MalformedFile> {
        let Some((fixed, rest)) = prefix.split_first_chunk::<HEADER_BYTES_MIN>() else {
            let known = prefix.len().min(MAGIC.len());
            let may_become_one = prefix[..known] == MAGIC[..known];
            return if may_become_one { Ok(Prefix::Needs(HEADER_BYTES_MIN)) } else { Err(MalformedFile::Magic) };
        };
        if !fixed.starts_with(MAGIC) {
            return Err(MalformedFile::Magic);
        }
        if fixed[6] != VERSION {
            return Err(MalformedFile::Version);
        }
        if fixed[7] != 0 {
            return Err(MalformedFile::Reserved);
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&fixed[8..24]);
        let blob_len = usize::from(u16::from_be_bytes([fixed[24], fixed[25]]));
        if blob_len > BLOB_BYTES_MAX {
            return Err(MalformedFile::Blob);
        }
        match rest.get(..blob_len) {
            None => Ok(Prefix::Needs(HEADER_BYTES_MIN + blob_len)),
            Some(blob) => Ok(Prefix::Whole(Self::new(blob.to_vec(), salt)?, HEADER_BYTES_MIN + blob_len)),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES_MIN + self.blob.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0]);
        out.extend_from_slice(&self.salt);
        // at most BLOB_BYTES_MAX, checked when the header was made
        out.extend_from_slice(&u16::try_from(self.blob.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&self.blob);
        out
    }

    /// The data key's ciphertext blob: what Decrypt takes.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }
}

/// Seals a file's chunks in order. [`FileHeader::to_bytes`] goes before them.
pub struct Encryptor(Chunks);

impl Encryptor {
    pub fn new(data_key: &SecretBytes, header: &FileHeader) -> Result<Self, EncryptError> {
        Chunks::new(data_key, header).map(Self).ok_or(EncryptError::DataKeyLength)
    }

    /// Appends the sealed chunk to `out`. Every chunk but the last has [`CHUNK_BYTES`]; the last has at least one
    /// byte, unless the file is empty: so a caller reads ahead before it says `last`. An error changes nothing.
    pub fn chunk(&mut self, plaintext: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), EncryptError> {
        if self.0.finished {
            return Err(EncryptError::Finished);
        }
        if !self.0.has_room_for(plaintext.len(), last) {
            return Err(EncryptError::ChunkLength);
        }
        let nonce = self.0.nonce(last).ok_or(EncryptError::TooLong)?;
        let start = out.len();
        out.reserve_exact(plaintext.len() + TAG_BYTES);
        out.extend_from_slice(plaintext);
        let sealed = self.0.cipher.encrypt_inout_detached(&nonce.into(), &self.0.aad, (&mut out[start..]).into());
        // SP 800-38D §5.2.1.1: a plaintext of 2^36 - 32 bytes is too long; a chunk is far below
        let Ok(tag) = sealed else {
            out.truncate(start);
            return Err(EncryptError::ChunkLength);
        };
        out.extend_from_slice(&tag);
        self.0.advance(last);
        Ok(())
    }

    /// The last chunk was made: the file is whole.
    pub fn is_finished(&self) -> bool {
        self.0.finished
    }
}

impl std::fmt::Debug for Encryptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encryptor")
    }
}

/// Opens a file's chunks in order.
pub struct Decryptor {
    chunks: Chunks,
    failed: bool,
}

impl Decryptor {
    pub fn new(data_key: &SecretBytes, header: &FileHeader) -> Result<Self, Rejected> {
        Chunks::new(data_key, header).map(|chunks| Self { chunks, failed: false }).ok_or(Rejected)
    }

    /// Appends the opened chunk to `out`. `sealed` has [`SEALED_CHUNK_BYTES`]; the last may have fewer: `last` says
    /// that the file ends behind it. An error leaves `out` as it was, and every further chunk is rejected too.
    pub fn chunk(&mut self, sealed: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Rejected> {
        let opened = if self.failed { Err(Rejected) } else { self.open(sealed, last, out) };
        self.failed = opened.is_err();
        opened
    }

    /// The last chunk was opened: the file was whole. Without this nothing may look like a finished file.
    pub fn is_finished(&self) -> bool {
        self.chunks.finished && !self.failed
    }

    fn open(&mut self, sealed: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Rejected> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(Rejected)?;
        if self.chunks.finished || !self.chunks.has_room_for(ciphertext.len(), last) {
            return Err(Rejected);
        }
        let nonce = self.chunks.nonce(last).ok_or(Rejected)?;
        let start = out.len();
        out.reserve_exact(ciphertext.len());
        out.extend_from_slice(ciphertext);
        let buffer = (&mut out[start..]).into();
        if self.chunks.cipher.decrypt_inout_detached(&nonce.into(), &self.chunks.aad, buffer, tag.into()).is_err() {
            zeroize::Zeroize::zeroize(&mut out[start..]);
            out.truncate(start);
            return Err(Rejected);
        }
        self.chunks.advance(last);
        Ok(())
    }
}

impl std::fmt::Debug for Decryptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decryptor")
    }
}

/// What both directions keep: the file's key, and which chunk comes next.
struct Chunks {
    cipher: Aes256Gcm,
    prefix: [u8; 7],
    aad: [u8; 32],
    next: u64,
    finished: bool,
}

impl Chunks {
    /// `None` unless the data key has 32 bytes.
    fn new(data_key: &SecretBytes, header: &FileHeader) -> Option<Self> {
        let data_key = SecretKey::from_slice(data_key.expose())?;
        let derived = kdf::counter_512_once(&data_key, b"sr/v1/file", &[&header.salt]);
        let mut prefix = [0; 7];
        prefix.copy_from_slice(&derived[32..39]);
        let cipher = Aes256Gcm::new_from_slice(&derived[..32]).ok()?;
        Some(Self { cipher, prefix, aad: sha256(&header.to_bytes()), next: 0, finished: false })
    }

    /// One plaintext has one form: full chunks, then a last one that is empty in an empty file only.
    fn has_room_for(&self, plaintext_len: usize, last: bool) -> bool {
        match last {
            false => plaintext_len == CHUNK_BYTES,
            true => plaintext_len <= CHUNK_BYTES && (plaintext_len > 0 || self.next == 0),
        }
    }

    /// `None` beyond 2^32 chunks: the number never wraps, so that no nonce comes twice.
    fn nonce(&self, last: bool) -> Option<[u8; 12]> {
        let number = u32::try_from(self.next).ok()?;
        let mut nonce = [0; 12];
        nonce[..7].copy_from_slice(&self.prefix);
        nonce[7..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = u8::from(last);
        Some(nonce)
    }

    fn advance(&mut self, last: bool) {
        self.next += 1;
        self.finished = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::{Header, Kind, Suite};
    use crate::suite1::{self, SealingKey};

    const CHUNKS_MAX: u64 = 1 << 32;

    fn header(salt: u8) -> FileHeader {
        let header = Header {
            kind: Kind::CiphertextBlob,
            suite: Suite::KdfCommitGcm,
            key_id: [1; 16],
            key_version: 2,
            domain_id: [3; 16],
            generation: 0,
        };
        let key = SealingKey::new(&SecretKey::init_with(|key| key.fill(7)));
        FileHeader::new(suite1::seal(&key, &header, &[4; 16], &[5; 12], &[6; 32], &[9; 32]), [salt; 16]).unwrap()
    }

    fn data_key() -> SecretBytes {
        SecretBytes::copy_from(&[9; 32])
    }

    fn plaintext(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect()
    }

    fn sealed_chunks(header: &FileHeader, plaintext: &[u8]) -> Vec<Vec<u8>> {
        let mut encryptor = Encryptor::new(&data_key(), header).unwrap();
        let pieces: Vec<&[u8]> = if plaintext.is_empty() { vec![&[]] } else { plaintext.chunks(CHUNK_BYTES).collect() };
        let mut out = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let mut chunk = Vec::new();
            encryptor.chunk(piece, i + 1 == pieces.len(), &mut chunk).unwrap();
            out.push(chunk);
        }
        assert!(encryptor.is_finished());
        out
    }

    /// Reads as a caller does: cuts the bytes into chunks, the last one being where they end.
    fn open(key: &SecretBytes, header: &FileHeader, body: &[u8]) -> Result<Vec<u8>, Rejected> {
        let mut decryptor = Decryptor::new(key, header)?;
        let mut out = Vec::new();
        let pieces: Vec<&[u8]> = if body.is_empty() { vec![&[]] } else { body.chunks(SEALED_CHUNK_BYTES).collect() };
        for (i, piece) in pieces.iter().enumerate() {
            decryptor.chunk(piece, i + 1 == pieces.len(), &mut out)?;
        }
        assert!(decryptor.is_finished());
        Ok(out)
    }

    #[test]
    fn files_of_every_awkward_length_come_back() {
        let header = header(1);
        for len in [0, 1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000] {
            let plaintext = plaintext(len);
            let body = sealed_chunks(&header, &plaintext).concat();
            assert_eq!(body.len(), len + TAG_BYTES * len.div_ceil(CHUNK_BYTES).max(1), "{len}");
            assert_eq!(open(&data_key(), &header, &body).unwrap(), plaintext, "{len}");
        }
    }

    #[test]
    fn a_file_that_was_tampered_with_is_rejected() {
        let header = header(1);
        let plaintext = plaintext(2 * CHUNK_BYTES + 100);
        let chunks = sealed_chunks(&header, &plaintext);
        let [a, b, c] = &chunks[..] else { panic!("three chunks") };
        let other = sealed_chunks(&self::header(2), &plaintext);
        let shorter = sealed_chunks(&header, &plaintext[..CHUNK_BYTES]);
        let whole = chunks.concat();
        for (name, body) in [
            ("empty", Vec::new()),
            ("cut at the first chunk", a.clone()),
            ("cut at a chunk", [&a[..], b].concat()),
            ("cut in a chunk", whole[..whole.len() - 1].to_vec()),
            ("cut to a tag", whole[..2 * SEALED_CHUNK_BYTES + TAG_BYTES].to_vec()),
            ("first chunk missing", [&b[..], c].concat()),
            ("swapped", [&b[..], a, c].concat()),
            ("doubled", [&a[..], a, c].concat()),
            ("a byte appended", [&whole[..], &[0]].concat()),
            ("the last chunk appended", [&whole[..], c].concat()),
            ("a chunk of another file", [&a[..], &other[1], c].concat()),
            ("the end of another file of this header", [&a[..], b, &shorter[0]].concat()),
        ] {
            assert_eq!(open(&data_key(), &header, &body), Err(Rejected), "{name}");
        }
        assert_eq!(open(&SecretBytes::copy_from(&[8; 32]), &header, &whole), Err(Rejected));
        assert_eq!(open(&SecretBytes::copy_from(&[9; 31]), &header, &whole), Err(Rejected));
        assert_eq!(open(&data_key(), &self::header(2), &whole), Err(Rejected));
    }

    #[test]
    fn every_flipped_bit_is_rejected() {
        let header = header(1);
        let header_bytes = header.to_bytes();
        let file = [&header_bytes[..], &sealed_chunks(&header, b"plaintext").concat()].concat();
        for bit in 0..file.len() * 8 {
            let mut altered = file.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Prefix::Whole(header, used)) = FileHeader::parse(&altered) {
                assert_eq!(open(&data_key(), &header, &altered[used..]), Err(Rejected), "bit {bit}");
            }
        }
    }

    #[test]
    fn after_a_rejected_chunk_nothing_more_opens() {
        let header = header(1);
        let chunks = sealed_chunks(&header, &plaintext(CHUNK_BYTES + 1));
        let mut decryptor = Decryptor::new(&data_key(), &header).unwrap();
        let mut out = b"before".to_vec();
        assert_eq!(decryptor.chunk(&chunks[1], true, &mut out), Err(Rejected));
        assert_eq!(decryptor.chunk(&chunks[0], false, &mut out), Err(Rejected));
        assert_eq!((&out[..], decryptor.is_finished()), (&b"before"[..], false));
    }

    #[test]
    fn an_encryptor_refuses_what_would_not_open() {
        let full = plaintext(CHUNK_BYTES);
        let long = plaintext(CHUNK_BYTES + 1);
        let mut encryptor = Encryptor::new(&data_key(), &header(1)).unwrap();
        let mut out = Vec::new();
        for (plaintext, last) in [(&b"short"[..], false), (&[], false), (&long, false), (&long, true)] {
            assert_eq!(encryptor.chunk(plaintext, last, &mut out), Err(EncryptError::ChunkLength));
        }
        assert!(out.is_empty());
        encryptor.chunk(&full, false, &mut out).unwrap();
        assert_eq!(encryptor.chunk(&[], true, &mut out), Err(EncryptError::ChunkLength));
        encryptor.chunk(&full, true, &mut out).unwrap();
        for (plaintext, last) in [(&full[..], false), (b"more", true)] {
            assert_eq!(encryptor.chunk(plaintext, last, &mut out), Err(EncryptError::Finished));
        }
        assert_eq!(out.len(), 2 * SEALED_CHUNK_BYTES);
        for len in [0, 16, 31, 33] {
            let refused = Encryptor::new(&SecretBytes::copy_from(&vec![9; len]), &header(1));
            assert_eq!(refused.unwrap_err(), EncryptError::DataKeyLength);
        }
    }

    #[test]
    fn the_chunk_number_never_wraps() {
        let full = plaintext(CHUNK_BYTES);
        let mut out = Vec::new();
        let mut encryptor = Encryptor::new(&data_key(), &header(1)).unwrap();
        encryptor.0.next = CHUNKS_MAX - 1;
        encryptor.chunk(&full, false, &mut out).unwrap();
        assert_eq!(encryptor.chunk(b"one too many", true, &mut Vec::new()), Err(EncryptError::TooLong));
        let mut decryptor = Decryptor::new(&data_key(), &header(1)).unwrap();
        decryptor.chunks.next = CHUNKS_MAX - 1;
        let mut opened = Vec::new();
        decryptor.chunk(&out, false, &mut opened).unwrap();
        assert_eq!(opened, full);
        assert_eq!(decryptor.chunk(&out, false, &mut opened), Err(Rejected));
    }

    #[test]
    fn a_header_is_read_from_any_prefix() {
        let header = header(1);
        let bytes = [&header.to_bytes()[..], b"chunks"].concat();
        let whole = bytes.len() - 6;
        for len in 0..=bytes.len() {
            let expected = match len {
                _ if len < HEADER_BYTES_MIN => Prefix::Needs(HEADER_BYTES_MIN),
                _ if len < whole => Prefix::Needs(whole),
                _ => Prefix::Whole(header.clone(), whole),
            };
            assert_eq!(FileHeader::parse(&bytes[..len]), Ok(expected), "{len}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let good = header(1).to_bytes();
        let altered = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (bytes, error) in [
            (b"X".to_vec(), MalformedFile::Magic),
            (b"SRFILX".to_vec(), MalformedFile::Magic),
            (altered(0, b's'), MalformedFile::Magic),
            (altered(6, 2), MalformedFile::Version),
            (altered(7, 1), MalformedFile::Reserved),
            (altered(24, 0xff), MalformedFile::Blob),
            (altered(25, 0), MalformedFile::Blob),
            (altered(HEADER_BYTES_MIN, b'X'), MalformedFile::Blob),
            (altered(HEADER_BYTES_MIN + 3, 2), MalformedFile::Blob),
        ] {
            assert_eq!(FileHeader::parse(&bytes), Err(error));
        }
        let mut long = header(1).blob().to_vec();
        long.resize(BLOB_BYTES_MAX + 1, 0);
        assert_eq!(FileHeader::new(long, [0; 16]), Err(MalformedFile::Blob));
    }
}
