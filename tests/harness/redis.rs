//! A Redis of Debian's packages in a folder of its own, on loopback.
//!
//! Always: as a user without rights: where the tests are root, as the package's own `redis`.

use crate::servers::{as_user, free_port};
use crate::until;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// A server. Ends with this value.
#[derive(Debug)]
pub struct Redis {
    dir: tempfile::TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
}

/// Somebody's open connection.
#[derive(Debug)]
pub struct RedisSession(BufReader<TcpStream>);

impl Redis {
    /// With an `aclfile`. Notes every command. `default` may do everything, `vaultadm` what the server needs.
    pub fn start() -> Self {
        Self::with(|users| ("aclfile users.acl\nslowlog-log-slower-than 0\nslowlog-max-len 100000", users))
    }

    /// With an `aclfile`. Notes nothing.
    pub fn remembering() -> Self {
        Self::with(|users| ("aclfile users.acl", users))
    }

    /// Without an `aclfile`, which Redis writes anew, with all who are in it, for each who is made.
    pub fn forgetful() -> Self {
        Self::with(|users| (users, ""))
    }

    /// More of its configuration, and what stands in its `aclfile`.
    fn with(files: impl FnOnce(&str) -> (&str, &str)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Self { dir, port: free_port(), child: Mutex::default() };
        let users = format!(
            "user default on >{} ~* &* +@all\nuser vaultadm on >admins-first-password resetchannels -@all +acl +client +info +time +ping\n",
            Self::PASSWORD
        );
        let (more, users) = files(&users);
        std::fs::write(redis.dir.path().join("users.acl"), users).unwrap();
        let config = format!(
            "port {}\nbind 127.0.0.1\ndir {dir}\nlogfile {dir}/log\nloglevel verbose\nappendonly yes\nsave \"\"\n\
             maxclients 500\n{more}\n",
            redis.port,
            dir = redis.dir.path().display()
        );
        std::fs::write(redis.dir.path().join("conf"), config).unwrap();
        redis.go_on();
        redis
    }

    pub const PASSWORD: &'static str = "the-superusers-password-of-these-tests";

    /// Starts it again.
    pub fn go_on(&self) {
        let mut server = as_user("redis", "/usr/bin/redis-server", self.dir.path());
        server.arg(self.dir.path().join("conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        *self.child.lock().unwrap() = Some(server.spawn().expect("the package `redis-server` is installed"));
        until("Redis answers", Duration::from_secs(30), || self.try_as("default", Self::PASSWORD, &["PING"]).is_ok());
    }

    /// As if it had crashed.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Nothing new is written beside its `aclfile`, as where the disk is full.
    pub fn keep_from_saving(&self, is_kept: bool) {
        let mode = if is_kept { 0o500 } else { 0o700 };
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What a configuration calls `connection_url`.
    pub fn url(&self) -> String {
        format!("redis://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/0", self.port)
    }

    /// As who may do everything.
    pub fn run(&self, command: &[&str]) -> String {
        self.try_as("default", Self::PASSWORD, command).unwrap_or_else(|said| panic!("{command:?}: {said}"))
    }

    /// What a user is answered, or what is said instead.
    pub fn try_as(&self, user: &str, password: &str, command: &[&str]) -> Result<String, String> {
        let mut cli = Command::new("redis-cli");
        cli.env("REDISCLI_AUTH", password).args(["-e", "--no-auth-warning", "-h", "127.0.0.1", "--user", user]);
        cli.args(["-p", &self.port.to_string()]).args(command);
        let output = cli.stdin(Stdio::null()).output().expect("the package `redis-tools` is installed");
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (answer, error) = (told(&output.stdout), told(&output.stderr));
        if output.status.success() && error.is_empty() { Ok(answer) } else { Err(format!("{answer} {error}")) }
    }

    /// A connection that stays open.
    pub fn session(&self, user: &str, password: &str) -> RedisSession {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut session = RedisSession(BufReader::new(stream));
        let said = session.ask(&format!("AUTH {user} {password}"));
        assert_eq!(said.as_deref(), Some("+OK"), "the connection was not let in");
        session
    }

    /// All that it has logged, and every command that it was asked.
    pub fn log(&self) -> String {
        let file = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        let users = std::fs::read(self.dir.path().join("users.acl")).unwrap_or_default();
        let commands = self.run(&["SLOWLOG", "GET", "-1"]);
        format!("{}{}{commands}", String::from_utf8_lossy(&file), String::from_utf8_lossy(&users))
    }
}

impl RedisSession {
    /// What a command is answered first.
    pub fn ask(&mut self, command: &str) -> Option<String> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end().to_owned())
    }

    /// Whether what is asked is answered.
    pub fn lives(&mut self) -> bool {
        self.ask("GET nothing").is_some()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
