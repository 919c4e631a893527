//! One act on its way: what its record will say, filled in as it becomes known.

use crate::error::KmsError;
use crate::grant::GrantOperation;
use audit::{Decision, Item, Outcome, Record};
use bytes::Bytes;
use hsm_api::KeyId;
use identity::{Capability, Principal, RequestInfo};
use std::borrow::Cow;
use std::fmt::Write;

#[derive(Debug)]
pub(crate) struct Act<'a> {
    operation: &'static str,
    pub(crate) by: &'a Principal,
    pub(crate) call: &'a RequestInfo,
    pub(crate) path: String,
    pub(crate) rule: Cow<'a, str>,
    pub(crate) decision: Decision,
    /// Keyed hash of the encryption context that was bound last, hexadecimal.
    pub(crate) context: Option<[u8; 64]>,
    pub(crate) items: Vec<Item>,
}

/// What is asked of a key: below its path, and by which grants it can be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Right<'a> {
    /// What follows `kms/keys/<key id>`, its slash included.
    pub(crate) suffix: &'a str,
    pub(crate) capability: Capability,
    pub(crate) grant: Option<GrantOperation>,
}

/// Whether an act's record went with its change, or is still to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    WithItsChange,
    NotYet,
}

impl<'a> Act<'a> {
    pub(crate) fn new(operation: &'static str, by: &'a Principal, call: &'a RequestInfo) -> Self {
        Self {
            operation,
            by,
            call,
            path: String::new(),
            rule: Cow::Borrowed(""),
            decision: Decision::NotReached,
            context: None,
            items: Vec::new(),
        }
    }

    /// `kms/keys/<key id><suffix>`.
    pub(crate) fn on_key(&mut self, id: &KeyId, suffix: &str) {
        self.path.clear();
        self.path.reserve(KEY_PATH_BYTES + suffix.len());
        // writing to a string does not fail
        let _ = write!(self.path, "kms/keys/{id}{suffix}");
    }

    pub(crate) fn on_path(&mut self, path: &str) {
        self.path.clear();
        self.path.push_str(path);
    }

    /// The key that [`Self::on_key`] noted last.
    pub(crate) fn key_in_path(&self) -> Option<String> {
        let rest = self.path.strip_prefix("kms/keys/")?;
        rest.get(..KEY_PATH_BYTES - "kms/keys/".len()).map(str::to_owned)
    }

    /// Names a key that the path does not name, with the context that was bound last.
    pub(crate) fn with_key(&mut self, id: &KeyId, outcome: Outcome) {
        let index = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.items.push(Item { index, key_id: Some(id.to_string()), outcome, context_hmac: self.context_hmac() });
    }

    pub(crate) fn context_hmac(&self) -> Option<String> {
        self.context_text().map(str::to_owned)
    }

    fn context_text(&self) -> Option<&str> {
        self.context.as_ref().and_then(|hex| std::str::from_utf8(hex).ok())
    }

    pub(crate) fn record(&self, outcome: Outcome) -> Record<'_> {
        Record {
            path: &self.path,
            decision: self.decision,
            rule: &self.rule,
            context_hmac: self.context_text(),
            items: &self.items,
            ..self.call.record(self.operation, self.by.subject(), outcome)
        }
    }

    /// The encoded record of an act that failed, and with it whatever it was to do to its keys.
    pub(crate) fn failure(&self, error: &KmsError) -> Bytes {
        let failed = Outcome::Failed(Cow::Borrowed(error.reason()));
        let items: Vec<_> = self.items.iter().map(|item| Item { outcome: failed.clone(), ..item.clone() }).collect();
        Record { items: &items, ..self.record(failed) }.encode()
    }
}

impl Right<'static> {
    pub(crate) const CREATE_GRANT: Self =
        Self { suffix: "/grants", capability: Capability::Create, grant: Some(GrantOperation::CreateGrant) };
    pub(crate) const LIST_GRANTS: Self = Self { suffix: "/grants", capability: Capability::List, grant: None };
    pub(crate) const DESCRIBE: Self =
        Self { suffix: "", capability: Capability::Read, grant: Some(GrantOperation::DescribeKey) };
    pub(crate) const PUBLIC_KEY: Self =
        Self { suffix: "/public-key", capability: Capability::Read, grant: Some(GrantOperation::GetPublicKey) };
    pub(crate) const ENABLE: Self = Self::administer("/enable");
    pub(crate) const DISABLE: Self = Self::administer("/disable");
    pub(crate) const SCHEDULE_DELETION: Self = Self::administer("/schedule-deletion");
    pub(crate) const CANCEL_DELETION: Self = Self::administer("/cancel-deletion");
    pub(crate) const ROTATE: Self = Self::administer("/rotate");
    pub(crate) const ERASE_VERSIONS: Self = Self::administer("/erase-versions");
    pub(crate) const ALIAS: Self = Self::administer("/alias");
    pub(crate) const DECRYPT: Self = Self::using("/decrypt", GrantOperation::Decrypt);
    pub(crate) const ENCRYPT: Self = Self::using("/encrypt", GrantOperation::Encrypt);
    pub(crate) const GENERATE_DATA_KEY: Self = Self::using("/generate-data-key", GrantOperation::GenerateDataKey);
    pub(crate) const GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: Self =
        Self::using("/generate-data-key-without-plaintext", GrantOperation::GenerateDataKeyWithoutPlaintext);
    pub(crate) const RE_ENCRYPT_FROM: Self = Self::using("/re-encrypt-from", GrantOperation::ReEncryptFrom);
    pub(crate) const RE_ENCRYPT_TO: Self = Self::using("/re-encrypt-to", GrantOperation::ReEncryptTo);
    pub(crate) const SIGN: Self = Self::using("/sign", GrantOperation::Sign);
    pub(crate) const VERIFY: Self = Self::using("/verify", GrantOperation::Verify);
    pub(crate) const GENERATE_MAC: Self = Self::using("/generate-mac", GrantOperation::GenerateMac);
    pub(crate) const VERIFY_MAC: Self = Self::using("/verify-mac", GrantOperation::VerifyMac);

    const fn administer(suffix: &'static str) -> Self {
        Self { suffix, capability: Capability::Update, grant: None }
    }

    const fn using(suffix: &'static str, operation: GrantOperation) -> Self {
        Self { suffix, capability: Capability::Update, grant: Some(operation) }
    }
}

/// `kms/keys/` and a UUID.
const KEY_PATH_BYTES: usize = 9 + 36;
