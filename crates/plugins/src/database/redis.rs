//! Redis 7, and Valkey by kinship (never tried here): users are ACL users.
//!
//! Always: what the server stores of a password is sent, its SHA-256, and the password itself to log in alone.
//! Always: a user bears a mark that names cluster and lease: a selector that lets it do nothing, set in the same command.
//! Always: access ends before anything is cleaned up: `off` and no password, then no connection; then the user goes.
//! Always: what changed is saved (`ACL SAVE`) before it counts as done, where the server has an `aclfile`.
//! Never: a user that bears another lease's mark is touched, nor `default` as a user of a lease.
//!
//! What Redis cannot do: it has no end for a user of its own accord: where we are dead at that time, it can come in until we
//! are back. Users are each node's own: a replica or another node of a cluster knows none of them. Without an `aclfile` users,
//! and new passwords of users that stay, are gone when the server starts again. There are no groups, settings, limits.
//!
//! What is needed of the account: `+acl +client +info +time`, no keys.

mod link;
mod names;
mod rules;

use super::{LOOKED_FOR_SESSIONS, Outcome, SESSIONS_PAUSE, ahead_millis, refused, within};
use crate::fault;
use aws_lc_rs::digest;
use envelope::Timestamp;
use link::{DEFAULT, Failed, Links};
use redis::{Cmd, Value, cmd};
use rustls::RootCertStore;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use vault::engine::database::plugin::{Connection, DatabaseError, DatabasePlugin, NewUser, OwnUser, Probe, User};

#[derive(Debug)]
pub struct Redis {
    links: Links,
    saves: Mutex<HashMap<String, Arc<Saves>>>,
}

/// Those who wait while one saves are saved together by the next.
#[derive(Debug, Default)]
struct Saves {
    asked: AtomicU64,
    /// Up to which of those who asked.
    done: tokio::sync::Mutex<u64>,
    is_forgetful: AtomicBool,
}

/// What is known of a name.
enum Stands {
    Nobody,
    Unmarked,
    Marked(String),
}

impl Redis {
    /// Without authorities of its own a server is believed by `roots`.
    pub fn new(roots: RootCertStore) -> Self {
        Self { links: Links::new(roots), saves: Mutex::default() }
    }

    async fn stands(&self, to: &Connection, name: &str) -> Outcome<Stands> {
        let found: Value = self.links.ask(to, cmd("ACL").arg("GETUSER").arg(name)).await?;
        if matches!(found, Value::Nil) {
            return Ok(Stands::Nobody);
        }
        let mut marks = Vec::new();
        texts(&found, &mut |text| marks.extend(mark_in(text).map(|(lease, _)| lease.to_owned())));
        Ok(marks.pop().map_or(Stands::Unmarked, Stands::Marked))
    }

    /// What the server says of each.
    async fn all_of(&self, to: &Connection, names: &[&str]) -> Outcome<Vec<Value>> {
        let mut asked = redis::pipe();
        for name in names {
            asked.cmd("ACL").arg("GETUSER").arg(*name);
        }
        if names.is_empty() { Ok(Vec::new()) } else { Ok(self.links.ask_all(to, &asked).await?) }
    }

    /// Whether it is the lease's: who lost its mark is.
    async fn is_its(&self, to: &Connection, user: &User<'_>) -> Outcome<bool> {
        if user.name == DEFAULT {
            return Err(refused("`default` is nobody's"));
        }
        Ok(match self.stands(to, user.name).await? {
            Stands::Nobody => false,
            Stands::Unmarked => true,
            Stands::Marked(lease) => lease == user.lease,
        })
    }

    /// What is so stays so when the server starts again, where it has a file for that.
    async fn save(&self, to: &Connection) -> Outcome<()> {
        let saves = Arc::clone(self.locked().entry(to.id.clone()).or_default());
        let mine = saves.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = saves.done.lock().await;
        if *done >= mine {
            return Ok(());
        }
        let asked = saves.asked.load(Ordering::SeqCst);
        match self.links.ask::<()>(to, cmd("ACL").arg("SAVE")).await {
            Ok(()) => {}
            Err(Failed::Said(why)) if why.contains("ACL file") => {
                if !saves.is_forgetful.swap(true, Ordering::SeqCst) {
                    tracing::warn!("a Redis without an `aclfile` forgets its users when it starts again");
                }
            }
            Err(failed) => return Err(failed.into()),
        }
        *done = asked;
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<Saves>>> {
        self.saves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(&self, to: &Connection, new: &NewUser<'_>) -> Outcome<()> {
        let (name, lease) = (new.user.name, new.user.lease);
        refuse_what_there_is_not(new)?;
        let rules = rules::compile(new.statements, name).map_err(DatabaseError::Refused)?;
        match self.stands(to, name).await? {
            Stands::Nobody => {}
            Stands::Marked(its) if its == lease => {}
            Stands::Unmarked | Stands::Marked(_) => return Err(refused("somebody else has this name")),
        }
        let mut made = cmd("ACL");
        made.arg("SETUSER").arg(name).arg("reset").arg(hashed(new.password)).arg(&rules);
        made.arg(format!("(~{MARK}{lease}{INSTANCE}{})", to.instance)).arg("on");
        // from here on it is not known whether it came to be
        match self.links.ask::<()>(to, &made).await {
            Ok(()) => {}
            Err(Failed::Said(why)) => return Err(DatabaseError::Refused(why)),
            Err(Failed::Lost(why)) => return Err(DatabaseError::Unknown(why)),
        }
        fault::point("before-commit");
        self.save(to).await.map_err(|error| DatabaseError::Unknown(error.to_string()))
    }

    async fn end(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        if !self.is_its(to, user).await? {
            return Ok(());
        }
        self.links.ask::<()>(to, cmd("ACL").arg("SETUSER").arg(user.name).arg("off").arg("resetpass")).await?;
        self.save(to).await?;
        fault::point("no-login");
        // commands run one after the other: nobody is let in any more, so that those who are in are all
        for _ in 0..LOOKED_FOR_SESSIONS {
            self.ask_of_user(to, cmd("CLIENT").arg("KILL").arg("USER").arg(user.name)).await?;
            if self.connections(to, user.name).await? == 0 {
                return Ok(());
            }
            tokio::time::sleep(SESSIONS_PAUSE).await;
        }
        Err(refused("connections do not end"))
    }

    /// That there is no such user is as good.
    async fn ask_of_user(&self, to: &Connection, command: &Cmd) -> Outcome<()> {
        match self.links.ask::<Value>(to, command).await {
            Ok(_) => Ok(()),
            Err(Failed::Said(why)) if why.contains("No such user") => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn connections(&self, to: &Connection, name: &str) -> Outcome<u32> {
        let list: String = self.links.ask(to, cmd("CLIENT").arg("LIST")).await?;
        let its = format!("user={name}");
        let count = list.lines().filter(|line| line.split(' ').any(|field| field == its)).count();
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

#[async_trait::async_trait]
impl DatabasePlugin for Redis {
    async fn probe(&self, to: &Connection, now: Timestamp) -> Outcome<Probe> {
        let probed = async {
            let info: String = self.links.ask(to, cmd("INFO").arg("server")).await?;
            let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
            let (secs, micros): (i64, i64) = self.links.ask(to, &cmd("TIME")).await?;
            self.links.ask::<Value>(to, cmd("ACL").arg("GETUSER").arg(DEFAULT)).await?;
            let millis = secs.saturating_mul(1000).saturating_add(micros / 1000);
            Ok(Probe { version: version.trim().to_owned(), ahead_millis: ahead_millis(millis, now) })
        };
        within(probed).await
    }

    async fn create_user(&self, to: &Connection, user: &NewUser<'_>, _now: Timestamp) -> Outcome<()> {
        fault::point("before-create");
        within(self.create(to, user)).await?;
        fault::point("after-create");
        Ok(())
    }

    async fn renew_user(&self, to: &Connection, user: &User<'_>, _until: Timestamp, _now: Timestamp) -> Outcome<()> {
        if !user.statements.is_empty() {
            return Err(refused("`renew_statements`: there is nothing to renew"));
        }
        if within(self.is_its(to, user)).await? { Ok(()) } else { Err(refused("the user is gone")) }
    }

    async fn end_access(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-end");
        within(self.end(to, user)).await?;
        fault::point("after-end");
        Ok(())
    }

    async fn clean_up(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-clean-up");
        let dropped = async {
            if self.is_its(to, user).await? {
                fault::point("before-drop");
                self.links.ask::<Value>(to, cmd("ACL").arg("DELUSER").arg(user.name)).await?;
            }
            self.save(to).await
        };
        within(dropped).await?;
        fault::point("after-clean-up");
        Ok(())
    }

    async fn set_password(
        &self,
        to: &Connection,
        username: &str,
        password: &str,
        statements: &[String],
    ) -> Outcome<()> {
        if !statements.is_empty() {
            return Err(refused("statements of rotation: a password is set, and nothing else"));
        }
        let name = if username.is_empty() { DEFAULT } else { username };
        let set = async {
            if matches!(self.stands(to, name).await?, Stands::Nobody) {
                return Err(refused("there is no such user"));
            }
            let mut set = cmd("ACL");
            self.links.ask::<()>(to, set.arg("SETUSER").arg(name).arg("resetpass").arg(hashed(password))).await?;
            self.save(to).await
        };
        within(set).await?;
        fault::point("after-set-password");
        Ok(())
    }

    async fn verify_login(&self, to: &Connection, username: &str, password: &str) -> Outcome<()> {
        self.links.dial(to, (username, password)).await.map(drop).map_err(DatabaseError::Unreachable)
    }

    async fn sessions(&self, to: &Connection, username: &str) -> Outcome<u32> {
        within(self.connections(to, username)).await
    }

    async fn own_users(&self, to: &Connection, pages: mpsc::Sender<Vec<OwnUser>>) -> Outcome<()> {
        let mut names = self.links.names(to).await?;
        loop {
            let some = names.next(ASKED_AT_ONCE).await?;
            let asked: Vec<&str> = some.iter().map(String::as_str).collect();
            let found = within(self.all_of(to, &asked)).await?;
            let mut own = Vec::new();
            for (name, found) in some.iter().zip(&found) {
                texts(found, &mut |text| {
                    if let Some((lease, _)) = mark_in(text).filter(|(_, instance)| *instance == to.instance) {
                        own.push(OwnUser { name: name.clone(), lease: lease.to_owned() });
                    }
                });
            }
            let is_last = some.len() < ASKED_AT_ONCE;
            if pages.send(own).await.is_err() || is_last {
                return Ok(());
            }
        }
    }

    async fn strangers(&self, to: &Connection, names: &[&str]) -> Outcome<Vec<String>> {
        let mut strangers = Vec::new();
        for some in names.chunks(ASKED_AT_ONCE) {
            let found = within(self.all_of(to, some)).await?;
            let gone = some.iter().zip(found).filter(|(_, found)| matches!(found, Value::Nil));
            strangers.extend(gone.map(|(name, _)| (*name).to_owned()));
        }
        Ok(strangers)
    }

    fn forget(&self, id: &str) {
        self.links.forget(id);
        self.locked().remove(id);
    }

    fn forget_all(&self) {
        self.links.forget_all();
    }

    fn name_bytes_max(&self) -> usize {
        128
    }
}

fn refuse_what_there_is_not(new: &NewUser<'_>) -> Outcome<()> {
    let asked = [
        (!new.groups.is_empty(), "groups"),
        (!new.settings.is_empty(), "settings"),
        (new.connections_max.is_some(), "connection_limit"),
    ];
    match asked.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(refused(&format!("Redis has no `{what}`: `creation_statements` says a user's rules"))),
        None if new.user.name == DEFAULT => Err(refused("`default` is nobody's")),
        None => Ok(()),
    }
}

/// As `ACL SETUSER` takes it.
fn hashed(password: &str) -> String {
    format!("#{}", hex::encode(digest::digest(&digest::SHA256, password.as_bytes())))
}

/// Lease and cluster of a mark, wherever it stands in a text.
fn mark_in(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once(MARK)?;
    let (lease, rest) = rest.split_once(INSTANCE)?;
    Some((lease, rest.split([' ', ')']).next()?))
}

fn texts(value: &Value, each: &mut impl FnMut(&str)) {
    if let Value::BulkString(bytes) = value {
        each(&String::from_utf8_lossy(bytes));
    } else if let Value::Array(values) | Value::Set(values) = value {
        values.iter().for_each(|value| texts(value, each));
    } else if let Value::Map(pairs) = value {
        for (key, value) in pairs {
            texts(key, each);
            texts(value, each);
        }
    }
}

/// Keys of this name are nobody's: the selector that names them has no command.
const MARK: &str = "strongroom:lease=";
const INSTANCE: &str = ":instance=";
/// Of the server, which does nothing else meanwhile: a few milliseconds.
const ASKED_AT_ONCE: usize = 128;
