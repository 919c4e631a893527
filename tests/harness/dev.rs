//! `strongroom dev` in a folder of its own.

use crate::{Clients, Pid, Token, binary, until};
use audit::read::{LogFolder, LogReader};
use audit::record::Entry;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How it is started.
#[derive(Debug, Default)]
pub struct DevOptions {
    /// On SoftHSM2 instead of hsm-sim.
    pub token: Option<Token>,
    pub arguments: Vec<String>,
    /// Beside what is there.
    pub environment: Vec<(String, String)>,
}

/// The parent and its children. Ends with this value.
#[derive(Debug)]
pub struct Dev {
    dir: tempfile::TempDir,
    options: DevOptions,
    child: Option<Child>,
    addr: Option<SocketAddr>,
    /// From exec to `ready`.
    pub took: Duration,
}

impl Dev {
    pub fn sim() -> Self {
        Self::start(DevOptions::default())
    }

    pub fn softhsm() -> Self {
        Self::start(DevOptions { token: Some(Token::new()), ..DevOptions::default() })
    }

    pub fn start(options: DevOptions) -> Self {
        let mut dev = Self::prepare(options);
        dev.start_again().unwrap_or_else(|log| panic!("`strongroom dev` did not get ready:\n{log}"));
        dev
    }

    /// The folder, and nothing running.
    pub fn prepare(options: DevOptions) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options, child: None, addr: None, took: Duration::ZERO }
    }

    /// Starts the parent on the folder as it is; gives its log where it ends instead of getting ready.
    pub fn start_again(&mut self) -> Result<(), String> {
        self.end();
        let log = std::fs::File::create(self.log_file()).unwrap();
        let began = Instant::now();
        let mut child = self.command().stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        self.took = began.elapsed();
        let Some(addr) = line.trim().strip_prefix("ready ") else {
            child.wait().unwrap();
            return Err(self.log());
        };
        self.addr = Some(addr.parse().unwrap());
        self.child = Some(child);
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary("strongroom"));
        command.arg("dev").arg("--data-dir").arg(self.data());
        // the same address after a restart, so that clients find it again
        let listen = self.addr.map_or("127.0.0.1:0".to_owned(), |addr| addr.to_string());
        command.arg("--listen").arg(listen);
        command.args(&self.options.arguments);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        if let Some(token) = &self.options.token {
            command.arg("--hsm").arg(token.uri()).env("SOFTHSM2_CONF", token.config());
        }
        command
    }

    /// With these arguments from the next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.options.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("it was started")
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn ca(&self) -> PathBuf {
        self.data().join("tls/ca.pem")
    }

    pub fn root_token(&self) -> String {
        std::fs::read_to_string(self.data().join("root-token")).unwrap().trim().to_owned()
    }

    /// The audit log's folder.
    pub fn audit_dir(&self) -> PathBuf {
        self.data().join("server/audit")
    }

    /// Calls `each` with every record of the audit log.
    pub fn audit_records(&self, mut each: impl FnMut(&audit::Record<'_>)) {
        let log = LogReader::over(LogFolder::open(&self.audit_dir()).unwrap());
        let mut entries = log.iter_from(log.first().unwrap()).unwrap();
        while let Some((_, entry)) = entries.read().unwrap() {
            each(&Entry::decode(entry).unwrap().record());
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What parent and children wrote to stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn parent(&self) -> Pid {
        Pid(self.child.as_ref().expect("it runs").id())
    }

    /// The server child as it is now; it changes when it is started again.
    pub fn server(&self) -> Option<Pid> {
        self.parent().child("strongroom")
    }

    pub fn boundary(&self) -> Option<Pid> {
        self.parent().child(if self.options.token.is_some() { "hsm-pkcs11" } else { "hsm-sim" })
    }

    /// Clients as root.
    pub fn clients(&self) -> Clients {
        Clients::connect(self.addr(), &self.ca())
    }

    /// A connection of the product's own client, as root.
    pub async fn client(&self) -> client::Client {
        let options = client::Options {
            ca: Some(self.ca()),
            token: Some(client::SecretBytes::copy_from(self.root_token().as_bytes())),
            timeout: Duration::from_secs(120),
            ..client::Options::new(format!("https://{}", self.addr()))
        };
        client::Client::connect(options).await.unwrap()
    }

    /// Kills the parent, and waits until its children have gone after it.
    pub fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = Pid(child.id());
        let children = [pid.child("strongroom"), pid.child("hsm-sim"), pid.child("hsm-pkcs11")];
        let _ = child.kill();
        let _ = child.wait();
        let ended = || children.iter().flatten().all(|child| !child.is_alive());
        if !std::thread::panicking() {
            until("the children end with their parent", Duration::from_secs(15), ended);
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.end();
    }
}
