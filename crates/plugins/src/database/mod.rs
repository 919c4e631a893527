//! Databases in which users are leased.

pub mod mariadb;
pub mod postgres;
pub mod redis;
mod tls;
