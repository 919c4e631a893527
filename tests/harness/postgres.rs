//! A PostgreSQL server for tests: as a store of several servers, and as a database whose users are made and dropped.

pub use test_postgres::Server;
