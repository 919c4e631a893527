//! A boundary process alone, and a channel to it for each role.

use crate::{Pid, Token, binary};
use hsm::SocketBoundary;
use hsm_api::{BackupPackage, Boundary as _, HsmError, ModuleStatus, Reply, Request, Role};
use hsm_channel::{Identity, Pin};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Which program, on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sim,
    SoftHsm,
}

impl Kind {
    pub fn module(self) -> &'static str {
        match self {
            Self::Sim => "hsm-sim",
            Self::SoftHsm => "hsm-pkcs11",
        }
    }
}

/// The process, its folder, and who may talk to it.
#[derive(Debug)]
pub struct Stand {
    pub kind: Kind,
    token: Option<Token>,
    dir: tempfile::TempDir,
    user: Arc<Identity>,
    officer: Arc<Identity>,
    auditor: Arc<Identity>,
    pin: Pin,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// One channel a role, kept over many requests.
    user: SocketBoundary,
    officer: SocketBoundary,
    auditor: SocketBoundary,
    runtime: Runtime,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stand {
    /// Started, without a domain key.
    pub fn blank(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        private(dir.path());
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        private(&state);
        let unlock = dir.path().join("unlock");
        std::fs::write(&unlock, [7; 32]).unwrap();
        std::fs::set_permissions(&unlock, std::fs::Permissions::from_mode(0o600)).unwrap();
        let output = Command::new(binary(kind.module())).arg("identity").arg("--dir").arg(&state).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pin = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        let identity = || Arc::new(Identity::generate().unwrap());
        let token = (kind == Kind::SoftHsm).then(Token::new);
        let user = Arc::new(Identity::load_or_generate(&dir.path().join("user.key")).unwrap());
        let (officer, auditor) = (identity(), identity());
        let mut stand = Self { kind, token, dir, user, officer, auditor, pin, running: None };
        stand.start(Secret::Right);
        stand
    }

    pub fn operational(kind: Kind) -> Self {
        let stand = Self::blank(kind);
        stand.initialise();
        stand
    }

    /// With a domain key, and started without what unlocks it.
    pub fn locked(kind: Kind) -> Self {
        let mut stand = Self::operational(kind);
        stand.start(Secret::Wrong);
        stand
    }

    pub fn initialise(&self) -> BackupPackage {
        match self.ask(Role::Officer, Request::Initialise { threshold: 1, shares: 1 }) {
            Ok(Reply::Backup(backup)) => backup,
            other => panic!("{other:?}"),
        }
    }

    /// Takes the domain key of another one, whole.
    pub fn restore(&self, backup: BackupPackage) {
        let restore = Request::Restore { package: backup.package, shares: backup.shares };
        assert!(matches!(self.ask(Role::Officer, restore), Ok(Reply::Done)));
    }

    /// Kills the process and starts it again: nothing but its folder and its token survives.
    pub fn restart(&mut self) {
        self.start(Secret::Right);
    }

    pub fn pid(&self) -> Pid {
        Pid(self.running.as_ref().expect("it runs").child.id())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("hsm.sock")
    }

    /// The key file of who may connect as a user.
    pub fn user_key(&self) -> PathBuf {
        self.dir.path().join("user.key")
    }

    pub fn pin(&self) -> Pin {
        self.pin
    }

    fn start(&mut self, secret: Secret) {
        self.running = None;
        let mut child = self.command(secret).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{} did not get ready", self.kind.module());
        let runtime = Runtime::new().unwrap();
        let channel = |identity: &Arc<Identity>| {
            let mut options = hsm::Options::new(self.socket(), Arc::clone(identity), self.pin);
            options.timeout = Duration::from_secs(20);
            let _inside = runtime.enter();
            SocketBoundary::start(options).unwrap()
        };
        let (user, officer, auditor) = (channel(&self.user), channel(&self.officer), channel(&self.auditor));
        self.running = Some(Running { child, user, officer, auditor, runtime });
        crate::until("all three channels are open", Duration::from_secs(10), || {
            [Role::User, Role::Officer, Role::Auditor].iter().all(|role| self.ask(*role, Request::Status).is_ok())
        });
    }

    fn command(&self, secret: Secret) -> Command {
        let mut command = Command::new(binary(self.kind.module()));
        command.arg("serve").arg("--dir").arg(self.dir.path().join("state")).arg("--socket").arg(self.socket());
        for (role, identity) in [("user", &self.user), ("officer", &self.officer), ("auditor", &self.auditor)] {
            command.arg("--pin").arg(format!("{role}={}", identity.pin()));
        }
        match (&self.token, secret) {
            (None, Secret::Right) => {
                command.arg("--unlock").arg(format!("file:{}", self.dir.path().join("unlock").display()));
            }
            (None, Secret::Wrong) => {}
            (Some(token), secret) => {
                let uri = if matches!(secret, Secret::Right) { token.uri() } else { token.wrong_uri() };
                command.arg("--uri").arg(uri).env("SOFTHSM2_CONF", token.config());
            }
        }
        command.arg("--end-with-parent").stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    pub fn ask(&self, role: Role, request: Request) -> Result<Reply, HsmError> {
        let running = self.running.as_ref().expect("it runs");
        let channel = match role {
            Role::User => &running.user,
            Role::Officer => &running.officer,
            Role::Auditor => &running.auditor,
        };
        running.runtime.block_on(channel.submit(request))
    }

    pub fn user(&self, request: Request) -> Result<Reply, HsmError> {
        self.ask(Role::User, request)
    }

    /// Handed over in one moment.
    pub fn ask_together(&self, requests: Vec<Request>) -> Vec<Result<Reply, HsmError>> {
        let running = self.running.as_ref().expect("it runs");
        running.runtime.block_on(async {
            let pending: Vec<_> = requests.into_iter().map(|request| running.user.submit(request)).collect();
            let mut replies = Vec::new();
            for pending in pending {
                replies.push(pending.await);
            }
            replies
        })
    }

    pub fn status(&self) -> ModuleStatus {
        match self.ask(Role::Auditor, Request::Status) {
            Ok(Reply::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Secret {
    Right,
    Wrong,
}

fn private(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
}
