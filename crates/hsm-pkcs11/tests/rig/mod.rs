//! A module in this process around a token of SoftHSM2, and the requests that most tests make.
//!
//! SoftHSM2 reads its configuration from the environment, and a module's state is per process: so each test runs in a
//! process of its own, this binary started again for that one test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends where it fails"
)]
#![allow(dead_code, reason = "each test file takes what it needs")]

use bytes::Bytes;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use envelope::time::Clock;
use envelope::{ManualClock, SecretBytes, Timestamp};
use hsm_api::{
    DataKey, DataKeyAsk, GeneratedKey, HsmError, KeySpec, KeyToken, KeyUsage, ModuleStatus, NewKey, OpenAsk,
    ProtectionLevel, Reply, Request, Role, SealAsk, TenantId,
};
use hsm_pkcs11::{Module, OpenError, Options, Pin, Uri};
use hsm_serve::Module as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

pub(crate) const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// OpenSC's module that writes down every call and hands it to the one beneath.
pub(crate) fn spy() -> &'static str {
    let at = [
        "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
        "/usr/lib/pkcs11-spy.so",
    ];
    at.into_iter()
        .find(|path| Path::new(path).exists())
        .expect("OpenSC is not installed: `cargo xtask test` installs it")
}

pub(crate) const PIN: &str = "73501928";
pub(crate) const TENANT: TenantId = [0x7e; 16];
pub(crate) const AAD: [u8; 32] = [0xad; 32];
const HERE: &str = "STRONGROOM_TEST_TOKEN";
const PART: &str = "STRONGROOM_TEST_PART";

/// A token folder with one token, `strongroom`.
pub(crate) struct Tokens {
    pub(crate) folder: PathBuf,
}

/// Runs `body` in a process of its own, with a fresh token.
pub(crate) fn isolated(test: &str, body: impl FnOnce(&Tokens)) {
    if let Some(folder) = std::env::var_os(HERE) {
        let level = tracing_subscriber::filter::LevelFilter::DEBUG;
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
        body(&Tokens { folder: folder.into() });
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::fresh(dir.path());
    let child = tokens.start(test, "").wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "no test is named {test}: {out}");
}

impl Tokens {
    /// SoftHSM2's configuration in `folder`, and one token.
    pub(crate) fn fresh(folder: &Path) -> Self {
        let tokens = Self { folder: folder.to_owned() };
        std::fs::create_dir(tokens.token_folder()).unwrap();
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.token_folder().display()
        );
        std::fs::write(tokens.configuration(), configuration).unwrap();
        tokens.make("strongroom");
        tokens
    }

    pub(crate) fn token_folder(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// This binary again, for `test` alone; `part` tells the body what it is.
    pub(crate) fn start(&self, test: &str, part: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("SOFTHSM2_CONF", self.configuration())
            .env("VENDOR_TARGET", SOFTHSM)
            .env("VENDOR_DIR", &self.folder)
            .env("PKCS11SPY", SOFTHSM)
            .env("PKCS11SPY_OUTPUT", self.folder.join("spy.log"))
            .env(HERE, &self.folder)
            .env(PART, part)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn part(&self) -> String {
        std::env::var_os(PART).and_then(|part| part.into_string().ok()).unwrap_or_default()
    }

    pub(crate) fn make(&self, label: &str) {
        let outcome = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN])
            .env("SOFTHSM2_CONF", self.configuration())
            .output()
            .unwrap();
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    }

    pub(crate) fn uri(&self, module: &str) -> Uri {
        format!("pkcs11:token=strongroom?module-path={module}").parse().unwrap()
    }

    pub(crate) fn open(&self) -> Rig {
        self.try_open(PIN).unwrap()
    }

    pub(crate) fn try_open(&self, pin: &str) -> Result<Rig, OpenError> {
        self.try_open_with(pin, SOFTHSM)
    }

    pub(crate) fn try_open_with(&self, pin: &str, module: &str) -> Result<Rig, OpenError> {
        let clock = ManualClock::at(Timestamp::from_unix_millis(1_000));
        let hand = clock.clone();
        let options = Options {
            uri: self.uri(module),
            pin: Pin::new(pin),
            now: Arc::new(move || hand.now()),
            report: vec![],
            sessions_max: 8,
        };
        Module::open(options).map(|module| Rig { module, clock })
    }

    pub(crate) fn operational(&self) -> Rig {
        let rig = self.open();
        rig.initialise().unwrap();
        rig
    }
}

pub(crate) struct Rig {
    pub(crate) module: Module,
    pub(crate) clock: ManualClock,
}

impl Rig {
    pub(crate) fn user(&self, request: Request) -> Result<Reply, HsmError> {
        self.module.serve(Role::User, request)
    }

    pub(crate) fn officer(&self, request: Request) -> Result<Reply, HsmError> {
        self.module.serve(Role::Officer, request)
    }

    pub(crate) fn initialise(&self) -> Result<hsm_api::BackupPackage, HsmError> {
        match self.officer(Request::Initialise { threshold: 1, shares: 1 })? {
            Reply::Backup(backup) => Ok(backup),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn status(&self) -> ModuleStatus {
        match self.module.serve(Role::Auditor, Request::Status) {
            Ok(Reply::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn told(&self, name: &str) -> Option<String> {
        self.status().report.into_iter().find_map(|(told, text)| (told == name).then_some(text))
    }

    pub(crate) fn generate(&self, new: NewKey) -> Result<GeneratedKey, HsmError> {
        match self.user(Request::GenerateKey(new))? {
            Reply::Key(key) => Ok(key),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn key(&self, spec: KeySpec) -> GeneratedKey {
        self.generate(new_key(spec, spec.usage())).unwrap()
    }

    pub(crate) fn log_key(&self) -> GeneratedKey {
        self.generate(new_key(KeySpec::EccNistEdwards25519, KeyUsage::Log)).unwrap()
    }

    pub(crate) fn system_key(&self) -> GeneratedKey {
        self.generate(new_key(KeySpec::Aes256, KeyUsage::SystemSeal)).unwrap()
    }

    pub(crate) fn data_keys(
        &self,
        key: &KeyToken,
        asks: Vec<DataKeyAsk>,
    ) -> Result<Vec<Result<DataKey, HsmError>>, HsmError> {
        match self.user(Request::GenerateDataKeys { key: key.clone(), asks })? {
            Reply::DataKeys(keys) => Ok(keys),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn encrypt(&self, key: &KeyToken, plaintext: &[u8]) -> Result<Bytes, HsmError> {
        let asks = vec![SealAsk { aad_digest: AAD, plaintext: SecretBytes::copy_from(plaintext) }];
        match self.user(Request::Encrypt { key: key.clone(), asks })? {
            Reply::Blobs(mut blobs) => blobs.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn decrypt(&self, key: &KeyToken, blob: &[u8], aad_digest: [u8; 32]) -> Result<Vec<u8>, HsmError> {
        let asks = vec![OpenAsk { aad_digest, blob: Bytes::copy_from_slice(blob) }];
        match self.user(Request::Decrypt { key: key.clone(), asks })? {
            Reply::Plaintexts(mut plaintexts) => plaintexts.remove(0).map(|plaintext| plaintext.expose().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn mac(&self, key: &KeyToken, message: &[u8]) -> Result<[u8; 32], HsmError> {
        match self.user(Request::Mac { key: key.clone(), message: SecretBytes::copy_from(message) })? {
            Reply::Mac(mac) => Ok(mac),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn new_key(spec: KeySpec, usage: KeyUsage) -> NewKey {
    let level = ProtectionLevel::HsmResident;
    NewKey { key_id: None, version: 1, tenant: TENANT, spec, usage, level, not_after: None }
}

pub(crate) fn ask(bytes: u16) -> DataKeyAsk {
    DataKeyAsk { aad_digest: AAD, bytes, plaintext: true }
}

/// Somebody else with the PIN, beside the module: shares its loaded library, logs in for itself where nobody is.
pub(crate) fn beside() -> Session {
    let context = Pkcs11::new(Path::new(SOFTHSM)).unwrap();
    let _already = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = context
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|slot| context.get_token_info(*slot).is_ok_and(|token| token.label() == "strongroom"))
        .unwrap();
    let session = context.open_rw_session(slot).unwrap();
    let _already = session.login(UserType::User, Some(&AuthPin::from(PIN)));
    session
}

/// CKA_ID of the key that a token refers to.
pub(crate) fn cka_id(token: &KeyToken) -> Vec<u8> {
    match envelope::sealed::parse_token(token.bytes()).unwrap().body {
        envelope::sealed::Body::Suite3 { cka_id, .. } => cka_id.to_vec(),
        other => panic!("{other:?}"),
    }
}
