//! Auth methods.

pub mod approle;
pub mod token;
mod token_fields;
pub mod userpass;
