//! Auth methods.

pub mod approle;
mod proven;
pub mod token;
mod token_fields;
pub mod userpass;
