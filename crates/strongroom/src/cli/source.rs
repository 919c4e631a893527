//! What a command reads: bytes from files and standard input, bounded; base64 where it stands among the arguments.

use super::Usage;
use super::values::base64_bytes;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use client::SecretBytes;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file, or standard input for `-`.
pub async fn open(path: &Path) -> Result<Box<dyn AsyncRead + Unpin>> {
    if is_dash(path) {
        return Ok(Box::new(standard(std::io::stdin().as_fd())?));
    }
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?;
    if file.metadata().await?.is_dir() {
        return Err(Usage(format!("{} is a folder: name a file", path.display())).into());
    }
    Ok(Box::new(file))
}

/// Standard input or output as a file of tokio's, without a buffer that outlives it.
pub fn standard(stream: BorrowedFd<'_>) -> std::io::Result<tokio::fs::File> {
    Ok(tokio::fs::File::from_std(stream.try_clone_to_owned()?.into()))
}

/// Reads a secret of at most `max` bytes; `beyond` says what to do with a longer one.
pub async fn read_secret(path: &Path, max: usize, beyond: &str) -> Result<SecretBytes> {
    let reader = open(path).await?;
    // room for one byte too many, so that the buffer never grows and leaves no copy behind
    let mut bytes = Vec::with_capacity(max + 1);
    let outcome = reader.take(max as u64 + 1).read_to_end(&mut bytes).await;
    let secret = SecretBytes::from_vec(bytes);
    outcome.with_context(|| format!("cannot read {}", path.display()))?;
    if secret.len() > max {
        return Err(Usage(format!("{} is longer than {max} bytes: {beyond}", path.display())).into());
    }
    Ok(secret)
}

/// What is not secret may stand among the arguments as base64, or in a file as it is.
async fn either(said: Option<Bytes>, file: Option<PathBuf>) -> Result<Bytes> {
    match (said, file) {
        (Some(bytes), _) => Ok(bytes),
        (None, Some(path)) => {
            Ok(client::give_secret(read_secret(&path, SEALED_BYTES_MAX, "the API takes no more").await?))
        }
        (None, None) => Err(Usage("neither base64 nor a file was given".to_owned()).into()),
    }
}

/// A ciphertext blob.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Ciphertext {
    /// Ciphertext blob in base64
    #[arg(long, value_name = "BASE64", value_parser = base64_bytes)]
    ciphertext_blob: Option<Bytes>,
    /// File with the ciphertext blob as it is; `-` is standard input
    #[arg(long, value_name = "FILE")]
    ciphertext_file: Option<PathBuf>,
}

/// A signature to verify.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Signature {
    /// Signature in base64
    #[arg(long, value_name = "BASE64", value_parser = base64_bytes)]
    signature: Option<Bytes>,
    /// File with the signature as it is
    #[arg(long, value_name = "FILE")]
    signature_file: Option<PathBuf>,
}

/// A message authentication code to verify.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Mac {
    /// Code in base64
    #[arg(long, value_name = "BASE64", value_parser = base64_bytes)]
    mac: Option<Bytes>,
    /// File with the code as it is
    #[arg(long, value_name = "FILE")]
    mac_file: Option<PathBuf>,
}

impl Ciphertext {
    pub async fn read(self) -> Result<Bytes> {
        either(self.ciphertext_blob, self.ciphertext_file).await
    }
}

impl Signature {
    pub async fn read(self) -> Result<Bytes> {
        either(self.signature, self.signature_file).await
    }
}

impl Mac {
    pub async fn read(self) -> Result<Bytes> {
        either(self.mac, self.mac_file).await
    }
}

/// Longest blob, signature or code that the API takes.
const SEALED_BYTES_MAX: usize = 6144;
