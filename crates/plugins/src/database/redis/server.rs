//! What is asked of a server, of several users at once where several are meant.

use super::ending::Gone;
use super::link::{DEFAULT, Failed, Links};
use crate::database::{Outcome, refused};
use redis::{Pipeline, Value, cmd};
use rustls::RootCertStore;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vault::engine::database::plugin::Connection;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) links: Links,
    /// By configuration and its revision: another one may name another server.
    saves: Mutex<HashMap<(String, u64), Arc<Saves>>>,
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
pub(super) enum Stands {
    Nobody,
    Unmarked,
    Marked(String),
}

impl Stands {
    fn read(found: &Value) -> Self {
        if matches!(found, Value::Nil) {
            return Self::Nobody;
        }
        let mut marks = Vec::new();
        texts(found, &mut |text| marks.extend(mark_in(text).map(|(lease, _)| lease.to_owned())));
        marks.pop().map_or(Self::Unmarked, Self::Marked)
    }
}

impl Server {
    pub(super) fn new(roots: RootCertStore) -> Self {
        Self { links: Links::new(roots), saves: Mutex::default() }
    }

    pub(super) async fn stands(&self, to: &Connection, name: &str) -> Outcome<Stands> {
        Ok(Stands::read(&self.links.ask(to, cmd("ACL").arg("GETUSER").arg(name)).await?))
    }

    /// What the server says of each.
    pub(super) async fn all_of(&self, to: &Connection, names: &[&str]) -> Outcome<Vec<Value>> {
        let mut asked = redis::pipe();
        for name in names {
            asked.cmd("ACL").arg("GETUSER").arg(*name);
        }
        if names.is_empty() { Ok(Vec::new()) } else { Ok(self.links.ask_all(to, &asked).await?) }
    }

    /// Those who are there and the leases': who lost its mark is.
    pub(super) async fn its<'a>(&self, to: &Connection, users: &'a [Gone]) -> Outcome<Vec<&'a Gone>> {
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        if names.contains(&DEFAULT) {
            return Err(refused("`default` is nobody's"));
        }
        let found = self.all_of(to, &names).await?;
        let is_its = |user: &Gone, found: &Value| match Stands::read(found) {
            Stands::Nobody => false,
            Stands::Unmarked => true,
            Stands::Marked(lease) => lease == user.lease,
        };
        let its = users.iter().zip(&found).filter(|(user, found)| is_its(user, found));
        Ok(its.map(|(user, _)| user).collect())
    }

    /// Done and saved at once: where the server starts anew in between, and has forgotten it, all of it is asked again.
    pub(super) async fn change(&self, to: &Connection, mut changes: Pipeline) -> Outcome<()> {
        changes.cmd("ACL").arg("SAVE");
        // of what went wrong the first is told: if that is the last command, the others are done
        match self.links.ask_all(to, &changes).await {
            Ok(_) => Ok(()),
            Err(Failed::Said(why)) if why.contains(NO_FILE) => {
                self.saves(to).tell_forgetful();
                Ok(())
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// What is so stays so when the server starts again, where it has a file for that. Of several who ask, one does it.
    pub(super) async fn save(&self, to: &Connection) -> Outcome<()> {
        let saves = self.saves(to);
        let mine = saves.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = saves.done.lock().await;
        if *done >= mine {
            return Ok(());
        }
        let asked = saves.asked.load(Ordering::SeqCst);
        self.change(to, redis::pipe()).await?;
        *done = asked;
        Ok(())
    }

    /// How many each of them has, who has any.
    pub(super) async fn connections<'a>(&self, to: &Connection, names: &[&'a str]) -> Outcome<HashMap<&'a str, u32>> {
        let list: String = self.links.ask(to, cmd("CLIENT").arg("LIST")).await?;
        let mut found: HashMap<&str, u32> = names.iter().map(|name| (*name, 0)).collect();
        for line in list.lines() {
            let its = line.split(' ').find_map(|field| field.strip_prefix("user="));
            if let Some(count) = its.and_then(|name| found.get_mut(name)) {
                *count += 1;
            }
        }
        found.retain(|_, count| *count > 0);
        Ok(found)
    }

    pub(super) fn forget(&self, id: &str) {
        self.links.forget(id);
        self.locked().retain(|(other, _), _| other != id);
    }

    fn saves(&self, to: &Connection) -> Arc<Saves> {
        let mut saves = self.locked();
        saves.retain(|(id, revision), _| *id != to.id || *revision >= to.revision);
        Arc::clone(saves.entry((to.id.clone(), to.revision)).or_default())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<(String, u64), Arc<Saves>>> {
        self.saves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saves {
    /// Told once.
    fn tell_forgetful(&self) {
        if !self.is_forgetful.swap(true, Ordering::Relaxed) {
            tracing::warn!("a Redis without an `aclfile` forgets its users when it starts again");
        }
    }
}

/// As `ACL SETUSER` takes it: a selector of one key and no command.
pub(super) fn mark(lease: &str, to: &Connection) -> String {
    format!("(~{MARK}{lease}{INSTANCE}{})", to.instance)
}

/// Lease and cluster of a mark, wherever it stands in a text.
pub(super) fn mark_in(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once(MARK)?;
    let (lease, rest) = rest.split_once(INSTANCE)?;
    Some((lease, rest.split([' ', ')']).next()?))
}

pub(super) fn texts(value: &Value, each: &mut impl FnMut(&str)) {
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
pub(super) const MARK: &str = "strongroom:lease=";
const INSTANCE: &str = ":instance=";
/// Of what `ACL SAVE` says.
const NO_FILE: &str = "ACL file";
pub(super) const NOT_SAVED: &str = "error trying to save the ACLs";
