//! `ioband ls`: images, devices and groups, and how they are served, for people.

use super::find::Mountpoint;
use super::{say, show};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    say(&show::read(&args.mountpoint, if args.json { "ls.json" } else { "ls" })?)?;
    Ok(ExitCode::SUCCESS)
}
