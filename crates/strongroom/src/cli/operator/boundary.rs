//! `strongroom operator boundary`: the officer's channel to hsm-sim or hsm-pkcs11, on the boundary's machine.

use crate::boundary_backup;
use crate::cli::output::{Answer, Record};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use hsm_api::{BackupPackage, HsmError, ModuleState, ModuleStatus, Reply, Request};
use hsm_channel::{Identity, Pin};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Command {
    Identity(IdentityArguments),
    Init(Init),
    Enroll(Enroll),
    Status(Officer),
    Backup(Backup),
    Restore(Restore),
}

/// Make a channel key if it is missing, and tell its pin
#[derive(Debug, Args)]
pub struct IdentityArguments {
    /// File (0600) with the channel key
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
}

/// How to reach the boundary, and as whom.
#[derive(Debug, Args)]
pub struct Officer {
    /// The boundary's Unix socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// File with the officer's channel key; made if it is missing
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// The boundary's pin, sha256:…, as `hsm-sim identity` prints it
    #[arg(long, value_name = "PIN")]
    pin: Pin,
}

/// Give a new boundary its domain key, and write the backup of it
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hsm-sim identity --dir /var/lib/hsm-sim                                       # prints the boundary's pin
  strongroom operator boundary identity --identity officer.key                  # prints the officer's pin
  hsm-sim serve --dir /var/lib/hsm-sim --socket /run/hsm-sim/hsm.sock --pin officer=sha256:… …
  strongroom operator boundary init --socket /run/hsm-sim/hsm.sock --identity officer.key --pin sha256:… \\
      --threshold 2 --shares 3 --out domain-backup

Losing the domain key is losing everything. The backup is `package` and one `share-N` for each custodian: take the shares apart,
and off this machine.")]
pub struct Init {
    #[command(flatten)]
    officer: Officer,
    #[command(flatten)]
    backup: BackupArguments,
}

/// Write a new backup of the domain key, after a rotation or when a share was lost
#[derive(Debug, Args)]
pub struct Backup {
    #[command(flatten)]
    officer: Officer,
    #[command(flatten)]
    backup: BackupArguments,
}

/// How the backup is split, and where it goes.
#[derive(Debug, Args)]
pub struct BackupArguments {
    /// How many shares open the backup
    #[arg(long, value_name = "COUNT")]
    threshold: u8,
    /// How many shares are made
    #[arg(long, value_name = "COUNT")]
    shares: u8,
    /// New folder for `package` and `share-1`, `share-2`, …
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Let a server, officer or auditor in, by its pin
#[derive(Debug, Args)]
#[command(after_help = "\
Example, on one machine:
  strongroom operator boundary enroll --socket /run/hsm-sim/hsm.sock --identity officer.key --pin sha256:… \\
      --role user --peer-identity /var/lib/strongroom/identity.key

The server's configuration then names that file as `identity` and the boundary's pin under [boundary].")]
pub struct Enroll {
    #[command(flatten)]
    officer: Officer,
    /// What the peer may do
    #[arg(long)]
    role: Role,
    #[command(flatten)]
    peer: Peer,
}

/// Who is let in.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Peer {
    /// The peer's pin
    #[arg(long, value_name = "PIN")]
    peer_pin: Option<Pin>,
    /// File with the peer's channel key; made if it is missing
    #[arg(long, value_name = "FILE")]
    peer_identity: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The server: data path
    User,
    /// Administration
    Officer,
    /// Reads status and counters
    Auditor,
}

/// Bring a domain key back into a new boundary
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom operator boundary restore --socket /run/hsm-sim/hsm.sock --identity officer.key --pin sha256:… \\
      --package domain-backup/package --share share-1 --share share-3")]
pub struct Restore {
    #[command(flatten)]
    officer: Officer,
    /// The backup's package
    #[arg(long, value_name = "FILE")]
    package: PathBuf,
    /// A custodian's share (0600); repeat it until there are enough
    #[arg(long = "share", value_name = "FILE", required = true)]
    shares: Vec<PathBuf>,
}

impl Command {
    pub async fn run(self) -> Result<Answer> {
        match self {
            Self::Identity(command) => {
                let identity = own(&command.identity)?;
                Ok(Answer::Record(Record::new().with("pin", identity.pin().to_string())))
            }
            Self::Init(command) => command.run().await,
            Self::Enroll(command) => command.run().await,
            Self::Status(officer) => officer.status().await,
            Self::Backup(command) => command.run().await,
            Self::Restore(command) => command.run().await,
        }
    }
}

impl Officer {
    async fn ask(&self, request: Request) -> Result<Reply> {
        let identity = own(&self.identity)?;
        let unreachable = || {
            format!(
                "the boundary at {} did not take this officer in: does it run, and was it started with --pin officer={}?",
                self.socket.display(),
                identity.pin()
            )
        };
        let channel = hsm::connect_once(&self.socket, &identity, &self.pin).await.with_context(unreachable)?;
        channel.ask(request).await.map_err(|error| anyhow::Error::from(error).context(refused(error)))
    }

    async fn status(&self) -> Result<Answer> {
        let Reply::Status(status) = self.ask(Request::Status).await? else { return Err(HsmError::Protocol.into()) };
        Ok(Answer::Record(status_record(*status)))
    }
}

fn own(path: &std::path::Path) -> Result<Identity> {
    Identity::load_or_generate(path).with_context(|| format!("cannot use the channel key {}", path.display()))
}

/// What a person can do about a boundary's refusal.
fn refused(error: HsmError) -> &'static str {
    let known = [
        (
            HsmError::StateForbidden,
            "the boundary's state does not allow this: `operator boundary status` shows it; init and restore work on a new one only",
        ),
        (HsmError::RoleForbidden, "this channel key is not enrolled as an officer"),
        (HsmError::SharesRejected, "too few shares, or shares that do not belong to this package"),
        (HsmError::OutOfRange, "the threshold is at least 1 and at most the number of shares"),
    ];
    known.iter().find(|(refusal, _)| *refusal == error).map_or("the boundary refused", |(_, advice)| advice)
}

impl BackupArguments {
    /// Made before the boundary is asked: its answer has to go somewhere.
    fn prepare(&self) -> Result<()> {
        crate::files::private_folder(&self.out)?;
        let mut inside = std::fs::read_dir(&self.out).with_context(|| format!("cannot read {}", self.out.display()))?;
        anyhow::ensure!(inside.next().is_none(), "{} is not empty: name a new folder", self.out.display());
        Ok(())
    }

    fn write(&self, backup: &BackupPackage) -> Result<Answer> {
        boundary_backup::write(&self.out, backup)
            .context("the backup was not written whole: make another one with `operator boundary backup`")?;
        Ok(Answer::Record(
            Record::new()
                .with("out", self.out.display().to_string())
                .with("threshold", u32::from(self.threshold))
                .with("shares", u32::from(self.shares)),
        ))
    }
}

impl Init {
    async fn run(self) -> Result<Answer> {
        self.backup.prepare()?;
        let request = Request::Initialise { threshold: self.backup.threshold, shares: self.backup.shares };
        let Reply::Backup(backup) = self.officer.ask(request).await? else { return Err(HsmError::Protocol.into()) };
        self.backup.write(&backup)
    }
}

impl Backup {
    async fn run(self) -> Result<Answer> {
        self.backup.prepare()?;
        let request = Request::Backup { threshold: self.backup.threshold, shares: self.backup.shares };
        let Reply::Backup(backup) = self.officer.ask(request).await? else { return Err(HsmError::Protocol.into()) };
        self.backup.write(&backup)
    }
}

impl Enroll {
    async fn run(self) -> Result<Answer> {
        let pin = match (self.peer.peer_pin, &self.peer.peer_identity) {
            (Some(pin), _) => pin,
            (None, Some(path)) => own(path)?.pin(),
            (None, None) => {
                return Err(crate::cli::Usage("who is let in? name --peer-pin or --peer-identity".into()).into());
            }
        };
        let role = match self.role {
            Role::User => hsm_api::Role::User,
            Role::Officer => hsm_api::Role::Officer,
            Role::Auditor => hsm_api::Role::Auditor,
        };
        let request = Request::Enrol { role, pin: *pin.bytes() };
        let Reply::Done = self.officer.ask(request).await? else { return Err(HsmError::Protocol.into()) };
        let role = self.role.to_possible_value().map(|role| role.get_name().to_owned());
        Ok(Answer::Record(Record::new().with_some("role", role).with("pin", pin.to_string())))
    }
}

impl Restore {
    async fn run(self) -> Result<Answer> {
        let (package, shares) = boundary_backup::read(&self.package, &self.shares)?;
        let request = Request::Restore { package, shares };
        let Reply::Done = self.officer.ask(request).await? else { return Err(HsmError::Protocol.into()) };
        self.officer.status().await
    }
}

fn status_record(status: ModuleStatus) -> Record {
    let state = match status.state {
        ModuleState::Uninitialised => "UNINITIALISED",
        ModuleState::Locked => "LOCKED",
        ModuleState::Operational => "OPERATIONAL",
        ModuleState::Error => "ERROR",
    };
    let can = status.capabilities;
    let clusters: Vec<String> = status.clusters.iter().map(hex::encode).collect();
    Record::new()
        .with("state", state)
        .with("module", status.module)
        .with("version", status.version)
        .with("module_id", hex::encode(status.module_id))
        .with("boot_epoch", status.boot_epoch)
        .with("domain_id", hex::encode(status.domain_id))
        .with("domain_generation", status.generation)
        .with("clusters", clusters)
        .with("backup_made", status.backup_made)
        .with("fault_build", status.fault_build)
        .with("key_specs", can.specs.iter().map(|spec| spec.name().to_owned()).collect::<Vec<_>>())
        .with("protection_levels", can.levels.iter().map(|level| level.name().to_owned()).collect::<Vec<_>>())
        .with(
            "signing_algorithms",
            can.algorithms.iter().map(|algorithm| algorithm.name().to_owned()).collect::<Vec<_>>(),
        )
        .with("identity_key", hex::encode(status.identity_key))
        .with("report", status.report.into_iter().collect::<std::collections::BTreeMap<_, _>>())
}
