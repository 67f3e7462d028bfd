//! `ioband ls`: images and devices, and how they are served, for people.

use super::find::Mountpoint;
use super::{say, show};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    mountpoint: Mountpoint,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    say(&show::read(&args.mountpoint, "ls")?)?;
    Ok(ExitCode::SUCCESS)
}
