//! The workshop: set-up, tests, long forms. `cargo xtask --help`.
#![forbid(unsafe_code)]

mod setup;
mod steps;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Strongroom's workshop: tests, quick and long forms")]
struct Workshop {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the tests need (as root; otherwise print the command), then run every test
    Test,
    /// Show the main job end to end on the embedded default: boundary, server, a file there and back
    Demo,
    /// Formatting, clippy, deny: what .ci/run checks before the tests
    Lint,
    /// Measure: release builds, windows alternated in one run, medians and ratios
    Bench {
        /// Five seconds in all, debug builds: shows that it runs, measures nothing
        #[arg(long)]
        smoke: bool,
        /// Arguments for the bench itself
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Kill server, boundary and both under load, 200 times each, and count what was lost; hold the README's numbers
    Soak {
        #[arg(long, default_value_t = 200)]
        kills: u32,
    },
    /// Measure two servers on one PostgreSQL beside one of them, in release
    Nodes,
    /// Measure users of a database beside a bare loop of the same statements, in release; end them while it goes away; end so
    /// many users of Redis a second
    Leases {
        #[arg(long, default_value_t = 1000)]
        users: u32,
    },
    /// Kill the server at every step of a database user's life, a thousand times in all
    Kills {
        #[arg(long, default_value_t = 1000)]
        kills: u32,
    },
    /// Rotate accounts of a database, by the server and by a hook, for an hour under clients that connect all the time
    Rotations {
        #[arg(long, default_value_t = 3600)]
        seconds: u32,
    },
    /// Storage on PostgreSQL, and its users, with a newer server than Debian's
    Postgres,
    /// Tokens, secrets and leases by the million: what they cost beside a thousand, in release
    Many {
        #[arg(long, default_value_t = 1_000_000)]
        each: u32,
    },
    /// The audit log's long forms: power losses, mutations, and a log of many records
    Audit {
        #[arg(long, default_value_t = 10_000)]
        losses: u32,
        #[arg(long, default_value_t = 20_000)]
        mutations: u32,
        /// Records of the largest log; each takes 220 bytes of disk while it runs
        #[arg(long, default_value_t = 10_000_000)]
        records: u64,
    },
    /// Policies: the fast way of deciding against the slow one, at random, in release
    Policies {
        #[arg(long, default_value_t = 10_000_000)]
        cases: u64,
    },
    /// Build the Kubernetes API server that tests run, where its sources have changed
    KubeApiserver,
    /// Kubernetes' long forms: an API server whose KMS plugin is away for minutes
    Kubernetes,
    /// Fuzz every target, ten minutes each
    Fuzz {
        #[arg(long, default_value_t = 600)]
        seconds: u32,
        /// One target instead of all
        #[arg(long)]
        target: Option<String>,
    },
}

fn main() -> Result<()> {
    match Workshop::parse().command {
        Command::Test => {
            setup::install()?;
            steps::test()
        }
        Command::Demo => steps::demo(),
        Command::Lint => steps::lint(),
        Command::Bench { smoke, args } => steps::bench(smoke, &args),
        Command::Soak { kills } => steps::soak(kills),
        Command::Nodes => steps::nodes(),
        Command::Leases { users } => steps::leases(users),
        Command::Kills { kills } => steps::kills(kills),
        Command::Rotations { seconds } => steps::rotations(seconds),
        Command::Postgres => steps::postgres(),
        Command::Many { each } => steps::many(each),
        Command::Audit { losses, mutations, records } => steps::audit(losses, mutations, records),
        Command::Policies { cases } => steps::policies(cases),
        Command::KubeApiserver => setup::kube_apiserver(),
        Command::Kubernetes => steps::kubernetes(),
        Command::Fuzz { seconds, target } => steps::fuzz(seconds, target.as_deref()),
    }
}
