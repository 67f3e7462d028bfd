//! `ioband save`: keeps what is in force as a configuration.
//!
//! Without a file the daemon writes it to the one that was mounted. With a file that is the caller's doing, with the
//! caller's rights.

use super::ctl::carry_out;
use super::find::Mountpoint;
use super::show::read;
use crate::daemon::replace_file;
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to; without it, back to the configuration that was mounted
    file: Option<PathBuf>,
    #[command(flatten)]
    mountpoint: Mountpoint,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(file) = &args.file else { return carry_out(&args.mountpoint, "save\n") };
    let text = read(&args.mountpoint, "control.yaml")?;
    replace_file(file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
