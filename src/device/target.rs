//! Opening a block device or a regular file, and everything that is known about it from then on.

use super::users;
use crate::units::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// One opened block device or regular file, kept from other programs as far as Linux allows.
///
/// A block device is opened for direct I/O, and exclusively (`O_EXCL`): it can be neither mounted nor in other
/// exclusive use meanwhile. A regular file is locked (`flock`) and opened for direct I/O if its filesystem can
/// and its size is a whole number of blocks; otherwise it goes through the page cache, and a warning says so.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
    size: u64,
    /// `MAJOR:MINOR` of a block device.
    number: Option<(u64, u64)>,
    block: u32,
    direct: bool,
    // What the device has turned out not to be able to do; asking again would only cost a system call.
    no_discard: AtomicBool,
    no_write_zeroes: AtomicBool,
}

/// How to open a [`Target`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Only reads will be asked for; a medium that cannot be written can be opened.
    pub read_only: bool,
}

/// What to look for with [`Target::seek`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is stored.
    Data,
    /// The next byte that is not stored and reads as zero; the end counts as one.
    Hole,
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Block,
    /// A regular file.
    File,
    /// Something that cannot be a disk, in words: "a directory".
    Other(&'static str),
}

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
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
        sized.and_then(|()| Self::open_existing(path, mode)).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(path);
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
        let number = split(seen.rdev());
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
        let flags = status_flags(&file).map_err(|source| failed("reading its flags", source))?;
        set_flags(&file, flags - OFlag::O_NONBLOCK).map_err(|source| failed("setting its flags", source))?;

        let target = Target {
            path: path.to_owned(),
            size: opened.len(),
            number: None,
            block: 1,
            direct: false,
            no_discard: AtomicBool::new(false),
            no_write_zeroes: AtomicBool::new(false),
            file,
        };
        if kind(&opened) == Kind::Block {
            let size = device_size(&target.file).map_err(|source| failed("asking for its size", source))?;
            let block = match direct_alignment(&target.file) {
                Some(block) => block,
                None => logical_block_size(&target.file)
                    .map_err(|source| failed("asking for its block size", source))?,
            };
            Ok(Target { size, number: Some(number), block, direct: true, ..target })
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
        let block = direct_alignment(&self.file).unwrap_or(4096);
        let why = if !self.size.is_multiple_of(block.into()) {
            format!("its size is no multiple of {block} bytes")
        } else if let Err(error) = set_flags(&self.file, (flags - OFlag::O_NONBLOCK) | OFlag::O_DIRECT) {
            format!("its filesystem cannot do direct I/O ({error})")
        } else {
            (self.block, self.direct) = (block, true);
            return self;
        };
        tracing::warn!(path = %self.path.display(), "this file goes through the page cache, because {why}");
        self
    }

    /// Its size when it was opened.
    pub fn size(&self) -> Bytes {
        Bytes(self.size)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `MAJOR:MINOR` for a block device, the path for a regular file: what a table shows.
    pub fn identity(&self) -> String {
        match self.number {
            Some((major, minor)) => format!("{major}:{minor}"),
            None => self.path.display().to_string(),
        }
    }

    /// Direct I/O is done in whole blocks of this many bytes (a power of two, usually 512 or 4096); parts of
    /// blocks cost a read-modify-write. 1 where I/O goes through the page cache and nothing needs alignment.
    pub fn block_size(&self) -> u32 {
        self.block
    }

    /// Whether I/O bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a block device.
    pub fn is_block(&self) -> bool {
        self.number.is_some()
    }

    /// The next data or hole at or after `offset`; `None` if there is none before the end (the end itself is a
    /// hole). A block device is all data.
    pub fn seek(&self, offset: u64, what: Seek) -> io::Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        if self.is_block() {
            return Ok(Some(if what == Seek::Data { offset } else { self.size }));
        }
        let whence = if what == Seek::Data { libc::SEEK_DATA } else { libc::SEEK_HOLE };
        let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: lseek only takes numbers. It moves the file position, which nothing else here uses.
        match Errno::result(unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) }) {
            // Never negative: `Errno::result` took that for an error.
            Ok(found) => Ok(Some((found as u64).min(self.size))),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where a read may end early: a device ends where it did when it was opened (before that, a short read is
    /// a fault), a file may have been truncated.
    pub(super) fn end(&self) -> io::Result<u64> {
        if self.is_block() { Ok(self.size) } else { Ok(self.file.metadata()?.len()) }
    }

    /// The flag that remembers whether discard (or else write-zeroes) is refused.
    pub(super) fn cannot(&self, discard: bool) -> bool {
        let flag = if discard { &self.no_discard } else { &self.no_write_zeroes };
        flag.load(Ordering::Relaxed)
    }

    pub(super) fn remember_cannot(&self, discard: bool) {
        let flag = if discard { &self.no_discard } else { &self.no_write_zeroes };
        flag.store(true, Ordering::Relaxed);
    }
}

/// Size and kind of what lies at `path`, without opening it for I/O; `None` if there is nothing.
pub fn probe(path: &Path) -> io::Result<Option<(Bytes, Kind)>> {
    let seen = match std::fs::metadata(path) {
        Ok(seen) => seen,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = match kind(&seen) {
        Kind::Block => {
            let (major, minor) = split(seen.rdev());
            let sectors = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"));
            match sectors.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
                Some(sectors) => sectors.saturating_mul(crate::units::SECTOR_SIZE),
                // No sysfs in this container: the device itself has to say.
                None => device_size(&OpenOptions::new().read(true).open(path)?)?,
            }
        }
        Kind::File => seen.len(),
        Kind::Other(_) => 0,
    };
    Ok(Some((Bytes(size), kind(&seen))))
}

fn kind(seen: &Metadata) -> Kind {
    let kind = seen.file_type();
    match () {
        () if kind.is_block_device() => Kind::Block,
        () if kind.is_file() => Kind::File,
        () if kind.is_dir() => Kind::Other("a directory"),
        () if kind.is_char_device() => Kind::Other("a character device"),
        () if kind.is_fifo() => Kind::Other("a named pipe"),
        () if kind.is_socket() => Kind::Other("a socket"),
        () => Kind::Other("no file"),
    }
}

/// Major and minor number.
pub(super) fn split(rdev: u64) -> (u64, u64) {
    (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

fn status_flags(file: &File) -> io::Result<OFlag> {
    Ok(OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?))
}

fn set_flags(file: &File, flags: OFlag) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Which alignment direct I/O needs, as far as statx knows and a page-aligned buffer satisfies it.
fn direct_alignment(file: &File) -> Option<u32> {
    let mut seen = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH means the open descriptor; `seen` is a statx to be filled.
    let result = unsafe {
        let flags = libc::AT_EMPTY_PATH;
        libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, seen.as_mut_ptr())
    };
    // SAFETY: statx is plain numbers, for which zeroes are valid; the kernel filled in the rest.
    let seen = unsafe { seen.assume_init() };
    let align = seen.stx_dio_offset_align;
    let usable = result == 0
        && seen.stx_mask & libc::STATX_DIOALIGN != 0
        && align.is_power_of_two()
        && align <= 1 << 16
        && seen.stx_dio_mem_align <= super::buffer::PAGE as u32;
    usable.then_some(align)
}

mod ioctl {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, libc::size_t);
    nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);
}

fn device_size(file: &File) -> io::Result<u64> {
    let mut size: libc::size_t = 0;
    // SAFETY: BLKGETSIZE64 fills in one 64-bit number (its encoded size_t) at the pointer, which is valid.
    unsafe { ioctl::blkgetsize64(file.as_raw_fd(), &raw mut size)? };
    Ok(size as u64)
}

fn logical_block_size(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET fills in one int at the pointer, which is valid.
    unsafe { ioctl::blksszget(file.as_raw_fd(), &raw mut size)? };
    u32::try_from(size)
        .ok()
        .filter(|size| size.is_power_of_two())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}
