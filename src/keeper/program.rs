//! What workers are started from.

use super::link::Link;
use nix::unistd::geteuid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A program file that is held open: whatever takes its place on disk, a worker that has died is followed by one of the same
/// version.
#[derive(Debug)]
pub(super) struct Program(File);

impl Program {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Of a pipe the end that reads would wait for the other one, and nobody serves meanwhile.
        let program = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !program.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no file"));
        }
        Ok(Self(program))
    }

    /// One that somebody asks for: nobody but root, and who keeps the mount, may be able to change it.
    pub(super) fn open_trusted(path: &Path) -> io::Result<Self> {
        let program = Self::open(path)?;
        let seen = program.0.metadata()?;
        let owners = [0, geteuid().as_raw()];
        if !owners.contains(&seen.uid()) || seen.mode() & 0o022 != 0 {
            let words = "it belongs to somebody else, or others may write to it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        Ok(program)
    }

    /// Starts a worker with these arguments.
    pub(super) fn start(&self, arguments: &[OsString]) -> io::Result<Worker> {
        let (link, theirs) = Link::pair()?;
        let mut child = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
            .arg0("ioband")
            .args(arguments)
            .stdin(theirs)
            // That of the keeper may be a pipe whose reader waits for its end.
            .stdout(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .spawn()?;
        let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process = process.ok_or_else(|| io::Error::other("a process without a number"));
        match process.and_then(|process| Ok(pidfd_open(process, PidfdFlags::empty())?)) {
            Ok(process) => Ok(Worker { child, sentinel: None, process, link }),
            Err(error) => {
                // Nobody could see it end.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

/// A process that serves, or is about to.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    /// Readable when one of its threads has ended that ends with all others, but waits for nothing that another process
    /// could keep it from.
    pub(super) sentinel: Option<OwnedFd>,
    /// Readable when it has ended.
    pub(super) process: OwnedFd,
    pub(super) link: Link,
}

impl Worker {
    /// What tells that it does not live any more, although it may not have ended.
    pub(super) fn death(&self) -> BorrowedFd<'_> {
        self.sentinel.as_ref().unwrap_or(&self.process).as_fd()
    }

    /// Whether a thread is one of its own.
    pub(super) fn has(&self, thread: u32) -> bool {
        Path::new(&format!("/proc/{}/task/{thread}", self.child.id())).exists()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended. Waits for that.
    pub(super) fn end(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Ends it without asking.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;

    #[test]
    fn a_program_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for path in [&*pipe, folder.path(), Path::new("/dev/null")] {
            assert_eq!(Program::open_trusted(path).unwrap_err().to_string(), "it is no file", "{path:?}");
        }
        assert!(Program::open(&std::env::current_exe().unwrap()).is_ok());
    }
}
