//! An ioband mount for one trial, made with the program itself and taken down whatever happens.

use crate::support::{Need, folder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What every mount needs.
pub(crate) const MOUNT: &[Need] = &[Need::Root, Need::Fuse];

/// How long a daemon may take to end before it is killed: far more than it ever needs.
const PATIENCE_MS: u16 = 30_000;

/// Runs `ioband` in `folder`.
pub(crate) fn ioband(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ioband"));
    command.current_dir(folder).args(args).env_remove("IOBAND_MOUNTPOINT").output().expect("ioband runs")
}

/// A mount at `vmdisk` in a folder of its own.
pub(crate) struct Vmdisk {
    folder: tempfile::TempDir,
    pid: Pid,
    process: OwnedFd,
}

impl Vmdisk {
    /// Mounts a configuration whose relative paths are in the trial's folder.
    pub(crate) fn mount(config: &str) -> Self {
        Self::mount_in(folder(), config, &[])
    }

    /// The same in a folder that exists, with more arguments.
    pub(crate) fn mount_in(folder: tempfile::TempDir, config: &str, args: &[&str]) -> Self {
        std::fs::write(folder.path().join("config.yaml"), config).expect("a configuration");
        let all = [&["mount", "config.yaml", "vmdisk", "--log", "log"], args].concat();
        let output = ioband(folder.path(), &all);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mount failed: {said}");
        // Everybody may come in: trials run as other users.
        open_to_all(folder.path());
        let pid =
            std::fs::read_to_string(folder.path().join("vmdisk/.ioband/pid")).expect("the daemon's pid");
        let pid: i32 = pid.trim().parse().expect("a number");
        let raw = rustix::process::Pid::from_raw(pid).expect("a process id");
        let process = pidfd_open(raw, PidfdFlags::empty()).expect("the daemon runs");
        Self { folder, pid: Pid::from_raw(pid), process }
    }

    /// The folder in which it was mounted.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The mount point.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("vmdisk")
    }

    /// A file in the mount.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The text of a control file.
    pub(crate) fn control(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(".ioband").join(name)).expect("a control file")
    }

    /// The daemon.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until the daemon has ended; false if it does not.
    pub(crate) fn ended(&self) -> bool {
        let mut wait = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut wait, PollTimeout::from(PATIENCE_MS)) {
                Err(nix::errno::Errno::EINTR) => {}
                result => return result == Ok(1),
            }
        }
    }
}

impl Drop for Vmdisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        // A pidfd that is readable is a process that has ended: its number may be somebody else's by now.
        let mut ended = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ended, PollTimeout::ZERO) == Ok(0) {
            let _ = kill(self.pid, Signal::SIGTERM);
            if !self.ended() {
                eprintln!("the daemon {} did not end by itself", self.pid);
                let _ = kill(self.pid, Signal::SIGKILL);
                self.ended();
            }
        }
        // Nothing is mounted any more unless the daemon was killed.
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Lets other users through to `path`, below the build's folder too.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).expect("a folder").permissions().mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o055)).expect("a folder of ours");
}
