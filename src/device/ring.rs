//! The lane for fast disks: an io_uring that only its own thread submits to and reaps.
//!
//! Nothing in here waits for room: what does not fit in the submission queue, or is refused for the moment (EAGAIN, EBUSY),
//! is kept in a backlog that the next wait sends. Everything that was queued goes with that wait, in one system call.

use super::call::{Call, Calls, Finished, What};
use super::lane::{Command, Event, Waker};
use super::queue::MOST_WAITING;
use super::spin::Spin;
use io_uring::squeue::{Entry, Entry128, EntryMarker, Flags};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Submission queue entries, so that a batch takes one system call.
const ENTRIES: u32 = 256;
/// Threads of the kernel that wait for devices in the name of one lane, at most: enough for many disks that hang, each with all
/// that it is allowed. Without being told, Linux has four for each processor, and a few syncs that hang keep those of all
/// other disks from being begun.
pub(super) const WORKERS: u32 = 16 * MOST_WAITING as u32;
/// How long to wait before a refused submission is tried again.
const AGAIN: Duration = Duration::from_millis(1);

/// What a completion is of, in the upper 16 bits of its `user_data`; a call has the number of its disk below that.
const CALL: u64 = 0;
const WAKE: u64 = 1 << 48;
const READABLE: u64 = 2 << 48;
const COMMAND: u64 = 3 << 48;

pub(super) struct Ring<S: EntryMarker> {
    ring: IoUring<S>,
    /// What could not be queued yet.
    backlog: VecDeque<S>,
    wakeups: Arc<EventFd>,
    /// Whether the ring watches `wakeups`.
    watched: bool,
    /// Calls that have not come back.
    in_flight: u32,
    /// The kernel does its part only while this thread waits.
    deferred: bool,
    spin: Spin,
}

impl<S: EntryMarker + From<Entry>> Ring<S> {
    /// A ring for usually `usual` operations in flight; the kernel keeps the completions of what is beyond.
    pub(super) fn new(usual: u32) -> io::Result<Self> {
        let build = |own: bool| {
            let mut builder = IoUring::<S>::builder();
            builder.setup_clamp().setup_cqsize(usual.max(ENTRIES).next_power_of_two());
            if own {
                // Completions are made when this thread looks for them: no interrupt in the middle of its work (Linux 6.1).
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            builder.build(ENTRIES)
        };
        let (ring, deferred) = match build(true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (build(false)?, false),
            ring => (ring?, true),
        };
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
        // A kernel that cannot be told (before Linux 5.15) has as many as it likes; 0 leaves those for sockets as they are.
        let _ = ring.submitter().register_iowq_max_workers(&mut [WORKERS, 0]);
        let wakeups = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let spin = Spin::new();
        Ok(Self { ring, backlog: VecDeque::new(), wakeups, watched: false, in_flight: 0, deferred, spin })
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The kernel has taken everything that was queued, and what it has told so far was passed on.
    pub(super) fn is_settled(&mut self) -> bool {
        self.backlog.is_empty()
            && self.ring.submission().is_empty()
            && self.ring.completion().is_empty()
            && self.deferred
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(self.wakeups.clone())
    }

    pub(super) fn start(&mut self, calls: &mut Calls) {
        for call in calls.0.drain(..) {
            self.in_flight += 1;
            // SAFETY: what is said at `Call` keeps its memory and descriptor until the result is brought back.
            unsafe { self.push(entry(&call).into()) };
        }
    }

    pub(super) fn watch(&mut self, descriptor: BorrowedFd<'_>) {
        // Exclusive: what comes there wakes one of the threads that watch it, not all.
        let events = (libc::POLLIN | libc::POLLHUP | libc::POLLERR) as u32 | libc::EPOLLEXCLUSIVE as u32;
        let poll = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), events).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(poll.user_data(READABLE).into()) };
    }

    /// Queues an entry; it goes to the kernel with the next wait, or when the queue is full.
    ///
    /// # Safety
    /// Whatever the entry points to must stay valid until its completion.
    unsafe fn push(&mut self, entry: S) {
        if self.backlog.is_empty() {
            // SAFETY: this function's contract.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            if self.ring.submit().is_ok() {
                // SAFETY: this function's contract.
                if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                    return;
                }
            }
        }
        self.backlog.push_back(entry);
    }

    /// Moves what fits of the backlog to the submission queue.
    fn refill(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: who pushed the entry vouched for it.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if !self.watched {
            self.watched = true;
            let entry = opcode::PollAdd::new(Fd(self.wakeups.as_raw_fd()), libc::POLLIN as u32);
            // SAFETY: the entry points to no memory, and the ring is closed with the eventfd.
            unsafe { self.push(entry.build().user_data(WAKE).into()) };
        }
        self.refill();
        let mut timeout = timeout;
        if !self.backlog.is_empty() {
            timeout = Some(timeout.map_or(AGAIN, |timeout| timeout.min(AGAIN)));
        }
        if self.reap(events) {
            // There is something to do already; what was queued goes to the kernel all the same.
            return self.enter(0, None);
        }
        if self.spin.is_worth_it(self.in_flight) {
            self.enter(0, None)?;
            if self.spin_for(timeout, events)? {
                return Ok(());
            }
        }
        self.enter(1, timeout)?;
        self.reap(events);
        Ok(())
    }

    /// Looks for completions without sleeping, for as long as that is likely to be worth it.
    fn spin_for(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<bool> {
        let mut turn = self.spin.begin(timeout);
        while turn.goes_on() {
            if self.ring.submission().taskrun() {
                self.enter(0, None)?;
            }
            if self.reap(events) {
                self.spin.end(true);
                return Ok(true);
            }
        }
        self.spin.end(false);
        Ok(false)
    }

    /// Submits what is queued, and waits for `want` completions.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let timespec = timeout.map(Timespec::from);
        let args = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        // SAFETY: what is queued was vouched for when it was pushed, and `args` is what EXT_ARG says it is; it outlives
        // the call.
        match unsafe { self.ring.submitter().enter(queued, want, flags, Some(&args)) } {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => Ok(()),
                Some(libc::EAGAIN | libc::EBUSY) => {
                    tracing::debug!(%error, "io_uring takes no more for the moment");
                    // First comes what has completed; without that, somebody else has to give memory back.
                    if want > 0 && self.ring.completion().is_empty() {
                        std::thread::sleep(AGAIN);
                    }
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Takes what has completed; true if there was anything, wake-ups included.
    fn reap(&mut self, events: &mut Vec<Event>) -> bool {
        let mut any = false;
        for entry in self.ring.completion() {
            any = true;
            let (data, result) = (entry.user_data(), entry.result());
            // The low 32 bits name the one of its kind.
            let which = data as u32;
            match data & (0xffff << 48) {
                CALL => {
                    self.in_flight -= 1;
                    events.push(Event::Finished(Finished { disk: (data >> 32) as u16, key: which, result }));
                }
                COMMAND => events.push(Event::Command { token: which, result }),
                READABLE => events.push(Event::Readable),
                _ => {
                    // Nothing to read only means that there was one wake-up for two.
                    let _ = self.wakeups.read();
                    self.watched = false;
                }
            }
        }
        any
    }
}

impl Ring<Entry128> {
    /// # Safety
    /// As for [`Lane::command`](super::Lane::command).
    pub(super) unsafe fn command(&mut self, device: BorrowedFd<'_>, command: Command) {
        let Command { token, code, arguments, memory } = command;
        let mut entry = opcode::UringCmd80::new(Fd(device.as_raw_fd()), code)
            .cmd(arguments)
            .addr(memory.map(|(address, _)| address))
            .build()
            .user_data(COMMAND | u64::from(token));
        if let Some((_, len)) = memory {
            // The crate has no name for `len` of a command: bytes 24 to 28 of an entry in the kernel's interface.
            const LEN: usize = 24;
            // SAFETY: an entry is 128 plain bytes in the kernel's layout, so this stays inside it.
            unsafe { (&raw mut entry).cast::<u8>().add(LEN).cast::<u32>().write_unaligned(len) };
        }
        // SAFETY: this function's contract.
        unsafe { self.push(entry) };
    }
}

impl<S: EntryMarker> Drop for Ring<S> {
    /// Closing a ring cancels what it can, and finishes the rest when it gets to it: nothing of ours waits for that.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            tracing::debug!(calls = self.in_flight, "a lane ends before its calls");
        }
    }
}

fn entry(call: &Call) -> Entry {
    let fd = Fd(call.fd);
    let entry = match call.what {
        What::Read { to, len, at } => opcode::Read::new(fd, to, len).offset(at).build(),
        What::Write { from, len, at } => opcode::Write::new(fd, from, len).offset(at).build(),
        What::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        What::Allocate { mode, at, len } => opcode::Fallocate::new(fd, len).offset(at).mode(mode).build(),
    };
    // A file of another FUSE filesystem is read and written while the one who submits waits for its answer; and who submits
    // here serves everybody.
    let entry = if call.aside { entry.flags(Flags::ASYNC) } else { entry };
    entry.user_data(CALL | u64::from(call.disk) << 32 | u64::from(call.key))
}
