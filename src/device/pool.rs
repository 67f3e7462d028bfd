//! The lane for where io_uring is forbidden: a small pool of threads with one blocking call each.

use super::call::{Call, Calls, Finished, What};
use super::lane::{Event, Waker};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Most threads for one disk: enough to keep an SSD busy, few enough to cost nothing. A disk that hangs keeps its own.
const MOST: usize = 32;

pub(super) struct Pool {
    shared: Arc<Shared>,
    /// What the owner watches, until it was told.
    watched: Option<RawFd>,
    /// Calls that have not come back.
    in_flight: u32,
}

struct Shared {
    state: Mutex<State>,
    /// For workers: a call is queued, or it is time to go.
    work: Condvar,
    /// For the owner: something finished, or it was woken.
    news: Arc<EventFd>,
}

#[derive(Default)]
struct State {
    /// By the numbers of disks.
    lines: BTreeMap<u16, Line>,
    finished: Vec<Finished>,
    threads: usize,
    idle: usize,
    stop: bool,
}

/// The calls of one disk.
#[derive(Default)]
struct Line {
    queued: VecDeque<Call>,
    /// How many threads are at it.
    running: usize,
}

impl State {
    /// A call that may be made now: of the disk that has the fewest.
    fn take(&mut self) -> Option<Call> {
        let lines = self.lines.values_mut().filter(|line| line.can_begin() > 0);
        let line = lines.min_by_key(|line| line.running)?;
        line.running += 1;
        line.queued.pop_front()
    }

    /// How many threads are missing for what may be made now.
    fn missing(&self) -> usize {
        let can_begin: usize = self.lines.values().map(Line::can_begin).sum();
        can_begin.saturating_sub(self.idle).min((MOST * self.lines.len()).saturating_sub(self.threads))
    }

    fn finish(&mut self, finished: Finished) {
        if let Some(line) = self.lines.get_mut(&finished.disk) {
            line.running -= 1;
        }
        self.finished.push(finished);
    }
}

impl Line {
    fn can_begin(&self) -> usize {
        self.queued.len().min(MOST - self.running)
    }
}

impl Pool {
    pub(super) fn new() -> io::Result<Self> {
        let news = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), news });
        let this = Self { shared, watched: None, in_flight: 0 };
        // The first one now, so that a pool that exists can always work.
        this.shared.lock().threads = 1;
        this.spawn()?;
        Ok(this)
    }

    fn spawn(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("ioband-disk".to_owned()).spawn(move || shared.serve())?;
        Ok(())
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(self.shared.news.clone())
    }

    pub(super) fn start(&mut self, calls: &mut Calls) {
        let count = calls.0.len();
        // As many as fit into memory.
        self.in_flight += count as u32;
        let mut state = self.shared.lock();
        for call in calls.0.drain(..) {
            state.lines.entry(call.disk).or_default().queued.push_back(call);
        }
        let missing = state.missing();
        state.threads += missing;
        drop(state);
        for _ in 0..count {
            self.shared.work.notify_one();
        }
        for _ in 0..missing {
            if let Err(error) = self.spawn() {
                // Those that exist do the work, with less in flight.
                tracing::debug!(%error, "no further thread for the disk");
                self.shared.lock().threads -= 1;
            }
        }
    }

    pub(super) fn watch(&mut self, descriptor: BorrowedFd<'_>) {
        self.watched = Some(descriptor.as_raw_fd());
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if self.reap(events) {
            return Ok(());
        }
        let news = PollFd::new(self.shared.news.as_fd(), PollFlags::POLLIN);
        // SAFETY: who watches keeps the descriptor open until it was told, as `Lane::watch` asks.
        let watched = self.watched.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        let mut both = [news, PollFd::new(watched.unwrap_or(self.shared.news.as_fd()), PollFlags::POLLIN)];
        let polled = if watched.is_some() { &mut both[..] } else { &mut both[..1] };
        match ppoll(polled, timeout.map(TimeSpec::from), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let readable = watched.is_some() && both[1].any().unwrap_or(true);
        if readable {
            self.watched = None;
            events.push(Event::Readable);
        }
        self.reap(events);
        Ok(())
    }

    /// Takes what has finished; true if there was anything.
    fn reap(&mut self, events: &mut Vec<Event>) -> bool {
        // Before looking: who finishes something after the look writes again. Nothing to read is no news.
        let woken = self.shared.news.read().is_ok();
        let mut state = self.shared.lock();
        let any = woken || !state.finished.is_empty();
        self.in_flight -= state.finished.len() as u32;
        events.extend(state.finished.drain(..).map(Event::Finished));
        any
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics with this lock held; if one did, the queue would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(call) = state.take() {
                drop(state);
                // SAFETY: what is said at `Call` keeps its memory and descriptor until the result is brought back.
                let result = unsafe { perform(&call) };
                state = self.lock();
                state.finish(Finished { disk: call.disk, key: call.key, result });
                if state.finished.len() == 1 {
                    // A full counter means that there is news already.
                    let _ = self.news.write(1);
                }
            } else if state.stop {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Not joined: a thread that hangs in a dead device must not hang the program as well.
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
    }
}

/// Does the call; a count or a negated errno, as io_uring has it.
///
/// # Safety
///
/// Descriptor and memory must be valid for the duration of this function.
unsafe fn perform(call: &Call) -> i32 {
    let Call { fd, what, .. } = *call;
    // SAFETY: the caller vouches for descriptor and memory. Offsets were checked to fit when the part was
    // accepted, so the casts are exact.
    let result = unsafe {
        match what {
            What::Read { to, len, at } => libc::pread(fd, to.cast(), len as usize, at as i64),
            What::Write { from, len, at } => libc::pwrite(fd, from.cast(), len as usize, at as i64),
            What::Sync => libc::fdatasync(fd) as isize,
            What::Allocate { mode, at, len } => libc::fallocate(fd, mode, at as i64, len as i64) as isize,
        }
    };
    if result < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    // Lengths of a single call are far below 2 GiB.
    i32::try_from(result).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_leaves_threads_to_others() {
        let call = |disk, key| Call { disk, key, fd: -1, aside: false, what: What::Sync };
        let mut state = State::default();
        for key in 0..2 * MOST as u32 {
            state.lines.entry(0).or_default().queued.push_back(call(0, key));
        }
        assert_eq!(state.missing(), MOST);
        let begun: Vec<_> = std::iter::from_fn(|| state.take()).map(|call| call.key).collect();
        assert!(begun.iter().copied().eq(0..MOST as u32), "{begun:?}");
        state.threads = MOST;
        assert_eq!(state.missing(), 0, "none of its calls comes back");
        state.lines.entry(1).or_default().queued.push_back(call(1, 0));
        assert_eq!(state.missing(), 1);
        assert_eq!(state.take().map(|call| call.disk), Some(1));
        assert!(state.take().is_none());
        state.finish(Finished { disk: 0, key: 5, result: 0 });
        assert_eq!(state.take().map(|call| (call.disk, call.key)), Some((0, MOST as u32)));
    }
}
