//! What a target is at the moment: an open descriptor, and what its kernel object can do.

use super::kernel;
use super::mark::Mark;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What direct I/O has to be aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Offsets and lengths, in bytes; 0 if it cannot be done, or not with page-aligned memory.
    pub(super) block: u32,
    /// Memory, in bytes.
    pub(super) memory: u32,
}

/// One opened block device or file. A transfer keeps the one that it began with.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) file: File,
    /// What it is, to tell whether another one is the same.
    pub(super) mark: Mark,
    /// `MAJOR:MINOR` of a block device.
    pub(super) number: Option<(u64, u64)>,
    /// Blocks of 1 byte where I/O goes through the page cache.
    pub(super) alignment: Alignment,
    pub(super) direct: bool,
    /// Its filesystem answers by a process, or over a network: the simplest call may wait for that.
    pub(super) remote: bool,
    // What the device has turned out not to be able to do; asking again would only cost a system call.
    pub(super) no_discard: AtomicBool,
    pub(super) no_write_zeroes: AtomicBool,
    /// The size that a file was seen to have, and when (in nanoseconds) that was looked at. See [`Medium::may_write_to`].
    pub(super) seen: AtomicU64,
    pub(super) looked: AtomicU64,
}

/// How long what was seen of a file's size is believed, in nanoseconds.
const BELIEVED: u64 = 1_000_000;

impl Medium {
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn is_block(&self) -> bool {
        self.number.is_some()
    }

    /// How large it is now, in bytes. Does not wait for a device, but may for a remote filesystem.
    pub(super) fn size_now(&self) -> io::Result<u64> {
        if self.is_block() { kernel::device_size(&self.file) } else { Ok(self.file.metadata()?.len()) }
    }

    /// Whether what lies before `end` is still there to be written to, at `now` nanoseconds. Where somebody has truncated a
    /// file, a write would make it longer again, with a hole before it that reads as zeroes: lost data must not look like
    /// data. So its size is looked at before a write, but not more often than each millisecond. A block device refuses such
    /// a write by itself; a remote filesystem might keep us waiting for its answer.
    pub(super) fn may_write_to(&self, end: u64, now: u64) -> bool {
        if self.is_block() || self.remote {
            return true;
        }
        let looked = self.looked.load(Ordering::Relaxed);
        if now.saturating_sub(looked) >= BELIEVED || self.seen.load(Ordering::Relaxed) < end {
            self.looked.store(now, Ordering::Relaxed);
            // What cannot be looked at is left to the write itself.
            self.seen.store(self.size_now().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        end <= self.seen.load(Ordering::Relaxed)
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
