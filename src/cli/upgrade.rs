//! `ioband upgrade`: has this very program, or another one, serve a mount in the place of the one that serves it. Requests wait
//! for a moment, none fails.

use super::ctl::carry_out_at;
use super::find::Mountpoint;
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount; with exactly one ioband mount of root's or yours it is found by itself
    mountpoint: Option<PathBuf>,
    /// The program that is to serve it: an `ioband` that was built or installed since. Default: the one that this is
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let program = match args.program {
        Some(program) => {
            program.canonicalize().with_context(|| format!("cannot find {}", program.display()))?
        }
        None => std::env::current_exe().context("cannot find my own program file")?,
    };
    let Some(name) = program.to_str().filter(|name| !name.contains('\n')) else {
        bail!("the path of the program must be plain text: {}", program.display());
    };
    let mountpoint = Mountpoint { mountpoint: args.mountpoint }.find()?;
    carry_out_at(&mountpoint, &format!("upgrade {name}\n"))
}
