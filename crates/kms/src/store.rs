//! Where keys, aliases and grants are stored, and what is kept of them in memory.

/// What is kept in memory, bounded. One for all cores.
#[derive(Debug, Default)]
pub struct Caches {}

impl Caches {
    pub fn new() -> Self {
        Self::default()
    }
}
