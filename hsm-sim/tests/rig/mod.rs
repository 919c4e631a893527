//! A module in this process, its folder, and the requests that most tests make.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]
#![allow(dead_code, reason = "each test file takes what it needs")]

use bytes::Bytes;
use envelope::time::Clock;
use envelope::{ManualClock, SecretBytes, SecretKey, Timestamp};
use hsm_api::{
    BackupPackage, DataKey, DataKeyAsk, GeneratedKey, HsmError, KeyId, KeySpec, KeyToken, KeyUsage, ModuleStatus,
    NewKey, OpenAsk, ProtectionLevel, Reply, Request, Role, SealAsk, TenantId,
};
use hsm_sim::jail::SecretPage;
use hsm_sim::{KeyStore, Module, Options, Unlock};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) const TENANT: TenantId = [0x7e; 16];
pub(crate) const AAD: [u8; 32] = [0xad; 32];

pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) module: Option<Module>,
}

impl Rig {
    /// A module without a domain key.
    pub(crate) fn blank() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut rig = Self { dir, clock: ManualClock::at(Timestamp::from_unix_millis(1_000)), module: None };
        rig.start();
        rig
    }

    pub(crate) fn operational() -> Self {
        let rig = Self::blank();
        rig.initialise(1, 1).unwrap();
        rig
    }

    pub(crate) fn start(&mut self) {
        self.start_with(Some(unlock(7)));
    }

    /// Stops the module and starts it again: nothing but the folder survives.
    pub(crate) fn start_with(&mut self, unlock: Option<Unlock>) {
        self.module = None;
        let store = KeyStore::open(self.dir.path()).unwrap();
        let clock = self.clock.clone();
        let options = Options {
            unlock,
            now: Arc::new(move || clock.now()),
            report: vec![],
            allow_fault_build: true,
            fault: None,
        };
        self.module = Some(Module::open(store, SecretPage::ordinary().unwrap(), options));
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.dir.path().join("state.sealed")
    }

    pub(crate) fn module(&self) -> &Module {
        self.module.as_ref().unwrap()
    }

    pub(crate) fn user(&self, request: Request) -> Result<Reply, HsmError> {
        self.module().serve(Role::User, request)
    }

    pub(crate) fn officer(&self, request: Request) -> Result<Reply, HsmError> {
        self.module().serve(Role::Officer, request)
    }

    pub(crate) fn status(&self) -> ModuleStatus {
        match self.module().serve(Role::Auditor, Request::Status) {
            Ok(Reply::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn initialise(&self, threshold: u8, shares: u8) -> Result<BackupPackage, HsmError> {
        match self.officer(Request::Initialise { threshold, shares })? {
            Reply::Backup(backup) => Ok(backup),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn generate(&self, new: NewKey) -> Result<GeneratedKey, HsmError> {
        match self.user(Request::GenerateKey(new))? {
            Reply::Key(key) => Ok(key),
            other => panic!("{other:?}"),
        }
    }

    /// A caller's key of `spec`.
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

    pub(crate) fn uses(&self) -> Vec<(KeyId, u64)> {
        let ask = Request::Counters { after: None, limit: 2048, challenge: [1; 32] };
        match self.module().serve(Role::Auditor, ask) {
            Ok(Reply::Counters(page)) => page.uses,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn unlock(byte: u8) -> Unlock {
    Unlock::Secret(SecretKey::init_with(|key| key.fill(byte)))
}

pub(crate) fn new_key(spec: KeySpec, usage: KeyUsage) -> NewKey {
    let level = ProtectionLevel::Boundary;
    NewKey { key_id: None, version: 1, tenant: TENANT, spec, usage, level, not_after: None }
}

pub(crate) fn ask(bytes: u16) -> DataKeyAsk {
    DataKeyAsk { aad_digest: AAD, bytes, plaintext: true }
}
