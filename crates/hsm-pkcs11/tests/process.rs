//! The program itself: its arguments, its confinement, its channel, its end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::{HsmError, KeySpec, KeyToken, ModuleState, OpenAsk, Reply, Request, SealAsk};
use hsm_channel::{Identity, Pin};
use rig::{AAD, PIN, SOFTHSM, Tokens, new_key};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hsm-pkcs11");

/// Folders, identities and a token for one boundary process.
struct Site {
    dir: tempfile::TempDir,
    tokens: Tokens,
    officer: Identity,
    user: Identity,
}

impl Site {
    fn new(pin: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let tokens = Tokens::fresh(dir.path());
        let file = dir.path().join("pin");
        std::fs::write(&file, format!("{pin}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { dir, tokens, officer: Identity::generate().unwrap(), user: Identity::generate().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn uri(&self) -> String {
        format!("pkcs11:token=strongroom?module-path={SOFTHSM}&pin-source=file:{}", self.path("pin").display())
    }

    fn boundary_pin(&self) -> Pin {
        let output = Command::new(PROGRAM).arg("identity").arg("--dir").arg(self.path("state")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn command(&self, uri: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .args(["--uri", uri, "--end-with-parent"])
            .arg("--dir")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.path("hsm.sock"))
            .args(["--pin", &format!("user={}", self.user.pin()), "--pin", &format!("officer={}", self.officer.pin())])
            .env("SOFTHSM2_CONF", self.tokens.configuration())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn serve(&self) -> Child {
        let mut child = self.command(&self.uri()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    async fn ask(&self, identity: &Identity, pin: &Pin, request: Request) -> Result<Reply, HsmError> {
        let channel = hsm::connect_once(&self.path("hsm.sock"), identity, pin).await?;
        channel.ask(request).await
    }
}

#[test]
fn the_identity_is_made_once_and_kept_to_its_user() {
    let site = Site::new(PIN);
    assert!(site.boundary_pin().matches(&site.boundary_pin()));
    let mode = std::fs::metadata(site.path("state").join("identity.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_start_that_makes_no_sense_ends_with_a_reason_and_shows_no_pin() {
    let site = Site::new(PIN);
    for (uri, reason) in [
        (format!("pkcs11:token=strongroom?module-path={SOFTHSM}&pin-value={PIN}"), "pin-value"),
        (format!("pkcs11:token=strongroom?module-path={SOFTHSM}"), "no PIN"),
        (format!("pkcs11:token=nobody?module-path={SOFTHSM}&pin-source={}", site.path("pin").display()), "not there"),
        (format!("pkcs11:token=strongroom?module-path={SOFTHSM}&pin-source=/nowhere"), "PIN's source"),
        (
            format!("pkcs11:token=strongroom?module-path=/nowhere.so&pin-source={}", site.path("pin").display()),
            "loaded",
        ),
    ] {
        let output = site.command(&uri).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{uri}");
        // clap repeats an argument that it refuses: it is the caller who put the PIN there
        assert!(said.contains(reason) && (reason == "pin-value" || !said.contains(PIN)), "{uri}: {said}");
    }
}

#[tokio::test]
async fn the_process_serves_over_its_channel_and_a_killed_one_begins_where_it_was() {
    let site = Site::new(PIN);
    let pin = site.boundary_pin();
    let mut child = site.serve();
    let Ok(Reply::Status(status)) = site.ask(&site.officer, &pin, Request::Status).await else { panic!("a status") };
    assert_eq!(status.state, ModuleState::Uninitialised);
    let told = |name: &str| status.report.iter().any(|(told, text)| told == name && text == "in force");
    assert!(told("core") && told("dumpable") && told("no_new_privs"), "{:?}", status.report);
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    assert!(std::fs::read_to_string(proc.join("status")).unwrap().contains("NoNewPrivs:\t1"));
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core: Vec<_> = limits.lines().find(|line| line.starts_with("Max core")).unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"]);
    let said = String::from_utf8_lossy(&std::fs::read(proc.join("cmdline")).unwrap()).into_owned();
    assert!(said.contains("serve") && !said.contains(PIN));

    let initialise = Request::Initialise { threshold: 1, shares: 1 };
    assert!(matches!(site.ask(&site.officer, &pin, initialise).await, Ok(Reply::Backup(_))));
    let new = new_key(KeySpec::Aes256, KeySpec::Aes256.usage());
    let Ok(Reply::Key(key)) = site.ask(&site.user, &pin, Request::GenerateKey(new)).await else { panic!("a key") };
    let asks = vec![SealAsk { aad_digest: AAD, plaintext: SecretBytes::copy_from(b"over the wire") }];
    let encrypt = Request::Encrypt { key: key.token.clone(), asks };
    let Ok(Reply::Blobs(mut blobs)) = site.ask(&site.user, &pin, encrypt).await else { panic!("a blob") };
    let blob = blobs.remove(0).unwrap();
    let foreign = Identity::generate().unwrap();
    assert!(site.ask(&foreign, &pin, Request::Status).await.is_err(), "an unknown peer is not spoken to");

    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = site.serve();
    let decrypt = |key: KeyToken, blob: Bytes| Request::Decrypt { key, asks: vec![OpenAsk { aad_digest: AAD, blob }] };
    let Ok(Reply::Plaintexts(opened)) = site.ask(&site.user, &pin, decrypt(key.token, blob)).await else {
        panic!("an answer")
    };
    assert_eq!(opened[0].as_ref().unwrap().expose(), b"over the wire");

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "it ends with its parent");
}

#[test]
fn another_user_may_connect_where_it_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    // who connects is asked for its uid; the socket's mode shows who is expected
    for (arguments, mode) in [(&[][..], 0o600), (&["--allow-uid", "12345"], 0o666)] {
        let site = Site::new(PIN);
        let mut child = site.command(&site.uri()).args(arguments).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let socket = std::fs::metadata(site.path("hsm.sock")).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, mode);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

#[tokio::test]
async fn a_process_with_a_wrong_pin_stays_and_says_that_it_is_locked() {
    let site = Site::new("wrong");
    let pin = site.boundary_pin();
    let mut child = site.serve();
    let Ok(Reply::Status(status)) = site.ask(&site.officer, &pin, Request::Status).await else { panic!("a status") };
    assert_eq!(status.state, ModuleState::Locked);
    let refused = site.ask(&site.user, &pin, Request::Random { bytes: 1 }).await.unwrap_err();
    assert_eq!(refused, HsmError::StateForbidden);
    assert!(child.try_wait().unwrap().is_none(), "no supervisor starts it into the next try");
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[tokio::test]
async fn a_pin_may_come_from_a_named_variable_or_a_descriptor() {
    let site = Site::new(PIN);
    let pin = site.boundary_pin();
    let uri = format!("pkcs11:token=strongroom?module-path={SOFTHSM}");
    let mut from_variable = site.command(&uri);
    from_variable.args(["--pin-env", "TOKEN_PIN"]).env("TOKEN_PIN", PIN);
    // the shell opens descriptor 7 for the program
    let mut from_descriptor = Command::new("sh");
    let script = format!("exec \"$0\" \"$@\" --pin-fd 7 7<{}", site.path("pin").display());
    let template = site.command(&uri);
    from_descriptor.args(["-c", &script, PROGRAM]).args(template.get_args());
    from_descriptor.env("SOFTHSM2_CONF", site.tokens.configuration()).stdin(Stdio::piped()).stdout(Stdio::piped());
    for mut command in [from_variable, from_descriptor] {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let Ok(Reply::Status(status)) = site.ask(&site.officer, &pin, Request::Status).await else {
            panic!("a status")
        };
        assert_eq!(status.state, ModuleState::Uninitialised, "logged in");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
