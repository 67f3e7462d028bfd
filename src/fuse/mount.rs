//! Mounting and unmounting.
//!
//! We mount by ourselves and give fuser the descriptor, because the mount belongs to the daemon and not to a
//! session object: its type is to be `fuse.ioband`, it must be detachable while files are open, and a user whom
//! /dev/fuse refuses must get to fusermount3.

use super::passed;
use crate::mountinfo::{self, Mount};
use fuser::SessionACL;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// File system type in /proc/self/mountinfo.
pub(crate) const FS_TYPE: &str = "fuse.ioband";

/// Why it could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A dead mount is in the way.
    #[error(
        "{0} is a stale FUSE mount: its daemon has ended without unmounting (\"Transport endpoint is not \
         connected\"); clear it with `ioband umount {0}`"
    )]
    Stale(PathBuf),
    /// Already mounted.
    #[error(
        "an ioband mount is already at {0}; end it with `ioband umount {0}` or choose another mount point"
    )]
    Busy(PathBuf),
    /// Not a folder.
    #[error("{0} is not a folder; a mount point must be an existing or new folder")]
    NotAFolder(PathBuf),
    /// The folder it would be in is missing.
    #[error(
        "cannot make the mount point {0}: the folder that it is to be in does not exist; make that first"
    )]
    NoParent(PathBuf),
    /// Anything else about the mount point.
    #[error("cannot use {path} as mount point: {source}")]
    Mountpoint {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel has no FUSE, or forbids it.
    #[error(
        "cannot open /dev/fuse: {0}; load the module (`modprobe fuse`) or install fusermount3 (package fuse3)"
    )]
    NoFuse(io::Error),
    /// The helper of ordinary users is missing.
    #[error(
        "cannot run fusermount3: {0}; ordinary users mount with it: install the package fuse3, or mount as root"
    )]
    NoHelper(io::Error),
    /// The kernel refused.
    #[error("cannot mount at {path}: {source}")]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// fusermount3 refused, in its own words.
    #[error("fusermount3 cannot mount at {path}: {words}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        words: String,
    },
    /// Files are open.
    #[error("{0} is in use: files on it are open; close them (see `fuser -vm {0}`) or add --lazy")]
    InUse(PathBuf),
    /// Nothing to unmount.
    #[error("nothing of ioband is mounted at {0}; `findmnt -t fuse.ioband` lists the ioband mounts")]
    NotMounted(PathBuf),
    /// Neither we nor fusermount3 may.
    #[error("cannot unmount {path}: only root and the user who mounted it may ({words})")]
    NotYours {
        /// The mount point.
        path: PathBuf,
        /// What the helper said.
        words: String,
    },
    /// Unmounting failed otherwise.
    #[error("cannot unmount {path}: {source}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is at a path that is to become a mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A folder, free to use.
    Free,
    /// Nothing yet.
    Missing,
    /// A FUSE mount whose daemon is gone.
    Stale,
    /// A live ioband mount.
    Mounted,
}

/// Looks at a future mount point.
///
/// # Errors
/// When it is not a folder, or cannot be looked at.
pub fn probe_mountpoint(path: &Path) -> Result<State, MountError> {
    match fs::metadata(path) {
        // The kernel may have answered from what it remembers; this question it passes on.
        Ok(_) if is_ioband_mount(path) && statvfs(path) == Err(Errno::ENOTCONN) => Ok(State::Stale),
        Ok(_) if is_ioband_mount(path) => Ok(State::Mounted),
        Ok(meta) if meta.is_dir() => Ok(State::Free),
        Ok(_) => Err(MountError::NotAFolder(path.to_owned())),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(State::Stale),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::Missing),
        // Somebody else's mount without allow_other: ours or not, it is taken.
        Err(_) if is_ioband_mount(path) => Ok(State::Mounted),
        Err(source) => Err(MountError::Mountpoint { path: path.to_owned(), source }),
    }
}

/// Refuses what cannot become a mount point, so that nothing else is begun then.
///
/// # Errors
/// See [`MountError`].
pub fn check_mountpoint(path: &Path) -> Result<State, MountError> {
    match probe_mountpoint(path)? {
        State::Stale => Err(MountError::Stale(path.to_owned())),
        State::Mounted => Err(MountError::Busy(path.to_owned())),
        State::Missing if !has_parent(path) => Err(MountError::NoParent(path.to_owned())),
        state => Ok(state),
    }
}

fn has_parent(path: &Path) -> bool {
    // Of a plain name the parent is the empty path, which stands for this folder.
    path.parent().is_some_and(|parent| parent.as_os_str().is_empty() || parent.is_dir())
}

fn is_ioband_mount(path: &Path) -> bool {
    let path = resolved(path);
    ioband_mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.mountpoint == path))
}

/// The path as the list of mounts has it: absolute, and without symbolic links as far as it can be followed.
pub fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.canonicalize().unwrap_or(path)
}

/// Every ioband mount that this process can see.
///
/// # Errors
/// When /proc is not mounted.
pub fn ioband_mounts() -> io::Result<Vec<Mount>> {
    Ok(mountinfo::mounts()?.into_iter().filter(|mount| mount.fs_type == FS_TYPE).collect())
}

/// Everybody may use the mount where the one who mounts may allow that, and only its owner otherwise.
pub fn default_acl() -> SessionACL {
    let allowed = || {
        let text = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        text.lines().any(|line| line.trim() == "user_allow_other")
    };
    if geteuid().is_root() || allowed() { SessionACL::All } else { SessionACL::Owner }
}

/// A FUSE mount: the connection, and the folder it is at.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub place: MountedAt,
    /// Its folder was not there before.
    pub made: bool,
    /// The connection to the kernel; the mount is dead when its last copy is closed.
    pub connection: OwnedFd,
    /// Who may use it.
    pub acl: SessionACL,
}

impl Mounted {
    /// Mounts at a folder, which is made if it is missing.
    ///
    /// # Errors
    /// See [`MountError`]; nothing is mounted then.
    pub fn new(mountpoint: &Path, acl: SessionACL) -> Result<Self, MountError> {
        let failed = |source| MountError::Mountpoint { path: mountpoint.to_owned(), source };
        let made = check_mountpoint(mountpoint)? == State::Missing;
        if made {
            fs::create_dir(mountpoint).map_err(failed)?;
        }
        let mountpoint = mountpoint.canonicalize().map_err(failed)?;
        let mounted =
            if geteuid().is_root() { by_system_call(&mountpoint, acl) } else { by_helper(&mountpoint, acl) };
        let connection = mounted.inspect_err(|_| {
            if made {
                // Why it was not mounted is what there is to tell.
                let _ = fs::remove_dir(&mountpoint);
            }
        })?;
        let number = topmost(&mountpoint).ok().flatten();
        Ok(Self { place: MountedAt { mountpoint, number }, made, connection, acl })
    }
}

/// Where a mount of ours is, and which it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountedAt {
    /// The mount point.
    pub mountpoint: PathBuf,
    /// `MAJOR:MINOR` of the mount.
    number: Option<String>,
}

impl MountedAt {
    /// The number of the filesystem, as stat tells it of every file; 0 if it could not be found out.
    pub fn device(&self) -> u64 {
        let numbers = self.number.as_deref().and_then(|number| number.split_once(':'));
        let parsed = numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        parsed.map_or(0, |(major, minor)| nix::sys::stat::makedev(major, minor))
    }

    /// Whether our mount is what is to be seen at its place.
    fn is_there(&self) -> Result<bool, MountError> {
        let topmost = topmost(&self.mountpoint);
        let failed = |source| MountError::Mountpoint { path: self.mountpoint.clone(), source };
        topmost.map(|topmost| topmost == self.number).map_err(failed)
    }

    /// Detaches our mount from its folder, if it is still there: it may have been unmounted while files on it are
    /// open, and the folder may have been given to another mount since, which is not ours to take away.
    ///
    /// # Errors
    /// See [`unmount`].
    pub fn detach(&self) -> Result<(), MountError> {
        if self.is_there()? { unmount(&self.mountpoint, true) } else { Ok(()) }
    }

    /// Ends the connection and detaches the mount: whoever waits for an answer gets an error.
    ///
    /// # Errors
    /// See [`unmount`].
    pub fn abort(&self) -> Result<(), MountError> {
        if self.is_there()? {
            // Who may not do that closes its descriptors, which comes to the same a little later.
            let _ = umount2(
                &self.mountpoint,
                MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW,
            );
        }
        self.detach()
    }

    /// Detaches our mount once the connection has ended, which it does without an unmount when somebody aborts it
    /// (`umount -f`): nobody could use what would be left. What answers is a successor, even under our number,
    /// which was free for it.
    ///
    /// # Errors
    /// See [`unmount`].
    pub fn detach_dead(&self) -> Result<(), MountError> {
        if statvfs(&self.mountpoint) == Err(Errno::ENOTCONN) { self.detach() } else { Ok(()) }
    }
}

/// `MAJOR:MINOR` of what is mounted at a path and not covered by another mount there.
fn topmost(mountpoint: &Path) -> io::Result<Option<String>> {
    let mounts = mountinfo::mounts()?.into_iter();
    Ok(mounts.rev().find(|mount| mount.mountpoint == mountpoint).map(|mount| mount.number))
}

fn by_system_call(mountpoint: &Path, acl: SessionACL) -> Result<OwnedFd, MountError> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::NoFuse)?;
    let device = OwnedFd::from(device);
    let mut options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid(),
        getegid()
    );
    if acl == SessionACL::All {
        options.push_str(",allow_other");
    }
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("ioband"), mountpoint, Some(FS_TYPE), flags, Some(options.as_str()))
        .map_err(|e| MountError::Refused { path: mountpoint.to_owned(), source: e.into() })?;
    Ok(device)
}

fn by_helper(mountpoint: &Path, acl: SessionACL) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Refused { path: mountpoint.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| failed(e.into()))?;
    let mut options = "fsname=ioband,subtype=ioband,default_permissions,nodev,nosuid".to_owned();
    if acl == SessionACL::All {
        options.push_str(",allow_other");
    }
    let mut helper = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    drop(theirs);
    let received = passed::receive(&ours, &mut [0]).and_then(|(_, mut descriptors)| {
        let none = || io::Error::new(io::ErrorKind::UnexpectedEof, "it sent no descriptor");
        descriptors.pop().ok_or_else(none)
    });
    let mut words = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        // What it said is all there is to tell; that it could not be read changes nothing.
        let _ = stderr.read_to_string(&mut words);
    }
    let status = helper.wait().map_err(failed)?;
    match received {
        Ok(descriptor) if status.success() => Ok(descriptor),
        received => {
            let words = match (words.trim(), received) {
                ("", Err(error)) => error.to_string(),
                ("", Ok(_)) => status.to_string(),
                (words, _) => words.trim_start_matches("fusermount3: ").to_owned(),
            };
            Err(MountError::Helper { path: mountpoint.to_owned(), words })
        }
    }
}

/// Unmounts; `lazy` detaches the mount from the folder also while files on it are open, which stay usable for those
/// who have them.
///
/// # Errors
/// [`MountError::InUse`] when files are open and `lazy` is not asked for; others as they say.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(MountError::InUse(mountpoint.to_owned())),
        Err(Errno::EINVAL | Errno::ENOENT) => Err(MountError::NotMounted(mountpoint.to_owned())),
        Err(Errno::EPERM) => unmount_by_helper(mountpoint, lazy),
        Err(error) => Err(MountError::Unmount { path: mountpoint.to_owned(), source: error.into() }),
    }
}

fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
    let path = || mountpoint.to_owned();
    let output = Command::new("fusermount3")
        .arg("-u")
        .args(lazy.then_some("-z"))
        .arg("--")
        .arg(mountpoint)
        .output()
        // Without a helper, what the kernel said stands.
        .map_err(|_| MountError::NotYours { path: path(), words: Errno::EPERM.desc().to_owned() })?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if words.contains("busy") {
        Err(MountError::InUse(path()))
    } else if words.contains("not found") && !is_ioband_mount(mountpoint) {
        // It looks for the caller's own mounts only.
        Err(MountError::NotMounted(path()))
    } else {
        Err(MountError::NotYours { path: path(), words: words.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_folder_is_refused_by_name() {
        let error = probe_mountpoint(Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().contains("/dev/null is not a folder"), "{error}");
        assert_eq!(probe_mountpoint(Path::new("/nonexistent-ioband")).unwrap(), State::Missing);
        assert_eq!(probe_mountpoint(Path::new("/")).unwrap(), State::Free);
        assert_eq!(check_mountpoint(Path::new("nonexistent-ioband")).unwrap(), State::Missing);
        let error = check_mountpoint(Path::new("/nonexistent-ioband/vmdisk")).unwrap_err();
        assert!(matches!(error, MountError::NoParent(_)), "{error}");
    }
}
