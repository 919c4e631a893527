//! One connection of each configuration, on which any number ask at once.

use super::names::Names;
use crate::database::{NO_ANSWER, address, said, tls};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisConnectionInfo, RedisError, RedisResult, Value,
};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use vault::engine::database::plugin::{Connection, DatabaseError};

#[derive(Debug)]
pub(super) struct Links {
    roots: Arc<RootCertStore>,
    links: Mutex<HashMap<String, Arc<Link>>>,
    dialled: AtomicU64,
}

struct Link {
    revision: u64,
    open: tokio::sync::Mutex<Open>,
}

/// The connection, and which of all it is.
#[derive(Default)]
struct Open {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// Why a command has no answer: from the server, or from the way to it.
pub(super) enum Failed {
    Said(String),
    Lost(String),
}

impl From<Failed> for DatabaseError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Said(why) => Self::Refused(why),
            Failed::Lost(why) => Self::Unreachable(why),
        }
    }
}

impl Links {
    pub(super) fn new(roots: RootCertStore) -> Self {
        Self { roots: Arc::new(roots), links: Mutex::default(), dialled: AtomicU64::new(0) }
    }

    /// Asks. What is asked may be asked twice: a connection that was open may have ended meanwhile.
    pub(super) async fn ask<T: FromRedisValue>(&self, to: &Connection, command: &Cmd) -> Result<T, Failed> {
        self.ask_numbered(to, command).await.map(|(answer, _)| answer)
    }

    /// And over which connection.
    pub(super) async fn ask_numbered<T: FromRedisValue>(
        &self,
        to: &Connection,
        command: &Cmd,
    ) -> Result<(T, u64), Failed> {
        let ask = |mut connection: MultiplexedConnection| async move { command.query_async(&mut connection).await };
        self.asked(to, ask).await
    }

    /// Of the connection that is open, or was last: another one may lead to a server that has started anew in between.
    pub(super) async fn number(&self, to: &Connection) -> u64 {
        self.link(to).open.lock().await.number
    }

    /// Asks all of it at once: an answer for each.
    pub(super) async fn ask_all(&self, to: &Connection, commands: &Pipeline) -> Result<Vec<Value>, Failed> {
        let ask = |mut connection: MultiplexedConnection| async move { commands.query_async(&mut connection).await };
        self.asked(to, ask).await.map(|(answers, _)| answers)
    }

    async fn asked<T, F>(&self, to: &Connection, ask: impl Fn(MultiplexedConnection) -> F) -> Result<(T, u64), Failed>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let link = self.link(to);
        for again in [true, false] {
            let (connection, number, was_open) = self.open(&link, to).await?;
            let error = match ask(connection).await {
                Ok(answer) => return Ok((answer, number)),
                Err(error) => error,
            };
            if !is_lost(&error) {
                return Err(Failed::Said(words(&error)));
            }
            let mut open = link.open.lock().await;
            // another may be open by now
            if open.number == number {
                open.connection = None;
            }
            drop(open);
            if !(was_open && again) || error.is_timeout() {
                return Err(Failed::Lost(words(&error)));
            }
        }
        Err(Failed::Lost("the connection ends again and again".to_owned()))
    }

    /// With its number, and whether it was open before.
    async fn open(&self, link: &Link, to: &Connection) -> Result<(MultiplexedConnection, u64, bool), Failed> {
        let mut open = link.open.lock().await;
        if let Some(connection) = &open.connection {
            return Ok((connection.clone(), open.number, true));
        }
        let connection = self.dial(to, (&to.username, &to.password)).await.map_err(Failed::Lost)?;
        *open = Open { number: self.dialled.fetch_add(1, Ordering::Relaxed) + 1, connection: Some(connection.clone()) };
        Ok((connection, open.number, false))
    }

    /// As somebody, whom the server lets in or not.
    pub(super) async fn dial(
        &self,
        to: &Connection,
        (username, password): (&str, &str),
    ) -> Result<MultiplexedConnection, String> {
        let address = Address::parse(&to.url).ok_or_else(|| NO_URL.to_owned())?;
        let mut login = RedisConnectionInfo { db: address.db, ..RedisConnectionInfo::default() };
        if !password.is_empty() {
            login.username = Some(if username.is_empty() { DEFAULT } else { username }.to_owned());
            login.password = Some(password.to_owned());
        }
        let connected = async { speak(&login, self.stream(to, &address).await?).await };
        let connected = tokio::time::timeout(CONNECTED_WITHIN, connected).await;
        connected.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()))
    }

    /// All names of users, over a connection of its own: as an answer that takes long keeps all waiting that share one.
    pub(super) async fn names(&self, to: &Connection) -> Result<Names<Box<dyn Stream>>, Failed> {
        let address = Address::parse(&to.url).ok_or_else(|| Failed::Lost(NO_URL.to_owned()))?;
        let asked = async {
            let stream = self.stream(to, &address).await.map_err(Failed::Lost)?;
            Names::ask(stream, (&to.username, &to.password)).await
        };
        let asked = tokio::time::timeout(NAMED_WITHIN, asked).await;
        asked.unwrap_or_else(|_| Err(Failed::Lost(NO_ANSWER.to_owned())))
    }

    async fn stream(&self, to: &Connection, address: &Address<'_>) -> Result<Box<dyn Stream>, String> {
        let stream = TcpStream::connect((address.host, address.port)).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        if !address.tls {
            return Ok(Box::new(stream));
        }
        let config = tls::client(&self.roots, to.tls_ca.as_deref()).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(address.host.to_owned()).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(config);
        Ok(Box::new(connector.connect(name, stream).await.map_err(|error| error.to_string())?))
    }

    pub(super) fn forget(&self, id: &str) {
        self.locked().remove(id);
    }

    pub(super) fn forget_all(&self) {
        self.locked().clear();
    }

    fn link(&self, to: &Connection) -> Arc<Link> {
        let made = || Arc::new(Link { revision: to.revision, open: tokio::sync::Mutex::default() });
        let mut links = self.locked();
        let link = links.entry(to.id.clone()).or_insert_with(made);
        if link.revision != to.revision {
            *link = made();
        }
        Arc::clone(link)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To the server, in TLS or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn speak(login: &RedisConnectionInfo, stream: Box<dyn Stream>) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new().set_response_timeout(ANSWERED_WITHIN);
    let (connection, driver) =
        MultiplexedConnection::new_with_config(login, stream, config).await.map_err(|error| words(&error))?;
    // ends with the last who holds the connection
    tokio::spawn(driver);
    Ok(connection)
}

/// `redis://HOST[:PORT][/DB]`, `rediss://…` for TLS. Who comes in stands elsewhere.
struct Address<'a> {
    tls: bool,
    host: &'a str,
    port: u16,
    db: i64,
}

impl<'a> Address<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (host, port) = address::host_port(place, 6379)?;
        let db = if path.is_empty() { 0 } else { path.parse().ok().filter(|db| *db >= 0)? };
        Some(Self { tls, host, port, db })
    }
}

/// Whether it went wrong on the way, or while the server comes up: not what it thinks of the command.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "NOAUTH"))
}

/// What the server says; it repeats no password, for it is sent none but to log in.
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => said(&format!("{code} {detail}")),
        _ => said(&error.to_string()),
    }
}

/// Who comes in without a name.
pub(super) const DEFAULT: &str = "default";
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// The server looks at all of its users before it answers.
const NAMED_WITHIN: Duration = Duration::from_secs(9);
const NO_URL: &str = "`connection_url` cannot be read";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_whole_or_not_at_all() {
        for (url, read) in [
            ("redis://h", Some((false, "h", 6379, 0))),
            ("redis://{{username}}:{{password}}@h:7000/3", Some((false, "h", 7000, 3))),
            ("rediss://[::1]:7", Some((true, "::1", 7, 0))),
            ("redis://h:x", None),
            ("redis://h/x", None),
            ("redis://h/-1", None),
            ("redis://", None),
            ("http://h", None),
            ("h:6379", None),
        ] {
            let found = Address::parse(url).map(|a| (a.tls, a.host, a.port, a.db));
            assert_eq!(found, read, "{url}");
        }
    }
}
