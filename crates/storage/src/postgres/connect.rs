//! Connections: how one is made, what must be so before it is used, and what its errors mean.
//!
//! Always: TLS with a verified server, unless the database is on this machine.
//! Always: a commit that was answered is on the disk: synchronous_commit is on, and a server without fsync is refused.
//! Never: a password in a log, or in what is printed of the options.

use super::{Durability, Options};
use crate::StorageError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why the options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("the URL is not one of PostgreSQL: postgresql://USER@HOST[:PORT][,HOST…]/DATABASE")]
    Url,
    #[error("the URL holds a password: put it into a file")]
    PasswordInUrl,
    #[error("the URL names no user, no host or no database")]
    Incomplete,
    #[error("a schema is called by 1 to 40 of a-z, 0-9 and _, a letter first, and not pg_")]
    Schema,
    #[error("the database is on another machine: name the PEM authorities of its certificate")]
    NoAuthorities,
    #[error("the authorities, certificate or key cannot be read as PEM")]
    Pem,
    #[error("the random generator failed")]
    Randomness,
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    settings: String,
    durability: Durability,
}

/// A connection. Dropping it closes it.
pub(super) struct Session {
    pub(super) client: Client,
    task: JoinHandle<()>,
    ended: watch::Receiver<()>,
}

impl Session {
    /// Resolves once the connection is of no use any more.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connector {
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        let mut config: Config = options.url.parse().map_err(|_| OptionsError::Url)?;
        if config.get_password().is_some() {
            return Err(OptionsError::PasswordInUrl);
        }
        if config.get_user().is_none() || config.get_hosts().is_empty() || config.get_dbname().is_none() {
            return Err(OptionsError::Incomplete);
        }
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let schema = &options.schema;
        let sound = (1..=40).contains(&schema.len()) && schema.bytes().all(legal);
        // PostgreSQL makes none that begins so
        if !sound || schema.starts_with("pg_") || !schema.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err(OptionsError::Schema);
        }
        // `hostaddr` is where it connects to, whatever the host is called
        let local = config.get_hosts().iter().all(is_local) && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        if !local && options.authorities.is_none() {
            return Err(OptionsError::NoAuthorities);
        }
        config.ssl_mode(if options.authorities.is_some() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = &options.password {
            config.password(password.expose());
        }
        // by this a process knows its own connections
        let mut process = [0; 4];
        getrandom::fill(&mut process).map_err(|_| OptionsError::Randomness)?;
        config.application_name(format!("strongroom {:08x} {}", u32::from_be_bytes(process), options.node));
        config.connect_timeout(CONNECT).tcp_user_timeout(CONNECT);
        config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2));
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let settings = format!("SET search_path TO {}; {SETTINGS}", quoted(schema));
        Ok(Self { config, tls: tls(options)?, settings, durability: options.durability })
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// Within [`CONNECT`], or not at all.
    pub(super) async fn connect(&self) -> Result<Session, StorageError> {
        let connected = tokio::time::timeout(CONNECT, async {
            let (client, connection) = self.config.connect(self.tls.clone()).await?;
            let (alive, ended) = watch::channel(());
            let task = tokio::spawn(async move {
                let _alive = alive;
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the database ended");
                }
            });
            let session = Session { client, task, ended };
            session.client.batch_execute(&self.settings).await?;
            let asked = wall_clock();
            let row = session.client.query_one(CHECKED, &[]).await?;
            if let Some(differ) = clocks_differ((asked, wall_clock()), row.get(4)) {
                tracing::warn!(
                    ?differ,
                    "this server's clock is not the database's: what expires does so at another time"
                );
            }
            let on = |column: usize| row.get::<_, &str>(column) == "on";
            Ok((session, on(0) && on(1), row.get::<_, bool>(2), row.get::<_, i32>(3)))
        });
        let (session, durable, standby, version) = match connected.await {
            Ok(checked) => checked.map_err(|error: tokio_postgres::Error| {
                tracing::warn!(error = %told(&error), "the database cannot be reached");
                named(&error)
            })?,
            Err(_) => {
                tracing::warn!("the database does not answer");
                return Err(StorageError::Unavailable);
            }
        };
        if version < VERSION_MIN {
            tracing::error!(version, "the database is too old: PostgreSQL 14 or later");
            return Err(StorageError::Unavailable);
        }
        if standby {
            return Err(StorageError::Unavailable);
        }
        if !durable && self.durability == Durability::Required {
            return Err(StorageError::Damaged(
                "the database runs without fsync or full_page_writes: it would lose data",
            ));
        }
        Ok(session)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "compared with the database's; nothing is decided by it")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// By how much the database's clock, asked between two moments of ours, is another one: less than it may be is nothing.
pub(super) fn clocks_differ((before, after): (SystemTime, SystemTime), theirs: SystemTime) -> Option<Duration> {
    let early = before.duration_since(theirs).unwrap_or_default();
    let late = theirs.duration_since(after).unwrap_or_default();
    Some(early.max(late)).filter(|differ| *differ > CLOCKS_DIFFER_MAX)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    }
}

fn tls(options: &Options) -> Result<MakeRustlsConnect, OptionsError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.authorities {
        for authority in CertificateDer::pem_file_iter(file).map_err(|_| OptionsError::Pem)? {
            let authority = authority.map_err(|_| OptionsError::Pem)?;
            roots.add(authority).map_err(|_| OptionsError::Pem)?;
        }
        if roots.is_empty() {
            return Err(OptionsError::Pem);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|_| OptionsError::Pem)?.with_root_certificates(roots);
    let config = match &options.certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_file_iter(chain).map_err(|_| OptionsError::Pem)?;
            let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|_| OptionsError::Pem)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|_| OptionsError::Pem)?;
            builder.with_client_auth_cert(chain, key).map_err(|_| OptionsError::Pem)?
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

/// A name of letters, digits and `_` as an identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', ""))
}

/// What a caller can do about it. The cause goes to the log.
pub(super) fn storage_error(error: &tokio_postgres::Error) -> StorageError {
    tracing::error!(error = %told(error), "the database");
    named(error)
}

fn named(error: &tokio_postgres::Error) -> StorageError {
    let Some(code) = error.code() else { return StorageError::Unavailable };
    if *code == SqlState::DISK_FULL || *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        StorageError::Full
    } else if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED {
        StorageError::Damaged("the database does not hold together")
    } else {
        StorageError::Unavailable
    }
}

/// Code and message; a detail may hold rows.
fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{}: {}", error.code().code(), error.message()),
        None => {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("{error} {cause}")
        }
    }
}

/// The database has said that the statement, and so its transaction, came to nothing. What ends a session may have come after
/// the commit.
pub(super) fn is_undone(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error))
}

/// Others hold what every commit needs, and did not give it back in time.
pub(super) fn is_stuck(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE)
}

/// Another connection may lead to a server that accepts writes.
pub(super) fn ends_session(error: &tokio_postgres::Error) -> bool {
    !is_undone(error) || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// For a connection, all of it.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(5);
/// client_connection_check_interval came with 14.
const VERSION_MIN: i32 = 140_000;
/// Plans are made once and by index, however few rows there were then; compiling them would cost more than they do.
const SETTINGS: &str = "
SET statement_timeout = '3s'; SET lock_timeout = '3s'; SET idle_in_transaction_session_timeout = '10s';
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
SET client_connection_check_interval = '1s'; SET client_min_messages = 'warning';
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off;
SET plan_cache_mode = 'force_generic_plan'; SET jit = off; SET default_transaction_isolation = 'read committed';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')";
const CHECKED: &str = "SELECT current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery(),
     current_setting('server_version_num')::int, clock_timestamp()";
