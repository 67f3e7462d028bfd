//! Parses the command line, runs the command, sets the exit code.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Wrong usage ends here with status 2 and a hint.
    ioband::cli::Cli::parse().run()
}
