//! `strongroom server` as it runs in production, without TLS: several of them beside one boundary.

use crate::boundary::Stand;
use crate::{Clients, Pid, binary};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One server. Ends with this value.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    storage: String,
    name: String,
    boundary: String,
    child: Option<Child>,
    addr: Option<SocketAddr>,
}

impl Node {
    /// Its folder, and nothing running. `storage` is the configuration's table; empty for the embedded engine.
    pub fn prepare(name: &str, stand: &Stand, storage: &str) -> Self {
        let boundary = format!(
            "[boundary]\nsocket = \"{}\"\nidentity = \"{}\"\npin = \"{}\"\n",
            stand.socket().display(),
            stand.user_key().display(),
            stand.pin()
        );
        let dir = tempfile::tempdir().unwrap();
        Self { dir, storage: storage.to_owned(), name: name.to_owned(), boundary, child: None, addr: None }
    }

    pub fn start(name: &str, stand: &Stand, storage: &str) -> Self {
        let mut node = Self::prepare(name, stand, storage);
        node.start_again();
        node
    }

    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_ready().unwrap_or_else(|log| panic!("server {} did not get ready:\n{log}", self.name));
    }

    /// Starts the process, and does not wait for it.
    pub fn spawn(&mut self) {
        self.kill();
        self.write_config();
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(binary("strongroom"));
        command.arg("server").arg("--config").arg(self.config()).stdout(Stdio::piped()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Gives its log where it ends instead of getting ready.
    pub fn wait_ready(&mut self) -> Result<(), String> {
        let child = self.child.as_mut().expect("it was started");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(addr) = line.trim().strip_prefix("ready ") else {
            child.wait().unwrap();
            self.child = None;
            return Err(self.log());
        };
        self.addr = Some(addr.parse().unwrap());
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Ok(())
    }

    fn write_config(&self) {
        // the same address after a restart
        let listen = self.addr.map_or("127.0.0.1:0".to_owned(), |addr| addr.to_string());
        let text = format!(
            "listen = \"{listen}\"\ndata_dir = \"{}\"\nroot_token_file = \"{}\"\n[audit]\nnode = \"{}\"\n{}{}",
            self.data().display(),
            self.root_token_file().display(),
            self.name,
            self.boundary,
            self.storage
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// From the next start on.
    pub fn set_storage(&mut self, storage: &str) {
        self.storage = storage.to_owned();
        self.write_config();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("server.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn root_token_file(&self) -> PathBuf {
        self.dir.path().join("root-token")
    }

    /// Of the node that made it.
    pub fn root_token(&self) -> Option<String> {
        std::fs::read_to_string(self.root_token_file()).ok().map(|token| token.trim().to_owned())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("it was started")
    }

    pub fn clients(&self) -> Clients {
        Clients::plain(self.addr())
    }

    pub fn pid(&self) -> Pid {
        Pid(self.child.as_ref().expect("it runs").id())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// As a service manager does.
    pub fn stop(&mut self) {
        self.pid().terminate();
        let (began, within) = (Instant::now(), Duration::from_secs(20));
        while self.is_running() {
            assert!(began.elapsed() < within, "it does not end in peace: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = None;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
