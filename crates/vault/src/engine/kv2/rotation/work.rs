//! The queue's worker: rotations whose turn it is, a bounded number, side by side.

use super::{QUEUE, Rotation, Step, put, turns};
use crate::engine::kv2::last_read::{millis, noted_at};
use crate::engine::kv2::meta::Meta;
use crate::engine::kv2::{Secret, config, data, merge};
use crate::error::VaultError;
use crate::lease::back_off;
use crate::lease::work::is_mount_gone;
use crate::outside::{Ask, Method};
use crate::service::Vault;
use crate::sys::passwords;
use crate::text::Text;
use audit::{Decision, Outcome, Record, Subject};
use envelope::{Clock, Timestamp};
use identity::ChangeError;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::{Batch, Claim, Revision};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// One that was claimed.
struct Turn<'a> {
    vault: &'a Vault,
    mount: &'a str,
    secret: Secret<'a>,
    rotation: Rotation,
    revision: Revision,
    /// When it was claimed.
    claimed: Timestamp,
    began: Instant,
}

/// Why a step was not done.
enum Trouble {
    /// It is tried again; the text is the operator's.
    Later(String),
    /// The store, or others in between.
    Store(VaultError),
}

impl<E: Into<VaultError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// Takes the turns that are due, in one namespace or the root: it waits for hooks, two seconds and one answer more.
pub async fn rotate_secrets(vault: &Vault, clock: &dyn Clock) -> Result<usize, VaultError> {
    let queue = turns(vault)?.path(QUEUE)?;
    let claims = vault.barrier().storage().claim(&queue, CLAIMED_AT_ONCE, CLAIMED_FOR).await?;
    let all = claims.iter().map(|claim| async move {
        if let Err(error) = attend(vault, claim, clock.now()).await {
            tracing::warn!(%error, "a secret that is due was not rotated; it stays due");
        }
    });
    futures_util::future::join_all(all).await;
    Ok(claims.len())
}

async fn attend(vault: &Vault, claim: &Claim, now: Timestamp) -> Result<(), VaultError> {
    let unreadable = || VaultError::Internal("a turn of a rotation".into());
    let told = vault.barrier().open(&claim.path, &claim.entry.value)?;
    let told = std::str::from_utf8(told.expose()).map_err(|_| unreadable())?;
    let (mount, name) = told.split_once('/').ok_or_else(unreadable)?;
    let view = vault.view(mount)?;
    let secret = Secret::new(&view, name)?;
    let found = if is_mount_gone(vault, mount).await? { None } else { secret.load_rotation().await? };
    let found = match found {
        Some((rotation, revision)) => {
            (super::turn(vault, mount, &secret, rotation.due)? == claim.path).then_some((rotation, revision))
        }
        None => None,
    };
    let Some((rotation, revision)) = found else {
        // it leads to nothing, or to what is queued elsewhere
        let batch = vault.changes().batch()?.revision_is(claim.path.clone(), claim.fence).delete(claim.path.clone());
        return settled(vault.commit(batch, &record("VaultRotationHint", "", Outcome::Done, now)).await);
    };
    // due by the store's clock, whatever ours says
    let claimed = now.max(Timestamp::from_unix_millis(rotation.due));
    let mut turn = Turn { vault, mount, secret, rotation, revision, claimed, began: Instant::now() };
    match turn.go_on().await {
        Ok(()) => Ok(()),
        Err(Trouble::Store(VaultError::Conflict)) => Ok(()),
        Err(Trouble::Store(error)) => Err(error),
        Err(Trouble::Later(why)) => turn.later(why).await,
    }
}

impl Turn<'_> {
    /// One step after the other, as far as it goes now.
    async fn go_on(&mut self) -> Result<(), Trouble> {
        for _ in 0..STEPS_MAX {
            if self.is_over() {
                return Ok(());
            }
            let Some((meta, at)) = self.secret.load().await? else { return Ok(()) };
            match self.rotation.step {
                Step::Create if self.rotation.fields.is_empty() => self.created_by_hook(&meta).await?,
                Step::Create => self.create(meta, at).await?,
                Step::Set => self.ask_then("set", &meta, Step::Test).await?,
                Step::Test => self.ask_then("test", &meta, Step::Promote).await?,
                Step::Promote => self.promote(meta, at).await?,
                Step::Finish => return self.finish(&meta).await,
            }
        }
        Ok(())
    }

    /// A pending version: the current one's data with new values in some fields.
    async fn create(&mut self, mut meta: Meta, at: Revision) -> Result<(), Trouble> {
        let current = meta.current();
        let readable = meta.versions.get(&current).is_some_and(|version| version.is_readable(self.now()));
        let stored = if readable { self.secret.view.load(&self.secret.data_path(current)?).await? } else { None };
        let stored = stored.ok_or_else(|| Trouble::Later("there is no current version to go on from".to_owned()))?;
        let data = self.renewed(stored.value.expose()).await?;
        let config = config(self.secret.view).await?;
        let number = meta.add(&config, self.now(), true)?;
        let batch = self.batch()?.revision_is(self.secret.meta_path.clone(), at);
        let batch = self.secret.view.put(batch, self.secret.data_path(number)?, data.as_bytes())?;
        let batch = data::shed(&self.secret, batch, &mut meta, &config)?;
        let batch = self.secret.view.put(batch, self.secret.meta_path.clone(), &meta.encode()?)?;
        self.begun(batch, number).await
    }

    async fn renewed(&self, current: &[u8]) -> Result<Text, Trouble> {
        let mut values = BTreeMap::new();
        for field in &self.rotation.fields {
            let value = match self.rotation.password_policy.as_str() {
                "" => passwords::letters_and_digits(self.vault.barrier(), VALUE_CHARACTERS)?,
                policy => passwords::by_policy(self.vault, policy)
                    .await
                    .map_err(|error| Trouble::Later(format!("password_policy: {error}")))?,
            };
            values.insert(field.as_str(), value);
        }
        let internal = || VaultError::Internal("a version's data cannot be made".into());
        let patch = Text::of(&values.iter().map(|(field, value)| (*field, value.as_str())).collect::<BTreeMap<_, _>>());
        let patch = patch.ok_or_else(internal)?;
        let current: &RawValue = serde_json::from_slice(current).map_err(|_| internal())?;
        let merged = merge::merged(Some(current), patch.as_raw().ok_or_else(internal)?)?;
        Ok(Text::of(&merged).ok_or_else(internal)?)
    }

    /// The hook makes the values: when it has answered, a version is pending.
    async fn created_by_hook(&mut self, meta: &Meta) -> Result<(), Trouble> {
        self.ask("create", meta).await?;
        let now = self.secret.load().await?.map(|(meta, _)| meta);
        let pending = now.as_ref().and_then(Meta::pending);
        let pending = pending.ok_or_else(|| Trouble::Later("the hook wrote no pending version".to_owned()))?;
        self.begun(self.batch()?, pending).await
    }

    async fn begun(&mut self, batch: Batch, version: u32) -> Result<(), Trouble> {
        Ok(self
            .store(
                batch,
                Rotation { step: Step::Set, version, due: self.held(), ..self.rotation.clone() },
                Outcome::Asked,
            )
            .await?)
    }

    async fn ask_then(&mut self, step: &'static str, meta: &Meta, next: Step) -> Result<(), Trouble> {
        // what is theirs is not set in its place
        if !self.is_next(meta) {
            return self.overtaken().await;
        }
        self.ask(step, meta).await?;
        let rotation = Rotation { step: next, due: self.held(), ..self.rotation.clone() };
        Ok(self.store(self.batch()?, rotation, Outcome::Asked).await?)
    }

    async fn promote(&mut self, mut meta: Meta, at: Revision) -> Result<(), Trouble> {
        if !self.is_next(&meta) {
            return self.overtaken().await;
        }
        let replaced = meta.current();
        meta.promote(self.rotation.version, self.now());
        let batch = self.batch()?.revision_is(self.secret.meta_path.clone(), at);
        let batch = self.secret.view.put(batch, self.secret.meta_path.clone(), &meta.encode()?)?;
        let promoted = self.now().unix_millis();
        let rotation = Rotation { step: Step::Finish, promoted, replaced, due: self.held(), ..self.rotation.clone() };
        Ok(self.store(batch, rotation, Outcome::Done).await?)
    }

    /// Nobody wrote, promoted or deleted another one meanwhile, or this one.
    fn is_next(&self, meta: &Meta) -> bool {
        let version = self.rotation.version;
        meta.pending() == Some(version) && meta.versions.get(&version).is_some_and(|one| one.is_readable(self.now()))
    }

    /// The version before may be withdrawn, once it is time.
    async fn finish(&mut self, meta: &Meta) -> Result<(), Trouble> {
        // somebody wrote or rolled back meanwhile: what was replaced may be served again
        if meta.current() != self.rotation.version {
            return self.overtaken().await;
        }
        let read = self.last_read().await?;
        let from = self.rotation.withdrawn(read);
        if from > self.now() {
            let rotation = Rotation { due: from.unix_millis(), ..self.rotation.clone() };
            return Ok(self.store(self.batch()?, rotation, Outcome::Asked).await?);
        }
        if self.rotation.unused(read) > self.now() {
            let (path, version) = (&self.rotation.path, self.rotation.replaced);
            tracing::warn!(path, version, "a version that was replaced is withdrawn, although it is still read");
        }
        self.ask("finish", meta).await?;
        let mut rotation = Rotation { step: Step::Create, ..self.rotation.clone() };
        rotation.due = rotation.next(self.now());
        Ok(self.store(self.batch()?, rotation, Outcome::Done).await?)
    }

    /// Gives this rotation up; the turn ends.
    async fn overtaken(&mut self) -> Result<(), Trouble> {
        let mut rotation = Rotation { step: Step::Create, ..self.rotation.clone() };
        rotation.due = match self.rotation.step {
            // the target may have a value that nobody is served
            Step::Set | Step::Test | Step::Promote => self.now().plus(REPAIRED_AFTER).unix_millis(),
            Step::Create | Step::Finish => rotation.next(self.now()),
        };
        self.store(self.batch()?, rotation, Outcome::Failed("ROTATION_OVERTAKEN".into())).await?;
        Err(Trouble::Store(VaultError::Conflict))
    }

    /// When the version that was replaced was read last, as far as it is known; zero: never.
    async fn last_read(&self) -> Result<u64, Trouble> {
        let path = self.secret.data_path(self.rotation.replaced)?;
        let noted = self.secret.view.load(&noted_at(&path)?).await?;
        let noted = noted.map_or(0, |note| millis(note.value.expose()));
        Ok(noted.max(self.vault.last_reads().of(&path)))
    }

    async fn ask(&self, step: &'static str, meta: &Meta) -> Result<(), Trouble> {
        #[derive(Serialize)]
        struct Told<'a> {
            step: &'a str,
            namespace: &'a str,
            path: &'a str,
            /// That is being rolled out; before it is there, absent.
            version: Option<u32>,
            current_version: u32,
            previous_version: Option<u32>,
        }
        let told = serde_json::to_vec(&Told {
            step,
            namespace: self.vault.namespace(),
            path: &self.rotation.path,
            version: (step != "create").then_some(self.rotation.version),
            current_version: meta.current(),
            previous_version: if step == "finish" { Some(self.rotation.replaced) } else { meta.previous },
        });
        let mut headers = vec![("content-type", Zeroizing::new("application/json".to_owned()))];
        if !self.rotation.token.is_empty() {
            headers.push(("authorization", Zeroizing::new(format!("Bearer {}", *self.rotation.token))));
        }
        let ask = Ask {
            method: Method::Post,
            url: self.rotation.url.clone(),
            headers,
            body: Zeroizing::new(told.map_err(|_| VaultError::Internal("what a hook is told".into()))?),
            ca: self.rotation.ca.clone(),
            answer_is_signed: false,
            answer_bytes_max: ANSWER_BYTES_MAX,
            within: ANSWERED_WITHIN,
        };
        let server = format!("{}/{}", self.mount, self.rotation.url);
        match self.vault.outside().ask(&server, ask).await {
            Ok(told) if (200..300).contains(&told.status) => Ok(()),
            Ok(told) => Err(Trouble::Later(format!("{step}: the hook answered {}", told.status))),
            Err(error) => Err(Trouble::Later(format!("{step}: {error}"))),
        }
    }

    /// The same step again, in a while.
    async fn later(&mut self, why: String) -> Result<(), VaultError> {
        let [jitter] = self.vault.barrier().random::<1>()?;
        let attempts = self.rotation.attempts.saturating_add(1);
        tracing::warn!(path = self.rotation.path, why, attempts, "a secret is not rotated yet; it is tried again");
        let due = self.now().plus(back_off(attempts, jitter)).unix_millis();
        let rotation = Rotation { due, attempts, last_error: why, ..self.rotation.clone() };
        let batch = put(self.vault, self.batch()?, (self.mount, &self.secret), Some(&self.was()), &rotation)?;
        let record =
            record("VaultRotateSecret", &rotation.path, Outcome::Failed("ROTATION_HOOK_FAILED".into()), self.now());
        settled(self.vault.commit(batch, &record).await)
    }

    fn now(&self) -> Timestamp {
        self.claimed.plus(self.began.elapsed())
    }

    /// Another step waits for another turn, so that others have theirs.
    fn is_over(&self) -> bool {
        self.began.elapsed() >= GOES_ON_FOR
    }

    /// Nobody else takes the turn while this one goes on.
    fn held(&self) -> u64 {
        let until = if self.is_over() { self.now() } else { self.now().plus(CLAIMED_FOR) };
        until.unix_millis()
    }

    fn batch(&self) -> Result<Batch, VaultError> {
        Ok(self.vault.changes().batch()?)
    }

    fn was(&self) -> (Rotation, Revision) {
        (self.rotation.clone(), self.revision)
    }

    /// What was done so far, in one commit with its record.
    async fn store(&mut self, batch: Batch, rotation: Rotation, outcome: Outcome) -> Result<(), VaultError> {
        let rotation = Rotation { attempts: 0, last_error: String::new(), ..rotation };
        let batch = put(self.vault, batch, (self.mount, &self.secret), Some(&self.was()), &rotation)?;
        let record = record("VaultRotateSecret", &rotation.path, outcome, self.now());
        match self.vault.commit(batch, &record).await {
            Err(ChangeError::Conflict(_)) => Err(VaultError::Conflict),
            outcome => {
                (self.revision, self.rotation) = (outcome?, rotation.clone());
                Ok(())
            }
        }
    }
}

fn record<'a>(operation: &'a str, path: &'a str, outcome: Outcome, now: Timestamp) -> Record<'a> {
    Record { path, decision: Decision::Allowed, outcome, ..Record::new(now, "rotation", operation, &Subject::System) }
}

/// Others in between: the queue tells again.
fn settled(outcome: Result<Revision, ChangeError>) -> Result<(), VaultError> {
    match outcome {
        Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// More than there are.
const STEPS_MAX: usize = 8;
const VALUE_CHARACTERS: usize = 32;
const CLAIMED_AT_ONCE: u32 = 4;
/// Longer than one step takes; each holds it anew.
const CLAIMED_FOR: Duration = Duration::from_secs(20);
/// No step begins later in a turn.
const GOES_ON_FOR: Duration = Duration::from_secs(2);
/// Until a rotation that was overtaken is followed by another.
const REPAIRED_AFTER: Duration = Duration::from_secs(5);
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 10;
