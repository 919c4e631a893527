//! `strongroom kms-plugin`: beside a Kubernetes API server.

use crate::kms_plugin::{self, Config};
use crate::server::not_dumpable;
use crate::telemetry;
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Encrypt a Kubernetes API server's Secrets: serves KMS v2 on a Unix socket beside it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A configuration:
  socket = \"/run/strongroom/kms.sock\"
  key_id = \"0b6f…\"                          # of the key, not an alias: `strongroom kms create-key`
  # older_keys = [\"7a11…\"]                # that were the key before: they decrypt still; no other key does
  cluster = \"prod-eu-1\"                     # bound to everything that is encrypted; never change it
  # peers = [0]                             # uids that may connect beside root and this one's own
  [server]
  address = \"https://vault.example:8200\"
  ca = \"/etc/strongroom/ca.pem\"
  client_certificate = \"/etc/strongroom/plugin.pem\"
  client_key = \"/etc/strongroom/plugin-key.pem\"
  [login]
  method = \"certificate\"                    # or any of `strongroom agent`'s; kubernetes needs the API server that needs this

The API server's EncryptionConfiguration:
  - kms: {apiVersion: v2, name: strongroom, endpoint: \"unix:///run/strongroom/kms.sock\", timeout: 3s}

A policy for it:
  path \"kms/keys/0b6f…/encrypt\" { capabilities = [\"update\"] }
  path \"kms/keys/0b6f…/decrypt\" { capabilities = [\"update\"] }

After `strongroom kms rotate-key` the API server sees another key_id within a minute, and encrypts anew what is written from
then on; what was encrypted before is read as before. For another key altogether, the id of the one before goes into
`older_keys`, and may still decrypt by the policy, until everything was written anew.")]
pub struct Arguments {
    /// TOML; unknown fields are errors
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    telemetry::start();
    not_dumpable()?;
    let config = Config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(kms_plugin::run(config));
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}
