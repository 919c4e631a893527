//! What the engine asks of a kind of database. Whoever implements it dials out; nothing here does.
//!
//! Always: each step is idempotent: what is done already succeeds, and so does ending a user that is not there.
//! Always: a step, and a page of users, ends within a bounded time, whatever the database does.
//! Never: a password in a text that the database could log, nor in an error.

use envelope::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// How a database is reached, and as whom.
#[derive(Clone)]
pub struct Connection {
    /// Of the configuration that it was made from, with its revision: what is kept open is kept under both.
    pub id: String,
    pub revision: u64,
    /// May name `{{username}}` and `{{password}}`.
    pub url: String,
    pub username: String,
    pub password: Zeroizing<String>,
    /// PEM certificates of the authorities of the database's certificate.
    pub tls_ca: Option<String>,
    /// Most connections at once.
    pub connections_max: u32,
    /// Of the SCRAM verifiers of passwords, where they are not 4096.
    pub scram_iterations: Option<u32>,
    /// This cluster, as its marks on users name it.
    pub instance: String,
}

/// A user to be made for a lease.
pub struct NewUser<'a> {
    pub user: User<'a>,
    pub password: &'a str,
    /// When the lease ends.
    pub until: Timestamp,
    /// Texts of the role's, instead of what the plugin says by itself.
    pub statements: &'a [String],
    /// Roles of the database whose member it becomes.
    pub groups: &'a [String],
    pub connections_max: Option<u32>,
    /// Settings of its sessions.
    pub settings: &'a BTreeMap<String, String>,
}

/// A user that was made for a lease.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    pub name: &'a str,
    /// The lease, as its mark names it.
    pub lease: &'a str,
    /// Texts of the role's that are run before what the plugin does by itself, or to renew.
    pub statements: &'a [String],
    /// To whom goes what it owns; dropped where nobody is named.
    pub heir: Option<&'a str>,
}

/// What a database says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub version: String,
    /// Its clock less ours.
    pub ahead_millis: i64,
}

/// At most so many users in a page.
pub const USERS_PAGE: usize = 1000;

/// A user that bears a mark of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnUser {
    pub name: String,
    pub lease: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// Nothing was done: it cannot be reached, or does not let us in.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing was done: it does not do that. In its own words.
    #[error("the database refuses: {0}")]
    Refused(String),
    /// It may have been done.
    #[error("the database did not answer: {0}")]
    Unknown(String),
}

#[async_trait::async_trait]
pub trait DatabasePlugin: Send + Sync + fmt::Debug {
    /// Whether the database lets us in.
    async fn probe(&self, to: &Connection, now: Timestamp) -> Result<Probe, DatabaseError>;

    /// Makes the user, all or nothing, with a mark that names cluster and lease.
    async fn create_user(&self, to: &Connection, user: &NewUser<'_>, now: Timestamp) -> Result<(), DatabaseError>;

    /// The user may come in until then.
    async fn renew_user(
        &self,
        to: &Connection,
        user: &User<'_>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), DatabaseError>;

    /// From its return on nobody comes in as this user, and nobody is in.
    async fn end_access(&self, to: &Connection, user: &User<'_>) -> Result<(), DatabaseError>;

    /// Nothing is left of the user. After [`DatabasePlugin::end_access`].
    async fn clean_up(&self, to: &Connection, user: &User<'_>) -> Result<(), DatabaseError>;

    /// Gives a user that stays another password.
    async fn set_password(
        &self,
        to: &Connection,
        username: &str,
        password: &str,
        statements: &[String],
    ) -> Result<(), DatabaseError>;

    /// What was set before outlives the database's next start, where that is not so by itself.
    async fn make_durable(&self, _to: &Connection) -> Result<(), DatabaseError> {
        Ok(())
    }

    /// Whether the user comes in with this password.
    async fn verify_login(&self, to: &Connection, username: &str, password: &str) -> Result<(), DatabaseError>;

    /// How many are in as this user.
    async fn sessions(&self, to: &Connection, username: &str) -> Result<u32, DatabaseError>;

    /// Whom this cluster has made: a page at a time, the next once there is room for it. Until nobody wants more.
    async fn own_users(&self, to: &Connection, pages: mpsc::Sender<Vec<OwnUser>>) -> Result<(), DatabaseError>;

    /// Those of these, a page at most, whom the database does not know.
    async fn strangers(&self, to: &Connection, names: &[&str]) -> Result<Vec<String>, DatabaseError>;

    /// Closes what is kept open for this configuration.
    fn forget(&self, id: &str);

    /// Closes all that is kept open and not in use.
    fn forget_all(&self);

    /// What ends at one moment is ended at once, over one connection.
    fn ends_together(&self) -> bool {
        false
    }

    /// Longest name of a user, bytes.
    fn name_bytes_max(&self) -> usize;
}

/// Kinds of databases, by the names that configurations call them.
#[derive(Debug, Clone, Default)]
pub struct Databases(BTreeMap<&'static str, Arc<dyn DatabasePlugin>>);

impl Databases {
    #[must_use]
    pub fn with(mut self, name: &'static str, plugin: Arc<dyn DatabasePlugin>) -> Self {
        self.0.insert(name, plugin);
        self
    }

    /// Closes all that is kept open and not in use: it is let in already.
    pub fn forget_all(&self) {
        self.0.values().for_each(|plugin| plugin.forget_all());
    }

    pub fn plugin(&self, name: &str) -> Option<&Arc<dyn DatabasePlugin>> {
        self.0.get(name)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl fmt::Debug for NewUser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser").field("user", &self.user).finish_non_exhaustive()
    }
}
