//! Logs go to stderr, one line each; JSON where nobody watches.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// `STRONGROOM_LOG` takes tracing's filter language; the default is `info`.
pub fn start() {
    let filter = EnvFilter::try_from_env("STRONGROOM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // a second start in one process (tests) keeps the first
    let _already = if std::io::stderr().is_terminal() {
        lines.with_ansi(true).compact().try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
}
