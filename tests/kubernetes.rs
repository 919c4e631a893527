//! Kubernetes: logins that a real API server vouches for, and its Secrets under a key of ours.
//!
//! The API server is the real one, with its etcd; there are no nodes and no kubelet: Pods are objects, their tokens are asked
//! for as a kubelet asks. What lies in the API server's place is ours.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where it fails, and tells its figures"
)]

#[path = "kubernetes/accepted.rs"]
mod accepted;
#[path = "kubernetes/applications.rs"]
mod applications;
#[path = "kubernetes/gone.rs"]
mod gone;
#[path = "kubernetes/kms.rs"]
mod kms;
#[path = "kubernetes/local.rs"]
mod local;
#[path = "kubernetes/refused.rs"]
mod refused;
#[path = "kubernetes/stand.rs"]
mod stand;
#[path = "kubernetes/upstream.rs"]
mod upstream;
