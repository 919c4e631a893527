//! A PostgreSQL, Debian's or a newer one, in a folder of its own, on loopback.
//!
//! Always: as a user without rights: where the tests are root, as the package's own `postgres`.

pub use test_postgres::Server;

use crate::until;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use test_postgres::program;

/// A server. Ends with this value.
#[derive(Debug)]
pub struct Postgres {
    dir: tempfile::TempDir,
    port: u16,
}

/// Somebody's open session.
#[derive(Debug)]
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Open as long as the session is: psql ends where nobody reads.
    _stdout: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Postgres {
    /// Logs every statement and every connection. The superuser is `postgres`, whose password is [`Postgres::PASSWORD`].
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postgres = Self { dir, port };
        std::fs::write(postgres.dir.path().join("pw"), Self::PASSWORD).unwrap();
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres").arg(postgres.dir.path()));
        }
        let mut initdb = postgres.program("initdb");
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        initdb.arg("--pwfile").arg(postgres.dir.path().join("pw")).arg("-D").arg(postgres.data());
        run(&mut initdb);
        postgres.go_on();
        postgres
    }

    pub const PASSWORD: &'static str = "the-superusers-password-of-these-tests";

    /// Starts it again.
    pub fn go_on(&self) {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=16MB -c max_connections=50 \
             -c log_statement=all -c log_connections=on -c log_min_duration_statement=0",
            self.port,
            self.dir.path().display()
        );
        let mut start = self.program("pg_ctl");
        start.args(["start", "-w", "-s", "-t", "60", "-o", &options]).arg("-l").arg(self.log_file());
        run(start.arg("-D").arg(self.data()));
        let there = || self.try_as("postgres", Self::PASSWORD, "postgres", "SELECT 1").is_ok();
        until("PostgreSQL answers", Duration::from_secs(30), there);
    }

    /// As if it had crashed.
    pub fn stop(&self) {
        let mut stop = self.program("pg_ctl");
        let _ = stop.args(["stop", "-m", "immediate", "-s", "-D"]).arg(self.data()).output();
    }

    /// The same, without waiting for it.
    pub fn crash(&self) {
        let lock = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let number = lock.lines().next().and_then(|number| number.parse().ok());
        let postmaster = number.and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(postmaster, rustix::process::Signal::QUIT).unwrap();
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a configuration calls `connection_url`.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// As the superuser: rows, their columns with `|` between.
    pub fn sql(&self, database: &str, text: &str) -> String {
        self.try_as("postgres", Self::PASSWORD, database, text).unwrap_or_else(|said| panic!("{text}: {said}"))
    }

    /// From PostgreSQL 16 on an account makes members of the roles alone that it was given so, and sets no other's password.
    pub fn gives(&self, account: &str, roles: &str) {
        let version: u32 = self.sql("postgres", "SHOW server_version_num").parse().unwrap();
        if version >= 160_000 {
            let given = format!("GRANT {roles} TO {account} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE");
            self.sql("postgres", &given);
        }
    }

    /// What a user is answered, or what is said instead.
    pub fn try_as(&self, user: &str, password: &str, database: &str, text: &str) -> Result<String, String> {
        let output = self.psql(user, password, database).args(["-c", text]).output().unwrap();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(told(&output.stdout)) } else { Err(told(&output.stderr)) }
    }

    /// A session that stays open, having run `text`.
    pub fn session(&self, user: &str, password: &str, database: &str, text: &str) -> Session {
        use std::io::{BufRead as _, BufReader, Write as _};
        let mut psql = self.psql(user, password, database);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(format!("{text};\n\\echo open\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "open"), "the session was not opened");
        Session { child, stdin: Some(stdin), _stdout: lines }
    }

    fn psql(&self, user: &str, password: &str, database: &str) -> Command {
        let mut psql = Command::new(program("psql"));
        psql.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5").env("PGDATABASE", database);
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", user]);
        psql.args(["-p", &self.port.to_string()]);
        psql
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let program = program(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.dir.path());
        command
    }
}

impl Session {
    /// Whether what is asked is answered.
    pub fn lives(&mut self) -> bool {
        use std::io::Write as _;
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(b"SELECT 1;\n");
        }
        // psql ends where the server has closed the session
        std::thread::sleep(Duration::from_millis(200));
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn run(command: &mut Command) {
    // whoever is started in the background keeps what it is given
    command.stdin(Stdio::null());
    let log = tempfile::NamedTempFile::new().unwrap();
    command.stdout(Stdio::null()).stderr(log.reopen().unwrap());
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {}", read(log.path()));
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
