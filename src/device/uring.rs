//! The backend for fast disks: one io_uring that every thread submits to and one thread reaps.
//!
//! Nothing in here ever waits for room: what does not fit in the submission queue, or is refused for the moment
//! (EAGAIN, EBUSY), is kept in a backlog that the waiting thread sends later. So that it hears of that even
//! while it sleeps, wake-ups do not go through the submission queue themselves: they count up an eventfd, which
//! the ring watches.

use super::backend::{Backend, Call, Finished, What};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Submission queue entries: more than are ever submitted at once, so that a batch takes one system call.
const ENTRIES: u32 = 256;
/// Completion queue entries: more than are usually in flight. The kernel keeps what is beyond.
const COMPLETIONS: u32 = 4096;
/// How long to wait before a refused submission is tried again.
const AGAIN: Duration = Duration::from_millis(1);
/// `user_data` of the watch on the eventfd; no key of a call is ever this large.
const WAKE: u64 = u64::MAX;

pub(super) struct Uring {
    ring: IoUring,
    /// What could not be submitted yet; its lock is also the right to touch the submission queue.
    backlog: Mutex<VecDeque<squeue::Entry>>,
    /// Something is left in the submission queue or the backlog.
    stuck: AtomicBool,
    wakeups: EventFd,
    /// Whether the ring watches `wakeups`. Only the waiting thread looks at it; see `Uring::reap`.
    watched: AtomicBool,
    /// The right to touch the completion queue: never contended, as only one thread waits.
    reaping: Mutex<()>,
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        let ring: IoUring = IoUring::builder().setup_clamp().setup_cqsize(COMPLETIONS).build(ENTRIES)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
            opcode::PollAdd::CODE,
        ];
        let complete = needed.into_iter().all(|code| probe.is_supported(code));
        // Timeouts as an argument of the wait, and no lost completions: Linux 5.11.
        if !complete || !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring is too old"));
        }
        let wakeups = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self {
            ring,
            backlog: Mutex::default(),
            stuck: AtomicBool::new(false),
            wakeups,
            watched: AtomicBool::new(false),
            reaping: Mutex::default(),
        })
    }

    /// Queues the entries behind the backlog and submits what the kernel takes; true if that was everything.
    ///
    /// # Safety
    ///
    /// Whatever the entries point to must stay valid until they are reported.
    unsafe fn push(&self, entries: impl IntoIterator<Item = squeue::Entry>) -> bool {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        backlog.extend(entries);
        let stuck = loop {
            let empty = {
                // SAFETY: whoever uses the submission queue holds the lock of the backlog.
                let mut queue = unsafe { self.ring.submission_shared() };
                while let Some(entry) = backlog.front() {
                    // SAFETY: the entries are valid by this function's contract.
                    if unsafe { queue.push(entry) }.is_err() {
                        break;
                    }
                    backlog.pop_front();
                }
                queue.is_empty()
            };
            if empty {
                break false;
            }
            match self.ring.submit() {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => {
                    tracing::debug!(%error, "io_uring takes no more for the moment");
                    break true;
                }
            }
        };
        self.stuck.store(stuck, Ordering::Release);
        !stuck
    }

    /// Takes what has finished out of the completion queue; true if there was anything, wake-ups included.
    fn reap(&self, finished: &mut Vec<Finished>) -> bool {
        let _only = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let before = finished.len();
        let mut woken = false;
        // SAFETY: whoever uses the completion queue holds the lock of `reaping`.
        for entry in unsafe { self.ring.completion_shared() } {
            if entry.user_data() == WAKE {
                woken = true;
            } else {
                finished.push(Finished { key: entry.user_data(), result: entry.result() });
            }
        }
        if woken {
            // Nothing to read only means that somebody was faster.
            let _ = self.wakeups.read();
            self.watched.store(false, Ordering::Release);
        }
        woken || finished.len() > before
    }

    /// Lets the ring watch the eventfd, once for every time that it fires.
    fn watch(&self) {
        if !self.watched.swap(true, Ordering::AcqRel) {
            let entry = opcode::PollAdd::new(Fd(self.wakeups.as_raw_fd()), libc::POLLIN as u32);
            // SAFETY: the entry points to no memory, and the ring is closed with the eventfd.
            unsafe { self.push([entry.build().user_data(WAKE)]) };
        }
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    unsafe fn submit(&self, calls: &[Call]) {
        // SAFETY: the caller keeps memory and descriptors valid until the calls are reported.
        let sent = unsafe { self.push(calls.iter().map(entry)) };
        if !sent {
            self.wake();
        }
    }

    fn wait(&self, timeout: Option<Duration>, finished: &mut Vec<Finished>) -> io::Result<()> {
        self.watch();
        let mut timeout = timeout;
        if self.stuck.load(Ordering::Acquire) {
            // SAFETY: nothing new; what is in the backlog was vouched for when it came there.
            unsafe { self.push([]) };
            timeout = Some(timeout.map_or(AGAIN, |timeout| timeout.min(AGAIN)));
        }
        if self.reap(finished) {
            return Ok(());
        }
        let timespec = timeout.map(Timespec::from);
        let args = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        // SAFETY: nothing is submitted (0), and `args` is what EXT_ARG says it is; it outlives the call.
        match unsafe { self.ring.submitter().enter(0, 1, flags, Some(&args)) } {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // EBUSY: first take out what is there.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => return Err(error),
            },
        }
        self.reap(finished);
        Ok(())
    }

    fn wake(&self) {
        // It can only fail when the counter is full, that is, when there is a wake-up already.
        let _ = self.wakeups.write(1);
    }
}

fn entry(call: &Call) -> squeue::Entry {
    let fd = Fd(call.fd);
    let entry = match call.what {
        What::Read { to, len, at } => opcode::Read::new(fd, to, len).offset(at).build(),
        What::Write { from, len, at } => opcode::Write::new(fd, from, len).offset(at).build(),
        What::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        What::Allocate { mode, at, len } => opcode::Fallocate::new(fd, len).offset(at).mode(mode).build(),
    };
    entry.user_data(call.key)
}
