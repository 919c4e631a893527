//! Connections: of each configuration so many at once, and as many kept open for a while.

use super::{Outcome, failed};
use crate::database::{address, away};
use mysql_async::{Conn, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vault::engine::database::plugin::{Connection, DatabaseError};

#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Mutex<HashMap<String, Shared>>,
}

#[derive(Debug, Clone)]
struct Shared {
    revision: u64,
    pool: Pool,
    /// Who waits for a connection waits here: a pool that is busy is no database that is away.
    permits: Arc<Semaphore>,
}

/// A connection, and its place.
#[derive(Debug)]
pub(super) struct Held {
    conn: Conn,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Held {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl Pools {
    /// What was begun on it and not ended is undone before it serves others.
    pub(super) async fn take(&self, to: &Connection) -> Outcome<Held> {
        let Shared { pool, permits, .. } = self.pool(to)?;
        let permit = tokio::time::timeout(WAITED_FOR, permits.acquire_owned()).await;
        let permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        Ok(Held { conn: connected(pool.get_conn()).await?, _permit: permit })
    }

    /// As somebody else: never kept.
    pub(super) async fn dial(&self, to: &Connection, login: (&str, &str)) -> Outcome<Conn> {
        let opts = Opts::from(options(to)?.user(Some(login.0)).pass(Some(login.1)));
        connected(Conn::new(opts)).await
    }

    pub(super) fn forget(&self, id: &str) {
        let gone = self.locked().remove(id);
        close(gone.map(|shared| shared.pool));
    }

    pub(super) fn forget_all(&self) {
        let gone: Vec<_> = self.locked().drain().collect();
        gone.into_iter().for_each(|(_, shared)| close(Some(shared.pool)));
    }

    fn pool(&self, to: &Connection) -> Outcome<Shared> {
        let mut pools = self.locked();
        if let Some(shared) = pools.get(&to.id).filter(|shared| shared.revision == to.revision) {
            return Ok(shared.clone());
        }
        let permits = Arc::new(Semaphore::new(most(to)));
        let shared = Shared { revision: to.revision, pool: Pool::new(Opts::from(options(to)?)), permits };
        let old = pools.insert(to.id.clone(), shared.clone());
        drop(pools);
        close(old.map(|old| old.pool));
        Ok(shared)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Shared>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn close(pool: Option<Pool>) {
    // without a runtime its connections end with it
    if let (Some(pool), Ok(runtime)) = (pool, tokio::runtime::Handle::try_current()) {
        runtime.spawn(pool.disconnect());
    }
}

fn most(to: &Connection) -> usize {
    usize::try_from(to.connections_max).unwrap_or(1).max(1)
}

fn busy() -> DatabaseError {
    DatabaseError::Refused("all connections are in use".to_owned())
}

async fn connected(conn: impl Future<Output = Result<Conn, mysql_async::Error>>) -> Outcome<Conn> {
    match tokio::time::timeout(CONNECTED_WITHIN, conn).await {
        Ok(conn) => conn.map_err(|error| away(failed(&error))),
        Err(_) => Err(DatabaseError::Unreachable("no answer in time".to_owned())),
    }
}

/// Of `mysql://HOST[:PORT][/DATABASE][?tls=…]`, or as Vault has it: `USER:PASSWORD@tcp(HOST:PORT)/DATABASE?tls=…`. Who comes
/// in stands elsewhere. TLS wherever it is not turned off by `tls=false`; a certificate is verified, with its name.
fn options(to: &Connection) -> Outcome<OptsBuilder> {
    let unreadable = || DatabaseError::Unreachable("`connection_url` cannot be read".to_owned());
    let rest = to.url.split_once("://").map_or(to.url.as_str(), |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let place = place.strip_prefix("tcp(").and_then(|place| place.strip_suffix(')')).unwrap_or(place);
    let (host, port) = address::host_port(place, 3306).ok_or_else(unreadable)?;
    let tls = match query.split('&').find_map(|pair| pair.strip_prefix("tls=")) {
        Some("false") => false,
        None | Some("true") => true,
        Some(_) => return Err(DatabaseError::Unreachable("`tls` in `connection_url` is `true` or `false`".to_owned())),
    };
    if host.contains(['(', ')', '/', '@']) {
        return Err(unreadable());
    }
    let kept = PoolOpts::default().with_constraints(PoolConstraints::new(0, most(to)).unwrap_or_default());
    let options = OptsBuilder::default().ip_or_hostname(host).tcp_port(port).prefer_socket(false);
    let options = options.user(Some(to.username.clone())).pass(Some(to.password.to_string()));
    let options = options.db_name(Some(database).filter(|database| !database.is_empty()));
    let ca = to.tls_ca.as_ref().map(|pem| pem.as_bytes().to_vec());
    let own = ca.is_some();
    let ssl =
        SslOpts::default().with_root_certs(ca.into_iter().map(Into::into).collect()).with_disable_built_in_roots(own);
    Ok(options
        .ssl_opts(tls.then_some(ssl))
        .setup(vec![SETUP.to_owned()])
        .stmt_cache_size(0)
        .pool_opts(kept.with_inactive_connection_ttl(KEPT_FOR))
        .tcp_keepalive(Some(KEEPALIVE)))
}

/// What a server is set to elsewhere changes nothing of what our texts mean.
const SETUP: &str = "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
                     SESSION lock_wait_timeout = 3, SESSION innodb_lock_wait_timeout = 3, SESSION autocommit = 1";
const WAITED_FOR: Duration = Duration::from_secs(5);
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
const KEPT_FOR: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_whole_or_not_at_all() {
        let to = |url: &str| Connection {
            id: String::new(),
            revision: 0,
            url: url.to_owned(),
            username: "u".to_owned(),
            password: String::new().into(),
            tls_ca: None,
            connections_max: 4,
            scram_iterations: None,
            instance: String::new(),
        };
        for (url, read) in [
            ("mysql://h", Some(("h", 3306, None, true))),
            ("{{username}}:{{password}}@tcp(h:7)/app?tls=false", Some(("h", 7, Some("app"), false))),
            ("mysql://{{username}}:{{password}}@[::1]:7/?tls=true", Some(("::1", 7, None, true))),
            ("{{username}}:{{password}}@unix(/run/s)/", None),
            ("mysql://h:x", None),
            ("mysql://h?tls=skip-verify", None),
            ("mysql://", None),
        ] {
            let found = options(&to(url)).ok().map(Opts::from);
            let found = found.as_ref().map(|o| (o.ip_or_hostname(), o.tcp_port(), o.db_name(), o.ssl_opts().is_some()));
            assert_eq!(found, read, "{url}");
        }
    }
}
