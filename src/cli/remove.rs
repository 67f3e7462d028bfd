//! `ioband remove`: takes an ioband device away, with its groups and its image.

use super::ctl::{carry_out, one_word};
use super::find::Mountpoint;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ioband device
    name: String,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = one_word("a name of an ioband device", &args.name)?;
    carry_out(&args.mountpoint, &format!("remove {name}\n"))
}
