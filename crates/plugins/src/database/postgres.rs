//! PostgreSQL: users are roles.
//!
//! Always: a role is made with its end (`VALID UNTIL`) and a mark (`COMMENT`) that names cluster and lease, in one transaction.
//! Always: what the server stores of a password, and nothing else of it, is sent: a SCRAM-SHA-256 verifier (RFC 5803).
//! Always: access ends before anything is cleaned up: no login, no password, then no session; each step by itself, so that a
//! later one that fails takes none back.
//! Never: a role that bears another lease's mark is touched.
//!
//! Where `owned_objects` names an heir, what a user leaves is the heir's, who can do nothing: routines run as whoever calls them
//! from then on, and a view reads what the heir may read, which is what users have left.
//!
//! What is needed of the account: `CREATEROLE`, and membership with `ADMIN OPTION` in the roles that are given as `groups`
//! where the server demands it (PostgreSQL 16 and later).

mod pool;
mod sql;

use super::{LET_IN_WITHIN, LOOKED_FOR_SESSIONS, NET, Outcome, SESSIONS_PAUSE, ahead_millis, refused, said, within};
use crate::fault;
use envelope::Timestamp;
use pool::Pools;
use rustls::RootCertStore;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use vault::engine::database::plugin::{Connection, DatabaseError, DatabasePlugin, NewUser, OwnUser, Probe, User};
use zeroize::Zeroizing;

#[derive(Debug)]
pub struct Postgres {
    pools: Pools,
}

impl Postgres {
    /// Without authorities of its own a server is believed by `roots`.
    pub fn new(roots: RootCertStore) -> Self {
        Self { pools: Pools::new(roots) }
    }
}

#[async_trait::async_trait]
impl DatabasePlugin for Postgres {
    async fn probe(&self, to: &Connection, now: Timestamp) -> Outcome<Probe> {
        let client = self.pools.take(to).await?;
        let query = "SELECT version(), (extract(epoch from clock_timestamp()) * 1000)::bigint";
        let rows = within(rows(&client, query)).await?;
        let (version, millis) = (text(&rows, 0), text(&rows, 1).parse().unwrap_or_default());
        client.keep();
        Ok(Probe { version, ahead_millis: ahead_millis(millis, now) })
    }

    async fn create_user(&self, to: &Connection, user: &NewUser<'_>, now: Timestamp) -> Outcome<()> {
        fault::point("before-create");
        let client = self.pools.take(to).await?;
        within(create(&client, to, user, now)).await?;
        client.keep();
        fault::point("after-create");
        Ok(())
    }

    async fn renew_user(&self, to: &Connection, user: &User<'_>, until: Timestamp, now: Timestamp) -> Outcome<()> {
        let client = self.pools.take(to).await?;
        let renewed = async {
            ours(&client, user).await?.ok_or_else(|| DatabaseError::Refused("the role is gone".to_owned()))?;
            let end = end_text(&client, until, now).await?;
            let values = [("name", user.name), ("username", user.name), ("expiration", end.as_str())];
            let text = script(user.statements, &values)?;
            let name = sql::ident(user.name);
            let end = sql::literal(&end);
            run(&client, &format!("BEGIN; {} ALTER ROLE {name} VALID UNTIL {end}; COMMIT", *text)).await
        };
        within(renewed).await?;
        client.keep();
        Ok(())
    }

    async fn end_access(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-end");
        let client = self.pools.take(to).await?;
        let oid = within(shut_out(&client, user)).await?;
        client.keep();
        let Some(oid) = oid else { return Ok(()) };
        // others use the connection meanwhile
        tokio::time::sleep(LET_IN_WITHIN).await;
        let client = self.pools.take(to).await?;
        within(end_sessions(&client, oid)).await?;
        client.keep();
        fault::point("after-end");
        Ok(())
    }

    async fn clean_up(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-clean-up");
        let client = self.pools.take(to).await?;
        within(self.clean(&client, to, user)).await?;
        client.keep();
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
        let client = self.pools.take(to).await?;
        let verifier = verifier(password);
        if statements.is_empty() {
            let name = sql::ident(username);
            within(run(&client, &format!("ALTER ROLE {name} PASSWORD {}", sql::literal(&verifier)))).await?;
        } else {
            let values = [("name", username), ("username", username), ("password", verifier.as_str())];
            within(run(&client, &format!("BEGIN; {} COMMIT", *script(statements, &values)?))).await?;
        }
        client.keep();
        fault::point("after-set-password");
        Ok(())
    }

    async fn verify_login(&self, to: &Connection, username: &str, password: &str) -> Outcome<()> {
        let client = self.pools.dial(to, None, Some((username, password))).await?;
        within(rows(&client, "SELECT 1")).await.map(drop)
    }

    async fn sessions(&self, to: &Connection, username: &str) -> Outcome<u32> {
        let client = self.pools.take(to).await?;
        let name = sql::literal(username);
        let query = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = {name}");
        let counted = within(rows(&client, &query)).await?;
        client.keep();
        Ok(text(&counted, 0).parse().unwrap_or(u32::MAX))
    }

    async fn own_users(&self, to: &Connection) -> Outcome<Vec<OwnUser>> {
        let client = self.pools.take(to).await?;
        let ours = format!("% instance={}", to.instance);
        let query = format!(
            "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles \
             WHERE shobj_description(oid, 'pg_authid') LIKE {} AND starts_with(shobj_description(oid, 'pg_authid'), {})",
            sql::literal(&ours),
            sql::literal(MARK)
        );
        let found = within(rows(&client, &query)).await?;
        let own = found.iter().filter_map(|row| {
            let lease = row.get(1)?.strip_prefix(MARK)?.split(' ').next()?;
            Some(OwnUser { name: row.get(0)?.to_owned(), lease: lease.to_owned() })
        });
        let own = own.collect();
        client.keep();
        Ok(own)
    }

    fn forget(&self, id: &str) {
        self.pools.forget(id);
    }

    fn forget_all(&self) {
        self.pools.forget_all();
    }

    fn name_bytes_max(&self) -> usize {
        63
    }
}

impl Postgres {
    async fn clean(&self, client: &Client, to: &Connection, user: &User<'_>) -> Outcome<()> {
        let Some(oid) = ours(client, user).await? else { return Ok(()) };
        join(client, user.name).await?;
        if !user.statements.is_empty() {
            let text = script(user.statements, &[("name", user.name), ("username", user.name)])?;
            run(client, &format!("BEGIN; {} COMMIT", *text)).await?;
        }
        if let Some(heir) = user.heir {
            powerless(client, heir).await?;
        }
        let name = sql::ident(user.name);
        let give = user.heir.map_or(String::new(), |heir| format!("REASSIGN OWNED BY {name} TO {};", sql::ident(heir)));
        let drop_owned = format!("{give} DROP OWNED BY {name}");
        // what it owns and what it was granted, wherever: the catalogue of dependencies is shared
        let elsewhere = format!(
            "SELECT datname FROM pg_database WHERE datallowconn AND datname <> current_database() AND oid IN \
             (SELECT dbid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = {oid})"
        );
        for row in rows(client, &elsewhere).await? {
            let other = self.pools.dial(to, row.get(0), None).await?;
            if user.heir.is_some() {
                let_run_as_callers(&other, oid).await?;
            }
            run(&other, &drop_owned).await?;
            fault::point("between-databases");
        }
        if exists(client, user.name).await? {
            if user.heir.is_some() {
                let_run_as_callers(client, oid).await?;
            }
            run(client, &drop_owned).await?;
            fault::point("before-drop");
            run(client, &format!("DROP ROLE IF EXISTS {name}")).await?;
        }
        Ok(())
    }
}

async fn create(client: &Client, to: &Connection, new: &NewUser<'_>, now: Timestamp) -> Outcome<()> {
    let (name, user) = (sql::ident(new.user.name), &new.user);
    refuse_powerful(client, new.groups).await?;
    let end = end_text(client, new.until, now).await?;
    let verifier = verifier(new.password);
    let mut text = Zeroizing::new(String::from("BEGIN;"));
    if new.statements.is_empty() {
        text.push_str(&format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {};",
            sql::literal(&verifier)
        ));
    } else {
        text.push_str("SET LOCAL search_path = public;");
        let values = [
            ("name", user.name),
            ("username", user.name),
            ("password", verifier.as_str()),
            ("expiration", end.as_str()),
        ];
        text.push_str(&script(new.statements, &values)?);
        text.push_str("SET LOCAL search_path = pg_catalog;");
    }
    for group in new.groups {
        text.push_str(&format!("GRANT {} TO {name};", sql::ident(group)));
    }
    if let Some(most) = new.connections_max {
        text.push_str(&format!("ALTER ROLE {name} CONNECTION LIMIT {most};"));
    }
    for (setting, value) in new.settings {
        text.push_str(&format!("ALTER ROLE {name} SET {} = {};", sql::setting(setting), sql::literal(value)));
    }
    let mark = format!("{MARK}{} instance={}", user.lease, to.instance);
    text.push_str(&format!(
        "ALTER ROLE {name} VALID UNTIL {}; COMMENT ON ROLE {name} IS {}",
        sql::literal(&end),
        sql::literal(&mark)
    ));
    run(client, &text).await?;
    fault::point("before-commit");
    // from here on it is not known whether it came to be
    match client.batch_execute("COMMIT").await {
        Ok(()) if exists(client, user.name).await? => Ok(()),
        Ok(()) => {
            Err(DatabaseError::Refused("its statements make no role of the name that they were given".to_owned()))
        }
        Err(error) => Err(DatabaseError::Unknown(words(&error))),
    }
}

/// No login, no password, no session. Sessions end twice: who was let in just before may become a session just after.
async fn shut_out(client: &Client, user: &User<'_>) -> Outcome<Option<u32>> {
    let Some(oid) = ours(client, user).await? else { return Ok(None) };
    let name = sql::ident(user.name);
    run(client, &format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL CONNECTION LIMIT 0 VALID UNTIL '-infinity'")).await?;
    fault::point("no-login");
    join(client, user.name).await?;
    end_sessions(client, oid).await?;
    Ok(Some(oid))
}

async fn end_sessions(client: &Client, oid: u32) -> Outcome<()> {
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = {oid} AND pid <> pg_backend_pid()"
    );
    let mut left = u32::MAX;
    for _ in 0..LOOKED_FOR_SESSIONS {
        left = text(&rows(client, &end).await?, 0).parse().unwrap_or(u32::MAX);
        if left == 0 {
            return Ok(());
        }
        tokio::time::sleep(SESSIONS_PAUSE).await;
    }
    Err(DatabaseError::Refused(format!("{left} sessions do not end")))
}

/// The role's oid, where there is one. One that bears another lease's mark is not the lease's; who lost its mark is.
async fn ours(client: &Client, user: &User<'_>) -> Outcome<Option<u32>> {
    let name = sql::literal(user.name);
    let query = format!("SELECT oid, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {name}");
    let found = rows(client, &query).await?;
    let marked = |row: &&SimpleQueryRow| {
        let mark = row.get(1).unwrap_or_default();
        !mark.starts_with(MARK) || mark.starts_with(&format!("{MARK}{} ", user.lease))
    };
    Ok(found.iter().find(marked).and_then(|row| row.get(0)?.parse().ok()))
}

async fn exists(client: &Client, name: &str) -> Outcome<bool> {
    let name = sql::literal(name);
    Ok(!rows(client, &format!("SELECT 1 FROM pg_roles WHERE rolname = {name}")).await?.is_empty())
}

/// Who may end its sessions and drop what it owns is its member, or a superuser.
async fn join(client: &Client, name: &str) -> Outcome<()> {
    let (quoted, ident) = (sql::literal(name), sql::ident(name));
    let may = rows(client, &format!("SELECT pg_has_role(current_user, {quoted}, 'USAGE')")).await?;
    if text(&may, 0) == "t" { Ok(()) } else { run(client, &format!("GRANT {ident} TO CURRENT_USER")).await }
}

/// Groups through which somebody could become more than a user.
async fn refuse_powerful(client: &Client, groups: &[String]) -> Outcome<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let names = sql::literals(groups.iter().map(String::as_str));
    let query = format!(
        "WITH RECURSIVE up AS (SELECT oid FROM pg_roles WHERE rolname IN ({names}) UNION \
             SELECT m.roleid FROM up JOIN pg_auth_members m ON m.member = up.oid) \
             SELECT rolname FROM up JOIN pg_roles r ON r.oid = up.oid WHERE rolsuper OR rolcreaterole OR rolcreatedb \
             OR rolreplication OR rolbypassrls OR (starts_with(rolname, 'pg_') AND rolname NOT IN \
             ('pg_read_all_data', 'pg_read_all_settings', 'pg_read_all_stats', 'pg_stat_scan_tables', 'pg_monitor')) LIMIT 1"
    );
    match rows(client, &query).await?.first().and_then(|row| row.get(0)) {
        Some(name) => Err(DatabaseError::Refused(format!("group `{name}` is more than a user may be"))),
        None => Ok(()),
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

/// When the role's password ends to count: a moment after the lease, by the server's own clock, for where we are dead.
async fn end_text(client: &Client, until: Timestamp, now: Timestamp) -> Outcome<String> {
    let left = until.since(now) + NET;
    let query = format!(
        "SELECT to_char((clock_timestamp() + interval '{} milliseconds') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'",
        left.as_millis()
    );
    Ok(text(&rows(client, &query).await?, 0))
}

/// What the server stores of it.
fn verifier(password: &str) -> Zeroizing<String> {
    Zeroizing::new(postgres_protocol::password::scram_sha_256(password.as_bytes()))
}

/// A role's texts, one after the other.
fn script(statements: &[String], values: &[(&str, &str)]) -> Outcome<Zeroizing<String>> {
    let mut script = Zeroizing::new(String::new());
    for statement in statements {
        let text = sql::render(statement.trim().trim_end_matches(';'), values);
        script.push_str(&text.ok_or_else(|| refused("a name that may not stand in statements"))?);
        script.push(';');
    }
    Ok(script)
}

async fn run(client: &Client, text: &str) -> Outcome<()> {
    client.batch_execute(text).await.map_err(|error| failed(&error))
}

async fn rows(client: &Client, query: &str) -> Outcome<Vec<SimpleQueryRow>> {
    let messages = client.simple_query(query).await.map_err(|error| failed(&error))?;
    let rows = messages
        .into_iter()
        .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    Ok(rows.collect())
}

/// Of the first row.
fn text(rows: &[SimpleQueryRow], column: usize) -> String {
    rows.first().and_then(|row| row.get(column)).unwrap_or_default().to_owned()
}

fn failed(error: &tokio_postgres::Error) -> DatabaseError {
    let away = match error.code() {
        None => true,
        Some(code) => {
            [
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::TOO_MANY_CONNECTIONS,
            ]
            .contains(code)
                || code.code().starts_with("08")
        }
    };
    if away { DatabaseError::Unreachable(words(error)) } else { DatabaseError::Refused(words(error)) }
}

/// What the server says: never the text that it was sent.
fn words(error: &tokio_postgres::Error) -> String {
    let Some(its) = error.as_db_error() else {
        let source = std::error::Error::source(error).map(|source| format!(": {source}"));
        return said(&format!("{error}{}", source.unwrap_or_default()));
    };
    // a syntax error quotes what it stumbled over
    if *its.code() == SqlState::SYNTAX_ERROR {
        return "a syntax error in a statement".to_owned();
    }
    let detail = its.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{} ({})", said(&format!("{}{detail}", its.message())), its.code().code())
}

/// Before the lease's key in a mark.
const MARK: &str = "strongroom lease=";
