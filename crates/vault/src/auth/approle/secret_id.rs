//! SecretIDs: made, chosen, listed, looked up, destroyed.

use super::role::{NUM_USES_MAX, Role, Roles};
use super::{ATTEMPTS_MAX, random_id};
use crate::auth::token_fields::{self, cidrs, lie_within, secs};
use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::Timestamp;
use identity::ChangeError;
use identity::token::{META_BYTES_MAX, META_PAIRS_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};
use zeroize::Zeroizing;

/// As stored, under the keyed hash of the SecretID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SecretId {
    pub(super) accessor: String,
    created: u64,
    updated: u64,
    ttl_secs: u64,
    /// From then on it is good for nothing.
    expires: Option<u64>,
    /// Uses that are left.
    pub(super) num_uses: u32,
    /// Else `num_uses` says nothing.
    pub(super) limited: bool,
    pub(super) cidrs: Vec<String>,
    pub(super) token_cidrs: Vec<String>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Logs in only beside the certificate of this SHA-256, hexadecimal.
    pub(super) certificate: Option<String>,
    pub(super) spent: Option<u64>,
    /// When it is swept up.
    due: Option<u64>,
    /// Attempts that were refused: again, from elsewhere, or beside another certificate.
    pub(super) violations: u32,
    pub(super) last_violation: Option<u64>,
}

#[derive(Serialize)]
struct Made<'a> {
    secret_id: &'a str,
    secret_id_accessor: &'a str,
    secret_id_num_uses: u32,
    secret_id_ttl: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    cidr_list: &'a [String],
    creation_time: String,
    expiration_time: String,
    last_updated_time: String,
    metadata: &'a BTreeMap<String, String>,
    secret_id_accessor: &'a str,
    secret_id_num_uses: u32,
    secret_id_ttl: u64,
    token_bound_cidrs: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_certificate: Option<&'a str>,
    violations: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_violation_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spent_time: Option<String>,
}

/// A SecretID and where it stands.
pub(super) struct Found {
    pub(super) secret_id: SecretId,
    pub(super) hash: String,
    pub(super) path: EntryPath,
    pub(super) revision: Revision,
}

impl SecretId {
    pub(super) fn decode(text: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(text).map_err(|_| VaultError::Internal("a stored SecretID cannot be read".into()))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        serde_json::to_vec(self).map_err(|_| VaultError::Internal("a SecretID cannot be written".into()))
    }

    /// At its end it is over.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.expires.or(self.due).is_some_and(|end| now.unix_millis() >= end)
    }

    fn is_good(&self, now: Timestamp) -> bool {
        self.spent.is_none() && !self.is_over(now)
    }

    /// With one use less. Where it was the last: until when it is remembered, if that is not known yet.
    pub(super) fn spend(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.updated = now.unix_millis();
        self.num_uses = self.num_uses.saturating_sub(1);
        if self.num_uses > 0 {
            return None;
        }
        self.spent = Some(now.unix_millis());
        if self.due.is_some() {
            return None;
        }
        let due = now.plus(REMEMBERED);
        self.due = Some(due.unix_millis());
        Some(due)
    }

    fn shown(&self) -> Shown<'_> {
        let time = |at: u64| rfc3339(Timestamp::from_unix_millis(at));
        Shown {
            cidr_list: &self.cidrs,
            creation_time: time(self.created),
            expiration_time: self.expires.map_or_else(|| NEVER.to_owned(), time),
            last_updated_time: time(self.updated),
            metadata: &self.metadata,
            secret_id_accessor: &self.accessor,
            secret_id_num_uses: self.num_uses,
            secret_id_ttl: self.ttl_secs,
            token_bound_cidrs: &self.token_cidrs,
            bound_certificate: self.certificate.as_deref(),
            violations: self.violations,
            last_violation_time: self.last_violation.map(time),
            spent_time: self.spent.map(time),
        }
    }
}

impl Roles<'_> {
    pub(super) fn secret_hash(&self, secret_id: &str) -> Result<String, VaultError> {
        self.view.hash(b"approle/secret-id", secret_id)
    }

    pub(super) fn secret_path(&self, incarnation: &str, hash: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("s/{incarnation}/{hash}"))
    }

    pub(super) fn accessor_path(&self, incarnation: &str, accessor: &str) -> Result<EntryPath, VaultError> {
        let hash = self.view.hash(b"approle/secret-id-accessor", accessor)?;
        self.view.path(&format!("a/{incarnation}/{hash}"))
    }

    pub(super) fn due_path(&self, at: u64, incarnation: &str, hash: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{DUE}/{at:016x}/{incarnation}/{hash}"))
    }

    pub(super) fn gone_path(&self, incarnation: &str) -> Result<EntryPath, VaultError> {
        self.view.path(&format!("{GONE}/{incarnation}"))
    }

    /// As it stands in the store.
    pub(super) async fn load_secret_id(&self, role: &Role, hash: String) -> Result<Option<Found>, VaultError> {
        let path = self.secret_path(&role.incarnation, &hash)?;
        let Some(opened) = self.view.load(&path).await? else { return Ok(None) };
        let secret_id = SecretId::decode(opened.value.expose())?;
        Ok(Some(Found { secret_id, hash, path, revision: opened.revision }))
    }

    /// Of this role and no other.
    async fn by_accessor(&self, role: &Role, accessor: &str) -> Result<Option<Found>, VaultError> {
        let path = self.accessor_path(&role.incarnation, accessor)?;
        let Some(opened) = self.view.load(&path).await? else { return Ok(None) };
        let hash = std::str::from_utf8(opened.value.expose()).unwrap_or_default().to_owned();
        self.load_secret_id(role, hash).await
    }

    fn drop_secret_id(&self, batch: Batch, role: &Role, found: &Found) -> Result<Batch, VaultError> {
        let secret_id = &found.secret_id;
        let batch = batch.revision_is(found.path.clone(), found.revision).delete(found.path.clone());
        let batch = batch.delete(self.accessor_path(&role.incarnation, &secret_id.accessor)?);
        Ok(match secret_id.due {
            Some(due) => batch.delete(self.due_path(due, &role.incarnation, &found.hash)?),
            None => batch,
        })
    }
}

pub(super) async fn generate(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    add(scope, roles, name, random_id(scope)?).await
}

pub(super) async fn add_chosen(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let chosen = scope.call.body.required("secret_id")?;
    if chosen.len() > CHOSEN_BYTES_MAX || chosen.chars().any(char::is_control) {
        return Err(VaultError::field("secret_id", format!("more than {CHOSEN_BYTES_MAX} bytes, or controls")));
    }
    if most_bits(&chosen) < CHOSEN_BITS_MIN {
        return Err(VaultError::field("secret_id", "less than 128 bits: take 32 random hexadecimal digits or more"));
    }
    add(scope, roles, name, chosen).await
}

async fn add(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    name: &str,
    secret_id: Zeroizing<String>,
) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (role, revision) = roles.expect(name).await?;
        if !role.bind_secret_id {
            return Err(VaultError::Invalid("bind_secret_id is not set on the role".into()));
        }
        let new = asked(scope, &role, random_id(scope)?.to_string())?;
        let hash = roles.secret_hash(&secret_id)?;
        let path = roles.secret_path(&role.incarnation, &hash)?;
        if roles.view.load(&path).await?.is_some() {
            return Err(VaultError::field("secret_id", "is or was in use"));
        }
        let batch = scope.batch()?.revision_is(roles.path(name)?, revision).absent(path.clone());
        let batch = roles.view.put(batch, path, &new.encode()?)?;
        let accessor = roles.accessor_path(&role.incarnation, &new.accessor)?;
        let mut batch = roles.view.put(batch, accessor, hash.as_bytes())?;
        if let Some(due) = new.due {
            batch = roles.view.put(batch, roles.due_path(due, &role.incarnation, &hash)?, b"")?;
        }
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let made = Made {
                    secret_id: &secret_id,
                    secret_id_accessor: &new.accessor,
                    secret_id_num_uses: new.num_uses,
                    secret_id_ttl: new.ttl_secs,
                };
                return Ok(Reply { accessor: Some(new.accessor.clone()), ..Reply::data(&made)? });
            }
        }
    }
    Err(VaultError::Conflict)
}

/// What the body asks for, within what the role allows.
fn asked(scope: &Scope<'_>, role: &Role, accessor: String) -> Result<SecretId, VaultError> {
    let (body, now) = (&scope.call.body, scope.now());
    let num_uses = body.count("num_uses", NUM_USES_MAX)?.unwrap_or(role.secret_id_num_uses);
    if role.secret_id_num_uses > 0 && (num_uses == 0 || num_uses > role.secret_id_num_uses) {
        return Err(VaultError::field("num_uses", "cannot be higher than the role's secret_id_num_uses"));
    }
    let ttl = if body.has("ttl") { body.duration("ttl")? } else { secs(role.secret_id_ttl) };
    if secs(role.secret_id_ttl).is_some_and(|most| ttl.is_none_or(|ttl| ttl > most)) {
        return Err(VaultError::field("ttl", "cannot be longer than the role's secret_id_ttl"));
    }
    let own = cidrs(body, "cidr_list")?.unwrap_or_default();
    if !own.is_empty() && !lie_within(&own, &role.secret_id_bound_cidrs)? {
        return Err(VaultError::field("cidr_list", "not within the role's secret_id_bound_cidrs"));
    }
    let of_token = cidrs(body, "token_bound_cidrs")?.unwrap_or_default();
    if !of_token.is_empty() && !lie_within(&of_token, &role.token.token_bound_cidrs)? {
        return Err(VaultError::field("token_bound_cidrs", "not within the role's token_bound_cidrs"));
    }
    let expires = ttl.map(|ttl| now.plus(ttl).unix_millis());
    Ok(SecretId {
        accessor,
        created: now.unix_millis(),
        updated: now.unix_millis(),
        ttl_secs: ttl.map_or(0, |ttl| ttl.as_secs()),
        expires,
        num_uses,
        limited: num_uses > 0,
        cidrs: own,
        token_cidrs: of_token,
        metadata: metadata(scope)?,
        certificate: certificate(scope)?.map(hex::encode),
        due: expires,
        ..SecretId::default()
    })
}

fn metadata(scope: &Scope<'_>) -> Result<BTreeMap<String, String>, VaultError> {
    let metadata = scope.call.body.map("metadata")?.unwrap_or_default();
    let long = |text: &String| text.len() > META_BYTES_MAX;
    if metadata.len() > META_PAIRS_MAX - OWN_PAIRS || metadata.iter().any(|(key, value)| long(key) || long(value)) {
        let most = META_PAIRS_MAX - OWN_PAIRS;
        return Err(VaultError::field(
            "metadata",
            format!("more than {most} pairs, or {META_BYTES_MAX} bytes of a text"),
        ));
    }
    Ok(metadata)
}

/// To which certificate it is to be bound: by the head of the request or by its body.
fn certificate(scope: &Scope<'_>) -> Result<Option<[u8; 32]>, VaultError> {
    let refused = |why| VaultError::field("bind_certificate", why);
    let Some(text) = scope.call.body.string("bind_certificate")?.filter(|text| !text.is_empty()) else {
        return Ok(scope.call.bind);
    };
    let mut thumbprint = [0; 32];
    hex::decode_to_slice(text.as_bytes(), &mut thumbprint).map_err(|_| refused("not 64 hexadecimal digits"))?;
    match scope.call.bind {
        Some(other) if other != thumbprint => Err(refused("another certificate than the header's")),
        Some(_) | None => Ok(Some(thumbprint)),
    }
}

pub(super) async fn list(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let (role, _) = roles.expect(name).await?;
    let good = |text: &[u8]| {
        let secret_id = SecretId::decode(text)?;
        Ok(secret_id.is_good(scope.now()).then_some(secret_id.accessor))
    };
    token_fields::list(scope, roles.view, &format!("s/{}", role.incarnation), good).await
}

pub(super) async fn lookup(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let secret_id = scope.call.body.required("secret_id")?;
    let (role, _) = roles.expect(name).await?;
    let found = roles.load_secret_id(&role, roles.secret_hash(&secret_id)?).await?;
    match wanted(scope, found)? {
        Some(found) => Reply::data(&found.secret_id.shown()),
        // as Vault answers
        None => Ok(Reply::empty()),
    }
}

pub(super) async fn lookup_by_accessor(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let accessor = scope.call.body.required("secret_id_accessor")?;
    let (role, _) = roles.expect(name).await?;
    let found = wanted(scope, roles.by_accessor(&role, &accessor).await?)?;
    Reply::data(&found.ok_or(VaultError::NotFound)?.secret_id.shown())
}

/// One that is good, or was and is asked for all the same.
fn wanted(scope: &Scope<'_>, found: Option<Found>) -> Result<Option<Found>, VaultError> {
    let spent_too = scope.call.body.bool("include_spent")?.unwrap_or(false);
    Ok(found.filter(|found| spent_too || found.secret_id.is_good(scope.now())))
}

pub(super) async fn destroy(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let secret_id = scope.call.body.required("secret_id")?;
    for _ in 0..ATTEMPTS_MAX {
        let (role, _) = roles.expect(name).await?;
        // to destroy what is not there succeeds
        let found = roles.load_secret_id(&role, roles.secret_hash(&secret_id)?).await?;
        let Some(found) = found else { return Ok(Reply::empty()) };
        if let Some(reply) = drop_one(scope, roles, &role, &found).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

pub(super) async fn destroy_by_accessor(scope: &Scope<'_>, roles: &Roles<'_>, name: &str) -> Result<Reply, VaultError> {
    let accessor = scope.call.body.required("secret_id_accessor")?;
    for _ in 0..ATTEMPTS_MAX {
        let (role, _) = roles.expect(name).await?;
        let found = roles.by_accessor(&role, &accessor).await?.ok_or(VaultError::NotFound)?;
        if let Some(reply) = drop_one(scope, roles, &role, &found).await? {
            return Ok(reply);
        }
    }
    Err(VaultError::Conflict)
}

/// Nothing where others were in between.
async fn drop_one(
    scope: &Scope<'_>,
    roles: &Roles<'_>,
    role: &Role,
    found: &Found,
) -> Result<Option<Reply>, VaultError> {
    match scope.commit(roles.drop_secret_id(scope.batch()?, role, found)?).await {
        Err(ChangeError::Conflict(_)) => Ok(None),
        outcome => Ok(outcome.map(|_| Some(Reply::empty()))?),
    }
}

/// How much a text of this form can hold at the very most: what repeats counts once, and eight different characters at least
/// are asked for. A text that was thought up may hold far less.
fn most_bits(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let repeats = |period: &usize| bytes.iter().zip(bytes.iter().skip(*period)).all(|(one, other)| one == other);
    let period = (1..=bytes.len() / 2).find(repeats).unwrap_or(bytes.len());
    let counted: Vec<u8> = bytes.iter().take(period).copied().filter(|byte| *byte != b'-').collect();
    let mut different = counted.clone();
    different.sort_unstable();
    different.dedup();
    if different.len() < DIFFERENT_MIN {
        return 0;
    }
    let all = |legal: fn(&u8) -> bool| counted.iter().all(legal);
    // hundredths of a bit a character
    let each: u32 = if all(u8::is_ascii_digit) {
        332
    } else if all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
        || all(|byte| byte.is_ascii_digit() || matches!(byte, b'A'..=b'F'))
    {
        400
    } else if all(u8::is_ascii_lowercase) || all(u8::is_ascii_uppercase) {
        470
    } else if all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        || all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    {
        516
    } else {
        595
    };
    u32::try_from(counted.len()).unwrap_or(0).saturating_mul(each) / 100
}

/// What of a token's metadata is ours.
pub(super) const OWN_PAIRS: usize = 2;
/// How long a spent SecretID without an end is remembered.
const REMEMBERED: Duration = Duration::from_secs(32 * 86_400);
/// As Vault tells that there is no end.
const NEVER: &str = "0001-01-01T00:00:00Z";
pub(super) const DUE: &str = "due";
pub(super) const GONE: &str = "g";
const CHOSEN_BYTES_MAX: usize = 4096;
const CHOSEN_BITS_MIN: u32 = 128;
const DIFFERENT_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_secret_of_less_than_128_bits_is_seen() {
        for (text, enough) in [
            ("0f1e2d3c4b5a69788796a5b4c3d2e1f0", true),
            ("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", true),
            ("0f1e2d3c4b5a69788796a5b4c3d2e1f", false),
            ("q7Jx2LmZp0aVtR8wYbK4Nc", true),
            ("q7Jx2LmZp0aVtR8wYbK4N", false),
            ("password", false),
            ("", false),
            (&"a".repeat(200), false),
            (&"password1!".repeat(20), false),
            (&"0123456789".repeat(20), false),
            (&"0f1e2d3c4b5a69".repeat(3), false),
            ("314159265358979323846264338327950288419", true),
            ("31415926535897932384626433832795028841", false),
        ] {
            assert_eq!(most_bits(text) >= CHOSEN_BITS_MIN, enough, "{text}");
        }
    }
}
