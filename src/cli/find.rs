//! Which mount a command is for.

use crate::fuse::{MountError, ioband_mounts, resolved};
use anyhow::{Context, anyhow, bail};
use nix::unistd::geteuid;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Mountpoint {
    /// Mount point of the ioband mount; may be left out with exactly one ioband mount of root's or yours
    #[arg(long, value_name = "DIR", env = "IOBAND_MOUNTPOINT")]
    pub(super) mountpoint: Option<PathBuf>,
}

impl Mountpoint {
    /// The mount point: the one given, or the only one there is. One that is not said must be root's or the caller's own: everybody may
    /// call what he mounts an ioband mount, and would be told what was meant for another.
    pub(super) fn find(&self) -> anyhow::Result<PathBuf> {
        let mounts = ioband_mounts().context("cannot read /proc/self/mountinfo")?;
        if let Some(given) = &self.mountpoint {
            let path = resolved(given);
            if !mounts.iter().any(|mount| mount.mountpoint == path) {
                return Err(MountError::NotMounted(given.clone()).into());
            }
            return Ok(path);
        }
        let trusted = [Some(0), Some(geteuid().as_raw())];
        let (ours, others): (Vec<_>, Vec<_>) =
            mounts.into_iter().partition(|mount| trusted.contains(&mount.user()));
        let [ours, others] = [ours, others]
            .map(|mounts| -> Vec<PathBuf> { mounts.into_iter().map(|mount| mount.mountpoint).collect() });
        let list = |paths: &[PathBuf]| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        match (ours.as_slice(), others.as_slice()) {
            ([only], _) => Ok(only.clone()),
            ([], []) => {
                bail!("there is no ioband mount on this machine; make one with `ioband mount CONFIG`")
            }
            ([], others) => bail!(
                "there is no ioband mount of root's or yours; if you trust who mounted it, choose one of the others ({}) with \
                 --mountpoint DIR",
                list(others)
            ),
            (several, _) => {
                bail!("there are several ioband mounts ({}); choose one with --mountpoint DIR", list(several))
            }
        }
    }
}

/// A file of the control directory, which is the only folder in the mount whatever its name is.
pub(super) fn control_file(mountpoint: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(mountpoint).map_err(|error| unreadable(mountpoint, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(mountpoint, error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return Ok(entry.path().join(name));
        }
    }
    bail!("{} has no control directory: is it an ioband mount?", mountpoint.display())
}

/// Why the mount does not show what is in it.
fn unreadable(mountpoint: &Path, error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        // Whose question is on its way when the daemon ends hears that the connection was aborted.
        Some(libc::ENOTCONN | libc::ECONNABORTED) => MountError::Stale(mountpoint.to_owned()).into(),
        Some(libc::EACCES) => anyhow!(
            "cannot read {}: {error}; only the user who mounted it may look, not even root (FUSE's rule)",
            mountpoint.display()
        ),
        _ => anyhow::Error::from(error).context(format!("cannot read {}", mountpoint.display())),
    }
}

/// Why a control file cannot be opened, read …, and what would help.
pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => {
            "; run this as the owner of that folder, or let others in with `control: {owner: …, group: …, mode: …}` \
             in the configuration"
        }
        _ => "",
    };
    anyhow!("cannot {what} {}: {error}{hint}", path.display())
}
