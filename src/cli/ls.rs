//! `ioband ls`: images, devices and groups, and how they are served, for people.

use super::find::Mountpoint;
use super::{say, show};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
    /// Also what the process that serves has given up: its capabilities, system calls and the like
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut text = show::read(&args.mountpoint, if args.json { "ls.json" } else { "ls" })?;
    if args.verbose && !args.json {
        text = format!("{text}\nSANDBOX\n{}", show::read(&args.mountpoint, "sandbox")?);
    }
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}
