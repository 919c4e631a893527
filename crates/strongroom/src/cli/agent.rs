//! `strongroom agent`: for programs that know nothing of a vault.

use crate::agent::{self, Config, Until};
use crate::server::not_dumpable;
use crate::telemetry;
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Log in, keep leases alive, render templates to files and to the environment of a program, and run it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A configuration:
  [server]
  address = \"https://vault.example:8200\"
  ca = \"/etc/strongroom/ca.pem\"
  [login]
  method = \"approle\"                        # or userpass, cert, spiffe, token-file, jwt, kubernetes, aws, gcp, azure
  role_id_file = \"/etc/app/role-id\"
  secret_id_file = \"/run/app/wrapping-token\"
  wrapped_at = \"auth/approle/role/web/secret-id\"
  [[template]]
  contents = \"{{ kv('secret/app/api').key }}\"
  destination = \"/run/app/api-key\"
  [[certificate]]                           # a new key, certified by pki/sign/ROLE; another at half of its life
  role = \"web\"                              # also mount, alt_names, ip_sans, uri_sans, ttl_secs, key, ca, mode, owner
  common_name = \"app.example\"
  certificate = \"/run/app/tls.pem\"          # chain and key in one file, 0600
  [exec]
  command = [\"/usr/bin/app\"]
  on_change = \"SIGHUP\"                      # or restart, none
  [exec.environment]
  DB_USER = \"{{ database('database/app').username }}\"
  DB_PASSWORD = \"{{ database('database/app').password }}\"

Templates are Jinja2's, strict: secret(PATH), kv('MOUNT/PATH', label=, version=, mount=), database('MOUNT/ROLE').

Exit status: the program's own; 128 and a signal's number where that ended it.")]
pub struct Arguments {
    /// TOML; unknown fields are errors
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Render everything once and end, without running the program: for init containers
    #[arg(long)]
    once: bool,
}

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    telemetry::start();
    not_dumpable()?;
    let config = Config::load(&arguments.config)?;
    let until = if arguments.once { Until::Rendered } else { Until::Ended };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(agent::run(config, until));
    runtime.shutdown_background();
    outcome
}
