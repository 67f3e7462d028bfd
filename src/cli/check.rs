//! `ioband check`: validate only.

use super::{probe, say};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match probe::load(&args.config) {
        Ok(plan) => {
            let (devices, images) = (plan.devices.len(), plan.images.len());
            say(&format!("{}: ok (devices: {devices}, images: {images})\n", args.config.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(report) => {
            eprintln!("{report}");
            Ok(ExitCode::FAILURE)
        }
    }
}
