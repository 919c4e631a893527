//! Whole files under a key: a data key of their own in the header, 64 KiB chunks, a final flag (`envelope::stream`).
//!
//! Always: the output has its name only when it is whole and on the disk. What was cut, extended or altered leaves nothing,
//! and so does a signal.
//! Never: plaintext on standard output before the whole file was checked; therefore it is held in memory, and bounded.

use super::ContextArgument;
use crate::cli::Usage;
use crate::cli::connection::Connection;
use crate::cli::new_file::{NewFile, Replace};
use crate::cli::output::{Answer, Record};
use crate::cli::source::{self, is_dash};
use anyhow::{Context as _, Result};
use clap::Args;
use client::{
    DataKey, Done, Error, FileHeader, OpenedDataKey, SecretBytes, StreamError, decrypt_chunks, encrypt_chunks,
    read_header,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Encrypt a file of any length under a data key of its own
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms encrypt-file --key-id alias/invoices invoices.tar              # makes invoices.tar.sr
  tar c invoices | strongroom kms encrypt-file --key-id alias/invoices - --out invoices.tar.sr
  strongroom kms encrypt-file --key-id alias/invoices --context tenant=blue invoices.tar --out backup/blue.sr

The encryption context is bound to the file and not stored in it: decrypt-file needs the same pairs.")]
pub struct EncryptFile {
    /// Key id or alias/NAME
    #[arg(long, value_name = "KEY")]
    key_id: String,
    #[command(flatten)]
    context: ContextArgument,
    #[command(flatten)]
    files: Files,
}

/// Decrypt a file that encrypt-file made
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms decrypt-file invoices.tar.sr                                   # makes invoices.tar
  strongroom kms decrypt-file --context tenant=blue backup/blue.sr --out invoices.tar
  strongroom kms decrypt-file note.sr --out - | less

With `--out -` nothing is printed until the whole file was checked: it is held in memory, up to 64 MiB. Larger ones go to a file.")]
pub struct DecryptFile {
    /// Refuse a file of any other key
    #[arg(long, value_name = "KEY")]
    key_id: Option<String>,
    #[command(flatten)]
    context: ContextArgument,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Args)]
struct Files {
    /// File to read; `-` is standard input
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// New file to write; `-` is standard output. Default: INPUT with `.sr` appended to encrypt, dropped to decrypt
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the new file if it is there
    #[arg(long)]
    force: bool,
    /// Give the new file INPUT's permission bits instead of 0600
    #[arg(long)]
    preserve_mode: bool,
}

impl EncryptFile {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let context = self.context.parse()?;
        let out = self.files.out.clone().map_or_else(|| encrypted_name(&self.files.input), Ok)?;
        let key = async || Ok(connection.connect().await?.generate_data_key(&self.key_id, &context).await?);
        let done = encrypt(&self.files, &out, key).await?;
        Ok(told(&self.files.input, &out, done))
    }
}

impl DecryptFile {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let context = self.context.parse()?;
        let out = self.files.out.clone().map_or_else(|| decrypted_name(&self.files.input), Ok)?;
        let key_id = self.key_id.as_deref();
        let key =
            async |blob: Vec<u8>| Ok(connection.connect().await?.decrypt_data_key(&blob, &context, key_id).await?);
        let done = decrypt(&self.files, &out, key).await?;
        Ok(told(&self.files.input, &out, done))
    }
}

fn told(input: &Path, out: &Path, done: Done) -> Answer {
    if is_dash(out) {
        // the file itself went there, and anything more would be taken for its end
        return Answer::Line(SecretBytes::from_vec(Vec::new()));
    }
    let name = |path: &Path| path.display().to_string();
    Answer::Record(
        Record::new()
            .with("input", name(input))
            .with("out", name(out))
            .with("key_id", done.key_id)
            .with("key_version", done.key_version)
            .with("plaintext_bytes", done.bytes),
    )
}

fn encrypted_name(input: &Path) -> Result<PathBuf, Usage> {
    if is_dash(input) {
        return Err(Usage("standard input has no name: give the new file one with --out".into()));
    }
    let mut name = input.as_os_str().to_owned();
    name.push(".sr");
    Ok(name.into())
}

fn decrypted_name(input: &Path) -> Result<PathBuf, Usage> {
    match input.extension() {
        Some(extension) if extension == "sr" && !is_dash(input) => Ok(input.with_extension("")),
        Some(_) | None => {
            Err(Usage(format!("{} does not end in .sr: give the new file a name with --out", input.display())))
        }
    }
}

async fn encrypt(files: &Files, out: &Path, key: impl AsyncFnOnce() -> Result<DataKey>) -> Result<Done> {
    if is_dash(out) && std::io::stdout().is_terminal() {
        return Err(Usage(
            "an encrypted file would garble the terminal: redirect it, or name a file with --out".into(),
        )
        .into());
    }
    let (mut reader, length) = input(&files.input).await?;
    let mut target = Target::open(files, out)?;
    let key = key().await?;
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| Error::from(StreamError::Random))?;
    let header =
        FileHeader::new(key.ciphertext_blob.to_vec(), salt).map_err(|error| Error::from(StreamError::from(error)))?;
    let bar = bar(length);
    let whole = async {
        let mut writer = target.writer()?;
        let bytes =
            encrypt_chunks(&key.plaintext, &header, &mut reader, &mut writer, |bytes| bar.set_position(bytes)).await;
        bytes.map_err(Error::from).with_context(|| format!("{} was not encrypted", files.input.display()))
    };
    let bytes = whole.await?;
    bar.finish_and_clear();
    target.finish(files).await?;
    Ok(Done { key_id: key.key_id, key_version: key.key_version, bytes })
}

async fn decrypt(files: &Files, out: &Path, key: impl AsyncFnOnce(Vec<u8>) -> Result<OpenedDataKey>) -> Result<Done> {
    let failed = || format!("{} was not decrypted", files.input.display());
    let (mut reader, length) = input(&files.input).await?;
    let mut target = if is_dash(out) { Target::Held(Held::default()) } else { Target::open(files, out)? };
    let header = read_header(&mut reader).await.map_err(Error::from).with_context(failed)?;
    let key = key(header.blob().to_vec()).await.with_context(failed)?;
    let bar = bar(length);
    let mut writer = target.writer()?;
    let bytes =
        decrypt_chunks(&key.plaintext, &header, &mut reader, &mut writer, |bytes| bar.set_position(bytes)).await;
    let bytes = bytes.map_err(Error::from).with_context(failed)?;
    drop(writer);
    bar.finish_and_clear();
    target.finish(files).await?;
    Ok(Done { key_id: key.key_id, key_version: key.key_version, bytes })
}

async fn input(path: &Path) -> Result<(Box<dyn AsyncRead + Unpin>, Option<u64>)> {
    let reader = source::open(path).await?;
    let length =
        if is_dash(path) { None } else { Some(tokio::fs::metadata(path).await?).filter(|file| file.is_file()) };
    Ok((reader, length.map(|file| file.len())))
}

/// Where the bytes go until they are whole.
enum Target {
    File(NewFile),
    /// Encrypted bytes only: what is cut there does not open.
    Stdout,
    Held(Held),
}

impl Target {
    fn open(files: &Files, out: &Path) -> Result<Self> {
        if is_dash(out) { Ok(Self::Stdout) } else { Ok(Self::File(NewFile::create(out, Replace::when(files.force))?)) }
    }

    fn writer(&mut self) -> Result<Box<dyn AsyncWrite + Unpin + '_>> {
        Ok(match self {
            Self::File(file) => Box::new(file.writer()?),
            Self::Stdout => Box::new(source::standard(std::io::stdout().as_fd())?),
            Self::Held(held) => Box::new(held),
        })
    }

    async fn finish(self, files: &Files) -> Result<()> {
        match self {
            Self::File(file) => file.finish(mode(files).await?),
            // what writes chunks flushes them
            Self::Stdout => Ok(()),
            Self::Held(held) => held.print(),
        }
    }
}

async fn mode(files: &Files) -> Result<u32> {
    if !files.preserve_mode || is_dash(&files.input) {
        return Ok(0o600);
    }
    let metadata = tokio::fs::metadata(&files.input).await;
    Ok(metadata.with_context(|| format!("cannot look at {}", files.input.display()))?.permissions().mode() & 0o777)
}

/// Plaintext that waits for the end of its file; wiped as it drops.
#[derive(Default)]
struct Held {
    chunks: Vec<SecretBytes>,
    bytes: usize,
}

impl Held {
    fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let written = self.chunks.iter().try_for_each(|chunk| out.write_all(chunk.expose())).and_then(|()| out.flush());
        written.context("cannot write to standard output")
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.bytes + bytes.len() > HELD_BYTES_MAX {
            let text = "standard output takes at most 64 MiB, held until the file was checked: name a file with --out";
            return Poll::Ready(Err(std::io::Error::other(text)));
        }
        self.bytes += bytes.len();
        self.chunks.push(SecretBytes::copy_from(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A progress bar of bytes, where somebody watches.
pub(crate) fn bar(length: Option<u64>) -> ProgressBar {
    drawn(
        length,
        match length {
            Some(_) => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        },
    )
}

/// As [`bar`], of whatever is counted.
pub(crate) fn counting_bar(length: Option<u64>, what: &str) -> ProgressBar {
    match length {
        Some(_) => drawn(length, &format!("{{wide_bar}} {{human_pos}}/{{human_len}} {what} {{per_sec}} {{eta}}")),
        None => drawn(length, &format!("{{spinner}} {{human_pos}} {what} {{per_sec}}")),
    }
}

fn drawn(length: Option<u64>, template: &str) -> ProgressBar {
    let watched = std::io::stderr().is_terminal();
    let target = if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(length, target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if watched {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

/// Most plaintext that is held in memory.
const HELD_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests;
