//! Does the thread still live that an answer was read from?
//!
//! A thread's number is free for another as soon as the thread is gone, so a cached answer needs somebody who
//! says when. Two can, and both are bound to the thread itself, not to its number:
//!
//! * a **pidfd** of the thread (Linux 6.9), which an epoll instance watches. At a thread's end the kernel marks
//!   the pidfd ready *before* it gives the number free. Whoever drains the epoll before using the cache
//!   therefore cannot meet the old answer under a new owner's number: there is no window, however small. When
//!   nothing has ended, draining is one system call that finds an empty list. A thread that waits on the epoll
//!   would save that call, and would open a window as long as its wake-up takes.
//! * on older kernels, an **open file in `/proc/TID`**, which reads ESRCH once the thread has gone. It must be
//!   asked at each use.
//!
//! Both cost a descriptor, so the cache counts them.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Names one cached answer: a thread id, and a serial number that tells it from a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) tid: u32,
    pub(super) serial: u32,
}

/// Holds on to one thread. Give it back with [`Watch::release`].
#[derive(Debug)]
pub(super) enum Guard {
    /// The watch reports the thread's end.
    Reported(OwnedFd),
    /// Nobody reports it: the file must be asked.
    Asked(File),
}

impl Guard {
    /// Whether the thread may end without a report.
    pub(super) fn must_be_asked(&self) -> bool {
        matches!(self, Self::Asked(_))
    }

    /// Asks whether the thread has ended.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            // Any answer but "nothing to report" counts as an end: it costs a look-up and no more.
            Self::Reported(pidfd) => {
                poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
            }
            Self::Asked(file) => file.read_at(&mut [0], 0).is_err(),
        }
    }
}

/// Reports the end of the threads that are guarded.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: Epoll,
    pidfds: bool,
}

impl Watch {
    /// `pidfds` false does without them, as on an old kernel.
    pub(super) fn new(pidfds: bool) -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, pidfds })
    }

    /// Guards the thread that has this id now. Its end will be reported under the ticket.
    pub(super) fn guard(&self, ticket: Ticket) -> io::Result<Guard> {
        if self.pidfds {
            match open_thread(ticket.tid) {
                Ok(pidfd) => {
                    // Level-triggered: an end shows in every drain until it was released, so that nobody who
                    // drains at the same time misses what another is still clearing away.
                    let data = u64::from(ticket.serial) << 32 | u64::from(ticket.tid);
                    self.epoll.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, data))?;
                    return Ok(Guard::Reported(pidfd));
                }
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(error),
                // Not known (EINVAL, ENOSYS) or not allowed (a sandbox's EPERM): ask /proc instead.
                Err(_) => {}
            }
        }
        // The cheapest file to read there; any would do.
        File::open(format!("/proc/{}/comm", ticket.tid)).map(Guard::Asked)
    }

    /// Lets go of a thread.
    pub(super) fn release(&self, guard: Guard) {
        if let Guard::Reported(pidfd) = guard {
            // Closing alone would leave it watched for as long as a forked child holds a copy. It cannot fail
            // for a descriptor that was added, and a report that is too much would meet no ticket.
            let _ = self.epoll.delete(&pidfd);
        }
    }

    /// Calls `ended` for each thread whose end was reported. `ended` must release the guard.
    pub(super) fn drain(&self, mut ended: impl FnMut(Ticket)) {
        const BATCH: usize = 32;
        let mut events = [EpollEvent::empty(); BATCH];
        // An error can only be EINTR, which a wait of zero length does not return.
        while let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            for event in &events[..count] {
                let data = event.data();
                // Both halves fit: this is what `guard` put together.
                ended(Ticket { tid: data as u32, serial: (data >> 32) as u32 });
            }
            if count < BATCH {
                return;
            }
        }
    }
}

/// A pidfd of a single thread (`PIDFD_THREAD`, which has O_EXCL's value), closed on exec as every pidfd.
fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    let tid = i32::try_from(tid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(tid, PidfdFlags::from_bits_retain(libc::O_EXCL as u32))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn child() -> (Child, u32) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        (child, pid)
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_end_is_in_every_drain_until_it_is_released() {
        let watch = Watch::new(true).unwrap();
        let (child, tid) = child();
        let ticket = Ticket { tid, serial: u32::MAX };
        let guard = watch.guard(ticket).unwrap();
        if matches!(guard, Guard::Asked(_)) {
            return super::super::reuse_tests::skipped(
                "this kernel gives no pidfd of a thread (that takes Linux 6.9)",
            );
        }
        watch.drain(|ticket| panic!("{ticket:?} still lives"));
        assert!(!guard.has_ended());
        end(child);
        for _ in 0..2 {
            let mut ended = Vec::new();
            watch.drain(|ticket| ended.push(ticket));
            assert_eq!(ended, [ticket]);
        }
        assert!(guard.has_ended());
        watch.release(guard);
        watch.drain(|ticket| panic!("{ticket:?} was released"));
    }

    #[test]
    fn without_pidfds_the_guard_itself_knows() {
        let _numbers = super::super::reuse_tests::numbers();
        let watch = Watch::new(false).unwrap();
        let (child, tid) = child();
        let guard = watch.guard(Ticket { tid, serial: 0 }).unwrap();
        assert!(guard.must_be_asked());
        assert!(!guard.has_ended());
        end(child);
        assert!(guard.has_ended());
        assert!(watch.guard(Ticket { tid, serial: 1 }).is_err());
    }

    #[test]
    fn nobody_guards_a_number_that_cannot_be() {
        for pidfds in [true, false] {
            assert!(Watch::new(pidfds).unwrap().guard(Ticket { tid: u32::MAX, serial: 0 }).is_err());
        }
    }
}
