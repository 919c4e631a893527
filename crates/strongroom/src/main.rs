//! The program: parses its arguments and runs a command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    strongroom::cli::main()
}
