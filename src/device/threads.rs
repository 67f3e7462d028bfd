//! The backend for where io_uring is forbidden: a small pool of threads with one blocking call each.

use super::backend::{Backend, Call, Finished, What};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Most threads of one pool: enough to keep an SSD busy, few enough to cost nothing.
const MOST: usize = 32;

pub(super) struct Threads {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// For workers: a call is queued, or it is time to go.
    work: Condvar,
    /// For the waiting thread: something finished, or it was woken.
    news: Condvar,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Call>,
    finished: Vec<Finished>,
    threads: usize,
    idle: usize,
    woken: bool,
    stop: bool,
}

impl Threads {
    pub(super) fn new() -> io::Result<Self> {
        let this = Self { shared: Arc::default() };
        // The first one now, so that a pool that exists can always work.
        this.lock().threads = 1;
        this.spawn()?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn spawn(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("ioband-disk".to_owned()).spawn(move || shared.serve())?;
        Ok(())
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
            if let Some(call) = state.queued.pop_front() {
                drop(state);
                // SAFETY: who submitted the call keeps its memory and descriptor until it is reported below.
                let result = unsafe { perform(&call) };
                state = self.lock();
                state.finished.push(Finished { key: call.key, result });
                self.news.notify_one();
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

impl Backend for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    unsafe fn submit(&self, calls: &[Call]) {
        let mut state = self.lock();
        state.queued.extend(calls);
        let missing = state.queued.len().saturating_sub(state.idle).min(MOST - state.threads);
        state.threads += missing;
        drop(state);
        for _ in calls {
            self.shared.work.notify_one();
        }
        for _ in 0..missing {
            if let Err(error) = self.spawn() {
                // Those that exist do the work, with less in flight.
                tracing::debug!(%error, "no further thread for the disk");
                self.lock().threads -= 1;
            }
        }
    }

    fn wait(&self, timeout: Option<Duration>, finished: &mut Vec<Finished>) -> io::Result<()> {
        let quiet = |state: &mut State| state.finished.is_empty() && !state.woken;
        let (state, news) = (self.lock(), &self.shared.news);
        let mut state = match timeout {
            None => news.wait_while(state, quiet).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = news.wait_timeout_while(state, timeout, quiet);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.woken = false;
        finished.append(&mut state.finished);
        Ok(())
    }

    fn wake(&self) {
        self.lock().woken = true;
        self.shared.news.notify_one();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Not joined: a thread that hangs in a dead device must not hang the program as well.
        self.lock().stop = true;
        self.shared.work.notify_all();
    }
}

/// Does the call; a count or a negated errno, as io_uring has it.
///
/// # Safety
///
/// As for [`Backend::submit`], for the duration of this function.
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
