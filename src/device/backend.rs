//! What both backends can do: single system calls on raw memory, started here and finished there.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Which way requests reach the kernel.
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Given back with its result.
    pub(super) key: u64,
    pub(super) fd: RawFd,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Read { to: *mut u8, len: u32, at: u64 },
    Write { from: *const u8, len: u32, at: u64 },
    Sync,
    Allocate { mode: i32, at: u64, len: u64 },
}

// SAFETY: the pointers are only carried; who uses them is bound by the contract of `Backend::submit`.
unsafe impl Send for Call {}

/// What a call gave: a count, or a negated errno.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) key: u64,
    pub(super) result: i32,
}

/// Starts calls from any thread, and reports them to the one thread that waits.
pub(super) trait Backend: Send + Sync {
    fn name(&self) -> &'static str;

    /// Starts the calls; never waits for the device.
    ///
    /// # Safety
    ///
    /// Descriptor and memory of each call must stay valid, and the memory of a write unchanged and of a read
    /// unused, until the call has been reported by [`Backend::wait`].
    unsafe fn submit(&self, calls: &[Call]);

    /// Waits until something has finished, [`Backend::wake`] was called, or the time is over; `finished` may
    /// stay empty in each case.
    fn wait(&self, timeout: Option<Duration>, finished: &mut Vec<Finished>) -> io::Result<()>;

    /// Makes the running `wait`, or else the next one, return.
    fn wake(&self);
}
