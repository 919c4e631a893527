//! Envelope encryption of streams: the file format of `envelope::stream` over async readers and writers.
//!
//! Always: plaintext buffers are wiped; the data key is wiped when the work ends, well or not.
//! Never: a return of `Ok` for a stream that was not whole. What was written before an error is for the caller to drop.

use crate::{Client, Error};
use envelope::EncryptionContext;
use envelope::SecretBytes;
use envelope::stream::{
    CHUNK_BYTES, Decryptor, EncryptError, Encryptor, FileHeader, HEADER_BYTES_MIN, MalformedFile, Prefix, Rejected,
    SEALED_CHUNK_BYTES,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

/// Why a stream was not encrypted or decrypted whole.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot read: {0}")]
    Read(#[source] std::io::Error),
    #[error("cannot write: {0}")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Malformed(#[from] MalformedFile),
    #[error("not an encrypted file: it ends within its header")]
    Truncated,
    /// Cut, extended, altered, reordered, or another key: one answer for all of them.
    #[error("the file was cut, extended or altered")]
    Rejected,
    #[error(transparent)]
    Encrypt(#[from] EncryptError),
    #[error("the system gave no random bytes")]
    Random,
}

/// What was done with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub key_id: String,
    pub key_version: u32,
    /// Plaintext bytes.
    pub bytes: u64,
}

impl StreamError {
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::Write(_) | Self::Random => "",
            Self::Malformed(_) | Self::Truncated => "was it made by `kms encrypt-file`?",
            Self::Rejected => "fetch the file again: this copy is not whole, and nothing of it was kept",
            Self::Encrypt(_) => "split the file",
        }
    }
}

impl From<Rejected> for StreamError {
    fn from(_: Rejected) -> Self {
        Self::Rejected
    }
}

impl Client {
    /// Encrypts `reader` to its end under a new data key of `key_id`. `progress` hears the plaintext bytes so far.
    pub async fn encrypt_stream(
        &self,
        key_id: &str,
        context: &EncryptionContext,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        progress: impl FnMut(u64),
    ) -> Result<Done, Error> {
        let key = self.generate_data_key(key_id, context).await?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|_| StreamError::Random)?;
        let header = FileHeader::new(key.ciphertext_blob.to_vec(), salt).map_err(StreamError::from)?;
        let bytes = encrypt_chunks(&key.plaintext, &header, reader, writer, progress).await?;
        Ok(Done { key_id: key.key_id, key_version: key.key_version, bytes })
    }

    /// Decrypts `reader` to its end. Nothing that was written may be believed before this is `Ok`.
    pub async fn decrypt_stream(
        &self,
        key_id: Option<&str>,
        context: &EncryptionContext,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        progress: impl FnMut(u64),
    ) -> Result<Done, Error> {
        let header = read_header(reader).await?;
        let key = self.decrypt_data_key(header.blob(), context, key_id).await?;
        let bytes = decrypt_chunks(&key.plaintext, &header, reader, writer, progress).await?;
        Ok(Done { key_id: key.key_id, key_version: key.key_version, bytes })
    }
}

/// Writes the header and the sealed chunks of `reader`; tells how many plaintext bytes there were.
pub async fn encrypt_chunks(
    data_key: &SecretBytes,
    header: &FileHeader,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(u64),
) -> Result<u64, StreamError> {
    let mut encryptor = Encryptor::new(data_key, header)?;
    writer.write_all(&header.to_bytes()).await.map_err(StreamError::Write)?;
    let (mut current, mut ahead) = (Zeroizing::new(vec![0; CHUNK_BYTES]), Zeroizing::new(vec![0; CHUNK_BYTES]));
    let mut sealed = Vec::with_capacity(SEALED_CHUNK_BYTES);
    let mut length = fill(reader, &mut current).await?;
    let mut total = 0;
    while !encryptor.is_finished() {
        // a chunk is the last one when nothing follows it
        let next = if length < CHUNK_BYTES { 0 } else { fill(reader, &mut ahead).await? };
        encryptor.chunk(&current[..length], next == 0, &mut sealed)?;
        writer.write_all(&sealed).await.map_err(StreamError::Write)?;
        sealed.clear();
        total += length as u64;
        progress(total);
        std::mem::swap(&mut current, &mut ahead);
        length = next;
    }
    writer.flush().await.map_err(StreamError::Write)?;
    Ok(total)
}

/// Reads the header; the chunks follow in `reader`.
pub async fn read_header(reader: &mut (impl AsyncRead + Unpin)) -> Result<FileHeader, StreamError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES_MIN);
    loop {
        match FileHeader::parse(&bytes)? {
            Prefix::Whole(header, _) => return Ok(header),
            Prefix::Needs(count) => {
                let had = bytes.len();
                bytes.resize(count, 0);
                let read = fill(reader, &mut bytes[had..]).await?;
                if had + read < count {
                    bytes.truncate(had + read);
                    // what cannot become a header says so first
                    return FileHeader::parse(&bytes).map_err(StreamError::from).and(Err(StreamError::Truncated));
                }
            }
        }
    }
}

/// Writes the opened chunks of `reader`, behind its header; tells how many plaintext bytes there were.
pub async fn decrypt_chunks(
    data_key: &SecretBytes,
    header: &FileHeader,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(u64),
) -> Result<u64, StreamError> {
    let mut decryptor = Decryptor::new(data_key, header)?;
    let (mut current, mut ahead) = (vec![0; SEALED_CHUNK_BYTES], vec![0; SEALED_CHUNK_BYTES]);
    let mut opened = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
    let mut length = fill(reader, &mut current).await?;
    let mut total = 0;
    while !decryptor.is_finished() {
        let next = if length < SEALED_CHUNK_BYTES { 0 } else { fill(reader, &mut ahead).await? };
        decryptor.chunk(&current[..length], next == 0, &mut opened)?;
        writer.write_all(&opened).await.map_err(StreamError::Write)?;
        total += opened.len() as u64;
        opened.clear();
        progress(total);
        std::mem::swap(&mut current, &mut ahead);
        length = next;
    }
    writer.flush().await.map_err(StreamError::Write)?;
    Ok(total)
}

/// Reads until the buffer is full or the stream ends.
async fn fill(reader: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<usize, StreamError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).await.map_err(StreamError::Read)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use envelope::suite1::{self, SealingKey};
    use envelope::{Header, Kind, SecretKey, Suite};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    fn header() -> FileHeader {
        let header = Header {
            kind: Kind::CiphertextBlob,
            suite: Suite::KdfCommitGcm,
            key_id: [1; 16],
            key_version: 2,
            domain_id: [3; 16],
            generation: 0,
        };
        let key = SealingKey::new(&SecretKey::init_with(|key| key.fill(7)));
        FileHeader::new(suite1::seal(&key, &header, &[4; 16], &[5; 12], &[6; 32], &[9; 32]), [8; 16]).unwrap()
    }

    /// Gives at most 999 bytes at a time, as pipes and sockets do.
    struct Dribble<'a>(&'a [u8]);

    impl AsyncRead for Dribble<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let (head, tail) = self.0.split_at(self.0.len().min(999).min(buffer.remaining()));
            buffer.put_slice(head);
            self.0 = tail;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn streams_of_every_awkward_length_come_back_however_they_are_read() {
        let key = SecretBytes::copy_from(&[9; 32]);
        for len in [0, 1, 998, 999, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000] {
            let plaintext: Vec<u8> = (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect();
            let (mut sealed, mut heard) = (Vec::new(), Vec::new());
            let done = encrypt_chunks(&key, &header(), &mut Dribble(&plaintext), &mut sealed, |n| heard.push(n)).await;
            assert_eq!((done.unwrap(), heard.last()), (len as u64, Some(&(len as u64))));
            let mut reader = Dribble(&sealed);
            let found = read_header(&mut reader).await.unwrap();
            assert_eq!(found, header());
            let mut opened = Vec::new();
            decrypt_chunks(&key, &found, &mut reader, &mut opened, |_| ()).await.unwrap();
            assert!(opened == plaintext, "{len}");
            // without its last byte it is no stream
            let mut reader = Dribble(&sealed[..sealed.len() - 1]);
            let found = read_header(&mut reader).await.unwrap();
            let cut = decrypt_chunks(&key, &found, &mut reader, &mut Vec::new(), |_| ()).await;
            assert!(matches!(cut, Err(StreamError::Rejected)), "{len}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_says_so() {
        let whole = header().to_bytes();
        for (bytes, text) in [
            (&b""[..], "ends within its header"),
            (&whole[..10], "ends within its header"),
            (&whole[..whole.len() - 1], "ends within its header"),
            (b"a text", "wrong magic"),
            (b"SRFILE\x02\0................................", "version"),
        ] {
            let error = read_header(&mut Dribble(bytes)).await.unwrap_err();
            assert!(error.to_string().contains(text), "{bytes:?}: {error}");
        }
    }
}
