//! Opening a target: what is refused, in words, and how far it is kept from others.

use super::buffer::PAGE;
use super::kernel::{self, Alignment, kind};
use super::target::{Kind, Target};
use super::users;
use crate::units::Bytes;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// How to open a [`Target`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Only reads will be asked for; a medium that cannot be written can be opened.
    pub read_only: bool,
}

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum OpenError {
    #[error("{path} does not exist; a regular file is created if a size is given for it")]
    Missing { path: PathBuf, source: io::Error },
    #[error("{path} exists already, so it is not created; leave out the size to use it as it is")]
    Exists { path: PathBuf, source: io::Error },
    #[error("{path} is {what}; a disk is a block device or a regular file")]
    NotADisk { path: PathBuf, what: &'static str },
    #[error("{path} is in use: {by}; a device is shared only if nothing else uses it directly")]
    InUse { path: PathBuf, by: String, source: io::Error },
    #[error("{path} is locked by another process, perhaps another ioband; a file is served by one at a time")]
    Locked { path: PathBuf, source: io::Error },
    #[error("{path} cannot be opened for {access}: {source}")]
    Denied { path: PathBuf, access: &'static str, source: io::Error },
    #[error("{path}: {action} failed: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
}

impl OpenError {
    /// The errno that says the same.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotADisk { .. } => libc::ENOTBLK,
            Self::Missing { source, .. }
            | Self::Exists { source, .. }
            | Self::InUse { source, .. }
            | Self::Locked { source, .. }
            | Self::Denied { source, .. }
            | Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl Target {
    /// Opens `path`; with `create`, first makes it as a sparse file of that size (it must not exist yet, and is
    /// removed again if anything fails).
    pub fn open(path: &Path, create: Option<Bytes>, mode: OpenMode) -> Result<Target, OpenError> {
        let Some(size) = create else { return Self::open_existing(path, mode) };
        let made =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
                let path = path.to_owned();
                match source.kind() {
                    io::ErrorKind::AlreadyExists => OpenError::Exists { path, source },
                    _ => OpenError::Io { path, action: "creating the file", source },
                }
            })?;
        let sized = made.set_len(size.0).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            action: "giving the new file its size",
            source,
        });
        drop(made);
        sized.and_then(|()| Self::open_existing(path, mode)).inspect_err(|error| {
            // Somebody who was quick enough to lock it keeps it.
            if !matches!(error, OpenError::Locked { .. }) {
                // The first error is the one to tell.
                let _ = std::fs::remove_file(path);
            }
        })
    }

    fn open_existing(path: &Path, mode: OpenMode) -> Result<Target, OpenError> {
        let failed = |action, source| OpenError::Io { path: path.to_owned(), action, source };
        let refused = |source: io::Error, number| match source.raw_os_error() {
            Some(libc::ENOENT) => OpenError::Missing { path: path.to_owned(), source },
            Some(libc::EBUSY) => {
                OpenError::InUse { path: path.to_owned(), by: users::of_device(number), source }
            }
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                let access = if mode.read_only { "reading" } else { "writing" };
                OpenError::Denied { path: path.to_owned(), access, source }
            }
            _ => failed("opening", source),
        };
        // Looked at before it is opened: opening a pipe or a tape can block or do things.
        let seen = std::fs::metadata(path).map_err(|source| refused(source, (0, 0)))?;
        let number = kernel::split(seen.rdev());
        let flags = match kind(&seen) {
            Kind::Block => libc::O_DIRECT | libc::O_EXCL,
            Kind::File => 0,
            Kind::Other(what) => return Err(OpenError::NotADisk { path: path.to_owned(), what }),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!mode.read_only)
            .custom_flags(flags | libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| refused(source, number))?;
        let opened = file.metadata().map_err(|source| failed("looking at it", source))?;
        if kind(&opened) != kind(&seen) || opened.rdev() != seen.rdev() {
            let source = io::Error::from_raw_os_error(libc::EAGAIN);
            return Err(failed("opening (it was exchanged meanwhile)", source));
        }
        // O_NONBLOCK was for the opening only; io_uring would take it for the wish not to wait for the device.
        let flags = kernel::status_flags(&file).map_err(|source| failed("reading its flags", source))?;
        kernel::set_flags(&file, flags - OFlag::O_NONBLOCK)
            .map_err(|source| failed("setting its flags", source))?;

        let target = Target {
            path: path.to_owned(),
            size: AtomicU64::new(opened.len()),
            read_only: mode.read_only,
            number: None,
            block: 1,
            direct: false,
            memory_align: 1,
            no_discard: AtomicBool::new(false),
            no_write_zeroes: AtomicBool::new(false),
            file,
        };
        if kind(&opened) == Kind::Block {
            let size =
                kernel::device_size(&target.file).map_err(|source| failed("asking for its size", source))?;
            let Alignment { block, memory } = match kernel::direct_alignment(&target.file) {
                Some(alignment) if alignment.block > 0 => alignment,
                _ => {
                    let block = kernel::logical_block_size(&target.file)
                        .map_err(|source| failed("asking for its block size", source))?;
                    Alignment { block, memory: PAGE as u32 }
                }
            };
            Ok(Target {
                size: AtomicU64::new(size),
                number: Some(number),
                block,
                memory_align: memory,
                direct: true,
                ..target
            })
        } else {
            target.lock()?;
            Ok(target.try_direct(flags))
        }
    }

    fn lock(&self) -> Result<(), OpenError> {
        // SAFETY: flock only takes the descriptor, which `self.file` keeps open. (nix's safe wrapper wants to
        // own the file and to unlock it when dropped; closing it does that by itself.)
        let result = unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        Errno::result(result).map(drop).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => OpenError::Locked { path: self.path.clone(), source: errno.into() },
            _ => OpenError::Io { path: self.path.clone(), action: "locking", source: errno.into() },
        })
    }

    /// Switches a regular file to direct I/O if that is possible without ever growing it.
    fn try_direct(mut self, flags: OFlag) -> Self {
        // Where statx does not say, a page is enough for almost everybody.
        let Alignment { block, memory } = kernel::direct_alignment(&self.file)
            .unwrap_or(Alignment { block: PAGE as u32, memory: PAGE as u32 });
        let why = if block == 0 {
            "its filesystem cannot do direct I/O".to_owned()
        } else if !self.size().0.is_multiple_of(block.into()) {
            format!("its size is no multiple of {block} bytes")
        } else if let Err(error) =
            kernel::set_flags(&self.file, (flags - OFlag::O_NONBLOCK) | OFlag::O_DIRECT)
        {
            format!("its filesystem cannot do direct I/O ({error})")
        } else {
            (self.block, self.memory_align, self.direct) = (block, memory, true);
            return self;
        };
        tracing::warn!(path = %self.path.display(), "this file goes through the page cache, because {why}");
        self
    }
}
