//! A MariaDB of Debian's packages in a folder of its own, on loopback.
//!
//! Always: as a user without rights: where the tests are root, as the package's own `mysql`.

use crate::servers::{as_user, free_port};
use crate::{Pid, until};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// A server whose events run. Ends with this value.
#[derive(Debug)]
pub struct MariaDb {
    dir: tempfile::TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
}

/// Somebody's open session.
#[derive(Debug)]
pub struct MariaSession {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl MariaDb {
    /// Logs every statement. `root` may do everything.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mariadb = Self { dir, port: free_port(), child: Mutex::default() };
        let mut install = as_user("mysql", "/usr/bin/mariadb-install-db", mariadb.dir.path());
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.arg(format!("--datadir={}", mariadb.data().display()));
        let output = install.stdin(Stdio::null()).output().expect("the package `mariadb-server` is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        mariadb.go_on();
        let set = format!("ALTER USER root@localhost IDENTIFIED BY '{}'", Self::PASSWORD);
        mariadb.client("root", "").args(["-e", &set]).output().unwrap();
        mariadb
    }

    pub const PASSWORD: &'static str = "the-superusers-password-of-these-tests";

    /// Starts it again.
    pub fn go_on(&self) {
        let mut server = as_user("mysql", "/usr/sbin/mariadbd", self.dir.path());
        let (dir, log) = (self.dir.path().display(), std::fs::File::create(self.dir.path().join("stderr")).unwrap());
        server.args(["--no-defaults", "--bind-address=127.0.0.1", "--general-log=1", "--event-scheduler=ON"]);
        server.args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--log-warnings=2"]);
        server.arg(format!("--datadir={}", self.data().display())).arg(format!("--port={}", self.port));
        server.args([format!("--socket={dir}/s"), format!("--pid-file={dir}/pid")]);
        server.arg(format!("--general-log-file={dir}/general"));
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *self.child.lock().unwrap() = Some(server.spawn().expect("the package `mariadb-server` is installed"));
        let there = || {
            let first = self.client("root", "").args(["-e", "SELECT 1"]).output().unwrap();
            first.status.success() || self.try_as("root", Self::PASSWORD, "SELECT 1").is_ok()
        };
        until("MariaDB answers", Duration::from_secs(60), there);
    }

    /// As if it had crashed.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It answers nobody, and hangs up on nobody.
    pub fn hang(&self) {
        self.pid().stop();
    }

    pub fn answer_again(&self) {
        self.pid().go_on();
    }

    fn pid(&self) -> Pid {
        Pid(self.child.lock().unwrap().as_ref().expect("it runs").id())
    }

    /// What a configuration calls `connection_url`.
    pub fn url(&self) -> String {
        format!("{{{{username}}}}:{{{{password}}}}@tcp(127.0.0.1:{})/?tls=false", self.port)
    }

    /// As `root`: rows, their columns with tabs between.
    pub fn sql(&self, text: &str) -> String {
        self.try_as("root", Self::PASSWORD, text).unwrap_or_else(|said| panic!("{text}: {said}"))
    }

    /// What a user is answered, or what is said instead.
    pub fn try_as(&self, user: &str, password: &str, text: &str) -> Result<String, String> {
        let output = self.client(user, password).args(["-e", text]).output().unwrap();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(told(&output.stdout)) } else { Err(told(&output.stderr)) }
    }

    /// A session that stays open, having run `text`.
    pub fn session(&self, user: &str, password: &str, text: &str) -> MariaSession {
        let mut client = self.client(user, password);
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(format!("{text};\nSELECT 'is open';\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "is open"), "the session was not opened");
        std::thread::spawn(move || lines.count());
        MariaSession { child, stdin: Some(stdin) }
    }

    fn client(&self, user: &str, password: &str) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-h", "127.0.0.1", "-N", "-B", "--unbuffered", "--skip-reconnect"]);
        client.args(["--default-character-set=utf8mb4", "-u", user]).env("MYSQL_PWD", password);
        client.args(["-P", &self.port.to_string()]).stdin(Stdio::null());
        client
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read(self.dir.path().join(name)).unwrap_or_default();
        format!("{}{}", String::from_utf8_lossy(&read("general")), String::from_utf8_lossy(&read("stderr")))
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl MariaSession {
    /// Whether what is asked is answered.
    pub fn lives(&mut self) -> bool {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(b"SELECT 1;\n");
        }
        // the client ends where the server has closed the session
        std::thread::sleep(Duration::from_millis(200));
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for MariaSession {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.stop();
    }
}
