//! Where tests kill the process: in debug builds alone, and there alone where `STRONGROOM_FAULT_FILE` names a file that holds
//! the point's name. It is gone before the process is, so that each is met once.
//!
//! Never: anything in a release build.

/// A step is reached.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "a test's wish, which no configuration should be able to make")]
pub(crate) fn point(name: &str) {
    let Ok(file) = std::env::var("STRONGROOM_FAULT_FILE") else { return };
    let asked = std::fs::read_to_string(&file).unwrap_or_default();
    if asked.trim() == name && std::fs::remove_file(&file).is_ok() {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: &str) {}
