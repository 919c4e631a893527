//! MariaDB: users are accounts, at the host `%` or at the one that a role's `settings` name.
//!
//! Always: an account is marked, with cluster and lease, in a table of ours (`strongroom.leased`) before it is made: MariaDB
//! keeps no words of its own about accounts. Where its role has no texts for that, it is made locked, given what it may do,
//! and unlocked last.
//! Always: what the server stores of a password, and nothing else of it, is sent: the hash of `mysql_native_password`. That
//! is what stands in its logs, and with it alone nobody comes in.
//! Always: access ends before anything is cleaned up: locked, no password, then no session; then the account goes.
//! Never: an account that is marked for another lease is touched; nobody inherits what a user has defined.
//!
//! Where the server's event scheduler is on, an event locks the account a moment after its lease, for where we are dead;
//! where it is off nothing does: `PASSWORD EXPIRE` counts in days, and lets in who changes the password. Of `groups`, which
//! are roles, one can be had, for an account has one default role. `settings` are `host`, `require_ssl`, `max_statement_time`.
//! What a user has defined (views, routines, triggers, events) is dropped, as far as our account sees it; where
//! `owned_objects` is not `drop` it stays, defined by nobody, and does not run.
//!
//! What is needed of the account: `CREATE USER`, `CONNECTION ADMIN`, `PROCESS` on `*.*`; `SELECT` on `mysql.*`; everything on
//! `strongroom.*`; and `WITH GRANT OPTION` or `WITH ADMIN OPTION` what it gives. MySQL itself is refused: it stores passwords
//! otherwise, and none was at hand to try.

mod owned;
mod pool;
mod sql;

use super::{
    LET_IN_WITHIN, LOOKED_FOR_SESSIONS, NET, Outcome, SESSIONS_PAUSE, ahead_millis, but, refused, said, sent, within,
};
use crate::fault;
use envelope::Timestamp;
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Error};
use pool::Pools;
use std::collections::HashSet;
use tokio::sync::mpsc;
use vault::engine::database::plugin::{
    Connection, DatabaseError, DatabasePlugin, NewUser, OwnUser, Probe, USERS_PAGE, User,
};

#[derive(Debug, Default)]
pub struct MariaDb {
    pools: Pools,
}

#[async_trait::async_trait]
impl DatabasePlugin for MariaDb {
    async fn probe(&self, to: &Connection, now: Timestamp) -> Outcome<Probe> {
        let mut conn = self.pools.take(to).await?;
        let probed = async {
            let query = "SELECT VERSION(), CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";
            let found: Vec<(String, i64)> = rows(&mut conn, query).await?;
            let (version, millis) = found.into_iter().next().ok_or_else(|| refused("says nothing of itself"))?;
            if !version.contains("MariaDB") {
                return Err(refused(&format!("this is no MariaDB, but {}: nothing else is served", said(&version))));
            }
            sees_sessions(&mut conn).await?;
            marks(&mut conn).await?;
            Ok(Probe { version, ahead_millis: ahead_millis(millis, now) })
        };
        within(probed).await
    }

    async fn create_user(&self, to: &Connection, user: &NewUser<'_>, now: Timestamp) -> Outcome<()> {
        fault::point("before-create");
        let mut conn = self.pools.take(to).await?;
        within(self.create(&mut conn, to, user, now)).await?;
        fault::point("after-create");
        Ok(())
    }

    async fn renew_user(&self, to: &Connection, user: &User<'_>, until: Timestamp, now: Timestamp) -> Outcome<()> {
        let mut conn = self.pools.take(to).await?;
        let renewed = async {
            let hosts = its_hosts(&mut conn, user).await?;
            let host = hosts.first().ok_or_else(|| refused("the account is gone"))?;
            let end = end_text(&mut conn, until, now).await?;
            let values = [("name", user.name), ("username", user.name), ("expiration", end.as_str())];
            for statement in user.statements {
                run(&mut conn, &rendered(statement, &values)?).await?;
            }
            net(&mut conn, user.name, host, &end).await
        };
        within(renewed).await
    }

    async fn end_access(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-end");
        let mut conn = self.pools.take(to).await?;
        let is_its = within(shut_out(&mut conn, user)).await?;
        drop(conn);
        if is_its {
            // others use the connection meanwhile
            tokio::time::sleep(LET_IN_WITHIN).await;
            let mut conn = self.pools.take(to).await?;
            within(end_sessions(&mut conn, user)).await?;
        }
        fault::point("after-end");
        Ok(())
    }

    async fn clean_up(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-clean-up");
        let mut conn = self.pools.take(to).await?;
        within(clean_up(&mut conn, user)).await?;
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
        let mut conn = self.pools.take(to).await?;
        let hash = sql::hashed(password);
        let set = async {
            let values = [("name", username), ("username", username), ("password", hash.as_str())];
            for statement in statements {
                run(&mut conn, &rendered(statement, &values)?).await?;
            }
            if statements.is_empty() {
                let hosts = hosts(&mut conn, username).await?;
                if hosts.is_empty() {
                    return Err(refused("there is no such account"));
                }
                for host in hosts {
                    let account = account(username, &host)?;
                    run(&mut conn, &format!("ALTER USER {account} IDENTIFIED VIA {NATIVE} USING '{}'", *hash)).await?;
                }
            }
            Ok(())
        };
        sent(set).await?;
        fault::point("after-set-password");
        Ok(())
    }

    async fn verify_login(&self, to: &Connection, username: &str, password: &str) -> Outcome<()> {
        let mut conn = self.pools.dial(to, (username, password)).await?;
        within(run(&mut conn, "SELECT 1")).await?;
        // whoever is in ends before it is told
        conn.disconnect().await.map_err(|error| failed(&error))
    }

    async fn sessions(&self, to: &Connection, username: &str) -> Outcome<u32> {
        let mut conn = self.pools.take(to).await?;
        within(sessions(&mut conn, username)).await
    }

    async fn own_users(&self, to: &Connection, pages: mpsc::Sender<Vec<OwnUser>>) -> Outcome<()> {
        let mut after = String::new();
        loop {
            let query = format!(
                "SELECT name, lease FROM strongroom.leased WHERE instance = {} AND name > {} ORDER BY name LIMIT {USERS_PAGE}",
                sql::literal(&to.instance),
                sql::literal(&after)
            );
            // none is kept while a page is looked at, which may take others
            let mut conn = self.pools.take(to).await?;
            let listed = async {
                marks(&mut conn).await?;
                let marked: Vec<(String, String)> = rows(&mut conn, &query).await?;
                let known = known(&mut conn, marked.iter().map(|(name, _)| name.as_str())).await?;
                Ok((marked, known))
            };
            let (marked, known) = within(listed).await?;
            drop(conn);
            let is_last = marked.len() < USERS_PAGE;
            if let Some((last, _)) = marked.last() {
                last.clone_into(&mut after);
            }
            let there = marked.into_iter().filter(|(name, _)| known.contains(name));
            let own = there.map(|(name, lease)| OwnUser { name, lease }).collect();
            if pages.send(own).await.is_err() || is_last {
                return Ok(());
            }
        }
    }

    async fn strangers(&self, to: &Connection, names: &[&str]) -> Outcome<Vec<String>> {
        let mut conn = self.pools.take(to).await?;
        let known = within(known(&mut conn, names.iter().copied())).await?;
        Ok(but(names, &known))
    }

    fn forget(&self, id: &str) {
        self.pools.forget(id);
    }

    fn forget_all(&self) {
        self.pools.forget_all();
    }

    fn name_bytes_max(&self) -> usize {
        64
    }
}

impl MariaDb {
    async fn create(&self, conn: &mut Conn, to: &Connection, new: &NewUser<'_>, now: Timestamp) -> Outcome<()> {
        let (name, host) = (new.user.name, new.settings.get("host").map_or("%", String::as_str));
        let account = account(name, host)?;
        let limits = limits(new)?;
        for group in new.groups {
            refuse_powerful(conn, group).await?;
        }
        if new.groups.len() > 1 {
            return Err(refused("an account has one default role: name in `groups` the one that holds the others"));
        }
        let end = end_text(conn, new.until, now).await?;
        // before it is marked: what is marked is ours to drop
        if !hosts(conn, name).await?.is_empty() {
            return Err(refused("somebody has this name"));
        }
        mark(conn, to, &new.user).await?;
        let made = self.made(conn, to, new, (&account, &limits, &end)).await;
        if let Err(error) = made {
            // all or nothing: what is not known to be undone is taken back by its lease
            let undone = async {
                for host in hosts(conn, name).await? {
                    run(conn, &format!("DROP USER IF EXISTS {}", self::account(name, &host)?)).await?;
                }
                unmark(conn, &new.user).await
            };
            return Err(if undone.await.is_ok() { error } else { DatabaseError::Unknown(error.to_string()) });
        }
        let known = |error: DatabaseError| DatabaseError::Unknown(error.to_string());
        net(conn, name, host, &end).await.map_err(known)
    }

    async fn made(
        &self,
        conn: &mut Conn,
        to: &Connection,
        new: &NewUser<'_>,
        (account, limits, end): (&str, &str, &str),
    ) -> Outcome<()> {
        let (name, hash) = (new.user.name, sql::hashed(new.password));
        if new.statements.is_empty() {
            let text = format!("CREATE USER {account} IDENTIFIED VIA {NATIVE} USING '{}' {limits} ACCOUNT LOCK", *hash);
            run(conn, &text).await?;
        } else {
            let values = [("name", name), ("username", name), ("password", hash.as_str()), ("expiration", end)];
            for statement in new.statements {
                run(conn, &rendered(statement, &values)?).await?;
            }
        }
        // it is what its statements should have made of it
        let query = format!(
            "SELECT JSON_VALUE(Priv, '$.authentication_string') FROM mysql.global_priv WHERE User = {} COLLATE utf8mb4_bin",
            sql::literal(name)
        );
        let stored: Vec<Option<String>> = rows(conn, &query).await?;
        if stored.is_empty() || stored.iter().any(|stored| stored.as_deref() != Some(hash.as_str())) {
            return Err(refused("its statements make no account of the name and password that they were given"));
        }
        for group in new.groups {
            run(conn, &format!("GRANT {} TO {account}", sql::ident(group))).await?;
        }
        fault::point("before-commit");
        if new.statements.is_empty() {
            run(conn, &format!("ALTER USER {account} ACCOUNT UNLOCK")).await?;
        }
        match new.groups.first() {
            Some(group) => self.default_role(conn, to, (account, group), (name, new.password)).await,
            None => Ok(()),
        }
    }

    /// For another account that takes rights on `mysql.*`; an account may always do it for itself.
    async fn default_role(
        &self,
        conn: &mut Conn,
        to: &Connection,
        (account, group): (&str, &str),
        login: (&str, &str),
    ) -> Outcome<()> {
        let role = sql::ident(group);
        if run(conn, &format!("SET DEFAULT ROLE {role} FOR {account}")).await.is_ok() {
            return Ok(());
        }
        let mut its = self.pools.dial(to, login).await?;
        run(&mut its, &format!("SET DEFAULT ROLE {role}")).await?;
        its.disconnect().await.map_err(|error| failed(&error))
    }
}

/// Locked, no password, no session; whether it is the lease's. Sessions end twice: who was let in just before may become one
/// just after.
async fn shut_out(conn: &mut Conn, user: &User<'_>) -> Outcome<bool> {
    for host in its_hosts(conn, user).await? {
        let account = account(user.name, &host)?;
        let text = format!("ALTER USER IF EXISTS {account} IDENTIFIED VIA {NATIVE} USING 'invalid' ACCOUNT LOCK");
        run(conn, &text).await?;
    }
    fault::point("no-login");
    if matches!(marked(conn, user.name).await?, Some(lease) if lease != user.lease) {
        return Ok(false);
    }
    end_sessions(conn, user).await?;
    Ok(true)
}

async fn end_sessions(conn: &mut Conn, user: &User<'_>) -> Outcome<()> {
    let mut left = u32::MAX;
    for _ in 0..LOOKED_FOR_SESSIONS {
        kill(conn, user.name).await?;
        left = sessions(conn, user.name).await?;
        if left == 0 {
            return Ok(());
        }
        tokio::time::sleep(SESSIONS_PAUSE).await;
    }
    Err(DatabaseError::Refused(format!("{left} sessions do not end")))
}

async fn kill(conn: &mut Conn, name: &str) -> Outcome<()> {
    let query = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = {}", sql::literal(name));
    for id in rows::<u64>(conn, &query).await? {
        match conn.query_drop(format!("KILL HARD CONNECTION {id}")).await {
            // it has ended by itself
            Err(Error::Server(said)) if said.code == NO_SUCH_THREAD => {}
            outcome => outcome.map_err(|error| failed(&error))?,
        }
    }
    Ok(())
}

async fn clean_up(conn: &mut Conn, user: &User<'_>) -> Outcome<()> {
    let hosts = its_hosts(conn, user).await?;
    if !hosts.is_empty() {
        let values = [("name", user.name), ("username", user.name)];
        for statement in user.statements {
            run(conn, &rendered(statement, &values)?).await?;
        }
    }
    for host in &hosts {
        if user.heir.is_none() {
            owned::drop_all(conn, user.name, host).await?;
        }
        fault::point("before-drop");
        run(conn, &format!("DROP USER IF EXISTS {}", account(user.name, host)?)).await?;
    }
    marks(conn).await?;
    run(conn, &format!("DROP EVENT IF EXISTS strongroom.{}", sql::ident(user.name))).await?;
    unmark(conn, user).await
}

async fn unmark(conn: &mut Conn, user: &User<'_>) -> Outcome<()> {
    let (name, lease) = (sql::literal(user.name), sql::literal(user.lease));
    run(conn, &format!("DELETE FROM strongroom.leased WHERE name = {name} AND lease = {lease}")).await
}

/// Where the marks are kept: made where it is missing.
async fn marks(conn: &mut Conn) -> Outcome<()> {
    let there = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'strongroom' AND TABLE_NAME = 'leased'";
    if !rows::<u32>(conn, there).await?.is_empty() {
        return Ok(());
    }
    run(conn, "CREATE SCHEMA IF NOT EXISTS strongroom").await?;
    let table = "CREATE TABLE IF NOT EXISTS strongroom.leased (name VARCHAR(128) PRIMARY KEY, lease VARCHAR(128) NOT \
                 NULL, instance VARCHAR(64) NOT NULL) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
    run(conn, table).await
}

/// Those of the names that somebody has.
async fn known(conn: &mut Conn, names: impl Iterator<Item = &str>) -> Outcome<HashSet<String>> {
    let quoted = names.map(|name| format!("{} COLLATE utf8mb4_bin", sql::literal(name)));
    let listed: Vec<String> = quoted.chain(["NULL".to_owned()]).collect();
    let query = format!("SELECT User FROM mysql.global_priv WHERE User IN ({})", listed.join(", "));
    Ok(rows(conn, &query).await?.into_iter().collect())
}

async fn mark(conn: &mut Conn, to: &Connection, user: &User<'_>) -> Outcome<()> {
    marks(conn).await?;
    let (name, lease, instance) = (sql::literal(user.name), sql::literal(user.lease), sql::literal(&to.instance));
    run(conn, &format!("INSERT IGNORE INTO strongroom.leased VALUES ({name}, {lease}, {instance})")).await?;
    match marked(conn, user.name).await? {
        Some(its) if its == user.lease => Ok(()),
        _ => Err(refused("the name is another lease's")),
    }
}

/// For which lease.
async fn marked(conn: &mut Conn, name: &str) -> Outcome<Option<String>> {
    marks(conn).await?;
    let query = format!("SELECT lease FROM strongroom.leased WHERE name = {}", sql::literal(name));
    Ok(rows(conn, &query).await?.into_iter().next())
}

/// At which hosts there are accounts of this name.
async fn hosts(conn: &mut Conn, name: &str) -> Outcome<Vec<String>> {
    let name = sql::literal(name);
    let query = format!(
        "SELECT Host FROM mysql.global_priv WHERE User = {name} COLLATE utf8mb4_bin AND \
         COALESCE(JSON_VALUE(Priv, '$.is_role'), '0') NOT IN ('1', 'true')"
    );
    rows(conn, &query).await
}

/// None where the name is marked for another lease; who lost its mark is the lease's.
async fn its_hosts(conn: &mut Conn, user: &User<'_>) -> Outcome<Vec<String>> {
    match marked(conn, user.name).await? {
        Some(lease) if lease != user.lease => Ok(Vec::new()),
        Some(_) | None => hosts(conn, user.name).await,
    }
}

/// Of others: whoever may not sees none, and would take that for an end of all.
async fn sees_sessions(conn: &mut Conn) -> Outcome<()> {
    let sees = |grant: &String| {
        let privileges = grant.strip_prefix("GRANT ").and_then(|grant| grant.split_once(" ON *.* "));
        privileges.is_some_and(|(list, _)| list.split(", ").any(|one| matches!(one, "PROCESS" | "ALL PRIVILEGES")))
    };
    match rows(conn, "SHOW GRANTS").await?.iter().any(sees) {
        true => Ok(()),
        false => Err(refused("our account lacks `PROCESS`, and sees nobody's session")),
    }
}

async fn sessions(conn: &mut Conn, name: &str) -> Outcome<u32> {
    sees_sessions(conn).await?;
    let name = sql::literal(name);
    let query = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = {name}");
    Ok(rows(conn, &query).await?.into_iter().next().unwrap_or(u32::MAX))
}

/// An event of the server's own, which ends the account where we do not; where events run.
async fn net(conn: &mut Conn, name: &str, host: &str, end: &str) -> Outcome<()> {
    let on: Vec<String> = rows(conn, "SELECT @@GLOBAL.event_scheduler").await?;
    if on.first().map(String::as_str) != Some("ON") {
        return Ok(());
    }
    let (event, account, end) = (sql::ident(name), account(name, host)?, sql::literal(end));
    let text = format!(
        "CREATE OR REPLACE EVENT strongroom.{event} ON SCHEDULE AT {end} DO ALTER USER IF EXISTS {account} \
         IDENTIFIED VIA {NATIVE} USING 'invalid' ACCOUNT LOCK"
    );
    run(conn, &text).await
}

/// A moment after the lease, by the server's own clock.
async fn end_text(conn: &mut Conn, until: Timestamp, now: Timestamp) -> Outcome<String> {
    let left = (until.since(now) + NET).as_secs();
    let query = format!("SELECT DATE_FORMAT(NOW() + INTERVAL {left} SECOND, '%Y-%m-%d %H:%i:%s')");
    rows(conn, &query).await?.into_iter().next().ok_or_else(|| refused("tells no time"))
}

/// What there is of settings and limits.
fn limits(new: &NewUser<'_>) -> Outcome<String> {
    let (mut require, mut with) = (String::new(), String::new());
    for (setting, value) in new.settings {
        match (setting.as_str(), value.as_str()) {
            ("host", _) | ("require_ssl", "false") => {}
            ("require_ssl", "true") => require = "REQUIRE SSL".to_owned(),
            ("max_statement_time", secs) => {
                let secs: u32 = secs.parse().map_err(|_| refused("`max_statement_time` is a number of seconds"))?;
                with.push_str(&format!(" MAX_STATEMENT_TIME {secs}"));
            }
            (other, _) => {
                return Err(refused(&format!(
                    "no setting `{other}`: there are `host`, `require_ssl`, `max_statement_time`"
                )));
            }
        }
    }
    if let Some(most) = new.connections_max {
        with.push_str(&format!(" MAX_USER_CONNECTIONS {most}"));
    }
    let are_some = !require.is_empty() || !with.is_empty();
    if are_some && !new.statements.is_empty() {
        return Err(refused("limits stand in `creation_statements` where there are some"));
    }
    Ok(if with.is_empty() { require } else { format!("{require} WITH{with}") })
}

/// A role through which somebody could become more than a user: anything on everything, on `mysql` or on ours, or to give on.
async fn refuse_powerful(conn: &mut Conn, group: &str) -> Outcome<()> {
    let grants: Vec<String> = rows(conn, &format!("SHOW GRANTS FOR {}", sql::ident(group))).await?;
    let is_too_much = |grant: &str| {
        let everywhere = grant.contains(" ON *.* ") && !grant.starts_with("GRANT USAGE ON *.* ");
        let ours = ["`mysql`", "`strongroom`", "`sys`"].iter().any(|schema| grant.contains(&format!(" ON {schema}.")));
        everywhere || ours || grant.contains("WITH GRANT OPTION") || grant.contains("WITH ADMIN OPTION")
    };
    match grants.iter().find(|grant| is_too_much(grant)) {
        Some(_) => Err(DatabaseError::Refused(format!("group `{group}` is more than a user may be"))),
        None => Ok(()),
    }
}

fn account(name: &str, host: &str) -> Outcome<String> {
    sql::account(name, host).ok_or_else(|| refused("a name or a host that may not stand in statements"))
}

fn rendered(statement: &str, values: &[(&str, &str)]) -> Outcome<String> {
    sql::render(statement, values).ok_or_else(|| refused("a name that may not stand in statements"))
}

async fn run(conn: &mut Conn, text: &str) -> Outcome<()> {
    conn.query_drop(text).await.map_err(|error| failed(&error))
}

async fn rows<T: FromRow + Send + 'static>(conn: &mut Conn, query: &str) -> Outcome<Vec<T>> {
    conn.query(query).await.map_err(|error| failed(&error))
}

/// What the server says: never the text that it was sent, which a syntax error quotes.
fn failed(error: &Error) -> DatabaseError {
    match error {
        Error::Server(its) if its.code == SYNTAX => refused("a syntax error in a statement"),
        Error::Server(its) => {
            let why = format!("{} ({})", said(&its.message), its.code);
            if AWAY.contains(&its.code) { DatabaseError::Unreachable(why) } else { DatabaseError::Refused(why) }
        }
        Error::Driver(_) | Error::Io(_) | Error::Other(_) | Error::Url(_) => {
            DatabaseError::Unreachable(said(&error.to_string()))
        }
    }
}

const NATIVE: &str = "mysql_native_password";
/// ER_PARSE_ERROR.
const SYNTAX: u16 = 1064;
const NO_SUCH_THREAD: u16 = 1094;
/// Too many connections, shutting down, a connection that was killed.
const AWAY: [u16; 5] = [1040, 1053, 1203, 1927, 1226];
