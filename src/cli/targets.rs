//! `ioband targets`: what dmsetup prints where dm-ioband is there. Scripts look for it before anything is mounted.

use super::say;
use std::process::ExitCode;

/// dm-ioband's version whose words these are.
const TARGETS: &str = "ioband v1.0.0\n";

pub(super) fn run() -> anyhow::Result<ExitCode> {
    say(TARGETS)?;
    Ok(ExitCode::SUCCESS)
}
