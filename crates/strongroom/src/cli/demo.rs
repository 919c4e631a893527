//! `strongroom demo`: the main job, end to end, told to a newcomer.

use crate::{demo, telemetry};
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the main job end to end, in a folder of its own: boundary, server, a file there and back
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    which: Option<Which>,
    /// File to encrypt and decrypt; a letter is written otherwise
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// New folder for everything that is made; default: one among the system's temporary files
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Users of a PostgreSQL that are lent: made, used, renewed, taken back. Needs Debian's package `postgresql`
    Postgres {
        /// New folder for everything that is made; default: one among the system's temporary files
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    telemetry::start();
    let fresh = || std::env::temp_dir().join(format!("strongroom-demo-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.which {
        None => {
            let dir = arguments.dir.unwrap_or_else(fresh);
            runtime.block_on(demo::run(&dir, arguments.file.as_deref()))?;
        }
        Some(Which::Postgres { dir }) => runtime.block_on(demo::postgres::run(&dir.unwrap_or_else(fresh)))?,
    }
    Ok(ExitCode::SUCCESS)
}
