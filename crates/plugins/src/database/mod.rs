//! Databases in which users are leased.

pub mod postgres;
