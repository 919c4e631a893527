//! Auth methods.

pub mod approle;
mod explain;
pub mod jose;
pub mod jwt;
mod proven;
pub mod token;
mod token_fields;
pub mod userpass;

pub use explain::explained;
