//! `strongroom server`: production.

use crate::config::Config;
use crate::server;
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Serve, in production. Ends with 0 after SIGTERM, when open connections have ended.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Configuration in TOML; unknown fields are errors
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    crate::telemetry::start();
    server::run(&Config::load(&arguments.config)?)
}
