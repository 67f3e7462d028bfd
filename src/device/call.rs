//! Single system calls on raw memory, as they are ordered and as they come back.

use std::os::fd::RawFd;

/// Which way calls reach the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring where it is allowed, threads otherwise (a warning says why).
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// A pool of threads with one blocking system call each.
    Threads,
}

/// One system call.
///
/// Only a [`Device`](super::Device) makes them, and keeps memory and descriptor until the result was brought back to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Which device it is for, and which of its flights.
    pub(super) disk: u16,
    pub(super) key: u32,
    pub(super) fd: RawFd,
    /// Who makes it might be kept waiting, even where the kernel is asked not to wait: it is left to a thread of the kernel.
    pub(super) aside: bool,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Read { to: *mut u8, len: u32, at: u64 },
    Write { from: *const u8, len: u32, at: u64 },
    Sync,
    Allocate { mode: i32, at: u64, len: u64 },
}

// SAFETY: the pointers are only carried; who follows them relies on what is said at `Call`.
unsafe impl Send for Call {}

/// Calls to be made, on any [`Lane`](super::Lane).
#[derive(Debug, Default)]
pub struct Calls(pub(super) Vec<Call>);

impl Calls {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a call gave.
#[derive(Debug)]
pub struct Finished {
    pub(super) disk: u16,
    pub(super) key: u32,
    /// A count, or a negated errno.
    pub(super) result: i32,
}

impl Finished {
    /// Number of the device that it is to be brought back to.
    pub fn disk(&self) -> u16 {
        self.disk
    }
}
