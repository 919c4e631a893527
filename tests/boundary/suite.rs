//! A row: a request, and the answer that the boundary's capabilities ask for.

use crate::stand::Stand;
use bytes::Bytes;
use envelope::{SecretBytes, Timestamp};
use hsm_api::{
    Capabilities, DataKeyAsk, GeneratedKey, HsmError, KeySpec, KeyToken, KeyUsage, NewKey, OpenAsk, ProtectionLevel,
    Reply, Request, Role, SealAsk, Service, SigningAlgorithm, TenantId,
};
use std::fmt::Display;

pub(crate) const TENANT: TenantId = [0x7e; 16];
pub(crate) const AAD: [u8; 32] = [0xad; 32];

/// What the boundary must offer for a row's answer to be the one stated; else the answer is `Unsupported`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Service(Service),
    Spec(KeySpec),
    Algorithm(SigningAlgorithm),
    Level(ProtectionLevel),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Gives,
    Refuses(HsmError),
}
pub(crate) use Answer::{Gives, Refuses};

pub(crate) struct Suite {
    pub(crate) stand: Stand,
    pub(crate) capabilities: Capabilities,
    pub(crate) rows: usize,
    pub(crate) refusals: usize,
}

impl Suite {
    pub(crate) fn on(stand: Stand) -> Self {
        let capabilities = stand.status().capabilities;
        Self { stand, capabilities, rows: 0, refusals: 0 }
    }

    pub(crate) fn offers(&self, need: Need) -> bool {
        let Capabilities { levels, specs, algorithms, services, remembers_checkpoints: _ } = &self.capabilities;
        match need {
            Need::Service(service) => services.contains(&service),
            Need::Spec(spec) => specs.contains(&spec),
            Need::Algorithm(algorithm) => algorithms.contains(&algorithm),
            Need::Level(level) => levels.contains(&level),
        }
    }

    /// Runs one row as `role`. The reply comes back where there is one.
    pub(crate) fn row_as(
        &mut self,
        role: Role,
        what: impl Display,
        needs: &[Need],
        request: Request,
        answer: Answer,
    ) -> Option<Reply> {
        let service = request.service();
        let offered = needs.iter().chain([&Need::Service(service)]).all(|need| self.offers(*need));
        let answer = if offered { answer } else { Refuses(HsmError::Unsupported) };
        let outcome = self.stand.ask(role, request);
        let got = match &outcome {
            Ok(_) => Gives,
            Err(error) => Refuses(*error),
        };
        assert_eq!(got, answer, "{:?}, {} as {role:?}: {what}", self.stand.kind, service.name());
        self.count(got != Gives);
        outcome.ok()
    }

    pub(crate) fn row(
        &mut self,
        what: impl Display,
        needs: &[Need],
        request: Request,
        answer: Answer,
    ) -> Option<Reply> {
        self.row_as(Role::User, what, needs, request, answer)
    }

    /// A row that was judged by its caller.
    pub(crate) fn count(&mut self, refused: bool) {
        self.rows += 1;
        self.refusals += usize::from(refused);
    }

    /// A batch is answered item by item: a row an item.
    pub(crate) fn items<T>(&mut self, what: &str, got: &[Result<T, HsmError>], expected: &[Answer]) {
        let outcomes: Vec<Answer> =
            got.iter().map(|item| item.as_ref().map_or_else(|e| Refuses(*e), |_| Gives)).collect();
        assert_eq!(outcomes, expected, "{:?}: {what}", self.stand.kind);
        expected.iter().for_each(|answer| self.count(*answer != Gives));
    }

    pub(crate) fn level(&self) -> ProtectionLevel {
        self.capabilities.levels[0]
    }

    pub(crate) fn new_key(&self, spec: KeySpec, usage: KeyUsage) -> NewKey {
        NewKey { key_id: None, version: 1, tenant: TENANT, spec, usage, level: self.level(), not_after: None }
    }

    pub(crate) fn make(&self, new: NewKey) -> GeneratedKey {
        match self.stand.ask(Role::User, Request::GenerateKey(new)) {
            Ok(Reply::Key(key)) => key,
            other => panic!("{other:?}"),
        }
    }

    /// A caller's key of `spec`, not counted as a row.
    pub(crate) fn key(&self, spec: KeySpec) -> GeneratedKey {
        self.make(self.new_key(spec, spec.usage()))
    }

    pub(crate) fn aes(&self) -> KeyToken {
        self.key(KeySpec::Aes256).token
    }

    pub(crate) fn system_key(&self) -> KeyToken {
        self.make(self.new_key(KeySpec::Aes256, KeyUsage::SystemSeal)).token
    }

    pub(crate) fn log_key(&self) -> GeneratedKey {
        self.make(self.new_key(KeySpec::EccNistEdwards25519, KeyUsage::Log))
    }

    pub(crate) fn encrypt(&self, key: &KeyToken, plaintext: &[u8]) -> Bytes {
        match self.stand.ask(Role::User, encrypt(key, plaintext)) {
            Ok(Reply::Blobs(mut blobs)) => blobs.remove(0).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn decrypt(&self, key: &KeyToken, blob: &[u8], aad: [u8; 32]) -> Result<Vec<u8>, HsmError> {
        decrypt_on(&self.stand, key, blob, aad)
    }
}

pub(crate) fn decrypt_on(stand: &Stand, key: &KeyToken, blob: &[u8], aad: [u8; 32]) -> Result<Vec<u8>, HsmError> {
    match stand.ask(Role::User, Request::Decrypt { key: key.clone(), asks: vec![open(blob, aad)] })? {
        Reply::Plaintexts(mut plaintexts) => plaintexts.remove(0).map(|plaintext| plaintext.expose().to_vec()),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn ask(bytes: u16) -> DataKeyAsk {
    DataKeyAsk { aad_digest: AAD, bytes, plaintext: true }
}

pub(crate) fn seal(plaintext: &[u8]) -> SealAsk {
    SealAsk { aad_digest: AAD, plaintext: SecretBytes::copy_from(plaintext) }
}

pub(crate) fn open(blob: &[u8], aad_digest: [u8; 32]) -> OpenAsk {
    OpenAsk { aad_digest, blob: Bytes::copy_from_slice(blob) }
}

pub(crate) fn encrypt(key: &KeyToken, plaintext: &[u8]) -> Request {
    Request::Encrypt { key: key.clone(), asks: vec![seal(plaintext)] }
}

/// The machine's time, from which the boundary's own not-after check counts.
#[expect(clippy::disallowed_methods, reason = "a real process is asked, and it reads the real clock")]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(u64::try_from(since.as_millis()).unwrap())
}

/// Every bit of `bytes` flipped, one at a time.
pub(crate) fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut altered = bytes.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        altered
    })
}
