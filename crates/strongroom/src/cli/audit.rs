//! `strongroom audit`: the audit log, from its files and its public key alone. No server is asked, and none need run, but to
//! remove entries, which it records.
//!
//! Always: what is read is a log's folder, also beside its writer. A witness reads none: logs come to it.
//! Never: anything written into it.

pub mod cosigned;
pub mod export;
pub mod keygen;
pub mod prove;
pub mod read;
pub mod removal;
pub mod store;
pub mod verify;
pub mod witness;

use super::output::Format;
use super::{Usage, answered};
use anyhow::{Context as _, Result};
use audit::note::{KeyKind, VerifierKey};
use audit::read::{LogFolder, LogReader, VERIFIER_KEY, verifier_key};
use clap::{Args, Subcommand};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// How answers are printed; entries are always JSON lines
    #[arg(long, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Verify(verify::Verify),
    Tail(read::Tail),
    Search(read::Search),
    Prove(prove::Prove),
    Export(export::Export),
    Archive(removal::Archive),
    Prune(removal::Prune),
    Keygen(keygen::Keygen),
    Witness(witness::Arguments),
}

impl Arguments {
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Verify(command) => answered(self.output, command.run()),
            Command::Tail(command) => answered(self.output, blocking(move || command.run())),
            Command::Search(command) => answered(self.output, blocking(move || command.run())),
            Command::Prove(command) => answered(self.output, blocking(move || command.run())),
            Command::Export(command) => answered(self.output, command.run()),
            Command::Archive(command) => answered(self.output, blocking(move || command.run())),
            Command::Prune(command) => answered(self.output, blocking(move || command.run())),
            Command::Keygen(command) => answered(self.output, async { command.run() }),
            Command::Witness(arguments) => witness::run(&arguments),
        }
    }
}

/// Files make a thread wait; a signal is heard meanwhile.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Which log.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Place {
    /// Folder of the log
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// `data_dir` of the server's configuration, or of `strongroom dev`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// `None` where none was named.
    fn dir(&self) -> Result<Option<PathBuf>> {
        match (&self.dir, &self.data_dir) {
            (Some(dir), _) => Ok(Some(dir.clone())),
            (None, None) => Ok(None),
            (None, Some(data_dir)) => {
                let places = ["audit", "server/audit"].map(|below| data_dir.join(below));
                let found = places.into_iter().find(|dir| dir.is_dir());
                found.map(Some).with_context(|| {
                    format!("{} holds no audit log: name the log's own folder with --dir", data_dir.display())
                })
            }
        }
    }

    pub fn log(&self) -> Result<LogReader<LogFolder>> {
        let dir = self.dir()?.ok_or_else(|| Usage("which log? name --dir or --data-dir".to_owned()))?;
        open(&dir)
    }
}

fn open(dir: &Path) -> Result<LogReader<LogFolder>> {
    let folder = LogFolder::open(dir).with_context(|| format!("cannot open the audit log in {}", dir.display()))?;
    Ok(LogReader::over(folder))
}

/// Whose signature is believed.
#[derive(Debug, Args)]
pub struct Key {
    /// The log's verifier key, or a file with it; default: `log.vkey` in the log's folder, which proves nothing about who wrote
    /// the log
    #[arg(long, value_name = "VKEY|FILE")]
    key: Option<String>,
}

impl Key {
    /// Tells on standard error where a key proves little.
    fn read(&self, dir: Option<&Path>) -> Result<VerifierKey> {
        let (text, from) = match (&self.key, dir) {
            (Some(said), _) if VerifierKey::parse(said).is_ok() => (said.clone(), "--key"),
            (Some(file), _) => (read_text(Path::new(file))?, file.as_str()),
            (None, Some(dir)) => {
                let file = dir.join(VERIFIER_KEY);
                let key = verifier_key(dir).with_context(|| format!("cannot read {}", file.display()))?;
                warn(&format!(
                    "the key is taken from {}: who could write the log could write it too. Keep a copy elsewhere, and name it \
                     with --key",
                    file.display()
                ));
                return Ok(key);
            }
            (None, None) => return Err(Usage("whose log? name its key with --key".to_owned()).into()),
        };
        let key = VerifierKey::parse(text.trim()).ok().filter(|key| key.kind() == KeyKind::Ed25519);
        key.with_context(|| format!("{from} holds no log's verifier key (NAME+HASH+KEY)"))
    }
}

fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

/// A small file whose content is public.
fn read_small(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(context)?;
    file.take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(context)?;
    anyhow::ensure!(bytes.len() as u64 <= SMALL_BYTES_MAX, "{} is too long", path.display());
    Ok(bytes)
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_small(path)?).with_context(|| format!("{} is no text", path.display()))
}

/// No note, receipt or key is longer.
const SMALL_BYTES_MAX: u64 = 1 << 20;
