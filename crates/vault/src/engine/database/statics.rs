//! `static-roles/:name`: users that stay, and whose passwords are rotated; by two accounts in turn where two are named.
//!
//! ```text
//! new password, and whose turn it is (durable) → the database has it → logged in with it → it is what is given (durable)
//! ```
//!
//! Always: what is given was logged in with. Whoever tries a rotation again takes the same new password.
//! Always: one at a time is at the database for a role, caller or queue, on any node: who holds its record.
//! Always: of two accounts the one that is given out last stays as it is until the overlap is over and nobody is in with it.

use super::config::statements;

use super::plugin::{Connection, DatabaseError, DatabasePlugin};
use super::shelf::Shelf;
use super::{ATTEMPTS_MAX, check_name, config, not_told, password, reached, refused};
use crate::body::Body;
use crate::clock::rfc3339;
use crate::cron::Schedule;
use crate::engine::tree::Tree;
use crate::error::VaultError;
use crate::lease::breaker::Gate;
use crate::lease::mark::told;
use crate::lease::store::{Leases, last};
use crate::lease::work::is_mount_gone;
use crate::lease::{BACK_OFF_MAX, back_off};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::service::Vault;
use crate::stored::{decode, encode};
use crate::sys::passwords::letters_and_digits;
use crate::view::View;
use audit::{Decision, Outcome, Record};
use envelope::Timestamp;
use identity::ChangeError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Batch, EntryPath, Revision};
use zeroize::Zeroizing;

pub(super) const SHELF: Shelf = Shelf { data: "s", list: "ls" };

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Static {
    name: String,
    db_name: String,
    /// One, or two in turn.
    usernames: Vec<String>,
    /// Which of them is given out.
    active: usize,
    password: Zeroizing<String>,
    /// To be the next one's, and perhaps its already.
    next_password: Option<Zeroizing<String>>,
    period_secs: u64,
    schedule: String,
    window_secs: u64,
    overlap_secs: u64,
    rotation_statements: Vec<String>,
    /// Unix milliseconds; zero is never.
    rotated: u64,
    /// When the other account's password ends.
    retires: Option<u64>,
    due: u64,
    attempts: u32,
    /// Until then somebody is at the database for it, who lets go by zero.
    held: u64,
}

impl std::fmt::Debug for Static {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Static").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A record, and where it stands.
struct Found {
    mount: String,
    view: View,
    path: EntryPath,
    revision: Revision,
    role: Static,
}

impl Static {
    /// When it is rotated next.
    fn next_rotation(&self, now: Timestamp) -> u64 {
        let next = match Schedule::parse(&self.schedule) {
            Some(schedule) => schedule.after(now).unwrap_or(now.plus(BACK_OFF_MAX)),
            None => Timestamp::from_unix_millis(self.rotated).plus(Duration::from_secs(self.period_secs)),
        };
        next.unix_millis()
    }

    /// When it is looked at next, where nothing is under way: before it is rotated again the other account is retired.
    fn next_look(&self, now: Timestamp) -> u64 {
        self.retires.unwrap_or_else(|| self.next_rotation(now))
    }

    /// The account that was given out before is in use, as it may be.
    fn overlaps(&self, now: Timestamp) -> bool {
        self.retires.is_some_and(|retires| now.unix_millis() < retires)
    }

    /// A schedule's time is missed once its window is over: then the next one counts.
    fn is_missed(&self, now: Timestamp) -> bool {
        let window = self.due.saturating_add(self.window_secs * 1000);
        !self.schedule.is_empty() && self.window_secs > 0 && self.rotated > 0 && now.unix_millis() > window
    }

    fn username(&self) -> &str {
        self.usernames.get(self.active).map_or("", String::as_str)
    }

    fn standby(&self) -> usize {
        (self.active + 1) % self.usernames.len().max(1)
    }
}

pub(super) async fn read(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        db_name: &'a str,
        username: &'a str,
        usernames: &'a [String],
        #[serde(skip_serializing_if = "is_none")]
        rotation_period: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        rotation_schedule: &'a str,
        #[serde(skip_serializing_if = "is_none")]
        rotation_window: u64,
        overlap: u64,
        rotation_statements: &'a [String],
        credential_type: &'static str,
        last_vault_rotation: String,
    }
    let role: Static = SHELF.load(scope, name).await?;
    Reply::data(&Shown {
        db_name: &role.db_name,
        username: role.username(),
        usernames: &role.usernames,
        rotation_period: role.period_secs,
        rotation_schedule: &role.schedule,
        rotation_window: role.window_secs,
        overlap: role.overlap_secs,
        rotation_statements: &role.rotation_statements,
        credential_type: "password",
        last_vault_rotation: rfc3339(Timestamp::from_unix_millis(role.rotated)),
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_none(secs: &u64) -> bool {
    *secs == 0
}

pub(super) async fn creds(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        username: &'a str,
        password: &'a str,
        last_vault_rotation: String,
        #[serde(skip_serializing_if = "is_none")]
        rotation_period: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        rotation_schedule: &'a str,
        ttl: u64,
    }
    let role: Static = SHELF.load(scope, name).await?;
    if role.rotated == 0 {
        return Err(VaultError::Unavailable("DATABASE_UNAVAILABLE"));
    }
    Reply::data(&Shown {
        username: role.username(),
        password: &role.password,
        last_vault_rotation: rfc3339(Timestamp::from_unix_millis(role.rotated)),
        rotation_period: role.period_secs,
        rotation_schedule: &role.schedule,
        ttl: Timestamp::from_unix_millis(role.next_rotation(scope.now())).since(scope.now()).as_secs(),
    })
}

/// A new one is rotated at once: what was there before is known to others.
pub(super) async fn write(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    check_name(name)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = SHELF.find::<Static>(scope, name).await?;
        if found.is_some() {
            scope.may_change()?;
        }
        let was = found.as_ref().map(|(role, revision)| (role.due, *revision));
        let db_name = found.as_ref().map(|(role, _)| role.db_name.clone());
        let mut role = changed(&scope.call.body, found.map(|(role, _)| role).unwrap_or_default())?;
        if db_name.is_some_and(|db_name| db_name != role.db_name) {
            // what was given, or was to be, is another database's
            (role.rotated, role.next_password, role.retires) = (0, None, None);
        }
        let loaded = config::find(scope, &role.db_name).await?;
        let loaded = loaded.ok_or_else(|| VaultError::field("db_name", "there is no such configuration"))?;
        if !loaded.config.allows(name) {
            return Err(VaultError::Invalid(format!("\"{name}\" is not an allowed role").into()));
        }
        if role.usernames.contains(&loaded.target.username) {
            return Err(VaultError::field("username", "the configuration's own account: see rotate-root"));
        }
        name.clone_into(&mut role.name);
        role.due = match role.rotated == 0 || role.next_password.is_some() {
            true => scope.now().plus(HELD_FOR).unix_millis(),
            false => role.next_look(scope.now()),
        };
        role.due = role.due.max(role.held);
        let path = SHELF.path(scope, name)?;
        let batch = requeued(scope.vault, scope.batch()?, (&scope.mount.id, &path), was.map(|(due, _)| due), role.due)?;
        let batch = SHELF.put(scope, batch, (name, was.map(|(_, revision)| revision)), &role).await?;
        match scope.commit(batch).await {
            Err(ChangeError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) if role.rotated == 0 => return turn(scope, name, Some(0)).await,
            Ok(_) => return Ok(Reply::empty()),
        }
    }
    Err(VaultError::Conflict)
}

fn changed(body: &Body, mut role: Static) -> Result<Static, VaultError> {
    if let Some(db_name) = body.string("db_name")? {
        role.db_name = db_name.to_string();
    }
    let names = match (body.list("usernames")?, body.string("username")?) {
        (Some(names), _) => Some(names),
        (None, Some(name)) => Some(vec![name.to_string()]),
        (None, None) => None,
    };
    if let Some(names) = names {
        let same = role.usernames.is_empty() || role.usernames == names;
        let sound =
            matches!(names.len(), 1 | 2) && names.first() != names.get(1) && names.iter().all(|n| !n.is_empty());
        if !same || !sound {
            return Err(VaultError::field("username", "one name, or two in `usernames`; they stay as they are"));
        }
        role.usernames = names;
    }
    for (field, secs) in [
        ("rotation_period", &mut role.period_secs),
        ("rotation_window", &mut role.window_secs),
        ("overlap", &mut role.overlap_secs),
    ] {
        if body.has(field) {
            *secs = body.duration(field)?.map_or(0, |ttl| ttl.as_secs());
        }
    }
    if let Some(schedule) = body.string("rotation_schedule")? {
        role.schedule = schedule.to_string();
        if !role.schedule.is_empty() && Schedule::parse(&role.schedule).is_none() {
            return Err(VaultError::field("rotation_schedule", "not five fields of cron, in numbers"));
        }
    }
    role.rotation_statements = statements(body, "rotation_statements")?.unwrap_or(role.rotation_statements);
    if role.db_name.is_empty() || role.usernames.is_empty() {
        return Err(VaultError::field(if role.db_name.is_empty() { "db_name" } else { "username" }, "missing"));
    }
    if role.schedule.is_empty() == (role.period_secs == 0)
        || (role.schedule.is_empty() && role.period_secs < PERIOD_MIN)
    {
        return Err(VaultError::field("rotation_period", "5s or more, or `rotation_schedule` instead"));
    }
    Ok(role)
}

pub(super) async fn delete(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let path = SHELF.path(scope, name)?;
    let mut patience = Patience::default();
    loop {
        let Some((role, revision)) = SHELF.find::<Static>(scope, name).await? else { return Ok(Reply::empty()) };
        // another of the same name would not know of whoever is at the database
        if role.held <= now(scope).unix_millis() {
            let batch = scope.batch()?.revision_is(path.clone(), revision);
            let entry = queued(scope.vault, &scope.mount.id, &path, role.due)?;
            match scope.commit(SHELF.remove(scope, batch, name)?.delete(entry)).await {
                Err(ChangeError::Conflict(_)) => {}
                outcome => return Ok(outcome.map(|_| Reply::empty())?),
            }
        }
        patience.wait(scope).await?;
    }
}

pub(super) async fn rotate_now(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    turn(scope, name, None).await
}

/// Waits for its turn; who was quicker has done what is asked here, where it was not rotated `before`.
async fn turn(scope: &Scope<'_>, name: &str, mut before: Option<u64>) -> Result<Reply, VaultError> {
    let mut patience = Patience::default();
    loop {
        let (view, path) = (scope.view()?, SHELF.path(scope, name)?);
        let (role, revision) = SHELF.find::<Static>(scope, name).await?.ok_or(VaultError::NotFound)?;
        if role.rotated != *before.get_or_insert(role.rotated) && role.rotated != 0 {
            return Ok(Reply::empty());
        }
        let mut found = Found { mount: scope.mount.id.clone(), view, path, revision, role };
        if found.role.held <= now(scope).unix_millis() {
            match rotate_found(scope, &mut found).await {
                Err(VaultError::Conflict) => {}
                outcome => return outcome.map(|()| Reply::empty()),
            }
        }
        patience.wait(scope).await?;
    }
}

async fn rotate_found(scope: &Scope<'_>, found: &mut Found) -> Result<(), VaultError> {
    if found.role.overlaps(now(scope)) {
        let until = rfc3339(Timestamp::from_unix_millis(found.role.retires.unwrap_or_default()));
        let why = format!("the account that was given out before stays as it is until {until}: there is an overlap");
        return Err(VaultError::Invalid(why.into()));
    }
    let by = Hand { vault: scope.vault, asker: Some(scope) };
    if found.role.retires.is_some() {
        by.retire(found, now(scope)).await?.map_err(|error| refused(&error, true))?;
    }
    by.rotate(found, now(scope)).await?.map_err(|error| refused(&error, true))
}

/// As late as it is: the request may have waited.
fn now(scope: &Scope<'_>) -> Timestamp {
    scope.now().plus(scope.call.info.began.elapsed())
}

/// For what somebody else does just now.
#[derive(Debug, Default)]
struct Patience {
    pause: Duration,
}

impl Patience {
    async fn wait(&mut self, scope: &Scope<'_>) -> Result<(), VaultError> {
        if scope.call.info.began.elapsed() > WAITED_FOR {
            return Err(VaultError::Unavailable("DATABASE_UNAVAILABLE"));
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

/// By whom a role is looked after: a caller, or the queue.
#[derive(Clone, Copy)]
struct Hand<'a> {
    vault: &'a Vault,
    asker: Option<&'a Scope<'a>>,
}

impl Hand<'_> {
    /// The other account, or the only one, gets the next password; from then on it is the one that is given out.
    async fn rotate(self, found: &mut Found, now: Timestamp) -> Result<Result<(), DatabaseError>, VaultError> {
        let began = Instant::now();
        let next = match found.role.next_password.clone() {
            Some(next) => next,
            None => {
                let policy = config_of(found).await?.map(|config| config.password_policy).unwrap_or_default();
                password::make(self.vault, &policy).await?
            }
        };
        self.hold(found, Some(next.clone()), now).await?;
        let standby = found.role.standby();
        let name = found.role.usernames.get(standby).cloned().unwrap_or_default();
        let set = async {
            let (plugin, to) = database_of(self.vault, found).await?;
            plugin.set_password(&to, &name, &next, &found.role.rotation_statements).await?;
            plugin.verify_login(&to, &name, &next).await
        };
        let set = in_turn(began, set).await;
        let now = now.plus(began.elapsed());
        if let Err(error) = set {
            self.later(found, &error, now).await?;
            return Ok(Err(error));
        }
        let given = |role: &mut Static| {
            (role.password, role.next_password, role.attempts) = (next.clone(), None, 0);
            (role.active, role.rotated) = (standby, now.unix_millis());
            let retires = now.plus(Duration::from_secs(role.overlap_secs)).unix_millis();
            role.retires = (role.usernames.len() > 1).then_some(retires);
            (role.held, role.due) = (0, role.next_look(now));
        };
        self.settle(found, given, Outcome::Done, now).await.map(Ok)
    }

    /// The account that is not given out any more gets a password that nobody knows, once nobody is in with it.
    async fn retire(self, found: &mut Found, now: Timestamp) -> Result<Result<(), DatabaseError>, VaultError> {
        let began = Instant::now();
        let next = found.role.next_password.clone();
        self.hold(found, next, now).await?;
        let name = found.role.usernames.get(found.role.standby()).cloned().unwrap_or_default();
        let nobodys = letters_and_digits(self.vault.barrier(), 32)?;
        let ended = async {
            let (plugin, to) = database_of(self.vault, found).await?;
            match plugin.sessions(&to, &name).await? {
                0 => plugin.set_password(&to, &name, &nobodys, &found.role.rotation_statements).await,
                count => Err(DatabaseError::Refused(format!("{count} sessions of `{name}` are open"))),
            }
        };
        let ended = in_turn(began, ended).await;
        let now = now.plus(began.elapsed());
        if let Err(error) = ended {
            self.later(found, &error, now).await?;
            return Ok(Err(error));
        }
        let retired = |role: &mut Static| {
            (role.retires, role.attempts) = (None, 0);
            (role.held, role.due) = (0, role.next_rotation(now));
        };
        self.settle(found, retired, Outcome::Done, now).await.map(Ok)
    }

    /// From here on the others wait. A conflict where one of them was quicker.
    async fn hold(
        self,
        found: &mut Found,
        next_password: Option<Zeroizing<String>>,
        now: Timestamp,
    ) -> Result<(), VaultError> {
        let held = now.plus(HELD_FOR).unix_millis();
        let role = Static { next_password, held, due: held, ..found.role.clone() };
        // whoever asks may be gone before it is done
        let name = role.name.clone();
        let record = match self.asker {
            Some(scope) => scope.record(scope.subject(), Decision::Allowed, Outcome::Asked),
            None => told(now, OPERATION, &name, Outcome::Asked),
        };
        store(self.vault, found, role, &record).await
    }

    /// What was sent may reach the database still: nobody else is at it until then.
    async fn later(self, found: &mut Found, error: &DatabaseError, now: Timestamp) -> Result<(), VaultError> {
        let [jitter] = self.vault.barrier().random::<1>()?;
        let lingers = match error {
            DatabaseError::Unknown(_) => now.plus(LINGERS).unix_millis(),
            DatabaseError::Unreachable(_) | DatabaseError::Refused(_) => 0,
        };
        let failed = |role: &mut Static| {
            role.attempts = role.attempts.saturating_add(1);
            role.held = lingers;
            // whoever waits comes before the queue
            role.due = now.plus(back_off(role.attempts, jitter)).unix_millis().max(lingers.saturating_add(1000));
        };
        self.settle(found, failed, Outcome::Failed("DATABASE_REFUSED".into()), now).await
    }

    /// What came of it, whatever else was written to the record meanwhile. A conflict where that is held by somebody else, gone,
    /// or of another database.
    async fn settle(
        self,
        found: &mut Found,
        change: impl Fn(&mut Static),
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<(), VaultError> {
        let (held, db_name, name) = (found.role.held, found.role.db_name.clone(), found.role.name.clone());
        for _ in 0..ATTEMPTS_MAX {
            let mut role = found.role.clone();
            let is_same = role.db_name == db_name;
            let outcome = if is_same { outcome.clone() } else { Outcome::Failed("CONFLICT".into()) };
            match is_same {
                true => change(&mut role),
                false => (role.held, role.due) = (0, now.unix_millis()),
            }
            match store(self.vault, found, role, &told(now, OPERATION, &name, outcome)).await {
                Err(VaultError::Conflict) => {}
                Ok(()) if !is_same => break,
                stored => return stored,
            }
            let record = found.view.load(&found.path).await?.ok_or(VaultError::Conflict)?;
            (found.role, found.revision) = (decode(record.value.expose())?, record.revision);
            if found.role.held != held {
                break;
            }
        }
        Err(VaultError::Conflict)
    }
}

/// Is over before it is another's turn.
async fn in_turn(began: Instant, asked: impl Future<Output = Result<(), DatabaseError>>) -> Result<(), DatabaseError> {
    let over = tokio::time::timeout(TURN.saturating_sub(began.elapsed()), asked).await;
    over.unwrap_or_else(|_| Err(DatabaseError::Unknown("not done in time".to_owned())))
}

/// By its name: one that was deleted and written again is as good.
async fn config_of(found: &Found) -> Result<Option<config::Config>, VaultError> {
    let slot = Tree::new(&found.view, config::SHELF.list).data(config::SHELF.data, &found.role.db_name)?;
    found.view.load(&slot).await?.map(|opened| decode(opened.value.expose())).transpose()
}

async fn database_of(vault: &Vault, found: &Found) -> Result<(Arc<dyn DatabasePlugin>, Connection), DatabaseError> {
    let config = config_of(found).await.map_err(not_told)?;
    let config = config.ok_or_else(|| DatabaseError::Refused("its configuration is gone".to_owned()))?;
    reached(vault, &config.target).await
}

async fn store(vault: &Vault, found: &mut Found, role: Static, record: &Record<'_>) -> Result<(), VaultError> {
    let batch = vault.changes().batch()?.revision_is(found.path.clone(), found.revision);
    let batch = requeued(vault, batch, (&found.mount, &found.path), Some(found.role.due), role.due)?;
    let batch = found.view.put(batch, found.path.clone(), &encode(&role)?)?;
    found.revision = vault.commit(batch, record).await?;
    found.role = role;
    Ok(())
}

fn queued(vault: &Vault, mount: &str, path: &EntryPath, due: u64) -> Result<EntryPath, VaultError> {
    Leases::of(vault)?.view.path(&format!("{QUEUE}/{due:016x}/{mount}/{}", last(path)))
}

fn requeued(
    vault: &Vault,
    batch: Batch,
    (mount, path): (&str, &EntryPath),
    was: Option<u64>,
    due: u64,
) -> Result<Batch, VaultError> {
    let is = queued(vault, mount, path, due)?;
    let batch = match was {
        Some(was) if was != due => batch.delete(queued(vault, mount, path, was)?),
        Some(_) | None => batch,
    };
    Leases::of(vault)?.view.put(batch, is, &[])
}

/// Rotates what is due, a bounded number.
pub(crate) async fn work(vault: &Vault, now: Timestamp) -> Result<usize, VaultError> {
    let queue = Leases::of(vault)?.view.path(QUEUE)?;
    let claims = vault.barrier().storage().claim(&queue, CLAIMED_AT_ONCE, CLAIMED_FOR).await?;
    let all = claims.iter().map(|claim| async move {
        if let Err(error) = attend(vault, &claim.path, claim.fence, now).await {
            tracing::warn!(%error, "a static role that is due was not rotated; it stays due");
        }
    });
    futures_util::future::join_all(all).await;
    Ok(claims.len())
}

async fn attend(vault: &Vault, entry: &EntryPath, fence: Revision, now: Timestamp) -> Result<(), VaultError> {
    let mut segments = entry.as_str().rsplit('/');
    let (Some(slot), Some(mount)) = (segments.next(), segments.next()) else { return Ok(()) };
    let view = vault.view(mount)?;
    let path = view.path(&format!("{}/{slot}", SHELF.data))?;
    let record = view.load(&path).await?;
    let role: Option<Static> = record.as_ref().map(|found| decode(found.value.expose())).transpose()?;
    let is_gone = is_mount_gone(vault, mount).await?;
    let (Some(role), Some(record), false) = (role, record, is_gone) else {
        return is_hint(vault, entry, fence, now).await;
    };
    if queued(vault, mount, &path, role.due)? != *entry {
        return is_hint(vault, entry, fence, now).await;
    }
    // due by the store's clock, whatever ours says
    let now = now.max(Timestamp::from_unix_millis(role.due));
    let mut found = Found { mount: mount.to_owned(), view, path, revision: record.revision, role };
    if found.role.next_password.is_none() && found.role.retires.is_none() && found.role.is_missed(now) {
        let mut role = found.role.clone();
        role.due = role.next_rotation(now);
        let name = role.name.clone();
        let record = told(now, OPERATION, &name, Outcome::Failed("WINDOW_MISSED".into()));
        return store(vault, &mut found, role, &record).await;
    }
    let target = config_of(&found).await?.map(|config| config.target).unwrap_or_default();
    // one that is away is asked by one: this stays claimed for a while
    if vault.breakers().gate(&target, now) == Gate::Shut {
        return Ok(());
    }
    let retires = found.role.retires.is_some() && found.role.next_password.is_none();
    let by = Hand { vault, asker: None };
    let outcome = match retires {
        true => by.retire(&mut found, now).await,
        false => by.rotate(&mut found, now).await,
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            vault.breakers().not_asked(&target, now);
            // a caller was quicker, or has changed it
            return if matches!(error, VaultError::Conflict) { Ok(()) } else { Err(error) };
        }
    };
    match &outcome {
        Err(DatabaseError::Unreachable(_) | DatabaseError::Unknown(_)) => vault.breakers().unreachable(&target, now),
        Ok(()) | Err(DatabaseError::Refused(_)) => vault.breakers().reached(&target),
    }
    if let Err(error) = outcome {
        tracing::warn!(role = found.role.name, retires, %error, "a static role was not rotated; it is tried again");
    }
    Ok(())
}

/// It leads to nothing, or to what stands elsewhere in the queue.
async fn is_hint(vault: &Vault, entry: &EntryPath, fence: Revision, now: Timestamp) -> Result<(), VaultError> {
    let batch = vault.changes().batch()?.revision_is(entry.clone(), fence).delete(entry.clone());
    Ok(vault.commit(batch, &told(now, "DatabaseHint", "", Outcome::Done)).await.map(drop)?)
}

const QUEUE: &str = "rotate";
const PERIOD_MIN: u64 = 5;
/// How long a role is left to whoever holds it: a turn, and clocks that differ.
const HELD_FOR: Duration = Duration::from_secs(25);
/// So long may the database take. A request has thirty seconds, of which it waits, retires and rotates.
const TURN: Duration = Duration::from_secs(10);
const WAITED_FOR: Duration = Duration::from_secs(8);
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Longer than what was sent is sent again, and than a statement of it may take.
const LINGERS: Duration = Duration::from_secs(11);
const OPERATION: &str = "DatabaseRotate";
/// Longer than a rotation takes.
const CLAIMED_FOR: Duration = Duration::from_secs(45);
const CLAIMED_AT_ONCE: u32 = 4;
