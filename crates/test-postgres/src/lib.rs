//! A PostgreSQL server, Debian's or a newer one, for one test: in a folder of its own, as a user without rights, gone afterwards.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server, or a stopped one. Ends with this value.
#[derive(Debug)]
pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    pub fn start() -> Self {
        Self::with_settings(&[])
    }

    /// With settings of the form `name=value`.
    pub fn with_settings(settings: &[&str]) -> Self {
        Self::with_files(settings, &[])
    }

    /// With files of this content in the data folder, which settings name.
    pub fn with_files(settings: &[&str], files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
            chown(&password, Some(uid), Some(gid)).unwrap();
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { dir, port, settings, child: None };
        let mut initdb = server.program("initdb");
        initdb.arg("-D").arg(server.data()).arg("--pwfile").arg(&password).args([
            "--username=strongroom",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        let made = initdb.output().expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, content) in files {
            let file = server.data().join(name);
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = unprivileged() {
                chown(&file, Some(uid), Some(gid)).unwrap();
            }
        }
        // ours again, so that only this user reads it
        chown(&password, Some(0).filter(|_| unprivileged().is_some()), None).unwrap();
        server.start_again();
        server
    }

    pub fn start_again(&mut self) {
        self.end(Signal::INT);
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.dir.path()).arg("-p").arg(self.port.to_string());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60", "-c", "shared_buffers=64MB"]);
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("postgres starts"));
        let began = Instant::now();
        while !self.is_ready() {
            assert!(began.elapsed() < START, "the database did not get ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let mut ask = self.program("pg_isready");
        ask.arg("-q").arg("-h").arg(self.dir.path()).arg("-p").arg(self.port.to_string());
        ask.status().is_ok_and(|status| status.success())
    }

    /// As `pg_ctl stop -m fast` does: clients are cut off.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// kill -9 of all its processes.
    pub fn crash(&mut self) {
        self.end(Signal::QUIT);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        signal_all(child.id(), Signal::CONT);
        let _gone = kill_process(pid(child.id()), signal);
        let began = Instant::now();
        while began.elapsed() < END {
            if child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// All its processes are stopped: connections stay open, and nothing is answered.
    pub fn pause(&self) {
        let parent = self.child.as_ref().expect("it runs").id();
        let began = Instant::now();
        // a signal is not there at once, and one that is being forked is found by the next look
        while (0..2).map(|_| stop_running(parent)).sum::<usize>() > 0 {
            assert!(began.elapsed() < END, "the database does not stop");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn go_on(&self) {
        signal_all(self.child.as_ref().expect("it runs").id(), Signal::CONT);
    }

    /// Over its Unix socket.
    pub fn url(&self) -> String {
        let folder = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgresql://strongroom@{folder}:{}/postgres", self.port)
    }

    /// Over TCP.
    pub fn tcp_url(&self) -> String {
        format!("postgresql://strongroom@127.0.0.1:{}/postgres", self.port)
    }

    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// 0600, of this user.
    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// What statements answer, one row a line.
    pub fn psql(&self, statements: &str) -> String {
        let mut psql = self.program("psql");
        psql.args(["-X", "-A", "-t", "-q", "-U", "strongroom", "-d", "postgres", "-c", statements, "-h"]);
        psql.arg(self.dir.path()).arg("-p").arg(self.port.to_string()).env("PGPASSWORD", PASSWORD);
        let output = psql.output().expect("psql starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        if let Some((uid, gid)) = unprivileged() {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.dir.path());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Signal::QUIT);
    }
}

/// It and its children, with the state of each, it before them: so that it makes no new ones.
fn processes(parent: u32) -> Vec<(u32, char)> {
    let of = |number: u32| {
        let status = std::fs::read_to_string(format!("/proc/{number}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let is_its = number == parent || field("PPid:") == Some(parent.to_string().as_str());
        is_its.then_some((number, field("State:")?.chars().next()?))
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let others =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|number| *number != parent);
    std::iter::once(parent).chain(others).filter_map(of).collect()
}

/// How many ran still.
fn stop_running(parent: u32) -> usize {
    let mut running = processes(parent);
    running.retain(|(_, state)| !matches!(state, 'T' | 'Z'));
    for (number, _) in &running {
        let _gone = kill_process(pid(*number), Signal::STOP);
    }
    running.len()
}

fn signal_all(parent: u32, signal: Signal) {
    for (number, _) in processes(parent) {
        let _gone = kill_process(pid(number), signal);
    }
}

fn pid(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a process number")
}

/// One of PostgreSQL's programs: where Debian puts them, of the newest version; or those of a server where
/// `STRONGROOM_POSTGRES_BIN` says, which must be there.
pub fn program(name: &str) -> PathBuf {
    let asked = std::env::var_os("STRONGROOM_POSTGRES_BIN").filter(|_| !matches!(name, "psql" | "pg_isready"));
    if let Some(folder) = asked {
        let program = Path::new(&folder).join(name);
        assert!(program.exists(), "STRONGROOM_POSTGRES_BIN: there is no {}", program.display());
        return program;
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = versions.filter_map(|entry| {
        let version = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let program = entry.path().join("bin").join(name);
        program.exists().then_some((version, program))
    });
    numbered.max().expect("PostgreSQL is not installed: `cargo xtask test` installs it").1
}

/// PostgreSQL refuses to run as root: then it is the user that its package made.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.first() == Some(&"postgres")).expect("Debian's package makes the user");
    Some((user[2].parse().unwrap(), user[3].parse().unwrap()))
}

/// Of databases that live as long as a test.
const PASSWORD: &str = "of-this-test-alone";
const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);
