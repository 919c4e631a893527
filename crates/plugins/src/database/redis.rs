//! Redis 7, and Valkey by kinship (never tried here): users are ACL users.
//!
//! Always: what the server stores of a password is sent, its SHA-256, and the password itself to log in alone.
//! Always: a user bears a mark that names cluster and lease: a selector that lets it do nothing, set in the same command.
//! Always: access ends before anything is cleaned up: `off`, no password, command, channel, then no connection; then the user goes.
//! Always: who ends at the same moment ends together: the server describes all who changed for each `ACL SAVE`.
//! Always: what changed is saved (`ACL SAVE`) before it counts as done, where the server has an `aclfile`.
//! Never: a user that bears another lease's mark is touched, nor `default` as a user of a lease.
//!
//! What Redis cannot do: it has no end for a user of its own accord: where we are dead at that time, it can come in until we
//! are back. Users are each node's own: a replica or another node of a cluster knows none of them. Without an `aclfile` users,
//! and new passwords of users that stay, are gone when the server starts again. There are no groups, settings, limits.
//!
//! What is needed of the account: `+acl +client +info +time`, no keys.

mod ending;
mod link;
mod names;
mod rules;
mod server;

use super::together::Together;
use super::{Outcome, ahead_millis, refused, sent, within};
use crate::fault;
use aws_lc_rs::digest;
use ending::{CleanUp, EndAccess, Gone};
use envelope::Timestamp;
use link::{DEFAULT, Failed};
use redis::{Value, cmd};
use rustls::RootCertStore;
use server::{MARK, Server, Stands, mark, mark_in, texts};
use std::sync::Arc;
use tokio::sync::mpsc;
use vault::engine::database::plugin::{Connection, DatabaseError, DatabasePlugin, NewUser, OwnUser, Probe, User};

#[derive(Debug)]
pub struct Redis {
    server: Arc<Server>,
    end_access: Together<EndAccess>,
    clean_up: Together<CleanUp>,
}

impl Redis {
    /// Without authorities of its own a server is believed by `roots`.
    pub fn new(roots: RootCertStore) -> Self {
        let server = Arc::new(Server::new(roots));
        Self {
            end_access: Together::new(EndAccess(Arc::clone(&server))),
            clean_up: Together::new(CleanUp(Arc::clone(&server))),
            server,
        }
    }

    async fn create(&self, to: &Connection, new: &NewUser<'_>) -> Outcome<()> {
        let (name, lease) = (new.user.name, new.user.lease);
        refuse_what_there_is_not(new)?;
        let rules = rules::compile(new.statements, name).map_err(DatabaseError::Refused)?;
        match self.server.stands(to, name).await? {
            Stands::Nobody => {}
            Stands::Marked(its) if its == lease => {}
            Stands::Unmarked | Stands::Marked(_) => return Err(refused("somebody else has this name")),
        }
        let mut made = cmd("ACL");
        made.arg("SETUSER").arg(name).arg("reset").arg(hashed(new.password)).arg(&rules);
        made.arg(mark(lease, to)).arg("on");
        // from here on it is not known whether it came to be
        let ((), number) = match self.server.links.ask_numbered(to, &made).await {
            Ok(made) => made,
            Err(Failed::Said(why)) => return Err(DatabaseError::Refused(why)),
            Err(Failed::Lost(why)) => return Err(DatabaseError::Unknown(why)),
        };
        fault::point("before-commit");
        let saved = self.server.save(to).await.map_err(|error| DatabaseError::Unknown(error.to_string()));
        match saved {
            Ok(()) if number != self.server.links.number(to).await => {
                Err(DatabaseError::Unknown("the connection was lost before the user was saved".to_owned()))
            }
            saved => saved,
        }
    }
}

#[async_trait::async_trait]
impl DatabasePlugin for Redis {
    async fn probe(&self, to: &Connection, now: Timestamp) -> Outcome<Probe> {
        let probed = async {
            let info: String = self.server.links.ask(to, cmd("INFO").arg("server")).await?;
            let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
            let (secs, micros): (i64, i64) = self.server.links.ask(to, &cmd("TIME")).await?;
            self.server.links.ask::<Value>(to, cmd("ACL").arg("GETUSER").arg(DEFAULT)).await?;
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
        match within(self.server.its(to, &[Gone::of(user)])).await?.is_empty() {
            true => Err(refused("the user is gone")),
            false => Ok(()),
        }
    }

    async fn end_access(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-end");
        self.end_access.done(to, Gone::of(user)).await?;
        fault::point("after-end");
        Ok(())
    }

    async fn clean_up(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-clean-up");
        self.clean_up.done(to, Gone::of(user)).await?;
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
        if matches!(within(self.server.stands(to, name)).await?, Stands::Nobody) {
            return Err(refused("there is no such user"));
        }
        let mut set = redis::pipe();
        set.cmd("ACL").arg("SETUSER").arg(name).arg("resetpass").arg(hashed(password));
        sent(self.server.change(to, set)).await?;
        fault::point("after-set-password");
        Ok(())
    }

    async fn make_durable(&self, to: &Connection) -> Outcome<()> {
        within(self.server.save(to)).await
    }

    async fn verify_login(&self, to: &Connection, username: &str, password: &str) -> Outcome<()> {
        self.server.links.dial(to, (username, password)).await.map(drop).map_err(DatabaseError::Unreachable)
    }

    async fn sessions(&self, to: &Connection, username: &str) -> Outcome<u32> {
        within(async { Ok(self.server.connections(to, &[username]).await?.into_values().sum()) }).await
    }

    async fn own_users(&self, to: &Connection, pages: mpsc::Sender<Vec<OwnUser>>) -> Outcome<()> {
        let mut names = self.server.links.names(to).await?;
        loop {
            let some = names.next(ASKED_AT_ONCE).await?;
            let asked: Vec<&str> = some.iter().map(String::as_str).collect();
            let found = within(self.server.all_of(to, &asked)).await?;
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
            let found = within(self.server.all_of(to, some)).await?;
            let gone = some.iter().zip(found).filter(|(_, found)| matches!(found, Value::Nil));
            strangers.extend(gone.map(|(name, _)| (*name).to_owned()));
        }
        Ok(strangers)
    }

    fn forget(&self, id: &str) {
        self.server.forget(id);
        self.end_access.forget(id);
        self.clean_up.forget(id);
    }

    fn forget_all(&self) {
        self.server.links.forget_all();
    }

    fn ends_together(&self) -> bool {
        true
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

/// Of the server, which does nothing else meanwhile: a few milliseconds.
const ASKED_AT_ONCE: usize = 128;
