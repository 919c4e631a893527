//! Connections: of each configuration so many at once, and as many kept open for a while.
//!
//! Always: a connection goes back only after all that was asked of it succeeded: whoever goes away half way closes it.

use super::failed;
use crate::database::{away, tls};
use rustls::RootCertStore;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use vault::engine::database::plugin::{Connection, DatabaseError};

#[derive(Debug)]
pub(super) struct Pools {
    roots: Arc<RootCertStore>,
    pools: Mutex<HashMap<String, Pool>>,
}

#[derive(Debug)]
struct Pool {
    revision: u64,
    permits: Arc<Semaphore>,
    idle: Vec<(Client, Instant)>,
}

/// One that is in use.
pub(super) struct Held<'a> {
    client: Option<Client>,
    _permit: OwnedSemaphorePermit,
    home: (&'a Pools, &'a Connection),
}

impl Pools {
    pub(super) fn new(roots: RootCertStore) -> Self {
        Self { roots: Arc::new(roots), pools: Mutex::default() }
    }

    /// To the configuration's own database.
    pub(super) async fn take<'a>(&'a self, to: &'a Connection) -> Result<Held<'a>, DatabaseError> {
        let permit = self.permit(to).await?;
        let kept = self.locked().get_mut(&to.id).and_then(|pool| {
            loop {
                match pool.idle.pop() {
                    Some((client, since)) if !client.is_closed() && since.elapsed() < KEPT_FOR => break Some(client),
                    Some(_) => {}
                    None => break None,
                }
            }
        });
        let client = match kept {
            Some(client) => client,
            None => self.dial(to, None, None).await?,
        };
        Ok(Held { client: Some(client), _permit: permit, home: (self, to) })
    }

    pub(super) fn forget(&self, id: &str) {
        self.locked().remove(id);
    }

    pub(super) fn forget_all(&self) {
        self.locked().values_mut().for_each(|pool| pool.idle.clear());
    }

    async fn permit(&self, to: &Connection) -> Result<OwnedSemaphorePermit, DatabaseError> {
        let permits = {
            let mut pools = self.locked();
            if pools.get(&to.id).is_some_and(|pool| pool.revision != to.revision) {
                pools.remove(&to.id);
            }
            let most = usize::try_from(to.connections_max).unwrap_or(1).max(1);
            let made = || Pool { revision: to.revision, permits: Arc::new(Semaphore::new(most)), idle: Vec::new() };
            Arc::clone(&pools.entry(to.id.clone()).or_insert_with(made).permits)
        };
        let permit = tokio::time::timeout(WAITED_FOR, permits.acquire_owned()).await;
        let busy = || DatabaseError::Refused("all connections are in use".to_owned());
        permit.map_err(|_| busy())?.map_err(|_| busy())
    }

    /// Anew: to another database, or as somebody else, what is never kept.
    pub(super) async fn dial(
        &self,
        to: &Connection,
        database: Option<&str>,
        login: Option<(&str, &str)>,
    ) -> Result<Client, DatabaseError> {
        let mut config = parse(to)?;
        if let Some(database) = database {
            config.dbname(database);
        }
        if let Some((username, password)) = login {
            config.user(username).password(password);
        }
        let connected = async {
            if config.get_ssl_mode() == SslMode::Disable {
                let (client, connection) = config.connect(NoTls).await.map_err(|error| away(failed(&error)))?;
                drive(connection);
                return Ok(client);
            }
            let tls = Arc::unwrap_or_clone(tls::client(&self.roots, to.tls_ca.as_deref())?);
            let tls = MakeRustlsConnect::new(tls);
            let (client, connection) = config.connect(tls).await.map_err(|error| away(failed(&error)))?;
            drive(connection);
            Ok(client)
        };
        let connected = tokio::time::timeout(CONNECTED_WITHIN, connected).await;
        connected.unwrap_or_else(|_| Err(DatabaseError::Unreachable("no answer in time".to_owned())))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held<'_> {
    /// It may serve others.
    pub(super) fn keep(mut self) {
        let (Some(client), (pools, to)) = (self.client.take(), self.home) else { return };
        let mut pools = pools.locked();
        // what nobody has used for long is closed, whether anybody asks for it again or not
        pools.values_mut().for_each(|pool| pool.idle.retain(|(_, since)| since.elapsed() < KEPT_FOR));
        let pool = pools.get_mut(&to.id).filter(|pool| pool.revision == to.revision);
        if let Some(pool) = pool.filter(|pool| pool.idle.len() < to.connections_max as usize) {
            pool.idle.push((client, Instant::now()));
        }
    }
}

impl Deref for Held<'_> {
    type Target = Client;

    #[expect(clippy::expect_used, reason = "it is taken out only by whoever consumes this")]
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("a connection that is held is there")
    }
}

/// Of a URL, or of `key=value` pairs. Names and passwords do not stand in it, so that nothing of them needs quoting.
fn parse(to: &Connection) -> Result<Config, DatabaseError> {
    let refused = |why: String| DatabaseError::Unreachable(why);
    let names_user = to.url.contains("{{username}}");
    let text = to.url.replace("{{username}}", "x").replace("{{password}}", "x");
    // a certificate is verified, with its name, wherever there is TLS
    let text = text.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
    let mut config: Config = text.parse().map_err(|_| refused("`connection_url` cannot be read".to_owned()))?;
    // what whoever is in between could turn off is none: there is TLS, or `sslmode=disable` says that there is none
    if config.get_ssl_mode() == SslMode::Prefer {
        config.ssl_mode(SslMode::Require);
    }
    if names_user || !to.username.is_empty() {
        config.user(&to.username);
    }
    if !to.password.is_empty() {
        config.password(to.password.as_bytes());
    }
    let options = config.get_options().map(str::to_owned).unwrap_or_default();
    config.options(format!("{options} {OPTIONS}").trim()).application_name("strongroom");
    config.connect_timeout(CONNECTED_WITHIN).keepalives_idle(Duration::from_secs(30));
    config.tcp_user_timeout(ACKNOWLEDGED_WITHIN);
    Ok(config)
}

fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL");
        }
    });
}

/// Nothing that a user of the database left in a schema is found by a name of ours.
const OPTIONS: &str = "-c search_path=pg_catalog -c statement_timeout=6000 -c lock_timeout=3000 \
                       -c idle_in_transaction_session_timeout=10000";
/// What was sent is not sent again after that: who waits for it tries another connection.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(4);
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);
const WAITED_FOR: Duration = Duration::from_secs(5);
const KEPT_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_tls_unless_the_url_says_that_there_is_none() {
        for (url, mode) in [
            ("postgresql://{{username}}:{{password}}@h/d", Some(SslMode::Require)),
            ("postgresql://h/d?sslmode=prefer", Some(SslMode::Require)),
            ("postgresql://h/d?sslmode=require", Some(SslMode::Require)),
            ("host=h sslmode=verify-full", Some(SslMode::Require)),
            ("host=h sslmode=verify-ca", Some(SslMode::Require)),
            ("postgresql://h/d?sslmode=disable", Some(SslMode::Disable)),
            ("postgresql://h/d?sslmode=allow", None),
            ("postgresql://h:x/d", None),
        ] {
            let to = Connection {
                id: String::new(),
                revision: 0,
                url: url.to_owned(),
                username: "u".to_owned(),
                password: "p".to_owned().into(),
                tls_ca: None,
                connections_max: 4,
                scram_iterations: None,
                instance: String::new(),
            };
            assert_eq!(parse(&to).ok().map(|config| config.get_ssl_mode()), mode, "{url}");
        }
    }
}
