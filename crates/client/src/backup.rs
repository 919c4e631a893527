//! A copy of the server's storage, checked while it comes in.

use crate::{Client, Error};
use proto::operator::{BackupChunk, BackupRequest};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::stream::StreamError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// The storage's revision that was copied.
    pub revision: u64,
}

impl Client {
    /// Writes a backup. It is one only when this is `Ok`: the caller drops whatever was written before an error.
    pub async fn backup(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        mut progress: impl FnMut(u64),
    ) -> Result<BackupSummary, Error> {
        let within = self.attach.timeout.unwrap_or(std::time::Duration::MAX);
        let late = |_| Error::from(tonic::Status::deadline_exceeded(""));
        let mut operator = self.unhurried_operator();
        let call = operator.backup(BackupRequest {});
        let mut chunks = tokio::time::timeout(within, call).await.map_err(late)??.into_inner();
        let mut check = Check::default();
        loop {
            let chunk = tokio::time::timeout(within, chunks.message()).await.map_err(late)??;
            let Some(chunk) = chunk else { return check.finish() };
            writer.write_all(&chunk.data).await.map_err(StreamError::Write)?;
            check.take(&chunk)?;
            progress(check.bytes);
        }
    }
}

/// Whole is what ends in the SHA-256 of all that came before, and in nothing after it.
#[derive(Default)]
struct Check {
    hash: Sha256,
    bytes: u64,
    end: Option<BackupSummary>,
}

impl Check {
    fn take(&mut self, chunk: &BackupChunk) -> Result<(), Error> {
        if self.end.is_some() {
            return Err(Error::BackupNotWhole);
        }
        self.hash.update(&chunk.data);
        self.bytes += chunk.data.len() as u64;
        if !chunk.sha256.is_empty() {
            let sha256: [u8; 32] = self.hash.clone().finalize().into();
            if chunk.sha256[..] != sha256 {
                return Err(Error::BackupNotWhole);
            }
            self.end = Some(BackupSummary { bytes: self.bytes, sha256, revision: chunk.revision });
        }
        Ok(())
    }

    fn finish(self) -> Result<BackupSummary, Error> {
        self.end.ok_or(Error::BackupNotWhole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn only_what_ends_in_its_own_hash_is_a_backup() {
        let piece = |data: &'static [u8]| BackupChunk { data: Bytes::from_static(data), ..Default::default() };
        let end = |of: &[u8]| BackupChunk {
            sha256: Bytes::copy_from_slice(&Sha256::digest(of)),
            revision: 7,
            ..Default::default()
        };
        let run = |chunks: &[BackupChunk]| {
            let mut check = Check::default();
            chunks.iter().try_for_each(|chunk| check.take(chunk))?;
            check.finish()
        };
        let whole = run(&[piece(b"ab"), piece(b"c"), end(b"abc")]).unwrap();
        assert_eq!(whole, BackupSummary { bytes: 3, sha256: Sha256::digest(b"abc").into(), revision: 7 });
        for (name, chunks) in [
            ("nothing", vec![]),
            ("no end", vec![piece(b"ab")]),
            ("another hash", vec![piece(b"ab"), end(b"abc")]),
            (
                "a short hash",
                vec![piece(b"ab"), BackupChunk { sha256: Bytes::from_static(b"x"), ..Default::default() }],
            ),
            ("more behind the end", vec![piece(b"ab"), end(b"ab"), piece(b"c")]),
            ("two ends", vec![piece(b"ab"), end(b"ab"), end(b"ab")]),
        ] {
            assert!(matches!(run(&chunks), Err(Error::BackupNotWhole)), "{name}");
        }
    }
}
