//! How a target does: what fails is counted here, and told once, not once a request.

use crate::units::Nanos;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// How long nothing must have failed until it is said that all is well again.
const QUIET: Nanos = Nanos::from_secs(10);

/// What kind of trouble a target is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nothing is at its path that it could be.
    Missing,
    /// A file has become shorter than it was.
    Cut,
    /// There is no room for what is written.
    Full,
    /// The device says so, with this errno.
    Error(i32),
}

impl Trouble {
    /// Of a request that failed with this; `None` if it is no fault of the device.
    fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Some(Self::Full),
            // The caller's, or what every device may refuse.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EBADF | libc::EPERM | libc::ENOMEM) => None,
            Some(errno) => Some(Self::Error(errno)),
            None => Some(Self::Error(libc::EIO)),
        }
    }
}

/// What is to be told of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Trouble that has begun.
    pub began: Vec<Trouble>,
    /// All is well again, after so many failed requests.
    pub ended: Option<u64>,
    /// It is in trouble, told or not: somebody should look again after a while.
    pub failing: bool,
}

#[derive(Default)]
pub(super) struct Health {
    failing: AtomicBool,
    /// Something has worked since the last failure.
    worked: AtomicBool,
    /// Changes that were carried out, as many of them as a sync has made durable, and how often some were lost that were not.
    written: AtomicU64,
    synced: AtomicU64,
    lost: AtomicU64,
    state: Mutex<State>,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Debug, Default)]
struct State {
    /// Each kind once.
    began: Vec<Trouble>,
    /// How many of them have been told.
    told: usize,
    failed: u64,
    last: Nanos,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Health {
    /// `ring` is called when there may be news, by whoever serves; the first one stands. It must not wait for anything.
    pub(super) fn set_bell(&self, ring: impl Fn() + Send + Sync + 'static) {
        // A target is attended to by one.
        let _ = self.bell.set(Box::new(ring));
    }

    /// A request has ended so.
    pub(super) fn note<T>(&self, result: &io::Result<T>, now: Nanos) {
        match result {
            Ok(_) if !self.failing.load(Ordering::Relaxed) => {}
            Ok(_) => self.worked.store(true, Ordering::Relaxed),
            Err(error) => Trouble::of(error).into_iter().for_each(|trouble| self.note_trouble(trouble, now)),
        }
    }

    /// A request has failed for this.
    pub(super) fn note_trouble(&self, trouble: Trouble, now: Nanos) {
        let mut state = self.state();
        state.failed += 1;
        state.last = state.last.max(now);
        self.failing.store(true, Ordering::Relaxed);
        self.worked.store(false, Ordering::Relaxed);
        // There are not many errnos.
        let new = !state.began.contains(&trouble);
        if new {
            state.began.push(trouble);
        }
        drop(state);
        if new && let Some(ring) = self.bell.get() {
            ring();
        }
    }

    /// It is on what a predecessor had, as that had it: whatever was written is on its way, or there.
    pub(super) fn found(&self) {
        self.worked.store(true, Ordering::Relaxed);
    }

    /// It is on something else from now on. What was not made durable on the other is lost.
    pub(super) fn renewed(&self) {
        self.found();
        let written = self.written();
        if self.synced.fetch_max(written, Ordering::AcqRel) < written {
            self.lose();
        }
    }

    /// A change was carried out.
    pub(super) fn wrote(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes that were carried out so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// So many of them are durable.
    pub(super) fn synced(&self, written: u64) {
        self.synced.fetch_max(written, Ordering::AcqRel);
    }

    /// Some that were told to have been carried out are lost, or may be.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::AcqRel);
    }

    /// How often some were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    /// What there is to tell, once.
    pub(super) fn news(&self, now: Nanos) -> News {
        let mut state = self.state();
        let began = state.began[state.told..].to_vec();
        state.told = state.began.len();
        let quiet = now.0.saturating_sub(state.last.0) >= QUIET.0;
        let ended = self.failing.load(Ordering::Relaxed) && self.worked.load(Ordering::Relaxed) && quiet;
        let failed = state.failed;
        if ended {
            *state = State::default();
            self.failing.store(false, Ordering::Relaxed);
        }
        News { began, ended: ended.then_some(failed), failing: self.failing.load(Ordering::Relaxed) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller is told of an error. That there is no room is told as it is, because hypervisors stop a guest then until
/// there is. The words that Linux has for broken disks, and for those that are gone, are EIO to guests, and to programs; and
/// those that ask to try again, which was done often enough, would make some of them try for ever.
pub(super) fn told(error: io::Error) -> io::Error {
    let errno = match error.raw_os_error() {
        Some(libc::EDQUOT) => libc::ENOSPC,
        Some(
            libc::ENODEV
            | libc::ENXIO
            | libc::ENODATA
            | libc::EILSEQ
            | libc::ENOLINK
            | libc::EREMOTEIO
            | libc::ETIMEDOUT
            | libc::EBADE
            | libc::EOVERFLOW
            | libc::ENOMEDIUM
            | libc::ESHUTDOWN
            | libc::ESTALE
            | libc::EFBIG
            | libc::EAGAIN
            | libc::EINTR
            | libc::ECANCELED
            | libc::EBUSY
            | libc::ETIME
            | libc::ETOOMANYREFS,
        ) => libc::EIO,
        _ => return error,
    };
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    fn failed(errno: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn trouble_is_told_once_and_its_end_when_it_has_been_quiet() {
        let health = Health::default();
        let rung = Arc::new(AtomicU32::new(0));
        let bell = rung.clone();
        health.set_bell(move || _ = bell.fetch_add(1, Ordering::Relaxed));
        let at = |seconds| Nanos::from_secs(seconds);
        health.note(&Ok(()), at(0));
        assert_eq!(health.news(at(0)), News::default());
        for _ in 0..5 {
            health.note(&failed(libc::EIO), at(1));
            health.note(&failed(libc::ENOSPC), at(1));
            health.note(&failed(libc::EINVAL), at(1));
        }
        assert_eq!(rung.load(Ordering::Relaxed), 2);
        let began = vec![Trouble::Error(libc::EIO), Trouble::Full];
        assert_eq!(health.news(at(1)), News { began, ended: None, failing: true });
        // Nothing new; nothing has worked; it has worked, but not for long enough; it has failed since.
        let nothing = News { failing: true, ..News::default() };
        assert_eq!(health.news(at(30)), nothing);
        health.note(&failed(libc::EIO), at(31));
        health.note(&Ok(()), at(31));
        assert_eq!(health.news(at(40)), nothing);
        health.note(&failed(libc::EIO), at(40));
        assert_eq!(health.news(at(60)), nothing);
        health.note(&Ok(()), at(61));
        assert_eq!(health.news(at(62)), News { began: vec![], ended: Some(12), failing: false });
        // It begins anew.
        health.note(&failed(libc::ENODEV), at(70));
        assert_eq!(health.news(at(70)).began, [Trouble::Error(libc::ENODEV)]);
    }

    #[test]
    fn what_was_not_synced_is_lost_with_what_it_was_on() {
        let health = Health::default();
        health.renewed();
        assert_eq!(health.lost(), 0, "nothing was written");
        health.wrote();
        let before = health.written();
        health.wrote();
        // It began before the second.
        health.synced(before);
        health.renewed();
        assert_eq!(health.lost(), 1);
        health.renewed();
        assert_eq!(health.lost(), 1, "once");
        health.wrote();
        health.synced(health.written());
        health.renewed();
        assert_eq!(health.lost(), 1, "it was durable");
    }

    #[test]
    fn guests_are_told_what_they_understand() {
        let seen = |errno| told(io::Error::from_raw_os_error(errno)).raw_os_error();
        assert_eq!(seen(libc::ENOSPC), Some(libc::ENOSPC));
        assert_eq!(seen(libc::EDQUOT), Some(libc::ENOSPC));
        for errno in
            [libc::EIO, libc::ENODEV, libc::ENXIO, libc::ENODATA, libc::EAGAIN, libc::EINTR, libc::EBUSY]
        {
            assert_eq!(seen(errno), Some(libc::EIO));
        }
    }
}
