//! Side by side in one run: bare tonic, our own listener, the raw disk, and GenerateDataKey, Encrypt, Decrypt with
//! token, policy, boundary and durable audit on. Windows alternate; medians and ratios are printed.
#![forbid(unsafe_code)]

mod empty;
mod jwt;
mod load;
mod raw;
mod report;
mod rig;
mod serve;
mod sink;
mod softhsm;
mod stand;
mod verdict;
mod windows;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures Strongroom beside an empty RPC and the raw disk, in one run")]
struct Arguments {
    #[command(subcommand)]
    serve: Option<Serve>,
    /// Five seconds in all: shows that everything runs, measures nothing
    #[arg(long)]
    smoke: bool,
    /// Windows of each kind
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Milliseconds a window
    #[arg(long, default_value_t = 700)]
    window_ms: u64,
    /// Also on SoftHSM2
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    softhsm: bool,
    /// Only what the log's tree and receipts cost: three kinds of windows
    #[arg(long)]
    tree: bool,
    /// Only the vault's API on hsm-sim, beside the empty RPC
    #[arg(long, conflicts_with = "tree")]
    vault: bool,
    /// Only windows whose name holds this, and bare tonic's: to look at one with a profiler
    #[arg(long)]
    only: Option<String>,
    /// Folder on the disk to measure; default: target/bench
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// The empty RPC on bare tonic
    Bare { listen: SocketAddr, tls: PathBuf },
    /// The empty RPC on our own listener
    Own { listen: SocketAddr, tls: PathBuf },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.serve {
        Some(Serve::Bare { listen, tls }) => serve::bare(*listen, tls),
        Some(Serve::Own { listen, tls }) => serve::own(*listen, tls),
        None => windows::run(&arguments),
    }
}
