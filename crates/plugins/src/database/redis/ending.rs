//! How users end: several at once, where several end at the same moment.

use super::link::Failed;
use super::server::{NOT_SAVED, Server, mark};
use crate::database::together::Step;
use crate::database::{LOOKED_FOR_SESSIONS, Outcome, SESSIONS_PAUSE, refused, within};
use crate::fault;
use std::collections::HashMap;
use std::sync::Arc;
use vault::engine::database::plugin::{Connection, DatabaseError, User};

/// A user whose time is over.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub(super) name: String,
    pub(super) lease: String,
}

impl Gone {
    pub(super) fn of(user: &User<'_>) -> Self {
        Self { name: user.name.to_owned(), lease: user.lease.to_owned() }
    }
}

/// No login, no password, no command, no channel, no connection.
#[derive(Debug)]
pub(super) struct EndAccess(pub(super) Arc<Server>);

/// Nothing left.
#[derive(Debug)]
pub(super) struct CleanUp(pub(super) Arc<Server>);

#[async_trait::async_trait]
impl Step for EndAccess {
    type Item = Gone;
    type Answer = ();
    const ALONE_IF_AWAY: bool = false;

    async fn all(&self, to: &Connection, users: &[Gone]) -> Outcome<Vec<Outcome<()>>> {
        let left = within(end_access(&self.0, to, users)).await?;
        let ended = |user: &Gone| match left.contains_key(user.name.as_str()) {
            true => Err(refused("connections do not end")),
            false => Ok(()),
        };
        Ok(users.iter().map(ended).collect())
    }
}

#[async_trait::async_trait]
impl Step for CleanUp {
    type Item = Gone;
    type Answer = ();
    const ALONE_IF_AWAY: bool = false;

    async fn all(&self, to: &Connection, users: &[Gone]) -> Outcome<Vec<Outcome<()>>> {
        within(clean_up(&self.0, to, users)).await?;
        Ok(users.iter().map(|_| Ok(())).collect())
    }
}

/// Who is left, with how many connections.
async fn end_access<'a>(server: &Server, to: &Connection, users: &'a [Gone]) -> Outcome<HashMap<&'a str, u32>> {
    let its = server.its(to, users).await?;
    if its.is_empty() {
        return Ok(HashMap::new());
    }
    let mut off = redis::pipe();
    for user in &its {
        off.cmd("ACL").arg("SETUSER").arg(&user.name).arg("off").arg("resetpass");
        // who may do nothing is described sooner as well, when users are saved; who is made by this is found by the mark
        off.arg("nocommands").arg("resetchannels").arg("clearselectors").arg(mark(&user.lease, to));
    }
    let changed = server.change(to, off).await.map_err(not_one_by_one);
    fault::point("no-login");
    // also where that is not known to be saved: who is shut out for as long as the server runs is put out as well
    let left = put_out(server, to, its.into_iter().map(|user| user.name.as_str()).collect()).await;
    changed.and(left)
}

/// Commands run one after the other: nobody is let in any more, so that those who are in are all.
async fn put_out<'a>(server: &Server, to: &Connection, mut names: Vec<&'a str>) -> Outcome<HashMap<&'a str, u32>> {
    let looks = if names.len() == 1 { LOOKED_FOR_SESSIONS } else { LOOKED_FOR_SESSIONS / 10 };
    let mut left = HashMap::new();
    for _ in 0..looks {
        kill(server, to, &names).await?;
        left = server.connections(to, &names).await?;
        if left.is_empty() {
            break;
        }
        names = left.keys().copied().collect();
        tokio::time::sleep(SESSIONS_PAUSE).await;
    }
    Ok(left)
}

/// What the server cannot save for all it cannot save for each.
fn not_one_by_one(error: DatabaseError) -> DatabaseError {
    match error {
        DatabaseError::Refused(why) if why.contains(NOT_SAVED) => DatabaseError::Unknown(why),
        DatabaseError::Refused(_) | DatabaseError::Unreachable(_) | DatabaseError::Unknown(_) => error,
    }
}

/// Whoever is gone meanwhile has none: who has some still is seen afterwards.
async fn kill(server: &Server, to: &Connection, names: &[&str]) -> Outcome<()> {
    let mut kill = redis::pipe();
    for name in names {
        kill.cmd("CLIENT").arg("KILL").arg("USER").arg(*name);
    }
    match server.links.ask_all(to, &kill).await {
        Ok(_) => Ok(()),
        Err(Failed::Said(why)) if why.contains("No such user") => Ok(()),
        Err(failed) => Err(failed.into()),
    }
}

async fn clean_up(server: &Server, to: &Connection, users: &[Gone]) -> Outcome<()> {
    let its = server.its(to, users).await?;
    let mut dropped = redis::pipe();
    if !its.is_empty() {
        fault::point("before-drop");
        dropped.cmd("ACL").arg("DELUSER").arg(its.iter().map(|user| user.name.as_str()).collect::<Vec<_>>());
    }
    // also where they are gone: nobody knows whether that was saved
    server.change(to, dropped).await.map_err(not_one_by_one)
}
