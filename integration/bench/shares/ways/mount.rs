//! An ioband mount, taken down whatever happens.

use crate::programs::{Programs, run};
use anyhow::Context;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

pub(crate) struct Mount {
    /// With the configuration, the disk and the mount point.
    folder: TempDir,
    ioband: PathBuf,
}

impl Mount {
    /// Mounts a configuration, with these options on the command line; relative paths in it are below its folder.
    pub(crate) fn new(programs: &Programs, config: &str, options: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ioband-bench-").tempdir()?;
        // Everybody may come in: the clients are other users.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(folder.path().join("config.yaml"), config)?;
        let mount = Self { folder, ioband: programs.ioband.clone() };
        let usual = ["mount", "config.yaml", "vmdisk", "--log", "log"];
        mount.ioband(&[&usual[..], options].concat()).context("cannot mount")?;
        Ok(mount)
    }

    /// A file in the mount.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("vmdisk")
    }

    fn ioband(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.ioband);
        run(command.current_dir(self.folder.path()).args(args).env_remove("IOBAND_MOUNTPOINT"))
    }

    fn is_mounted(&self) -> bool {
        let above = std::fs::metadata(self.folder.path()).map(|data| data.dev());
        match std::fs::metadata(self.path()) {
            Ok(data) => above.is_ok_and(|above| above != data.dev()),
            // A mount whose daemon has died cannot be looked at, but is there.
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.is_mounted() {
            return;
        }
        // Lazily if somebody still has a file open: then the daemon ends with him.
        let lazy = |error| self.ioband(&["umount", "--lazy", "vmdisk"]).with_context(|| format!("{error:#}"));
        if let Err(error) = self.ioband(&["umount", "vmdisk"]).or_else(lazy) {
            eprintln!("left behind: {}: {error:#}", self.path().display());
        }
    }
}
