//! One block device or regular file, and everything that is known about it.

use super::faults::{Faults, Injected, Injector};
use super::health::{Health, News};
use super::kernel::{self, kind};
use super::mark::Mark;
use super::medium::{Alignment, Medium};
use super::queue::Op;
use crate::units::{Bytes, Nanos};
use arc_swap::ArcSwapOption;
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A block device or regular file, kept from other programs as far as Linux allows.
///
/// A block device is opened for direct I/O, and exclusively (`O_EXCL`): it can be neither mounted nor in other
/// exclusive use meanwhile. A regular file is locked (`flock`) and opened for direct I/O if its filesystem can
/// and its size is a whole number of blocks; otherwise it goes through the page cache, and a warning says so.
///
/// It may be missing, for as long as there is nothing at its path that it could be: then everything is EIO.
#[derive(Debug)]
pub struct Target {
    pub(super) path: PathBuf,
    /// Grows when the configuration takes note of it.
    pub(super) size: AtomicU64,
    /// It was opened for reading only.
    pub(super) read_only: bool,
    /// What it is on. Another one comes only where nothing is lost by it.
    pub(super) medium: ArcSwapOption<Medium>,
    /// How the last one was to be known again.
    pub(super) mark: Mutex<Option<Mark>>,
    pub(super) health: Health,
    /// It is missing because somebody has it: a predecessor whose last writes have not landed, most probably.
    pub(super) awaited: AtomicBool,
    faults: Mutex<Option<Injector>>,
    /// There are some.
    has_faults: AtomicBool,
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
        let block = u64::from(self.block_size().max(1));
        let whole = if self.is_direct() { size.0 - size.0 % block } else { size.0 };
        self.size.fetch_max(whole, Ordering::Relaxed);
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `MAJOR:MINOR` for a block device, the path for a regular file (and for what is missing): what a table shows.
    pub fn identity(&self) -> String {
        match self.number() {
            Some((major, minor)) => format!("{major}:{minor}"),
            None => self.path.display().to_string(),
        }
    }

    /// `MAJOR:MINOR` of a block device.
    pub fn number(&self) -> Option<(u64, u64)> {
        self.medium.load().as_ref().and_then(|medium| medium.number)
    }

    /// Direct I/O is done in whole blocks of this many bytes (a power of two, usually 512 or 4096); parts of
    /// blocks cost a read-modify-write. 1 where I/O goes through the page cache and nothing needs alignment.
    pub fn block_size(&self) -> u32 {
        self.alignment().block
    }

    /// Of what is missing it is not known, and does not matter.
    pub(super) fn alignment(&self) -> Alignment {
        const UNKNOWN: Alignment = Alignment { block: 4096, memory: 4096 };
        self.medium.load().as_ref().map_or(UNKNOWN, |medium| medium.alignment)
    }

    /// Whether I/O bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.medium.load().as_ref().is_some_and(|medium| medium.direct)
    }

    /// Whether there is nothing that it is on: everything that is asked of it is EIO.
    pub fn is_missing(&self) -> bool {
        self.medium.load().is_none()
    }

    /// Whether it was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it is a block device.
    pub fn is_block(&self) -> bool {
        self.medium.load().as_ref().is_some_and(|medium| medium.is_block())
    }

    /// What it is, for who wants to know it again; of what is missing, what it was.
    pub fn mark(&self) -> Option<Mark> {
        self.last_mark().clone()
    }

    pub(super) fn last_mark(&self) -> MutexGuard<'_, Option<Mark>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `ring` is called by whoever serves when there may be news; the first one stands. It must not wait for anything.
    pub fn on_news(&self, ring: impl Fn() + Send + Sync + 'static) {
        self.health.set_bell(ring);
    }

    /// How often some of what was written to it was lost that had not been made durable: a sync has failed, which Linux tells
    /// only the first who asks, or it is on something else since. Whoever flushes and has seen less of it is to be told.
    pub fn lost(&self) -> u64 {
        self.health.lost()
    }

    /// What there is to tell of it, once. `now` is by the clock of the device that it is used with.
    pub fn news(&self, now: Nanos) -> News {
        self.health.news(now)
    }

    /// How large it is at this moment, in bytes; `None` if it is missing or does not say. May wait for a remote filesystem.
    pub fn size_now(&self) -> Option<Bytes> {
        let medium = self.medium.load_full()?;
        medium.size_now().ok().map(Bytes)
    }

    /// Whether the simplest question about it may have to wait for a process or a network.
    pub fn is_remote(&self) -> bool {
        self.medium.load().as_ref().is_some_and(|medium| medium.remote)
    }

    /// Makes it fail in this way from now on, or no longer. What was accepted before goes on as it was to.
    pub fn set_faults(&self, faults: Option<&Faults>) {
        let mut injector = self.injector();
        // The same again: it goes on with its counting.
        if injector.as_ref().map(Injector::faults) != faults {
            self.has_faults.store(faults.is_some(), Ordering::Relaxed);
            *injector = faults.cloned().map(Injector::new);
        }
    }

    fn injector(&self) -> MutexGuard<'_, Option<Injector>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to go wrong with this.
    pub(super) fn inject(&self, op: Op, offset: u64, len: u64) -> Injected {
        if !self.has_faults.load(Ordering::Relaxed) {
            return Injected::default();
        }
        self.injector().as_mut().map(|injector| injector.next(op, offset, len)).unwrap_or_default()
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
        let medium = self.medium.load_full().ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?;
        // SAFETY: lseek only takes numbers. It moves the file position, which nothing else here uses.
        match Errno::result(unsafe { libc::lseek(medium.fd(), offset, whence) }) {
            // Never negative: `Errno::result` took that for an error.
            Ok(found) => Ok(Some((found as u64).min(self.bytes()))),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn new(path: &Path, size: u64, read_only: bool, medium: Option<Medium>) -> Self {
        Self {
            path: path.to_owned(),
            size: AtomicU64::new(size),
            read_only,
            mark: Mutex::new(medium.as_ref().map(|medium| medium.mark.clone())),
            medium: ArcSwapOption::from_pointee(medium),
            health: Health::default(),
            awaited: AtomicBool::new(false),
            faults: Mutex::default(),
            has_faults: AtomicBool::new(false),
        }
    }

    /// Whether it is missing and about to come: it is with a predecessor.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire)
    }

    /// It is not waited for any more: it is with somebody else.
    pub fn give_up(&self) {
        self.awaited.store(false, Ordering::Release);
    }

    /// As if it had blocks of this size, for tests of what is done about that.
    #[cfg(test)]
    pub(super) fn with_block(self, block: u32) -> Self {
        self.being(|medium| Medium { alignment: Alignment { block, memory: block }, ..medium })
    }

    /// As if it were on something else.
    #[cfg(test)]
    pub(super) fn being(self, change: impl FnOnce(Medium) -> Medium) -> Self {
        let medium = self.medium.swap(None).and_then(std::sync::Arc::into_inner).expect("nobody uses it");
        self.medium.store(Some(std::sync::Arc::new(change(medium))));
        self
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
