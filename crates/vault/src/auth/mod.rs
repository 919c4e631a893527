//! Auth methods.

pub mod approle;
pub mod aws;
pub mod azure;
pub mod cert;
mod cloud;
mod explain;
pub mod gcp;
pub mod jose;
pub mod jwt;
pub mod kubernetes;
mod proven;
pub mod spiffe;
pub mod token;
mod token_fields;
pub mod userpass;
pub mod x509;

pub use explain::explained;
