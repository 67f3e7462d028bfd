//! A thread's own way to the kernel: it starts calls, and waits for what they gave and for what else the thread serves.
//!
//! A thread that serves requests sleeps in one place only, [`Lane::wait`]. So whatever it has to hear of comes from there:
//! results of calls, a descriptor that can be read, results of commands to a device, and other threads that wake it.

use super::call::{BackendKind, Calls, Finished};
use super::pool::Pool;
use super::ring::Ring;
use io_uring::squeue;
use nix::sys::eventfd::EventFd;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// What [`Lane::wait`] has to tell.
#[derive(Debug)]
pub enum Event {
    /// A call gave this; it belongs to its device.
    Finished(Finished),
    /// The watched descriptor can be read, or has come to its end. It is not watched any more.
    Readable,
    /// A command gave this.
    Command {
        /// That of the command.
        token: u32,
        /// A count, or a negated errno.
        result: i32,
    },
}

/// The way to the kernel of one thread, which makes it and keeps it.
pub struct Lane(Way);

enum Way {
    Ring(Ring<squeue::Entry>),
    /// With room for commands to devices.
    Wide(Ring<squeue::Entry128>),
    Pool(Pool),
}

/// Ends the wait of another thread's [`Lane`], or else its next one.
#[derive(Clone, Debug)]
pub struct Waker(pub(super) Arc<EventFd>);

impl Waker {
    /// Wakes it. Never waits.
    pub fn wake(&self) {
        // It can only fail when the counter is full, that is, when there is a wake-up already.
        let _ = self.0.write(1);
    }
}

/// A command to a character device through io_uring, in the kernel's own layout.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Given back in [`Event::Command`].
    pub token: u32,
    /// Which command.
    pub code: u32,
    /// Its arguments: the last 80 bytes of the entry.
    pub arguments: [u8; 80],
    /// Memory that it is told of (address and length, as the command counts it), if any.
    pub memory: Option<(u64, u32)>,
}

impl Lane {
    /// A lane of this kind for this thread; `entries` is how many calls are usually in flight.
    ///
    /// # Errors
    /// When io_uring is asked for and cannot be had, or nothing can.
    pub fn new(kind: BackendKind, entries: u32) -> io::Result<Self> {
        let way = open(kind, || Ring::new(entries).map(Way::Ring))?;
        precise_timeouts();
        Ok(Self(way))
    }

    /// A lane that can also send up to `commands` commands.
    ///
    /// # Errors
    /// When io_uring, or entries of that size (Linux 5.19), cannot be had.
    pub fn with_commands(entries: u32, commands: u32) -> io::Result<Self> {
        let ring = Ring::new(entries.saturating_add(commands))?;
        precise_timeouts();
        Ok(Self(Way::Wide(ring)))
    }

    /// `io_uring` or `threads`.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Way::Ring(_) | Way::Wide(_) => "io_uring",
            Way::Pool(_) => "threads",
        }
    }

    /// Calls that were started and have not come back.
    pub fn in_flight(&self) -> u32 {
        match &self.0 {
            Way::Ring(ring) => ring.in_flight(),
            Way::Wide(ring) => ring.in_flight(),
            Way::Pool(pool) => pool.in_flight(),
        }
    }

    /// Between two waits: everything that was started was taken by the kernel, and everything that it has done since was told.
    /// Until the next wait nothing more happens in the name of this thread. Never so on a lane without commands, or on a
    /// kernel that does things in between (before Linux 6.1).
    pub fn is_settled(&mut self) -> bool {
        match &mut self.0 {
            Way::Wide(ring) => ring.is_settled(),
            Way::Ring(_) | Way::Pool(_) => false,
        }
    }

    /// For other threads to wake this one.
    pub fn waker(&self) -> Waker {
        match &self.0 {
            Way::Ring(ring) => ring.waker(),
            Way::Wide(ring) => ring.waker(),
            Way::Pool(pool) => pool.waker(),
        }
    }

    /// Takes calls to be made, at the latest with the next wait. Never waits for a device.
    pub fn start(&mut self, calls: &mut Calls) {
        match &mut self.0 {
            Way::Ring(ring) => ring.start(calls),
            Way::Wide(ring) => ring.start(calls),
            Way::Pool(pool) => pool.start(calls),
        }
    }

    /// Tells once when the descriptor can be read.
    ///
    /// It must stay open until then, or as long as the lane.
    pub fn watch(&mut self, descriptor: BorrowedFd<'_>) {
        match &mut self.0 {
            Way::Ring(ring) => ring.watch(descriptor),
            Way::Wide(ring) => ring.watch(descriptor),
            Way::Pool(pool) => pool.watch(descriptor),
        }
    }

    /// Sends a command, at the latest with the next wait.
    ///
    /// # Safety
    /// The memory that the command names, in its arguments or beside them, must stay valid for as long as the device
    /// that it goes to may use it, and nothing else may use it meanwhile.
    ///
    /// # Errors
    /// ENOTSUP on a lane that was not made for commands.
    pub unsafe fn command(&mut self, device: BorrowedFd<'_>, command: Command) -> io::Result<()> {
        match &mut self.0 {
            Way::Wide(ring) => {
                // SAFETY: this function's contract.
                unsafe { ring.command(device, command) };
                Ok(())
            }
            Way::Ring(_) | Way::Pool(_) => Err(io::Error::from_raw_os_error(libc::ENOTSUP)),
        }
    }

    /// Waits until there is something to tell, somebody woke it, or the time is over; `events` may stay empty in each
    /// case.
    ///
    /// # Errors
    /// When the kernel refuses to wait: nothing that was started will ever be heard of.
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        match &mut self.0 {
            Way::Ring(ring) => ring.wait(timeout, events),
            Way::Wide(ring) => ring.wait(timeout, events),
            Way::Pool(pool) => pool.wait(timeout, events),
        }
    }
}

/// The way that was asked for; `uring` makes the ring.
fn open(kind: BackendKind, uring: impl FnOnce() -> io::Result<Way>) -> io::Result<Way> {
    if kind == BackendKind::Threads {
        return Ok(Way::Pool(Pool::new()?));
    }
    uring().or_else(|error| {
        if kind == BackendKind::Uring {
            return Err(error);
        }
        let hint = hint(&error);
        tracing::warn!("disks are served by threads, more slowly: io_uring cannot be used ({error}{hint})");
        Ok(Way::Pool(Pool::new()?))
    })
}

/// Who forbids io_uring.
fn hint(error: &io::Error) -> &'static str {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match error.raw_os_error() {
        Some(libc::EPERM) if disabled.is_ok_and(|value| value.trim() != "0") => {
            "; the sysctl kernel.io_uring_disabled forbids it"
        }
        Some(libc::EPERM) => "; a seccomp filter, such as a container's, forbids it",
        Some(libc::ENOSYS) => "; the kernel does not have it, or a seccomp filter hides it",
        _ => "",
    }
}

/// Timeouts to the nanosecond on this thread: by default Linux takes 50 us more to save wake-ups.
fn precise_timeouts() {
    // SAFETY: this prctl takes numbers only. If it fails, timeouts are merely less precise.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> io::Result<Way> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    #[test]
    fn threads_stand_in_for_a_forbidden_ring_unless_it_was_asked_for() {
        assert_eq!(Lane(open(BackendKind::Auto, forbidden).unwrap()).name(), "threads");
        let error = open(BackendKind::Uring, forbidden).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(hint(&error).contains("forbid"));
    }
}
