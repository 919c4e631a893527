//! The trusted channel between server and boundary: TLS 1.3, mutual, both public keys pinned.
#![forbid(unsafe_code)]
