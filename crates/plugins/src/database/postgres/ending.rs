//! How users end: several at once, where several end at the same moment.

use super::pool::Pools;
use super::{MARK, roles, rows, run, script, sql};
use crate::database::together::Step;
use crate::database::{LOOKED_FOR_SESSIONS, Outcome, SESSIONS_PAUSE, refused, within_share};
use crate::fault;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_postgres::{Client, SimpleQueryRow};
use vault::engine::database::plugin::{Connection, DatabaseError, User};

/// A user whose time is over.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    name: String,
    lease: String,
    statements: Vec<String>,
    heir: Option<String>,
}

impl Gone {
    pub(super) fn of(user: &User<'_>) -> Self {
        Self {
            name: user.name.to_owned(),
            lease: user.lease.to_owned(),
            statements: user.statements.to_vec(),
            heir: user.heir.map(str::to_owned),
        }
    }
}

/// No login, no password. The role's oid, where there is one.
#[derive(Debug)]
pub(super) struct ShutOut(pub(super) Arc<Pools>);

/// No session. A second time, a while after the first: who was let in just before may become a session just after.
#[derive(Debug)]
pub(super) struct EndSessions(pub(super) Arc<Pools>);

/// Nothing left.
#[derive(Debug)]
pub(super) struct CleanUp(pub(super) Arc<Pools>);

#[async_trait::async_trait]
impl Step for ShutOut {
    type Item = Gone;
    type Answer = Option<u32>;

    async fn all(&self, to: &Connection, users: &[Gone]) -> Outcome<Vec<Outcome<Option<u32>>>> {
        let client = self.0.take(to).await?;
        let oids = within_share(users.len(), shut_out(&client, users)).await?;
        client.keep();
        Ok(oids.into_iter().map(Ok).collect())
    }
}

#[async_trait::async_trait]
impl Step for EndSessions {
    type Item = u32;
    type Answer = ();

    async fn all(&self, to: &Connection, oids: &[u32]) -> Outcome<Vec<Outcome<()>>> {
        let client = self.0.take(to).await?;
        let left = within_share(oids.len(), end_sessions(&client, oids)).await?;
        client.keep();
        let ended = |oid: &u32| match left.get(oid) {
            None => Ok(()),
            Some(sessions) => Err(DatabaseError::Refused(format!("{sessions} sessions do not end"))),
        };
        Ok(oids.iter().map(ended).collect())
    }
}

#[async_trait::async_trait]
impl Step for CleanUp {
    type Item = Gone;
    type Answer = ();

    async fn all(&self, to: &Connection, users: &[Gone]) -> Outcome<Vec<Outcome<()>>> {
        let client = self.0.take(to).await?;
        within_share(users.len(), clean_up(&self.0, &client, to, users)).await?;
        client.keep();
        Ok(users.iter().map(|_| Ok(())).collect())
    }
}

async fn shut_out(client: &Client, users: &[Gone]) -> Outcome<Vec<Option<u32>>> {
    let mut oids = ours(client, users).await?;
    if oids.contains(&None) {
        come_to_be(client, users, &oids).await?;
        oids = ours(client, users).await?;
    }
    let found: Vec<u32> = oids.iter().copied().flatten().collect();
    if found.is_empty() {
        return Ok(oids);
    }
    let mut text = String::new();
    for (user, _) in users.iter().zip(&oids).filter(|(_, oid)| oid.is_some()) {
        let name = sql::ident(&user.name);
        text.push_str(&format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL CONNECTION LIMIT 0 VALID UNTIL '-infinity';"));
    }
    join(client, &found).await?;
    // before, too: who changes its own password in a transaction that it leaves open keeps the role from being changed
    terminate(client, &found).await?;
    run(client, &format!("BEGIN; {} {text} COMMIT", sql::hurry(users.len()))).await?;
    fault::point("no-login");
    terminate(client, &found).await?;
    Ok(oids)
}

/// A role that is being committed is not seen yet, and would come to be when its lease is gone: whoever wants its name waits
/// for that commit, or fails. Nothing is left of the attempt.
async fn come_to_be(client: &Client, users: &[Gone], oids: &[Option<u32>]) -> Outcome<()> {
    let missing = || users.iter().zip(oids).filter(|(_, oid)| oid.is_none()).map(|(user, _)| user.name.as_str());
    // others' roles of these names
    let there = roles(client, missing()).await?;
    let free = missing().filter(|name| !there.iter().any(|other| other == name));
    let text: String = free.map(|name| format!("CREATE ROLE {} NOLOGIN;", sql::ident(name))).collect();
    if text.is_empty() {
        return Ok(());
    }
    run(client, &format!("BEGIN; {} {text} ROLLBACK", sql::hurry(users.len()))).await
}

/// How many are left of whom.
async fn end_sessions(client: &Client, oids: &[u32]) -> Outcome<BTreeMap<u32, u32>> {
    // of several, one whose sessions stay is waited for by itself
    let looks = if oids.len() == 1 { LOOKED_FOR_SESSIONS } else { LOOKED_FOR_SESSIONS / 10 };
    let mut left = BTreeMap::new();
    for _ in 0..looks {
        left = terminate(client, oids).await?;
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(SESSIONS_PAUSE).await;
    }
    Ok(left)
}

async fn terminate(client: &Client, oids: &[u32]) -> Outcome<BTreeMap<u32, u32>> {
    let end = format!(
        "SELECT usesysid, count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE usesysid IN ({}) AND pid <> pg_backend_pid() GROUP BY usesysid",
        numbers(oids)
    );
    let found = rows(client, &end).await?;
    let left = found.iter().map(|row| Some((row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?)));
    left.collect::<Option<_>>().ok_or_else(|| DatabaseError::Refused("sessions that cannot be counted".to_owned()))
}

async fn clean_up(pools: &Pools, client: &Client, to: &Connection, users: &[Gone]) -> Outcome<()> {
    let oids = ours(client, users).await?;
    let mut found: Vec<(&Gone, u32)> = users.iter().zip(oids).filter_map(|(user, oid)| Some((user, oid?))).collect();
    let oids: Vec<u32> = found.iter().map(|(_, oid)| *oid).collect();
    if found.is_empty() {
        return Ok(());
    }
    join(client, &oids).await?;
    for (user, _) in found.iter().filter(|(user, _)| !user.statements.is_empty()) {
        let text = script(&user.statements, &[("name", &user.name), ("username", &user.name)])?;
        run(client, &format!("BEGIN; {} COMMIT", *text)).await?;
    }
    let heirs: BTreeSet<&str> = found.iter().filter_map(|(user, _)| user.heir.as_deref()).collect();
    for heir in heirs {
        powerless(client, heir).await?;
    }
    // what they own and what they were granted, wherever: the catalogue of dependencies is shared
    let elsewhere = format!(
        "SELECT datname FROM pg_database WHERE datallowconn AND datname <> current_database() AND oid IN \
         (SELECT dbid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid IN ({}))",
        numbers(&oids)
    );
    for row in rows(client, &elsewhere).await? {
        // that it is away says nothing of the server
        let other = pools.dial(to, row.get(0), None).await.map_err(|error| refused(&error.to_string()))?;
        leave_nothing(&other, &found).await?;
        fault::point("between-databases");
    }
    // a role's own texts may have dropped it
    let left = roles(client, found.iter().map(|(user, _)| user.name.as_str())).await?;
    found.retain(|(user, _)| left.contains(&user.name));
    if !found.is_empty() {
        leave_nothing(client, &found).await?;
        fault::point("before-drop");
        run(client, &format!("DROP ROLE IF EXISTS {}", names(&found))).await?;
    }
    Ok(())
}

/// In one database.
async fn leave_nothing(client: &Client, users: &[(&Gone, u32)]) -> Outcome<()> {
    let mut text = String::new();
    for (user, oid) in users {
        let Some(heir) = &user.heir else { continue };
        let_run_as_callers(client, *oid).await?;
        text.push_str(&format!("REASSIGN OWNED BY {} TO {};", sql::ident(&user.name), sql::ident(heir)));
    }
    run(client, &format!("BEGIN; {} {text} DROP OWNED BY {}; COMMIT", sql::hurry(users.len()), names(users))).await
}

/// The roles' oids, where there are some. One that bears another lease's mark is not the lease's; who lost its mark is.
pub(super) async fn ours(client: &Client, users: &[Gone]) -> Outcome<Vec<Option<u32>>> {
    let query = format!(
        "SELECT rolname, oid, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname IN ({})",
        sql::literals(users.iter().map(|user| user.name.as_str()))
    );
    let found = rows(client, &query).await?;
    let oid = |user: &Gone| {
        let is_its = |row: &&SimpleQueryRow| {
            let mark = row.get(2).unwrap_or_default();
            row.get(0) == Some(&user.name)
                && (!mark.starts_with(MARK) || mark.starts_with(&format!("{MARK}{} ", user.lease)))
        };
        found.iter().find(is_its).and_then(|row| row.get(1)?.parse().ok())
    };
    Ok(users.iter().map(oid).collect())
}

/// Who may end their sessions and drop what they own is their member, or a superuser.
async fn join(client: &Client, oids: &[u32]) -> Outcome<()> {
    let query = format!(
        "SELECT rolname FROM pg_roles WHERE oid IN ({}) AND NOT pg_has_role(current_user, oid, 'USAGE')",
        numbers(oids)
    );
    let found = rows(client, &query).await?;
    let strangers: Vec<String> = found.iter().filter_map(|row| row.get(0).map(sql::ident)).collect();
    if strangers.is_empty() {
        Ok(())
    } else {
        run(client, &format!("GRANT {} TO CURRENT_USER", strangers.join(", "))).await
    }
}

/// Who inherits what a user leaves can do nothing with it, nor be it.
async fn powerless(client: &Client, heir: &str) -> Outcome<()> {
    let name = sql::literal(heir);
    let query = format!(
        "SELECT 1 FROM pg_roles r WHERE rolname = {name} AND NOT (rolcanlogin OR rolsuper OR rolcreaterole OR rolbypassrls) \
             AND NOT EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid)"
    );
    match rows(client, &query).await?.is_empty() {
        false => Ok(()),
        true => Err(DatabaseError::Refused(format!("`{heir}` is no role that can do nothing: NOLOGIN, in no group"))),
    }
}

/// What it leaves to an heir runs as whoever calls it, not as the heir, who owns what others left.
async fn let_run_as_callers(client: &Client, oid: u32) -> Outcome<()> {
    let query = format!("SELECT oid::regprocedure FROM pg_proc WHERE proowner = {oid} AND prosecdef");
    for row in rows(client, &query).await? {
        // as the server quotes it
        run(client, &format!("ALTER ROUTINE {} SECURITY INVOKER", row.get(0).unwrap_or_default())).await?;
    }
    Ok(())
}

/// For `IN (…)`, which holds one at least.
fn numbers(oids: &[u32]) -> String {
    oids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn names(users: &[(&Gone, u32)]) -> String {
    users.iter().map(|(user, _)| sql::ident(&user.name)).collect::<Vec<_>>().join(", ")
}
