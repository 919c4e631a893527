//! Auth methods.

pub mod approle;
mod explain;
pub mod jose;
mod proven;
pub mod token;
mod token_fields;
pub mod userpass;

pub use explain::explained;
