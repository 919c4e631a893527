//! `strongroom dev`: a parent that sees no data, and its two children, on embedded defaults.
//!
//! Always: the data folder is made once and reused; the same keys and secrets are there again.
//! Never: isolation by uid, and it says so.

use crate::supervise::{Plan, Running};
use crate::{dev_ca, files};
use anyhow::{Context as _, Result, bail};
use envelope::{SecretBytes, mac};
use hsm_channel::{Identity, Pin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What `dev` was asked for.
#[derive(Debug)]
pub struct Ask {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub root_token: Option<SecretBytes>,
    pub hsm: Hsm,
    pub tls: bool,
    /// Of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Others than those authorities' as well: auth methods judge them.
    pub any_client_certificate: bool,
    /// What the children log; `None`: as this process does.
    pub log: Option<&'static str>,
}

/// Which boundary stands behind.
#[derive(Debug, Clone)]
pub enum Hsm {
    Sim,
    /// A PKCS#11 URI (RFC 7512).
    Pkcs11(String),
}

/// Both children, serving.
#[derive(Debug)]
pub struct Dev {
    pub boundary: Running,
    pub server: Running,
    /// Address of the front door.
    pub addr: SocketAddr,
    pub folders: Folders,
    pub root_token: SecretBytes,
}

/// Runs until a signal, or until a child cannot be kept running.
pub async fn run(ask: &Ask) -> Result<ExitCode> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let dev = tokio::select! {
        dev = ask.start() => dev?,
        _ = term.recv() => return Ok(ExitCode::SUCCESS),
        _ = int.recv() => return Ok(ExitCode::SUCCESS),
    };
    greet(ask, &dev);
    let (mut boundary, mut server) = (dev.boundary, dev.server);
    let failed = tokio::select! {
        error = boundary.keep() => Some(error),
        error = server.keep() => Some(error),
        _ = term.recv() => None,
        _ = int.recv() => None,
    };
    end(server, boundary).await;
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// The server first: what it still has under way needs the boundary.
async fn end(server: Running, boundary: Running) {
    server.end(END).await;
    boundary.end(END).await;
}

impl Dev {
    pub async fn end(self) {
        end(self.server, self.boundary).await;
    }
}

/// stdout has one line; all else is for people and goes to stderr.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line's contract (design §10)")]
fn greet(ask: &Ask, dev: &Dev) {
    let folders = &dev.folders;
    eprintln!("Strongroom for development: boundary and server run as this user, so nothing isolates them from it.");
    eprintln!("  data        {}", folders.0.display());
    eprintln!("  root token  {}   (in {})", dev.root_token.expose().escape_ascii(), folders.root_token().display());
    let scheme = if ask.tls { "https" } else { "http" };
    eprintln!("  recovery    in {}: unseals, and makes a new root token", folders.recovery_key().display());
    eprintln!("Try:");
    eprintln!("  export STRONGROOM_ADDR={scheme}://{}", dev.addr);
    if ask.tls {
        eprintln!("  export STRONGROOM_CACERT={}", folders.ca().display());
    }
    eprintln!("  export STRONGROOM_TOKEN=$(cat {})", folders.root_token().display());
    eprintln!("  strongroom kms create-key");
    println!("ready {}", dev.addr);
}

impl Ask {
    /// Prepares the folder, starts the children, initialises what is new.
    pub async fn start(&self) -> Result<Dev> {
        let folders = Folders::make(&self.data_dir)?;
        let root_token = self.root_token(&folders)?;
        if self.tls {
            self.certificate(&folders)?;
        }
        let boundary_pin = boundary_identity(&self.hsm, &folders).await?;
        let server = Identity::load_or_generate(&folders.server().join("identity.key"))?;
        let officer = Identity::load_or_generate(&folders.officer().join("identity.key"))?;
        let boundary = boundary_plan(&self.hsm, &folders, &server.pin(), &officer.pin())?
            .arguments(["--log", self.log.unwrap_or("info")])
            .start()
            .await?;
        initialise(&folders, &officer, &boundary_pin).await?;
        files::write_public(&folders.config(), self.config(self.listen, &folders, &boundary_pin).as_bytes())?;
        let server = server_plan(&folders)?.logging(self.log).start().await?;
        let addr = server.ready.parse().with_context(|| format!("the server said `ready {}`", server.ready))?;
        // a server that is started again comes back where it was, also where the system chose the port
        files::write_public(&folders.config(), self.config(addr, &folders, &boundary_pin).as_bytes())?;
        Ok(Dev { boundary, server, addr, folders, root_token })
    }

    /// Made on the first run, for the address of the first run. The CA's key was not kept: another address needs another CA.
    fn certificate(&self, folders: &Folders) -> Result<()> {
        let (ip, noted) = (self.listen.ip(), folders.tls().join("address"));
        if !folders.ca().exists() {
            files::write_public(&noted, ip.to_string().as_bytes())?;
            return dev_ca::write(&folders.tls(), ip);
        }
        let made_for = std::fs::read_to_string(&noted).unwrap_or_default();
        let always = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        if always.contains(&ip) || made_for.trim() == ip.to_string() {
            return Ok(());
        }
        bail!(
            "the certificate in {} is not for {ip}: remove that folder to have a new CA made, or listen on {}",
            folders.tls().display(),
            made_for.trim()
        );
    }

    /// The token of the first run stands; another one is an error.
    fn root_token(&self, folders: &Folders) -> Result<SecretBytes> {
        let path = folders.root_token();
        match (path.exists(), &self.root_token) {
            (true, asked) => {
                let first = files::read_secret(&path)?;
                if asked.as_ref().is_some_and(|asked| !mac::equal(asked.expose(), first.expose())) {
                    bail!(
                        "{} was made with another --root-token: use that one, or another --data-dir",
                        self.data_dir.display()
                    );
                }
                Ok(first)
            }
            (false, asked) => {
                let token = match asked {
                    Some(asked) => SecretBytes::copy_from(asked.expose()),
                    None => identity::token::generate()?,
                };
                files::write_secret(&path, token.expose())?;
                Ok(token)
            }
        }
    }

    fn config(&self, listen: SocketAddr, folders: &Folders, pin: &Pin) -> String {
        let text = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        let mut out = format!(
            "# Written by `strongroom dev` at each start.\nlisten = \"{}\"\ndata_dir = {}\nroot_token_file = {}\n\
             recovery_key_file = {}\nend_with_parent = true\n\n[boundary]\nsocket = {}\nidentity = {}\npin = \"{pin}\"\n",
            listen,
            text(&folders.server()),
            text(&folders.root_token()),
            text(&folders.recovery_key()),
            text(&folders.socket()),
            text(&folders.server().join("identity.key")),
        );
        if self.tls {
            let (certificate, key) = (folders.tls().join("server.pem"), folders.tls().join("server-key.pem"));
            out += &format!("\n[tls]\ncertificate = {}\nkey = {}\n", text(&certificate), text(&key));
            if let Some(authorities) = &self.client_ca {
                out += &format!("client_ca = {}\n", text(authorities));
            }
            if self.any_client_certificate {
                out += "client_certificates = \"any\"\n";
            }
        }
        out
    }
}

/// The data folder's rooms.
#[derive(Debug)]
pub struct Folders(PathBuf);

impl Folders {
    fn make(data_dir: &Path) -> Result<Self> {
        files::private_folder(data_dir)?;
        let root = data_dir.canonicalize().with_context(|| format!("cannot open {}", data_dir.display()))?;
        let folders = Self(root);
        for folder in
            [folders.boundary(), folders.server(), folders.officer(), folders.tls(), folders.run(), folders.backup()]
        {
            files::private_folder(&folder)?;
        }
        // sun_path takes 107 bytes (unix(7))
        if folders.socket().as_os_str().len() > 107 {
            bail!("{} is too long for a socket's path: choose a shorter --data-dir", data_dir.display());
        }
        Ok(folders)
    }

    pub fn root_token(&self) -> PathBuf {
        self.0.join("root-token")
    }

    pub fn recovery_key(&self) -> PathBuf {
        self.0.join("recovery-key")
    }

    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    pub fn ca(&self) -> PathBuf {
        self.tls().join("ca.pem")
    }

    pub fn audit_log(&self) -> PathBuf {
        self.server().join("audit")
    }

    fn boundary(&self) -> PathBuf {
        self.0.join("boundary")
    }

    fn server(&self) -> PathBuf {
        self.0.join("server")
    }

    fn officer(&self) -> PathBuf {
        self.0.join("officer")
    }

    fn backup(&self) -> PathBuf {
        self.0.join("backup")
    }

    fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    fn socket(&self) -> PathBuf {
        self.run().join("hsm.sock")
    }

    fn config(&self) -> PathBuf {
        self.0.join("server.toml")
    }
}

/// A program that stands beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() { Ok(path) } else { bail!("{} is not there: build it with `cargo build --bins`", path.display()) }
}

/// Makes the boundary's channel identity if it has none, and tells its pin.
async fn boundary_identity(hsm: &Hsm, folders: &Folders) -> Result<Pin> {
    let program = sibling(program(hsm))?;
    let output =
        tokio::process::Command::new(program).arg("identity").arg("--dir").arg(folders.boundary()).output().await?;
    if !output.status.success() {
        bail!("the boundary has no identity: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| anyhow::anyhow!("the boundary printed no pin"))
}

fn program(hsm: &Hsm) -> &'static str {
    match hsm {
        Hsm::Sim => "hsm-sim",
        Hsm::Pkcs11(_) => "hsm-pkcs11",
    }
}

fn boundary_plan(hsm: &Hsm, folders: &Folders, server: &Pin, officer: &Pin) -> Result<Plan> {
    let path = |path: PathBuf| path.display().to_string();
    let mut arguments = vec!["serve".to_owned(), "--dir".to_owned(), path(folders.boundary())];
    arguments.extend(["--socket".to_owned(), path(folders.socket()), "--end-with-parent".to_owned()]);
    arguments.extend(["--pin".to_owned(), format!("user={server}"), "--pin".to_owned(), format!("officer={officer}")]);
    match hsm {
        Hsm::Sim => {
            let unlock = folders.boundary().join("unlock.key");
            if !unlock.exists() {
                let secret = zeroize::Zeroizing::new(identity::token::random_bytes::<32>()?);
                let digits = zeroize::Zeroizing::new(hex::encode(*secret));
                files::write_secret(&unlock, digits.as_bytes())?;
            }
            arguments.extend(["--unlock".to_owned(), format!("file:{}", path(unlock))]);
            // asked for by name and reported in the status: what a developer's kernel or container may lack
            for name in ["memfd_secret", "landlock", "mlock"] {
                arguments.extend(["--allow-missing".to_owned(), name.to_owned()]);
            }
        }
        Hsm::Pkcs11(uri) => arguments.extend(["--uri".to_owned(), uri.clone()]),
    }
    Ok(Plan { name: "boundary", program: sibling(program(hsm))?, arguments, log: None })
}

fn server_plan(folders: &Folders) -> Result<Plan> {
    let arguments =
        ["server", "--config"].map(str::to_owned).into_iter().chain([folders.config().display().to_string()]);
    Ok(Plan { name: "server", program: std::env::current_exe()?, arguments: arguments.collect(), log: None })
}

/// A new module gets its domain key, and its backup (1 of 1) goes into the data folder.
async fn initialise(folders: &Folders, officer: &Identity, boundary: &Pin) -> Result<()> {
    let channel = hsm::connect_once(&folders.socket(), officer, boundary).await?;
    let hsm_api::Reply::Status(status) = channel.ask(hsm_api::Request::Status).await? else {
        bail!("the boundary answered no status");
    };
    let (intent, package) = (folders.backup().join("in-progress"), folders.backup().join("package"));
    let request = match status.state {
        hsm_api::ModuleState::Uninitialised => {
            files::write_public(&intent, b"")?;
            hsm_api::Request::Initialise { threshold: 1, shares: 1 }
        }
        // a process of before was killed when the key was made and its backup was not written
        hsm_api::ModuleState::Operational if intent.exists() && !package.exists() => {
            hsm_api::Request::Backup { threshold: 1, shares: 1 }
        }
        hsm_api::ModuleState::Operational | hsm_api::ModuleState::Locked | hsm_api::ModuleState::Error => {
            let _it_is_rarely_there = std::fs::remove_file(&intent);
            return Ok(());
        }
    };
    match channel.ask(request).await {
        Ok(hsm_api::Reply::Backup(backup)) => crate::boundary_backup::write(&folders.backup(), &backup)?,
        Ok(_) => bail!("the boundary answered no backup"),
        // a token is backed up by its vendor's means
        Err(hsm_api::HsmError::Unsupported) if status.state == hsm_api::ModuleState::Operational => {}
        Err(error) => return Err(error.into()),
    }
    files::remove(&intent)
}

/// How long a child may take to end by itself.
const END: Duration = Duration::from_secs(12);
