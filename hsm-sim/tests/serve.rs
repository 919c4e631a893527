//! The program as a service: started for real, reached over its socket, killed, stopped, started again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

use envelope::SecretBytes;
use hsm::{Channel, Options, SocketBoundary, connect_once};
use hsm_api::{
    BackupPackage, Boundary, DataKeyAsk, GeneratedKey, HsmError, KeySpec, KeyToken, ModuleState, ModuleStatus, NewKey,
    OpenAsk, ProtectionLevel, Reply, Request, Role, SealAsk, ask,
};
use hsm_channel::{Identity, Pin};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hsm-sim");

/// A state folder, and who may connect.
struct Site {
    dir: tempfile::TempDir,
    user: Arc<Identity>,
    officer: Identity,
    auditor: Identity,
    pin: Pin,
}

/// A running boundary; its end is our end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _it_may_be_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let unlock = dir.path().join("unlock");
        std::fs::write(&unlock, [7; 32]).unwrap();
        std::fs::set_permissions(&unlock, std::fs::Permissions::from_mode(0o600)).unwrap();
        let output = Command::new(PROGRAM).arg("identity").arg("--dir").arg(dir.path().join("state")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pin = String::from_utf8(output.stdout).unwrap().trim_end().parse().unwrap();
        let [user, officer, auditor] = [(); 3].map(|()| Identity::generate().unwrap());
        Self { dir, user: Arc::new(user), officer, auditor, pin }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run").join("hsm.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--dir").arg(self.dir.path().join("state")).arg("--socket").arg(self.socket());
        command.arg(format!("--unlock=file:{}", self.dir.path().join("unlock").display()));
        command.args(["--end-with-parent", "--allow-fault-build"]);
        for (role, identity) in [("user", &*self.user), ("officer", &self.officer), ("auditor", &self.auditor)] {
            command.arg(format!("--pin={role}={}", identity.pin()));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    fn start(&self) -> Running {
        let mut child = self.command().spawn().unwrap();
        let mut line = String::new();
        // byte by byte, so that whatever follows the line stays in the pipe
        BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Running(child)
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments);
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
        assert!(!status.success() && stdout.is_empty());
        String::from_utf8_lossy(&stderr).into_owned()
    }

    async fn channel(&self, identity: &Identity) -> Channel {
        connect_once(&self.socket(), identity, &self.pin).await.unwrap()
    }

    fn boundary(&self, timeout: Duration) -> SocketBoundary {
        let options = Options::new(self.socket(), Arc::clone(&self.user), self.pin);
        SocketBoundary::start(Options { timeout, ..options }).unwrap()
    }

    async fn initialise(&self) -> BackupPackage {
        let officer = self.channel(&self.officer).await;
        match officer.ask(Request::Initialise { threshold: 2, shares: 3 }).await {
            Ok(Reply::Backup(backup)) => backup,
            other => panic!("{other:?}"),
        }
    }
}

async fn status(channel: &Channel) -> ModuleStatus {
    match channel.ask(Request::Status).await {
        Ok(Reply::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

async fn new_key(boundary: &dyn Boundary, spec: KeySpec) -> GeneratedKey {
    let (usage, level) = (spec.usage(), ProtectionLevel::Boundary);
    let new = NewKey { key_id: None, version: 1, tenant: [1; 16], spec, usage, level, not_after: None };
    ask!(boundary, Request::GenerateKey(new) => Reply::Key).await.unwrap()
}

async fn encrypt(boundary: &dyn Boundary, key: &KeyToken, text: &[u8]) -> Result<bytes::Bytes, HsmError> {
    let asks = vec![SealAsk { aad_digest: [2; 32], plaintext: SecretBytes::copy_from(text) }];
    ask!(boundary, Request::Encrypt { key: key.clone(), asks } => Reply::Blobs).await?.remove(0)
}

async fn decrypt(boundary: &dyn Boundary, key: &KeyToken, blob: &bytes::Bytes) -> Result<Vec<u8>, HsmError> {
    let asks = vec![OpenAsk { aad_digest: [2; 32], blob: blob.clone() }];
    let mut plaintexts = ask!(boundary, Request::Decrypt { key: key.clone(), asks } => Reply::Plaintexts).await?;
    plaintexts.remove(0).map(|plaintext| plaintext.expose().to_vec())
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn it_serves_each_role_what_the_table_says_and_strangers_nothing() {
    let site = Site::new();
    let _running = site.start();
    let backup = site.initialise().await;
    assert_eq!(backup.shares.len(), 3);
    let stranger = Identity::generate().unwrap();
    let refused = connect_once(&site.socket(), &stranger, &site.pin).await.unwrap_err();
    // the refusal's alert, or the end of the socket, whichever is seen first
    assert!(matches!(refused, HsmError::Protocol | HsmError::Unavailable), "{refused:?}");
    assert_eq!(
        connect_once(&site.socket(), &site.user, &stranger.pin()).await.unwrap_err(),
        HsmError::Protocol,
        "another boundary than the one pinned"
    );
    let random = || Request::Random { bytes: 1 };
    let counters = || Request::Counters { after: None, limit: 1, challenge: [0; 32] };
    let forbidden = Some(HsmError::RoleForbidden);
    for (identity, refusals) in [
        (&*site.user, [None, None, forbidden]),
        (&site.officer, [None, forbidden, None]),
        (&site.auditor, [None, forbidden, forbidden]),
    ] {
        let channel = site.channel(identity).await;
        let requests = [counters(), random(), Request::Backup { threshold: 1, shares: 1 }];
        for (request, refusal) in requests.into_iter().zip(refusals) {
            let name = format!("{request:?}");
            assert_eq!(channel.ask(request).await.err(), refusal, "{name} {identity:?}");
        }
        let report = status(&channel).await;
        assert_eq!(report.state, ModuleState::Operational);
        assert!(report.report.contains(&("seccomp".to_owned(), "enforced".to_owned())), "{:?}", report.report);
    }
    // every kind of key works behind the jail, on both lanes
    let boundary = site.boundary(Duration::from_secs(60));
    boundary.connected().await;
    for spec in [KeySpec::Rsa2048, KeySpec::EccNistP256, KeySpec::EccNistEdwards25519] {
        let key = new_key(&boundary, spec).await;
        let algorithm = spec.signing_algorithms()[0];
        let message = match algorithm.digest_bytes() {
            Some(len) => hsm_api::MessageToSign::Digest(vec![7; len].into()),
            None => hsm_api::MessageToSign::Raw(vec![7; 5].into()),
        };
        let signed = ask!(boundary, Request::Sign { key: key.token, algorithm, message } => Reply::Signature).await;
        assert!(!signed.unwrap().is_empty(), "{spec:?}");
    }
}

#[tokio::test]
async fn killed_and_started_again_it_is_found_and_opens_what_it_sealed() {
    let site = Site::new();
    let mut running = site.start();
    site.initialise().await;
    let boundary = site.boundary(LONG);
    boundary.connected().await;
    let key = new_key(&boundary, KeySpec::Aes256).await.token;
    let blob = encrypt(&boundary, &key, b"text").await.unwrap();
    for _ in 0..3 {
        // long work is out when it dies
        let pending: Vec<_> = (0..8)
            .map(|_| {
                let (usage, level) = (KeySpec::Rsa4096.usage(), ProtectionLevel::Boundary);
                let spec = KeySpec::Rsa4096;
                let new = NewKey { key_id: None, version: 1, tenant: [1; 16], spec, usage, level, not_after: None };
                boundary.submit(Request::GenerateKey(new))
            })
            .collect();
        assert_eq!(decrypt(&boundary, &key, &blob).await.unwrap(), b"text");
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        let outcomes = pending.into_iter().map(|pending| async { pending.await.err() });
        for outcome in outcomes {
            let error = outcome.await;
            assert!(matches!(error, None | Some(HsmError::Restarted)), "{error:?}");
        }
        let began = Instant::now();
        assert_eq!(decrypt(&boundary, &key, &blob).await.unwrap_err(), HsmError::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(1), "at once");
        assert!(site.socket().exists(), "the killed one left it behind");
        running = site.start();
        boundary.connected().await;
        assert_eq!(decrypt(&boundary, &key, &blob).await.unwrap(), b"text");
    }
}

#[tokio::test]
async fn stopped_it_costs_one_timeout_then_nothing_and_it_works_again_when_it_goes_on() {
    let site = Site::new();
    let running = site.start();
    site.initialise().await;
    let timeout = Duration::from_millis(700);
    let boundary = site.boundary(timeout);
    boundary.connected().await;
    let key = new_key(&boundary, KeySpec::Aes256).await.token;
    let blob = encrypt(&boundary, &key, b"text").await.unwrap();
    for _ in 0..2 {
        kill_process(running.pid(), Signal::STOP).unwrap();
        let began = Instant::now();
        let ask = || DataKeyAsk { aad_digest: [0; 32], bytes: 32, plaintext: true };
        let pending: Vec<_> = (0..1000)
            .map(|_| boundary.submit(Request::GenerateDataKeys { key: key.clone(), asks: vec![ask()] }))
            .collect();
        let mut errors = Vec::new();
        for pending in pending {
            errors.push(pending.await.unwrap_err());
        }
        assert_eq!(errors[0], HsmError::TimedOut);
        // what was never sent was certainly not carried out
        assert!(errors.iter().all(|error| matches!(error, HsmError::TimedOut | HsmError::Unavailable)));
        assert!(began.elapsed() < timeout + Duration::from_millis(400), "{:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..1000 {
            assert_eq!(decrypt(&boundary, &key, &blob).await.unwrap_err(), HsmError::Unavailable);
        }
        assert!(began.elapsed() < timeout, "at once: {:?}", began.elapsed());
        // it stays away through several attempts
        tokio::time::sleep(timeout * 3).await;
        assert_eq!(decrypt(&boundary, &key, &blob).await.unwrap_err(), HsmError::Unavailable);
        kill_process(running.pid(), Signal::CONT).unwrap();
        tokio::time::timeout(LONG, boundary.connected()).await.unwrap();
        assert_eq!(decrypt(&boundary, &key, &blob).await.unwrap(), b"text");
    }
}

#[tokio::test]
async fn a_backup_made_over_the_socket_opens_in_a_fresh_module() {
    let (old, new) = (Site::new(), Site::new());
    let (_running, mut fresh) = (old.start(), new.start());
    let first = old.initialise().await;
    let boundary = old.boundary(LONG);
    boundary.connected().await;
    let key = new_key(&boundary, KeySpec::Aes256).await.token;
    let blob = encrypt(&boundary, &key, b"text").await.unwrap();
    let officer = old.channel(&old.officer).await;
    assert!(matches!(officer.ask(Request::RotateDomain).await, Ok(Reply::Generation(_))));
    assert!(!status(&officer).await.backup_made);
    let Ok(Reply::Backup(second)) = officer.ask(Request::Backup { threshold: 2, shares: 2 }).await else {
        panic!("no backup")
    };
    assert!(status(&officer).await.backup_made);

    let restore = |backup: &BackupPackage, which: &[usize]| {
        let shares = which.iter().map(|at| SecretBytes::copy_from(backup.shares[*at].expose())).collect();
        Request::Restore { package: backup.package.clone(), shares }
    };
    let elsewhere = new.channel(&new.officer).await;
    assert_eq!(status(&elsewhere).await.state, ModuleState::Uninitialised);
    for request in [restore(&second, &[0]), restore(&first, &[0]), restore(&second, &[0, 0])] {
        assert_eq!(elsewhere.ask(request).await.unwrap_err(), HsmError::SharesRejected);
    }
    assert!(matches!(elsewhere.ask(restore(&second, &[0, 1])).await, Ok(Reply::Done)));
    let (there, here) = (status(&elsewhere).await, status(&officer).await);
    assert_eq!((there.domain_id, there.generation), (here.domain_id, here.generation));
    assert_ne!(there.module_id, here.module_id);
    let moved = new.boundary(LONG);
    moved.connected().await;
    assert_eq!(decrypt(&moved, &key, &blob).await.unwrap(), b"text");

    // and it is still there after a kill
    fresh.0.kill().unwrap();
    fresh.0.wait().unwrap();
    drop(fresh);
    let _fresh = new.start();
    moved.connected().await;
    assert_eq!(elsewhere.ask(Request::Status).await.unwrap_err(), HsmError::Restarted);
    let again = new.channel(&new.officer).await;
    assert_eq!(status(&again).await.boot_epoch, 2);
    assert!(matches!(again.ask(Request::Zeroise).await, Ok(Reply::Done)));
    assert_eq!(status(&again).await.state, ModuleState::Uninitialised);
}

#[tokio::test]
async fn who_was_enrolled_is_known_after_a_restart() {
    let site = Site::new();
    let mut running = site.start();
    let newcomer = Identity::generate().unwrap();
    let enrol = || Request::Enrol { role: Role::Auditor, pin: *newcomer.pin().bytes() };
    for (identity, refusal) in [(&*site.user, Some(HsmError::RoleForbidden)), (&site.officer, None)] {
        assert!(connect_once(&site.socket(), &newcomer, &site.pin).await.is_err());
        assert_eq!(site.channel(identity).await.ask(enrol()).await.err(), refusal);
    }
    for _ in 0..2 {
        let channel = site.channel(&newcomer).await;
        assert_eq!(status(&channel).await.state, ModuleState::Uninitialised);
        let zeroise = channel.ask(Request::Zeroise).await;
        assert_eq!(zeroise.unwrap_err(), HsmError::RoleForbidden);
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        running = site.start();
    }
    let mode = std::fs::metadata(site.dir.path().join("state").join("pins")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn it_says_ready_once_and_ends_with_its_parent() {
    let site = Site::new();
    let mut running = site.start();
    drop(running.0.stdin.take());
    assert!(running.0.wait().unwrap().success());
    let mut rest = String::new();
    running.0.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line and no more");
    assert!(!site.socket().exists());
    let again = Command::new(PROGRAM).arg("identity").arg("--dir").arg(site.dir.path().join("state")).output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), format!("{}\n", site.pin), "the key stays");
}

#[test]
fn what_it_cannot_serve_with_is_refused_by_name() {
    let site = Site::new();
    let shown = site.dir.path().join("state").join("identity.key");
    let set = |mode| std::fs::set_permissions(&shown, std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    assert!(site.refused(&[]).contains("mode 0600"));
    set(0o600);
    assert!(site.refused(&["--pin=root=sha256:00"]).contains("not a pin"));
    let pins = site.dir.path().join("state").join("pins");
    std::fs::write(&pins, "user=sha256:00\n").unwrap();
    assert!(site.refused(&[]).contains("the pins file is damaged: line 1"));
    std::fs::remove_file(&pins).unwrap();
    let _running = site.start();
    let twin = Site::new();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--dir").arg(twin.dir.path().join("state")).arg("--socket").arg(site.socket());
    let output = command.arg(format!("--pin=user={}", site.user.pin())).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("another process answers on the socket"));
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--dir").arg(twin.dir.path().join("state")).arg("--socket").arg(twin.socket());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no pin is known"));
}
