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

mod ending;
mod making;
mod pool;
mod scram;
mod sql;

use super::together::Together;
use super::{LET_IN_WITHIN, Outcome, ahead_millis, but, refused, said, sent, within};
use crate::fault;
use ending::{CleanUp, EndSessions, Gone, ShutOut};
use envelope::Timestamp;
use making::{Make, Wanted};
use pool::Pools;
use rustls::RootCertStore;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use vault::engine::database::plugin::{
    Connection, DatabaseError, DatabasePlugin, NewUser, OwnUser, Probe, USERS_PAGE, User,
};
use zeroize::Zeroizing;

#[derive(Debug)]
pub struct Postgres {
    pools: Arc<Pools>,
    make: Together<Make>,
    shut_out: Together<ShutOut>,
    end_sessions: Together<EndSessions>,
    clean_up: Together<CleanUp>,
}

impl Postgres {
    /// Without authorities of its own a server is believed by `roots`.
    pub fn new(roots: RootCertStore) -> Self {
        let pools = Arc::new(Pools::new(roots));
        Self {
            make: Together::side_by_side(Make(Arc::clone(&pools)), MADE_SIDE_BY_SIDE),
            shut_out: Together::new(ShutOut(Arc::clone(&pools))),
            end_sessions: Together::new(EndSessions(Arc::clone(&pools))),
            clean_up: Together::new(CleanUp(Arc::clone(&pools))),
            pools,
        }
    }
}

#[async_trait::async_trait]
impl DatabasePlugin for Postgres {
    async fn probe(&self, to: &Connection, now: Timestamp) -> Outcome<Probe> {
        let client = self.pools.take(to).await?;
        let query = "SELECT version(), (extract(epoch from clock_timestamp()) * 1000)::bigint";
        let rows = within(rows(&client, query)).await?;
        let (version, millis) = (first(&rows, 0), first(&rows, 1).parse().unwrap_or_default());
        client.keep();
        Ok(Probe { version, ahead_millis: ahead_millis(millis, now) })
    }

    async fn create_user(&self, to: &Connection, user: &NewUser<'_>, now: Timestamp) -> Outcome<()> {
        fault::point("before-create");
        let wanted = Wanted::of(user, to, now);
        // what a role's own texts do is not known, here and below
        match user.statements.is_empty() {
            true => self.make.done(to, wanted).await?,
            false => self.make.alone(to, &wanted).await?,
        }
        fault::point("after-create");
        Ok(())
    }

    async fn renew_user(&self, to: &Connection, user: &User<'_>, until: Timestamp, now: Timestamp) -> Outcome<()> {
        let client = self.pools.take(to).await?;
        let renewed = async {
            ending::ours(&client, &[Gone::of(user)])
                .await?
                .pop()
                .flatten()
                .ok_or_else(|| DatabaseError::Refused("the role is gone".to_owned()))?;
            let end = making::ends(&client, [until.since(now)]).await?.concat();
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
        let Some(oid) = self.shut_out.done(to, Gone::of(user)).await? else { return Ok(()) };
        tokio::time::sleep(LET_IN_WITHIN).await;
        self.end_sessions.done(to, oid).await?;
        fault::point("after-end");
        Ok(())
    }

    async fn clean_up(&self, to: &Connection, user: &User<'_>) -> Outcome<()> {
        fault::point("before-clean-up");
        let gone = Gone::of(user);
        match user.statements.is_empty() {
            true => self.clean_up.done(to, gone).await?,
            false => self.clean_up.alone(to, &gone).await?,
        }
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
        let verifier = scram::verifier(password, to.scram_iterations);
        if statements.is_empty() {
            let name = sql::ident(username);
            sent(run(&client, &format!("ALTER ROLE {name} PASSWORD {}", sql::literal(&verifier)))).await?;
        } else {
            let values = [("name", username), ("username", username), ("password", verifier.as_str())];
            sent(run(&client, &format!("BEGIN; {} COMMIT", *script(statements, &values)?))).await?;
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
        Ok(first(&counted, 0).parse().unwrap_or(u32::MAX))
    }

    async fn own_users(&self, to: &Connection, pages: mpsc::Sender<Vec<OwnUser>>) -> Outcome<()> {
        let mut after = String::new();
        loop {
            // none is kept while a page is looked at, which may take others
            let client = self.pools.take(to).await?;
            let query = format!(
                "SELECT r.rolname, d.description FROM pg_roles r JOIN pg_shdescription d \
                 ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass \
                 WHERE r.rolname > {} AND d.description LIKE {} ORDER BY r.rolname LIMIT {USERS_PAGE}",
                sql::literal(&after),
                sql::literal(&format!("{MARK}% instance={}", to.instance)),
            );
            let found = within(rows(&client, &query)).await?;
            client.keep();
            let Some(last) = found.last().and_then(|row| row.get(0)) else { return Ok(()) };
            last.clone_into(&mut after);
            let own = found.iter().filter_map(|row| {
                let lease = row.get(1)?.strip_prefix(MARK)?.split(' ').next()?;
                Some(OwnUser { name: row.get(0)?.to_owned(), lease: lease.to_owned() })
            });
            if pages.send(own.collect()).await.is_err() || found.len() < USERS_PAGE {
                return Ok(());
            }
        }
    }

    async fn strangers(&self, to: &Connection, names: &[&str]) -> Outcome<Vec<String>> {
        let client = self.pools.take(to).await?;
        let known = within(roles(&client, names.iter().copied())).await?;
        client.keep();
        Ok(but(names, &known.into_iter().collect()))
    }

    fn forget(&self, id: &str) {
        self.pools.forget(id);
        self.make.forget(id);
        self.shut_out.forget(id);
        self.end_sessions.forget(id);
        self.clean_up.forget(id);
    }

    fn forget_all(&self) {
        self.pools.forget_all();
    }

    fn ends_together(&self) -> bool {
        true
    }

    fn name_bytes_max(&self) -> usize {
        63
    }
}

/// Those of them that are roles.
async fn roles(client: &Client, names: impl Iterator<Item = &str>) -> Outcome<Vec<String>> {
    let query = format!("SELECT rolname FROM pg_roles WHERE rolname IN ({})", sql::literals(names));
    Ok(rows(client, &query).await?.iter().filter_map(|row| row.get(0).map(str::to_owned)).collect())
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
fn first(rows: &[SimpleQueryRow], column: usize) -> String {
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

/// Groups: for each verifier the server hashes 4096 times, to see that no password is empty, one after the other on a connection.
const MADE_SIDE_BY_SIDE: usize = 4;
/// Before the lease's key in a mark.
const MARK: &str = "strongroom lease=";
