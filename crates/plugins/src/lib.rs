//! Everything that dials out on behalf of a domain: the domains stay without sockets.
//!
//! Always: bounded in time and in connections, whatever the other side does.
//! Never: a password in a log, in an error, or in a text that the other side could log.
#![forbid(unsafe_code)]

pub mod database;
mod fault;
pub mod outside;

use rustls::RootCertStore;
use std::sync::Arc;
use vault::Databases;

/// Kinds of databases, as configurations name them. Without authorities of its own a database is believed by `roots`; MariaDB's
/// driver brings its own.
pub fn databases(roots: RootCertStore) -> Databases {
    let mariadb = Arc::new(database::mariadb::MariaDb::default());
    Databases::default()
        .with("postgresql-database-plugin", Arc::new(database::postgres::Postgres::new(roots.clone())))
        .with("mysql-database-plugin", mariadb.clone())
        .with("mariadb-database-plugin", mariadb)
        .with("redis-database-plugin", Arc::new(database::redis::Redis::new(roots)))
}
