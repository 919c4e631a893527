//! Kms: holds the seams, nothing else.

use crate::store::Caches;
use audit::AuditSink;
use hsm_api::{Boundary, TenantId};
use identity::Changes;
use std::sync::Arc;
use storage::Barrier;

/// What the key domain is made of.
#[derive(Debug, Clone)]
pub struct Seams {
    pub boundary: Arc<dyn Boundary>,
    pub barrier: Arc<Barrier>,
    pub audit: Arc<dyn AuditSink>,
    pub changes: Changes,
    /// Shared by all cores.
    pub caches: Arc<Caches>,
    pub tenant: TenantId,
}

/// The key domain's operations. One a core; clones are cheap.
#[derive(Debug, Clone)]
pub struct Kms {
    pub(crate) seams: Arc<Seams>,
}

impl Kms {
    pub fn new(seams: Seams) -> Self {
        Self { seams: Arc::new(seams) }
    }
}
