//! What this process gives up before it loads a vendor's module.
//!
//! Modules open files, sockets and threads as they like, so there is no system-call filter and no Landlock here, and the
//! status says so. Protection comes from being a process of its own, with its own uid, that is not traced or dumped.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Carries the measures out; each with its outcome, for the status.
pub fn confine() -> Vec<(String, String)> {
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let outcomes = [
        ("core", rustix::process::setrlimit(Resource::Core, no_core)),
        ("dumpable", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("no_new_privs", rustix::thread::set_no_new_privs(true)),
    ];
    let mut report: Vec<_> = outcomes
        .into_iter()
        .map(|(name, outcome)| {
            let text = outcome.map_or_else(|error| format!("missing: {error}"), |()| "in force".to_owned());
            (name.to_owned(), text)
        })
        .collect();
    report.push(("seccomp".to_owned(), "none: a vendor's module makes system calls of its own".to_owned()));
    report.push(("landlock".to_owned(), "none: a vendor's module opens files of its own".to_owned()));
    report
}
