//! One block device or regular file, and everything that is known about it.

use super::kernel::{self, kind};
use crate::units::Bytes;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One opened block device or regular file, kept from other programs as far as Linux allows.
///
/// A block device is opened for direct I/O, and exclusively (`O_EXCL`): it can be neither mounted nor in other
/// exclusive use meanwhile. A regular file is locked (`flock`) and opened for direct I/O if its filesystem can
/// and its size is a whole number of blocks; otherwise it goes through the page cache, and a warning says so.
#[derive(Debug)]
pub struct Target {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Grows when the configuration takes note of it.
    pub(super) size: AtomicU64,
    /// It was opened for reading only.
    pub(super) read_only: bool,
    /// `MAJOR:MINOR` of a block device.
    pub(super) number: Option<(u64, u64)>,
    pub(super) block: u32,
    pub(super) direct: bool,
    /// What the memory of direct I/O is aligned to.
    pub(super) memory_align: u32,
    // What the device has turned out not to be able to do; asking again would only cost a system call.
    pub(super) no_discard: AtomicBool,
    pub(super) no_write_zeroes: AtomicBool,
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

impl Target {
    /// Its size when it was opened, or when its growth was taken note of.
    pub fn size(&self) -> Bytes {
        Bytes(self.bytes())
    }

    fn bytes(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Takes note that it has grown; that it has shrunk is nothing that helps anybody.
    pub fn grow_to(&self, size: Bytes) {
        // Direct I/O is never to make a file larger than it is.
        let whole = if self.direct { size.0 - size.0 % u64::from(self.block.max(1)) } else { size.0 };
        self.size.fetch_max(whole, Ordering::Relaxed);
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

    /// Whether it was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it is a block device.
    pub fn is_block(&self) -> bool {
        self.number.is_some()
    }

    /// The next data or hole at or after `offset`; `None` if there is none before the end (the end itself is a
    /// hole). A block device is all data.
    pub fn seek(&self, offset: u64, what: Seek) -> io::Result<Option<u64>> {
        if offset >= self.bytes() {
            return Ok(None);
        }
        if self.is_block() {
            return Ok(Some(if what == Seek::Data { offset } else { self.bytes() }));
        }
        let whence = if what == Seek::Data { libc::SEEK_DATA } else { libc::SEEK_HOLE };
        let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: lseek only takes numbers. It moves the file position, which nothing else here uses.
        match Errno::result(unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) }) {
            // Never negative: `Errno::result` took that for an error.
            Ok(found) => Ok(Some((found as u64).min(self.bytes()))),
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
        if self.is_block() { Ok(self.bytes()) } else { Ok(self.file.metadata()?.len()) }
    }

    /// As if it had blocks of this size, for tests of what is done about that.
    #[cfg(test)]
    pub(super) fn with_block(mut self, block: u32) -> Self {
        self.block = block;
        self.memory_align = block;
        self
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
            let (major, minor) = kernel::split(seen.rdev());
            let sectors = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"));
            match sectors.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
                Some(sectors) => sectors.saturating_mul(crate::units::SECTOR_SIZE),
                // No sysfs in this container: the device itself has to say.
                None => kernel::device_size(&OpenOptions::new().read(true).open(path)?)?,
            }
        }
        Kind::File => seen.len(),
        Kind::Other(_) => 0,
    };
    Ok(Some((Bytes(size), kind(&seen))))
}
