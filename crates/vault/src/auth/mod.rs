//! Auth methods.

pub mod approle;
pub mod token;
mod token_fields;
pub(crate) mod turn;
pub mod userpass;
