//! `strongroom operator`: how the server stands, copies of its storage, and the boundary.

pub mod boundary;
mod migrate;
pub mod seal;

use super::connection::Connection;
use super::kms::file::bar;
use super::new_file::{NewFile, Replace};
use super::output::{Answer, Record};
use super::values;
use crate::files;
use crate::sealed;
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use client::Error;
use proto::operator;
use std::path::PathBuf;
use storage::StorageError;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell how server and boundary stand
    Status,
    /// Seal the server at once: it drops its keys and refuses everything, until enough shares or a restart unseal it
    Seal,
    Unseal(seal::Unseal),
    Init(seal::Init),
    /// Make another recovery key, by shares of the one that there is
    Rekey {
        #[command(subcommand)]
        command: seal::Rekey,
    },
    /// Make a new root token by shares of the recovery key; no token is needed
    GenerateRoot {
        #[command(subcommand)]
        command: seal::GenerateRoot,
    },
    /// Give the barrier a new key; what stands in the store is sealed anew under it, in the background
    Rotate,
    /// Tell the term of the barrier's key, and how far sealing anew has come
    KeyStatus,
    Backup(Backup),
    Restore(Restore),
    Acknowledge(Acknowledge),
    Migrate(migrate::Migrate),
    /// Look after the boundary itself, as its officer
    Boundary {
        #[command(subcommand)]
        command: boundary::Command,
    },
}

/// Copy the server's storage while it is in use
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom operator backup --out strongroom-$(date +%F).backup

Values in a backup are sealed: it opens only beside a boundary that holds the domain key. Back that up too, once and after each
rotation: `strongroom operator boundary backup`.")]
pub struct Backup {
    /// New file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

/// Bring a backup back into an empty data directory; offline, on the server's machine
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  systemctl stop strongroom
  mv /var/lib/strongroom /var/lib/strongroom.old
  strongroom operator restore --from strongroom.backup --data-dir /var/lib/strongroom
  systemctl start strongroom

Tokens of before are void afterwards, so that a revoked one cannot come back: begin with the root token. The server's channel key
and its audit log are no part of a backup: keep them, or enrol the server anew.")]
pub struct Restore {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// `data_dir` of the server's configuration; holds no store
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Let a sealed server go on whose store or audit log is an old copy; offline, on the server's machine
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom operator acknowledge --data-dir /var/lib/strongroom

A server comes up sealed where store and audit log disagree about which of them is older. First find out why, and bring the newer
copy back if you have it. After the acknowledgement every token of before is void: begin with the root token. So is every lease,
unless the store was restored from a backup: users of databases are ended. Those that were lent after an old copy was taken are
in none of its leases: see `database/reconcile/<name>`. It is recorded in the audit log.")]
pub struct Acknowledge {
    /// `data_dir` of the server's configuration
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::Status => status(connection).await,
            Self::Seal => seal::seal(connection).await,
            Self::Unseal(command) => command.run(connection).await,
            Self::Init(command) => command.run(connection).await,
            Self::Rekey { command } => command.run(connection).await,
            Self::GenerateRoot { command } => command.run(connection).await,
            Self::Rotate => seal::rotate(connection).await,
            Self::KeyStatus => seal::key_status(connection).await,
            Self::Backup(command) => command.run(connection).await,
            Self::Acknowledge(command) => command.run(),
            Self::Migrate(command) => tokio::task::spawn_blocking(move || command.run()).await?,
            Self::Restore(command) => tokio::task::spawn_blocking(move || command.run()).await?,
            Self::Boundary { command } => command.run().await,
        }
    }
}

async fn status(connection: &Connection) -> Result<Answer> {
    let mut operator = connection.connect().await?.operator();
    let reply = operator.status(operator::StatusRequest {}).await.map_err(Error::from)?.into_inner();
    let boundary = reply.boundary.unwrap_or_default();
    let boundary = Record::new()
        .with("state", values::module_state_text(boundary.state))
        .with("module", boundary.module)
        .with("version", boundary.version)
        .with("module_id", boundary.module_id)
        .with("boot_epoch", boundary.boot_epoch)
        .with("domain_id", boundary.domain_id)
        .with("domain_generation", boundary.domain_generation)
        .with("backup_made", boundary.backup_made)
        .with("fault_build", boundary.fault_build)
        .with("key_specs", boundary.key_specs)
        .with("protection_levels", boundary.protection_levels)
        .with("signing_algorithms", boundary.signing_algorithms)
        .with("report", boundary.report);
    Ok(Answer::Record(
        Record::new()
            .with("version", reply.version)
            .with("cluster_id", reply.cluster_id)
            .with("tenant_id", reply.tenant_id)
            .with("generation", reply.generation)
            .with("start_date", reply.start_date)
            .with("boundary", boundary),
    ))
}

impl Backup {
    async fn run(self, connection: &Connection) -> Result<Answer> {
        let file = NewFile::create(&self.out, Replace::when(self.force))?;
        let client = connection.connect().await?;
        let mut writer = file.writer()?;
        let bar = bar(None);
        let summary =
            client.backup(&mut writer, |bytes| bar.set_position(bytes)).await.context("no backup was made")?;
        bar.finish_and_clear();
        // its last bytes are on their way to the file until then
        tokio::io::AsyncWriteExt::flush(&mut writer)
            .await
            .with_context(|| format!("cannot write {}", self.out.display()))?;
        drop(writer);
        file.finish(0o600)?;
        Ok(Answer::Record(
            Record::new()
                .with("out", self.out.display().to_string())
                .with("bytes", summary.bytes)
                .with("sha256", hex::encode(summary.sha256))
                .with("revision", summary.revision),
        ))
    }
}

impl Acknowledge {
    fn run(self) -> Result<Answer> {
        let waits = sealed::waiting_for(&self.data_dir)?;
        let why = waits.with_context(|| format!("no server in {} waits for it", self.data_dir.display()))?;
        sealed::acknowledge(&self.data_dir, &why)?;
        Ok(Answer::Record(Record::new().with("acknowledged", why)))
    }
}

impl Restore {
    fn run(self) -> Result<Answer> {
        let (from, to) = (self.from.display(), self.data_dir.display());
        anyhow::ensure!(self.from.is_file(), "{from} is no file: name the backup");
        anyhow::ensure!(
            !self.data_dir.join(STORE).exists(),
            "{to} holds a store already: move it away first, nothing is replaced"
        );
        files::private_folder(&self.data_dir)?;
        // before the store is there: a crash in between must not leave a restored store whose old tokens live
        let marker = self.data_dir.join(crate::server::RESTORED);
        files::write_public(&marker, b"")?;
        let restored = storage::sqlite::restore(&self.from, &self.data_dir);
        if restored.is_err() && !self.data_dir.join(STORE).exists() {
            let _ = std::fs::remove_file(&marker);
        }
        let advice = match &restored {
            Err(StorageError::Held) => format!("a server runs on {to}: stop it first"),
            Err(StorageError::TargetExists) => {
                format!("{to} holds a store, or its write-ahead log: move them away first")
            }
            Ok(_) | Err(_) => format!("{from} was not restored"),
        };
        let revision = restored.context(advice)?;
        Ok(Answer::Record(Record::new().with("data_dir", to.to_string()).with("revision", revision.0)))
    }
}

/// The store's file in the data folder.
const STORE: &str = "store.db";

#[cfg(test)]
mod tests {
    use super::*;
    use storage::{Batch, Sqlite, Storage as _};

    #[tokio::test]
    async fn a_restored_folder_is_marked_and_nothing_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join("backup");
        let store = Sqlite::open(&folder.path().join("a")).unwrap();
        let path = storage::EntryPath::parse("a/b").unwrap();
        store.commit(Batch::new(storage::CommitId([1; 16])).put(path, "v")).await.unwrap();
        store.backup(&backup).await.unwrap();
        let restore = |to: &str| Restore { from: backup.clone(), data_dir: folder.path().join(to) }.run();
        restore("b").unwrap();
        assert!(folder.path().join("b").join(crate::server::RESTORED).exists());
        assert!(Sqlite::open(&folder.path().join("b")).is_ok());
        // a store that is in use, or was restored before, is left alone and its tokens live
        assert!(restore("a").unwrap_err().to_string().contains("holds a store already"));
        assert!(!folder.path().join("a").join(crate::server::RESTORED).exists());
        // what is no backup leaves neither store nor mark
        std::fs::write(&backup, "no backup").unwrap();
        assert!(restore("c").is_err());
        let left = |name: &str| folder.path().join("c").join(name).exists();
        assert!(!left(STORE) && !left(crate::server::RESTORED));
    }
}
