//! What a mount knows of its authorities: one record, so that any two changes of it see each other.

use super::ATTEMPTS_MAX;
use super::config::{Lists, Urls};
use super::issuer::DEFAULT;
use super::text::Der;
use crate::error::VaultError;
use crate::scope::Scope;
use crate::stored::{decode, encode};
use crate::view::View;
use audit::{Decision, Item, Outcome, Record};
use identity::ChangeError;
use kms::{KeyId, KeySpec};
use serde::{Deserialize, Serialize};
use storage::{Batch, EntryPath, Revision};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Of an authority's key, as the API names type and bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyKind {
    Ec256,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl KeyKind {
    pub(super) fn parse(name: &str, bits: u32) -> Result<Self, VaultError> {
        match (name, bits) {
            ("ec", 0 | 256) => Ok(Self::Ec256),
            ("rsa", 0 | 2048) => Ok(Self::Rsa2048),
            ("rsa", 3072) => Ok(Self::Rsa3072),
            ("rsa", 4096) => Ok(Self::Rsa4096),
            ("ec" | "rsa", _) => {
                Err(VaultError::field("key_bits", "256 of ec; 2048, 3072 or 4096 of rsa: an authority's key"))
            }
            _ => Err(VaultError::field("key_type", "an authority's key is ec or rsa")),
        }
    }

    pub(super) fn spec(self) -> KeySpec {
        match self {
            Self::Ec256 => KeySpec::EccNistP256,
            Self::Rsa2048 => KeySpec::Rsa2048,
            Self::Rsa3072 => KeySpec::Rsa3072,
            Self::Rsa4096 => KeySpec::Rsa4096,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issuer {
    pub(super) id: String,
    pub(super) name: String,
    /// Of the key domain.
    pub(super) key_id: String,
    pub(super) kind: KeyKind,
    pub(super) certificate: Der,
    /// Those above it, as far as they were given, the nearest first.
    pub(super) chain: Vec<Der>,
    /// Unix milliseconds.
    pub(super) not_after: u64,
}

/// A key that waits for its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) key_id: String,
    pub(super) kind: KeyKind,
    pub(super) public_key: Der,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Authority {
    pub(super) issuers: Vec<Issuer>,
    /// An issuer's id, or nothing.
    pub(super) default: String,
    pub(super) waiting: Vec<Waiting>,
    pub(super) urls: Urls,
    pub(super) lists: Lists,
}

impl Issuer {
    pub(super) fn parsed(&self) -> Result<Certificate, VaultError> {
        Certificate::from_der(&self.certificate.0).map_err(|_| unreadable())
    }

    pub(super) fn key(&self) -> Result<KeyId, VaultError> {
        KeyId::parse(&self.key_id).map_err(|_| unreadable())
    }

    /// Its own certificate and those above, DER.
    pub(super) fn whole_chain(&self) -> impl Iterator<Item = &[u8]> + Clone {
        std::iter::once(&self.certificate).chain(&self.chain).map(|der| der.0.as_slice())
    }
}

impl Authority {
    pub(super) fn path(view: &View) -> Result<EntryPath, VaultError> {
        view.path("authority")
    }

    /// Perhaps from memory.
    pub(super) async fn read(view: &View) -> Result<Self, VaultError> {
        Ok(Self::read_at(view).await?.0)
    }

    /// As [`Self::read`]: who commits what follows from it names the revision.
    pub(super) async fn read_at(view: &View) -> Result<(Self, Option<Revision>), VaultError> {
        match view.read(&Self::path(view)?).await?.as_ref() {
            Some(found) => Ok((decode(found.value.expose())?, Some(found.revision))),
            None => Ok((Self::default(), None)),
        }
    }

    pub(super) async fn load(view: &View) -> Result<(Self, Option<Revision>), VaultError> {
        match view.load(&Self::path(view)?).await? {
            Some(found) => Ok((decode(found.value.expose())?, Some(found.revision))),
            None => Ok((Self::default(), None)),
        }
    }

    pub(super) fn put(&self, view: &View, batch: Batch, was: Option<Revision>) -> Result<Batch, VaultError> {
        let path = Self::path(view)?;
        let batch = match was {
            Some(revision) => batch.revision_is(path.clone(), revision),
            None => batch.absent(path.clone()),
        };
        view.put(batch, path, &encode(self)?)
    }

    /// Only where nobody has changed it since: an issuer that is gone issues nothing.
    pub(super) fn still(view: &View, batch: Batch, was: Option<Revision>) -> Result<Batch, VaultError> {
        let path = Self::path(view)?;
        Ok(match was {
            Some(revision) => batch.revision_is(path, revision),
            None => batch.absent(path),
        })
    }

    /// By id or name; or the one that is meant where none is named.
    pub(super) fn issuer(&self, reference: &str) -> Result<&Issuer, VaultError> {
        let reference = if reference == DEFAULT { self.default.as_str() } else { reference };
        let found = self.issuers.iter().find(|issuer| !reference.is_empty() && issuer.is(reference));
        found.ok_or_else(|| match self.issuers.is_empty() {
            true => VaultError::Invalid("no default issuer currently configured".into()),
            false => VaultError::Invalid("unable to find PKI issuer for this reference".into()),
        })
    }

    /// A name for a new one, which must be no other's.
    pub(super) fn check_new_name(&self, name: &str) -> Result<(), VaultError> {
        if name.is_empty() {
            return Ok(());
        }
        check_name("issuer_name", name)?;
        if name == DEFAULT || self.issuers.iter().any(|issuer| issuer.is(name)) {
            return Err(VaultError::field("issuer_name", "taken, or reserved"));
        }
        Ok(())
    }

    pub(super) fn add(&mut self, issuer: Issuer) -> Result<(), VaultError> {
        self.check_new_name(&issuer.name)?;
        if self.issuers.len() >= ISSUERS_MAX {
            return Err(VaultError::Limited(format!("more than {ISSUERS_MAX} issuers").into()));
        }
        if self.default.is_empty() {
            self.default.clone_from(&issuer.id);
        }
        self.issuers.push(issuer);
        Ok(())
    }
}

impl Issuer {
    fn is(&self, reference: &str) -> bool {
        self.id == reference || (!self.name.is_empty() && self.name == reference)
    }
}

/// Changes the record; what `change` makes of it is committed with this request's record, or it is asked again.
pub(super) async fn changed<T>(
    scope: &Scope<'_>,
    change: impl Fn(&mut Authority) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let view = scope.view()?;
    for _ in 0..ATTEMPTS_MAX {
        let (mut authority, was) = Authority::load(&view).await?;
        let outcome = change(&mut authority)?;
        match scope.commit(authority.put(&view, scope.batch()?, was)?).await {
            Err(ChangeError::Conflict(_)) => {}
            committed => return Ok(committed.map(|_| outcome)?),
        }
    }
    Err(VaultError::Conflict)
}

/// With a record that names the key.
pub(super) async fn commit(scope: &Scope<'_>, batch: Batch, key_id: &str) -> Result<(), ChangeError> {
    commit_of(scope, batch, key_id, "").await
}

/// The same, and the certificate: [`super::record::told`].
pub(super) async fn commit_of(
    scope: &Scope<'_>,
    batch: Batch,
    key_id: &str,
    certificate: &str,
) -> Result<(), ChangeError> {
    let items = [item(key_id)];
    scope.vault.commit(batch, &record(scope, &items, certificate)).await?;
    scope.was_recorded();
    Ok(())
}

/// Of a certificate that is not stored.
pub(super) async fn log(scope: &Scope<'_>, key_id: &str, certificate: &str) -> Result<(), VaultError> {
    let items = [item(key_id)];
    scope.vault.log(&record(scope, &items, certificate)).await?;
    scope.was_recorded();
    Ok(())
}

fn item(key_id: &str) -> Item {
    Item { index: 0, key_id: Some(key_id.to_owned()), outcome: Outcome::Done, context_hmac: None }
}

fn record<'r>(scope: &'r Scope<'_>, items: &'r [Item], certificate: &'r str) -> Record<'r> {
    let record = scope.record(scope.subject(), Decision::Allowed, Outcome::Done);
    Record { items, proof: certificate, ..record }
}

pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), VaultError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let legal = name.bytes().all(|byte| word(byte) || matches!(byte, b'-' | b'.'));
    let ends = name.bytes().next().is_some_and(word) && name.bytes().next_back().is_some_and(word);
    if legal && ends && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(VaultError::field(field, "1 to 64 letters, digits, `_`, with `-` and `.` between"))
}

pub(super) fn unreadable() -> VaultError {
    VaultError::Internal("a stored authority cannot be read".into())
}

pub(super) const ISSUERS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
