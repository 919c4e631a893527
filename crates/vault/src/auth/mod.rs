//! Auth methods.

pub mod approle;
mod explain;
mod proven;
pub mod token;
mod token_fields;
pub mod userpass;

pub use explain::explained;
