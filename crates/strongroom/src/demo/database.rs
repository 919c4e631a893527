//! A PostgreSQL that is thrown away: of Debian's package, in a folder of its own, on loopback, as a user without rights.

use anyhow::{Context as _, Result, bail, ensure};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Running until it is dropped.
pub(super) struct Database {
    programs: PathBuf,
    folder: PathBuf,
    /// Of the package's own user, where this process is root: PostgreSQL refuses to be.
    user: Option<(u32, u32)>,
    pub(super) port: u16,
    /// Of the account that makes users, 0600.
    pub(super) password_file: PathBuf,
    password: String,
    server: Option<Child>,
}

impl Database {
    /// `keep` is a folder that only this user reads: the password stands there.
    pub(super) async fn start(keep: &Path) -> Result<Self> {
        let programs = programs()?;
        let user = if rustix::process::getuid().is_root() { Some(postgres_user()?) } else { None };
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let password = hex::encode(random);
        let folder = std::env::temp_dir().join(format!("strongroom-demo-postgres-{}", hex::encode(&random[..6])));
        let password_file = keep.join("admin-password");
        crate::files::private_folder(&folder)?;
        crate::files::write_secret(&password_file, password.as_bytes())?;
        let first = folder.join("first-password");
        crate::files::write_secret(&first, password.as_bytes())?;
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).and_then(|()| chown(&first, Some(uid), Some(gid)))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut database = Self { programs, folder, user, port, password_file, password, server: None };
        let mut initdb = database.program("initdb");
        initdb.arg("-D").arg(database.folder.join("data")).arg("--pwfile").arg(&first);
        initdb.args(["--username=admin", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        let made = initdb.output().await.context("initdb does not start")?;
        ensure!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr).trim());
        std::fs::remove_file(&first)?;
        database.serve().await?;
        Ok(database)
    }

    async fn serve(&mut self) -> Result<()> {
        let mut postgres = self.program("postgres");
        postgres.arg("-D").arg(self.folder.join("data")).arg("-k").arg(&self.folder);
        postgres.arg("-p").arg(self.port.to_string());
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=16MB", "-c", "fsync=off"]);
        self.server = Some(postgres.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?);
        for _ in 0..READY_LOOKS {
            if self.admin("SELECT 1").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
        bail!("PostgreSQL did not get ready")
    }

    /// As the account that may do everything.
    pub(super) async fn admin(&self, statement: &str) -> Result<String> {
        self.ask("admin", &self.password, statement).await
    }

    /// What a user is answered; or what is said instead, as an error.
    pub(super) async fn ask(&self, user: &str, password: &str, statement: &str) -> Result<String> {
        let output = self.psql(user, password).args(["-c", statement]).output().await.context("psql does not start")?;
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(told(&output.stdout)) } else { Err(anyhow::anyhow!(told(&output.stderr))) }
    }

    /// A session that stays open, as an application's does.
    pub(super) async fn session(&self, user: &str, password: &str) -> Result<Child> {
        let mut psql = self.psql(user, password);
        psql.args(["-c", "SELECT pg_sleep(600)"]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = psql.kill_on_drop(true).spawn().context("psql does not start")?;
        let open = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'");
        for _ in 0..READY_LOOKS {
            if self.admin(&open).await? == "1" {
                return Ok(child);
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
        bail!("the session was not opened")
    }

    fn psql(&self, user: &str, password: &str) -> Command {
        let mut psql = self.program("psql");
        // no argument: those are everybody's to read
        psql.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5").stdin(Stdio::null());
        psql.args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-d", "postgres", "-U", user]);
        psql.args(["-p", &self.port.to_string()]);
        psql
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(&self.folder);
        command
    }

    pub(super) async fn end(mut self) {
        if let Some(mut server) = self.server.take() {
            // without a last word: all of it is thrown away
            let _ = server.kill().await;
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where Debian puts them, of the newest version.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = versions.filter_map(|entry| {
        let version = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let folder = entry.path().join("bin");
        folder.join("initdb").exists().then_some((version, folder))
    });
    let newest = numbered.max().map(|(_, folder)| folder);
    newest.context("PostgreSQL is not installed, and this demo is about it: apt-get install postgresql")
}

fn postgres_user() -> Result<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd")?;
    let found = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    found.context("there is no user `postgres`, whom the package makes: start the demo as somebody else than root")
}

const READY_LOOKS: u32 = 200;
const READY_PAUSE: Duration = Duration::from_millis(100);
