//! Response wrapping: an answer that is fetched once, by a token that is good for nothing else.
//!
//! Always: of any number of callers at once one gets the answer; the commit that hands it out is the one that takes it away.
//! Always: what was fetched leaves a mark until its time is over, so that a second attempt is told from a token that never
//! was: it is counted, recorded and told to whoever made the token.
//! Never: a use taken by who may not have the answer: certificate and time are checked first.

use crate::clock::rfc3339;
use crate::error::VaultError;
use crate::reply::{Reply, WrapInfo};
use crate::scope::Scope;
use crate::service::Vault;
use crate::text::Text;
use crate::view::View;
use audit::{Decision, Outcome, Record};
use envelope::{SecretBytes, Timestamp, mac};
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};

/// Longest life of a wrapped answer.
pub const WRAP_TTL_MAX: Duration = Duration::from_secs(32 * 86_400);

/// What is known of a wrapped answer. The answer itself stands beside it until it is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wrapped {
    created: u64,
    ttl_millis: u64,
    path: String,
    accessor: String,
    wrapped_accessor: String,
    /// Who made it.
    creator: String,
    /// Fetched only beside the certificate of this SHA-256, hexadecimal.
    certificate: Option<String>,
    fetched: Option<u64>,
    /// Attempts that were refused: again, or beside another certificate.
    violations: u32,
    last_violation: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    creation_path: &'a str,
    creation_time: String,
    creation_ttl: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    for_creator: Option<ForCreator>,
}

/// Told to whoever made the token alone.
#[derive(Debug, Serialize)]
struct ForCreator {
    unwrapped: bool,
    unwrapped_time: Option<String>,
    violations: u32,
    last_violation_time: Option<String>,
    bound_certificate: Option<String>,
}

/// Where one token's entries stand.
struct Place {
    info: EntryPath,
    body: EntryPath,
    digest: String,
}

impl Wrapped {
    fn ends(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.created.saturating_add(self.ttl_millis))
    }

    fn shown(&self, for_creator: bool) -> Shown<'_> {
        let time = |at: Option<u64>| at.map(|at| rfc3339(Timestamp::from_unix_millis(at)));
        Shown {
            creation_path: &self.path,
            creation_time: rfc3339(Timestamp::from_unix_millis(self.created)),
            creation_ttl: self.ttl_millis / 1000,
            for_creator: for_creator.then(|| ForCreator {
                unwrapped: self.fetched.is_some(),
                unwrapped_time: time(self.fetched),
                violations: self.violations,
                last_violation_time: time(self.last_violation),
                bound_certificate: self.certificate.clone(),
            }),
        }
    }
}

/// Puts an answer away, and answers with the token that fetches it.
pub(crate) async fn wrap(scope: &Scope<'_>, reply: Reply, ttl: Duration) -> Result<Reply, VaultError> {
    let body = reply.encode(&scope.call.info.request_id)?;
    let token_accessor = reply.auth.as_ref().map(|auth| auth.accessor.clone());
    let wrapped = Wrapped {
        created: scope.now().unix_millis(),
        ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        path: scope.call.path.told().into_owned(),
        accessor: hex::encode(scope.vault.barrier().random::<16>()?),
        wrapped_accessor: token_accessor.or(reply.accessor).unwrap_or_default(),
        creator: scope.by.map_or("", |by| by.id()).to_owned(),
        certificate: scope.call.bind.map(hex::encode),
        fetched: None,
        violations: 0,
        last_violation: None,
    };
    let (batch, token) = add(scope.vault, scope.batch()?, &wrapped, body.as_bytes())?;
    let record = Record {
        path: &wrapped.path,
        rule: &scope.rule,
        decision: Decision::Allowed,
        ..scope.call.info.record("VaultWrap", scope.subject(), Outcome::Done)
    };
    scope.vault.commit(batch, &record).await?;
    Ok(Reply { wrap: Some(info(&wrapped, token)), ..Reply::default() })
}

fn info(wrapped: &Wrapped, token: SecretBytes) -> WrapInfo {
    WrapInfo {
        token,
        accessor: wrapped.accessor.clone(),
        ttl_secs: wrapped.ttl_millis.div_ceil(1000),
        creation_time: rfc3339(Timestamp::from_unix_millis(wrapped.created)),
        creation_path: wrapped.path.clone(),
        wrapped_accessor: wrapped.wrapped_accessor.clone(),
    }
}

fn add(vault: &Vault, batch: Batch, wrapped: &Wrapped, body: &[u8]) -> Result<(Batch, SecretBytes), VaultError> {
    let view = view(vault)?;
    let random = identity::token::generate().map_err(|_| VaultError::Internal("no randomness".into()))?;
    let mut token = SecretBytes::init_with(random.len() + 1, |_| ());
    let (head, tail) = token.expose_mut().split_at_mut(PREFIX.len());
    head.copy_from_slice(PREFIX);
    // `sr.` becomes `srw.`
    tail.copy_from_slice(random.expose().get(PREFIX.len() - 1..).unwrap_or_default());
    let token = match &vault.space {
        Some(space) => identity::token::marked(&token, &space.id),
        None => token,
    };
    let place = place(&view, token.expose())?;
    let text = encode(wrapped)?;
    let batch = view.put(batch.absent(place.info.clone()), place.info, &text)?;
    let batch = view.put(batch, place.body, body)?;
    let batch = view.put(batch, by_accessor(&view, &wrapped.accessor)?, place.digest.as_bytes())?;
    Ok((view.put(batch, due(&view, wrapped.ends(), &place.digest)?, wrapped.accessor.as_bytes())?, token))
}

/// Hands the answer out, once.
pub(crate) async fn unwrap(scope: &Scope<'_>, token: &[u8]) -> Result<Reply, VaultError> {
    let view = view(&*scope.vault.maker_of(token).await?)?;
    let place = place(&view, token)?;
    for _ in 0..ATTEMPTS_MAX {
        let (mut wrapped, revision) = open(scope, &view, &place).await?;
        let body = view.load(&place.body).await?;
        let Some(body) = body else { continue };
        wrapped.fetched = Some(scope.now().unix_millis());
        let batch = scope.batch()?.revision_is(place.info.clone(), revision).delete(place.body.clone());
        match scope.commit(view.put(batch, place.info.clone(), &encode(&wrapped)?)?).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let text = std::str::from_utf8(body.value.expose());
                let text = text.map_err(|_| VaultError::Internal("a wrapped answer cannot be read".into()))?;
                return Ok(Reply { bare: Some((200, Text::copy_from(text))), ..Reply::default() });
            }
        }
    }
    Err(VaultError::Conflict)
}

/// A new token for the same answer, with the same path; the old one is spent.
pub(crate) async fn rewrap(scope: &Scope<'_>, token: &[u8]) -> Result<Reply, VaultError> {
    let maker = scope.vault.maker_of(token).await?;
    let view = view(&maker)?;
    let place = place(&view, token)?;
    for _ in 0..ATTEMPTS_MAX {
        let (mut old, revision) = open(scope, &view, &place).await?;
        let Some(body) = view.load(&place.body).await? else { continue };
        let new = Wrapped {
            created: scope.now().unix_millis(),
            accessor: hex::encode(scope.vault.barrier().random::<16>()?),
            ..old.clone()
        };
        old.fetched = Some(scope.now().unix_millis());
        let batch = scope.batch()?.revision_is(place.info.clone(), revision).delete(place.body.clone());
        let batch = view.put(batch, place.info.clone(), &encode(&old)?)?;
        let (batch, token) = add(&maker, batch, &new, body.value.expose())?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Reply { wrap: Some(info(&new, token)), ..Reply::default() }),
        }
    }
    Err(VaultError::Conflict)
}

/// Tells of a token that still fetches something, without spending it.
pub(crate) async fn lookup(scope: &Scope<'_>, token: &[u8]) -> Result<Reply, VaultError> {
    let view = view(&*scope.vault.maker_of(token).await?)?;
    let place = place(&view, token)?;
    let found = load(&view, &place).await?;
    let (wrapped, _) = found.filter(|(wrapped, _)| is_waiting(wrapped, scope.now())).ok_or(refused(UNKNOWN))?;
    Reply::data(&wrapped.shown(false))
}

/// Tells whoever made a token, by its accessor, what became of it.
pub(crate) async fn lookup_by_accessor(scope: &Scope<'_>, accessor: &str) -> Result<Reply, VaultError> {
    let by = scope.by()?;
    let view = view(scope.vault)?;
    let found = view.load(&by_accessor(&view, accessor)?).await?.ok_or(refused(UNKNOWN))?;
    let digest = std::str::from_utf8(found.value.expose()).unwrap_or_default();
    let (wrapped, _) = load(&view, &place_of(&view, digest)?).await?.ok_or(refused(UNKNOWN))?;
    if wrapped.creator != by.id() && !by.is_root() {
        return Err(VaultError::PermissionDenied);
    }
    Reply::data(&wrapped.shown(true))
}

/// What waits to be fetched by who asks; a violation is counted and recorded.
async fn open(scope: &Scope<'_>, view: &View, place: &Place) -> Result<(Wrapped, Revision), VaultError> {
    let (wrapped, revision) = load(view, place).await?.ok_or(refused(UNKNOWN))?;
    let cause = if wrapped.fetched.is_some() {
        REPLAYED
    } else if scope.now() >= wrapped.ends() {
        EXPIRED
    } else if !is_bearer(&wrapped, scope) {
        OTHER_CERTIFICATE
    } else {
        return Ok((wrapped, revision));
    };
    tracing::warn!(
        accessor = wrapped.accessor,
        creation_path = wrapped.path,
        from = scope.call.info.from,
        cause,
        "a wrapping token was used by who may not use it"
    );
    if cause != EXPIRED {
        count_violation(scope, view, place, cause).await?;
    }
    Err(refused(cause))
}

fn is_bearer(wrapped: &Wrapped, scope: &Scope<'_>) -> bool {
    match &wrapped.certificate {
        None => true,
        Some(bound) => {
            let shown = scope.call.certificate.as_ref().map(|shown| hex::encode(shown.thumbprint));
            shown.is_some_and(|shown| mac::equal(bound.as_bytes(), shown.as_bytes()))
        }
    }
}

/// With a record of its own, which is this request's.
async fn count_violation(scope: &Scope<'_>, view: &View, place: &Place, cause: &'static str) -> Result<(), VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some((mut wrapped, revision)) = load(view, place).await? else { return Ok(()) };
        if wrapped.violations >= VIOLATIONS_MAX {
            return Ok(());
        }
        wrapped.violations += 1;
        wrapped.last_violation = Some(scope.now().unix_millis());
        let batch = scope.batch()?.revision_is(place.info.clone(), revision);
        let batch = view.put(batch, place.info.clone(), &encode(&wrapped)?)?;
        let outcome = Outcome::Failed(cause.into());
        let record = scope.record(scope.subject(), Decision::Denied, outcome);
        match scope.vault.commit(batch, &record).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                scope.was_recorded();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Drops what is over. For a worker.
pub async fn sweep(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let view = view(vault)?;
    let page = view.scan(&view.path(DUE)?, None, SWEPT_AT_ONCE).await?;
    let mut batch = vault.changes().batch()?;
    let mut dropped = 0;
    for (path, accessor) in &page.entries {
        let mut segments = path.segments().skip_while(|segment| *segment != DUE).skip(1);
        let (Some(at), Some(digest)) = (segments.next(), segments.next()) else { continue };
        if u64::from_str_radix(at, 16).is_ok_and(|at| at > now.unix_millis()) {
            break;
        }
        let place = place_of(&view, digest)?;
        let accessor = std::str::from_utf8(accessor.value.expose()).unwrap_or_default();
        batch = batch.delete(place.info).delete(place.body).delete(by_accessor(&view, accessor)?).delete(path.clone());
        dropped += 1;
    }
    if dropped > 0 {
        let record = Record {
            decision: Decision::Allowed,
            ..Record::new(now, "worker", "VaultSweepWrapped", &audit::Subject::System)
        };
        vault.commit(batch, &record).await?;
    }
    Ok(dropped)
}

fn is_waiting(wrapped: &Wrapped, now: Timestamp) -> bool {
    wrapped.fetched.is_none() && now < wrapped.ends()
}

async fn load(view: &View, place: &Place) -> Result<Option<(Wrapped, Revision)>, VaultError> {
    let Some(found) = view.load(&place.info).await? else { return Ok(None) };
    let wrapped = serde_json::from_slice(found.value.expose())
        .map_err(|_| VaultError::Internal("a wrapped answer's description cannot be read".into()))?;
    Ok(Some((wrapped, found.revision)))
}

fn encode(wrapped: &Wrapped) -> Result<Vec<u8>, VaultError> {
    serde_json::to_vec(wrapped).map_err(|_| VaultError::Internal("a wrapped answer's description".into()))
}

fn view(vault: &Vault) -> Result<View, VaultError> {
    vault.view("wrapping")
}

fn place(view: &View, token: &[u8]) -> Result<Place, VaultError> {
    let text = std::str::from_utf8(token).map_err(|_| refused(UNKNOWN))?;
    place_of(view, &view.hash(b"vault/wrapping", text)?)
}

fn place_of(view: &View, digest: &str) -> Result<Place, VaultError> {
    Ok(Place {
        info: view.path(&format!("i/{digest}"))?,
        body: view.path(&format!("b/{digest}"))?,
        digest: digest.to_owned(),
    })
}

fn by_accessor(view: &View, accessor: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("a/{}", view.hash(b"vault/wrapping-accessor", accessor)?))
}

fn due(view: &View, at: Timestamp, digest: &str) -> Result<EntryPath, VaultError> {
    view.path(&format!("{DUE}/{:016x}/{digest}", at.unix_millis()))
}

fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: "wrapping token is not valid or does not exist", cause }
}

const PREFIX: &[u8] = b"srw.";
const DUE: &str = "due";
const UNKNOWN: &str = "WRAPPING_TOKEN_UNKNOWN";
const REPLAYED: &str = "WRAPPING_TOKEN_REPLAYED";
const EXPIRED: &str = "WRAPPING_TOKEN_EXPIRED";
const OTHER_CERTIFICATE: &str = "WRAPPING_CERTIFICATE_OTHER";
const ATTEMPTS_MAX: usize = 64;
const VIOLATIONS_MAX: u32 = 1000;
const SWEPT_AT_ONCE: u32 = 25;
