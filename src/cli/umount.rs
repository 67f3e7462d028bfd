//! `ioband umount`: ends a mount, and waits for its daemon, so that the device is free when it returns.

use super::find::control_file;
use crate::fuse::{MountError, State, probe_mountpoint, resolved, unmount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point
    mountpoint: PathBuf,
    /// Also while files are open: whoever has them keeps them, and the daemon ends with the last
    #[arg(long)]
    lazy: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = &args.mountpoint;
    // What is mounted is what a symbolic link leads to.
    let real = resolved(path);
    match probe_mountpoint(path) {
        // Nobody is there who could have files open, and nothing to wait for.
        Ok(State::Stale) => unmount(&real, true)?,
        Ok(State::Mounted) => {
            let daemon = daemon(path);
            unmount(&real, args.lazy)?;
            if let (Some(daemon), false) = (daemon, args.lazy) {
                wait_for_end(&daemon);
            }
        }
        Ok(State::Free | State::Missing) | Err(MountError::NotAFolder(_)) => {
            return Err(MountError::NotMounted(path.clone()).into());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The daemon of a mount, if its control directory is ours to read.
fn daemon(mountpoint: &Path) -> Option<OwnedFd> {
    let pid = std::fs::read_to_string(control_file(mountpoint, "pid").ok()?).ok()?;
    pidfd_open(Pid::from_raw(pid.trim().parse().ok()?)?, PidfdFlags::empty()).ok()
}

fn wait_for_end(daemon: &OwnedFd) {
    let mut wait = [PollFd::new(daemon.as_fd(), PollFlags::POLLIN)];
    // An interrupted wait goes on; any other error leaves nothing to wait with.
    while poll(&mut wait, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
}
