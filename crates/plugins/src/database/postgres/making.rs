//! How users are made: several at once, where several are asked for at the same moment.

use super::pool::Pools;
use super::scram::verifier;
use super::{MARK, first, roles, rows, run, script, sql, words};
use crate::database::together::Step;
use crate::database::{NET, NO_ANSWER, Outcome, within_share};
use crate::fault;
use envelope::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;
use vault::engine::database::plugin::{Connection, DatabaseError, NewUser};
use zeroize::Zeroizing;

/// A user who is to be.
#[derive(Clone)]
pub(super) struct Wanted(Arc<Inner>);

struct Inner {
    name: String,
    lease: String,
    verifier: Zeroizing<String>,
    /// The lease's.
    left: Duration,
    statements: Vec<String>,
    groups: Vec<String>,
    connections_max: Option<u32>,
    settings: BTreeMap<String, String>,
}

impl Wanted {
    pub(super) fn of(new: &NewUser<'_>, to: &Connection, now: Timestamp) -> Self {
        Self(Arc::new(Inner {
            name: new.user.name.to_owned(),
            lease: new.user.lease.to_owned(),
            verifier: verifier(new.password, to.scram_iterations),
            left: new.until.since(now),
            statements: new.statements.to_vec(),
            groups: new.groups.to_vec(),
            connections_max: new.connections_max,
            settings: new.settings.clone(),
        }))
    }
}

/// All or none.
#[derive(Debug)]
pub(super) struct Make(pub(super) Arc<Pools>);

#[async_trait::async_trait]
impl Step for Make {
    type Item = Wanted;
    type Answer = ();

    async fn all(&self, to: &Connection, users: &[Wanted]) -> Outcome<Vec<Outcome<()>>> {
        let prepared = async {
            let client = self.0.take(to).await?;
            prepare(&client, to, users).await?;
            Ok(client)
        };
        let client = within_share(users.len(), prepared).await?;
        fault::point("before-commit");
        // from here on it is not known whether they came to be
        let by_own_texts =
            || users.iter().filter(|user| !user.0.statements.is_empty()).map(|user| user.0.name.as_str());
        let committed = async {
            client.batch_execute("COMMIT").await.map_err(|error| words(&error))?;
            match by_own_texts().next() {
                None => Ok(Vec::new()),
                Some(_) => roles(&client, by_own_texts()).await.map_err(|error| error.to_string()),
            }
        };
        let made = tokio::time::timeout(COMMITTED_WITHIN, committed).await;
        let made = match made.unwrap_or_else(|_| Err(NO_ANSWER.to_owned())) {
            Ok(made) => made,
            Err(why) => return Ok(users.iter().map(|_| Err(DatabaseError::Unknown(why.clone()))).collect()),
        };
        client.keep();
        let is_made = |user: &Wanted| match user.0.statements.is_empty() || made.contains(&user.0.name) {
            true => Ok(()),
            false => Err(DatabaseError::Refused(NAMELESS.to_owned())),
        };
        Ok(users.iter().map(is_made).collect())
    }
}

async fn prepare(client: &Client, to: &Connection, users: &[Wanted]) -> Outcome<()> {
    refuse_powerful(client, users).await?;
    let ends = ends(client, users.iter().map(|user| user.0.left)).await?;
    let mut text = Zeroizing::new(format!("BEGIN; {}", sql::hurry(users.len())));
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (user, end) in users.iter().zip(&ends) {
        text.push_str(&creation(&user.0, end)?);
        user.0.groups.iter().for_each(|group| members.entry(group).or_default().push(sql::ident(&user.0.name)));
    }
    run(client, &text).await?;
    // by itself: a server's log tells the text that failed, and this one does not
    let mut text = Zeroizing::new(String::new());
    for user in users.iter().filter(|user| user.0.statements.is_empty()) {
        let (name, verifier) = (sql::ident(&user.0.name), sql::literal(&user.0.verifier));
        text.push_str(&format!("ALTER ROLE {name} PASSWORD {verifier};"));
    }
    if !text.is_empty() {
        run(client, &text).await?;
    }
    let mut text = String::new();
    for (user, end) in users.iter().zip(&ends) {
        text.push_str(&settings(&user.0, end, &to.instance));
    }
    // in one order, for each locks its group; last, since a password takes the server milliseconds
    for (group, members) in members {
        text.push_str(&format!("GRANT {} TO {};", sql::ident(group), members.join(", ")));
    }
    run(client, &text).await
}

fn creation(user: &Inner, end: &str) -> Outcome<Zeroizing<String>> {
    let name = sql::ident(&user.name);
    if user.statements.is_empty() {
        let end = sql::literal(end);
        return Ok(Zeroizing::new(format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS VALID UNTIL {end};"
        )));
    }
    let mut text = Zeroizing::new(String::from("SET LOCAL search_path = public;"));
    let values =
        [("name", user.name.as_str()), ("username", &user.name), ("password", &user.verifier), ("expiration", end)];
    text.push_str(&script(&user.statements, &values)?);
    text.push_str("SET LOCAL search_path = pg_catalog;");
    Ok(text)
}

fn settings(user: &Inner, end: &str, instance: &str) -> String {
    let name = sql::ident(&user.name);
    let mut text = String::new();
    if let Some(most) = user.connections_max {
        text.push_str(&format!("ALTER ROLE {name} CONNECTION LIMIT {most};"));
    }
    for (setting, value) in &user.settings {
        text.push_str(&format!("ALTER ROLE {name} SET {} = {};", sql::setting(setting), sql::literal(value)));
    }
    if !user.statements.is_empty() {
        text.push_str(&format!("ALTER ROLE {name} VALID UNTIL {};", sql::literal(end)));
    }
    let mark = sql::literal(&format!("{MARK}{} instance={instance}", user.lease));
    text.push_str(&format!("COMMENT ON ROLE {name} IS {mark};"));
    text
}

/// Groups through which somebody could become more than a user.
async fn refuse_powerful(client: &Client, users: &[Wanted]) -> Outcome<()> {
    let groups: BTreeSet<&str> = users.iter().flat_map(|user| &user.0.groups).map(String::as_str).collect();
    if groups.is_empty() {
        return Ok(());
    }
    let names = sql::literals(groups);
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

/// When each role's password ends to count: a moment after the lease, by the server's own clock, for where we are dead.
pub(super) async fn ends(client: &Client, left: impl IntoIterator<Item = Duration>) -> Outcome<Vec<String>> {
    let text = |left: Duration| {
        let millis = (left + NET).as_millis();
        format!(
            "to_char((clock_timestamp() + interval '{millis} milliseconds') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'"
        )
    };
    let texts: Vec<String> = left.into_iter().map(text).collect();
    let found = rows(client, &format!("SELECT {}", texts.join(", "))).await?;
    Ok((0..texts.len()).map(|column| first(&found, column)).collect())
}

const NAMELESS: &str = "its statements make no role of the name that they were given";
const COMMITTED_WITHIN: Duration = Duration::from_secs(3);
