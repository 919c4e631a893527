//! The command line: what people and scripts say, parsed once; answers on standard output, trouble on standard error.
//!
//! Always: exit 0 done, 1 refused or failed, 2 usage. A secret stands on standard output only where it was asked for.
//! Never: a secret as an argument, where everybody on the machine reads it.

pub mod agent;
pub mod audit;
pub mod auth;
mod browser;
pub mod cloud;
pub mod connection;
pub mod demo;
pub mod dev;
pub mod kms;
pub mod kms_plugin;
pub mod kv;
pub mod lease;
pub mod login;
pub mod namespace;
pub mod new_file;
pub mod new_folder;
pub mod operator;
pub mod output;
pub mod policy;
pub mod secrets;
pub mod server;
pub mod source;
pub mod token;
pub mod values;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use connection::Remote;
use output::{Answer, Format};
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Strongroom: a key management service with an HSM boundary
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, arg_required_else_help = true, after_help = ENVIRONMENT)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Arguments),
    Server(server::Arguments),
    Demo(demo::Arguments),
    Agent(agent::Arguments),
    KmsPlugin(kms_plugin::Arguments),
    Login(login::Arguments),
    /// Make keys and use them
    Kms(Remote<kms::Command>),
    /// Make, look up and end tokens
    Token(Remote<token::Command>),
    /// Write, read, list and drop policies
    Policy(Remote<policy::Command>),
    /// Say which client certificate stands for whom, and why logins were refused
    Auth(Remote<auth::Command>),
    /// Keep secrets, in versions
    Kv(Remote<kv::Command>),
    /// Make, tell and drop vaults within the vault
    Namespace(Remote<namespace::Command>),
    /// Look after what is lent: users of databases
    Lease(Remote<lease::Command>),
    Read(secrets::Read),
    Write(secrets::Write),
    List(secrets::List),
    Delete(secrets::Delete),
    Unwrap(secrets::Unwrap),
    /// Verify, read and export the audit log; offline
    Audit(audit::Arguments),
    /// Look after server, storage and boundary
    Operator(Remote<operator::Command>),
}

const ENVIRONMENT: &str = "\
Environment (each with the VAULT_ name as fallback):
  STRONGROOM_ADDR    address of the server, https://HOST:PORT
  STRONGROOM_CACERT  PEM file of the CA that signed the server's certificate
  STRONGROOM_TOKEN   the token; or put it into ~/.strongroom-token or name a file with --token-file
  STRONGROOM_NAMESPACE  in which namespace the vault is asked, as team/app

Exit status: 0 done, 1 refused or failed, 2 usage.

First steps:
  strongroom dev                                    # in one terminal
  export STRONGROOM_CACERT=strongroom-dev/tls/ca.pem
  export STRONGROOM_TOKEN=$(cat strongroom-dev/root-token)
  strongroom kms create-key --description invoices  # in another";

/// What was said is not sensible: exit 2, as clap does for what it sees itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A signal came before the end; nothing half-made is left.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; nothing half-made was left behind")]
struct Interrupted;

/// Runs what the process's arguments say.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        // help and version are no errors, and clap knows which stream is whose
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let format = cli.command.format();
    cli.command.run().unwrap_or_else(|error| {
        output::complain(&error, format);
        ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
    })
}

/// Parses, and refuses a token among the arguments.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    connection::refuse_token_argument(&matches, &mut command)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

impl Command {
    fn format(&self) -> Format {
        match self {
            Self::Dev(_) | Self::Server(_) | Self::Demo(_) | Self::Agent(_) | Self::KmsPlugin(_) => Format::Table,
            Self::Login(arguments) => arguments.connection.output,
            Self::Kms(remote) => remote.connection.output,
            Self::Token(remote) => remote.connection.output,
            Self::Policy(remote) => remote.connection.output,
            Self::Auth(remote) => remote.connection.output,
            Self::Kv(remote) => remote.connection.output,
            Self::Namespace(remote) => remote.connection.output,
            Self::Lease(remote) => remote.connection.output,
            Self::Read(command) => command.connection.output,
            Self::Write(command) => command.connection.output,
            Self::List(command) => command.connection.output,
            Self::Delete(command) => command.connection.output,
            Self::Unwrap(command) => command.connection.output,
            Self::Audit(arguments) => arguments.output,
            Self::Operator(remote) => remote.connection.output,
        }
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Dev(arguments) => dev::run(arguments),
            Self::Server(arguments) => server::run(arguments),
            Self::Demo(arguments) => demo::run(arguments),
            Self::Agent(arguments) => agent::run(arguments),
            Self::KmsPlugin(arguments) => kms_plugin::run(arguments),
            Self::Login(arguments) => answered(arguments.connection.output, arguments.run()),
            Self::Kms(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Token(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Policy(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Auth(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Kv(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Namespace(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Lease(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
            Self::Read(command) => answered(command.connection.output, command.run()),
            Self::Write(command) => answered(command.connection.output, command.run()),
            Self::List(command) => answered(command.connection.output, command.run()),
            Self::Delete(command) => answered(command.connection.output, command.run()),
            Self::Unwrap(command) => answered(command.connection.output, command.run()),
            Self::Audit(arguments) => arguments.run(),
            Self::Operator(Remote { connection, command }) => answered(connection.output, command.run(&connection)),
        }
    }
}

/// Runs one command on a runtime of its own and prints its answer. A signal drops the command, and with it what it made.
fn answered(format: Format, command: impl Future<Output = anyhow::Result<Answer>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::select! {
            outcome = command => outcome,
            _ = interrupt.recv() => Err(Interrupted.into()),
            _ = terminate.recv() => Err(Interrupted.into()),
            _ = hang_up.recv() => Err(Interrupted.into()),
        }
    });
    // a read of standard input cannot be called off: the process ends without it
    runtime.shutdown_background();
    let answer = outcome?;
    let terminal = std::io::stdout().is_terminal();
    output::print(&answer, format, terminal)?;
    Ok(if answer.is_no() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests;
