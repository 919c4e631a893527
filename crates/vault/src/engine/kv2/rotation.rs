//! Secrets that are rotated with the help of a hook: somebody who can set a new value where it counts, and try it.
//!
//! `rotation/NAME` says how: by period or schedule, which fields get new values, and at which address the hook is asked. The
//! hook is told a step, and which version it is about, and no value: it reads what it needs as a client of its own, by
//! `?label=pending` and `?label=current`. Steps: `create` (only of a hook that makes values itself: it has written a pending
//! version when it answers), `set`, `test`, then the version is promoted, and `finish`: now the version that it replaced may be
//! withdrawn.
//!
//! Always: `finish` comes when nobody has read the version before for `overlap`, and at least five seconds, since the
//! promotion: other nodes serve it from memory for two, and tell of reads every few seconds. It comes after ten times that,
//! and at least an hour, whoever still reads: a reader who means harm keeps no leaked password alive for ever.
//! Always: who writes, promotes or rolls back meanwhile overtakes a rotation: nothing is promoted or withdrawn then. Where a
//! value may have been set, which nobody is served, another rotation begins at once and repairs it; else, at its time.
//! Always: a step is done when the hook answers 2xx; else it is asked the same step again, with back-off, for ever. It may be
//! asked a step twice: each names the version. What is served changes with `promote` alone.
//! Always: `sudo` beside `update`: the server dials out where the address says.

mod work;

pub use work::rotate_secrets;

use super::{ATTEMPTS_MAX, Secret};
use crate::clock::rfc3339;
use crate::cron::Schedule;
use crate::error::VaultError;
use crate::lease::BACK_OFF_MAX;
use crate::outside::is_sound_endpoint;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::view::View;
use envelope::Timestamp;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::{Batch, EntryPath, Revision};
use zeroize::Zeroizing;

/// As stored. Times are Unix milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Rotation {
    /// Where the mount stood when it was written, and the secret's name: what the hook is told.
    path: String,
    url: String,
    ca: Option<String>,
    token: Zeroizing<String>,
    /// That get new values. None: the hook makes them.
    fields: Vec<String>,
    password_policy: String,
    period_secs: u64,
    schedule: String,
    overlap_secs: u64,
    step: Step,
    /// That is being rolled out, or was last.
    version: u32,
    /// When `version` was promoted.
    promoted: u64,
    /// The version that was served until then.
    replaced: u32,
    due: u64,
    attempts: u32,
    last_error: String,
}

/// What is done next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// At its time.
    #[default]
    Create,
    Set,
    Test,
    Promote,
    Finish,
}

impl Rotation {
    fn decode(stored: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(stored).map_err(|_| VaultError::Internal("a stored rotation cannot be read".into()))
    }

    /// When the next one begins.
    fn next(&self, now: Timestamp) -> u64 {
        match Schedule::parse(&self.schedule) {
            Some(schedule) => schedule.after(now).unwrap_or(now.plus(BACK_OFF_MAX)).unix_millis(),
            None => now.plus(Duration::from_secs(self.period_secs)).unix_millis(),
        }
    }

    fn overlap(&self) -> Duration {
        Duration::from_secs(self.overlap_secs).max(OVERLAP_MIN)
    }

    /// From when on nobody uses the version before, which was read last at `read`.
    fn unused(&self, read: u64) -> Timestamp {
        Timestamp::from_unix_millis(self.promoted.max(read)).plus(self.overlap())
    }

    /// From when on the version before is withdrawn, used or not.
    fn withdrawn(&self, read: u64) -> Timestamp {
        let longest = self.overlap().saturating_mul(OVERLAPS_MAX).max(WITHDRAWN_WITHIN_MIN);
        self.unused(read).min(Timestamp::from_unix_millis(self.promoted).plus(longest))
    }
}

impl Secret<'_> {
    fn rotation_path(&self) -> Result<EntryPath, VaultError> {
        super::below(&self.root, "r")
    }

    async fn load_rotation(&self) -> Result<Option<(Rotation, Revision)>, VaultError> {
        let found = self.view.load(&self.rotation_path()?).await?;
        found.map(|found| Ok((Rotation::decode(found.value.expose())?, found.revision))).transpose()
    }

    /// Without what stands of it; its turn in the queue leads to nothing then.
    pub(super) fn forget_rotation(&self, batch: Batch) -> Result<Batch, VaultError> {
        Ok(batch.delete(self.rotation_path()?))
    }
}

pub(super) async fn read(secret: &Secret<'_>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        hook_url: &'a str,
        hook_ca: Option<&'a str>,
        fields: &'a [String],
        password_policy: &'a str,
        rotation_period: u64,
        rotation_schedule: &'a str,
        overlap: u64,
        step: Step,
        version: u32,
        last_rotation: String,
        next_time: String,
        attempts: u32,
        last_error: &'a str,
    }
    let (rotation, _) = secret.load_rotation().await?.ok_or(VaultError::NotFound)?;
    let time = |millis| if millis == 0 { String::new() } else { rfc3339(Timestamp::from_unix_millis(millis)) };
    Reply::data(&Shown {
        hook_url: &rotation.url,
        hook_ca: rotation.ca.as_deref(),
        fields: &rotation.fields,
        password_policy: &rotation.password_policy,
        rotation_period: rotation.period_secs,
        rotation_schedule: &rotation.schedule,
        overlap: rotation.overlap_secs,
        step: rotation.step,
        version: rotation.version,
        last_rotation: time(rotation.promoted),
        next_time: time(rotation.due),
        attempts: rotation.attempts,
        last_error: &rotation.last_error,
    })
}

pub(super) async fn write(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let (_, meta_revision) = secret.load().await?.ok_or(VaultError::NotFound)?;
        let found = secret.load_rotation().await?;
        let mut rotation = changed(scope, found.as_ref().map(|(rotation, _)| rotation.clone()).unwrap_or_default())?;
        rotation.path = format!("{}data/{}", scope.mount_path, secret.name);
        if rotation.step == Step::Create {
            rotation.due = rotation.next(scope.now());
        }
        // of a secret that is there, and stays
        let batch = scope.batch()?.revision_is(secret.meta_path.clone(), meta_revision);
        let batch = put(scope.vault, batch, (&scope.mount.id, secret), found.as_ref(), &rotation)?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

fn changed(scope: &Scope<'_>, mut rotation: Rotation) -> Result<Rotation, VaultError> {
    let body = &scope.call.body;
    let was = (rotation.url.clone(), rotation.ca.clone());
    if let Some(url) = body.string("hook_url")? {
        rotation.url = url.to_string();
    }
    if let Some(ca) = body.string("hook_ca")? {
        rotation.ca = Some(ca.to_string()).filter(|ca| !ca.is_empty());
    }
    match body.string("hook_token")? {
        Some(token) => rotation.token = token,
        // what is stored is shown to nobody but for whom it was given
        None if was != (rotation.url.clone(), rotation.ca.clone()) => rotation.token = Zeroizing::default(),
        None => {}
    }
    if let Some(fields) = body.list("fields")? {
        if fields.len() > FIELDS_MAX || fields.iter().any(|field| field.is_empty() || field.len() > 128) {
            return Err(VaultError::field(
                "fields",
                "at most 16 names of 1 to 128 bytes; none: the hook makes the values",
            ));
        }
        rotation.fields = fields;
    }
    if let Some(policy) = body.string("password_policy")? {
        rotation.password_policy = policy.to_string();
    }
    if body.has("rotation_schedule") && body.has("rotation_period") {
        return Err(VaultError::field("rotation_schedule", "beside `rotation_period`"));
    }
    if let Some(schedule) = body.string("rotation_schedule")? {
        (rotation.schedule, rotation.period_secs) = (schedule.to_string(), 0);
    }
    if let Some(period) = body.duration("rotation_period")? {
        (rotation.period_secs, rotation.schedule) = (period.as_secs(), String::new());
    }
    if body.has("overlap") {
        rotation.overlap_secs = body.duration("overlap")?.map_or(0, |overlap| overlap.as_secs());
    }
    check(&rotation)?;
    Ok(rotation)
}

fn check(rotation: &Rotation) -> Result<(), VaultError> {
    if !is_sound_endpoint(&rotation.url) {
        return Err(VaultError::field("hook_url", "an https:// address; http:// of this host alone"));
    }
    if rotation.token.len() > TOKEN_BYTES_MAX || rotation.token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(VaultError::field("hook_token", "at most 4096 visible ASCII characters"));
    }
    match (rotation.schedule.as_str(), rotation.period_secs) {
        ("", 0) => Err(VaultError::field("rotation_period", "missing, as is `rotation_schedule`")),
        ("", ..PERIOD_MIN) => Err(VaultError::field("rotation_period", "at least 5 seconds")),
        ("", _) => Ok(()),
        (schedule, _) if Schedule::parse(schedule).is_none() => {
            Err(VaultError::field("rotation_schedule", "not five fields of cron, in numbers"))
        }
        _ => Ok(()),
    }
}

/// What is under way is given up: the pending version stays, and is served to nobody who does not ask for it.
pub(super) async fn delete(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some((rotation, revision)) = secret.load_rotation().await? else { return Ok(Reply::empty()) };
        let path = secret.rotation_path()?;
        let turn = turn(scope.vault, &scope.mount.id, secret, rotation.due)?;
        match scope.commit(scope.batch()?.revision_is(path.clone(), revision).delete(path).delete(turn)).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

/// Its turn is now, where none is under way; what waits for another attempt has it now.
pub(super) async fn rotate_now(scope: &Scope<'_>, secret: &Secret<'_>) -> Result<Reply, VaultError> {
    for _ in 0..ATTEMPTS_MAX {
        let found = secret.load_rotation().await?;
        let (mut rotation, _) = found.clone().ok_or(VaultError::NotFound)?;
        if rotation.step == Step::Finish && rotation.attempts == 0 {
            let why = "the version before is not withdrawn yet: `finish` comes first";
            return Err(VaultError::Invalid(why.into()));
        }
        if rotation.step != Step::Create && rotation.attempts == 0 {
            return Err(VaultError::Invalid("a rotation is under way".into()));
        }
        let now = scope.now().unix_millis();
        if rotation.due <= now {
            // it is its turn: another one would be taken beside it
            return Ok(Reply::empty());
        }
        rotation.due = now;
        let batch = put(scope.vault, scope.batch()?, (&scope.mount.id, secret), found.as_ref(), &rotation)?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            outcome => return Ok(outcome.map(|_| Reply::empty())?),
        }
    }
    Err(VaultError::Conflict)
}

/// With the rotation as it is now, and its turn.
fn put(
    vault: &Vault,
    batch: Batch,
    (mount, secret): (&str, &Secret<'_>),
    was: Option<&(Rotation, Revision)>,
    now: &Rotation,
) -> Result<Batch, VaultError> {
    let (path, is) = (secret.rotation_path()?, turn(vault, mount, secret, now.due)?);
    let batch = match was {
        None => batch.absent(path.clone()),
        Some((was, revision)) => {
            let batch = batch.revision_is(path.clone(), *revision);
            if was.due == now.due { batch } else { batch.delete(turn(vault, mount, secret, was.due)?) }
        }
    };
    let text = Zeroizing::new(
        serde_json::to_vec(now).map_err(|_| VaultError::Internal("a rotation cannot be written".into()))?,
    );
    let batch = secret.view.put(batch, path, &text)?;
    // what leads to it: the mount and the name
    let turns = turns(vault)?;
    turns.put(batch, is, format!("{mount}/{}", secret.name).as_bytes())
}

fn turns(vault: &Vault) -> Result<View, VaultError> {
    vault.view("rotations")
}

fn turn(vault: &Vault, mount: &str, secret: &Secret<'_>, due: u64) -> Result<EntryPath, VaultError> {
    turns(vault)?.path(&format!("{QUEUE}/{due:016x}/{mount}-{}", secret.slot))
}

const QUEUE: &str = "due";
const FIELDS_MAX: usize = 16;
const TOKEN_BYTES_MAX: usize = 4096;
const PERIOD_MIN: u64 = 5;
/// Other nodes serve what was replaced for two seconds.
const OVERLAP_MIN: Duration = Duration::from_secs(5);
const OVERLAPS_MAX: u32 = 10;
const WITHDRAWN_WITHIN_MIN: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_withdrawn_when_nobody_reads_it_and_in_the_end_whoever_does() {
        const PROMOTED: u64 = 1_000_000;
        for (overlap_secs, read_secs, unused_secs, withdrawn_secs) in [
            // never, before the promotion, at it, a while after
            (60, None, 60, 60),
            (60, Some(-10), 60, 60),
            (60, Some(0), 60, 60),
            (60, Some(50), 110, 110),
            // the least that is waited
            (0, None, 5, 5),
            (3, Some(2), 7, 7),
            // again and again
            (0, Some(3594), 3599, 3599),
            (0, Some(9000), 9005, 3600),
            (600, Some(5390), 5990, 5990),
            (600, Some(9000), 9600, 6000),
        ] {
            let rotation = Rotation { promoted: PROMOTED, overlap_secs, ..Rotation::default() };
            let read = read_secs.map_or(0, |secs: i64| PROMOTED.saturating_add_signed(secs * 1000));
            let after = |secs: u64| Timestamp::from_unix_millis(PROMOTED + secs * 1000);
            assert_eq!(rotation.unused(read), after(unused_secs), "{overlap_secs} {read_secs:?}");
            assert_eq!(rotation.withdrawn(read), after(withdrawn_secs), "{overlap_secs} {read_secs:?}");
        }
        // no overflow
        let rotation = Rotation { promoted: PROMOTED, overlap_secs: u64::MAX, ..Rotation::default() };
        assert_eq!(rotation.withdrawn(0), Timestamp::from_unix_millis(u64::MAX));
    }
}
